"""One request on its way through the engine: what was asked, what came of it so far, what may be said of it now.

Knows tokens and text; nothing of models, batches or sampling. A request that was interrupted begins with the tokens
that it had: they are either read as a part of the prompt, or decoded again before the next is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from mlzoo.errors import Interrupted
from mlzoo.frames import FinishReason, Generate, ToolCallDelta
from mlzoo.inference.constraint import Constraint, Grammar
from mlzoo.inference.detokenizer import Detokenizer
from mlzoo.inference.prefixes import Restored
from mlzoo.inference.sampler import Draw
from mlzoo.inference.speculation import LONGEST, Speculation
from mlzoo.inference.stop import StopStrings
from mlzoo.inference.text import Naming
from mlzoo.inference.tool_calls import Reader, reader_of

if TYPE_CHECKING:
    from mlzoo.inference.text import Text
    from mlzoo.inference.tool_forms import ToolForm


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
    free: bool = False  # every forward of it is a step that takes any rows: its prompt may be cut anywhere
    cut: int = 0  # turns of its history that were left out
    leaves_nothing: bool = False  # something was forgotten while it ran
    guessed: list[int] = attrs.field(factory=list)  # tokens that the model was given beyond those that there are
    grammar: Grammar | None = None  # of the form that the answer must have
    constraint: Constraint | None = None  # the same, compiled
    images: dict[str, Any] = attrs.field(factory=dict)  # what the model is given with the first token, if it sees any
    reader: Reader | None = None  # what takes calls of tools out of the text
    has_called: bool = False
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

    def read_again(self) -> None:
        """Have the tokens that there are read in chunks, as a part of the prompt."""
        self.read += len(self.tokens) - self.decoded
        self.decoded = len(self.tokens)

    def known(self, most: int) -> list[int]:
        """Return the tokens that the model is given next, of those that there are."""
        return self.tokens[self.decoded : self.decoded + most]

    def look_ahead(self, most: int, price: float) -> None:
        """Guess what the next tokens may be, and begin to compute which are allowed.

        There are at most so many, and none that the answer has no room for.
        """
        most = min(most, self.limit - len(self.tokens) - 1)  # The token that follows the last guess is chosen as well.
        self.guessed = []
        if most > 0:
            if self._speculation is None:
                self._speculation = Speculation((*self.prompt, *self.tokens))
            self.guessed = self._speculation.guess(most, price)
        if self.constraint is not None:
            if most > 0:
                self.guessed = self.constraint.guess(self.guessed, min(most, LONGEST), price)
            self.constraint.look(self.guessed)

    def draws(self) -> list[Draw]:
        """Return how the next token is chosen, and how those are that follow what was guessed."""
        first, seen = len(self.prompt) + len(self.tokens), self.seen
        allowed = self.constraint.allowed() if self.constraint is not None else [None] * (len(self.guessed) + 1)
        draws = [Draw(self.frame.sampling, first, seen, allowed[0])]
        for place, token in enumerate(self.guessed, start=1):
            if seen is not None:
                seen = seen.clone()
                seen[token] = True
            draws.append(Draw(self.frame.sampling, first + place, seen, allowed[place]))
        return draws

    def why_none(self, error: Exception) -> Exception:
        """Return why no token could be chosen: the form of the answer is at fault where it cannot be followed."""
        return error if self.constraint is None else self.constraint.fault or error

    def take(self, token: int) -> str:
        """Add a token that does not end the answer; return the text that is certain now.

        Raises:
            FormRefusal: The form of the answer cannot be followed any further.
            DeadEnd: It does not allow the token.
        """
        if self.constraint is not None:
            self.constraint.take(token)
        self.add(token)
        text = self.stops.feed(self.detokenizer.feed(token))
        return text if self.reader is None else self.reader.feed(text)

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
        content += self.stops.finish()
        if self.reader is None:
            return content, reason
        content = self.reader.feed(content) + self.reader.finish()
        has_called = self.has_called or bool(self.reader.calls)
        return content, "tool_calls" if has_called and reason == "stop" else reason

    def calls(self) -> tuple[ToolCallDelta, ...]:
        """Return the pieces of calls that came and have not been told."""
        if self.reader is None or not self.reader.calls:
            return ()
        calls, self.reader.calls = tuple(self.reader.calls), []
        self.has_called = True
        return calls


def begin(
    frame: Generate,
    prompt: tuple[int, ...],
    limit: int,
    text: Text,
    seen: torch.Tensor | None = None,
    form: ToolForm | None = None,
) -> Running:
    """Return a request as it begins, or as it was when it was interrupted.

    Raises:
        Interrupted: Its tokens do not mean any more what they meant.
    """
    decoder = text if form is None or not form.special else Naming(text, form.special)
    running = Running(frame, prompt, limit, Detokenizer(decoder), StopStrings(frame.stop), seen, read=len(prompt))
    running.reader = reader_of(frame, form)
    if frame.resume is None:
        return running
    if not all(token < text.size for token in frame.tokens) or frame.said != "".join(map(running.take, frame.tokens)):
        raise Interrupted(
            f"{frame.model} reads its tokens in another way than when this began: it cannot be continued.",
            resumable=False,
        )
    running.calls()  # Those are told already.
    if frame.resume == "prefill":
        running.read_again()
    return running
