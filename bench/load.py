"""Requests that come when they come: an open loop at 50, 80 and 120 % of capacity, and how long they wait.

``python bench/load.py [--rounds N] [--json FILE]``. Draws bench/plots/latency.svg.

Arrivals are a Poisson process with a seed, prompts and answers are of mixed lengths. The capacity is that of such a
mixture in a closed loop of 16. No prompt is asked twice: what was read before is kept, and need not be read again. A
request is sent at its time whatever became of those before it; one that is refused is not sent again. The door is made
small (16 rows decode, 8 more are with the worker, 8 wait), so that 120 % reaches it within a minute.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import threading
import time
from statistics import median
from typing import Any

import attrs
import plots
from measure import Row, compare, main
from prompts import long, story
from rivals import MODEL
from stream import Host, result_of
from warming import warm

SHARES = (0.5, 0.8, 1.2)  # of the capacity
ARRIVALS_S = 60.0  # for which requests arrive at each share
CLOSED = 16  # requests at once while the capacity is measured
CAPACITY_REQUESTS = 96
WARM_UPS = 3  # memory that is touched for the first time takes its time, of a virtual machine's above all
WORDS = (0, 0, 0, 60, 200, 500)  # of prompts, equally likely; 0: one of the short ones
ANSWERS = (16, 32, 64, 96)  # tokens
RUNNING, QUEUED = 24, 8
OVERLOADED = 1001
SEED = 20


@attrs.define
class Request:
    """One request, and when what happened to it; times are of one clock, in seconds."""

    params: dict[str, Any]
    sent: float = 0.0
    pieces: list[float] = attrs.field(factory=list)
    ended: float = 0.0
    error: dict[str, Any] | None = None

    @property
    def first_ms(self) -> float:
        return (self.pieces[0] - self.sent) * 1e3

    @property
    def between_ms(self) -> list[float]:
        return [(later - earlier) * 1e3 for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]


def mixture(count: int, seed: int) -> list[Request]:
    """Return requests of mixed lengths, none of which begins like another."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        words = draw.choice(WORDS)
        messages = long(words, seed * 10_000 + number) if words else story(number, seed * 10_000 + number)
        greedy = {"temperature": 0, "repetition_penalty": 1}
        params = {"model": MODEL, "messages": messages, **greedy, "max_tokens": draw.choice(ANSWERS), "stream": True}
        made.append(Request(params))
    return made


def arrivals(rate: float, duration_s: float, seed: int) -> list[float]:
    """Return the times of a Poisson process, from 0 on."""
    draw = random.Random(seed)
    times, now = [], draw.expovariate(rate)
    while now < duration_s:
        times.append(now)
        now += draw.expovariate(rate)
    return times


def percentile(values: list[float], percent: int) -> float:
    """Return the value that so many percent of them do not pass."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def receive(host: Host, open_requests: dict[int, Request]) -> Request | None:
    """Note one line; return the request that it ended."""
    message = host.receive()
    now = time.perf_counter()
    if message.get("method") == "stream":
        open_requests[message["params"]["request"]].pieces.append(now)
    if "id" not in message:
        return None
    request = open_requests.pop(message["id"])
    request.ended, request.error = now, message.get("error")
    return request


def capacity(host: Host, seed: int) -> float:
    """Return the requests per second of a mixture, 16 at once, up to where fewer are left."""
    waiting = mixture(CAPACITY_REQUESTS, seed)
    open_requests: dict[int, Request] = {}
    start, took_s = time.perf_counter(), 0.0
    while waiting or open_requests:
        while waiting and len(open_requests) < CLOSED:
            request = waiting.pop()
            open_requests[host.send("chat", request.params)] = request
            took_s = time.perf_counter() - start
        ended = receive(host, open_requests)
        if ended is not None and ended.error is not None:
            result_of({"error": ended.error})
    return (CAPACITY_REQUESTS - CLOSED) / took_s


def open_loop(host: Host, rate: float, seed: int) -> list[Request]:
    """Send requests as they arrive; return all of them when the last one has ended."""
    times = arrivals(rate, ARRIVALS_S, seed)
    requests = mixture(len(times), seed)
    open_requests: dict[int, Request] = {}
    # The ids are known before they are sent, so that who reads knows each.
    first_id = host.send("ping") + 1
    host.receive_pings(len(host.round_trips_ms) + 1)
    for number, request in enumerate(requests):
        open_requests[first_id + number] = request

    def send() -> None:
        start = time.perf_counter()
        for at, request in zip(times, requests, strict=True):
            time.sleep(max(0.0, start + at - time.perf_counter()))
            request.sent = time.perf_counter()
            host.send("chat", request.params)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    while open_requests:
        receive(host, open_requests)
    sender.join()
    return requests


def rows_of(share: float, requests: list[Request], requests_per_s: float) -> list[Row]:
    """Return what is told of one share."""
    accepted = [request for request in requests if request.error is None]
    refused = [request.error for request in requests if request.error is not None]
    lost = [error for error in refused if error["code"] != OVERLOADED]
    first = [request.first_ms for request in accepted if request.pieces]
    between = [value for request in accepted for value in request.between_ms]
    at = f"{share:.0%} of capacity"
    full_queue_ms = (RUNNING + QUEUED) / requests_per_s * 1e3
    made = [
        Row(what=f"{at}: requests accepted", value=len(accepted), unit="", peer="refused", peer_value=len(refused)),
        Row(what=f"{at}: requests lost", value=len(lost), unit="", peer="one more than may be", peer_value=1,
            ratio=float(len(lost)), target="<= 0"),
        Row(what=f"{at}: time to first token, p50", value=percentile(first, 50), unit="ms", peer="-"),
        compare(f"{at}: time to first token, p99", "ms", [percentile(first, 99)], "what all who may wait take",
                [full_queue_ms], "<= 1"),
        Row(what=f"{at}: between pieces, p50", value=percentile(between, 50), unit="ms", peer="-"),
        Row(what=f"{at}: between pieces, p99", value=percentile(between, 99), unit="ms", peer="-"),
    ]  # fmt: skip
    hints = [error["data"]["retry_after_ms"] for error in refused if error["code"] == OVERLOADED]
    if hints:
        made.append(Row(what=f"{at}: retry_after_ms of the refused", value=median(hints), unit="ms", peer="-"))
    return made


def measure(rounds: int) -> list[Row]:
    serve = [sys.executable, "-m", "mlzoo", "serve", f"limits.max_running={RUNNING}", f"limits.max_queued={QUEUED}"]
    found: dict[float, list[Request]] = {share: [] for share in SHARES}
    capacities: list[float] = []
    with tempfile.TemporaryDirectory() as log, Host([*serve, "--log", log]) as host:
        warm(host, MODEL)
        seeds = itertools.count(SEED)
        for _ in range(WARM_UPS):
            capacity(host, next(seeds))
        for _ in range(rounds):
            capacities.append(capacity(host, next(seeds)))
            for share in SHARES:
                found[share] += open_loop(host, share * capacities[-1], next(seeds))
        host.leave()
    per_s = median(capacities)
    draw(found)
    told = [row for share in SHARES for row in rows_of(share, found[share], per_s)]
    return [Row(what="capacity, 16 at once", value=per_s, unit="requests/s", peer="-"), *told]


def draw(found: dict[float, list[Request]]) -> None:
    """Draw both latencies at the shares."""
    series: dict[str, list[float | None]] = {}
    for percent in (50, 99):
        first, between = [], []
        for requests in found.values():
            spoke = [request for request in requests if request.error is None and request.pieces]
            first.append(percentile([request.first_ms for request in spoke], percent))
            between.append(percentile([value for request in spoke for value in request.between_ms], percent))
        series[f"time to first token, p{percent}"] = [*first]
        series[f"between pieces, p{percent}"] = [*between]
    places = [f"{share:.0%} of capacity" for share in found]
    plots.write("latency", plots.lines("Latencies of an open loop of Poisson arrivals", places, series, "ms"))


if __name__ == "__main__":
    main("Open loop", measure, rounds=2)
