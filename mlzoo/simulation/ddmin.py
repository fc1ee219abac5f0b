"""Delta debugging: the smallest part of a list that still fails (ddmin; Zeller and Hildebrandt 2002).

Knows neither what the units are nor what failing means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
HALVES = 2  # Of which each is what the other leaves.


def ddmin(units: tuple[T, ...], fails: Callable[[tuple[T, ...]], bool]) -> Iterator[tuple[T, ...]]:
    """Yield ever smaller parts that fail, in the order of the units; from the last one no single unit can be taken.

    Whoever stops listening, for lack of time say, has the smallest part so far.
    """
    parts = HALVES
    while units:
        size = -(-len(units) // parts)
        chunks = [units[start : start + size] for start in range(0, len(units), size)]
        rests = [_without(units, number, size) for number in range(len(chunks))]
        candidates = [()] if len(units) == 1 else chunks if len(chunks) == HALVES else [*chunks, *rests]
        smaller = next((candidate for candidate in candidates if fails(candidate)), None)
        if smaller is not None:
            parts = HALVES if smaller in chunks else max(parts - 1, HALVES)
            units = smaller
            yield units
        elif parts >= len(units):
            return
        else:
            parts = min(len(units), parts * 2)


def _without(units: tuple[T, ...], number: int, size: int) -> tuple[T, ...]:
    return (*units[: number * size], *units[(number + 1) * size :])
