"""The log's recovery alone, over every crash state of random histories, checked as I2, I7 and I8 say.

Of logs that were closed in order it is also tried what no crash does: bytes that are others, ends and files that are
gone. Nothing that was there at that end may then be given up without a word.

Recovery reads nothing but bytes, so its outcome for an image is known once it was found once: equal images are looked
at once, and what it leaves is compared with the bytes of the history, which nobody has to parse. Only what is left, and
was not left before, is opened and folded as a start would.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import orjson

from mlzoo.actors.ledger import recover as fold
from mlzoo.errors import LogUnusable
from mlzoo.events import closed
from mlzoo.events.framing import Scan
from mlzoo.events.log import Log
from mlzoo.events.recovery import Recovered, recover
from mlzoo.events.segments import SUFFIX, Segments
from mlzoo.simulation.byte_disk import ByteDisk, Image, at_once
from mlzoo.simulation.crash_states import crash_states, damaged_states
from mlzoo.simulation.histories import ASIDES, GROUPS, LOG, History, Moment, histories
from mlzoo.simulation.world import simulated_world

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlzoo.core.state import State
    from mlzoo.simulation.crash_states import FileThen


MOMENTS = 6  # of each history at which it is crashed; another seed has others


@attrs.frozen
class Violation:
    """A promise that a crash state broke."""

    invariant: str
    history: str
    moment: int
    step: str
    what: str


@attrs.define
class Count:
    """What was explored."""

    states: int = 0
    violations: list[Violation] = attrs.field(factory=list)


def explore(seed: int, *, enough: int = 1000) -> Count:
    """Check crash states of the histories of a seed, until there are enough violations."""
    count = Count()
    for history in histories(seed):
        for directory, strict in ((GROUPS, True), (ASIDES, False)):
            checker = _Checker(history, directory, count, strict=strict)
            checker.check(enough)
            if strict:
                checker.check_damage(enough)
    return count


class _Checker:
    """Checks the crash states of one directory of one history."""

    def __init__(self, history: History, directory: str, count: Count, *, strict: bool) -> None:
        self._history = history
        self._directory = Path(directory)
        self._count = count
        self._strict = strict
        self._whole = _whole([m.groups if strict else m.asides for m in history.moments])
        self._ends = {path: _ends(data) for path, data in self._whole.items()}
        self._last: dict[Image, int] = {}  # crash state -> the last record that recovery found
        self._settled: set[Image] = set()  # what recovery left, and was found to be sound
        self._known = _Known()
        self._at = (0, "")

    def check(self, enough: int) -> None:
        random = Random(f"{self._history.seed} {self._directory}")
        moments = self._history.moments
        for number in sorted(random.sample(range(len(moments)), min(MOMENTS, len(moments)))):
            moment = moments[number]
            self._at = (number, moment.step)
            promised_seq = moment.promised_seq if self._strict else 0
            for image in crash_states(moment.groups if self._strict else moment.asides, random):
                if len(self._count.violations) >= enough:
                    return
                last_seq = self._recovered(_with_end(image, moment), then=True)
                if last_seq < promised_seq:
                    self._violated("I2", f"{promised_seq} was promised, {last_seq} is the last one found")

    def check_damage(self, enough: int) -> None:
        """Check that what was durable at an orderly end is there or missed, whatever becomes of the files."""
        moments = self._history.moments
        self._at, last = (len(moments), "the disk's own fault"), moments[-1]
        files = tuple((file.path, bytes(file.inode.data)) for file in last.groups if file.listed)
        for image in damaged_states(files, Random(f"{self._history.seed} damage")) if last.closed else ():
            if len(self._count.violations) >= enough:
                return
            disk = ByteDisk(_with_end(image, last))
            wanted = closed.read(disk, LOG).last_seq
            try:
                _, last_seq = self._recover(disk)
            except LogUnusable:
                continue
            if last_seq < wanted:
                self._violated("I2", f"{wanted} was durable at the end, and the next start went on after {last_seq}")

    def _recovered(self, image: Image, *, then: bool) -> int:
        """Return the last record that recovery finds in a crash state; one that was seen before is known.

        Args:
            image: the crash state.
            then: whether another crash, at each step of recovery, is tried as well.
        """
        last_seq = self._last.get(image)
        if last_seq is not None:
            return last_seq
        self._count.states += 1
        disk = ByteDisk(image)
        between: list[Image] = []
        if then:
            disk.on_step = lambda _: between.append(disk.image())
        try:
            found, last_seq = self._recover(disk)
        except Exception as error:  # noqa: BLE001 (whatever it is, a crash alone must not lead to it)
            self._last[image] = last_seq = 1 << 62
            self._violated("I7", f"a crash alone made it unusable: {error!r}")
            return last_seq
        self._last[image] = last_seq
        after = disk.image()
        if after not in self._settled:
            self._settled.add(after)
            self._check_settled(after, found, last_seq)
        for halfway in between:
            if self._recovered(halfway, then=False) != last_seq:
                self._violated("I7", "a crash in the middle of recovery changed what is found")
        return last_seq

    def _recover(self, disk: ByteDisk) -> tuple[Recovered | None, int]:
        segments = _RememberedSegments(disk, self._directory, self._known)
        end = closed.read(disk, LOG) if self._strict else closed.NEVER
        found = at_once(recover(segments, strict=self._strict, closed=end))
        return found, 0 if found is None else found.last_seq

    def _check_settled(self, image: Image, found: Recovered | None, last_seq: int) -> None:
        """Check what recovery left: bytes of the history, whole groups, no gap; a second one changes nothing."""
        oldest = 0 if found is None else found.header.oldest  # What lies before goes as the start goes on.
        segments = [(p, data) for p, data in image if p.endswith(SUFFIX) and int(Path(p).stem) >= oldest]
        for path, data in segments if self._strict else segments[-1:]:  # Nothing is promised of earlier asides.
            if len(data) not in self._ends[path].values() or not self._whole[path].startswith(data):
                self._violated("I7", f"{path} is left with {len(data)} bytes that are no whole groups of its history")
        for (path, data), (after, _) in pairwise(segments):
            if self._strict and data != self._whole[path][: self._ends_before(path, after)]:
                self._violated("I7", f"{path} ends before {after} begins")
        again = ByteDisk(image)
        second, second_seq = self._recover(again)
        if (again.image(), second_seq) != (image, last_seq) or (second is not None and second.repaired):
            self._violated("I7", "recovering twice is not recovering once")
        if self._strict and found is not None:
            self._check_fold(image, last_seq)

    def _ends_before(self, path: str, after: str) -> int:
        """Return how long a segment is when the next one begins."""
        wanted = int(Path(after).stem) - 1
        return self._ends[path].get(wanted, len(self._whole[path])) if wanted else 0

    def _check_fold(self, image: Image, last_seq: int) -> None:
        world = attrs.evolve(simulated_world(0), disk=ByteDisk(image), clock=_NoClock())
        log = at_once(Log.open(LOG, world, self._history.settings, version="0"))
        try:
            state: State | str = fold(log)
        except LogUnusable as error:
            state = error.message
        if state != self._history.states.get(last_seq):
            self._violated("I8", f"folded up to {last_seq} it is not what it was then: {state}")

    def _violated(self, invariant: str, what: str) -> None:
        self._count.violations.append(Violation(invariant, self._history.seed, *self._at, what))


@attrs.define
class _Known:
    """What is pure, and so need not be found out twice."""

    paths: dict[int, Path] = attrs.field(factory=dict)
    scans: dict[tuple[int, bytes], Scan] = attrs.field(factory=dict)


class _RememberedSegments(Segments):
    """Segments of which many are equal to those of the last crash state."""

    def __init__(self, disk: ByteDisk, directory: Path, known: _Known) -> None:
        super().__init__(disk, directory)
        self._known = known

    def path(self, first: int) -> Path:
        path = self._known.paths.get(first)
        if path is None:
            path = self._known.paths[first] = super().path(first)
        return path

    def scan(self, first: int) -> Scan:
        key = (first, self.disk.read(self.path(first), 0, self.sizes[first]))
        found = self._known.scans.get(key)
        if found is None:
            found = self._known.scans[key] = super().scan(first)
        return found


class _NoClock:
    """Recovery asks for no time but the one that new records would bear."""

    def awake_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return 0


def _with_end(image: Image, moment: Moment) -> Image:
    """Return an image that has what the last orderly end said, if it said something."""
    return image if moment.closed is None else tuple(sorted((*image, (f"{LOG}/{closed.FILE}", moment.closed))))


def _whole(moments: Iterable[Iterable[FileThen]]) -> dict[str, bytes]:
    """Return the longest content that each file had."""
    whole: dict[str, bytes] = {}
    for files in moments:
        for file in files:
            if len(file.inode.data) > len(whole.get(file.path, b"")) or file.path not in whole:
                whole[file.path] = bytes(file.inode.data)
    return whole


def _ends(data: bytes) -> Mapping[int, int]:
    """Return where the groups of a segment end, by their last number; parsed as JSON, without the log's own code.

    A segment of asides that was full before a crash may be torn for good.
    """
    ends, offset = {}, 0
    for line in data.splitlines(keepends=True):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            break
        offset += len(line)
        if "segment" in record:
            ends[record["segment"] - 1] = offset
        elif "aside_seq" in record:
            ends[record["aside_seq"]] = offset
        elif record["log_seq"] == sum(record["group"]) - 1:
            ends[record["log_seq"]] = offset
    return ends
