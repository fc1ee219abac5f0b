"""Small names for random ids, so that a session recorded again differs where it differs."""

from __future__ import annotations

import re
from typing import Any

_RANDOM = re.compile(r"(?P<digest>[0-9a-f]{64}-)?(?P<prefix>req|conv|con|sub|b)-(?P<random>[0-9a-z]{8,})")


class Names:
    """Ids in the order in which they are met: ``req-1``, ``req-2``, ``con-1``; a blob keeps its digest."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self.also: dict[str, str] = {}  # other strings that are replaced wherever they stand alone

    def name(self, text: str) -> str:
        """Return what stands for a string; itself, where it is no id."""
        known = self._given.get(text) or self.also.get(text)
        if known is not None:
            return known
        match = _RANDOM.fullmatch(text)
        if match is None:
            return text
        prefix = match["prefix"]
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        given = self._given[text] = f"{match['digest'] or ''}{prefix}-{self._counts[prefix]}"
        return given

    def meant(self, name: str) -> str:
        """Return the id that a name was given to; the name itself, where it is none."""
        return next((text for text, given in self._given.items() if given == name), name)

    def known(self, text: str) -> str | None:
        """Return the name that an id has been given, or None where it has not been met yet; a given name is its own."""
        return self._given.get(text) or (text if text in self._given.values() else None)

    def renamed(self, value: Any) -> Any:
        """Return JSON with each id in it replaced."""
        if isinstance(value, str):
            return self.name(value)
        if isinstance(value, dict):
            return {self.name(key): self.renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.renamed(item) for item in value]
        return value
