"""The second turn of a long conversation: how soon its first token comes, with what was read before and without.

``python bench/history.py [--rounds N] [--json FILE]``. Needs the weights of smollm2 (``mlzoo models pull smollm2``).

Each round holds a conversation of its own, which nobody has read before: a first turn of a thousand tokens, its answer,
and a second turn. The same second turn behind a history that differs from its first word on is read as a whole. Times
are of the host: from the line of the request to the first piece of its answer, through sidecar, log and pipes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from itertools import count

from measure import Row, compare, interleave, main
from stream import MODEL, Host, result_of

from mlzoo.config import load
from mlzoo.store import open_store

HISTORY_TOKENS = 1000
ANSWER_TOKENS = 32
SENTENCE = "The keeper of the lighthouse counts ship number {}, writes its name into his book and trims the lamp. "
QUESTION = "And what was the name of the last ship?"


class Conversations:
    """Conversations with a sidecar, no two of which begin alike."""

    def __init__(self, sidecar: Host, determinism: str) -> None:
        self._sidecar = sidecar
        self._determinism = determinism
        self._numbers = count(1)

    def history(self) -> list[dict]:
        """Return a first turn that nobody has read."""
        number = next(self._numbers)
        text = f"{self._determinism} {number}: "
        ships = count(number * 1000)
        while self._sidecar.call("tokenize", {"model": MODEL, "text": text})["count"] < HISTORY_TOKENS:
            text += "".join(SENTENCE.format(next(ships)) for _ in range(5))
        return [{"role": "system", "content": text}, {"role": "user", "content": "Who came first?"}]

    def say(self, messages: list[dict], tokens: int) -> tuple[float, dict]:
        """Return the milliseconds to the first piece of an answer, and the answer."""
        params = {
            "model": MODEL,
            "messages": messages,
            "temperature": 0,
            "max_tokens": tokens,
            "stream": True,
            "determinism": self._determinism,
        }
        began = time.perf_counter()
        request = self._sidecar.send("chat", params)
        first = 0.0
        while (message := self._sidecar.receive()).get("id") != request:
            if message.get("method") == "stream":
                first = first or time.perf_counter()
        return (first - began) * 1e3, result_of(message)

    def second_turn(self, *, cached: bool) -> float:
        """Return the milliseconds to the first piece of a second turn's answer."""
        history = self.history()
        _, answer = self.say(history, ANSWER_TOKENS)
        if not cached:
            history[0]["content"] = "Again. " + history[0]["content"]
        turn = [*history, answer["message"], {"role": "user", "content": QUESTION}]
        took_ms, second = self.say(turn, 2)
        usage = second["usage"]
        read = usage["prompt_tokens"] - usage["cached_tokens"]
        assert usage["prompt_tokens"] > HISTORY_TOKENS, "the history is too short"
        assert (read < 256) == cached, f"{read} of {usage['prompt_tokens']} tokens were read"
        return took_ms


def measure(rounds: int) -> list[Row]:
    config = load(())
    if open_store(config).find(config.model(MODEL)) is None:
        sys.exit(f"The weights of {MODEL} are not in the store: mlzoo models pull {MODEL}")
    command = [sys.executable, "-m", "mlzoo", "serve", "model.dtype=bfloat16", "--log"]
    rows = []
    with tempfile.TemporaryDirectory() as log, Host([*command, log]) as sidecar:
        sidecar.call("models.load", {"model": MODEL})
        for determinism, target in (("fast", ">= 5"), ("exact", "")):
            conversations = Conversations(sidecar, determinism)
            values = interleave(
                rounds,
                {
                    "cold": partial(conversations.second_turn, cached=False),
                    "cached": partial(conversations.second_turn, cached=True),
                },
            )
            rows.append(
                compare(
                    f"first token of a second turn, all of it read, {determinism}",
                    "ms",
                    values["cold"],
                    "the same, its history read before",
                    values["cached"],
                    target,
                )
            )
        sidecar.leave()
    return rows


if __name__ == "__main__":
    main("Second turns", measure)
