"""Section 2: `volume.json`, from bytes that claim anything to the keys of the volume."""

import hmac
import json
from typing import Any, NoReturn

from stored.keyring import Keyring
from stored.refusal import Broken
from stored.seal import (
    hkdf,
    hmac_sha256,
    strict_base64,
    strict_hex,
    u32,
    unwrap_key,
)

SIZE_MAX = 1048576
VERSION = 1
ID_LEN = 16
MAC_LEN = 32
BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)
KEY_FILE_PROVIDERS = ("local", "file")
KNOWN_FEATURES: frozenset[str] = frozenset()

VOLUME_FIELDS = {
    "format": str,
    "version": int,
    "volume_id": str,
    "created_unix_s": int,
    "block_size": int,
    "root_id": str,
    "context": dict,
    "slots": list,
    "epochs": list,
    "features": dict,
    "mac": str,
}
SLOT_FIELDS = {"id": int, "provider": str, "key": str, "wrapped": str}
EPOCH_FIELDS = {"epoch": int, "wrapped": str}
FEATURE_FIELDS = {"required": list, "optional": list}


def open_volume(stored: bytes, key_file: bytes) -> Keyring:
    """The keys of the volume that `stored` describes, by a slot that `key_file` opens."""
    volume = _parse(stored)
    if volume.get("format") != "cmkfs":
        raise Broken(f"format is {volume.get('format')!r}, not 'cmkfs'")
    if type(volume.get("version")) is not int or volume["version"] != VERSION:
        raise Broken(f"version is {volume.get('version')!r}; this reader reads {VERSION}")
    _check_features(volume)
    _check_fields(volume)
    volume_key = _open_slot(volume, key_file)
    wanted = hmac_sha256(hkdf(volume_key, b"cmkfs v1 descriptor"), _mac_input(volume))
    if not hmac.compare_digest(wanted, strict_base64(volume["mac"])):
        raise Broken("the mac is wrong: changed since a holder of the key wrote it")
    volume_id = strict_hex(volume["volume_id"], ID_LEN)
    epochs = _open_epochs(volume["epochs"], volume_key, volume_id)
    return Keyring(volume_id, strict_hex(volume["root_id"], ID_LEN), epochs)


def canonical(value: Any) -> bytes:
    """The one form of JSON that a mac and an encryption context are computed over."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _parse(stored: bytes) -> dict[str, Any]:
    if len(stored) > SIZE_MAX:
        raise Broken(f"longer than {SIZE_MAX} bytes")

    def refuse(token: str) -> NoReturn:
        raise Broken(f"a number of another form: {token}")

    def whole(token: str) -> int:
        return refuse(token) if token.startswith("-") else int(token)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise Broken(f"a field twice among {[name for name, _ in pairs]}")
        return dict(pairs)

    try:
        volume = json.loads(
            stored.decode("utf-8", "strict"),
            parse_int=whole,
            parse_float=refuse,
            parse_constant=refuse,
            object_pairs_hook=once,
        )
        canonical(volume)  # A lone surrogate, written \uD800, has no UTF-8.
    except (ValueError, RecursionError) as error:
        raise Broken(f"not JSON in UTF-8: {error}") from error
    if not isinstance(volume, dict):
        raise Broken("not a JSON object")
    return volume


def _check_features(volume: dict[str, Any]) -> None:
    features = volume.get("features")
    _check_object("features", features, FEATURE_FIELDS)
    for kind in FEATURE_FIELDS:
        if any(type(name) is not str for name in features[kind]):
            raise Broken(f"features.{kind} holds something else than strings")
    unknown = set(features["required"]) - KNOWN_FEATURES
    if unknown:
        raise Broken(f"requires features that this reader does not know: {sorted(unknown)}")


def _check_object(where: str, value: Any, fields: dict[str, type]) -> None:
    """Refuses all but an object of exactly these fields, with values of these types."""
    if type(value) is not dict:
        raise Broken(f"{where} is not an object")
    if value.keys() != fields.keys():
        missing, unknown = fields.keys() - value.keys(), value.keys() - fields.keys()
        raise Broken(f"{where}: missing {sorted(missing)}, not known {sorted(unknown)}")
    for name, kind in fields.items():
        if type(value[name]) is not kind:
            raise Broken(f"{where}: {name} is not of type {kind.__name__}")


def _check_range(where: str, value: int, least: int, bits: int) -> None:
    if not least <= value < 1 << bits:
        raise Broken(f"{where} is {value}, not {least} to 2^{bits} - 1")


def _check_fields(volume: dict[str, Any]) -> None:
    _check_object("volume", volume, VOLUME_FIELDS)
    strict_hex(volume["volume_id"], ID_LEN)
    strict_hex(volume["root_id"], ID_LEN)
    _check_range("created_unix_s", volume["created_unix_s"], 0, 64)
    if volume["block_size"] not in BLOCK_SIZES:
        raise Broken(f"block_size is {volume['block_size']}, not one of {BLOCK_SIZES}")
    if any(type(value) is not str for value in volume["context"].values()):
        raise Broken("context holds something else than strings")
    if len(strict_base64(volume["mac"])) != MAC_LEN:
        raise Broken(f"mac is not of {MAC_LEN} bytes")
    for slot in volume["slots"]:
        _check_object("slot", slot, SLOT_FIELDS)
        _check_range("slot id", slot["id"], 0, 32)
    for epoch in volume["epochs"]:
        _check_object("epoch", epoch, EPOCH_FIELDS)
        _check_range("epoch", epoch["epoch"], 1, 32)
        strict_base64(epoch["wrapped"])
    numbers = [epoch["epoch"] for epoch in volume["epochs"]]
    if 1 not in numbers or len(set(numbers)) != len(numbers):
        raise Broken(f"epochs are {numbers}: no epoch 1, or one of them twice")


def _open_slot(volume: dict[str, Any], key_file: bytes) -> bytes:
    """The volume key from the first slot that the key file opens; other slots are passed over."""
    context = {**volume["context"], "cmkfs:volume-id": volume["volume_id"]}
    for slot in volume["slots"]:
        if slot["provider"] in KEY_FILE_PROVIDERS:
            try:
                return unwrap_key(key_file, strict_base64(slot["wrapped"]), canonical(context))
            except Broken:
                continue
    raise Broken(f"none of {len(volume['slots'])} slots opens with this key file")


def _mac_input(volume: dict[str, Any]) -> bytes:
    return canonical({name: value for name, value in volume.items() if name != "mac"})


def _open_epochs(
    epochs: list[dict[str, Any]], volume_key: bytes, volume_id: bytes
) -> dict[int, bytes]:
    kek = hkdf(volume_key, b"cmkfs v1 epoch keys")
    return {
        epoch["epoch"]: unwrap_key(
            kek, strict_base64(epoch["wrapped"]), volume_id + u32(epoch["epoch"])
        )
        for epoch in epochs
    }
