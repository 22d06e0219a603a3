"""Become another program that cannot outlive its parent: `tether.py <parent pid>[:<open files>] <program> …`.

Runs on its own, before anything of ours is imported. A small program in between, and not code run between fork and
exec: the parent has threads, and a lock one of them held at the fork would never be released in the child.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_ENOUGH_FILES = 262_144


def main(arguments: list[str]) -> None:
    parent, _, open_files = arguments[0].partition(":")
    program = arguments[1:]
    end_with_parent(int(parent))
    allow_files(int(open_files or _ENOUGH_FILES))
    os.execvp(program[0], program)  # noqa: S606 - the supervisor gives the whole command


def end_with_parent(parent: int) -> None:
    """Linux sends SIGTERM when the parent dies, by whatever means; it stays set through exec."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the request was in place
        sys.exit("the supervisor is gone")


def allow_files(number: int) -> None:
    """Each client is an open file, and the usual soft limit is 1024. (Elsewhere than on Linux, the usual one stays.)"""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = number if hard == resource.RLIM_INFINITY else min(hard, number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
