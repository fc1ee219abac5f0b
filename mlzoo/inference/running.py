"""One request on its way through the engine: what was asked, what came of it so far, what may be said of it now.

Knows tokens and text; nothing of models, batches or sampling. A request that was interrupted begins with the tokens
that it had: they are either read as a part of the prompt, or decoded again before the next is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from mlzoo.errors import Interrupted
from mlzoo.frames import FinishReason, Generate
from mlzoo.inference.detokenizer import Detokenizer
from mlzoo.inference.prefixes import Restored
from mlzoo.inference.sampler import Draw
from mlzoo.inference.speculation import Speculation
from mlzoo.inference.stop import StopStrings

if TYPE_CHECKING:
    from mlzoo.inference.text import Text


@attrs.define
class Running:
    """A request on its way."""

    frame: Generate
    prompt: tuple[int, ...]
    limit: int  # tokens of the answer at most
    detokenizer: Detokenizer
    stops: StopStrings
    seen: torch.Tensor | None  # [vocabulary] bool: tokens of prompt and answer; only with a repetition penalty
    tokens: list[int] = attrs.field(factory=list)
    decoded: int = 0  # how many of the tokens the model has been given; the rest is still to be
    slot: int = -1
    restored: Restored = attrs.field(factory=Restored)  # what its slot had from the start
    read: int = 0  # tokens that are read in chunks, those among them that the slot had
    is_kept: bool = False  # whether what was read is kept for others already
    guessed: list[int] = attrs.field(factory=list)  # tokens that the model was given beyond those that there are
    _speculation: Speculation | None = None

    @property
    def to_read(self) -> tuple[int, ...]:
        """What is read in chunks before anything is decoded."""
        return (*self.prompt, *self.tokens[: self.decoded])

    @property
    def next_place(self) -> int:
        """Index of the token that the model is given next, in the whole sequence."""
        return len(self.prompt) + self.decoded

    @property
    def is_caught_up(self) -> bool:
        """Whether the model has been given all tokens, so that the next one can be chosen."""
        return self.decoded == len(self.tokens)

    @property
    def is_full(self) -> bool:
        """Whether no further token is wanted, or fits."""
        return len(self.tokens) >= self.limit

    def known(self, most: int) -> list[int]:
        """Return the tokens that the model is given next, of those that there are."""
        return self.tokens[self.decoded : self.decoded + most]

    def guess(self, most: int, price: float) -> list[int]:
        """Return what the next tokens may be: at most so many, and none that the answer has no room for."""
        if self._speculation is None:
            self._speculation = Speculation((*self.prompt, *self.tokens))
        # The token that follows the last guess is chosen as well.
        return self._speculation.guess(min(most, self.limit - len(self.tokens) - 1), price)

    def draws(self) -> list[Draw]:
        """Return how the next token is chosen, and how those are that follow what was guessed."""
        first, seen = len(self.prompt) + len(self.tokens), self.seen
        draws = [Draw(self.frame.sampling, first, seen)]
        for place, token in enumerate(self.guessed, start=first + 1):
            if seen is not None:
                seen = seen.clone()
                seen[token] = True
            draws.append(Draw(self.frame.sampling, place, seen))
        return draws

    def take(self, token: int) -> str:
        """Add a token that does not end the answer; return the text that is certain now."""
        self.add(token)
        return self.stops.feed(self.detokenizer.feed(token))

    def add(self, token: int) -> None:
        """Add a token that brings no text."""
        self.tokens.append(token)
        if self._speculation is not None:
            self._speculation.add(token)
        if self.seen is not None:
            self.seen[token] = True

    def finish(self, reason: FinishReason) -> tuple[str, FinishReason]:
        """End the answer: return the text that was held back, and why it ended after all."""
        # What is held back may complete a stop string, too; what is left of it then, is none.
        content = self.stops.feed(self.detokenizer.finish())
        reason = "stop" if self.stops.found else reason
        return content + self.stops.finish(), reason


def begin(frame: Generate, prompt: tuple[int, ...], limit: int, text: Text, seen: torch.Tensor | None) -> Running:
    """Return a request as it begins, or as it was when it was interrupted.

    Raises:
        Interrupted: Its tokens do not mean any more what they meant.
    """
    running = Running(frame, prompt, limit, Detokenizer(text), StopStrings(frame.stop), seen, read=len(prompt))
    if frame.resume is None:
        return running
    if not all(token < text.size for token in frame.tokens) or frame.said != "".join(map(running.take, frame.tokens)):
        raise Interrupted(
            f"{frame.model} reads its tokens in another way than when this began: it cannot be continued.",
            resumable=False,
        )
    if frame.resume == "prefill":
        running.decoded = len(frame.tokens)
        running.read += running.decoded
    return running
