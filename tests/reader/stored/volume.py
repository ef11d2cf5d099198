"""A whole volume: the walk over its tree, and the way to one object by its plaintext path."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from stored.attribute import KIND_DIRECTORY, KIND_FILE, KIND_OTHER, NO_ID, read_attributes
from stored.content import StoredFile, open_header
from stored.descriptor import SIZE_MAX, open_volume
from stored.directory import (
    LONG,
    Directory,
    listed,
    lower_form,
    open_marker,
    open_name,
    seal_name,
)
from stored.keyring import Keyring
from stored.link import read_target
from stored.lower import LowerDir, open_dir, open_file, open_store, read_small, shared_lock
from stored.refusal import Broken, Refused, told_of

DESCRIPTOR_NAME = b"volume.json"
TREE_NAME = b"tree"
KEY_FILE_LEN = 32

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass
class Found:
    """One object of the plaintext tree, all of it but content opened and authentic."""

    path: bytes
    stored_path: bytes
    kind: str
    status: os.stat_result
    attributes: dict[bytes, bytes]
    target: bytes | None = None
    content: StoredFile | None = None


@dataclass
class Volume:
    """An open volume. `refused` grows as the walk meets what gives out nothing."""

    keyring: Keyring
    store: LowerDir
    root: Directory
    refused: list[Refused] = field(default_factory=list)

    def walk(self) -> Iterator[Found]:
        """All objects, a directory before what is in it, names of one directory in order.

        The content of a file can be read until the next object is asked for."""
        yield self._directory(b".", self.root, os.fstat(self.root.lower.fd))
        yield from self._walk_below(b"", self.root)

    @contextmanager
    def file_at(self, path: bytes) -> Iterator[StoredFile]:
        """The regular file at `path`, found by computing the names on the way."""
        *parents, name = path.strip(b"/").split(b"/")
        with ExitStack() as opened:
            directory = self.root
            for parent in parents:
                lower_name = _find(directory, parent)
                lower = opened.enter_context(open_dir(directory.lower, lower_name))
                directory = open_marker(self.keyring, lower)
            lower_name = _find(directory, name)
            fd = opened.enter_context(open_file(directory.lower, lower_name))
            with told_of(directory.lower.path_of(lower_name)):
                yield open_header(self.keyring, fd)

    def _walk_below(self, path: bytes, directory: Directory) -> Iterator[Found]:
        for name, lower_name in listed(directory, self.refused):
            try:
                yield from self._object(path + name, directory.lower, lower_name)
            except Refused as refusal:
                self.refused.append(refusal)

    def _object(self, path: bytes, parent: LowerDir, lower_name: bytes) -> Iterator[Found]:
        status = parent.stat(lower_name)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        stored_path = parent.path_of(lower_name)
        if kind == "directory":
            with open_dir(parent, lower_name) as lower:
                directory = open_marker(self.keyring, lower)
                yield self._directory(path, directory, status)
                yield from self._walk_below(path + b"/", directory)
            return
        lower_attributes = parent.attributes(lower_name)
        if kind == "file":
            with open_file(parent, lower_name) as fd:
                with told_of(stored_path):
                    content = open_header(self.keyring, fd)
                attributes = self._attributes(
                    stored_path, lower_attributes, KIND_FILE, content.file_id
                )
                yield Found(path, stored_path, kind, status, attributes, content=content)
            return
        target = None
        if kind == "symlink":
            target = read_target(self.keyring, self.store, parent, lower_name)
        attributes = self._attributes(stored_path, lower_attributes, KIND_OTHER, NO_ID)
        yield Found(path, stored_path, kind, status, attributes, target=target)

    def _directory(self, path: bytes, directory: Directory, status: os.stat_result) -> Found:
        lower = directory.lower
        attributes = self._attributes(
            lower.path, lower.attributes(b"."), KIND_DIRECTORY, directory.dir_id
        )
        return Found(path, lower.path, "directory", status, attributes)

    def _attributes(
        self, stored_path: bytes, lower: dict[bytes, bytes], kind: int, identity: bytes
    ) -> dict[bytes, bytes]:
        return read_attributes(self.keyring, stored_path, lower, kind, identity, self.refused)


@contextmanager
def open_at(store_path: str, key_path: str) -> Iterator[Volume]:
    """The volume in the store at `store_path`, by a slot that the key file opens."""
    key_file = _read_key(key_path)
    with open_store(store_path) as store, shared_lock(store):
        stored = read_small(store, DESCRIPTOR_NAME, SIZE_MAX)
        with told_of(DESCRIPTOR_NAME):
            keyring = open_volume(stored, key_file)
        with open_dir(store, TREE_NAME) as lower:
            root = open_marker(keyring, lower)
            with told_of(TREE_NAME):
                if root.dir_id != keyring.root_id:
                    raise Broken("not the root directory that volume.json names")
            yield Volume(keyring, store, root)


def _read_key(key_path: str) -> bytes:
    with told_of(os.fsencode(key_path)), open(key_path, "rb") as file:
        key = file.read(KEY_FILE_LEN + 1)
        if len(key) != KEY_FILE_LEN:
            raise Broken(f"a key file holds {KEY_FILE_LEN} bytes and nothing else")
        return key


def _find(directory: Directory, name: bytes) -> bytes:
    """The lower name of `name`, once the sidecar of a long one is seen to be its own."""
    with told_of(directory.lower.path):
        lower_name = lower_form(seal_name(directory, name))
    if lower_name.endswith(LONG) and open_name(directory, lower_name) != name:
        with told_of(directory.lower.path_of(lower_name)):
            raise Broken("its sidecar holds another name")
    return lower_name
