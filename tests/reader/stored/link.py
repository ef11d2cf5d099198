"""Section 7: targets of symbolic links."""

import re

from stored.keyring import ENVELOPE_HEAD_LEN, LINKS, Keyring
from stored.lower import LowerDir, open_dir, read_small
from stored.refusal import Broken, told_of
from stored.seal import strict_base64url

TARGET_MAX = 4095
FAR = re.compile(rb"=([0-9a-f]{32})")


def read_target(keyring: Keyring, store: LowerDir, parent: LowerDir, name: bytes) -> bytes:
    """The plaintext target of the lower link `name` in `parent`."""
    lower_target = parent.readlink(name)
    with told_of(parent.path_of(name)):
        far = FAR.fullmatch(lower_target)
        envelope = None if far else strict_base64url(lower_target)
        if far is None and envelope is None:
            raise Broken("a lower target that is neither base64url nor a name in links/")
    if far:
        with open_dir(store, b"links") as links:
            envelope = read_small(links, far[1], ENVELOPE_HEAD_LEN + TARGET_MAX)
    with told_of(parent.path_of(name)):
        assert envelope is not None
        target = keyring.open_envelope(LINKS, envelope, keyring.volume_id)
        if not 1 <= len(target) <= TARGET_MAX or b"\0" in target:
            raise Broken("no target of a link: too long, or with a zero byte")
        return target
