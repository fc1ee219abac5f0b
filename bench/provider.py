"""A provider's streams through the whole sidecar against the same HTTP client called bare, from one server on loopback.

``python bench/provider.py [--rounds N] [--json FILE]``. The server (peers/paced_api.py) speaks as OpenAI's chat
completions do, at the pace of a fast API, 100 tokens a second of each stream, and once as fast as it is taken. Both
sides stay between rounds and keep their connections. Ours is measured by its host, behind the pipes and the log; the
bare client by itself. The time to the first token is the median of several requests with one token, one at a time: by
default nobody hears of a request before its acceptance is on the disk, so a sync of the log is in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from measure import Row, compare, interleave, main
from stream import Host, result_of

BENCH = Path(__file__).resolve().parent
MODELS = {"paced": "100/300", "unpaced": "0/3000"}
STREAMS = (1, 16)
FIRSTS = 15
TOKEN_MS = 2.0  # that the first token may come later


class Ours:
    """The sidecar with such a provider."""

    def __init__(self, url: str, directory: Path, *overrides: str) -> None:
        settings = {"provider/loop": f"kind: openai\nbase_url: {url}\nmax_concurrency: 64\n"}
        for name, remote in {**MODELS, "first": "0/1"}.items():
            settings[f"model/{name}"] = f"kind: chat\nprovider: loop\nremote: {remote}\n"
        for name, text in settings.items():
            path = directory / "config" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "mlzoo", "serve", "--log", str(directory / "log"), *overrides]
        self.host = Host(command, {**os.environ, "MLZOO_CONFIG_DIR": str(directory / "config")})

    def _chat(self, model: str) -> int:
        params = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        return self.host.send("chat", params)

    def first_ms(self) -> float:
        times = []
        for _ in range(FIRSTS):
            began = time.perf_counter()
            request, first = self._chat("first"), 0.0
            while (message := self.host.receive()).get("id") != request:
                first = first or (time.perf_counter() if message.get("method") == "stream" else 0.0)
            result_of(message)
            times.append((first - began) * 1e3)
        return median(times)

    def rate(self, model: str, streams: int) -> float:
        waiting = {self._chat(model) for _ in range(streams)}
        first, tokens = 0.0, 0
        while waiting:
            message = self.host.receive()
            if message.get("method") == "stream":
                first = first or time.perf_counter()
                tokens += message["params"]["delta"].get("content", "").count("word")
            elif message.get("id") in waiting:
                result_of(message)
                waiting.remove(message["id"])
        return (tokens - 1) / (time.perf_counter() - first)


class Bare:
    """The client alone."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, str(BENCH / "peers" / "bare_api.py"), url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, model: str, streams: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(model, streams, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def first_ms(self) -> float:
        return median(self._ask("0/1", 1)["first_ms"] for _ in range(FIRSTS))

    def rate(self, model: str, streams: int) -> float:
        return self._ask(MODELS[model], streams)["rate"]


def measure(rounds: int) -> list[Row]:
    server = subprocess.Popen(
        [sys.executable, str(BENCH / "peers" / "paced_api.py")], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as directory:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        ours, bare = Ours(url, Path(directory, "disk")), Bare(url)
        unsynced = Ours(url, Path(directory, "process"), "log.durability=process")
        try:
            with ours.host, unsynced.host:
                return _measured(rounds, ours, unsynced, bare)
        finally:
            for process in (bare.process, server):
                process.kill()
                process.wait()


def _measured(rounds: int, ours: Ours, unsynced: Ours, bare: Bare) -> list[Row]:
    measures = {
        ("ours", "first"): ours.first_ms,
        ("unsynced", "first"): unsynced.first_ms,
        ("bare", "first"): bare.first_ms,
    }
    for model in MODELS:
        for streams in STREAMS:
            measures["ours", model, streams] = partial(ours.rate, model, streams)
            measures["bare", model, streams] = partial(bare.rate, model, streams)
    found = interleave(rounds, {"|".join(map(str, key)): measure for key, measure in measures.items()})
    later = [one - other for one, other in zip(found["ours|first"], found["bare|first"], strict=True)]
    allowed = [TOKEN_MS] * len(later)
    rows = [
        compare("first token, later than the bare client's", "ms", later, "what is allowed", allowed, "<= 1.0"),
        compare("first token", "ms", found["ours|first"], "the bare client", found["bare|first"]),
        compare(
            "first token, log.durability=process", "ms", found["unsynced|first"], "the bare client", found["bare|first"]
        ),
    ]
    for model, told, target in (("paced", "100 a second each", ">= 0.97"), ("unpaced", "as fast as they come", "")):
        for streams in STREAMS:
            what = f"tokens of {streams} streams, {told}" if streams > 1 else f"tokens of one stream, {told}"
            one, other = found[f"ours|{model}|{streams}"], found[f"bare|{model}|{streams}"]
            rows.append(compare(what, "/s", one, "the bare client", other, target))
    return rows


if __name__ == "__main__":
    main("Providers", measure)
