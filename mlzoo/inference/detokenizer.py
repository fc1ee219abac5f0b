"""Tokens to text, one token at a time: only text that no later token can change is given out.

Knows a tokenizer and one row's tokens; nothing of stop strings, batches or frames. What was given out, joined,
is the tokenizer's decoding of all tokens: a character whose bytes are not all there yet is held back, and so is a run
of byte tokens (``<0x0A>``) that may still grow, because such a run is decoded as one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Decoder(Protocol):
    """Tokens to text, all at once; special tokens leave no text."""

    byte_tokens: frozenset[int]
    silent_tokens: frozenset[int]  # special tokens: they leave no text, and do not even end a run of byte tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""


def byte_tokens(vocabulary: dict[str, int]) -> frozenset[int]:
    """Return the tokens of a vocabulary that stand for single bytes."""
    return frozenset(token for text, token in vocabulary.items() if _BYTE_TOKEN.fullmatch(text))


class Detokenizer:
    """The text of one row. Decodes a window of the last few tokens, so that a step's cost does not grow."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        self._given = 0  # how many of the window's tokens are given out as text
        self._given_text = ""  # what they decode to, within the window

    def feed(self, token: int) -> str:
        """Take the next token; return the text that is certain now, which may be empty."""
        self._window.append(token)
        if token in self._decoder.byte_tokens or token in self._decoder.silent_tokens:
            return ""
        text = self._decoder.decode(self._window)
        if text.endswith(_REPLACEMENT):
            return ""
        return self._give(text)

    def finish(self) -> str:
        """Return what was held back: no token follows."""
        return self._give(self._decoder.decode(self._window))

    def _give(self, text: str) -> str:
        new = text[len(self._given_text) :]
        if new:
            # Tokens that are given out stay in the window for one more round, as the context in which a decoder
            # sees what follows (a space at the very beginning of a text is dropped, for instance). They must have
            # brought text: special tokens alone are no context.
            self._window = self._window[self._given :]
            self._given = len(self._window)
            self._given_text = self._decoder.decode(self._window)
        return new
