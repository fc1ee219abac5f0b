"""When words are said: the first of an answer and the last at once, those between them gathered for a moment.

Each message of a worker costs its sidecar a record, a line for each row and a turn of its event loop, on the processors
that compute the next step: 16 rows took a tenth of a step. Nobody sees words that come more often than a screen is
drawn, so what steps bring is held for about that long, and goes together. It goes while tokens are chosen, which takes
one processor: the sidecar has another. Nothing is held while anything that takes long lies ahead, whether its steps do
so or whoever knows says so. Knows frames; nothing of models or sockets.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from mlzoo.frames import FromWorker, Row, Stepped
from mlzoo.frames_joined import hold

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 0.016  # words are said no more often: a screen is drawn 60 times a second
LONG_STEP_S = 0.04  # of a step that is as long, nothing is held until the next one is computed


class Saying:
    """What is held of the words of one process.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, Row] = {}
        self._said_s = self._stepped_s = clock()

    def after(self, said: list[FromWorker], *, may_wait: bool) -> list[FromWorker]:
        """Return what is to be said at once after a step; the rest is held.

        Args:
            said: What came of the step.
            may_wait: Whether nothing but a step like it is next.
        """
        began_s, self._stepped_s = self._stepped_s, self._clock()
        steps = [frame for frame in said if isinstance(frame, Stepped) and all(map(_is_between, frame.rows))]
        if not may_wait or len(steps) < len(said) or self._stepped_s - began_s > LONG_STEP_S:
            return [*self.held(), *said]
        for row in chain.from_iterable(step.rows for step in steps):
            hold(self._held, row)
        return []

    def due(self) -> list[FromWorker]:
        """Return what is held where it is time to say it."""
        return self.held() if self._clock() - self._said_s >= EVERY_S else []

    def held(self) -> list[FromWorker]:
        """Return what is held, as it is to be said now."""
        if not self._held:
            return []
        self._said_s = self._clock()
        rows, self._held = tuple(self._held.values()), {}
        return [Stepped(rows=rows)]

    def forget(self, request: str) -> None:
        """Drop what is held of a request that nobody wants any more."""
        self._held.pop(request, None)


def _is_between(row: Row) -> bool:
    """Whether a row is neither the first of its answer nor the last; a summary comes before the first."""
    return row.prompt_tokens is None and row.finish_reason is None and row.summary is None
