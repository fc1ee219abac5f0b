"""The world outside: clock, ids, seeds and disk, each behind a small protocol, and the real ones.

Knows nothing of what it is used for. Whoever needs an effect takes it as an argument; the twins with the same shape
that a simulation drives by a seed are in ``mlzoo.simulation``.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from pathlib import Path


class Clock(Protocol):
    """Time, in whole milliseconds."""

    def awake_ms(self) -> int:
        """Return a monotonic reading that ignores changes of the wall clock; only differences mean anything."""

    def wall_ms(self) -> int:
        """Return the time since the Unix epoch, for people; nothing is ever decided by it."""


class Ids(Protocol):
    """Names that are unique for ever."""

    def new(self, prefix: str) -> str:
        """Return a fresh id such as ``req-0f3a…``."""


class Seeds(Protocol):
    """Randomness for sampling, drawn once a request and recorded."""

    def new(self) -> int:
        """Return an integer in [0, 2**53), the range that every JSON reader keeps exact."""


class AppendFile(Protocol):
    """A file that only grows. Every call may raise OSError, and then the file is not to be written again."""

    def write(self, data: bytes) -> None:
        """Write all of data at the end; a short write is an error, what did get there is cut at the next start."""

    def size_bytes(self) -> int:
        """Return the size as written."""

    def close(self) -> None:
        """Close without a sync."""


class Lock(Protocol):
    """An exclusive lock that the operating system takes back when its holder dies."""

    def release(self) -> None:
        """Give it back."""


class Disk(Protocol):
    """A file system as a log needs it. Errors are OSError, as the operating system gives them."""

    def make_dir(self, path: Path) -> None:
        """Create path and its parents, readable by their owner only, durable in their parents."""

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory; empty where it does not exist."""

    def open_append(self, path: Path) -> AppendFile:
        """Open for appending, creating it; the new name is durable only after sync_dir."""

    async def sync(self, file: AppendFile) -> None:
        """Make what was written before this call durable, without stopping the event loop. Never retried on error."""

    def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def read(self, path: Path, offset: int = 0, size_bytes: int = -1) -> bytes:
        """Return up to size_bytes from offset, or all that follows."""

    def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file and make the cut durable."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put data at path, whole or not at all, whatever happens: temporary file, sync, rename, sync of the directory."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error."""

    def lock(self, path: Path) -> Lock | None:
        """Take the lock at path, or return None where another process holds it."""

    def free_bytes(self, path: Path) -> int:
        """Return what an unprivileged writer may still write there."""


class RealClock:
    """The machine's clocks; awake time follows trio's clock, so that a test's virtual clock moves this one too."""

    def awake_ms(self) -> int:
        """Return trio's current time."""
        return int(trio.current_time() * 1000)

    def wall_ms(self) -> int:
        """Return the wall clock's time."""
        return time.time_ns() // 1_000_000


class RealIds:
    """Ids from the operating system's random source."""

    def new(self, prefix: str) -> str:
        """Return prefix and 80 random bits."""
        return f"{prefix}-{secrets.token_hex(10)}"


class RealSeeds:
    """Seeds from the operating system's random source."""

    def new(self) -> int:
        """Return 53 random bits."""
        return secrets.randbits(53)


@attrs.frozen
class World:
    """Every effect that the sidecar has on what surrounds it, child processes and stdio apart."""

    clock: Clock
    ids: Ids
    seeds: Seeds
    disk: Disk
