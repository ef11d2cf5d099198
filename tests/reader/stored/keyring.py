"""Section 3: the keys of one volume, by epoch, and envelopes (section 7) which name theirs."""

from dataclasses import dataclass

from stored.refusal import Broken
from stored.seal import NONCE_LEN, TAG_LEN, hkdf, number, siv_open

FILE_KEYS = b"cmkfs v1 file keys"
DIRECTORIES = b"cmkfs v1 directories"
NAMES = b"cmkfs v1 names"
LINKS = b"cmkfs v1 links"
ATTRIBUTES = b"cmkfs v1 attributes"
ATTRIBUTE_NAMES = b"cmkfs v1 attribute names"

ENVELOPE_HEAD_LEN = 4 + NONCE_LEN + TAG_LEN


@dataclass(frozen=True, repr=False)
class Keyring:
    """An authentic volume: its id, the id of its root directory and its epoch keys."""

    volume_id: bytes
    root_id: bytes
    epochs: dict[int, bytes]

    def derive(self, epoch: int, label: bytes) -> bytes:
        """The key of `label` below the key of `epoch`."""
        if epoch not in self.epochs:
            raise Broken(f"sealed in epoch {epoch}; the volume has {sorted(self.epochs)}")
        return hkdf(self.epochs[epoch], label)

    def directory_names(self, epoch: int, dir_id: bytes) -> bytes:
        """The key of the names in one directory: the one derivation of two steps."""
        return hkdf(self.derive(epoch, NAMES), b"", dir_id)

    def attribute_name_key(self) -> bytes:
        """The key of stored attribute names, of epoch 1 for good."""
        return self.derive(1, ATTRIBUTE_NAMES)

    def open_envelope(self, label: bytes, envelope: bytes, aad: bytes) -> bytes:
        """The plaintext, at least one byte, of an envelope under the key of `label`."""
        if len(envelope) <= ENVELOPE_HEAD_LEN:
            raise Broken(f"{len(envelope)} bytes are too few for anything sealed")
        key = self.derive(number(envelope[:4]), label)
        nonce, tag = envelope[4 : 4 + NONCE_LEN], envelope[4 + NONCE_LEN : ENVELOPE_HEAD_LEN]
        return siv_open(key, nonce, tag, envelope[ENVELOPE_HEAD_LEN:], aad)
