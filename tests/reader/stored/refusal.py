"""Refusals: what is wrong, and with which stored object."""

from collections.abc import Iterator
from contextlib import contextmanager


class Refused(Exception):
    """A stored object that gives out nothing: its path in the store, and the reason."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"{escape(path)}: {why}")


class Broken(Exception):
    """What is wrong with some bytes, said where it is not known whose bytes they are."""


@contextmanager
def told_of(path: bytes) -> Iterator[None]:
    """Turns what fails inside into a refusal of the stored object at `path`."""
    try:
        yield
    except Broken as broken:
        raise Refused(path, str(broken)) from broken
    except OSError as error:
        raise Refused(path, error.strerror or str(error)) from error


def escape(raw: bytes) -> str:
    """`raw` as text: printable ASCII stands for itself, a backslash and all else as `\\xNN`."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw
    )
