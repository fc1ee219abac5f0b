"""What a worker process sets before torch is imported: threads, waiting, offline, stdout, and its bond to the parent.

Knows operating systems; nothing of models or frames. A worker must not outlive its parent, however that dies: the
kernel kills it (Linux), or a thread sees the parent gone. The end of the socket says the same, see ``worker``.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time

PARENT_CHECK_S = 1.0
# Of GNU's OpenMP before a thread sleeps: a tenth of a millisecond, longer than between operations of a step and shorter
# than between two steps. Whoever is woken then, the sidecar above all, finds a processor that sleeps.
SPINS = "3000"
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
SYNCHRONIZE = 0x00100000  # Windows: the right to wait for a process
FOREVER_MS = 0xFFFFFFFF
TALKATIVE = ("torchao", "torch.utils._pytree")  # warn at each import of what concerns nobody who uses mlzoo


def prepare(parent_pid: int, threads: int, wait_policy: str) -> None:
    """Set the process up. Must run before torch is imported.

    Args:
        parent_pid: Of the process that this one must not outlive.
        threads: For torch; 0: one for each processor that this process may use.
        wait_policy: What OpenMP's threads do between two operations: passive sleeps, active spins, adaptive spins for
            a tenth of a millisecond, and there are fewer threads while a neighbour is busy (``neighbours``): spinning
            beside one made a decode step twelve times slower.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads or usable_processors())
    if wait_policy == "adaptive":
        os.environ.pop("OMP_WAIT_POLICY", None)
        os.environ["GOMP_SPINCOUNT"] = SPINS
        os.environ["KMP_BLOCKTIME"] = "1"  # milliseconds, for LLVM's and Intel's OpenMP (macOS, Windows)
    else:
        os.environ["OMP_WAIT_POLICY"] = wait_policy.upper()
    if wait_policy == "passive":
        os.environ["KMP_BLOCKTIME"] = "0"
    # GPUs are named by their place on the bus, as the sidecar probes them; CUDA by itself would sort them by speed.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Whatever a library prints is for people; frames have a socket of their own.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # An interrupt from the terminal reaches the whole process group: the sidecar decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent_pid)


def bind(processors: tuple[int, ...]) -> None:
    """Stay on some processors, so that workers beside each other do not run on each other's; none: on all.

    Must run before threads are started. Where the system binds nothing, the number of threads is all there is.
    """
    if sys.platform == "linux" and processors:
        os.sched_setaffinity(0, processors)


def usable_processors() -> int:
    """Return how many processors this process may use."""
    count = os.cpu_count() or 1
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    return count


def die_with(parent_pid: int) -> None:
    """See to it that this process ends with its parent, however that ends; at once where it is gone already."""
    if sys.platform == "win32":
        _watch_windows(parent_pid)
    else:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        else:
            threading.Thread(target=_watch_parent, args=(parent_pid,), daemon=True, name="parent").start()
        if os.getppid() != parent_pid:
            os._exit(0)


def _watch_parent(parent_pid: int) -> None:
    """End the process once it has another parent: POSIX gives orphans to init."""
    while os.getppid() == parent_pid:
        time.sleep(PARENT_CHECK_S)
    os._exit(0)


if sys.platform == "win32":

    def _watch_windows(parent_pid: int) -> None:
        """End the process once the parent's handle is signalled."""
        kernel = ctypes.windll.kernel32
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = kernel.OpenProcess(SYNCHRONIZE, False, parent_pid)
        if not handle:
            os._exit(0)

        def wait() -> None:
            kernel.WaitForSingleObject(ctypes.c_void_p(handle), FOREVER_MS)
            os._exit(0)

        threading.Thread(target=wait, daemon=True, name="parent").start()
