"""Section 8: extended attributes."""

from stored.keyring import ATTRIBUTES, Keyring
from stored.refusal import Broken, Refused, escape
from stored.seal import base64url, hmac_sha256

KIND_FILE = 1
KIND_DIRECTORY = 2
KIND_OTHER = 3
NO_ID = bytes(16)

PLAIN = (b"system.posix_acl_access", b"system.posix_acl_default")
# Lower prefix, and the prefixes of the plaintext names that lie below it.
PREFIXES = {
    b"user.cmkfs.": (b"user.",),
    b"trusted.cmkfs.": (b"trusted.", b"security."),
}


def read_attributes(
    keyring: Keyring,
    path: bytes,
    lower: dict[bytes, bytes],
    kind: int,
    identity: bytes,
    refused: list[Refused],
) -> dict[bytes, bytes]:
    """Names and values of the attributes of the object at `path`, by its lower attributes."""
    attributes = {}
    for lower_name, stored in lower.items():
        if lower_name in PLAIN:
            attributes[lower_name] = stored
        elif lower_name.startswith(tuple(PREFIXES)):
            try:
                name, value = _open(keyring, lower_name, stored, bytes([kind]) + identity)
                attributes[name] = value
            except Broken as broken:
                refused.append(Refused(path, f"attribute {escape(lower_name)}: {broken}"))
    return attributes


def lower_form(keyring: Keyring, name: bytes) -> bytes:
    """The lower name of the attribute `name`."""
    digest = hmac_sha256(keyring.attribute_name_key(), keyring.volume_id + name)
    for prefix, above in PREFIXES.items():
        if name.startswith(above):
            return prefix + base64url(digest)
    raise Broken(f"{escape(name)} is no attribute that is stored")


def _open(keyring: Keyring, lower_name: bytes, stored: bytes, owner: bytes) -> tuple[bytes, bytes]:
    stored_name = lower_name.split(b".", 2)[2]
    aad = keyring.volume_id + owner + stored_name
    plaintext = keyring.open_envelope(ATTRIBUTES, stored, aad)
    name_len = plaintext[0]
    if name_len == 0 or 1 + name_len > len(plaintext):
        raise Broken(f"a name of {name_len} bytes in {len(plaintext)} bytes of plaintext")
    name, value = plaintext[1 : 1 + name_len], plaintext[1 + name_len :]
    if lower_form(keyring, name) != lower_name:
        raise Broken(f"{escape(name)} belongs at {lower_form(keyring, name).decode()}")
    return name, value
