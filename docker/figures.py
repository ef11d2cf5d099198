"""The table at the end of the first job: `figures.py WORK STORE`, WORK holding what was printed.

Fails if the job did not come to the same model on cmkfs as on a plain directory, or if cmkfs was
asked for fewer bytes than the epochs read: the rest came from the kernel's cache, and was not
decrypted again.
"""

import json
import os
import sys


def line_of(path, head):
    """The JSON after `head` in the last line of `path` that begins with it."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(head)]
    if not lines:
        sys.exit(f"figures: no line {head!r} in {path}")
    return json.loads(lines[-1].removeprefix(head))


def counters(path):
    """What cmkfs says that the volume did: the numbers below the last head of such a block."""
    head = "cmkfs: figures of the volume\n"
    with open(path, encoding="utf-8", errors="replace") as file:
        _, found, block = file.read().rpartition(head)
    if not found:
        sys.exit(f"figures: no line {head.strip()!r} in {path}")
    numbers = {}
    for line in block.splitlines():
        if not line.startswith("  "):
            break
        name, value, *_ = line.split()
        numbers[name] = float(value)
    for name in ("read_bytes", "blocks_opened"):
        if name not in numbers:
            sys.exit(f"figures: cmkfs does not tell {name} in {path}")
    return numbers


def allocated(top):
    """Bytes that the files below `top` take up on the disk."""
    total = 0
    for folder, _, names in os.walk(top):
        total += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
    return total


def main():
    """Prints the table."""
    work, store = sys.argv[1:]
    sealed = line_of(os.path.join(work, "job.cmkfs"), "job: ")
    plain = line_of(os.path.join(work, "job.plain"), "job: ")
    volume = counters(os.path.join(work, "cmkfs.stderr"))
    control = line_of(os.path.join(work, "search.control"), "control: ")
    found = line_of(os.path.join(work, "search.store"), "store: ")
    on_disk = allocated(store)
    rows = [
        ("", "plain directory", "cmkfs"),
        ("files in the channel", plain["files"], sealed["files"]),
        ("MB in the channel", plain["mb"], sealed["mb"]),
        ("epochs", plain["epochs"], sealed["epochs"]),
        ("MB read by the epochs", plain["read_mb"], sealed["read_mb"]),
        ("MB asked of cmkfs", "", round(volume["read_bytes"] / 1e6, 1)),
        ("blocks decrypted", "", int(volume["blocks_opened"])),
        ("MB/s of these reads", plain["read_mb_per_s"], sealed["read_mb_per_s"]),
        ("seconds, whole job", plain["seconds"], sealed["seconds"]),
        ("model, SHA-256", plain["model_sha256"][:16], sealed["model_sha256"][:16]),
        ("files searched", control["files"], found["files"]),
        ("MB searched", control["mb"], found["mb"]),
        ("MB on the disk", "", round(on_disk / 1e6, 1)),
        ("packs to, percent", control["packed_percent"], found["packed_percent"]),
        ("plaintext found, hits", control["hits"], found["hits"]),
    ]
    for name, *values in rows:
        print(f"{name:24}" + "".join(f"{value!s:>18}" for value in values))
    asked, wanted = int(volume["read_bytes"]), sealed["epochs"] * sealed["bytes"]
    if asked < wanted:
        sys.exit(
            f"figures: cmkfs was asked for {asked} bytes, wanted at least {wanted}: "
            f"{sealed['epochs']} epochs of {sealed['bytes']} bytes; the others came from the "
            "kernel's cache and were not decrypted again"
        )
    if sealed["model_sha256"] != plain["model_sha256"]:
        sys.exit("figures: the models differ: the job did not read the same data through cmkfs")


if __name__ == "__main__":
    main()
