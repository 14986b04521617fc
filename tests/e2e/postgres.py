#!/usr/bin/env python3
"""PostgreSQL in a container on a cvol volume: what its clients saw committed is there, whatever is
killed.

  1. `docker rm -f` of the database under load; a new container on the same volume recovers.
  2. `kill -9` of volumed under load, and a start at once: the database notices a pause.
  3. `kill -9` of everything of cvol; a start from nothing: fsck is clean.

pgbench runs in a container of its own, so it outlives the database. Each of its ledger clients
inserts (run, client, n) with n = 1, 2, 3 ...; pgbench logs a transaction after its COMMIT was
answered, with its number, which is n. So the log is the set that was seen committed.

usage: postgres.py [--rounds N]     default 2, with CVOL_LONG=1 10
"""
import argparse
import re
import subprocess
import time

from engine import LONG, KernelLog, Engine, Node, require_root, run, wait_for

VOLUME = "pgdata"
LOAD_SECONDS = 8 if not LONG else 20
LEDGER_CLIENTS = 4
# cvol removes lost+found, and e2fsck makes it again.
FSCK_MAY_SAY = re.compile(r"recovering journal|lost\+found not found|orphan|clean|^\S+: \d+/\d+ files|^$"
                          r"|free (blocks|inodes) count"
                          # How an extent tree is laid out, not what is in it.
                          r"|extent tree \(at level \d+\) could be (narrower|shorter)")


class Load:
    """pgbench at work: clients of the ledger, and the standard load beside them."""

    def __init__(self, database, number, seconds):
        self.database = database
        self.number = number
        name = f"run{number}"
        script = database.shared / f"{name}.sql"
        script.write_text("\\set n :n + 1\n"
                          "BEGIN;\n"
                          f"INSERT INTO ledger VALUES ({number}, :client_id, :n);\n"
                          "COMMIT;\n", encoding="utf-8")
        self.prefix = name
        common = ["--username=postgres", "--host=/run/postgresql", f"--time={seconds}"]
        self.ledger = self.spawn("pgbench", *common, "--no-vacuum", f"--client={LEDGER_CLIENTS}",
                                 "--define=n=0", "--log", f"--log-prefix=/shared/{name}",
                                 f"--file=/shared/{name}.sql", "postgres")
        self.standard = self.spawn("pgbench", *common, "--no-vacuum", "--client=4", "postgres")

    def spawn(self, *command):
        return subprocess.Popen(self.database.engine.command("exec", "clients", *command),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self, expect_success):
        """Waits for both; with expect_success, no client may have seen an error."""
        for process in (self.ledger, self.standard):
            output, _ = process.communicate(timeout=300)
            if expect_success and (process.returncode != 0 or "aborted" in output):
                raise AssertionError(f"the load saw an error ({process.returncode}):\n{output}")

    def lines(self):
        for file in self.database.shared.glob(f"{self.prefix}.[0-9]*"):
            for line in file.read_text(encoding="utf-8").splitlines():
                yield [int(field) for field in line.split()[:6]]

    def committed(self):
        """What the clients saw committed: (run, client, n)."""
        return {(self.number, client, n) for client, n, *_ in self.lines()}

    def longest_pause(self):
        """Seconds of the slowest transaction."""
        return max((microseconds for _, _, microseconds, *_ in self.lines()), default=0) / 1e6


class Database:
    def __init__(self, engine, image):
        self.engine = engine
        self.image = image
        self.sockets = engine.root / "sockets"
        self.shared = engine.root / "shared"
        for folder in (self.sockets, self.shared):
            folder.mkdir()
            folder.chmod(0o777)
        self.committed = set()
        self.runs = 0
        self.start_clients()

    def start_clients(self):
        self.engine.docker("run", "-d", "--name", "clients", "--network", "none",
                           "-v", f"{self.sockets}:/run/postgresql", "-v", f"{self.shared}:/shared",
                           "--entrypoint", "sleep", self.image, "infinity")

    def start(self):
        """A new container on the volume; answers the seconds until the database took clients."""
        begin = time.monotonic()
        for left in self.sockets.iterdir():
            left.unlink()
        self.engine.docker("run", "-d", "--name", "database", "--network", "none",
                           "-v", f"{VOLUME}:/var/lib/postgresql/data",
                           "-v", f"{self.sockets}:/run/postgresql", self.image,
                           "-c", "checkpoint_timeout=30s", "-c", "log_checkpoints=on")
        wait_for("PostgreSQL", self._is_ready, 120)
        return time.monotonic() - begin

    def _is_ready(self):
        if not self.engine.inspect("database")["State"]["Running"]:
            raise AssertionError("the database ended:\n" + self.logs()[-3000:])
        return self.execute("pg_isready", "-q", check=False).returncode == 0

    def remove(self):
        self.engine.docker("rm", "-f", "database")

    def logs(self):
        return self.engine.docker("logs", "database").stdout

    def execute(self, *command, check=True):
        return self.engine.docker("exec", "clients", *command, check=check)

    def sql(self, text):
        return self.execute("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-c",
                            text).stdout

    def create(self):
        self.execute("pgbench", "--username=postgres", "-i", "-q", "-s", "10", "postgres")
        self.sql("CREATE TABLE ledger (run int, client int, n int, PRIMARY KEY (run, client, n))")

    def load(self, seconds):
        self.runs += 1
        return Load(self, self.runs, seconds)

    def check(self, load, words_stuck=False):
        """Every transaction that a client of any load saw committed is in the ledger; of `load`,
        besides, at most one for each client that was under way. `words_stuck`: what clients said
        last may be held in pipes of stopped processes, so there may be more, without a gap. Answers
        (committed, found)."""
        seen = load.committed()
        assert len(seen) > 50, f"only {len(seen)} transactions: the load did not run"
        self.committed |= seen
        rows = {tuple(map(int, line.split("|")))
                for line in self.sql("SELECT run, client, n FROM ledger").splitlines()}
        lost = self.committed - rows
        assert not lost, f"{len(lost)} committed transactions are lost: {sorted(lost)[:10]}"
        unseen = {row for row in rows - self.committed if row[0] == load.number}
        for client in {client for _, client, _ in unseen}:
            numbers = sorted(n for _, c, n in unseen if c == client)
            last = max((n for _, c, n in seen if c == client), default=0)
            most = len(numbers) if words_stuck else 1
            assert numbers == list(range(last + 1, last + 1 + most)), f"rows of client {client} that nobody wrote: {numbers}"
        balance = self.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = "
                           "(SELECT coalesce(sum(delta), 0) FROM pgbench_history)").strip()
        assert balance == "t", "pgbench's accounts and history do not add up"
        return len(self.committed), len(self.committed & rows)


def report(round_name, **figures):
    print(f"{round_name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()),
          flush=True)


def clean_run(database):
    """No failure: shows that the ledger says exactly what the clients saw."""
    load = database.load(3)
    load.end(expect_success=True)
    committed, found = database.check(load)
    rows = int(database.sql("SELECT count(*) FROM ledger"))
    assert rows == committed, f"{rows} rows, {committed} logged: the log is not what was committed"
    report("no failure", committed=committed, found=found)


def removed_by_force(database, number):
    load = database.load(600)
    time.sleep(LOAD_SECONDS)
    database.remove()
    load.end(expect_success=False)
    took = database.start()
    committed, found = database.check(load)
    report(f"docker rm -f, round {number}", committed=committed, found=found,
           of_this_round=len(load.committed()), database_back_after=f"{took:.1f} s")


def daemon_killed(database, node, kills):
    log = KernelLog(node)
    load = database.load(LOAD_SECONDS + 2 * kills)
    for _ in range(kills):
        time.sleep(LOAD_SECONDS / (kills + 1) + 1)
        node.restart_at_once()
    load.end(expect_success=True)
    committed, found = database.check(load)
    trouble = log.trouble()
    assert not trouble, "the kernel log: " + "\n".join(trouble)
    for word in ("PANIC", "Input/output error", "could not"):
        assert word not in database.logs(), f"{word} in the database's log:\n{database.logs()}"
    report(f"kill -9 of volumed, {kills} times", committed=committed, found=found,
           of_this_round=len(load.committed()), longest_pause=f"{load.longest_pause():.2f} s",
           kernel_errors=0)


def check_file_system(device):
    """e2fsck -fn, after what a mount would do: the journal and its list of orphans."""
    header = run("dumpe2fs", "-h", device).stdout
    replayed = "needs_recovery" in header
    if replayed:
        done = run("e2fsck", "-fp", device, check=False)
        odd = [line for line in done.stdout.splitlines()
               if not FSCK_MAY_SAY.search(line.lower())]
        assert done.returncode in (0, 1) and not odd, f"e2fsck -fp: {done.returncode}\n{done.stdout}"
    run("e2fsck", "-fn", device)
    return "clean after journal replay" if replayed else "clean"


def everything_killed(database, node):
    load = database.load(600)
    time.sleep(LOAD_SECONDS)
    holders = node.kill_holders()
    node.kill()
    assert holders or "kernel" in node.flags, "no cvol-holder was there to be killed"
    database.remove()
    load.end(expect_success=False)
    node.start()
    device = node.cvol("volume", "attach", VOLUME).stdout.split()[-1]
    fsck = check_file_system(device)
    node.cvol("volume", "detach", VOLUME)
    took = database.start()
    committed, found = database.check(load)
    report("kill -9 of everything", committed=committed, found=found,
           of_this_round=len(load.committed()), fsck=fsck, database_back_after=f"{took:.1f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10 if LONG else 2)
    rounds = parser.parse_args().rounds
    require_root()
    begin = time.monotonic()
    with Node() as node, Engine() as engine:
        image = engine.make_image("postgres")
        engine.docker("volume", "create", "-d", "cvol", "-o", "size=4GiB", VOLUME)
        database = Database(engine, image)
        report("initdb", ready_after=f"{database.start():.1f} s")
        database.create()
        clean_run(database)
        for number in range(1, rounds + 1):
            removed_by_force(database, number)
        daemon_killed(database, node, kills=max(3, rounds))
        everything_killed(database, node)
        database.remove()
        engine.docker("volume", "rm", VOLUME)
        assert node.holders() == []
    print(f"postgres: passed in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
