"""Section 6: regular files, from the header through nodes to blocks."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from stored.keyring import FILE_KEYS, Keyring
from stored.refusal import Broken
from stored.lower import read_at
from stored.seal import NONCE_LEN, TAG_LEN, number, siv_open, u64, unwrap_key

MAGIC = b"cmkfs\x1a\n\0"
VERSION = 1
PREFIX_LEN = 124
BLOCK_LOG2_RANGE = range(12, 17)
PAYLOAD_LEN_RANGE = range(16, 3973)
PAYLOAD_HEAD_LEN = 16
INLINE_MAX = 3956

PAGE = 4096
SLOT_LEN = 4 * PAGE
FANOUT = 128
ENTRY_LEN = NONCE_LEN + TAG_LEN
NODE_LEN = FANOUT * ENTRY_LEN
HOLE = bytes(ENTRY_LEN)
HEIGHT_MAX = 4

AAD_BLOCK = 1
AAD_NODE = 2


@dataclass(frozen=True)
class Shape:
    """What follows from the length and the block size alone."""

    length: int
    block_size: int

    @property
    def inline(self) -> bool:
        """Whether the content lies in the header."""
        return self.length <= INLINE_MAX

    @property
    def blocks(self) -> int:
        """Blocks of a tree."""
        return -(-self.length // self.block_size)

    @property
    def levels(self) -> int:
        """Levels of nodes between the header and the blocks."""
        levels, count = 0, self.blocks
        while count > FANOUT:
            count = -(-count // FANOUT)
            levels += 1
        return levels

    @property
    def stored_len(self) -> int:
        """Bytes of the lower file."""
        if self.inline:
            return PREFIX_LEN + PAYLOAD_HEAD_LEN + self.length
        last = self.blocks - 1
        return self.block_offset(last) + self.length - last * self.block_size

    @property
    def payload_len(self) -> int:
        """Bytes of the payload."""
        return PAYLOAD_HEAD_LEN + (self.length if self.inline else NODE_LEN)

    def block_offset(self, index: int) -> int:
        """Where block `index` begins in the lower file."""
        return SLOT_LEN * (index // FANOUT + 1) + index * self.block_size

    def node_offset(self, level: int, index: int) -> int:
        """Where node `index` of `level` begins in the lower file."""
        run_len = SLOT_LEN + FANOUT * self.block_size
        return index * FANOUT**level * run_len + PAGE * (1 + level)

    def block_len(self, index: int) -> int:
        """Plaintext bytes of block `index`: all but the last are full."""
        return min(self.block_size, self.length - index * self.block_size)


@dataclass(frozen=True, repr=False)
class StoredFile:
    """A regular file whose header is authentic."""

    fd: int
    file_id: bytes
    file_key: bytes
    shape: Shape
    body: bytes

    def data(self) -> Iterator[tuple[int, bytes]]:
        """Offset and plaintext of all that is no hole, in order, each piece authentic."""
        if not self.shape.inline:
            yield from self._below(self.shape.levels, 0, self.body)
        elif self.body:
            yield 0, self.body

    def _below(self, level: int, first: int, entries: bytes) -> Iterator[tuple[int, bytes]]:
        """Data under 128 entries, of which the first is of block `first` or, above level 0, of
        node `first` of the level below `level`."""
        reach = FANOUT**level
        for at in range(FANOUT):
            index = first + at
            if index * reach >= self.shape.blocks:
                return
            entry = entries[at * ENTRY_LEN : (at + 1) * ENTRY_LEN]
            if entry == HOLE:
                continue
            if level == 0:
                yield index * self.shape.block_size, self._open_block(index, entry)
            else:
                node = self._open_node(level - 1, index, entry)
                yield from self._below(level - 1, FANOUT * index, node)

    def _open_block(self, index: int, entry: bytes) -> bytes:
        offset, size = self.shape.block_offset(index), self.shape.block_len(index)
        aad = bytes([AAD_BLOCK]) + bytes(7) + u64(index)
        return self._open(f"block {index}", offset, size, entry, aad)

    def _open_node(self, level: int, index: int, entry: bytes) -> bytes:
        offset = self.shape.node_offset(level, index)
        aad = bytes([AAD_NODE, level]) + bytes(6) + u64(index)
        return self._open(f"node {level},{index}", offset, NODE_LEN, entry, aad)

    def _open(self, what: str, offset: int, size: int, entry: bytes, aad: bytes) -> bytes:
        ciphertext = read_at(self.fd, offset, size)
        if len(ciphertext) != size:
            raise Broken(f"{what} at {offset} ends after {len(ciphertext)} of {size} bytes")
        try:
            return siv_open(
                self.file_key, entry[:NONCE_LEN], entry[NONCE_LEN:], ciphertext, aad
            )
        except Broken as broken:
            raise Broken(f"{what} at {offset}: {broken}") from broken


def open_header(keyring: Keyring, fd: int) -> StoredFile:
    """Checks everything that section 6.4 names, up to and without nodes and blocks."""
    prefix = read_at(fd, 0, PREFIX_LEN)
    block_size, payload_len = _check_prefix(prefix)
    epoch, file_id = prefix[16:20], prefix[20:36]
    kek = keyring.derive(number(epoch), FILE_KEYS)
    try:
        file_key = unwrap_key(kek, prefix[36:96], keyring.volume_id + epoch + file_id)
    except Broken as broken:
        raise Broken(f"file key: {broken}") from broken
    ciphertext = read_at(fd, PREFIX_LEN, payload_len)
    if len(ciphertext) != payload_len:
        raise Broken(f"{len(ciphertext)} bytes of payload, not {payload_len}")
    aad = keyring.volume_id + prefix[0:96]
    payload = siv_open(file_key, prefix[96:108], prefix[108:124], ciphertext, aad)
    shape = Shape(number(payload[8:16]), block_size)
    if shape.length > FANOUT**HEIGHT_MAX * block_size:
        raise Broken(f"length {shape.length} is out of reach with blocks of {block_size}")
    if payload_len != shape.payload_len:
        raise Broken(f"payload of {payload_len} bytes; the length wants {shape.payload_len}")
    lower_size = os.fstat(fd).st_size
    if lower_size < shape.stored_len:
        raise Broken(f"cut: {lower_size} bytes, not {shape.stored_len}")
    return StoredFile(fd, file_id, file_key, shape, payload[PAYLOAD_HEAD_LEN:])


def _check_prefix(prefix: bytes) -> tuple[int, int]:
    """Block size and `payload_len` that the prefix claims."""
    if len(prefix) < PREFIX_LEN:
        raise Broken(f"{len(prefix)} bytes are no header")
    if prefix[0:8] != MAGIC:
        raise Broken(f"not a stored file: it begins with {prefix[0:8].hex(' ')}")
    if number(prefix[8:10]) != VERSION:
        raise Broken(f"version {number(prefix[8:10])}; this reader reads {VERSION}")
    if prefix[10] not in BLOCK_LOG2_RANGE:
        raise Broken(f"block_log2 is {prefix[10]}, not 12 to 16")
    if prefix[11] != 0 or prefix[14:16] != bytes(2):
        raise Broken("reserved bytes 11, 14 and 15 are not zeros")
    payload_len = number(prefix[12:14])
    if payload_len not in PAYLOAD_LEN_RANGE:
        raise Broken(f"payload_len is {payload_len}, not 16 to 3972")
    return 1 << prefix[10], payload_len
