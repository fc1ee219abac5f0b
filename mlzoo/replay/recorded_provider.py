"""A provider's part of a session that is run again: it says what a recording says, when it is told to.

Takes the place of the worker process in ``recorded_model``: it notes what it is asked, and is given frames.
"""

from __future__ import annotations

import math
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, cast

import orjson
import trio

from mlzoo import frames
from mlzoo.actors.reports import error_of_frame
from mlzoo.providers.protocol import Failed, Piece, Vectors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

Said = frames.Row | frames.Embedded | frames.WorkFailed


class RecordedProvider:
    """One provider, as its actor sees it.

    Args:
        device: what stands for it where devices stand.
        notify: called when it was asked something.
    """

    every_s = 0.0

    def __init__(self, device: str, notify: Callable[[], None]) -> None:
        self.device = device
        self.status: int | None = None
        self.asked: set[tuple[str, str]] = set()  # ("work", request)
        self._notify = notify
        self._coming: dict[str, trio.MemorySendChannel[Said]] = {}

    # ------------------------------------------------------------------------------------------ as it is driven

    def say(self, frame: frames.FromWorker) -> None:
        """Say what a worker's frame says."""
        match frame:
            case frames.Stepped():
                for row in frame.rows:
                    self._coming[row.request].send_nowait(row)
            case frames.Embedded() | frames.WorkFailed():
                self._coming[frame.request].send_nowait(frame)
            case _:
                return  # No provider says anything else.

    def end(self, status: int) -> None:
        """Take in that its actor had crashed: that does not happen again."""
        del status

    # ------------------------------------------------------------------------------------------ as a provider

    def _hear(self, request: str) -> trio.MemoryReceiveChannel[Said]:
        send, receive = trio.open_memory_channel[Said](math.inf)
        self._coming[request] = send
        self.asked.add(("work", request))
        self._notify()
        return receive

    @asynccontextmanager
    async def generate(self, work: frames.Generate, remote: str) -> AsyncIterator[AsyncIterator[Piece]]:
        """See ``Provider``."""
        del remote
        coming = self._hear(work.request)
        first = _no_failure(await coming.receive())
        async with aclosing(_pieces(cast("frames.Row", first), coming)) as pieces:
            yield pieces

    async def embed(self, work: frames.Embed, remote: str) -> Vectors:
        """See ``Provider``."""
        del remote
        said = _no_failure(await self._hear(work.request).receive())
        assert isinstance(said, frames.Embedded)
        return Vectors(rows=orjson.loads(said.vectors), prompt_tokens=said.prompt_tokens)

    async def aclose(self) -> None:
        """See ``Provider``."""
        await trio.lowlevel.checkpoint()


async def _pieces(first: frames.Row, coming: trio.MemoryReceiveChannel[Said]) -> AsyncGenerator[Piece, None]:
    row = first
    while True:
        yield Piece(
            content=row.content,
            reasoning=row.reasoning,
            tool_calls=row.tool_calls,
            logprobs=row.logprobs,
            finish_reason=row.finish_reason,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
        )
        if row.finish_reason is not None:
            return
        row = cast("frames.Row", _no_failure(await coming.receive()))


def _no_failure(said: Said) -> frames.Row | frames.Embedded:
    """Return what was said, unless it is a failure.

    Raises:
        Failed: It is one, and ends as it did.
    """
    if isinstance(said, frames.WorkFailed):
        raise Failed(said.message, is_worth_trying=False, detail=said.detail, known=error_of_frame(said))
    return said
