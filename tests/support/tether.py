"""Run a program that cannot outlive whoever started it: python tether.py PARENT_PID SIGNAL UID PROGRAM ARGUMENT...

The kernel sends SIGNAL when the thread that started this process ends, in whatever way (PR_SET_PDEATHSIG), so not even
a killed test run leaves a server behind. UID -1 means: stay who you are. Imports nothing of the project.
"""

import contextlib
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signal: int, parent: int | None = None) -> None:
    """Have the kernel send this process `signal` when the thread that started it ends; end now if it has already.

    `parent` is the process it was started by; where that is not known, it is believed to be the present one.
    """
    parent = parent or os.getppid()
    with contextlib.suppress(AttributeError):  # no prctl but on Linux: there, a clean end alone stops the servers
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above


def main() -> None:
    parent, signal, uid = (int(argument) for argument in sys.argv[1:4])
    if uid >= 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)  # before prctl: changing the user clears the death signal
    die_with_parent(signal, parent)
    os.execvp(sys.argv[4], sys.argv[4:])


if __name__ == "__main__":
    main()
