"""The fewest threads with which a decode step of few rows is fast.

Knows decoders and torch's thread pool; nothing of requests, or of bits that may depend on threads (``kernels`` does).
A step of one row is hundreds of small matrix products: where threads sleep between them, waking a second one can take
longer than its half of the work. So a model is asked once, when it is loaded. Fewer threads also leave processors to
the sidecar and its host.
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
        _decode(decoder, threads)  # Threads start, and memory is touched.
        step_s = _step_s(decoder, threads, clock)
        if step_s > min(took_s.values(), default=step_s) * HOPELESS:
            break
        took_s[threads] = step_s
        threads //= 2
    for _ in range(ROUNDS - 1):
        for threads, step_s in took_s.items():
            took_s[threads] = min(step_s, _step_s(decoder, threads, clock))
    enough_s = min(took_s.values()) * SLACK
    return min(threads for threads, step_s in took_s.items() if step_s <= enough_s)


def _step_s(decoder: Steps, threads: int, clock: Callable[[], float]) -> float:
    began = clock()
    _decode(decoder, threads)
    return clock() - began


def _decode(decoder: Steps, threads: int) -> None:
    """Decode one token at the beginning of a slot: the next request writes over it."""
    decoder.few_threads = threads
    try:
        decoder.decode([0], [0], [0])
    finally:
        decoder.few_threads = None
