"""How soon the sidecar reacts: to a long prompt beside rows that decode, to a cancel, to a chat with an unloaded model.

``python bench/reaction.py [--rounds N] [--json FILE]``. All times are the host's, from its line in to a line out.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from measure import Row, compare, interleave, main
from prompts import long, story
from rivals import MODEL, without_compiler
from stream import Host, result_of
from warming import warm

if TYPE_CHECKING:
    from collections.abc import Callable

DECODING = 4
PROMPT_WORDS = 800  # make about 1,000 tokens
GAP_MS = 130.0  # allowed between two pieces while a prompt is read, without compiled steps
GAP_STEPS = 6  # allowed with them
LOAD_MS = 1500.0  # allowed from a chat with an unloaded model to its first piece
LOAD_ROUNDS = 3
CANCELLED = -32800
CHUNK = 64
STEPS = 2  # within which a cancel is answered
TOKENS = 64  # of the answers by which a step is measured
QUIET_S = 0.7  # which is about as long as a prompt of 1,000 tokens is read beside rows
HEARD = 16  # pieces before something is done
MID_PREFILL_S = 0.06  # after which a long prompt is being read, and far from read
GREEDY = {"model": MODEL, "temperature": 0, "repetition_penalty": 1, "stream": True}


class Reaction:
    """A sidecar with its model loaded; each prompt is a new one, so that none is known from before."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seeds = itertools.count(1)
        self.step_ms: list[float] = []  # with 4 rows, nothing else being read
        self.one_ms: list[float] = []  # the same with one row
        self.first_ms: list[float] = []  # of a long prompt alone
        self.quiet_ms: list[float] = []  # the longest time between two pieces of 4 streams while nothing is read

    def chat(self, messages: list[dict[str, Any]], tokens: int) -> int:
        return self._host.send("chat", {**GREEDY, "messages": messages, "max_tokens": tokens})

    def long_prompt(self) -> list[dict[str, Any]]:
        return long(PROMPT_WORDS, next(self._seeds))

    def gap_ms(self) -> float:
        """Return the longest time between two pieces of 4 streams, while a prompt of 1,000 tokens is read."""
        self.step_ms.append(self._step_ms(DECODING))
        self.quiet_ms.append(self._quiet_ms())
        ids = {self.chat(story(number), 400) for number in range(DECODING)}
        last = self._hear(ids, HEARD)
        prompt = self.chat(self.long_prompt(), 2)
        worst = 0.0
        while prompt not in last:
            worst = max(worst, self._gaps(ids, last))
        self._end({*ids, prompt})
        return worst * 1e3

    def cancel_ms(self) -> float:
        """Return the time from a cancel to the end of a chat that is being answered."""
        self.one_ms.append(self._step_ms(1))
        chat = self.chat(story(0), 400)
        self._hear({chat}, HEARD)
        return self._cancelled_ms(chat)

    def cancel_prefill_ms(self) -> float:
        """Return the same of a chat whose prompt is being read."""
        start = time.perf_counter()
        read = self.chat(self.long_prompt(), 1)
        self._hear({read}, 1)
        self.first_ms.append((time.perf_counter() - start) * 1e3)
        self._end({read})
        chat = self.chat(self.long_prompt(), 400)
        time.sleep(MID_PREFILL_S)
        return self._cancelled_ms(chat)

    def load_ms(self) -> float:
        """Return the time from a chat with a model that is not loaded to its first piece; its worker is up."""
        self._host.call("models.unload", {"model": MODEL})
        start = time.perf_counter()
        chat = self.chat(story(0), 2)
        self._hear({chat}, 1)
        duration_s = time.perf_counter() - start
        self._end({chat})
        return duration_s * 1e3

    def _step_ms(self, rows: int) -> float:
        """Return how long a step of so many rows takes, by whole answers: a piece may hold several tokens."""
        ids = {self.chat(story(number), TOKENS) for number in range(rows)}
        first: dict[int, float] = {}
        took_s: dict[int, float] = {}
        while len(took_s) < rows:
            message, now = self._host.receive(), time.perf_counter()
            if message.get("method") == "stream":
                first.setdefault(message["params"]["request"], now)
            elif message.get("id") in ids:
                tokens = result_of(message)["usage"]["completion_tokens"]
                took_s[message["id"]] = (now - first[message["id"]]) / (tokens - 1)
        return took_s[max(first, key=lambda request: first[request])] * 1e3  # All others' prompts were read before.

    def _quiet_ms(self) -> float:
        """Return the longest time between two pieces of 4 streams, while nothing is read for as long as a prompt is."""
        ids = {self.chat(story(number), 400) for number in range(DECODING)}
        last, worst = self._hear(ids, HEARD), 0.0
        end_s = time.perf_counter() + QUIET_S
        while time.perf_counter() < end_s:
            worst = max(worst, self._gaps(ids, last))
        self._end(ids)
        return worst * 1e3

    def _hear(self, ids: set[int], pieces: int) -> dict[int, float]:
        """Read on until each has said so many pieces; return when each spoke last."""
        heard, last = dict.fromkeys(ids, 0), {}
        while min(heard.values()) < pieces:
            message = self._host.receive()
            if message.get("method") == "stream":
                request = message["params"]["request"]
                heard[request] += 1
                last[request] = time.perf_counter()
            elif "error" in message:
                result_of(message)
        return last

    def _gaps(self, ids: set[int], last: dict[int, float]) -> float:
        """Read one piece; return how long its stream had been silent, 0 for one that is not of these."""
        while (message := self._host.receive()).get("method") != "stream":
            assert message.get("id") not in ids, "a stream ended before it was needed no more"
        request, now = message["params"]["request"], time.perf_counter()
        before = last.get(request, now)
        last[request] = now
        return now - before if request in ids else 0.0

    def _cancelled_ms(self, chat: int) -> float:
        start = time.perf_counter()
        self._host.send("cancel", {"request": chat})
        while (message := self._host.receive()).get("id") != chat:
            pass
        duration_s = time.perf_counter() - start
        assert message.get("error", {}).get("code") == CANCELLED, message
        return duration_s * 1e3

    def _end(self, ids: set[int]) -> None:
        for request in ids:
            self._host.send("cancel", {"request": request})
        while ids:
            ids.discard(self._host.receive().get("id", 0))


def measure(rounds: int) -> list[Row]:
    eager, found = reactions(without_compiler(), rounds)
    compiled, values = reactions(None, rounds)
    # The first of each was that of the round that warms up.
    steps, ones, firsts = compiled.step_ms[1:], compiled.one_ms[1:], compiled.first_ms[1:]
    chunks = [first * CHUNK / 1000 for first in firsts]
    gap = f"longest gap of {DECODING} streams while a prompt of 1,000 tokens is read"
    return [
        compare(f"{gap}, eager", "ms", found["gap"], "what is allowed", [GAP_MS] * rounds, "<= 1"),
        compare(f"{gap}, eager", "ms", found["gap"], f"a step of {DECODING} rows", eager.step_ms[1:]),
        compare(f"{gap}, compiled", "ms", values["gap"], f"a step of {DECODING} rows", steps, f"<= {GAP_STEPS}"),
        compare(f"{gap}, compiled", "ms", values["gap"], "while nothing is read", compiled.quiet_ms[1:]),
        compare("cancel of an answer", "ms", values["cancel"], "a step of one row", ones, f"<= {STEPS}"),
        compare("cancel while the prompt is read", "ms", values["cancel prefill"],
                f"reading {CHUNK} tokens, a chunk", chunks, "<= 1"),
        compare("chat with an unloaded model to its first token", "ms", values["load"], "what is allowed",
                [LOAD_MS] * len(values["load"]), "<= 1"),
    ]  # fmt: skip


def reactions(env: dict[str, str] | None, rounds: int) -> tuple[Reaction, dict[str, list[float]]]:
    """Measure one sidecar in an environment, its compiled steps ready if it has any."""
    with (
        tempfile.TemporaryDirectory() as log,
        Host([sys.executable, "-m", "mlzoo", "serve", "--log", log], env) as host,
    ):
        host.call("models.load", {"model": "minilm"})  # Keeps the worker up where the other model is unloaded.
        warm(host, MODEL)
        reaction = Reaction(host)
        measures: dict[str, Callable[[], float]] = {
            "gap": reaction.gap_ms,
            "cancel": reaction.cancel_ms,
            "cancel prefill": reaction.cancel_prefill_ms,
        }
        values = interleave(rounds, measures)
        values |= interleave(min(rounds, LOAD_ROUNDS), {"load": reaction.load_ms})
        host.leave()
    return reaction, values


if __name__ == "__main__":
    main("Reaction", measure)
