"""Moves the files below one directory into a mounted volume, and loses none of them.

    adopt.py PLAIN MOUNT TRASH

TRASH is a directory on the disk of PLAIN, not of PLAIN's own files. Each file is copied to a hidden
directory of MOUNT, synced, read back through the mount, compared, and given its name, which is
synced too. Only then it leaves PLAIN: it is renamed into TRASH, overwritten with zeros if it has no
other name, and removed. So it can end at any moment and be run again: what is in PLAIN is
still to be moved, or is in MOUNT already and the same; what is in TRASH is in MOUNT.

A name that MOUNT has with other content is left alone: the old file is put beside it as
NAME.before-cmkfs. What can't be moved stays in PLAIN and is named on standard error; the exit code
is 1 then. Kept are owner, mode, times, extended attributes, hard links and holes.
"""

import errno
import os
import shutil
import stat
import sys

CHUNK_BYTES = 1 << 20
# Of one batch; its files are in both places until they are durable.
BATCH_FILES_MAX = 256
BATCH_BYTES_MAX = 256 << 20
# What cmkfs has on the disk; the same name in the mount is that of the hidden directory.
OWN = ".cmkfs"
# Of the disk, or of the machine that labels it.
NOT_MOVED = {OWN, "lost+found"}
NOT_COPIED = {"security.selinux", "security.ima", "security.evm"}


class Changed(Exception):
    """The file is not what was read a moment ago."""


class Directory:
    """An open directory. Names below it are looked up in this very one, also if its user puts a
    symbolic link in its place meanwhile."""

    def __init__(self, path, shown):
        self.shown = shown
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)

    def at(self, name):
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def open(self, name):
        return Directory(self.at(name), os.path.join(self.shown, name))

    def names(self):
        return sorted(os.listdir(self.descriptor))


def spans(descriptor, size):
    """(offset, length) of the parts of a file that are not holes."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, at - begin


def copy_attributes(source, target, found):
    """Owner before mode, which a change of owner may reset; times last."""
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        if name not in NOT_COPIED:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def opened(path, flags=os.O_RDONLY):
    mode = "rb" if flags == os.O_RDONLY else "r+b"
    # A pipe in the place of a file must not hold this up.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    return open(os.open(path, flags, 0o600), mode, buffering=0)


def copy_file(source, target, found):
    """A regular file, to a new one that is durable at the end and was read back."""
    with opened(source) as read, opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as write:
        for begin, length in spans(read.fileno(), found.st_size):
            read.seek(begin)
            write.seek(begin)
            while length > 0:
                part = read.read(min(CHUNK_BYTES, length))
                if not part:
                    raise Changed
                rest = memoryview(part)
                while rest:
                    rest = rest[write.write(rest) :]
                length -= len(part)
        write.truncate(found.st_size)
        copy_attributes(source, target, found)
        os.fsync(write.fileno())
        # What is compared comes from the store, not from the kernel's memory.
        os.posix_fadvise(write.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not (same_content(source, target) and unchanged(source, found)):
        raise Changed


def same_content(one, other):
    with opened(one) as first, opened(other) as second:
        while True:
            part = first.read(CHUNK_BYTES)
            if part != second.read(CHUNK_BYTES):
                return False
            if not part:
                return True


def is_same(source, found, target):
    """Whether `target` is this very file, moved before or put there by somebody."""
    there = os.lstat(target)
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(found.st_mode):
        return False
    if stat.S_ISREG(found.st_mode):
        return there.st_size == found.st_size and same_content(source, target)
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(source) == os.readlink(target)
    return there.st_rdev == found.st_rdev


def unchanged(source, found):
    now = os.lstat(source)
    return (now.st_size, now.st_mtime_ns) == (found.st_size, found.st_mtime_ns)


def overwrite(path, size):
    """So that blocks which the disk has free again do not tell what was in them."""
    zeros = bytes(CHUNK_BYTES)
    with opened(path, os.O_RDWR) as file:
        for begin, length in list(spans(file.fileno(), size)):
            file.seek(begin)
            while length > 0:
                length -= file.write(memoryview(zeros)[: min(length, CHUNK_BYTES)])
        os.fsync(file.fileno())


class Adoption:
    """One run over a tree."""

    def __init__(self, mount, staging, trash):
        self.mount, self.staging, self.trash = mount, staging, trash
        self.twins = {}  # (device, inode) of a file with several names: its copy in `staging`.
        self.batch, self.batch_bytes, self.serial = [], 0, 0
        self.files, self.bytes, self.left = 0, 0, 0

    def run(self, plain):
        self.empty_trash()
        self.device = os.fstat(plain.descriptor).st_dev
        self.directory(plain, self.mount, NOT_MOVED)
        print(f"adopt: {self.files} files, {self.bytes} bytes moved, {self.left} left")

    def leave(self, path, why):
        self.left += 1
        print(f"adopt: left in plaintext: {path}: {why}", file=sys.stderr)

    def staged(self):
        self.serial += 1
        return self.staging.at(self.serial)

    def directory(self, source, target, but=frozenset()):
        for name in source.names():
            if name in but:
                continue
            shown = os.path.join(source.shown, name)
            try:
                found = os.lstat(source.at(name))
                if found.st_dev != self.device:
                    self.leave(shown, "it is on another disk")
                elif stat.S_ISDIR(found.st_mode):
                    self.subdirectory(source, target, name, found)
                else:
                    self.file(source, target, name, found)
            except Changed:
                self.leave(shown, "it was written to meanwhile")
            except OSError as error:
                self.leave(shown, error.strerror)
        self.flush()

    def subdirectory(self, source, target, name, found):
        goal = name
        made = not os.path.lexists(target.at(name))
        if not made and not stat.S_ISDIR(os.lstat(target.at(name)).st_mode):
            goal, made = self.beside(target, name), True
        if made:
            os.mkdir(target.at(goal), 0o700)
        with source.open(name) as inner, target.open(goal) as into:
            if made:
                copy_attributes(inner.at("."), into.at("."), found)
                os.fsync(target.descriptor)
            self.directory(inner, into)
            if made:
                os.utime(into.at("."), ns=(found.st_atime_ns, found.st_mtime_ns))
                os.fsync(into.descriptor)
            is_empty = not inner.names()
        if is_empty:
            os.rmdir(source.at(name))

    def file(self, source, target, name, found):
        path, goal, staged = source.at(name), name, self.staged()
        if os.path.lexists(target.at(name)):
            if is_same(path, found, target.at(name)):
                self.add(source, name, found, None, target, name)
                return
            goal = self.beside(target, name)
        twin = self.twins.get((found.st_dev, found.st_ino))
        if twin is not None:
            os.link(twin, staged, follow_symlinks=False)
        else:
            self.copy(path, staged, found)
        if twin is None and found.st_nlink > 1:
            twin = self.twins[found.st_dev, found.st_ino] = self.staged()
            os.link(staged, twin, follow_symlinks=False)
        self.add(source, name, found, staged, target, goal)

    def copy(self, path, staged, found):
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(path), staged)
            copy_attributes(path, staged, found)
        elif not stat.S_ISREG(found.st_mode):
            os.mknod(staged, found.st_mode, found.st_rdev)
            copy_attributes(path, staged, found)
        else:
            try:
                copy_file(path, staged, found)
            except OSError as error:
                os.unlink(staged)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # What the batch has in both places is in the way.
                self.flush()
                copy_file(path, staged, found)

    def beside(self, target, name):
        """A free name for what can't have its own."""
        goal, number = name + ".before-cmkfs", 1
        while os.path.lexists(target.at(goal)):
            number += 1
            goal = f"{name}.before-cmkfs-{number}"
        shown = os.path.join(target.shown, name)
        print(f"adopt: {shown} is there with other content: the old one is {goal}", file=sys.stderr)
        return goal

    def add(self, *entry):
        self.batch.append(entry)
        self.batch_bytes += entry[2].st_size
        if len(self.batch) >= BATCH_FILES_MAX or self.batch_bytes >= BATCH_BYTES_MAX:
            self.flush()

    def flush(self):
        """Gives the batch its names, and takes it from PLAIN."""
        batch, self.batch, self.batch_bytes = self.batch, [], 0
        named = []
        for entry in batch:
            source, name, found, staged, target, goal = entry
            try:
                if staged is not None:
                    # Unlike rename(2), it never takes the place of what was made meanwhile.
                    os.link(staged, target.at(goal), follow_symlinks=False)
                    os.unlink(staged)
                elif stat.S_ISREG(found.st_mode):
                    with opened(target.at(goal)) as there:
                        os.fsync(there.fileno())
                named.append(entry)
            except OSError as error:
                self.leave(os.path.join(source.shown, name), error.strerror)
        for descriptor in {target.descriptor for *_, target, _ in named}:
            os.fsync(descriptor)
        for source, name, found, *_ in named:
            if not unchanged(source.at(name), found):
                self.leave(os.path.join(source.shown, name), "it was written to meanwhile")
                continue
            self.serial += 1
            os.rename(source.at(name), self.trash.at(self.serial))
            self.files += 1
            self.bytes += found.st_size
        self.empty_trash()

    def empty_trash(self):
        for name in self.trash.names():
            path = self.trash.at(name)
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                overwrite(path, found.st_size)
            os.unlink(path)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: adopt.py PLAIN MOUNT TRASH")
    plain, mount, trash = (os.path.abspath(path) for path in sys.argv[1:])
    if not os.path.ismount(mount):
        sys.exit(f"adopt: {mount} is not mounted")
    if os.path.samefile(plain, mount):
        sys.exit(f"adopt: {plain} is the mount itself")
    os.makedirs(trash, mode=0o700, exist_ok=True)
    staging = os.path.join(mount, OWN)
    # What an earlier run had begun.
    shutil.rmtree(staging, ignore_errors=True)
    os.mkdir(staging, 0o700)
    try:
        with Directory(plain, plain) as source, Directory(mount, mount) as target:
            with Directory(staging, staging) as hidden, Directory(trash, trash) as removed:
                adoption = Adoption(target, hidden, removed)
                adoption.run(source)
    finally:
        shutil.rmtree(staging)
    sys.exit(1 if adoption.left else 0)


if __name__ == "__main__":
    main()
