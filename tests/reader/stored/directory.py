"""Sections 4 and 5: markers of directories, and names of what lies in them."""

import hashlib
import hmac
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from stored.keyring import DIRECTORIES, Keyring
from stored.lower import LowerDir, read_small
from stored.refusal import Broken, Refused, told_of
from stored.seal import (
    NONCE_LEN,
    TAG_LEN,
    base64url,
    hmac_sha256,
    number,
    siv_open,
    siv_seal,
    strict_base64url,
)

MARKER_NAME = b"dir.cmkfs"
MARKER_LEN = 48
MARKER_MAGIC = b"cmkdir\n\0"
MARKER_VERSION = 1
MARKER_LINK = b"cmkdir1."
MARKER_LINK_LEN = 56

NAME_MAX = 255
NAME_STEP = 16
LOWER_NAME_MAX = 255
SEALED_MAX = 272
LONG = b".long"
SIDECAR = b".name"
TEMPORARY = b".temp"


@dataclass(frozen=True, repr=False)
class Directory:
    """A directory whose marker is authentic: what is needed to read the names in it."""

    lower: LowerDir
    dir_id: bytes
    names_key: bytes


def open_marker(keyring: Keyring, lower: LowerDir) -> Directory:
    """Reads and checks the marker of `lower`."""
    marker = _read_marker(lower)
    with told_of(lower.path_of(MARKER_NAME)):
        if len(marker) != MARKER_LEN:
            raise Broken(f"{len(marker)} bytes, not {MARKER_LEN}")
        if marker[0:8] != MARKER_MAGIC:
            raise Broken(f"not a marker: it begins with {marker[0:8].hex(' ')}")
        if number(marker[8:10]) != MARKER_VERSION:
            raise Broken(f"version {number(marker[8:10])}; this reader reads {MARKER_VERSION}")
        if marker[10:12] != bytes(2):
            raise Broken("reserved bytes 10 to 11 are not zeros")
        epoch, dir_id, tag = number(marker[12:16]), marker[16:32], marker[32:48]
        key = keyring.derive(epoch, DIRECTORIES)
        wanted = hmac_sha256(key, keyring.volume_id + marker[0:32])[:TAG_LEN]
        if not hmac.compare_digest(tag, wanted):
            raise Broken("the tag is wrong: changed, or of another volume")
        return Directory(lower, dir_id, keyring.directory_names(epoch, dir_id))


def _read_marker(lower: LowerDir) -> bytes:
    """The bytes of the marker: what its link stands for, or what its file has."""
    if not stat.S_ISLNK(lower.stat(MARKER_NAME).st_mode):
        return read_small(lower, MARKER_NAME, MARKER_LEN)
    text = lower.readlink(MARKER_NAME)
    with told_of(lower.path_of(MARKER_NAME)):
        if not text.startswith(MARKER_LINK) or len(text) != MARKER_LINK_LEN:
            raise Broken("a link that is no marker")
        fields = strict_base64url(text.removeprefix(MARKER_LINK))
        if fields is None:
            raise Broken("a marker that is not base64url")
        return MARKER_MAGIC + MARKER_VERSION.to_bytes(2, "little") + bytes(2) + fields


def listed(directory: Directory, refused: list[Refused]) -> Iterator[tuple[bytes, bytes]]:
    """Each object's plaintext name and lower name; appends to `refused` what is left out."""
    names = []
    for lower_name in directory.lower.entries():
        if lower_name == MARKER_NAME or lower_name.endswith((SIDECAR, TEMPORARY)):
            continue
        try:
            names.append((open_name(directory, lower_name), lower_name))
        except Refused as refusal:
            refused.append(refusal)
    yield from sorted(names)


def open_name(directory: Directory, lower_name: bytes) -> bytes:
    """The plaintext name of the object at `lower_name`."""
    with told_of(directory.lower.path_of(lower_name)):
        if lower_name.endswith(LONG):
            sealed = _read_sidecar(directory, lower_name)
        else:
            plain_form = strict_base64url(lower_name)
            if plain_form is None:
                raise Broken("not ours: no name that cmkfs gives")
            sealed = plain_form
        if len(sealed) > SEALED_MAX or len(sealed) % NAME_STEP or len(sealed) <= TAG_LEN:
            raise Broken(f"{len(sealed)} bytes are no sealed name")
        tag, ciphertext = sealed[:TAG_LEN], sealed[TAG_LEN:]
        key, dir_id = directory.names_key, directory.dir_id
        padded = siv_open(key, bytes(NONCE_LEN), tag, ciphertext, dir_id)
        name = padded.rstrip(b"\0")
        check_name(name)
        if len(_pad(name)) != len(padded):
            raise Broken("more zeros behind the name than it needs")
        if lower_form(sealed) != lower_name:
            raise Broken(f"the name belongs at {lower_form(sealed).decode()}")
        return name


def seal_name(directory: Directory, name: bytes) -> bytes:
    """The sealed name of `name` in this directory; `lower_form` makes the lower name of it."""
    check_name(name)
    return siv_seal(directory.names_key, bytes(NONCE_LEN), _pad(name), directory.dir_id)


def lower_form(sealed: bytes) -> bytes:
    """The lower name of an object with this sealed name."""
    direct = base64url(sealed)
    if len(direct) <= LOWER_NAME_MAX:
        return direct
    return base64url(hashlib.sha256(sealed).digest()) + LONG


def check_name(name: bytes) -> None:
    """Refuses what no directory entry can be called."""
    if not 1 <= len(name) <= NAME_MAX or name in (b".", b"..") or set(name) & set(b"\0/"):
        raise Broken("not a name: empty, too long, . or .., or with a zero or a slash in it")


def _pad(name: bytes) -> bytes:
    return name + bytes(-len(name) % NAME_STEP)


def _read_sidecar(directory: Directory, lower_name: bytes) -> bytes:
    sidecar = lower_name.removesuffix(LONG) + SIDECAR
    return read_small(directory.lower, sidecar, SEALED_MAX)
