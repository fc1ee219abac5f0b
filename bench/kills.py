"""kill -9 in mid-generation, again and again: ``python bench/kills.py [--rounds N] [--json FILE]``.

Needs the weights of smollm2 (``mlzoo models pull smollm2``). Compiled steps are made first, in which exact requests
run in bf16. A round is 20 kills, half of them of streams in fp32 and half in bf16, both at the same time. Some keyed
streams with ``determinism: "exact"`` run together; at a random piece, or a random while after a start, the sidecar or
its worker is killed; a host starts the sidecar again and resumes each stream after the last piece that it heard,
until all have ended. What was heard is then compared with the same requests uninterrupted, each alone. A kill counts
where a stream had said something and had not ended; the logs are asked afterwards how many kills took a stream while
it was running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, table
from stream import Host
from warming import warm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODEL = "smollm2"
DTYPES = ("float32", "bfloat16")
KILLS = 10  # of a round, with each dtype
WANTED = 200
SEED = 1
TOKENS = 24
PATIENCE_S = 1200.0  # for a life, before its host gives up
MOST_PIECES = 8  # of some tokens each, that are heard between two kills
WORKERS = 0.5  # of the kills, where there is a worker
MOST_LOSSES = 3  # of its worker without a piece in between, after which a request is taken to be the reason
AT_A_START = 0.15  # of the new sidecars are hit once more while they start, load, read or decode again
START_S = 8.0
PROMPTS = (
    ("Write a story about the keeper of a lighthouse.", {"temperature": 0}),
    ("Name some fish that live in cold water, and 魚 in Japanese.", {"temperature": 0.9, "top_p": 0.95, "seed": 7}),
    ("Count from one to thirty in words, then in emoji. " * 3, {"temperature": 1.0, "top_k": 40, "seed": 11}),
    ("What is rain?", {"temperature": 0.7, "repetition_penalty": 1.2, "seed": 3, "stop": ["nobody says this"]}),
)


class Life:
    """One sidecar, from its start to its end."""

    def __init__(self, log: Path, dtype: str) -> None:
        command = [sys.executable, "-m", "mlzoo", "serve", "--log", str(log), f"model.dtype={dtype}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()
        self._calls = 0

    def send(self, method: str, params: dict) -> int:
        assert self.process.stdin is not None
        self._calls += 1
        line = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()
        return self._calls

    def receive(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError("the sidecar has ended by itself")
        return json.loads(line)

    def kill_worker(self) -> bool:
        """Kill the worker process; False where there is none just now."""
        killed = False
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # The one before it may not be seen off yet.
                if "mlzoo.inference" in child.cmdline():
                    child.kill()
                    killed = True
        return killed

    def kill(self) -> None:
        """Kill the sidecar, and see to it that nobody is left of it."""
        self._watchdog.cancel()
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        psutil.wait_procs(family, timeout=PATIENCE_S)


class Stream:
    """What a host heard of one request, over all its calls."""

    def __init__(self, name: str, prompt: str, sampling: dict) -> None:
        self.key = name
        self.params = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": TOKENS,
            "stream": True,
            "determinism": "exact",
            **sampling,
        }
        self.pieces: list[str] = []
        self.faults: Counter[str] = Counter()
        self.result: dict | None = None
        self.over = False
        self.losses = 0  # of its worker, since it said something
        self.call = 0
        self._sent = False

    def ask(self, life: Life) -> None:
        """Ask for it: for the first time by its request, then for what has not been heard."""
        if self._sent:
            self.call = life.send("resume", {"key": self.key, "after": len(self.pieces) - 1})
        else:
            self.call = life.send("chat", {**self.params, "key": self.key})

    def hear(self, message: dict) -> str:
        """Take a message of the present call; return what it was: piece, again (ask once more), over or other."""
        self._sent = True
        if message.get("method") == "stream":
            seq = message["params"]["seq"]
            if seq < len(self.pieces):
                self.faults["duplicated"] += 1
            elif seq > len(self.pieces):
                self.faults["lost"] += 1
            self.pieces.append(message["params"]["delta"]["content"])
            self.losses = 0
            return "piece"
        if "method" in message:
            return "other"
        error = message.get("error")
        if error is not None and error["data"].get("resumable"):
            return "again"
        if error is not None and error["data"].get("what") == "key":
            self._sent = False  # It was killed before it had taken the request in: it is sent again.
            return "again"
        self.over = True
        self.result = message.get("result")
        if error is not None:
            self.faults["lost"] += 1
            print(f"lost: {error}", flush=True)
        return "over"

    def compare(self, reference: Stream) -> Counter[str]:
        """Return what is wrong with it."""
        if self.result is not None:
            text = self.result["message"]["content"]
            assert reference.result is not None
            whole, other = (text, self.usage()), (reference.result["message"]["content"], reference.usage())
            self.faults["differing"] += whole != other or "".join(self.pieces) != text
        return self.faults

    def usage(self) -> dict:
        """Return its usage; what was still in a worker's memory when it began is none of its own."""
        assert self.result is not None
        return {name: count for name, count in self.result["usage"].items() if name != "cached_tokens"}


def references(dtype: str, log: Path) -> list[Stream]:
    """Return the streams as they are when nothing happens, each alone."""
    life = Life(log, dtype)
    streams = [Stream(f"reference-{n}", *prompt) for n, prompt in enumerate(PROMPTS)]
    for stream in streams:
        stream.ask(life)
        while not stream.over:
            stream.hear(life.receive())
    life.kill()
    return streams


class Torture:
    """Kills until it has killed enough, and counts what came of it."""

    def __init__(self, dtype: str, log: Path, seed: int, told: Callable[[], None]) -> None:
        self._dtype, self._log, self._told = dtype, log, told
        self._wanted = 0
        self._expected: list[Stream] = []
        self._random = Random(f"{seed} {dtype}")
        self.killed: Counter[str] = Counter()  # by whom and when, in mid-generation
        self.apart = 0  # kills while no stream had a piece yet, or all had ended
        self.faults: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        self.streams = 0

    def run(self, kills: int) -> None:
        """Kill so many times in mid-generation; what runs at the last one is still said to its end."""
        self._wanted = kills
        began = time.monotonic()
        self._expected = references(self._dtype, self._log)
        life = Life(self._log, self._dtype)
        while self._goes_on():
            streams = [Stream(f"{self.streams + n}", *prompt) for n, prompt in enumerate(PROMPTS)]
            self.streams += len(streams)
            life = self._live_through(life, streams)
            for stream, reference in zip(streams, self._expected, strict=True):
                self.faults += stream.compare(reference)
                self.resumed[str((stream.result or {}).get("resumed"))] += 1
            kill_s = (time.monotonic() - began) / max(self.killed.total(), 1)
            counts = f"{dict(self.killed)}, apart {self.apart}, {dict(self.faults)}, {dict(self.resumed)}"
            print(f"{self._dtype}: {counts}, {kill_s:.1f} s a kill", flush=True)
            self._told()
        life.kill()

    def _goes_on(self) -> bool:
        return self.killed.total() < self._wanted

    def _live_through(self, life: Life, streams: list[Stream]) -> Life:
        """Have all streams said to their end, whatever it takes."""
        self._ask(life, streams)
        pieces = self._random.randint(1, MOST_PIECES)
        while any(not stream.over for stream in streams):
            message = life.receive()
            call = message.get("params", {}).get("request") if "method" in message else message["id"]
            for stream in streams:
                if stream.call != call or stream.over:
                    continue
                heard = stream.hear(message)
                pieces -= heard == "piece"
                if heard == "again":
                    stream.ask(life)
            if pieces == 0 and self._goes_on():
                pieces = self._random.randint(1, MOST_PIECES)
                life = self._kill(life, streams)
        return life

    def _ask(self, life: Life, streams: list[Stream]) -> None:
        for stream in streams:
            if not stream.over:
                stream.ask(life)

    def _kill(self, life: Life, streams: list[Stream]) -> Life:
        if self._random.random() < WORKERS and self._kill_worker(life, streams):
            self._count("worker, speaking", streams)
            return life
        life = self._kill_sidecar(life, streams, "sidecar, speaking")
        if self._random.random() < AT_A_START and self._goes_on():
            time.sleep(self._random.uniform(0, START_S))
            if self._random.random() < WORKERS and self._kill_worker(life, streams):
                self._count("worker, resuming", streams)
            else:
                life = self._kill_sidecar(life, streams, "sidecar, resuming")
        return life

    def _kill_worker(self, life: Life, streams: list[Stream]) -> bool:
        """Kill the worker, unless that may be the third loss of a stream without a word: it ends by that, as promised.

        A word that is heard after a kill may have been said before it, so that a stream may have lost one more.
        """
        going = [stream for stream in streams if not stream.over]
        if any(stream.losses + 2 >= MOST_LOSSES for stream in going) or not life.kill_worker():
            return False
        for stream in going:
            stream.losses += 1
        return True

    def _kill_sidecar(self, life: Life, streams: list[Stream], how: str) -> Life:
        life.kill()
        self._count(how, streams)
        life = Life(self._log, self._dtype)
        self._ask(life, streams)
        return life

    def _count(self, how: str, streams: list[Stream]) -> None:
        """Count a kill: in mid-generation where a stream that has not ended had said something already."""
        if any(stream.pieces and not stream.over for stream in streams):
            self.killed[how] += 1
        else:
            self.apart += 1


def suspensions(log: Path) -> int:
    """Return how many kills took a stream that was running and had said something, as the log itself has it."""
    command = [sys.executable, "-m", "mlzoo", "log", "cat", "--json", str(log)]
    speaking: set[str] = set()
    groups: set[int] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            kind = record.get("type")  # The header of a segment has none.
            if kind == "RequestStreamed":
                speaking.add(record["data"]["request"])
            elif kind == "RequestSuspended" and record["data"]["request"] in speaking:
                groups.add(record["group"][0])
    if process.returncode != 0:
        raise AssertionError(f"log cat ended with {process.returncode}")
    return len(groups)


def rows(tortures: Sequence[Torture], suspended: int | None = None) -> list[Row]:
    """Return what came of it so far."""
    killed = sum((t.killed for t in tortures), Counter())
    faults = sum((t.faults for t in tortures), Counter())
    resumed = sum((t.resumed for t in tortures), Counter())
    streams = sum(t.streams for t in tortures)
    total = killed.total()
    share = total / WANTED
    found = [Row(what="kill -9", value=total, unit="", peer="wanted", peer_value=WANTED, ratio=share, target=">= 1")]
    found += [Row(what=f"kills of the {how}", value=number, unit="kills") for how, number in sorted(killed.items())]
    found += [
        Row(what="other kills, not counted", value=sum(t.apart for t in tortures), unit="kills"),
        Row(what="streams that they hit, or may have hit", value=streams, unit="streams"),
        Row(what="of them continued exactly", value=resumed["exact"], unit="streams"),
    ]
    if suspended is not None:
        found.append(Row(what="losses of running streams, by the logs", value=suspended, unit="kills"))
    what = {"lost": "pieces or answers lost", "duplicated": "pieces doubled", "differing": "streams that differ"}
    for name, meaning in what.items():
        number = float(faults[name])
        found.append(
            Row(what=meaning, value=number, unit="", peer="allowed", peer_value=0, ratio=number, target="<= 0")
        )
    return found


def measure(rounds: int, seed: int = SEED, told: Callable[[list[Row]], None] = lambda _: None) -> list[Row]:
    """Kill, with each dtype at the same time; ``told`` hears what came of it so far."""
    tortures: list[Torture] = []
    with tempfile.TemporaryDirectory() as directory:
        serve = [sys.executable, "-m", "mlzoo", "serve", "--log", f"{directory}/warm", "model.dtype=bfloat16"]
        with Host(serve) as host:
            print(warm(host, MODEL), flush=True)
            host.leave()
        logs = [Path(directory) / dtype for dtype in DTYPES]
        tortures += [Torture(log.name, log, seed, lambda: told(rows(tortures))) for log in logs]
        with ThreadPoolExecutor(len(tortures)) as pool:
            for ended in [pool.submit(torture.run, rounds * KILLS) for torture in tortures]:
                ended.result()
        for log in logs:
            subprocess.run([sys.executable, "-m", "mlzoo", "log", "verify", str(log)], check=True)
        return rows(tortures, sum(suspensions(log) for log in logs))


def main() -> None:
    """Run it as a command; the rows are written anew whenever something has come to its end."""
    parser = argparse.ArgumentParser(description="kill -9 in mid-generation")
    parser.add_argument("--rounds", type=int, default=10, help="of 20 kills each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    given = parser.parse_args()

    def keep(found: list[Row]) -> None:
        if given.json is not None:
            given.json.write_text(json.dumps([attrs.asdict(row) for row in found], indent=2) + "\n", encoding="utf-8")

    print(f"seed {given.seed}", flush=True)
    found = measure(given.rounds, given.seed, keep)
    keep(found)
    print(f"## kill -9 in mid-generation\n\n{table(found)}")


if __name__ == "__main__":
    main()
