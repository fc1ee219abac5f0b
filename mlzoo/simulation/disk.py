"""A disk in memory that behaves as badly as POSIX allows, on purpose and by a seed.

What a process wrote is there for it to read at once; what a crash leaves of it is another matter. Per file, writes
since the last sync may be kept, lost, torn, zeroed or garbled, blocks may show what stood there in an earlier life, and
pages may reach the disk in any order; per directory, names that were made, removed or renamed since its last sync may
be so or not. ``crashed`` gives the disk as the next process finds it. Beyond that a disk can be full (ENOSPC), have a
limit to the size of a file (EFBIG), write a part of what it was given, fail a sync (EIO: what was not synced is then
gone for good, though it still reads well), and be slow. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from mlzoo.world import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path, PurePath
    from random import Random

    from mlzoo.world import AppendFile

Outcome = Literal["kept", "lost", "torn", "zeroed", "garbled", "stale", "reordered"]
OUTCOMES: tuple[Outcome, ...] = ("kept", "lost", "torn", "zeroed", "garbled", "stale", "reordered")
Step = Literal["write", "sync", "sync_dir", "create", "remove", "truncate", "replace"]
TEMPORARY = ".new"


@attrs.define(kw_only=True)
class DiskFaults:
    """What goes wrong. Counts begin at 0, over the whole disk; None: never.

    Attributes:
        capacity_bytes: Size of all files above which a write comes short and gives ENOSPC.
        file_limit_bytes: Size of one file above which a write comes short and gives EFBIG.
        fail_write: Which write gives EIO, after half of its bytes.
        fail_sync: Which sync of a file gives EIO.
        sync_s: How long a sync takes, on trio's clock.
        replace_s: How long it takes to put a file in place.
    """

    capacity_bytes: int | None = None
    file_limit_bytes: int | None = None
    fail_write: int | None = None
    fail_sync: int | None = None
    sync_s: float = 0.0
    replace_s: float = 0.0


class Inode:
    """What a file holds now, what of it is durable, and the writes in between as (offset, size)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.pending: list[tuple[int, int]] = []
        self.stale = b""  # what its blocks held before it was cut
        self.broken = False  # a sync has failed: what was not durable never will be

    def settle(self, data: bytes) -> None:
        """Make data the whole durable content."""
        self.data, self.durable, self.pending = bytearray(data), data, []

    def copy(self) -> Inode:
        """Return this moment of it."""
        made = Inode()
        made.data, made.durable, made.pending = bytearray(self.data), self.durable, list(self.pending)
        made.broken, made.stale = self.broken, self.stale
        return made


class SimulatedFile:
    """An open file of a simulated disk."""

    def __init__(self, disk: SimulatedDisk, file: Inode) -> None:
        self._disk = disk
        self.file = file
        self._closed = False

    def write(self, data: bytes) -> None:
        """Write all of data, or as much as the disk's faults let through before their error."""
        if self._closed:
            raise ValueError("the file is closed")
        self._disk.write(self.file, data)

    def size_bytes(self) -> int:
        """Return the size as written."""
        return len(self.file.data)

    def close(self) -> None:
        """Close without a sync."""
        self._closed = True


class SimulatedLock:
    """A lock that is held until it is released, or its disk crashes."""

    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path

    def release(self) -> None:
        """Give it back."""
        self._held.discard(self._path)


class SimulatedDisk:
    """A file system in memory. ``on_step`` is called after each thing that changes what a crash would leave."""

    def __init__(self, faults: DiskFaults | None = None) -> None:
        self.faults = faults or DiskFaults()
        self.on_step: Callable[[Step], None] | None = None
        self.writes = 0
        self.syncs = 0
        self.files: dict[str, dict[str, Inode]] = {}  # by directory and name, as processes see them
        self.durable_files: dict[str, dict[str, Inode]] = {}  # the same as a crash would surely leave it
        self._locks: set[str] = set()
        self._patience = Patience()
        self.bound = self._patience.bound

    # ------------------------------------------------------------------------------------------------ as a disk

    async def make_dir(self, path: Path) -> None:
        """Create path and its parents, durable."""
        await trio.lowlevel.checkpoint()
        for made in map(str, (path, *path.parents)):
            self.files.setdefault(made, {})
            self.durable_files.setdefault(made, {})

    def sizes(self, path: Path) -> dict[str, int]:
        """Return the sizes of the files in a directory by sorted name."""
        return {name: len(file.data) for name, file in sorted(self.files.get(str(path), {}).items())}

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory, of directories too."""
        directory = str(path)
        start = directory.rstrip(os.sep) + os.sep
        inner = {made[len(start) :].split(os.sep, 1)[0] for made in self.files if made.startswith(start)} - {""}
        return sorted(inner.union(self.files.get(directory, ())))

    def open_append(self, path: Path) -> SimulatedFile:
        """Open for appending, creating it."""
        directory, name = _place(path)
        names = self.files.get(directory)
        if names is None:
            raise FileNotFoundError(errno.ENOENT, "no such directory", directory)
        if name not in names:
            names[name] = Inode()
            self._step("create")
        return SimulatedFile(self, names[name])

    async def sync(self, file: AppendFile) -> None:
        """Make what was written before this call durable, or fail and lose it."""
        assert isinstance(file, SimulatedFile)
        inner, data = file.file, bytes(file.file.data)
        await self._wait(self.faults.sync_s)
        number, self.syncs = self.syncs, self.syncs + 1
        if number == self.faults.fail_sync:
            # The kernel calls the pages clean though the disk has none of them.
            inner.broken = True
            raise OSError(errno.EIO, "sync failed")
        if not inner.broken:
            inner.durable = data
        inner.pending = [(offset, size) for offset, size in inner.pending if offset >= len(data)]
        self._step("sync")

    async def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""
        await trio.lowlevel.checkpoint()
        self.durable_files[str(path)] = dict(self.files[str(path)])
        self._step("sync_dir")

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await self._patience.see_through(partial(trio.sleep, seconds))
        else:
            await trio.lowlevel.checkpoint()

    def read(self, path: Path, offset: int = 0, size_bytes: int = -1) -> bytes:
        """Return up to size_bytes from offset, or all that follows."""
        data = self._file(path).data
        return bytes(data[offset:] if size_bytes < 0 else data[offset : offset + size_bytes])

    async def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file, durably."""
        await trio.lowlevel.checkpoint()
        file = self._file(path)
        file.stale = bytes(file.data)
        file.settle(bytes(file.data[:size_bytes]))
        self._step("truncate")

    async def replace(self, path: Path, data: bytes) -> None:
        """Put data at path: a temporary file, a sync, a rename, a sync of the directory; a crash may come between.

        On a full disk what fits of the temporary file is there until it is removed again.
        """
        await self._wait(self.faults.replace_s)
        directory, name = _place(path)
        names, temporary = self.files[directory], name + TEMPORARY
        file = names[temporary] = Inode()
        fits = min(len(data), self.free_bytes(path))
        file.data, file.pending = bytearray(data[:fits]), [(0, fits)]
        self._step("write")
        if fits < len(data):
            self.remove(path.with_name(temporary))
            raise OSError(errno.ENOSPC, "no space left")
        file.settle(data)
        names[name] = names.pop(temporary)
        self._step("replace")
        self.durable_files[directory] = dict(names)
        self._step("sync_dir")

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there; durable only after sync_dir."""
        directory, name = _place(path)
        if self.files.get(directory, {}).pop(name, None) is not None:
            self._step("remove")

    def lock(self, path: Path) -> SimulatedLock | None:
        """Take the lock at path, or return None where it is held."""
        if str(path) in self._locks:
            return None
        self._locks.add(str(path))
        return SimulatedLock(self._locks, str(path))

    def free_bytes(self, path: Path) -> int:  # noqa: ARG002 - one disk has one size
        """Return what may still be written."""
        limit = self.faults.capacity_bytes
        return 1 << 40 if limit is None else max(0, limit - self.used_bytes())

    # ------------------------------------------------------------------------------------------------ its failures

    def write(self, file: Inode, data: bytes) -> None:
        """Append data to a file, as far as the faults allow."""
        number, self.writes = self.writes, self.writes + 1
        fits, error = len(data), 0
        if number == self.faults.fail_write:
            fits, error = len(data) // 2, errno.EIO
        if self.faults.capacity_bytes is not None and self.used_bytes() + fits > self.faults.capacity_bytes:
            fits, error = max(0, self.faults.capacity_bytes - self.used_bytes()), errno.ENOSPC
        if self.faults.file_limit_bytes is not None and len(file.data) + fits > self.faults.file_limit_bytes:
            fits, error = max(0, self.faults.file_limit_bytes - len(file.data)), errno.EFBIG
        if fits:
            file.pending.append((len(file.data), fits))
            file.data += data[:fits]
        self._step("write")
        if error:
            raise OSError(error, "the write came short")

    def is_broken(self) -> bool:
        """Whether a sync has failed, so that some of what reads well will not survive the machine."""
        return any(inode.broken for names in self.files.values() for inode in names.values())

    def put(self, path: str, data: bytes) -> None:
        """Have a file there, whole and durable."""
        file, (directory, name) = Inode(), _place(path)
        file.settle(data)
        self.files.setdefault(directory, {})[name] = file
        self.durable_files.setdefault(directory, {})[name] = file

    def corrupt(self, path: Path, offset: int) -> None:
        """Flip one bit of what is durable: the disk's own fault, not that of a crash."""
        file = self._file(path)
        data = bytearray(file.data)
        data[offset] ^= 1
        file.settle(bytes(data))

    def copy(self) -> SimulatedDisk:
        """Return this moment of the disk, to crash it more than once. Locks and open files stay behind."""
        made = SimulatedDisk(attrs.evolve(self.faults))
        copies: dict[int, Inode] = {}

        def of(file: Inode) -> Inode:
            return copies.setdefault(id(file), file.copy())

        made.files = {path: {name: of(file) for name, file in names.items()} for path, names in self.files.items()}
        made.durable_files = {
            path: {name: of(file) for name, file in names.items()} for path, names in self.durable_files.items()
        }
        return made

    def crashed(self, random: Random, outcome: Outcome | None = None) -> SimulatedDisk:
        """Return the disk as the next process finds it after a power cut now.

        Args:
            random: Draws what happens.
            outcome: What happens to writes that were not synced; None draws for each file.
        """
        made = self.copy()
        made.faults = DiskFaults()
        for directory in sorted(made.files):
            names, durable = made.files[directory], made.durable_files[directory]
            for name in sorted(names.keys() | durable.keys()):
                if names.get(name) is durable.get(name) or random.random() < 0.5:
                    continue  # Nothing was changed, or the change of this name reached the disk.
                if name in durable:
                    names[name] = durable[name]
                else:
                    del names[name]
            for name in sorted(names):
                fate = random.choice(OUTCOMES) if outcome is None else outcome
                names[name].settle(_after(names[name], random, fate))
                names[name].broken = False  # The next machine syncs again.
            made.durable_files[directory] = dict(names)
        return made

    def _file(self, path: Path) -> Inode:
        directory, name = _place(path)
        try:
            return self.files[directory][name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None

    def used_bytes(self) -> int:
        """Return the size of all files."""
        return sum(len(file.data) for names in self.files.values() for file in names.values())

    def _step(self, step: Step) -> None:
        if self.on_step is not None:
            self.on_step(step)


def _place(path: PurePath | str) -> tuple[str, str]:
    """Return the directory and the name of a file: as text, which is found in a dictionary sooner than a path is."""
    directory, _, name = str(path).replace("/", os.sep).rpartition(os.sep)
    return directory or os.sep, name


def _after(file: Inode, random: Random, outcome: Outcome) -> bytes:
    """Return what a crash leaves of a file."""
    durable, data = file.durable, bytes(file.data)
    unsynced = len(data) - len(durable)
    if unsynced <= 0 or outcome == "lost" or file.broken:
        return durable
    if outcome == "kept":
        return data
    if outcome == "reordered":
        return reordered(file, [random.random() < 0.5 for _ in file.pending])
    return cut_short(file, len(durable) + random.randrange(unsynced), outcome, random)


def cut_short(file: Inode, cut: int, outcome: Literal["torn", "zeroed", "garbled", "stale"], random: Random) -> bytes:
    """Return a file of which the writes reached the disk up to a place, and its size perhaps beyond that."""
    data = bytes(file.data)
    rest = len(data) - cut
    match outcome:
        case "torn":
            return data[:cut]
        case "zeroed":
            return data[:cut] + bytes(rest)
        case "garbled":
            return data[:cut] + random.randbytes(rest)
        case "stale":
            return data[:cut] + (file.stale[cut:] or data)[:rest]


def reordered(file: Inode, reached: Sequence[bool]) -> bytes:
    """Return a file of which each unsynced write reached the disk or not, whatever came of those before it."""
    data = bytes(file.data)
    end = len(file.durable)
    found = bytearray(file.durable) + bytes(len(data) - end)  # Holes read as zeros.
    for (offset, size), there in zip(file.pending, reached, strict=True):
        if there:
            found[offset : offset + size] = data[offset : offset + size]
            end = offset + size
    return bytes(found[:end])
