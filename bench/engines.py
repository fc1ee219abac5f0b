"""Tokens per second of 1, 4 and 16 streams through the whole sidecar, beside other engines on the same weights.

``python bench/engines.py [--rounds N] [--json FILE]``. Installs the peers in bench/.peers (llama.cpp is compiled, which
takes minutes and a C++ compiler) and draws bench/plots/throughput.svg.

A figure is the number of tokens said, by the time from the first request's being sent to the last one's end: prompts
are read within it. All choose greedily, 96 tokens to each prompt; the prompts are new ones each time, of equal lengths.
Ours is the sidecar as a user has it, over NDJSON, everything recorded: once its compiled steps are there, and beside it
one that was installed as a wheel where there is no C++ compiler (eager), and one that may have nothing but torch's own
kernels. `transformers serve` is asked over HTTP; the others are called
in their own process.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import plots
from measure import PeerMissing, Row, compare, interleave, main
from prompts import story
from rivals import (
    BENCH,
    LLAMA,
    MODEL,
    OPENVINO,
    Rival,
    Served,
    environment,
    fastest_dtype,
    gguf,
    weights,
    without_compiler,
)
from stream import Host, result_of
from warming import warm

from mlzoo.inference import process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOKENS = 96
WAKING = 8  # tokens of what each side is asked before it is measured: pages of who is idle are taken by some systems
STREAMS = (1, 4, 16)
PEER_SCRIPTS = BENCH / "peers"
TARGETS: Mapping[str, tuple[str, str, str]] = {  # of ours divided by theirs, at 1, 4 and 16 streams
    "llama.cpp": (">= 0.9", ">= 1.5", ">= 2.4"),
    "OpenVINO GenAI": (">= 1.2", ">= 1.05", ">= 0.95"),
    "transformers serve, continuous batching": (">= 3.5", ">= 2.8", ">= 2"),
    "transformers serve": ("", "", ""),
    "generate": ("", "", ""),
    "the engine alone": ("", "", ">= 0.96"),
}
EAGER_TARGETS: Mapping[tuple[str, str, str], tuple[str, str, str]] = {
    ("eager", "eager", "llama.cpp"): (">= 0.65", ">= 1.2", ">= 1.9"),
    ("plain", "eager, torch's kernels alone", "llama.cpp"): ("", "", ""),
}
CHAPTERS = itertools.count(100)  # Each asking is of new prompts: nobody knows them from before.
EXACT_TARGETS = {1: ">= 0.4", 16: ">= 0.7"}


def rate(host: Host, streams: int, determinism: str = "fast") -> float:
    """Return the rate of a sidecar that has just been woken: while others were measured, it was idle for minutes."""
    tokens_per_second(host, streams, determinism, WAKING)
    return tokens_per_second(host, streams, determinism)


def tokens_per_second(host: Host, streams: int, determinism: str = "fast", tokens: int = TOKENS) -> float:
    """Return the rate of so many chats that are sent at once, their prompts read within the time."""
    greedy = {"temperature": 0, "repetition_penalty": 1}  # as the peers, whatever the model's entry says
    params = {"model": MODEL, **greedy, "max_tokens": tokens, "stream": True, "determinism": determinism}
    chapter = next(CHAPTERS)
    start = time.perf_counter()
    open_ids = {host.send("chat", {**params, "messages": story(number, chapter)}) for number in range(streams)}
    count = 0
    while open_ids:
        message = host.receive()
        if "id" in message:
            open_ids.discard(message["id"])
            count += result_of(message)["usage"]["completion_tokens"]
    return count / (time.perf_counter() - start)


def prompts(host: Host, streams: int) -> list[dict[str, Any]]:
    """Return the prompts as peers take them: messages, and the tokens of those by our tokenizer, for all the same."""
    made, chapter = [], next(CHAPTERS)
    for number in range(streams):
        messages = story(number, chapter)
        ids = host.call("tokenize", {"model": MODEL, "messages": messages})["tokens"]
        made.append({"messages": messages, "ids": ids})
    return made


def starters(context: int) -> dict[str, Callable[[], Rival]]:
    """Return how each peer is started; what is not installed is installed then.

    Our engine alone has slots of as many tokens as the sidecar's, however little memory the peers leave.
    """
    threads = str(process.usable_processors())

    def script(python: str, name: str, *arguments: str) -> Rival:
        return Rival([python, str(PEER_SCRIPTS / name), *arguments])

    own = sys.executable
    return {
        "llama.cpp": lambda: script(environment("llama", LLAMA), "llama_batch.py", str(gguf()), threads),
        "OpenVINO GenAI": lambda: script(environment("openvino", OPENVINO), "openvino_paged.py", str(gguf())),
        "transformers serve, continuous batching": lambda: Served("--continuous-batching"),
        "transformers serve": Served,
        "generate": lambda: script(own, "plain_generate.py", str(weights()), threads, fastest_dtype()),
        "the engine alone": lambda: script(own, "bare_engine.py", MODEL, str(context)),
    }


def rival_rate(rival: Rival | None, host: Host, streams: int) -> float:
    if rival is None:
        raise PeerMissing
    rival.rate(prompts(host, streams), WAKING)
    return rival.rate(prompts(host, streams), TOKENS)


def start(stack: ExitStack, context: int) -> dict[str, Rival | None]:
    """Start all peers and have each say something, one after the other; None stands for one that cannot run here."""
    rivals: dict[str, Rival | None] = {}
    for name, starter in starters(context).items():
        try:
            rivals[name] = rival = stack.enter_context(starter())
            rival.suspend()
        except PeerMissing:
            print(f"{name} cannot run here.")
            rivals[name] = None
    return rivals


def measure(rounds: int) -> list[Row]:
    serve = [sys.executable, "-m", "mlzoo", "serve"]
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryDirectory())
        host = stack.enter_context(Host([*serve, "--log", f"{log}/compiled"]))
        print(f"Compiled steps: {warm(host, MODEL)}", flush=True)
        eager = stack.enter_context(Host([*serve, "--log", f"{log}/eager"], without_compiler()))
        print(f"Without a compiler: {warm(eager, MODEL)}", flush=True)
        plain = stack.enter_context(Host([*serve, f"models.{MODEL}.compile=none", "--log", f"{log}/plain"]))
        warm(plain, MODEL)
        rivals = start(stack, host.call("models.info", {"model": MODEL})["chosen"]["context"])
        measures: dict[str, Callable[[], float]] = {}
        for streams in STREAMS:
            measures[f"ours {streams}"] = partial(rate, host, streams)
            measures[f"eager {streams}"] = partial(rate, eager, streams)
            measures[f"plain {streams}"] = partial(rate, plain, streams)
            if streams in EXACT_TARGETS:
                measures[f"exact {streams}"] = partial(rate, host, streams, "exact")
            for name, rival in rivals.items():
                measures[f"{name} {streams}"] = partial(rival_rate, rival, host, streams)
        values = interleave(rounds, measures)
        host.leave()
        eager.leave()
        plain.leave()
    draw(values)
    return rows(values)


def rows(values: Mapping[str, list[float]]) -> list[Row]:
    made = [
        compare(what(streams), "tokens/s", values[f"ours {streams}"], name, values[f"{name} {streams}"], target)
        for name, targets in TARGETS.items()
        for streams, target in zip(STREAMS, targets, strict=True)
    ]
    eager = [
        compare(f"{what(n)}, {how}", "tokens/s", values[f"{side} {n}"], name, values[f"{name} {n}"], target)
        for (side, how, name), targets in EAGER_TARGETS.items()
        for n, target in zip(STREAMS, targets, strict=True)
    ]
    exact = [
        compare(f"{what(n)}, exact", "tokens/s", values[f"exact {n}"], "fast", values[f"ours {n}"], target)
        for n, target in EXACT_TARGETS.items()
    ]
    return [*made, *eager, *exact]


def what(streams: int) -> str:
    return "one stream" if streams == 1 else f"{streams} streams together"


def draw(values: Mapping[str, list[float]]) -> None:
    """Draw the medians of all engines."""
    names = {
        "mlzoo": "ours",
        "mlzoo, eager": "eager",
        "mlzoo, torch's kernels": "plain",
        "mlzoo, exact": "exact",
        **{name: name for name in TARGETS if name != "the engine alone"},
    }
    bars = {
        label: [median(found) if (found := values.get(f"{name} {n}")) else None for n in STREAMS]
        for label, name in names.items()
    }
    groups = [f"{streams} stream{'s' if streams > 1 else ''}" for streams in STREAMS]
    plots.write("throughput", plots.bars("Tokens per second, prompts included", groups, bars))


if __name__ == "__main__":
    main("Engines", measure)
