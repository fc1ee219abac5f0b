"""The death of the process that spawned this one, also where a third one keeps our stdin open.

Asked of the kernel, and polled only where an old kernel or a sandbox does not offer that. Knows nothing of what follows
from it.
"""

from __future__ import annotations

import os
import select
import sys

import trio

POLL_S = 1.0


async def wait_for_end(pid: int) -> None:
    """Return once the process has ended; at once where there is none of that number."""
    if sys.platform == "linux":
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:
            while await trio.Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 (nobody here could set an event)
                await trio.sleep(POLL_S)
            return
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)
    elif sys.platform == "win32":
        import ctypes  # noqa: PLC0415 (on Windows only)

        synchronize = 0x00100000
        kernel = ctypes.windll.kernel32
        process = kernel.OpenProcess(synchronize, False, pid)
        if not process:
            return
        try:
            await trio.lowlevel.WaitForSingleObject(process)
        finally:
            kernel.CloseHandle(process)
    else:
        queue = trio.lowlevel.current_kqueue()
        with trio.lowlevel.monitor_kevent(pid, select.KQ_FILTER_PROC) as events:
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            try:
                queue.control([event], 0)
            except ProcessLookupError:
                return
            async for _ in events:
                return
