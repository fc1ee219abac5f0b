"""What Linux's control groups leave this process: a container's memory and processors are theirs, not the machine's.

Knows two versions of one file system; nothing of devices or models. Elsewhere there are none, and nothing is bounded.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def bound_memory(total_bytes: int, free_bytes: int) -> tuple[int, int]:
    """Return what remains of a machine's memory, in all and free, within this process's groups."""
    for limit, used in memory():
        total_bytes, free_bytes = min(total_bytes, limit), min(free_bytes, max(limit - used, 0))
    return total_bytes, free_bytes


def memory(root: Path = ROOT, own: Path = OWN) -> list[tuple[int, int]]:
    """Return (limit, used) in bytes of each control group that bounds this process's memory, of both versions.

    Cached file pages that the kernel would give up count as free.

    Args:
        root: Where control groups are mounted.
        own: The file that names this process's groups.
    """
    found = []
    for directory in _groups(root, own, "memory"):
        limit = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
        used = _read(directory / "memory.current") or _read(directory / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(directory / "memory.stat"), re.MULTILINE)
            found.append((int(limit), max(int(used) - (int(cached[1]) if cached else 0), 0)))
    return found


def cpus(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Return how many CPUs the tightest control group grants, None where none limits them."""
    granted = []
    for directory in _groups(root, own, "cpu"):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            granted.append(int(quota) / int(period))
    return min(granted, default=None)


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """Return the directories of this process's group and of all above it; a container may see only the topmost."""
    directories: list[Path] = []
    for line in _read(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        group = base / path.lstrip("/")
        directories += [group, *(parent for parent in group.parents if parent.is_relative_to(base))]
    return directories


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
