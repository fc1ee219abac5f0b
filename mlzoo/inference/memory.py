"""How much memory there is, and what this process holds.

Knows devices by name; nothing of models.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from mlzoo import cgroups

_of_thread = threading.local()
FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def used_bytes(device: torch.device) -> int:
    """Return what this process holds: on the CPU its resident memory, else what the device's allocator gave out."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return int(psutil.Process().memory_info().rss)


def held_bytes(device: torch.device) -> int:
    """Return what this process keeps from others, whether it uses it or not."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return used_bytes(device)


def watch_peak(device: torch.device) -> None:
    """Begin to measure anew how much this process holds at most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and sys.platform == "linux":
        with suppress(OSError), Path("/proc/self/clear_refs").open("w") as refs:  # Some containers do not allow it.
            refs.write(FORGET_PEAK)


def peak_bytes(device: torch.device) -> int:
    """Return how much this process held at most since then; where nothing tells that, what it holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "cpu" and sys.platform == "linux":
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else used_bytes(device)
    return used_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Return what may still be had on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    machine = psutil.virtual_memory()
    return cgroups.bound_memory(machine.total, machine.available)[1]


def give_back(device: torch.device) -> None:
    """Return memory that nothing refers to any more to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what was freed for later; other C libraries have no such function, and need none.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def drop_pages(address: int, size_bytes: int) -> None:
    """Have the system take back the whole pages of some memory, whoever holds it, where it can do so.

    They are zero afterwards, or what their file holds. Pages that hold anything else as well are left.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (address + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if sys.platform == "linux" and whole > 0:
        advice = ctypes.c_int(mmap.MADV_DONTNEED)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(whole), advice)


def drop_file_at(address: int) -> None:
    """Have the system take back the pages of the file that is mapped at an address, if one is: it can be read anew."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    for line in maps.read_text().splitlines():
        span, _, _, _, inode, *_ = line.split(maxsplit=5)
        start, end = (int(place, 16) for place in span.split("-"))
        if start <= address < end:
            if inode != "0":
                drop_pages(start, end - start)
            return


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's memory was not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).strip().lower()
    # The third is oneDNN's: what it cannot compute, it refuses earlier, as a primitive descriptor.
    without_code = text == "could not create a primitive"
    if without_code:
        _of_thread.spoilt = True
    short = ("out of memory" in text, "can't allocate memory" in text, without_code)
    return isinstance(error, RuntimeError) and any(short)


def thread_is_spoilt() -> bool:
    """Return whether this thread can make no kernels any more, however much memory there is by now.

    The generator of oneDNN's kernels (Xbyak) keeps its last error for each thread, and does nothing while there is one.
    """
    return getattr(_of_thread, "spoilt", False)
