#!/usr/bin/env python3
"""Lists, prints and checks a volume of cmkfs without cmkfs, by a key file of 32 bytes.

    cmkfs_reader.py list  STORE --key-file FILE          one JSON object a line for each object
    cmkfs_reader.py cat   STORE PATH --key-file FILE     the content of one file
    cmkfs_reader.py check STORE --key-file FILE          reads all; says only what is wrong

What is refused goes to standard error, a line each with its path in the store, and the exit code
is then 1. The volume must not be mounted for writing. Python 3.11 and the package `cryptography`
with AES-GCM-SIV are needed.
"""

import argparse
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator

sys.dont_write_bytecode = True

from stored.content import StoredFile  # noqa: E402  (the setting above must come first)
from stored.refusal import Refused, escape, told_of  # noqa: E402
from stored.volume import Found, Volume, open_at  # noqa: E402

# Longer files are told by their extents alone: hashing the holes of terabytes would take hours.
WHOLE_HASH_MAX = 64 << 20
ZEROS = bytes(1 << 20)


def main() -> int:
    """Runs one command; the exit code."""
    arguments = _parser().parse_args()
    try:
        with open_at(arguments.store, arguments.key_file) as volume:
            if arguments.command == "cat":
                _cat(volume, os.fsencode(arguments.path))
            else:
                _read_all(volume, told=arguments.command == "list")
            refused = volume.refused
    except Refused as refusal:
        refused = [refusal]
    for refusal in refused:
        print(f"refused: {refusal}", file=sys.stderr)
    return 1 if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "cat", "check"):
        command = commands.add_parser(name)
        command.add_argument("store")
        if name == "cat":
            command.add_argument("path", help="plaintext path, without a leading slash")
        command.add_argument("--key-file", required=True, help="the 32 bytes of a file slot")
    return parser


def _read_all(volume: Volume, told: bool) -> None:
    first_paths: dict[tuple[int, int], bytes] = {}
    for found in volume.walk():
        try:
            with told_of(found.stored_path):
                record = _record(found, first_paths)
        except Refused as refusal:
            volume.refused.append(refusal)
            continue
        if told:
            print(json.dumps(record))


def _record(found: Found, first_paths: dict[tuple[int, int], bytes]) -> dict[str, object]:
    """What is told of one object. `same_as` is the first path that led to the same object."""
    status = found.status
    record: dict[str, object] = {
        "path": escape(found.path),
        "stored": escape(found.stored_path),
        "kind": found.kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {escape(name): escape(value) for name, value in found.attributes.items()},
    }
    if found.kind != "directory":
        record["nlink"] = status.st_nlink
        first = first_paths.setdefault((status.st_dev, status.st_ino), found.path)
        if first != found.path:
            record["same_as"] = escape(first)
    if found.target is not None:
        record["target"] = escape(found.target)
    if found.content is not None:
        record |= _content_record(found.content)
    return record


def _content_record(content: StoredFile) -> dict[str, object]:
    """Length and block size; the hash of all if that is not too long; the runs of data."""
    length = content.shape.length
    record: dict[str, object] = {"size": length, "block_size": content.shape.block_size}
    if length <= WHOLE_HASH_MAX:
        digest = hashlib.sha256()
        for piece in _whole(content):
            digest.update(piece)
        record["sha256"] = digest.hexdigest()
    else:
        record["extents"] = [list(extent) for extent in _extents(content)]
    return record


def _whole(content: StoredFile) -> Iterator[bytes]:
    """All of the file, zeros in its holes."""
    at = 0
    for offset, piece in content.data():
        yield from _zeros(offset - at)
        yield piece
        at = offset + len(piece)
    yield from _zeros(content.shape.length - at)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield ZEROS[:count]
        count -= min(count, len(ZEROS))


def _extents(content: StoredFile) -> Iterator[tuple[int, int, str]]:
    """Offset, length and SHA-256 of each run of data between holes."""
    begin, end, digest = 0, 0, hashlib.sha256()
    for offset, piece in content.data():
        if offset != end:
            if end > begin:
                yield begin, end - begin, digest.hexdigest()
            begin, digest = offset, hashlib.sha256()
        digest.update(piece)
        end = offset + len(piece)
    if end > begin:
        yield begin, end - begin, digest.hexdigest()


def _cat(volume: Volume, path: bytes) -> None:
    with volume.file_at(path) as content:
        for piece in _whole(content):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
