"""Guesses at a row's next tokens from its own: what followed the last time that its latest tokens stood together.

As long as that is right, it is gone on with. Whoever copies from a prompt, or repeats, is guessed right for many tokens
on end; the model then reads several of them in one forward, each in a row of its own, and keeps those that it would
have chosen. Knows tokens alone; nothing of models, slots or time. Whether a guess is worth a row is asked of the
guesses before: they are compared with what came also while none is read, so that nothing needs to be tried to learn
that nothing is to be gained, or again is.

Source: prompt look-up decoding, Saxena 2023, after speculative decoding, Leviathan et al. 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST = 7  # tokens that are guessed at once: with the one that is known, a forward of 8 rows
SEQUENCES = 4  # Above this, a row costs nearly what a token does.
ROW_PRICE = 0.15  # of a token, for each sequence and one more: what a further row adds to a step, beside what it gives
HOPES = {3: 0.6, 2: 0.5}  # how often a guess is right that rests on so many tokens, before any was seen
PATIENCE = 4  # guesses after which an average has forgotten about two thirds of what it was


def price(sequences: int) -> float:
    """Return how likely a guess must be right for its row to be worth it where so many sequences decode."""
    return ROW_PRICE * (1 + sequences)


class Speculation:
    """The guesses of one row.

    For each run of two or three tokens it is noted where it stood last and was followed by another: adding a token and
    guessing take the same few steps, however long the text is.

    Args:
        tokens: The text so far.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens = list(tokens)
        self._follows = {size: _follows(self._tokens, size) for size in HOPES}
        self._right = dict(HOPES)  # how often guesses were right of late, by the number of tokens they rest on
        self._size = 0  # tokens that the guess in hand rests on
        self._source: int | None = None  # place of what is guessed next; None: there is no guess

    def guess(self, most: int, price: float) -> list[int]:
        """Return the next tokens as far as they are likely enough, none where they are not.

        Args:
            most: How many there may be.
            price: How likely a token must be, together with all before it.
        """
        if self._source is None:  # Else the text goes on as it did there: whoever copies does not jump.
            self._look_up()
        if self._source is None:
            return []
        right = self._right[self._size]
        guessed: list[int] = []
        likely = right
        while likely >= price and len(guessed) < min(most, LONGEST):
            # What is guessed may itself be what a repetition goes on with.
            beyond = self._source + len(guessed) - len(self._tokens)
            guessed.append(self._tokens[beyond] if beyond < 0 else guessed[beyond])
            likely *= right
        return guessed

    def add(self, token: int) -> None:
        """Take in the token that came, whatever was guessed."""
        if self._source is not None:
            is_right = self._tokens[self._source] == token
            self._right[self._size] += (is_right - self._right[self._size]) / PATIENCE
            self._source = self._source + 1 if is_right else None
            self._size = min(self._size + 1, max(HOPES))  # where the text goes on as it did there
        end = len(self._tokens)
        for size, follows in self._follows.items():
            if size <= end:
                follows[tuple(self._tokens[-size:])] = end
        self._tokens.append(token)

    def _look_up(self) -> None:
        for size, follows in self._follows.items():
            self._source = follows.get(tuple(self._tokens[-size:]))
            if self._source is not None:
                self._size = size
                return


def _follows(tokens: Sequence[int], size: int) -> dict[tuple[int, ...], int]:
    """Return where each run of so many tokens stood last, as the place of the token after it."""
    runs = zip(*(tokens[start:] for start in range(size)), strict=False)
    return dict(zip(runs, range(size, len(tokens)), strict=False))  # The last run has nothing after it.
