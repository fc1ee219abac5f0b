"""The fewest threads with which a decode step of few rows is fast, where that changes no bit.

Knows decoders and torch's thread pool; nothing of requests. A step of one row is hundreds of small matrix products:
where threads sleep between them, waking a second one can take longer than its half of the work. So a model is asked
once, when it is loaded. Fewer threads also leave processors to the sidecar and its host.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FEW_ROWS = 4  # Above this a step is compute enough for all threads.
ROUNDS = 3  # in which each number of threads has a step; its fastest one counts, since others use the machine as well
SLACK = 1.1  # times as slow as the fastest number of threads, at most, a smaller one may be
HOPELESS = 1.5  # times as slow as the fastest so far: neither this nor an even smaller number is looked at further


class Steps(Protocol):
    """What is asked of a decoder here."""

    few_threads: int | None  # what a step of few rows computes with; None: all threads

    @property
    def slots(self) -> int:
        """Rows that may decode together."""

    @property
    def chunk(self) -> int | None:
        """Tokens of a prompt that one forward reads at most."""

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> torch.Tensor:
        """Read tokens into a slot from a position on; return the logits after the last one."""

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int], *, exact: bool = False
    ) -> torch.Tensor:
        """Read one token into each of some slots; return the logits after them."""


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Compute with so many threads; afterwards with as many as before."""
    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fewest(decoder: Steps, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return how many threads a step of few rows is to have.

    Args:
        decoder: Of the model; no request runs on it.
        clock: Seconds that pass.
    """
    most = torch.get_num_threads()
    took_s: dict[int, float] = {}
    threads = most
    while threads >= 1:
        _decode(decoder, 1, threads)  # Threads start, and memory is touched.
        step_s = _step_s(decoder, threads, clock)
        if step_s > min(took_s.values(), default=step_s) * HOPELESS:
            break
        took_s[threads] = step_s
        threads //= 2
    for _ in range(ROUNDS - 1):
        for threads, step_s in took_s.items():
            took_s[threads] = min(step_s, _step_s(decoder, threads, clock))
    enough_s = min(took_s.values()) * SLACK
    quick = sorted(threads for threads, step_s in took_s.items() if step_s <= enough_s)
    return next((threads for threads in quick if _computes_the_same(decoder, threads, most)), most)


def change_no_bit(decoder: Steps) -> bool:
    """Return whether exact steps and prompts compute the same with every number of threads up to that of now."""
    most = torch.get_num_threads()
    expected = _computed(decoder)
    for fewer in range(1, most):
        with using(fewer):
            if not all(map(torch.equal, expected, _computed(decoder))):
                return False
    return True


def _computed(decoder: Steps) -> list[torch.Tensor]:
    """Return the logits of a chunk of a prompt, and of steps of all sizes after it."""
    found = [decoder.prefill(0, range(decoder.chunk or 1), 0)]
    rows = 1
    while rows <= decoder.slots:
        found.append(decoder.decode(range(rows), range(rows), [0] * rows, exact=True))
        rows *= 2
    return found


def _step_s(decoder: Steps, threads: int, clock: Callable[[], float]) -> float:
    began = clock()
    _decode(decoder, 1, threads)
    return clock() - began


def _computes_the_same(decoder: Steps, threads: int, others: int) -> bool:
    return all(
        torch.equal(_decode(decoder, rows, threads, exact=True), _decode(decoder, rows, others, exact=True))
        for rows in range(1, min(FEW_ROWS, decoder.slots) + 1)
    )


def _decode(decoder: Steps, rows: int, threads: int, *, exact: bool = False) -> torch.Tensor:
    """Decode one token at the beginning of some slots: the next request writes over it."""
    decoder.few_threads = threads
    try:
        return decoder.decode(range(rows), range(rows), [0] * rows, exact=exact)
    finally:
        decoder.few_threads = None
