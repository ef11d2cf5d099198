"""Writes 200 MB through a shared mapping; another process reads them with read(2) meanwhile.

mapped.py write PATH (prints the digest) | mapped.py digest PATH
"""

import hashlib
import mmap
import os
import random
import subprocess
import sys

SIZE = 200_000_000
PART = 1 << 20


def read_digest(path):
    digest = hashlib.sha256()
    file = os.open(path, os.O_RDONLY)
    while part := os.read(file, PART):
        digest.update(part)
    os.close(file)
    return digest.hexdigest()


def seen_by_another(path):
    command = [sys.executable, __file__, "digest", path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(path):
    numbers = random.Random(200)
    wanted = bytearray(SIZE)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(file, SIZE)
    shared = mmap.mmap(file, SIZE)
    os.close(file)
    # Neither in order nor in whole pages.
    starts = list(range(0, SIZE, PART))
    numbers.shuffle(starts)
    for start in starts:
        data = numbers.randbytes(min(PART, SIZE - start))
        wanted[start : start + len(data)] = data
        shared[start : start + len(data)] = data
    shared.flush()
    assert seen_by_another(path) == hashlib.sha256(wanted).hexdigest()
    for _ in range(2000):
        at = numbers.randrange(SIZE - 100)
        data = numbers.randbytes(numbers.randrange(1, 100))
        wanted[at : at + len(data)] = data
        shared[at : at + len(data)] = data
    # Before anything is flushed: the mapping and read(2) are the same pages.
    digest = hashlib.sha256(wanted).hexdigest()
    assert seen_by_another(path) == digest
    assert hashlib.sha256(shared).hexdigest() == digest
    shared.flush()
    # And the other way round: what is written is in the mapping.
    with open(path, "r+b") as other:
        for at in (0, 4095, SIZE // 2, SIZE - 7):
            other.seek(at)
            other.write(b"written")
            other.flush()
            wanted[at : at + 7] = b"written"
            assert shared[at : at + 7] == b"written"
    shared.close()
    print(hashlib.sha256(wanted).hexdigest())


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        print(read_digest(sys.argv[2]))
