"""A provider in memory: it says what a model says, at its own pace, and fails as servers elsewhere do, on request.

What may go wrong with it is one flag each, set by the fault menu. Real HTTP, and servers that break its rules, are met
in ``tests/providers``.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from mlzoo.providers.protocol import Failed, Piece, Vectors
from mlzoo.simulation.workers import pieces_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from random import Random

    from mlzoo.frames import Embed, Generate

SILENCE_S = 60.0  # after which whoever asks real servers gives up


@attrs.define
class Weather:
    """What is wrong with the provider from now on."""

    piece_s: float = 0.01
    unreachable: bool = False
    busy_ms: int | None = None  # it refuses, and says when to come again
    fails: bool = False
    refuses_key: bool = False
    breaks_off: bool = False  # amid an answer
    stalls: bool = False  # before the first piece, or between two
    says_garbage: bool = False


class Cloud:
    """One provider."""

    every_s = 0.0

    def __init__(self, random: Random) -> None:
        self.weather = Weather()
        self._random = random

    @asynccontextmanager
    async def generate(self, work: Generate, remote: str) -> AsyncIterator[AsyncIterator[Piece]]:
        """See ``Provider``."""
        await self._answered(remote)
        async with aclosing(self._pieces(work)) as pieces:
            yield pieces

    async def _answered(self, remote: str) -> None:
        """Return once an answer begins."""
        weather = self.weather
        await trio.sleep(weather.piece_s)
        if weather.unreachable:
            raise Failed("cannot be reached")
        if weather.refuses_key:
            raise Failed("answered 401", status=401, is_worth_trying=False)
        if weather.busy_ms is not None:
            raise Failed("answered 429", status=429, retry_after_ms=weather.busy_ms)
        if weather.fails:
            raise Failed("answered 500", status=500, detail=f"{remote} is not well")
        if weather.says_garbage:
            raise Failed("said what cannot be understood", is_worth_trying=False)
        if weather.stalls and self._random.random() < 0.5:
            await trio.sleep(SILENCE_S)
            raise Failed(f"did not begin to answer within {SILENCE_S:g} s")

    async def _pieces(self, work: Generate) -> AsyncGenerator[Piece, None]:
        prompt = work.prompt if work.prompt is not None else (work.messages or ({"content": ""},))[-1]["content"]
        said = pieces_of(prompt)
        for number, piece in enumerate(said):
            if number and self.weather.breaks_off and self._random.random() < 0.5:
                raise Failed("broke off its answer")
            if self.weather.stalls and self._random.random() < 0.3:
                await trio.sleep(SILENCE_S)
                raise Failed(f"was silent for {SILENCE_S:g} s")
            await trio.sleep(self.weather.piece_s)
            yield Piece(content=piece)
        yield Piece(finish_reason="stop", prompt_tokens=3, completion_tokens=len(said))

    async def embed(self, work: Embed, remote: str) -> Vectors:
        """See ``Provider``."""
        await self._answered(remote)
        return Vectors(rows=[[float(len(text)), 0.5] for text in work.texts], prompt_tokens=5)

    async def aclose(self) -> None:
        """See ``Provider``."""
        await trio.lowlevel.checkpoint()
