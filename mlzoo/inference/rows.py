"""The rows of a forward: a token for each, where it stands, and in which slot. Knows nothing of who computes them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


class StepsLost(Exception):
    """The machine's fault: compiled steps that requests depend on do not run any more; this process must end."""


@attrs.frozen(eq=False)
class Rows:
    """What a step is given."""

    slots: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]

    def times(self, height: int) -> Rows:
        """Return the first row, so many times."""
        return Rows(list(self.slots[:1]) * height, list(self.tokens[:1]) * height, list(self.positions[:1]) * height)


@attrs.frozen
class Part:
    """Tokens of a prompt that are read into a slot, from a position on."""

    slot: int
    tokens: Sequence[int]
    start: int


def rows_of(parts: Sequence[Part]) -> Rows:
    """Return the rows that some parts of prompts are, one after the other."""
    return Rows(
        [part.slot for part in parts for _ in part.tokens],
        [token for part in parts for token in part.tokens],
        [part.start + place for part in parts for place in range(len(part.tokens))],
    )
