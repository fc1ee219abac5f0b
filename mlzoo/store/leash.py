"""``python -m mlzoo.store.leash MODULE [ARGUMENT...]``: runs a module as a program that dies with its parent.

The parent holds the other end of the program's stdin. It ends when the parent does, however that happens and on every
operating system; then this process leaves at once. Whatever the module was writing must be worthless until it is whole.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def main() -> None:
    """Run the module that the arguments name."""
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _leave_with_the_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
