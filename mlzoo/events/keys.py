"""The log's index of keys: what became of each keyed request that ended, for ever.

It lies in ``keys/`` in runs: files of lines of one width, sorted by key, each with its CRC-32, and a last line that
says that the run is whole. A key is found by interpolation, a few lines read, so that neither a start nor memory grows
with the number of keys. The keys of some requests are filed in a new run; when there are eight runs of one size, they
are merged into one of the next. A run is named by the filings that it holds (``first-last``): one that lies within
another has been merged already, and a crash left it behind. Where runs hold the same key, the later filing is right.

Knows nothing of what a key stands for, nor of when it is filed. Errors of the disk are OSError.
"""

from __future__ import annotations

import heapq
from itertools import islice, pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import attrs
import trio

from mlzoo.errors import LogUnusable
from mlzoo.events.commands import KeyFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mlzoo.world import Disk

SUFFIX = ".keys"
FAN_IN = 8  # runs of one size that become one of the next
MOST_FILINGS = FAN_IN**4  # in one run, which is merged no more
_CRC, _DIGEST, _REQUEST, _NUMBER = 8, 64, 40, 20
_KEY = slice(_CRC + 1, _CRC + 1 + _DIGEST)
_BOUND_TO = slice(_CRC + 2 * (1 + _DIGEST) + 1, _CRC + 2 * (1 + _DIGEST) + 1 + _REQUEST)
WIDTH_BYTES = _CRC + 2 * (1 + _DIGEST) + 1 + _REQUEST + 4 * (1 + _NUMBER) + 1
_LINES = 32  # that are read at once where a key may lie
_RANK_DIGITS = 12  # of a key, that say how far down a run it lies
_SLICE_LINES = 512  # of a merge, before the event loop has its turn


@attrs.frozen(kw_only=True)
class Run:
    """One file of the index.

    Attributes:
        first: The first filing that it holds.
        last: The last one.
        count: How many keys.
        from_seq: The lowest log_seq at which one of its requests was accepted.
        newest_at_ms: When the last of its requests ended, on the log's clock.
    """

    first: int
    last: int
    count: int
    from_seq: int
    newest_at_ms: int


class KeyIndex:
    """The keys of one log."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._runs: list[Run] = []
        self._filings = 0  # the number of the last one
        self.faults: list[str] = []  # what is not as it was written, one sentence each

    def open(self, *, tidy: bool = True) -> None:
        """Find the runs, and remove what a crash in a merge has left, unless another process owns them (tidy).

        A merged run counts only where not all of its parts are there: they go once it is durable, and not before.
        """
        remove = self._disk.remove if tidy else _nothing
        sizes = self._disk.sizes(self._directory)
        spans = {name: _span(name) for name in sizes if name.endswith(SUFFIX)}
        self._filings = max((last for _, last in spans.values()), default=0)
        runs: dict[str, Run] = {}
        for name, (first, last) in sorted(spans.items(), key=lambda item: item[1][1] - item[1][0]):
            parts = {part: run for part, run in runs.items() if first <= run.first and run.last <= last}
            if sum(run.last - run.first + 1 for run in parts.values()) == last - first + 1:
                remove(self._directory / name)
                continue
            found = self._run((first, last), name, sizes[name])
            if found is None:
                self.faults.append(f"keys/{name}: not whole, and the keys in it are lost")
                continue
            for part in parts:
                remove(self._directory / part)
                del runs[part]
            runs[name] = found
        self._runs = sorted(runs.values(), key=lambda run: run.first)

    def _run(self, span: tuple[int, int], name: str, size_bytes: int) -> Run | None:
        """Return a run if its last line says that it is whole."""
        count = size_bytes // WIDTH_BYTES - 1
        if count < 0 or size_bytes % WIDTH_BYTES:
            return None
        line = self._disk.read(self._directory / name, count * WIDTH_BYTES, WIDTH_BYTES)
        if not _is_whole(line):
            return None
        word, *numbers = line[_CRC + 1 :].split()
        if word != b"end" or int(numbers[0]) != count:
            return None
        return Run(first=span[0], last=span[1], count=count, from_seq=int(numbers[1]), newest_at_ms=int(numbers[2]))

    # ------------------------------------------------------------------------------------------------ reading

    def find(self, key: str) -> KeyFacts | None:
        """Return what is filed under a key.

        Raises:
            LogUnusable: A part of the index is damaged, so that nobody can say whether the key is free.
        """
        if self.faults:
            raise self._damaged(self.faults[0])
        wanted = key.encode()
        for run in reversed(self._runs):
            found = self._find(run, wanted)
            if found is not None:
                return found
        return None

    async def key_of(self, request: str) -> str | None:
        """Return the key of a request; all is read for that, since keys are found by themselves alone.

        Raises:
            LogUnusable: A part of the index is damaged, so that nobody can say whether it has one.
        """
        if self.faults:
            raise self._damaged(self.faults[0])
        wanted, read = request.encode(), set[Run]()
        while (run := next((run for run in self._runs if run not in read), None)) is not None:
            read.add(run)
            for start in range(0, run.count, _SLICE_LINES):
                if run not in self._runs:
                    break  # It was merged meanwhile, and the greater one is read as well.
                for line in self._lines(run, start, min(run.count, start + _SLICE_LINES)):
                    if line[_BOUND_TO].rstrip() == wanted:
                        return line[_KEY].decode()
                await trio.lowlevel.checkpoint()
        return None

    def _find(self, run: Run, wanted: bytes) -> KeyFacts | None:
        """Look where the key should lie, as digests are spread evenly, and nearer and nearer: mostly two reads."""
        low, high = 0, run.count  # Where it lies, if it is there,
        low_rank, high_rank = 0, 16**_RANK_DIGITS  # and between which ranks.
        while high - low > _LINES:
            share = (_rank(wanted) - low_rank) / max(1, high_rank - low_rank)
            start = min(max(low, low + int((high - low) * share) - _LINES // 2), high - _LINES)
            lines = self._lines(run, start, start + _LINES)
            first, last = lines[0][_KEY], lines[-1][_KEY]
            if first <= wanted <= last:
                low, high = start, start + _LINES
            elif wanted < first:
                high, high_rank = start, _rank(first)
            else:
                low, low_rank = start + _LINES, _rank(last)
        return next((_facts(line) for line in self._lines(run, low, high) if line[_KEY] == wanted), None)

    def _lines(self, run: Run, start: int, end: int) -> list[bytes]:
        path = self._path(run)
        data = self._disk.read(path, start * WIDTH_BYTES, (end - start) * WIDTH_BYTES)
        lines = [data[at : at + WIDTH_BYTES] for at in range(0, (end - start) * WIDTH_BYTES, WIDTH_BYTES)]
        for number, line in enumerate(lines, start):
            if not _is_whole(line):
                raise self._damaged(f"keys/{path.name}: not whole at byte {number * WIDTH_BYTES}")
        return lines

    def _damaged(self, message: str) -> LogUnusable:
        return LogUnusable(
            f"the log's index of keys is damaged ({message}): a key could run twice; only requests without one run",
            reason="damaged",
            path=str(self._directory.parent),
            remedy="restore that file, or begin another log",
        )

    def size_bytes(self) -> int:
        """Return the size of all runs."""
        return sum((run.count + 1) * WIDTH_BYTES for run in self._runs)

    def needed_from(self, ended_after_ms: int) -> int | None:
        """Return a log_seq before which no answer begins that ended after a moment, or None where there is none."""
        return min((run.from_seq for run in self._runs if run.newest_at_ms > ended_after_ms), default=None)

    def verify(self) -> list[str]:
        """Read all, and return what is not as it was written."""
        faults = list(self.faults)
        for run in self._runs:
            last = b""
            for start in range(0, run.count, _SLICE_LINES):
                try:
                    lines = self._lines(run, start, min(run.count, start + _SLICE_LINES))
                except LogUnusable as error:
                    faults.append(error.message)
                    break
                keys = [last, *(line[_KEY] for line in lines)]
                last = keys[-1]
                if any(after <= before for before, after in pairwise(keys)):
                    faults.append(f"keys/{self._path(run).name}: not in order")
                    break
        return faults

    # ------------------------------------------------------------------------------------------------ writing

    async def file(self, entries: Mapping[str, KeyFacts]) -> None:
        """Keep entries for ever; durable when this returns."""
        await self._disk.make_dir(self._directory)
        run = Run(
            first=self._filings + 1,
            last=self._filings + 1,
            count=len(entries),
            from_seq=min(facts.accepted_seq for facts in entries.values()),
            newest_at_ms=max(facts.ended_at_ms for facts in entries.values()),
        )
        lines = [_line(key, facts) for key, facts in sorted(entries.items())]
        await self._disk.replace(self._path(run), b"".join([*lines, _last_line(run)]))
        self._filings += 1
        self._runs.append(run)
        while len(parts := self._alike()) == FAN_IN:
            await self._merge(parts)

    def _alike(self) -> list[Run]:
        """Return the last runs, up to FAN_IN of them, if they are of one size and may be merged."""
        if self.faults:
            return []  # What a person may want to mend is not to be hidden by a greater run.
        parts = self._runs[-FAN_IN:]
        sizes = {run.last - run.first + 1 for run in parts}
        return parts if len(sizes) == 1 and max(sizes) < MOST_FILINGS else []

    async def _merge(self, parts: list[Run]) -> None:
        """Make one run of several; they are removed once it is durable, and nothing reads it before."""
        merged = Run(
            first=parts[0].first,
            last=parts[-1].last,
            count=0,
            from_seq=min(run.from_seq for run in parts),
            newest_at_ms=max(run.newest_at_ms for run in parts),
        )
        path = self._path(merged)
        self._disk.remove(path)  # What is left of a merge that failed in this very life.
        file = self._disk.open_append(path)
        count = 0
        try:
            lines = self._merged(parts)
            while some := list(islice(lines, _SLICE_LINES)):
                file.write(b"".join(some))
                count += len(some)
                await trio.lowlevel.checkpoint()
            merged = attrs.evolve(merged, count=count)
            file.write(_last_line(merged))
            await self._disk.sync(file)
        finally:
            file.close()
        await self._disk.sync_dir(self._directory)
        self._runs[-len(parts) :] = [merged]
        for run in parts:
            self._disk.remove(self._path(run))

    def _merged(self, parts: list[Run]) -> Iterator[bytes]:
        """Yield the lines of runs in order; of one key only that of the last run."""

        def ranked(rank: int, run: Run) -> Iterator[tuple[bytes, int, bytes]]:
            for start in range(0, run.count, _SLICE_LINES):
                for line in self._lines(run, start, min(run.count, start + _SLICE_LINES)):
                    yield line[_KEY], rank, line

        before = b""
        # The last run has the lowest rank, so that its line comes first.
        for key, _, line in heapq.merge(*(ranked(-rank, run) for rank, run in enumerate(parts))):
            if key != before:
                yield line
            before = key

    def _path(self, run: Run) -> Path:
        return self._directory / f"{run.first:010d}-{run.last:010d}{SUFFIX}"


def _nothing(_path: Path) -> None:
    """Leave a file as it is."""


def _span(name: str) -> tuple[int, int]:
    first, _, last = name.removesuffix(SUFFIX).partition("-")
    return (int(first), int(last)) if first.isdigit() and last.isdigit() else (0, 0)


def _rank(key: bytes) -> int:
    return int(key[:_RANK_DIGITS], 16)


def _line(key: str, facts: KeyFacts) -> bytes:
    assert len(key) == len(facts.params_digest) == _DIGEST, "a key, and the digest of params, are digests"
    assert len(facts.request) <= _REQUEST, "the id of a request has its place in a line"
    numbers = (facts.accepted_seq, facts.ended_seq, facts.next_seq, facts.ended_at_ms)
    shown = " ".join(f"{number:0{_NUMBER}d}" for number in numbers)
    return _sealed(f"{key} {facts.params_digest} {facts.request:<{_REQUEST}} {shown}")


def _last_line(run: Run) -> bytes:
    text = f"end {run.count} {run.from_seq} {run.newest_at_ms}"
    return _sealed(f"{text:<{WIDTH_BYTES - _CRC - 2}}")


def _sealed(text: str) -> bytes:
    data = f" {text}\n".encode()
    return b"%08x%b" % (crc32(data), data)


def _is_whole(line: bytes) -> bool:
    return len(line) == WIDTH_BYTES and line[:_CRC] == b"%08x" % crc32(line[_CRC:])


def _facts(line: bytes) -> KeyFacts:
    _, params_digest, request, accepted_seq, ended_seq, next_seq, ended_at_ms = line[_CRC + 1 :].decode().split()
    return KeyFacts(
        request=request,
        params_digest=params_digest,
        accepted_seq=int(accepted_seq),
        ended_seq=int(ended_seq),
        next_seq=int(next_seq),
        ended_at_ms=int(ended_at_ms),
    )
