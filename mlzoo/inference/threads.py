"""How many threads a decode step of few rows runs fastest with, where that changes no bit.

Knows decoders and torch's thread pool; nothing of requests. A step of one row is hundreds of small matrix products:
where threads sleep between them, waking a second one can take longer than its half of the work. So a model is asked
once, when it is loaded. Fewer threads also leave processors to the sidecar and its host.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.inference.decoder import SlotDecoder

FEW_ROWS = 4  # Above this a step is compute enough for all threads.
STEPS = 3  # timed for each number of threads, of which the fastest counts
GAIN = 1.1  # times as fast, at least, for all threads to be given up
HOPELESS = 1.3  # times as slow as the best so far: even fewer threads are not tried


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


def fastest(decoder: SlotDecoder, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return how many threads a step of few rows is to have.

    Args:
        decoder: Of the model; no request runs on it.
        clock: Seconds that pass.
    """
    most = torch.get_num_threads()
    best, best_s = most, _step_s(decoder, most, clock) / GAIN
    threads = most // 2
    while threads >= 1:
        step_s = _step_s(decoder, threads, clock)
        if step_s < best_s and _computes_the_same(decoder, threads, most):
            best, best_s = threads, step_s
        elif step_s > best_s * HOPELESS:
            break
        threads //= 2
    return best


def _step_s(decoder: SlotDecoder, threads: int, clock: Callable[[], float]) -> float:
    _decode(decoder, 1, threads)  # Threads start, and memory is touched.
    took_s = []
    for _ in range(STEPS):
        began = clock()
        _decode(decoder, 1, threads)
        took_s.append(clock() - began)
    return min(took_s)


def _computes_the_same(decoder: SlotDecoder, threads: int, others: int) -> bool:
    return all(
        torch.equal(_decode(decoder, rows, threads), _decode(decoder, rows, others))
        for rows in range(1, min(FEW_ROWS, decoder.slots) + 1)
    )


def _decode(decoder: SlotDecoder, rows: int, threads: int) -> torch.Tensor:
    """Decode one token at the beginning of some slots: the next request writes over it."""
    decoder.few_threads = threads
    try:
        return decoder.decode(range(rows), range(rows), [0] * rows)
    finally:
        decoder.few_threads = None
