"""Memory of sidecar and workers while models come and go: ``python bench/cycles.py [--rounds N] [--json FILE]``.

Needs the weights of smollm2 and minilm (``mlzoo models pull``). A cycle loads each of the two, has it answer, and
unloads it; after each unload the proportional set sizes of the whole process tree are added up (resident ones where the
system knows no others). In the first run each is alone: its worker process leaves with it. In the second one there is
always one loaded when the other one goes, so that one worker process lives through all of it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import TYPE_CHECKING

import psutil
from measure import Row, compare, main
from prompts import long
from stream import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

CYCLES = 20
CHAT, EMBED = "smollm2", "minilm"
PROMPT_WORDS = 300
TOKENS = 24
TEXTS = [f"{number} bees in the garden of {number} keepers " * 20 for number in range(16)]
ALLOWED = "<= 1.05"
LEAVES_S = 30.0  # within which a worker process must have gone
LOOK_EVERY_S = 0.05


class Memory:
    """What the process tree of a sidecar holds."""

    def __init__(self, pid: int) -> None:
        self._sidecar = psutil.Process(pid)

    def workers(self) -> list[psutil.Process]:
        return self._sidecar.children(recursive=True)

    def total_mb(self) -> float:
        return sum(_held_bytes(process) for process in (self._sidecar, *self.workers())) / 1e6

    def wait_alone(self) -> None:
        """Wait until no worker process is left."""
        until = time.monotonic() + LEAVES_S
        while self.workers():
            assert time.monotonic() < until, "the worker process did not leave"
            time.sleep(LOOK_EVERY_S)


def _held_bytes(process: psutil.Process) -> int:
    if sys.platform == "linux":
        return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)


def work(host: Host, model: str, cycle: int) -> None:
    """Load a model and have it answer what it never read before."""
    host.call("models.load", {"model": model})
    if model == EMBED:
        host.call("embed", {"model": EMBED, "input": [f"{cycle} {text}" for text in TEXTS]})
    else:
        messages = long(PROMPT_WORDS, cycle)
        host.call("chat", {"model": CHAT, "messages": messages, "max_tokens": TOKENS})


def each_alone(host: Host, memory: Memory) -> Iterator[float]:
    """Yield what is held after each unload, nothing being loaded then."""
    for cycle in range(CYCLES):
        for model in (CHAT, EMBED):
            work(host, model, cycle)
            host.call("models.unload", {"model": model})
            memory.wait_alone()
        yield memory.total_mb()


def in_turn(host: Host, memory: Memory) -> Iterator[float]:
    """Yield what is held after each unload of the model that chats, the other one being loaded."""
    for cycle in range(CYCLES):
        work(host, CHAT, cycle)
        if cycle:
            host.call("models.unload", {"model": EMBED})
        work(host, EMBED, cycle)
        host.call("models.unload", {"model": CHAT})
        yield memory.total_mb()


def measure(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for what, cycles in (("nothing is loaded", each_alone), (f"{EMBED} is loaded", in_turn)):
        firsts: list[float] = []
        lasts: list[float] = []
        mosts: list[float] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as log:
                serve = [sys.executable, "-m", "mlzoo", "serve", "--log", log]
                with Host(serve) as host:
                    held_mb = list(cycles(host, Memory(host.pid)))
                    host.leave()
            print(f"{what}: {', '.join(f'{mb:.1f}' for mb in held_mb)} MB", file=sys.stderr)
            firsts.append(held_mb[0])
            lasts.append(held_mb[-1])
            mosts.append(max(held_mb))
        rows += [
            compare(f"memory after {CYCLES} cycles, {what}", "MB", lasts, "after the first", firsts, ALLOWED),
            compare(f"the most after any of them, {what}", "MB", mosts, "after the first", firsts),
        ]
    return rows


if __name__ == "__main__":
    main("Models that come and go", measure, rounds=1)
