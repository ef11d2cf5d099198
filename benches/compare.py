#!/usr/bin/env python3
"""Times the same work on cmkfs and on other encrypting filesystems, side by side.

compare.py [--fs NAME,...] [--backing DIR] [--rounds N] [--only WORKLOAD,...] [--json FILE] ...

benches/compare.sh installs and builds what this needs, and runs it. Each workload of each round has
a fresh volume of each filesystem, one after the other, so that what else the machine does meets all
of them; every other round goes through them in reverse. The table has medians, and more is better
in every row. `bare` is the backing directory itself; all others but cmkfs are its peers. "Cold"
is after mounting anew: what is stored stays in the system's memory. CMKFS names the program.
"""

import argparse
import contextlib
import json
import mmap
import os
import platform
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

MIB = 1 << 20
PAGE = 4096
MOUNT_PATIENCE_S = 30
OURS = "cmkfs"
FLOOR = "bare"
# Incompressible, and long enough that no two neighbours in a file are alike.
CONTENT = random.Random("content").randbytes(8 * MIB)


class Kind(NamedTuple):
    """How volumes of a filesystem are made and mounted, and the Debian package that has it."""

    mount: list
    make: list = []
    answers: str = ""
    package: str = ""


# No secret: the volumes live as long as a workload.
PASSWORD = "x"
WEAK = ["-scryptn", "10"]
KINDS = {
    FLOOR: Kind(mount=["mount", "--bind", "{store}", "{point}"]),
    "gocryptfs": Kind(
        make=["gocryptfs", "-q", "-init", *WEAK, "-extpass", f"echo {PASSWORD}", "{store}"],
        mount=["gocryptfs", "-q", "-extpass", f"echo {PASSWORD}", "{store}", "{point}"],
        package="gocryptfs",
    ),
    "securefs": Kind(
        make=["securefs", "create", "--pass", PASSWORD, "{store}"],
        mount=["securefs", "mount", "-b", "--pass", PASSWORD, "{store}", "{point}"],
        package="securefs",
    ),
    "encfs": Kind(
        mount=["encfs", "--standard", "-S", "{store}", "{point}"],
        answers=f"{PASSWORD}\n",
        package="encfs",
    ),
    OURS: Kind(
        make=[os.environ.get("CMKFS", "cmkfs"), "init", "{store}"],
        mount=[
            os.environ.get("CMKFS", "cmkfs"),
            *["mount", "--log-file", "{root}/log", "{store}", "{point}"],
        ],
    ),
}


class Volume:
    """A volume in a directory of its own."""

    def __init__(self, name, root):
        self.kind, self.root = KINDS[name], root
        self.store, self.point = f"{root}/store", f"{root}/mount"
        # Keys and sockets of cmkfs stay here too.
        home = {"HOME": root, "XDG_DATA_HOME": f"{root}/data", "XDG_STATE_HOME": f"{root}/state"}
        self.environment = {**os.environ, **home, "XDG_RUNTIME_DIR": f"{root}/run"}
        os.mkdir(self.store)
        os.mkdir(self.point)
        if self.kind.make:
            self._run(self.kind.make)

    def _run(self, words):
        paths = {"root": self.root, "store": self.store, "point": self.point}
        words = [word.format(**paths) for word in words]
        # A file, as a daemon that is left behind would keep a pipe open.
        with open(f"{self.root}/said", "w+", encoding="utf-8", errors="replace") as said:
            done = subprocess.run(
                words,
                input=self.kind.answers.encode(),
                env=self.environment,
                stdout=said,
                stderr=said,
                check=False,
            )
            if done.returncode != 0:
                said.seek(0)
                text = said.read().strip()
                raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {text}")

    def _is_mounted(self):
        shown = os.path.realpath(self.point).replace(" ", "\\040")
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            return any(line.split(" ")[4] == shown for line in table)

    def mount(self):
        self._run(self.kind.mount)
        self._wait(self._is_mounted, "is not mounted")

    def unmount(self):
        def unmounted():
            # Whoever looks into new mounts keeps one busy for a moment.
            return subprocess.run(["umount", self.point], stderr=subprocess.DEVNULL).returncode == 0

        self._wait(unmounted, "stays busy")

    def _wait(self, done, otherwise):
        due = time.monotonic() + MOUNT_PATIENCE_S
        while not done():
            if time.monotonic() > due:
                raise RuntimeError(f"{self.point}: {otherwise} after {MOUNT_PATIENCE_S} s")
            time.sleep(0.02)

    def remove(self):
        if self._is_mounted():
            subprocess.run(["umount", "-l", self.point], check=False)
        # Nothing is removed through a mount that is left.
        subprocess.run(["rm", "-rf", "--one-file-system", self.root], check=True)


class Bench:
    """A workload's mounted volume, and the rates that the workload had on it."""

    def __init__(self, volume, asked):
        self.volume, self.asked = volume, asked
        self.rates = {}

    def at(self, *names):
        return os.path.join(self.volume.point, *names)

    def anew(self):
        self.volume.unmount()
        self.volume.mount()

    @contextlib.contextmanager
    def timed(self, row, amount):
        """The time of what is done within it, as `amount` a second."""
        began = time.perf_counter()
        yield
        self.rates[row] = amount / (time.perf_counter() - began)


@contextlib.contextmanager
def opened(path, flags):
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_durably(path, size):
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        written = 0
        while written < size:
            start = written % len(CONTENT)
            written += os.write(file, CONTENT[start : start + min(MIB, size - written)])
        os.fsync(file)


def read_range(path, start, end):
    part = memoryview(bytearray(MIB))
    with opened(path, os.O_RDONLY) as file:
        while start < end:
            count = os.preadv(file, [part[: end - start]], start)
            if count == 0:
                raise RuntimeError(f"{path} ends at {start}, not {end}")
            start += count


def read_by_processes(path, size, count):
    """Each process reads its own part, all at the same time."""
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            try:
                read_range(path, size * index // count, size * (index + 1) // count)
                os._exit(0)
            finally:
                # Whatever happens, it does not go on with its parent's work.
                os._exit(1)
        children.append(child)
    # All are waited for before one is found to have failed.
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise RuntimeError(f"{path}: a reader failed")


def touch_pages(path, size):
    with opened(path, os.O_RDONLY) as file, mmap.mmap(file, size, prot=mmap.PROT_READ) as pages:
        sum(pages[0:size:PAGE])


def random_pages(seed, size, count):
    chosen = random.Random(seed)
    return [chosen.randrange(size // PAGE) * PAGE for _ in range(count)]


def stream(bench):
    path, mib = bench.at("large"), bench.asked.size
    size = mib * MIB
    with bench.timed("sequential write, MiB/s", mib):
        write_durably(path, size)
    bench.anew()
    with bench.timed("sequential read cold, MiB/s", mib):
        read_range(path, 0, size)
    with bench.timed("sequential read warm, MiB/s", mib):
        read_range(path, 0, size)
    bench.anew()
    with bench.timed("read by 4 processes cold, MiB/s", mib):
        read_by_processes(path, size, 4)
    bench.anew()
    with bench.timed("read by mmap cold, MiB/s", mib):
        touch_pages(path, size)


def pages(bench):
    path, size = bench.at("large"), bench.asked.size * MIB
    write_durably(path, size)
    bench.anew()
    count = bench.asked.calls
    offsets = random_pages("read", size, count)
    with bench.timed("read random 4 KiB cold, 1/s", count), opened(path, os.O_RDONLY) as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for offset in offsets:
            os.pread(file, PAGE, offset)
    offsets = random_pages("write", size, count)
    with bench.timed("write random 4 KiB, 1 fsync, 1/s", count):
        with opened(path, os.O_WRONLY) as file:
            for offset in offsets:
                os.pwrite(file, CONTENT[:PAGE], offset)
            os.fsync(file)
    count = bench.asked.syncs
    offsets = random_pages("sync", size, count)
    with bench.timed("write random 4 KiB, fdatasync each, 1/s", count):
        with opened(path, os.O_WRONLY) as file:
            for offset in offsets:
                os.pwrite(file, CONTENT[:PAGE], offset)
                os.fdatasync(file)


def log(bench):
    count = bench.asked.syncs
    with bench.timed("append 200 B, fdatasync each, 1/s", count):
        with opened(bench.at("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            for _ in range(count):
                os.write(file, CONTENT[:200])
                os.fdatasync(file)


def checkpoint(bench):
    count = 4
    with bench.timed("checkpoint by rename, MiB/s", bench.asked.size):
        for _ in range(count):
            write_durably(bench.at("next"), bench.asked.size * MIB // count)
            os.rename(bench.at("next"), bench.at("checkpoint"))
            with opened(bench.at(), os.O_RDONLY | os.O_DIRECTORY) as directory:
                os.fsync(directory)


def small_files(bench):
    count, chosen = bench.asked.files, random.Random("small files")
    each_dir = 100
    # From a label to a photograph.
    sizes = [chosen.choice((300, 2_000, 9_000, 40_000, 110_000)) for _ in range(count)]
    top = bench.at("data")
    paths = [f"{top}/{at // each_dir}/sample_{at:06}.jpg" for at in range(count)]
    with bench.timed("small files: create, 1/s", count):
        os.mkdir(top)
        for at, (path, size) in enumerate(zip(paths, sizes)):
            if at % each_dir == 0:
                os.mkdir(os.path.dirname(path))
            with open(path, "wb", buffering=0) as file:
                file.write(CONTENT[:size])
    bench.anew()
    shuffled = chosen.sample(list(zip(paths, sizes)), count)
    for state in ("cold", "warm"):
        with bench.timed(f"small files: read {state}, 1/s", count):
            for path, size in shuffled:
                with open(path, "rb", buffering=0) as file:
                    if len(file.read()) != size:
                        raise RuntimeError(f"{path} is not {size} bytes")
    bench.anew()
    for state in ("cold", "warm"):
        with bench.timed(f"small files: walk and stat {state}, 1/s", count):
            for place, _, names in os.walk(top):
                for name in names:
                    os.stat(f"{place}/{name}")
    with bench.timed("small files: delete, 1/s", count):
        shutil.rmtree(top)


def database(bench):
    count = bench.asked.transactions
    ledger = sqlite3.connect(bench.at("ledger"), isolation_level=None)
    with contextlib.closing(ledger):
        ledger.execute("create table entry (number integer primary key, note blob)")
        with bench.timed("sqlite: transactions, 1/s", count):
            for _ in range(count):
                ledger.execute("insert into entry (note) values (?)", (CONTENT[:500],))


def archive(bench):
    """Only if an archive was given."""
    mib = os.path.getsize(bench.asked.tar) / MIB
    with bench.timed("tar -x, MiB/s", mib):
        subprocess.run(["tar", "-xf", bench.asked.tar, "-C", bench.at()], check=True)
    with bench.timed("grep -r warm, MiB/s", mib):
        # Nothing has it, so that all is read.
        found = subprocess.run(["grep", "-rqF", "no such line \x01\x02", bench.at()], check=False)
    if found.returncode != 1:
        raise RuntimeError(f"grep: exit code {found.returncode}")


WORKLOADS = {
    "stream": stream,
    "pages": pages,
    "log": log,
    "checkpoint": checkpoint,
    "small": small_files,
    "database": database,
    "archive": archive,
}


def measure(name, workload, asked):
    """The rates of a workload on a fresh volume."""
    root = tempfile.mkdtemp(prefix=f"compare-{name}-", dir=asked.backing)
    volume = None
    try:
        volume = Volume(name, root)
        volume.mount()
        # What was written before must not be on its way to the disk meanwhile.
        subprocess.run(["sync", "-f", root], check=True)
        bench = Bench(volume, asked)
        workload(bench)
        volume.unmount()
        return bench.rates
    finally:
        if volume:
            volume.remove()
        else:
            shutil.rmtree(root)


def rounds(asked):
    """Rates by row and filesystem, a list with one of each round; and whether all worked."""
    rates, complete = {}, True
    for turn in range(asked.rounds):
        for workload in asked.only:
            for name in asked.fs if turn % 2 == 0 else reversed(asked.fs):
                print(f"round {turn + 1}: {workload} on {name}", file=sys.stderr)
                try:
                    measured = measure(name, WORKLOADS[workload], asked)
                except (OSError, RuntimeError, sqlite3.Error, subprocess.SubprocessError) as error:
                    print(f"{workload} on {name} failed: {error}", file=sys.stderr)
                    complete = False
                    continue
                for row, rate in measured.items():
                    rates.setdefault(row, {}).setdefault(name, []).append(rate)
    return rates, complete


def shown(figure):
    if figure is None:
        return "-"
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def table(rates, names):
    """Markdown: medians, and how many times the best peer cmkfs is."""
    peers = [name for name in names if name not in (OURS, FLOOR)]
    ratio = OURS in names and bool(peers)
    heads = ["workload", *names] + ["cmkfs / best peer"] * ratio
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row, by_name in rates.items():
        medians = {name: statistics.median(found) for name, found in by_name.items()}
        line = [row, *(shown(medians.get(name)) for name in names)]
        if ratio:
            best = max((medians[name] for name in peers if name in medians), default=None)
            ours = medians.get(OURS)
            line.append(f"{ours / best:.2f}" if ours and best else "-")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(asked):
    """What the figures depend on."""
    kind = ["df", "--output=fstype", asked.backing]
    disk = subprocess.run(kind, check=True, capture_output=True, text=True).stdout.split()[-1]
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, stores on {disk}, "
        f"{asked.rounds} rounds, files of {asked.size} MiB, {asked.files} small files."
    )


def listed(known):
    def parse(text):
        names = [name for name in text.split(",") if name]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wanted = ",".join(known)
            raise argparse.ArgumentTypeError(f"{','.join(unknown) or 'nothing'}: not of {wanted}")
        return names

    return parse


def positive(text):
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--fs", type=listed(KINDS), default=list(KINDS), metavar="NAME,...",
        help=f"which filesystems: {','.join(KINDS)} (all)")
    add("--backing", default=tempfile.gettempdir(), metavar="DIR",
        help="where the stores are made (%(default)s)")
    add("--rounds", type=positive, default=5, metavar="N", help="(%(default)s)")
    add("--only", type=listed(WORKLOADS), metavar="NAME,...",
        help=f"which workloads: {','.join(WORKLOADS)} (all)")
    add("--json", metavar="FILE", help="write the rate of each round there")
    add("--tar", metavar="FILE", help="an archive for the workload that unpacks one")
    add("--size", type=positive, default=512, metavar="MIB", help="a large file (%(default)s)")
    add("--files", type=positive, default=3000, metavar="N", help="small files (%(default)s)")
    add("--calls", type=positive, default=4000, metavar="N",
        help="random reads, and writes with one sync (%(default)s)")
    add("--syncs", type=positive, default=300, metavar="N",
        help="writes with a sync each (%(default)s)")
    add("--transactions", type=positive, default=200, metavar="N", help="(%(default)s)")
    add("--missing", action="store_true",
        help="only list the Debian packages that --fs needs and that are missing")
    asked = parser.parse_args()
    if asked.only is None:
        asked.only = [name for name in WORKLOADS if name != "archive" or asked.tar]
    elif "archive" in asked.only and not asked.tar:
        parser.error("the workload archive needs --tar")
    if not os.path.isdir(asked.backing):
        parser.error(f"{asked.backing} is no directory to make stores in")
    # Daemons work in another directory.
    asked.backing = os.path.realpath(asked.backing)
    return asked


def main():
    asked = arguments()
    if asked.missing:
        kinds = [KINDS[name] for name in asked.fs]
        missing = [kind for kind in kinds if kind.package and not shutil.which(kind.mount[0])]
        print(*(kind.package for kind in missing))
        return 0
    # Ended by a signal, it still unmounts and removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rates, complete = rounds(asked)
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(rates, file, indent=1)
    print(f"{machine(asked)}\n\n{table(rates, asked.fs)}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
