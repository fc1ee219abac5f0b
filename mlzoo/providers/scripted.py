"""A provider that needs no network: it says its script, or the request's last words, one after the other.

For tests of an application that has a real provider elsewhere, and for a first look at routes. Each word is a token.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from mlzoo.providers.protocol import Piece, Vectors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.frames import Embed, Generate

DIMENSIONS = 8


class Scripted:
    """One script."""

    every_s = 0.0

    def __init__(self, entry: ProviderEntry) -> None:
        self._script = entry.script

    @asynccontextmanager
    async def generate(self, work: Generate, remote: str) -> AsyncIterator[AsyncIterator[Piece]]:
        """See ``Provider``."""
        del remote
        await trio.lowlevel.checkpoint()
        async with aclosing(self._pieces(work)) as pieces:
            yield pieces

    async def _pieces(self, work: Generate) -> AsyncGenerator[Piece, None]:
        words = _words(work)
        said = self._script or tuple(words)
        most = len(said) if work.max_tokens is None else work.max_tokens
        for piece in said[:most]:
            await trio.lowlevel.checkpoint()
            yield Piece(content=piece)
        finish = "stop" if most >= len(said) else "length"
        yield Piece(
            finish_reason="stop" if finish == "stop" else "length",
            prompt_tokens=len(words),
            completion_tokens=min(most, len(said)),
        )

    async def embed(self, work: Embed, remote: str) -> Vectors:
        """Return vectors that tell how often each of some letters stands in a text."""
        del remote
        await trio.lowlevel.checkpoint()
        rows = [[float(text.count(chr(ord("a") + place))) for place in range(DIMENSIONS)] for text in work.texts]
        return Vectors(rows=rows, prompt_tokens=sum(len(text.split()) for text in work.texts))

    async def aclose(self) -> None:
        """See ``Provider``."""
        await trio.lowlevel.checkpoint()


def _words(work: Generate) -> list[str]:
    """Return the last words that were said, each with the space before it."""
    content = work.prompt if work.prompt is not None else (work.messages or ({"content": ""},))[-1].get("content", "")
    if not isinstance(content, str):
        content = " ".join(part.get("text", "") for part in content)
    first, *others = content.split() or [""]
    return [first, *(f" {word}" for word in others)]
