"""The world outside: clock, ids, seeds and disk, each behind a small protocol, and the real ones.

Knows nothing of what it is used for. Whoever needs an effect takes it as an argument; the twins with the same shape
that a simulation drives by a seed are in ``mlzoo.simulation``.

What waits for a disk to be durable is async and runs in a thread; what only reaches the page cache is a plain call,
since a thread would cost a hundred times more than the call itself.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVarTuple

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Args = TypeVarTuple("Args")


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
    """A file system as a log needs it. Errors are OSError, as the operating system gives them.

    What has begun is seen through, also by who is cancelled: nobody else may write to the same place meanwhile.
    """

    def bound(self, most_s: float) -> None:
        """Wait for nothing longer than that from now on, also not for what hangs already; then it is an error."""

    async def make_dir(self, path: Path) -> None:
        """Create path and its parents, readable by their owner only, durable in their parents."""

    def sizes(self, path: Path) -> dict[str, int]:
        """Return the sizes in bytes of the files in a directory, by sorted name; empty where it does not exist."""

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory, of directories too; empty where it does not exist."""

    def open_append(self, path: Path) -> AppendFile:
        """Open for appending, creating it; the new name is durable only after sync_dir."""

    async def sync(self, file: AppendFile) -> None:
        """Make what was written before this call durable, without stopping the event loop. Never retried on error."""

    async def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def read(self, path: Path, offset: int = 0, size_bytes: int = -1) -> bytes:
        """Return up to size_bytes from offset, or all that follows."""

    async def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file and make the cut durable."""

    async def replace(self, path: Path, data: bytes) -> None:
        """Put data at path, whole or not at all: temporary file, sync, rename, sync of the directory."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error. It may come back after a crash until sync_dir."""

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


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_CLOEXEC", 0)
_OWNER_ONLY = 0o600
_TEMPORARY = ".new"


class RealFile:
    """A file of the operating system, opened for appending."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, _OWNER_ONLY)
        self._size_bytes = os.fstat(self.descriptor).st_size

    def write(self, data: bytes) -> None:
        """Write all of data; a write that comes short is continued, so that its cause shows as an error."""
        written = os.write(self.descriptor, data)
        self._size_bytes += written
        while written < len(data):
            more = os.write(self.descriptor, memoryview(data)[written:])
            self._size_bytes += more
            written += more

    def size_bytes(self) -> int:
        """Return the size as written."""
        return self._size_bytes

    def close(self) -> None:
        """Close without a sync."""
        os.close(self.descriptor)


class RealLock:
    """A lock on an open file: it ends with the process, however that ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back; the file stays, since removing it would let two processes lock two files of one name."""
        if sys.platform == "win32":
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            msvcrt.locking(self._descriptor, msvcrt.LK_UNLCK, 1)
        os.close(self._descriptor)


class Patience:
    """How long what a disk was asked for is waited for: as long as it takes, until somebody bounds that."""

    def __init__(self) -> None:
        self._most_s = math.inf
        self._waits: set[trio.CancelScope] = set()

    def bound(self, most_s: float) -> None:
        """See ``Disk``."""
        self._most_s = most_s
        for wait in self._waits:
            wait.deadline = min(wait.deadline, trio.current_time() + most_s)

    async def see_through(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for what the disk does, whoever leaves: the kernel says only once that it failed, to who asked.

        Raises:
            OSError: It took longer than is waited for.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._most_s) as wait:
            self._waits.add(wait)
            try:
                await work()
            finally:
                self._waits.discard(wait)
        if wait.cancelled_caught:
            raise OSError(errno.ETIMEDOUT, f"the disk did not answer within {self._most_s:g} s")


class RealDisk:
    """The file system of the operating system."""

    def __init__(self) -> None:
        self._patience = Patience()
        self.bound = self._patience.bound

    async def _in_thread(self, work: Callable[[*Args], None], *args: *Args) -> None:
        # A disk that hangs keeps its thread for ever; that is a daemon, which holds up no end of the process.
        await self._patience.see_through(partial(trio.to_thread.run_sync, work, *args, abandon_on_cancel=True))

    async def make_dir(self, path: Path) -> None:
        """Create path and its parents, mode 0700, each durable in the one above."""
        await self._in_thread(_make_dir, path)

    def sizes(self, path: Path) -> dict[str, int]:
        """Return the sizes of the files in a directory by sorted name."""
        try:
            with os.scandir(path) as entries:
                found = [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return {}
        return dict(sorted(found))

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names are wanted, not paths
        except FileNotFoundError:
            return []

    def open_append(self, path: Path) -> RealFile:
        """Open for appending, mode 0600."""
        return RealFile(path)

    async def sync(self, file: AppendFile) -> None:
        """Make what was written durable: fdatasync on Linux, F_FULLFSYNC on macOS, FlushFileBuffers on Windows."""
        assert isinstance(file, RealFile)
        await self._in_thread(_sync, file.descriptor)

    async def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable; NTFS journals them itself."""
        await self._in_thread(_sync_dir, path)

    def read(self, path: Path, offset: int = 0, size_bytes: int = -1) -> bytes:
        """Return up to size_bytes from offset, or all that follows."""
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            if size_bytes < 0:
                return file.read()
            return file.read(size_bytes) or b""

    async def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file and make the cut durable."""
        await self._in_thread(_truncate, path, size_bytes)

    async def replace(self, path: Path, data: bytes) -> None:
        """Put data at path, whole or not at all."""
        await self._in_thread(_replace, path, data)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def lock(self, path: Path) -> RealLock | None:
        """Take the lock at path with flock, on Windows on its first byte; None where it is held."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, _OWNER_ONLY)
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return None
        return RealLock(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Return what an unprivileged writer may still write there."""
        if sys.platform == "win32":
            import shutil  # noqa: PLC0415 - costs milliseconds and is needed on one platform

            return shutil.disk_usage(path).free
        else:  # noqa: RET505 - mypy follows platforms by branches
            found = os.statvfs(path)
            return found.f_bavail * found.f_frsize


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        # fsync leaves the data in the drive's own cache there.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif sys.platform == "win32":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def _sync_dir(path: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_dir(path: Path) -> None:
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
        _sync_dir(made.parent)


def _truncate(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_RDWR | _BINARY)
    try:
        os.ftruncate(descriptor, size_bytes)
        # The size is what was changed, so that fdatasync writes it too.
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + _TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, _OWNER_ONLY)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            _sync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # On a full disk half of a file would take the last room there is.
        raise
    _sync_dir(path.parent)


@attrs.frozen
class World:
    """Every effect that the sidecar has on what surrounds it, child processes and stdio apart."""

    clock: Clock
    ids: Ids
    seeds: Seeds
    disk: Disk
    pid: int = attrs.field(factory=os.getpid)  # who we are to others


def real_world() -> World:
    """Return the world as it is."""
    return World(RealClock(), RealIds(), RealSeeds(), RealDisk())
