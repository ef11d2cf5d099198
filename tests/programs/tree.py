"""A tree of everything that a file system can hold, and a list of what is in a tree.

tree.py make ROOT | tree.py make-rest ROOT | tree.py list ROOT [NAME TO LEAVE OUT]
"""

import hashlib
import os
import random
import socket
import stat
import struct
import subprocess
import sys

MIB = 1 << 20
SPARSE_LEN = 64 * MIB


def content(seed, size):
    return random.Random(seed).randbytes(size)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def make_files(root):
    os.makedirs(root + "/data/deep/" + "/".join("abcdefghij"))
    os.makedirs(root + "/data/empty/empty too")
    for size in (0, 1, 100, 3956, 4096, 16384, 16385, 100_000, 3 * MIB + 7):
        write(f"{root}/data/{size} bytes", content(size, size))
    write(root + "/data/deep/a/b/c/d/e/f/g/h/i/j/bottom", b"bottom")
    for name in ("x" * 255, "\u00fc" * 127 + "x", "-rf", " ", "new\nline", "back\\slash", "*?[a]"):
        write(root + "/data/" + name, name.encode())
    os.mkdir(root + "/" + "d" * 255)
    write(root + "/" + "d" * 255 + "/" + "f" * 255, b"two long names")
    # Not UTF-8.
    write(os.fsencode(root) + b"/data/\xff\xfe", b"bytes")
    os.mkdir(root + "/many")
    for index in range(200):
        write(f"{root}/many/{index:03}", content(index, index * 7))


def make_links(root):
    os.mkdir(root + "/links")
    write(root + "/links/one", content("one", 50_000))
    for name in ("two", "three"):
        os.link(root + "/links/one", root + "/links/" + name)
    os.link(root + "/links/one", root + "/data/deep/four")
    for index, target in enumerate(("one", "../data", "/etc/passwd", "gone", "t" * 4000)):
        os.symlink(target, f"{root}/links/to {index}")
    os.link(root + "/links/to 0", root + "/links/to 0 too", follow_symlinks=False)


def make_special(root):
    os.mkdir(root + "/special")
    os.mkfifo(root + "/special/fifo", 0o640)
    os.mknod(root + "/special/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root + "/special/disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))


def make_sparse(root):
    os.mkdir(root + "/sparse")
    with open(root + "/sparse/middle", "wb") as file:
        for at in (0, 10 * MIB, 33 * MIB + 5):
            file.seek(at)
            file.write(content(at, 70_000))
        file.truncate(SPARSE_LEN)
    with open(root + "/sparse/nothing", "wb") as file:
        file.truncate(SPARSE_LEN)


def make_owned(root):
    os.mkdir(root + "/owned")
    modes = (0o644, 0o400, 0o000, 0o4755, 0o2755, 0o6711, 0o1644, 0o777)
    for uid, gid in ((0, 0), (1000, 1000), (65534, 65534), (1000, 65534)):
        for mode in modes:
            path = f"{root}/owned/{uid} {gid} {mode:o}"
            write(path, path.encode())
            os.chown(path, uid, gid)
            os.chmod(path, mode)
        for mode in (0o755, 0o1777, 0o2775, 0o700):
            path = f"{root}/owned/dir {uid} {gid} {mode:o}"
            os.mkdir(path)
            os.chown(path, uid, gid)
            os.chmod(path, mode)
        os.symlink("x", f"{root}/owned/link {uid} {gid}")
        os.lchown(f"{root}/owned/link {uid} {gid}", uid, gid)


def make_attributes(root):
    os.makedirs(root + "/attributes/dir")
    write(root + "/attributes/file", b"with attributes")
    write(root + "/attributes/program", b"#!/bin/sh\n")
    for path in (root + "/attributes/file", root + "/attributes/dir"):
        os.setxattr(path, "user.colour", b"blue")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.zeros", bytes(100))
        os.setxattr(path, "trusted.origin", content(path[-3:], 1000))
    os.setxattr(root + "/attributes/file", "user." + "n" * 200, b"long name")
    # CAP_NET_BIND_SERVICE, permitted and effective, as capability(7) lays it out.
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(root + "/attributes/program", "security.capability", capability)
    for flags, entries, path in (
        ([], "u:1000:rw,g:65534:r,m::rw", "file"),
        ([], "u:1000:rwx,m::rwx", "dir"),
        (["-d"], "u::rwx,u:65534:rx,g::rx,o::-", "dir"),
    ):
        target = f"{root}/attributes/{path}"
        subprocess.run(["setfacl", *flags, "-m", entries, target], check=True)


def set_times(root):
    """Each its own time with nanoseconds, directories after what is in them."""
    special = [1, -1_500_000_000, 4_102_444_800_123_456_789, 999_999_999]
    number = 0
    for top, dirs, files in os.walk(root, topdown=False):
        dirs = [name for name in dirs if os.path.islink(os.path.join(top, name))]
        for path in [os.path.join(top, name) for name in sorted(files + dirs)] + [top]:
            time = special.pop() if special else 1_600_000_000_000_000_001 + number * 987_654_321
            os.utime(path, ns=(time, time), follow_symlinks=False)
            number += 1


def make(root):
    os.umask(0o022)
    for part in (
        make_files,
        make_links,
        make_special,
        make_sparse,
        make_owned,
        make_attributes,
        set_times,
    ):
        part(root)


def make_rest(root):
    """What tar does not keep: sockets, and that two names are of one FIFO."""
    os.link(root + "/special/fifo", root + "/special/fifo too")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(root + "/special/socket")


def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(MIB):
            found.update(part)
    return found.hexdigest()


def attributes(path):
    found = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        found.append(f"{name}={value.hex()}")
    return ",".join(found)


def describe(path, name, links):
    """All that a copy has to keep; of a directory neither its size nor its links, which are the
    file system's own."""
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    line = [repr(name), f"{found.st_mode:o}", f"{found.st_uid}:{found.st_gid}"]
    line.append(str(found.st_mtime_ns))
    if kind != stat.S_IFDIR:
        first = links.setdefault(found.st_ino, name)
        line.append(f"{found.st_size} of {found.st_nlink} {os.fsencode(first).hex()}")
    if kind == stat.S_IFREG:
        line.append(digest(path))
    elif kind == stat.S_IFLNK:
        line.append(os.readlink(path))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        line.append(str(found.st_rdev))
    line.append(attributes(path))
    return " | ".join(line)


def entries(root, leave_out):
    for top, dirs, files in os.walk(root):
        if top == root:
            dirs[:] = [name for name in dirs if name != leave_out]
        yield top
        for name in files + [name for name in dirs if os.path.islink(os.path.join(top, name))]:
            if top != root or name != leave_out:
                yield os.path.join(top, name)


def show(root, leave_out):
    links = {}
    for path in sorted(entries(root, leave_out)):
        line = describe(path, os.path.relpath(path, root), links)
        sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    elif sys.argv[1] == "make-rest":
        make_rest(sys.argv[2])
    else:
        show(sys.argv[2], "".join(sys.argv[3:]))
