#!/usr/bin/env python3
"""kill -9 of volumed in the middle of mount and unmount, again and again.

volumed serves the I/O of the very devices that it mounts. Whatever moment it dies at, its process
must end, the next volumed must start within seconds, the operation repeated must succeed, and what
was written must be there.

    mount_under_kill.py [ROUNDS [SEED]]
"""
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "nbd"))
from harness import BIN, Daemon, run  # noqa: E402

START_SECONDS = 15.0
END_SECONDS = 5.0
REPEAT_SECONDS = 30


def skip_unless_possible():
    for path in ("/dev/fuse", "/dev/loop-control"):
        if os.geteuid() != 0 or not os.access(path, os.R_OK | os.W_OK):
            print(f"SKIP: needs root and {path}")
            sys.exit(77)


def begin(daemon, *arguments):
    command = [str(BIN / "cvol"), "--api", f"unix:{daemon.run_dir}/api.sock", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_during(daemon, chance, longest, *arguments):
    """Kills volumed at a random moment of the operation; starts it again and repeats it."""
    client = begin(daemon, *arguments)
    pause = chance.uniform(0, longest)
    time.sleep(pause)
    steps = left_over_processes(daemon)
    daemon.process.kill()
    daemon.process.wait(timeout=END_SECONDS)  # a thread in state D would keep it
    client.wait(timeout=60)
    began = time.monotonic()
    daemon.start()
    took = time.monotonic() - began
    print(f"  killed {pause:.3f} s into '{' '.join(arguments[:2])}' {steps}; up after {took:.2f} s",
          flush=True)
    assert took < START_SECONDS, f"volumed took {took:.1f} s to start"
    daemon.cvol(*arguments, timeout=REPEAT_SECONDS)


def measured(daemon, *arguments):
    began = time.monotonic()
    daemon.cvol(*arguments)
    return time.monotonic() - began


def left_over_processes(daemon):
    """Steps of cvol-device that are under way, by name and state."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if words[0].endswith(b"cvol-device") and str(daemon.root).encode() in b" ".join(words):
            found.append(words[2].decode() + ":" + state)
    return found


def mounts_of(daemon):
    table = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in table if str(daemon.root) in line]


def loops_of(daemon):
    found = []
    for file in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if str(daemon.root) in file.read_text():
                found.append(str(file))
        except OSError:
            pass
    return found


def wait_until_gone(what, seconds=10):
    deadline = time.monotonic() + seconds
    while what() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not what(), f"left over: {what()}"


def tidy_up(daemon):
    """After a failure: takes away what would hang for ever once volumed's data is gone."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"cvol-holder" in words and str(daemon.root).encode() in words:
            os.kill(int(process.name), signal.SIGKILL)
    for line in reversed(mounts_of(daemon)):
        run("umount", "-l", line.split()[4], check=False)
    for file in loops_of(daemon):
        run("losetup", "-d", "/dev/" + file.split("/")[3], check=False)


def write_data(folder, chance):
    data = chance.randbytes(3 << 20)
    with open(folder / "data", "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def check_data(folder, digest):
    run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches", check=False)
    found = hashlib.sha256((folder / "data").read_bytes()).hexdigest()
    assert found == digest, "what was written is not there"


def one_round(daemon, chance, number, times):
    name = f"v{number}"
    daemon.cvol("volume", "create", name, "--size", "96MiB")
    target = daemon.root / f"target{number}"
    # Every other volume is bound to a folder of the user's too.
    more = [str(target)] if number % 2 else []
    folder = target if number % 2 else daemon.data / "mounts" / name / "data"
    mount = ["volume", "mount", name, "--caller", "test", *more]
    unmount = ["volume", "unmount", name, "--caller", "test"]
    kill_during(daemon, chance, times["first mount"], *mount)
    digest = write_data(folder, chance)
    kill_during(daemon, chance, times["unmount"], *unmount)
    assert not [line for line in mounts_of(daemon) if f"/{name} " in line or str(target) in line]
    kill_during(daemon, chance, times["mount"], *mount)
    check_data(folder, digest)
    daemon.cvol(*unmount)
    daemon.cvol("volume", "rm", name)


def run_rounds(daemon, chance, rounds):
    daemon.cvol("volume", "create", "probe", "--size", "96MiB")
    times = {"first mount": measured(daemon, "volume", "mount", "probe"),
             "unmount": measured(daemon, "volume", "unmount", "probe"),
             "mount": measured(daemon, "volume", "mount", "probe")}
    daemon.cvol("volume", "unmount", "probe")
    print({name: round(seconds, 3) for name, seconds in times.items()})
    for number in range(rounds):
        print(f"round {number}", flush=True)
        one_round(daemon, chance, number, times)
    wait_until_gone(lambda: left_over_processes(daemon))
    wait_until_gone(lambda: mounts_of(daemon))
    wait_until_gone(lambda: loops_of(daemon))
    daemon.stop()


def main():
    skip_unless_possible()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print(f"rounds {rounds}, seed {seed}")
    chance = random.Random(seed)
    with Daemon("--attach-method", "fuse") as daemon:
        try:
            run_rounds(daemon, chance, rounds)
        except BaseException:
            tidy_up(daemon)
            raise
    print(f"PASS: {3 * rounds} kills")


if __name__ == "__main__":
    main()
