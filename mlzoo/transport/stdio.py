"""Take stdin and stdout for the protocol, before anything else can print to them or read from them.

Knows nothing of what is said over them. It imports next to nothing, since a process calls it first of all: whatever a
library, a C extension or a child process prints afterwards goes to stderr, and whatever they read is empty.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple


class ClaimedStdio(NamedTuple):
    """Private copies of the process's stdin and stdout, flags as the parent gave them; no child inherits them."""

    stdin_fd: int
    stdout_fd: int


def claim() -> ClaimedStdio:
    """Copy fds 0 and 1 to private ones, then point fd 0 at the null device and fd 1 at stderr.

    Flags of the file descriptions are not touched: they are shared with the parent, which may be a terminal's shell.
    A standard fd that is closed at the start counts as the null device. Call it once, first, in the main thread.
    """
    _open_the_closed()
    stdin_fd, stdout_fd = os.dup(0), os.dup(1)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_fd, 0)
    os.close(null_fd)
    os.dup2(2, 1)
    if sys.platform == "win32":
        # Otherwise the C runtime makes \r\n of each \n, and takes ctrl-Z for the end.
        import msvcrt  # noqa: PLC0415 (exists on Windows only)

        msvcrt.setmode(stdin_fd, os.O_BINARY)
        msvcrt.setmode(stdout_fd, os.O_BINARY)
    if sys.stdout is not None:  # None where the process was started without it.
        sys.stdout.flush()  # What was printed before this call goes to stderr as well.
    # A console's text layer on Windows writes to a handle that it remembers: both are bound anew. The new reader
    # replaces one that lives as long as the process, hence no context manager.
    sys.stdout = sys.stderr
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (see above)
    return ClaimedStdio(stdin_fd, stdout_fd)


def _open_the_closed() -> None:
    """Put the null device wherever 0, 1 or 2 is closed; otherwise the next file opened would become one of them."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # The lowest free number, so it is fd: those below are open.
            os.set_inheritable(opened, True)
