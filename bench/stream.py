"""Streams through the whole sidecar against the same decode loop called bare, and how late its event loop is meanwhile.

``python bench/stream.py [--rounds N] [--json FILE]``. Needs the weights of smollm2 (``mlzoo models pull smollm2``).

Both sides read the same prompt and choose greedily, with the same threads and wait policy, in processes that stay: one
generates while the other waits. The host is Python and only reads lines. A rate is that of all tokens after the first
piece, up to the end of the last stream; so of one stream its prompt is left out, on both sides alike.

Lateness is measured by one task more in the sidecar's event loop (peers/ticking_sidecar.py). Round trips of pings are
what a host sees of an unchanged sidecar: they hold the pipes and the host itself, so they are an upper bound.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self

from measure import Row, compare, interleave, main
from warming import warm

from mlzoo.config import load
from mlzoo.store import open_store

BENCH = Path(__file__).resolve().parent
MODEL = "smollm2"
SERVE = [sys.executable, "-m", "mlzoo", "serve", "--log"]
MESSAGES = [{"role": "user", "content": "Write a long story about the keeper of a lighthouse."}]
TOKENS = {1: 128, 4: 32, 16: 16}  # streams at once -> tokens of each
LATENESS_ROUNDS = 2  # each starts a sidecar and loads the model
GENERATED = 96  # tokens of a stream during which lateness is measured
IDLE_S = 1.5
LATENESS_MS = 5.0  # allowed
PING_EVERY_S = 0.005
IDLE_PINGS = 300


class Host:
    """A host that reads lines and does nothing else."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=BENCH.parent,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self._ids = 0
        self._sending = threading.Lock()
        self._pings: dict[int, float] = {}  # id -> when it was sent
        self.round_trips_ms: list[float] = []

    def send(self, method: str, params: dict | None = None) -> int:
        with self._sending:
            self._ids += 1
            request = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params or {}}
            if method == "ping":
                self._pings[self._ids] = time.perf_counter()
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
            return self._ids

    def receive(self) -> dict:
        """Return the next line that does not answer a ping."""
        while (message := self._read()) is None:
            pass
        return message

    def receive_pings(self, count: int) -> None:
        """Read on until so many pings are answered; nothing else is due."""
        while len(self.round_trips_ms) < count:
            self._read()

    def _read(self) -> dict | None:
        """Return the next line, or None where it answers a ping."""
        message = json.loads(self._stdout.readline())
        sent = self._pings.pop(message.get("id"), None)
        if sent is None:
            return message
        self.round_trips_ms.append((time.perf_counter() - sent) * 1e3)
        return None

    def call(self, method: str, params: dict | None = None) -> dict:
        request = self.send(method, params)
        while (message := self.receive()).get("id") != request:
            pass
        return result_of(message)

    def chats(self, streams: int, tokens: int) -> tuple[float, str]:
        """Return the tokens per second of so many chats at once, and the text of one."""
        greedy = {"temperature": 0, "repetition_penalty": 1}  # as the bare loop, whatever the model's entry says
        params = {"model": MODEL, "messages": MESSAGES, **greedy, "max_tokens": tokens, "stream": True}
        open_ids = {self.send("chat", params) for _ in range(streams)}
        first, count, text = 0.0, 0, ""
        while open_ids:
            message = self.receive()
            if message.get("method") == "stream":
                first = first or time.perf_counter()
            elif "id" in message:
                open_ids.discard(message["id"])
                result = result_of(message)
                count += result["usage"]["completion_tokens"]
                text = result["message"]["content"]
        return (count - 1) / (time.perf_counter() - first), text

    def ping_until(self, done: threading.Event) -> None:
        """Send a ping every few milliseconds, one in flight; somebody else receives."""
        while not done.wait(PING_EVERY_S):
            if not self._pings:
                self.send("ping")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()  # Where all went well, it has left by now.
        self._process.wait()

    def leave(self) -> None:
        """Close its stdin and read on to the end."""
        self._stdin.close()
        self._stdout.read()
        assert self._process.wait() == 0, "the sidecar did not leave well"


def result_of(message: dict) -> dict:
    if "result" not in message:
        sys.exit(f"no result: {message}")
    return message["result"]


class Bare:
    """The decode loop in a process of its own, its slots as long as the sidecar's."""

    def __init__(self, context: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(BENCH / "peers" / "bare_decode.py"), MODEL, str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=BENCH.parent,
            env={**os.environ, "BENCH_MESSAGES": json.dumps(MESSAGES)},
            text=True,
        )

    def chats(self, streams: int, tokens: int) -> tuple[float, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"[{streams}, {tokens}]\n")
        self._process.stdin.flush()
        rate, text = json.loads(self._process.stdout.readline())
        return rate, text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()


def rates(sidecar: Host, bare: Bare, rounds: int) -> list[Row]:
    texts: set[str] = set()

    def one(side: Host | Bare) -> float:
        rate, text = side.chats(1, TOKENS[1])
        texts.add(text)
        return rate

    measures = {"sidecar 1": partial(one, sidecar), "bare 1": partial(one, bare)}
    for streams, tokens in TOKENS.items():
        if streams > 1:
            measures[f"sidecar {streams}"] = lambda n=streams, t=tokens: sidecar.chats(n, t)[0]
            measures[f"bare {streams}"] = lambda n=streams, t=tokens: bare.chats(n, t)[0]
    values = interleave(rounds, measures)
    assert len(texts) == 1, "the sidecar and the bare loop gave different texts: they did not do the same work"
    return [
        compare(
            "one stream" if streams == 1 else f"{streams} streams together",
            "tokens/s",
            values[f"sidecar {streams}"],
            "the bare decode loop",
            values[f"bare {streams}"],
            ">= 0.97" if streams == 1 else "",
        )
        for streams in TOKENS
    ]


def pinged(sidecar: Host) -> Row:
    """Ping an idle sidecar, then one that loads and generates."""
    done = threading.Event()
    pinger = threading.Thread(target=sidecar.ping_until, args=(done,), daemon=True)
    pinger.start()
    sidecar.receive_pings(IDLE_PINGS)
    sidecar.round_trips_ms.clear()  # Those were beside the rest of its start.
    sidecar.receive_pings(IDLE_PINGS)
    idle, sidecar.round_trips_ms = p99(sidecar.round_trips_ms), []
    sidecar.call("models.load", {"model": MODEL})
    sidecar.chats(1, GENERATED)
    done.set()
    pinger.join()
    busy = [p99(sidecar.round_trips_ms)]
    return compare("ping p99 at the host, meanwhile", "ms", busy, "the same, idle", [idle])


def p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def lateness(rounds: int) -> list[Row]:
    late: dict[str, list[float]] = {"idle": [], "loading": [], "generating": [], "both": [], "worst": []}
    for _ in range(min(rounds, LATENESS_ROUNDS)):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "samples"
            command = [sys.executable, str(BENCH / "peers" / "ticking_sidecar.py"), f"{directory}/log", str(file)]
            with Host(command) as host:
                host.call("status")
                time.sleep(IDLE_S)  # The rest of the house is imported and its actors are up.
                marks = [time.monotonic()]
                time.sleep(IDLE_S)
                marks.append(time.monotonic())
                host.call("models.load", {"model": MODEL})
                marks.append(time.monotonic())
                host.chats(1, GENERATED)
                marks.append(time.monotonic())
                host.leave()
            samples = array("d", file.read_bytes())
        ends, lates = samples[::2], [late_s * 1e3 for late_s in samples[1::2]]
        phases = [
            [value for end, value in zip(ends, lates, strict=True) if start <= end < stop]
            for start, stop in pairwise(marks)
        ]
        both = phases[1] + phases[2]
        for name, phase in zip(("idle", "loading", "generating", "both"), [*phases, both], strict=True):
            late[name].append(p99(phase))
        late["worst"].append(max(both))
    allowed = [LATENESS_MS] * len(late["both"])
    what = "event loop lateness p99"
    return [
        compare(f"{what}, a model loads and generates", "ms", late["both"], "what is allowed", allowed, "<= 1"),
        compare(f"{what}, a model loads", "ms", late["loading"], "the same, idle", late["idle"]),
        compare(f"{what}, a model generates", "ms", late["generating"], "the same, idle", late["idle"]),
        Row(what="event loop lateness, the worst", value=median(late["worst"]), unit="ms", peer="-"),
    ]


def warmed() -> int:
    """Have the compiled steps made, so that nobody is measured beside that; return how many tokens a slot holds."""
    with tempfile.TemporaryDirectory() as log, Host([*SERVE, log]) as sidecar:
        print(f"Compiled steps: {warm(sidecar, MODEL)}", flush=True)
        context: int = sidecar.call("models.info", {"model": MODEL})["chosen"]["context"]
        sidecar.leave()
    return context


def measure(rounds: int) -> list[Row]:
    config = load(())
    if open_store(config).find(config.model(MODEL)) is None:
        sys.exit(f"The weights of {MODEL} are not in the store: mlzoo models pull {MODEL}")
    context = warmed()
    late = lateness(rounds)
    with tempfile.TemporaryDirectory() as log, Host([*SERVE, log]) as sidecar:
        pings = pinged(sidecar)
        with Bare(context) as bare:
            rows = rates(sidecar, bare, rounds)
        sidecar.leave()
    return [*rows, *late, pings]


if __name__ == "__main__":
    main("Streams", measure)
