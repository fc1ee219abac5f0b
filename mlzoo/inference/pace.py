"""How many tokens of a prompt are read between two steps of rows that decode: what takes as long as some steps do.

Knows what readings and steps took; nothing of whose they were. For prompts that may be cut anywhere, so that no bit
depends on a clock.
"""

from __future__ import annotations

STEPS = 2  # that rows wait for at most, beside their own, while a prompt is read
FEWEST, MOST = 8, 256  # tokens
FIRST = 32  # while nothing is known yet
RECENT = 0.25  # what the latest measurement weighs
MOST_GROWTH = 1.5  # of what is known, that one measurement counts for: another program had the processor


class Pace:
    """What was measured, and what follows from it."""

    def __init__(self) -> None:
        self._step_s: float | None = None
        self._token_s: float | None = None

    def stepped(self, took_s: float) -> None:
        """A step of rows that decode took so long."""
        self._step_s = _mean(self._step_s, took_s)

    def read(self, tokens: int, took_s: float) -> None:
        """To read so many tokens took so long; of a few it is the forward that takes it, and says nothing of more."""
        if tokens < FEWEST:
            return
        self._token_s = _mean(self._token_s, took_s / tokens)

    @property
    def tokens(self) -> int:
        """How many are read between two steps."""
        if self._step_s is None or not self._token_s:
            return FIRST
        return min(max(int(STEPS * self._step_s / self._token_s), FEWEST), MOST)


def _mean(known: float | None, latest: float) -> float:
    return latest if known is None else known + RECENT * (min(latest, known * MOST_GROWTH) - known)
