"""Memory of sidecar and workers while models come and go: ``python bench/cycles.py [--rounds N] [--json FILE]``.

Needs the weights of smollm2 and minilm (``mlzoo models pull``). A cycle loads each of the two, has it answer, and
unloads it; after each cycle the resident sets of all processes are added up, and where the system knows them the
proportional ones too, which are smaller when neighbours happen to use the same libraries. In the first run each is
alone: its worker process leaves with it. In the second one there is always one loaded when the other one goes, so that
one worker process lives through all of it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import TYPE_CHECKING

import attrs
import psutil
from measure import Row, compare, main
from prompts import long
from stream import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CYCLES = 20
CHAT, EMBED = "smollm2", "minilm"
PROMPT_WORDS = 300
TOKENS = 24
TEXTS = [f"{number} bees in the garden of {number} keepers " * 20 for number in range(16)]
ALLOWED = "<= 1.05"
LEAVES_S = 30.0  # within which a worker process must have gone
LOOK_EVERY_S = 0.05


@attrs.frozen
class Held:
    """By all processes."""

    resident_mb: float
    share_mb: float


class Memory:
    """What the process tree of a sidecar holds."""

    def __init__(self, pid: int) -> None:
        self._sidecar = psutil.Process(pid)

    def workers(self) -> list[psutil.Process]:
        return self._sidecar.children(recursive=True)

    def held(self) -> Held:
        processes = (self._sidecar, *self.workers())
        resident = sum(process.memory_info().rss for process in processes)
        return Held(resident / 1e6, sum(map(_share_bytes, processes)) / 1e6)

    def wait_alone(self) -> None:
        """Wait until no worker process is left."""
        until = time.monotonic() + LEAVES_S
        while self.workers():
            assert time.monotonic() < until, "the worker process did not leave"
            time.sleep(LOOK_EVERY_S)


def _share_bytes(process: psutil.Process) -> int:
    """Return the proportional set size, 0 where nobody knows it."""
    return int(process.memory_full_info().pss) if sys.platform == "linux" else 0


def work(host: Host, model: str, cycle: int) -> None:
    """Load a model and have it answer what it never read before."""
    host.call("models.load", {"model": model})
    if model == EMBED:
        host.call("embed", {"model": EMBED, "input": [f"{cycle} {text}" for text in TEXTS]})
    else:
        messages = long(PROMPT_WORDS, cycle)
        host.call("chat", {"model": CHAT, "messages": messages, "max_tokens": TOKENS})


def each_alone(host: Host, memory: Memory) -> Iterator[Held]:
    """Yield what is held after each unload, nothing being loaded then."""
    for cycle in range(CYCLES):
        for model in (CHAT, EMBED):
            work(host, model, cycle)
            host.call("models.unload", {"model": model})
            memory.wait_alone()
        yield memory.held()


def in_turn(host: Host, memory: Memory) -> Iterator[Held]:
    """Yield what is held after each unload of the model that chats, the other one being loaded."""
    for cycle in range(CYCLES):
        work(host, CHAT, cycle)
        if cycle:
            host.call("models.unload", {"model": EMBED})
        work(host, EMBED, cycle)
        host.call("models.unload", {"model": CHAT})
        yield memory.held()


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for what, cycles in (("nothing is loaded", each_alone), (f"{EMBED} is loaded", in_turn)):
        runs = [one_run(cycles) for _ in range(rounds)]
        firsts = [run[0].resident_mb for run in runs]
        lasts = [run[-1].resident_mb for run in runs]
        mosts = [max(held.resident_mb for held in run) for run in runs]
        peer = "after the first"
        rows += [
            compare(f"memory after {CYCLES} cycles, {what}", "MB", lasts, peer, firsts, ALLOWED),
            compare(f"the most after any of them, {what}", "MB", mosts, peer, firsts),
        ]
        if runs[0][0].share_mb:
            shares = [run[-1].share_mb for run in runs]
            first_shares = [run[0].share_mb for run in runs]
            rows.append(compare(f"the same as shares, {what}", "MB", shares, peer, first_shares))
    return rows


def one_run(cycles: Callable[[Host, Memory], Iterator[Held]]) -> list[Held]:
    with tempfile.TemporaryDirectory() as log:
        serve = [sys.executable, "-m", "mlzoo", "serve", "--log", log]
        with Host(serve) as host:
            held = []
            for now in cycles(host, Memory(host.pid)):
                held.append(now)
                print(
                    f"{len(held)}: {now.resident_mb:.1f} MB, shares {now.share_mb:.1f} MB", file=sys.stderr, flush=True
                )
            host.leave()
    return held


if __name__ == "__main__":
    main("Models that come and go", measure, rounds=1)
