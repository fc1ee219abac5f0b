"""Every state in which a crash may leave the files of one directory, as POSIX allows it. Pure: bytes in, images out.

Per file, what was not synced may be kept, lost, torn, zeroed, garbled or stale from each of several places on, of up
to six unsynced writes any may be missing, and any stretch between may be other bytes. Per name, what was made or
removed since the last sync of the directory may be so or not. Of several files, one at a time meets each of its fates
while the others are kept, and then lost. And some states that no crash leaves. Knows nothing of records.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

import attrs

from mlzoo.simulation.disk import Inode, cut_short, reordered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from mlzoo.simulation.byte_disk import Image
    from mlzoo.simulation.disk import SimulatedDisk

CutShort = Literal["torn", "zeroed", "garbled", "stale"]
CUTS: tuple[CutShort, ...] = get_args(CutShort)
REORDERED = 6  # unsynced writes of which each subset is tried
ANYWHERE = 3  # places inside what was not synced, beside the borders of the writes
DAMAGES = 12  # places in each file at which it is damaged
HOLE_BYTES = 64  # a stretch that is not what was written, while all around it is


@attrs.frozen
class FileThen:
    """One file at the moment of a crash: whether processes saw its name, and whether a crash surely leaves it."""

    path: str
    inode: Inode
    listed: bool
    surely: bool


def files_of(disk: SimulatedDisk, directory: str) -> tuple[FileThen, ...]:
    """Return the files of a directory as a crash finds them now."""
    names = disk.files.get(directory, {})
    durable = disk.durable_files.get(directory, {})
    return tuple(
        FileThen(f"{directory}/{name}", (names.get(name) or durable[name]).copy(), name in names, name in durable)
        for name in sorted(names.keys() | durable.keys())
    )


def crash_states(files: tuple[FileThen, ...], random: Random) -> Iterator[Image]:
    """Yield what a crash may leave of the files of one directory; some images may come twice."""
    kept = {file.path: _kept(file) for file in files}
    lost = {file.path: _lost(file) for file in files}
    for file in files:
        for fate, others in product(_fates(file, random), (kept, lost)):
            found = {**others, file.path: fate}
            yield tuple((path, data) for path, data in sorted(found.items()) if data is not None)


def damaged_states(image: Image, random: Random) -> Iterator[Image]:
    """Yield what a disk may make of some files that were durable: other bits, ends and files that are gone."""
    for path, data in image:
        others = tuple(other for other in image if other[0] != path)
        yield others
        for place in (random.randrange(len(data)) for _ in range(DAMAGES if data else 0)):
            flipped = data[:place] + bytes((data[place] ^ 1 << random.randrange(8),)) + data[place + 1 :]
            lines = data[: data.rfind(b"\n", 0, place) + 1]
            for found in (flipped, data[:place], lines):
                yield tuple(sorted((*others, (path, found))))
    yield ()


def _kept(file: FileThen) -> bytes | None:
    return bytes(file.inode.data) if file.listed else None


def _lost(file: FileThen) -> bytes | None:
    return file.inode.durable if file.surely else None


def _fates(file: FileThen, random: Random) -> Iterator[bytes | None]:
    """Yield the contents that a file may have after a crash; None where its name is gone."""
    inode = file.inode
    yield _kept(file)
    yield _lost(file)
    yield inode.durable
    start, end = len(inode.durable), len(inode.data)
    if inode.broken or start == end:
        return
    borders = [border for offset, size in inode.pending for border in (offset, offset + size - 1)]
    cuts = {start, end - 1, *borders[-4:], *(random.randrange(start, end) for _ in range(ANYWHERE))}
    for cut, outcome in product(sorted(cuts), CUTS):
        yield cut_short(inode, cut, outcome, random)
    for reached in product((False, True), repeat=min(len(inode.pending), REORDERED)):
        yield reordered(inode, (True,) * (len(inode.pending) - len(reached)) + reached)
    for cut in (random.randrange(start, end) for _ in range(ANYWHERE)):
        size = min(HOLE_BYTES, end - cut)
        for hole in (bytes(size), random.randbytes(size)):
            yield bytes(inode.data[:cut] + hole + inode.data[cut + size :])
