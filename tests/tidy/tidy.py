#!/usr/bin/env python3
"""Style that runs: layering of includes, format, leftovers, files that no build lists.

Exit code 0 if the tree is clean; else a line per finding.
"""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Level of each folder (docs/architecture.md); an include may only point to a lower level or stay
# in its own folder.
LEVELS = {
    "volumed/base": 0,
    "volumed/io": 1,
    "replication/core": 1,
    "replication/wire": 1,
    "nbd/protocol": 1,
    "volumed/store": 2,
    "volumed/meta": 2,
    "replication/node": 3,
    "nbd/server": 3,
    "nbd/attach": 3,
    "nbd/client": 2,
    "volumed/mount": 2,
    "volumed/volume": 4,
    "volumed/api": 5,
    "csi": 6,
    "volumed/cli": 7,
    "volumed/daemon": 7,
}
# These know base and themselves only.
PURE = {"replication/core", "replication/wire", "nbd/protocol"}
# These know the API and nothing below it (base excepted).
API_ONLY = {"csi", "volumed/cli"}
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
HEAD_AWAIT = re.compile(r"\b(?:if|while|switch)\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')


def folder_of(path):
    text = str(path)
    best = ""
    for folder in LEVELS:
        if text.startswith(folder + "/") and len(folder) > len(best):
            best = folder
    return best


def head_has_await(line):
    """co_await between the brackets of an if, while or switch."""
    found = HEAD_AWAIT.search(line)
    if not found:
        return False
    depth = 1
    for at in range(found.end(), len(line)):
        depth += {"(": 1, ")": -1}.get(line[at], 0)
        if depth == 0:
            return "co_await" in line[found.end():at]
    return "co_await" in line[found.end():]


def check_include(path, number, target, findings):
    own = folder_of(path)
    if own == "":
        return
    if target.startswith("liburing") and own != "volumed/io":
        findings.append(f"{path}:{number}: only volumed/io includes liburing")
    other = folder_of(target)
    if other in ("", own):
        return
    where = f"{path}:{number}: {own} includes {target}"
    if own == "replication/wire" and other == "replication/core":
        return
    if own in PURE and other != "volumed/base":
        findings.append(f"{where}: it may know volumed/base only")
    elif own in API_ONLY and other not in ("volumed/base", "volumed/api"):
        findings.append(f"{where}: it may know the API only")
    elif LEVELS[other] >= LEVELS[own]:
        findings.append(f"{where}: not a lower level")


def check_source(path, text, findings):
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > 100:
            findings.append(f"{path}:{number}: {len(line)} columns; 100 is the limit")
        if line.rstrip() != line:
            findings.append(f"{path}:{number}: blanks at the end")
        if MARKERS.search(line):
            findings.append(f"{path}:{number}: a leftover marker")
        if head_has_await(line):
            findings.append(f"{path}:{number}: co_await in the head of a condition (task.h)")
        found = INCLUDE.match(line)
        if found:
            check_include(path, number, found.group(1), findings)
    if path.suffix == ".h" and "#pragma once" not in text:
        findings.append(f"{path}: no #pragma once")


def check_listed(paths, findings):
    """Every .cpp is named in the CMakeLists.txt of its folder or of one above."""
    for path in paths:
        if path.suffix != ".cpp":
            continue
        folder = path.parent
        while True:
            lists = ROOT / folder / "CMakeLists.txt"
            name = str(path.relative_to(folder))
            if lists.exists() and re.search(rf"(?<![\w/]){re.escape(name)}\b", lists.read_text()):
                break
            if folder == pathlib.Path("."):
                findings.append(f"{path}: no CMakeLists.txt lists it")
                break
            folder = folder.parent


def check_format(sources, findings):
    program = shutil.which("clang-format")
    if program is None:
        print("clang-format is not installed: the format is not checked")
        return
    done = subprocess.run([program, "--dry-run", *map(str, sources)], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    for name in sorted(set(re.findall(r"^(\S+?):\d+:\d+: warning", done.stderr, re.M))):
        findings.append(f"{name}: clang-format would change it")


def main():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [pathlib.Path(name) for name in listed.stdout.splitlines()]
    sources = [p for p in paths if p.suffix in (".cpp", ".h") and (ROOT / p).exists()]
    findings = []
    for path in sources:
        check_source(path, (ROOT / path).read_text(), findings)
    check_listed(sources, findings)
    check_format(sources, findings)
    for finding in findings:
        print(finding)
    print(f"{len(sources)} sources, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
