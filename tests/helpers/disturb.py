"""Runs a Python program, and ends it before one of its calls that change a disk, or has that call
fail.

    disturb.py kill|fail N PROGRAM ARGUMENT...

N counts the calls from 1; `fail` counts those of link(2) only.
"""

import errno
import os
import runpy
import signal
import sys

CALLS = ["fsync", "ftruncate", "link", "mkdir", "mknod", "rename", "rmdir", "symlink", "unlink"]


def main():
    how, wanted, program = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sys.argv = sys.argv[3:]
    count = 0

    def disturbed(real):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if count == wanted and how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if count == wanted:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **named)

        return call

    for name in CALLS if how == "kill" else ["link"]:
        setattr(os, name, disturbed(getattr(os, name)))
    runpy.run_path(program, run_name="__main__")


main()
