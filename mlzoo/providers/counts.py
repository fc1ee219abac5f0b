"""Numbers that a server says: believed only where they can be what they are called."""

from __future__ import annotations

from typing import Any

COUNT_MAX = 2**53  # Beyond it a reader that keeps numbers as doubles sees another one.


def count_of(value: Any) -> int | None:
    """Return a number of tokens, or None where a server says something else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else None
