"""A counter that several processes raise, each while it has the lock; by every kind of lock.

locks.py DIR
"""

import fcntl
import os
import sys

PROCESSES = 6
ROUNDS = 50


def until_made(make, path):
    """The lock is whatever can be made by one alone; nothing tells when it is gone."""
    while True:
        try:
            return make(path)
        except FileExistsError:
            os.sched_yield()


def exclusive_file(path):
    os.close(until_made(lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY), path))
    return lambda: os.unlink(path)


def directory(path):
    until_made(os.mkdir, path)
    return lambda: os.rmdir(path)


def link(path):
    own = f"{path} of {os.getpid()}"
    os.close(os.open(own, os.O_CREAT | os.O_WRONLY))
    until_made(lambda path: os.link(own, path), path)
    assert os.stat(own).st_nlink == 2

    def unlock():
        os.unlink(path)
        assert os.stat(own).st_nlink == 1

    return unlock


def symbolic_link(path):
    until_made(lambda path: os.symlink(f"process:{os.getpid()}", path), path)
    assert os.readlink(path) == f"process:{os.getpid()}"
    return lambda: os.unlink(path)


def open_lock(path, call):
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    call(file, fcntl.LOCK_EX)
    return lambda: os.close(file)


def flock(path):
    return open_lock(path, fcntl.flock)


def posix_lock(path):
    return open_lock(path, fcntl.lockf)


KINDS = (exclusive_file, directory, link, symbolic_link, flock, posix_lock)


def raise_counter(top, lock):
    for _ in range(ROUNDS):
        unlock = lock(f"{top}/lock")
        with open(f"{top}/counter") as counter:
            before = int(counter.read())
        # In place and as another file in turn: both have to be seen by the next at once.
        beside = f"{top}/counter" if before % 2 else f"{top}/counter.new"
        with open(beside, "w") as counter:
            counter.write(str(before + 1))
        os.rename(beside, f"{top}/counter")
        unlock()


def count(top, lock):
    os.mkdir(top)
    with open(f"{top}/counter", "w") as counter:
        counter.write("0")
    children = []
    for _ in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                raise_counter(top, lock)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0] * PROCESSES, (lock.__name__, codes)
    with open(f"{top}/counter") as counter:
        assert int(counter.read()) == PROCESSES * ROUNDS, lock.__name__


if __name__ == "__main__":
    for lock in KINDS:
        count(f"{sys.argv[1]}/{lock.__name__}", lock)
