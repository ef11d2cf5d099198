"""A wheel, put where an index of PEP 503 has it, by hand and without any tool.

wheel.py INDEX
"""

import base64
import hashlib
import os
import sys
import zipfile

CODE = '''import sys
from importlib import resources


def main():
    table = resources.files("greeter").joinpath("data/table.bin").read_bytes()
    assert table == bytes(range(256)) * 2000
    print("greetings from", sys.prefix)
'''
METADATA = "Metadata-Version: 2.1\nName: greeter\nVersion: 1.2.3\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def record(files):
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(content)}\n")
    return "".join(lines) + "greeter-1.2.3.dist-info/RECORD,,\n"


def main(index):
    info = "greeter-1.2.3.dist-info"
    files = {
        "greeter/__init__.py": CODE.encode(),
        "greeter/data/table.bin": bytes(range(256)) * 2000,
        f"{info}/METADATA": METADATA.encode(),
        f"{info}/WHEEL": WHEEL.encode(),
        f"{info}/entry_points.txt": b"[console_scripts]\ngreet = greeter:main\n",
    }
    for number in range(60):
        files[f"greeter/part{number}.py"] = f"VALUE = {number}\n".encode() * (number + 1)
    files[f"{info}/RECORD"] = record(files).encode()
    os.makedirs(f"{index}/simple/greeter")
    name = "greeter-1.2.3-py3-none-any.whl"
    path = f"{index}/simple/greeter/{name}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with open(f"{index}/simple/greeter/index.html", "w") as page:
        page.write(f'<!DOCTYPE html><a href="{name}#sha256={digest}">{name}</a>')
    with open(f"{index}/simple/index.html", "w") as page:
        page.write('<!DOCTYPE html><a href="greeter/">greeter</a>')


if __name__ == "__main__":
    main(sys.argv[1])
