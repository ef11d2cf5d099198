"""Lower objects, reached from the store by directory descriptors and never through a link."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stored.refusal import Broken, Refused, told_of

LOCK_NAME = b"lock"


@dataclass(frozen=True)
class LowerDir:
    """An open lower directory, and its path in the store, which is empty for the store itself."""

    fd: int
    path: bytes

    def path_of(self, name: bytes) -> bytes:
        """Path in the store of the entry `name`, for messages."""
        return self.path + b"/" + name if self.path else name

    def entries(self) -> list[bytes]:
        """Names of all entries, sorted."""
        with told_of(self.path):
            return sorted(os.fsencode(name) for name in os.listdir(self.fd))

    def stat(self, name: bytes) -> os.stat_result:
        """What the entry is; a link is not followed."""
        with told_of(self.path_of(name)):
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def readlink(self, name: bytes) -> bytes:
        """Lower target of the link `name`."""
        with told_of(self.path_of(name)):
            return os.readlink(name, dir_fd=self.fd)

    def attributes(self, name: bytes) -> dict[bytes, bytes]:
        """Lower extended attributes of the entry `name`, or of this directory for `.`."""
        # There are no *xattrat calls, and descriptors of links and FIFOs have none of f*xattr.
        place = b"/proc/self/fd/%d/%s" % (self.fd, name)
        with told_of(self.path_of(name)):
            names = map(os.fsencode, os.listxattr(place, follow_symlinks=False))
            return {one: os.getxattr(place, one, follow_symlinks=False) for one in sorted(names)}


@contextmanager
def open_store(path: str) -> Iterator[LowerDir]:
    """The folder that is the store."""
    with told_of(b""):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield LowerDir(fd, b"")
    finally:
        os.close(fd)


@contextmanager
def shared_lock(store: LowerDir) -> Iterator[None]:
    """Keeps writers out of the store, where there is a lock; refused if one of them has it."""
    if LOCK_NAME not in store.entries():
        yield
        return
    with open_file(store, LOCK_NAME) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(LOCK_NAME, "the volume is open for writing: unmount it") from error
        yield


@contextmanager
def open_dir(parent: LowerDir, name: bytes) -> Iterator[LowerDir]:
    """The directory `name` in `parent`."""
    path = parent.path_of(name)
    with told_of(path):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=parent.fd)
    try:
        yield LowerDir(fd, path)
    finally:
        os.close(fd)


@contextmanager
def open_file(parent: LowerDir, name: bytes) -> Iterator[int]:
    """Descriptor of the regular file `name` in `parent`."""
    path = parent.path_of(name)
    with told_of(path):
        # Without O_NONBLOCK a FIFO in its place would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=parent.fd)
    try:
        with told_of(path):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Broken("not a regular file")
        yield fd
    finally:
        os.close(fd)


def read_small(parent: LowerDir, name: bytes, size_max: int) -> bytes:
    """All of the regular file `name`, which is refused if it has more than `size_max` bytes."""
    with open_file(parent, name) as fd, told_of(parent.path_of(name)):
        content = read_at(fd, 0, size_max + 1)
        if len(content) > size_max:
            raise Broken(f"more than {size_max} bytes")
        return content


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes at `offset`, fewer only at the end of the file."""
    parts: list[bytes] = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
