"""Stop strings in a stream of text, across the borders of its pieces.

Knows text alone. The stop string that is complete first ends the text; of several that are complete at the same
character, the longest. So the result does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopStrings:
    """Watches one stream; ``found`` once a stop string was complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take the next piece; return the text that certainly lies before any stop string."""
        if not self._stops or self.found:
            return "" if self.found else text
        held = self._held + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := held.find(stop)) >= 0]
        if matches:
            self.found = True
            self._held = ""
            return held[: min(matches)[1]]
        open_from = len(held) - self._overlap(held)
        self._held = held[open_from:]
        return held[:open_from]

    def finish(self) -> str:
        """Return what was held back: no text follows, so that no stop string begins in it."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Return how many characters at the end of the text may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
