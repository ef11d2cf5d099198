"""Names that are replaced by rename again and again, and are there at every moment all the same.

replaced.py DIR
"""

import os
import subprocess
import sys

REPLACEMENTS = 500


def replace_file(top, number):
    beside = f"{top}/file.new"
    with open(beside, "w") as file:
        file.write(f"{number} " * (1 + number % 5000))
    os.setxattr(beside, "user.number", str(number).encode())
    os.replace(beside, f"{top}/file")


def replace_link(top, number):
    os.symlink(f"target {number % 3}/.", f"{top}/link.new")
    os.replace(f"{top}/link.new", f"{top}/link")


def replace_dir(top, number):
    os.mkdir(f"{top}/dir.new")
    os.setxattr(f"{top}/dir.new", "user.number", b"%d" % number)
    os.rename(f"{top}/dir.new", f"{top}/dir")


def read_file(top):
    with open(f"{top}/file") as file:
        words = file.read().split()
    assert len(set(words)) == 1 and len(words) == 1 + int(words[0]) % 5000


def write_file(top):
    # For writing, so that it is not the open file of the readers that serves.
    os.close(os.open(f"{top}/file", os.O_RDWR))


def look(top):
    assert os.stat(f"{top}/file").st_size > 0
    os.utime(f"{top}/file", ns=(1, 1))
    os.chmod(f"{top}/file", 0o640)


def attribute(top):
    int(os.getxattr(f"{top}/file", "user.number"))
    assert "user.number" in os.listxattr(f"{top}/file")


def follow(top):
    assert os.readlink(f"{top}/link").startswith("target ")
    assert os.listdir(f"{top}/link") == ["inside"]
    assert os.lstat(f"{top}/link").st_size == len("target 0/.")


def list_dir(top):
    assert os.listdir(f"{top}/dir") == []
    assert os.stat(f"{top}/dir").st_mode & 0o777 == 0o755
    int(os.getxattr(f"{top}/dir", "user.number"))


READERS = (read_file, write_file, look, attribute, follow, list_dir)


def watch(top, name):
    reader = {reader.__name__: reader for reader in READERS}[name]
    print("watching", flush=True)
    rounds = 0
    while not os.path.exists(f"{top}/done"):
        reader(top)
        rounds += 1
    assert rounds > 10, rounds


def replace_all(top):
    os.umask(0o022)
    for target in range(3):
        os.makedirs(f"{top}/target {target}")
        os.close(os.open(f"{top}/target {target}/inside", os.O_CREAT))
    for replace in (replace_file, replace_link, replace_dir):
        replace(top, 0)
    command = [sys.executable, __file__, top]
    readers = [
        subprocess.Popen([*command, reader.__name__], stdout=subprocess.PIPE) for reader in READERS
    ]
    for reader in readers:
        assert reader.stdout.readline() == b"watching\n"
    for number in range(1, REPLACEMENTS):
        for replace in (replace_file, replace_link, replace_dir):
            replace(top, number)
    open(f"{top}/done", "w").close()
    codes = [reader.wait() for reader in readers]
    assert codes == [0] * len(readers), codes


if __name__ == "__main__":
    if len(sys.argv) == 2:
        replace_all(sys.argv[1])
    else:
        watch(*sys.argv[1:])
