"""Ciphers and encodings of the conventions, and the sealed pieces that several sections share."""

import base64
import binascii
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from stored.refusal import Broken

KEY_LEN = 32
NONCE_LEN = 12
TAG_LEN = 16
WRAPPED_KEY_LEN = NONCE_LEN + TAG_LEN + KEY_LEN


def siv_open(key: bytes, nonce: bytes, tag: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """The plaintext, or `Broken`. The library wants the tag behind the ciphertext."""
    if not ciphertext:
        raise Broken("an empty ciphertext: nothing sealed is empty")
    try:
        return AESGCMSIV(key).decrypt(nonce, ciphertext + tag, aad)
    except InvalidTag as error:
        raise Broken("does not open: changed, or sealed for another place or volume") from error


def siv_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """`tag | ciphertext`."""
    sealed = AESGCMSIV(key).encrypt(nonce, plaintext, aad)
    return sealed[-TAG_LEN:] + sealed[:-TAG_LEN]


def unwrap_key(kek: bytes, wrapped: bytes, aad: bytes) -> bytes:
    """The key in a wrapped key of 60 bytes (section 2)."""
    if len(wrapped) != WRAPPED_KEY_LEN:
        raise Broken(f"a wrapped key of {len(wrapped)} bytes, not {WRAPPED_KEY_LEN}")
    nonce, rest = wrapped[:NONCE_LEN], wrapped[NONCE_LEN:]
    return siv_open(kek, nonce, rest[:TAG_LEN], rest[TAG_LEN:], aad)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.new(key, message, hashlib.sha256).digest()


def hkdf(parent: bytes, label: bytes, identity: bytes = b"") -> bytes:
    """HKDF-SHA256 without salt, its info being `label | identity`, 32 bytes out (section 3)."""
    pseudorandom_key = hmac_sha256(bytes(32), parent)
    return hmac_sha256(pseudorandom_key, label + identity + b"\x01")


def u32(value: int) -> bytes:
    """Four bytes, little-endian."""
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    """Eight bytes, little-endian."""
    return value.to_bytes(8, "little")


def number(field: bytes) -> int:
    """The little-endian number that fills `field`."""
    return int.from_bytes(field, "little")


def base64url(raw: bytes) -> bytes:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def strict_base64url(text: bytes) -> bytes | None:
    """The bytes whose one base64url this is; `None` for any other text."""
    try:
        raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    # The decoder skips foreign characters and ignores unused bits; the encoder does neither.
    return raw if raw and base64url(raw) == text else None


def strict_base64(text: str) -> bytes:
    """The bytes whose one padded base64 this is."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Broken("not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise Broken("not strict base64")
    return raw


def strict_hex(text: str, size: int) -> bytes:
    """The `size` bytes whose lowercase hexadecimal this is."""
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise Broken(f"not hexadecimal: {text!r}") from error
    if raw.hex() != text or len(raw) != size:
        raise Broken(f"not {size} bytes in lowercase hexadecimal: {text!r}")
    return raw
