"""Memory while a host does not read: ``python bench/unread.py [--rounds N] [--json FILE]``.

Needs the weights of smollm2 (``mlzoo models pull smollm2``), which nobody reads: the sidecar is the real one,
in a process of its own, its workers say at once what they are asked to say (peers/talking_sidecar.py). A host asks for
streams of 1 GB in all and reads nothing until all of them have ended, as the log says; then it reads all, and compares
each piece and each result with what was asked for. Idle is what the process holds after the first stream was read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, main
from peers.talking_sidecar import piece

SIDECAR = Path(__file__).resolve().parent / "peers" / "talking_sidecar.py"
STREAMS = 128
PIECES = 2000  # of each stream
PIECE_BYTES = 4096  # 128 streams x 2,000 pieces x 4 KiB: 1.05 GB
ALLOWED_MB = 64
LOOK_EVERY_S = 0.05
GIVE_UP_S = 900
OVERRIDES = ("log.budget_bytes=8000000000", f"limits.max_queued={STREAMS}")


class Host:
    """A host that can choose not to read, and looks at the memory of its sidecar all the while."""

    def __init__(self, log: str) -> None:
        command = [sys.executable, str(SIDECAR), log, *OVERRIDES]
        self._sidecar = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._sidecar.stdin is not None
        assert self._sidecar.stdout is not None
        self._stdin, self._stdout = self._sidecar.stdin, self._sidecar.stdout
        self._process = psutil.Process(self._sidecar.pid)
        self._most_bytes = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def ask(self, call: int, pieces: int) -> None:
        prompt = f"{pieces} {PIECE_BYTES}"
        params = {"model": "smollm2", "prompt": prompt, "stream": True, "max_tokens": pieces}
        line = {"jsonrpc": "2.0", "id": call, "method": "complete", "params": params}
        self._stdin.write(json.dumps(line).encode() + b"\n")
        self._stdin.flush()

    def read(self) -> dict:
        line = self._stdout.readline()
        assert line, "the sidecar has ended by itself"
        return json.loads(line)

    def memory_mb(self) -> float:
        return self._process.memory_info().rss / 1e6

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def most_mb(self) -> float:
        """Return the most that was seen since this was last asked."""
        most, self._most_bytes = self._most_bytes, 0
        return most / 1e6

    def leave(self) -> None:
        self._over.set()
        self._watcher.join()
        self._stdin.close()
        self._stdout.read()
        assert self._sidecar.wait(timeout=60) == 0

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._most_bytes = max(self._most_bytes, self._process.memory_info().rss)


def ended(log: Path) -> int:
    """Return how many requests have ended, as the log says; a segment is read as any file is."""
    return sum(
        line.count(b'"type":"RequestCompleted"') for path in log.glob("segments/*.ndjson") for line in path.open("rb")
    )


def wait_until_all_is_said(log: Path) -> float:
    began_s = time.monotonic()
    size_bytes = -1
    while True:
        time.sleep(1)
        now_bytes = sum(path.stat().st_size for path in log.rglob("*") if path.is_file())
        if now_bytes == size_bytes and ended(log) == STREAMS + 1:
            return now_bytes / 1e6
        size_bytes = now_bytes
        assert time.monotonic() - began_s < GIVE_UP_S, f"{ended(log)} of {STREAMS} streams have ended"


def read_all(host: Host) -> Counter[str]:
    """Read what is due; count pieces, answers and faults."""
    heard: dict[int, int] = dict.fromkeys(range(1, STREAMS + 1), 0)
    pieces = [piece(number, PIECE_BYTES) for number in range(PIECES)]
    whole = "".join(pieces)
    seen: Counter[str] = Counter()
    while seen["answers"] < STREAMS:
        message = host.read()
        if message.get("method") == "stream":
            params = message["params"]
            expected = heard[params["request"]]
            heard[params["request"]] += 1
            right = params["seq"] == expected and params["delta"]["content"] == pieces[expected]
            seen["pieces"] += 1
            seen["wrong"] += not right
        elif "id" in message:
            seen["answers"] += 1
            right = "result" in message and message["result"]["text"] == whole and heard[message["id"]] == PIECES
            seen["wrong"] += not right
    return seen


def once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory)
        host = Host(directory)
        host.ask(0, 100)
        while host.read().get("id") != 0:
            pass
        time.sleep(1)
        idle_mb = host.memory_mb()
        host.most_mb()
        for call in range(1, STREAMS + 1):
            host.ask(call, PIECES)
        log_mb = wait_until_all_is_said(log)
        unread_mb = host.most_mb()
        began_s, before_s = time.monotonic(), host.cpu_s()
        seen = read_all(host)
        cpu_s = host.cpu_s() - before_s
        took_s = time.monotonic() - began_s
        reading_mb = host.most_mb()
        host.leave()
    assert seen["pieces"] == STREAMS * PIECES, seen
    return {
        "idle": idle_mb,
        "unread": unread_mb - idle_mb,
        "reading": reading_mb - idle_mb,
        "said": STREAMS * PIECES * PIECE_BYTES / 1e6,
        "log": log_mb,
        "wrong": float(seen["wrong"]),
        "cpu": cpu_s / (STREAMS * PIECES * PIECE_BYTES / 1e9),
        "rate": STREAMS * PIECES * PIECE_BYTES / 1e6 / took_s,
    }


def measure(rounds: int) -> list[Row]:
    found = [once() for _ in range(rounds)]
    values = {name: median(one[name] for one in found) for name in found[0]}
    worst_mb = max(one["unread"] for one in found)
    reading_mb = max(one["reading"] for one in found)
    wrong = sum(one["wrong"] for one in found)

    def bounded(what: str, value_mb: float) -> Row:
        share = value_mb / ALLOWED_MB
        return Row(
            what=what, value=value_mb, unit="MB", peer="allowed", peer_value=ALLOWED_MB, ratio=share, target="<= 1"
        )

    return [
        bounded("memory over idle while 1 GB waits for its host", worst_mb),
        bounded("memory over idle while the host reads it at last", reading_mb),
        Row(what="idle, after a first stream", value=values["idle"], unit="MB"),
        Row(what="said while nobody read", value=values["said"], unit="MB"),
        Row(what="the log meanwhile", value=values["log"], unit="MB"),
        Row(what="read afterwards", value=values["rate"], unit="MB/s"),
        Row(what="processor time of the sidecar for reading", value=values["cpu"], unit="s/GB"),
        Row(
            what="pieces and answers that are wrong or missing",
            value=wrong,
            unit="",
            peer="allowed",
            peer_value=0,
            ratio=wrong,
            target="<= 0",
        ),
    ]


if __name__ == "__main__":
    main("Memory while a host does not read", measure, rounds=1)
