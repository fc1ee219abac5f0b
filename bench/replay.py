"""Replay: the fold of ``mlzoo replay check``, and the start of ``mlzoo replay play``. ``python bench/replay.py``.

The log that is checked holds 16 streams and, beside it, one stream alone; a record is a command or an event. Checked in
one process, and in as many as there are cores. Start-up is from spawning the process to its first answer, beside
``python -c pass`` in the same round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, compare, interleave, main

from mlzoo.core.decide import decide
from mlzoo.core.state import State
from mlzoo.events import commands as cmd
from mlzoo.events.log import Log
from mlzoo.events.records import CORE_VERSION
from mlzoo.replay.check import check
from mlzoo.state_codec import encode_state
from mlzoo.world import real_world

ROUNDS = 5
RECORDS = 120_000
RECORDING = Path(__file__).parent.parent / "replay" / "chat.ndjson"
HELLO = b"""{"jsonrpc":"2.0","id":1,"method":"initialize","params":
{"protocol_version":"1","client":{"name":"tests","version":"1"}}}""".replace(b"\n", b"")
BOUNDS = cmd.Bounds(max_queued=64, max_running=64, queued_bytes=1 << 30, drain_ms=1)
MODEL = cmd.ModelFacts(name="toy", kind="chat", memory_bytes=1, slots=64)
CPU = cmd.DeviceFacts(name="cpu", kind="cpu", memory_total_bytes=100, memory_free_bytes=100)


@attrs.frozen(kw_only=True)
class Settings:
    """How the log is kept."""

    durability: str = "process"
    segment_bytes: int = 4 << 20
    asides_segment_bytes: int = 4 << 20
    budget_bytes: int = 1 << 32
    keep_days: float | None = None
    tail_bytes: int = 8 << 20


class Writer:
    """Decides commands and has them in a log, as the engine does."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._state = State()
        self._at_ms = 0
        log.bind_state(lambda: encode_state(self._state), lambda: 1, lambda: 1)

    def tell(self, command: cmd.Command, text: object = None) -> None:
        self._at_ms += 10
        events, self._state = decide(self._state, command, self._log.last_seq + 1, self._at_ms)
        if events:
            self._log.append(command, events, text, self._at_ms)
            self._log.commit()


async def write(path: Path, streams: int) -> None:
    """Write a log in which so many requests stream, a step at a time."""
    log = await Log.open(path, real_world(), Settings(), version="0.0.0")
    writer = Writer(log)
    requests = [f"req-{number:020d}" for number in range(streams)]
    writer.tell(cmd.Start(version="0.0.0", core_version=CORE_VERSION, bounds=BOUNDS))
    for rpc, request in enumerate(requests):
        caller = cmd.Caller(connection="con-1", rpc=rpc)
        submit = cmd.Submit(request=request, caller=caller, method="chat", model=MODEL, stream=True)
        writer.tell(submit, {"messages": []})
    writer.tell(cmd.ReportDevices(model="toy", devices=(CPU,)))
    writer.tell(cmd.ReportWorkerUp(device="cpu", pid=1, threads=1, versions={}))
    writer.tell(cmd.ReportLoaded(model="toy", device="cpu", memory_bytes=1, context=1 << 30, slots=64))
    rows = tuple(cmd.RowFacts(request=request, tokens=1, size_bytes=3) for request in requests)
    text = [{"content": "abc", "tokens": [7]}] * streams
    for _ in range(RECORDS // (streams + 1)):
        writer.tell(cmd.ReportStep(device="cpu", rows=rows), text)
    await log.close()


def checked(path: Path, processes: int) -> float:
    """Return records per second."""
    start = time.perf_counter()
    found = check(real_world(), path, processes)
    taken = time.perf_counter() - start
    assert found.difference is None
    return found.compared / taken


def played() -> float:
    """Return the milliseconds from spawning a player to its first answer."""
    command = [sys.executable, "-m", "mlzoo", "replay", "play", str(RECORDING)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(HELLO + b"\n")
        process.stdin.flush()
        assert b"result" in process.stdout.readline()
        taken = time.perf_counter() - start
        process.stdin.close()
    return taken * 1000


def bare() -> float:
    """Return the milliseconds that Python takes to do nothing."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - start) * 1000


def measure(rounds: int) -> list[Row]:
    """Measure all, round by round."""
    cores = os.cpu_count() or 1
    with ExitStack() as stack:
        logs = {}
        for streams in (16, 1):
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".replay-"))
            logs[streams] = Path(directory) / "log"
            trio.run(write, logs[streams], streams)
        found = interleave(
            rounds,
            {
                "16 streams": partial(checked, logs[16], 1),
                "1 stream": partial(checked, logs[1], 1),
                "16 streams, cores": partial(checked, logs[16], cores),
                "play": played,
                "pass": bare,
            },
        )
    wanted = [150_000.0] * rounds
    return [
        compare("check, 16 streams, one process", "/s", found["16 streams"], "wanted", wanted, ">= 1.0"),
        compare("check, one stream, one process", "/s", found["1 stream"], "wanted", wanted, ">= 1.0"),
        compare(f"check, 16 streams, {cores} processes", "/s", found["16 streams, cores"], "wanted", wanted),
        compare("play, spawn to first answer", "ms", found["play"], "python -c pass", found["pass"], "<= 12"),
    ]


if __name__ == "__main__":
    main("Replay", measure, rounds=ROUNDS)
