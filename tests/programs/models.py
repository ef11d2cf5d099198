"""How model files are cached, saved and loaded: by lock files, links, renames and mappings.

models.py cache DIR | models.py save DIR | models.py load DIR | models.py check DIR
"""

import fcntl
import hashlib
import io
import json
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

FILES = {"config.json": 700, "tokenizer.json": 90_000, "model.safetensors": 3_000_000}
REVISION = "0123456789abcdef0123456789abcdef01234567"
SAVES = 25


def content(name):
    return random.Random(name).randbytes(FILES[name])


def locked(path, call):
    """The file of a lock stays, as the Python package filelock has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    call(lock, fcntl.LOCK_EX)
    return lock


def download(cache, name, call):
    """One file into the cache, unless another process was faster. Whether it was this one."""
    model = f"{cache}/models--org--name"
    etag = hashlib.sha256(content(name)).hexdigest()
    blob, link = f"{model}/blobs/{etag}", f"{model}/snapshots/{REVISION}/{name}"
    for directory in (os.path.dirname(blob), os.path.dirname(link), f"{model}/refs"):
        os.makedirs(directory, exist_ok=True)
    os.makedirs(f"{cache}/.locks/models--org--name", exist_ok=True)
    lock = locked(f"{cache}/.locks/models--org--name/{etag}.lock", call)
    mine = not os.path.exists(blob)
    if mine:
        incomplete = f"{blob}.incomplete"
        with open(incomplete, "ab") as file:
            # Another one in here at the same time would append to the same file.
            assert file.tell() == 0
            for start in range(0, FILES[name], 100_000):
                file.write(content(name)[start : start + 100_000])
        shutil.move(incomplete, blob)
        os.symlink(os.path.relpath(blob, os.path.dirname(link)), link)
        with open(f"{model}/refs/main", "w") as file:
            file.write(REVISION)
    os.close(lock)
    return mine


def cached(cache):
    model = f"{cache}/models--org--name"
    with open(f"{model}/refs/main") as file:
        snapshot = f"{model}/snapshots/{file.read()}"
    assert sorted(os.listdir(snapshot)) == sorted(FILES)
    assert len(os.listdir(f"{model}/blobs")) == len(FILES)
    for name in FILES:
        assert os.readlink(f"{snapshot}/{name}").startswith("../../blobs/")
        with open(f"{snapshot}/{name}", "rb") as file:
            assert file.read() == content(name), name


def cache(top):
    """Eight processes want the same files: each is fetched once. By both kinds of lock."""
    for kind, call in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
        children = []
        for _ in range(8):
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    code = sum(download(f"{top}/{kind}", name, call) for name in FILES)
                finally:
                    os._exit(code)
            children.append(child)
        fetched = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sum(fetched) == len(FILES), fetched
        cached(f"{top}/{kind}")


def checkpoint(step):
    """As torch lays one out: an archive that is not compressed, with sums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/step", str(step))
        for part in range(3):
            data = random.Random(step * 10 + part).randbytes(400_000 + step * 1000)
            archive.writestr(f"archive/data/{part}", data)
    return buffer.getvalue()


def read_checkpoint(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        step = int(archive.read("archive/step"))
    with open(path, "rb") as file:
        assert len(file.read()) >= 3 * (400_000 + step * 1000)
    return step


def replace(path, data):
    """Written beside, synced, renamed over, and the directory synced."""
    directory = os.path.dirname(path)
    file, beside = tempfile.mkstemp(dir=directory)
    with os.fdopen(file, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def tensors(step):
    return {f"layer.{n}.weight": random.Random(f"{step} {n}").randbytes(250_001) for n in range(4)}


def safetensors(step):
    header, at = {"__metadata__": {"step": str(step)}}, 0
    for name, data in tensors(step).items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors(step).values())


def mapped_tensors(path):
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", mapped)
    return mapped, json.loads(mapped[8 : 8 + length]), 8 + length


def check_tensors(mapped, header, base):
    step = int(header["__metadata__"]["step"])
    for name, data in tensors(step).items():
        start, end = header[name]["data_offsets"]
        assert mapped[base + start : base + end] == data, (step, name)
    return step


def save(top):
    """Saves again and again, while another process loads."""
    replace(f"{top}/model.pt", checkpoint(0))
    replace(f"{top}/model.safetensors", safetensors(0))
    loader = subprocess.Popen([sys.executable, __file__, "load", top], stdout=subprocess.PIPE)
    # It has mapped the first one.
    assert loader.stdout.readline() == b"mapped\n"
    for step in range(1, SAVES + 1):
        replace(f"{top}/model.pt", checkpoint(step))
        replace(f"{top}/model.safetensors", safetensors(step))
    assert loader.wait() == 0
    assert sorted(os.listdir(top)) == ["model.pt", "model.safetensors"]


def load(top):
    """Whatever is opened is whole, not older than before, and stays what it was."""
    first = mapped_tensors(f"{top}/model.safetensors")
    print("mapped", flush=True)
    before, deadline = 0, time.monotonic() + 60
    while before < SAVES:
        assert time.monotonic() < deadline, before
        step = read_checkpoint(f"{top}/model.pt")
        assert step >= before, (step, before)
        before = step
        assert check_tensors(*mapped_tensors(f"{top}/model.safetensors")) <= SAVES
    assert check_tensors(*first) == 0


def check(top):
    for kind in ("flock", "fcntl"):
        cached(f"{top}/cache/{kind}")
    assert read_checkpoint(f"{top}/saved/model.pt") == SAVES
    assert check_tensors(*mapped_tensors(f"{top}/saved/model.safetensors")) == SAVES


if __name__ == "__main__":
    {"cache": cache, "save": save, "load": load, "check": check}[sys.argv[1]](sys.argv[2])
