"""One log, to which 64 processes append at the same time.

appended.py write PATH | appended.py check PATH
"""

import os
import sys
import zlib

WRITERS = 64
LINES = 150


def line(writer, number):
    """Of 30 to 3000 bytes; the sum tells a torn one."""
    text = f"{writer} {number} " + "x" * ((writer * 131 + number * 7919) % 2970)
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def append(path, writer, start):
    os.read(start, 1)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in range(LINES):
        data = line(writer, number)
        assert os.write(log, data) == len(data)
        if number % 50 == 49:
            os.close(log)
            log = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.close(log)


def write(path):
    start, starter = os.pipe()
    children = []
    for writer in range(WRITERS):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(starter)
                append(path, writer, start)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    # All begin when the last end of the pipe is closed.
    os.close(starter)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0] * WRITERS, codes


def check(path):
    with open(path, "rb") as log:
        lines = log.read().splitlines(keepends=True)
    assert len(lines) == WRITERS * LINES, len(lines)
    following = [0] * WRITERS
    for found in lines:
        writer = int(found.split(b" ", 1)[0])
        # Each writer's lines are whole, and in the order in which it wrote them.
        assert found == line(writer, following[writer]), found[:60]
        following[writer] += 1
    assert following == [LINES] * WRITERS, following


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](sys.argv[2])
