"""The data set of the first job: real text, several hundred files, the same bytes for a seed.

Documents are made of passages of Python's own standard library, which is on every machine that
runs the job, and of the licences that Debian ships. A document carries the package that its
passages come from as its label. One passage in five is held out for validation, so that accuracy
is measured on text that training never saw.
"""

import hashlib
import os
import random
import sysconfig

SEED = 20240607
LABEL_COUNT = 12
TRAIN_BYTES = 64_000_000
VALIDATION_BYTES = 1_500_000
PASSAGE_BYTES = 1400
SEPARATOR = b"\n\x0c\n"
MARKER = b"MARKER: customer agreed to the terms of the confidential retention programme"
MARKER_EVERY = 10
# How many files of a hundred have a size between these bytes: many small ones, a few large ones,
# as in a real training channel.
SIZES = [
    (25, 300, 3_000),
    (30, 3_000, 16_000),
    (27, 16_000, 70_000),
    (14, 70_000, 200_000),
    (4, 200_000, 3_000_000),
]
SMALL_SIZES = SIZES[:3]
LICENCES = "/usr/share/common-licenses"
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3"}


def _group_paths():
    """Paths of source text by label: the package or the module at the top of the library."""
    top = sysconfig.get_paths()["stdlib"]
    groups = {}
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                first = os.path.relpath(path, top).split(os.sep)[0]
                groups.setdefault(first.removesuffix(".py"), []).append(path)
    if os.path.isdir(LICENCES):
        names = [os.path.join(LICENCES, name) for name in sorted(os.listdir(LICENCES))]
        groups["licences"] = [path for path in names if not os.path.islink(path)]
    return groups


def _passages(paths):
    """Runs of whole lines of at least PASSAGE_BYTES."""
    passages = []
    lines, size = [], 0
    for path in paths:
        with open(path, "rb") as file:
            text = file.read().replace(b"\x0c", b" ")
        for line in text.splitlines(keepends=True):
            lines.append(line)
            size += len(line)
            if size >= PASSAGE_BYTES:
                passages.append(b"".join(lines))
                lines, size = [], 0
    return passages


def corpus():
    """The passages of the LABEL_COUNT largest groups: [(label, to train on, held out)]."""
    groups = [(label, _passages(paths)) for label, paths in _group_paths().items()]
    groups.sort(key=lambda group: (-sum(map(len, group[1])), group[0]))
    chosen = sorted(groups[:LABEL_COUNT])
    if len(chosen) < LABEL_COUNT or any(len(passages) < 10 for _, passages in chosen):
        raise SystemExit(
            f"dataset: {len(chosen)} groups of source text found, wanted {LABEL_COUNT}: "
            "install Python's standard library (on Debian: apt-get install python3)"
        )
    split = []
    for label, passages in chosen:
        held_out = passages[4::5]
        kept = [passage for at, passage in enumerate(passages) if at % 5 != 4]
        split.append((label, kept, held_out))
    return split


def _sizes(rng, sizes, total):
    """Sizes in bytes that add up to `total` or a little more."""
    weights = [weight for weight, _, _ in sizes]
    done = 0
    while done < total:
        _, low, high = rng.choices(sizes, weights)[0]
        size = rng.randint(low, high)
        done += size
        yield size


def _document(rng, number, label, passages, size):
    """One document of exactly `size` bytes: its label, then passages."""
    parts = [b"label: " + label.encode()]
    if number % MARKER_EVERY == 0:
        parts.append(MARKER + b", record %06d" % number)
    done = sum(map(len, parts)) + len(SEPARATOR) * len(parts)
    while done < size:
        passage = rng.choice(passages)
        parts.append(passage)
        done += len(passage) + len(SEPARATOR)
    return SEPARATOR.join(parts).ljust(size)[:size]


def documents(channel, total=None):
    """Every (file name, bytes) of a channel, `train` or `validation`, in order."""
    split = corpus()
    rng = random.Random(f"{SEED} {channel}")
    if total is None:
        total = TRAIN_BYTES if channel == "train" else VALIDATION_BYTES
    sizes = SIZES if channel == "train" else SMALL_SIZES
    for number, size in enumerate(_sizes(rng, sizes, total)):
        label, kept, held_out = split[number % len(split)]
        passages = kept if channel == "train" else held_out
        yield f"customer-record-{number:06d}.txt", _document(rng, number, label, passages, size)


def file_digest(name, content):
    """A number for the name and the bytes of a file. Numbers of files are added up, so that an
    epoch may read them in any order and a resumed one may go on where it was."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return int.from_bytes(digest.digest(), "big")


def add_digests(left, right):
    """The digest of two sets of files together."""
    return (left + right) % (1 << 256)


def write_channel(folder, channel, total=None):
    """Writes a channel and returns what was handed to the file system: files, bytes, digest."""
    os.makedirs(folder, exist_ok=True)
    written = {"files": 0, "bytes": 0, "digest": 0}
    for name, content in documents(channel, total):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
            file.flush()
            # Only what is on the disk can be dropped from the kernel's cache by who reads it.
            os.fsync(file.fileno())
        written["files"] += 1
        written["bytes"] += len(content)
        written["digest"] = add_digests(written["digest"], file_digest(name, content))
    written["digest"] = f"{written['digest']:064x}"
    return written
