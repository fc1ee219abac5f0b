"""The forgetting of requests, conversations and personas in the files of a log: one at a time, crash-safe at each step.

What is to go is found out first; then each segment that has some of it is put in place anew, whole. Knows files and
what of them is in memory; ``forgetting`` knows what belongs to whom, and what a segment is without it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

import attrs
import orjson
import trio

from mlzoo.events import framing
from mlzoo.events.belonging import has_summaries, requests_in, summaries_in
from mlzoo.events.blobs import names_in
from mlzoo.events.forgetting import (
    Target,
    TargetConversation,
    TargetPersona,
    Wanted,
    of_request,
    target_in,
    text_without,
    without,
)
from mlzoo.events.segments import CUT, damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlzoo.errors import LogUnusable
    from mlzoo.events.answers import KeptAnswers
    from mlzoo.events.blobs import Blobs
    from mlzoo.events.durability import Durability
    from mlzoo.events.index import Tail
    from mlzoo.events.reading import GroupReader
    from mlzoo.events.segments import Segments
    from mlzoo.events.writing import SegmentWriter


class Forgetter:
    """Forgets requests in the files of one log; there is one at a time.

    Args:
        segments: where their text lies.
        writer: writes to the last of them.
        blobs: where their large values lie.
        answers: of keys, that were copied out of segments.
        tail: what memory has of the groups.
        reader: remembers what it has read.
        durability: of the log.
        commit: writes what is due.
        seal: has the next segment begun: none that is written to is rewritten.
    """

    def __init__(
        self,
        segments: Segments,
        writer: SegmentWriter,
        blobs: Blobs,
        answers: KeptAnswers,
        tail: Tail,
        reader: GroupReader,
        durability: Durability,
        *,
        commit: Callable[[], None],
        seal: Callable[[], None],
    ) -> None:
        self._segments = segments
        self._writer = writer
        self._blobs = blobs
        self._answers = answers
        self._tail = tail
        self._reader = reader
        self._durability = durability
        self._commit = commit
        self._seal = seal
        self._gone: dict[str, int] = {}  # turns, and those whose summaries went -> log_seq by which they had gone
        self._damage: LogUnusable | None = None  # that was met while something was looked for, or forgotten
        self.going = frozenset[str]()  # digests of the keys that are being forgotten: what comes with one is not kept
        self.lock = trio.Lock()  # also of who copies answers: what is copied meanwhile would come back

    def went_after(self, seq: int, names: Iterable[str]) -> bool:
        """Whether one of these turns, or of the summaries made for them, was forgotten in this life after a log_seq."""
        return any(self._gone.get(name, -1) >= seq for name in names)

    def _note(self, wanted: Wanted) -> None:
        self._gone |= dict.fromkeys(wanted.requests | wanted.summaries, self._durability.written)

    async def target_of(self, request: str) -> Target | None:
        """Return what is forgotten with a request, or a call that heard of one; None where the log has dropped it.

        Fails as ``forget`` does.
        """
        wanted = of_request(Target(request))
        async with self.lock:  # Else who forgets meanwhile would not know any more which keys go, and what is damaged.
            self._commit()
            self._damage = None
            with self._final():
                for first in self._segments.firsts:
                    await trio.lowlevel.checkpoint()
                    data = self._read(first)
                    found = target_in(data, request) if wanted.is_named(data) and self._is_whole(first, data) else None
                    if found is not None:
                        return found
        if self._damage is not None:
            raise self._damage
        return None

    async def forget(self, target: Target | TargetConversation | TargetPersona) -> int:
        """Forget an ended request and its key, or a dropped conversation, for good; return how many groups went.

        Raises:
            LogUnusable: A file that may speak of it is damaged; what the others had is gone.
            StorageFailed: The disk would not, now or before; what is forgotten by then is gone.
        """
        async with self.lock:
            self._commit()
            self._damage = None
            with self._final():
                wanted = await self._wanted(target)
                self.going = wanted.keys
                self._note(wanted)
                if wanted.is_named(self._read(self._writer.first)):
                    self._seal()
                await self._durability.flush(seals=True)
                count = await self._forget_before(self._writer.first, wanted)
                self._note(wanted)
                count += await self._answers.forget(wanted.requests)
                await self._durability.flush()  # What retention has dropped meanwhile goes before anybody is told,
                await self._segments.disk.sync_dir(self._segments.directory)  # and no power cut brings it back.
                await self._blobs.sync_removed()
                await self._answers.sync_removed()
        if self._damage is not None:
            raise self._damage
        return count

    async def _wanted(self, target: Target | TargetConversation | TargetPersona) -> Wanted:
        match target:
            case Target():
                made = frozenset[str]()
                for first in self._segments.firsts:
                    await trio.lowlevel.checkpoint()
                    data = self._read(first)
                    if has_summaries(data) and self._is_whole(first, data):
                        made = summaries_in(data, target.request, made)
                return attrs.evolve(of_request(target), summaries=made)
            case TargetConversation():
                return await self._of_conversation(target)
            case TargetPersona():
                return Wanted(frozenset(), upto_seq=target.upto_seq, persona=target.persona)
            case _:
                assert_never(target)

    async def _of_conversation(self, target: TargetConversation) -> Wanted:
        """Return whose text goes with a conversation; of some requests a copied answer is all there is."""
        requests, keys = await self._answers.of_conversation(target.conversation, target.upto_seq), set[str]()
        for first in self._segments.firsts:
            await trio.lowlevel.checkpoint()
            data = self._read(first)
            if orjson.dumps(target.conversation) in data and self._is_whole(first, data):
                some_requests, some_keys = requests_in(data, target.conversation, target.upto_seq)
                requests |= some_requests
                keys |= some_keys
        return Wanted(frozenset(requests), frozenset(keys), target.conversation, target.upto_seq)

    @contextmanager
    def _final(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._durability.fail(error)
        finally:
            self.going = frozenset()

    async def _forget_before(self, end: int, target: Wanted) -> int:
        count = 0
        for first in self._segments.firsts:
            await trio.lowlevel.checkpoint()
            if first < end and first in self._segments.sizes:
                count += await self._forget_in(first, target)
        disk, directory = self._segments.disk, self._segments.directory
        for name in disk.names(directory):
            if CUT in name:
                disk.remove(directory / name)  # Nobody can say whose words are in what was cut.
        await disk.sync_dir(directory)
        return count

    async def _forget_in(self, first: int, target: Wanted) -> int:
        data = self._read(first)
        if not target.is_named(data) or not self._is_whole(first, data):
            return 0
        found = without(data, target)
        for name in found.blobs:
            self._blobs.remove(name)
        if found.data != data:
            await self._segments.disk.replace(self._segments.path(first), found.data)
            if first not in self._segments.sizes:  # Retention was faster: nobody else may know of this file.
                for name in names_in(found.data):
                    self._blobs.remove(name)
                self._segments.disk.remove(self._segments.path(first))
        for seq in found.groups:
            held = self._tail.get(seq)
            if held is not None:
                self._tail.replace(attrs.evolve(held, text=text_without(held, target)))
        self._reader.forget()
        return len(found.groups)

    def _read(self, first: int) -> bytes:
        if first not in self._segments.sizes:
            return b""  # Retention was faster.
        return self._segments.disk.read(self._segments.path(first), 0, self._segments.sizes[first])

    def _is_whole(self, first: int, data: bytes) -> bool:
        """Whether the disk has not changed a segment: records of one that are sealed anew would hide that it has.

        What is damaged is left as it is, and told at the end.
        """
        whole_bytes = framing.scan(data, first).whole_bytes
        if whole_bytes < len(data):
            self._damage = damaged(self._segments.path(first), whole_bytes)
        return whole_bytes == len(data)
