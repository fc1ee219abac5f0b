"""Large values that records name: one file each, durable before the record that names it.

A blob's name is the SHA-256 of its bytes, a dash, an id of its own, and after a ``z`` the last log_seq when it was
made. Equal values are two files, so that each belongs to one record alone and forgetting it, or removing the segment
that names it, needs no counting. A crash may leave a blob whose record was never written: the record would lie behind
that log_seq, so that each start looks only at blobs from the last two segments on, and reads no more than those. What
must not reach the disk is held in memory, up to a number of bytes, under a name that says so.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import trio

from mlzoo.errors import LogUnusable, NotFound
from mlzoo.events.segments import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.events.segments import Segments
    from mlzoo.world import Disk, Ids

_SUFFIX = ".bin"
_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-z-]+")
_OWNED = re.compile(
    rb'\{"crc":"[0-9a-f]{8}","size":"[0-9a-f]{8}","log_seq":\d+,"group":\[\d+,\d+\],"synced":\d+,"blobs":\["([^\]"]+)"\]'
)
_LIST = b'"blobs":["'
_PLACE = re.compile(r"z(\d+)$")
HEAD_BYTES = 512  # more than a line has up to the end of its ``blobs``


def names_in(segment: bytes) -> list[str]:
    """Return the names of the blobs that belong to a segment's records, each once.

    They stand at a fixed place of a line's beginning, which no text can imitate: a newline within one is escaped.
    """
    names: set[str] = set()
    at = segment.find(_LIST)
    while at >= 0:
        found = _OWNED.match(segment, segment.rfind(b"\n", 0, at) + 1)
        if found is not None and _NAME.fullmatch(name := found[1].decode()):
            names.add(name)
        end = segment.find(b"\n", at)
        at = segment.find(_LIST, end) if end >= 0 else -1
    return sorted(names)


class Blobs:
    """The blobs of one log."""

    def __init__(self, disk: Disk, ids: Ids, directory: Path, held_bytes: int = 0) -> None:
        self._disk = disk
        self._ids = ids
        self._directory = directory
        self._size_bytes = 0
        self._held: dict[str, bytes] = {}
        self._held_bytes = held_bytes
        self._coming: set[Path] = set()  # that are being written
        self._removals = 0
        self._removed: dict[Path, int] = {}  # by directory: the last of its removals, as a power cut may take it back
        self._made: set[str] | None = set()  # by this process, as long as others are looked for

    def path(self, name: str) -> Path:
        """Return the path of a blob."""
        return self._directory / name[:2] / f"{name}{_SUFFIX}"

    def hold(self, data: bytes) -> str:
        """Keep data in memory alone, while there is room for them, and return their name."""
        name = f"held-{self._ids.new('b')}"
        self._held[name] = data
        while len(self._held) > 1 and sum(map(len, self._held.values())) > self._held_bytes:
            self._held.pop(next(iter(self._held)))
        return name

    async def put(self, data: bytes, last_seq: int = 0) -> str:
        """Keep data and return their name once they are durable; a record after last_seq will name them.

        Raises:
            OSError: The disk would not.
        """
        name = f"{hashlib.sha256(data).hexdigest()}-{self._ids.new('b')}z{last_seq}"
        if self._made is not None:
            self._made.add(name)
        path = self.path(name)
        self._coming.add(path)
        try:
            await self._disk.make_dir(path.parent)
            await self._disk.replace(path, data)
        finally:
            self._coming.discard(path)
        self._size_bytes += len(data)
        return name

    def get(self, name: str) -> bytes:
        """Return the data of that name.

        Raises:
            NotFound: It is not here (any more).
            LogUnusable: It is not what it was.
        """
        absent = NotFound(f"no blob is called {name}", what="blob", id=name)
        if name in self._held:
            return self._held[name]
        if _NAME.fullmatch(name) is None:
            raise absent
        try:
            data = self._disk.read(self.path(name))
        except FileNotFoundError:
            raise absent from None
        except OSError as error:
            raise unreadable(self._directory.parent, error) from error
        if not self.is_whole(name, data):
            raise LogUnusable(
                f"the blob {name} is damaged; what it held is lost",
                reason="damaged",
                segment=f"blobs/{name[:2]}/{name}.bin",
                offset=0,
                remedy="ask for it again",
            )
        return data

    @staticmethod
    def is_whole(name: str, data: bytes) -> bool:
        """Whether data are those that the name was given to."""
        return hashlib.sha256(data).hexdigest() == name[:64]

    def remove(self, name: str) -> None:
        """Remove a blob, if it is there."""
        self._held.pop(name, None)
        try:
            self._size_bytes -= len(self._disk.read(self.path(name)))
        except FileNotFoundError:
            return
        self._disk.remove(self.path(name))
        self._removals += 1
        self._removed[self.path(name).parent] = self._removals

    async def sync_removed(self) -> None:
        """Return once what was removed stays so, whatever happens."""
        while self._removed:
            directory, last = next(iter(self._removed.items()))
            await self._disk.sync_dir(directory)
            if self._removed.get(directory) == last:  # Else another one went meanwhile, which may not be synced.
                del self._removed[directory]

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each blob; there may be many."""
        for directory in self._disk.names(self._directory):
            for name, size_bytes in self._disk.sizes(self._directory / directory).items():
                yield name.removesuffix(_SUFFIX), size_bytes

    def size_bytes(self) -> int:
        """Return the size of all blobs, as far as they are counted (``measure``)."""
        return self._size_bytes

    async def measure(self, segments: Segments) -> None:
        """Count what earlier processes left, directory by directory: there may be many files.

        Beginnings go, and what was made after the last segment but one began, if no record in these names it.

        Raises:
            OSError: The disk would not list or remove them.
        """
        since, doubtful = min(segments.firsts[-2:], default=0), []
        for name in self._disk.names(self._directory):
            for file, size_bytes in self._disk.sizes(self._directory / name).items():
                path = self._directory / name / file
                if path.suffix == _SUFFIX:
                    self._size_bytes += size_bytes
                    place = _PLACE.search(path.stem)
                    if place and int(place[1]) >= since - 1 and path.stem not in (self._made or ()):
                        doubtful.append(path.stem)
                elif path.with_suffix("") not in self._coming:
                    self._disk.remove(path)
            await trio.lowlevel.checkpoint()
        self._made = None
        if doubtful:
            named: set[str] = set()
            for first in segments.firsts:
                if first >= since:
                    try:
                        named.update(names_in(segments.disk.read(segments.path(first))))
                    except OSError:
                        return  # Nobody can say what it names: all of it stays.
                    await trio.lowlevel.checkpoint()
            for name in doubtful:
                if name not in named:
                    self.remove(name)
