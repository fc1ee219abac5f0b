"""Tokens per second of a chat that copies, and of one that does not, with and without reading ahead what repeats.

``python bench/speculation.py [--rounds N] [--json FILE]``. Two sidecars, of which one is told ``speculation=false``,
answer the same greedy requests in turn; a rate is that of the tokens after the first piece, prompts left out on both
sides alike. Both must give the same texts.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from functools import partial

from measure import Row, compare, interleave, main
from prompts import story
from rivals import MODEL
from stream import Host, result_of
from warming import warm

TOKENS = 128
TEXT = """\
Anna kept the lighthouse on the northern point for twenty-six years. Every evening she climbed the hundred and \
twelve steps, trimmed the wick, wound the clockwork and watched the beam begin its slow walk over the water. The \
fishing boats of the village knew her light as they knew the voices of their own families. In the first winter a \
storm took away the small bridge between the rock and the shore, and for nine days nobody could reach her. She ate \
dried fish, melted snow for tea and wrote a letter to her brother, which she could only send in the spring. When \
the bridge was built again, the carpenter stayed for supper and told her of the new harbour, where lamps burned \
with electric current and no hand was needed to tend them. Anna listened, said that a lamp without a hand was like \
a house without a door, and filled his cup. In her last year the ministry sent two men with a machine in a wooden \
box. They fixed it to the gallery, ran a cable down the stairs and showed her a switch no bigger than a button. \
Anna thanked them politely. That night the current failed, as it often did, and a fog came up from the south. The \
men woke to a warm yellow light above their heads: Anna had carried the old lamp up all the steps, and she sat \
beside it, turning it slowly by hand until the morning. The men wrote a report of three pages, and the ministry \
left the old lamp where it was."""
ASKED = {
    "a text repeated": "Repeat the following text word for word.",
    "a text edited": "Rewrite the following text with the name Anna replaced by Maria. Change nothing else.",
    "a text summarised": "Summarise the following text.",
}
TARGETS = {"a text repeated": ">= 2", "a text edited": ">= 2", "a text summarised": "", "a story": ">= 0.95"}


class Pair:
    """The sidecars with and without, and what each said."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self._hosts = hosts
        self._chapters = {side: itertools.count(500) for side in hosts}
        self._said: dict[str, list[str]] = {side: [] for side in hosts}

    def rate(self, side: str, what: str) -> float:
        """Return the tokens per second of one chat, from its first piece to its end."""
        messages = (
            [{"role": "user", "content": f"{ASKED[what]}\n\n{TEXT}"}]
            if what in ASKED
            else story(0, next(self._chapters[side]))
        )
        host = self._hosts[side]
        params = {"model": MODEL, "messages": messages, "temperature": 0, "repetition_penalty": 1}
        chat = host.send("chat", {**params, "max_tokens": TOKENS, "stream": True})
        first = 0.0
        while (message := host.receive()).get("id") != chat:
            if message.get("method") == "stream":
                first = first or time.perf_counter()
        took_s = time.perf_counter() - first
        result = result_of(message)
        self._said[side].append(result["message"]["content"])
        return (result["usage"]["completion_tokens"] - 1) / took_s

    def compare_texts(self) -> None:
        """See that both said the same; the order in which they were asked differs from round to round."""
        with_it, without = (sorted(said) for said in self._said.values())
        assert with_it == without, "reading ahead changed an answer"


def measure(rounds: int) -> list[Row]:
    serve = [sys.executable, "-m", "mlzoo", "serve"]
    with (
        tempfile.TemporaryDirectory() as log,
        Host([*serve, f"models.{MODEL}.speculation=true", "--log", f"{log}/on"]) as on,
        Host([*serve, f"models.{MODEL}.speculation=false", "--log", f"{log}/off"]) as off,
    ):
        for host in (on, off):
            warm(host, MODEL)
        pair = Pair({"on": on, "off": off})
        measures = {f"{side} {what}": partial(pair.rate, side, what) for what in TARGETS for side in ("on", "off")}
        values = interleave(rounds, measures)
        pair.compare_texts()
        for host in (on, off):
            host.leave()
    return [
        compare(what, "tokens/s", values[f"on {what}"], "nothing read ahead", values[f"off {what}"], target)
        for what, target in TARGETS.items()
    ]


if __name__ == "__main__":
    main("Speculation", measure)
