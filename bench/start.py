"""A start on a long log against one on a short one: ``python bench/start.py [--rounds N] [--json FILE]``.

Both logs are made by the real ``Log`` of what a sidecar records: requests of 100 tokens each, one after the other. The
log of a million records ends just before its last segment is full, which is the worst place for a start. Measured from
spawning to the first ping, and to the first answer that the engine has decided (``cancel`` of what is unknown), which
comes once the log is folded and written to again. Each start adds a few records to its log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, compare, interleave, main

from mlzoo.config.schema import LogConfig
from mlzoo.core.decide import decide
from mlzoo.core.state import State
from mlzoo.events import commands as cmd
from mlzoo.events.log import Log
from mlzoo.state_codec import encode_state
from mlzoo.world import real_world

ROUNDS = 7
SHORT, LONG = 10_000, 1_000_000
TOKENS = 100  # of each request
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
CANCEL = b'{"jsonrpc":"2.0","id":2,"method":"cancel","params":{"request":"unknown"}}\n'
MODEL = cmd.ModelFacts(name="smollm2", kind="chat")
BOUNDS = cmd.Bounds(max_queued=8, max_running=8, queued_bytes=1 << 20, drain_ms=1000)


class Writer:
    """Writes a log as the engine does."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.state = State()
        log.bind_state(lambda: encode_state(self.state), lambda: log.last_seq + 1)

    def take(self, command: cmd.Command, text: object = None) -> None:
        """Decide, append, fold."""
        first = self.log.last_seq + 1
        events, self.state = decide(self.state, command, first, first)
        self.log.append(command, events, text, first)
        self.log.commit()

    def begin(self) -> None:
        """Bring the model up."""
        device = cmd.DeviceFacts(name="cpu", kind="cpu", memory_total_bytes=1 << 34, memory_free_bytes=1 << 34)
        self.take(cmd.Start(version="0.0.0", core_version=1, bounds=BOUNDS))
        self.take(cmd.LoadModel(request="load", caller=cmd.Caller(connection="c", rpc=1), model=MODEL))
        self.take(cmd.ReportDevices(model="smollm2", devices=(device,)))
        self.take(
            cmd.ReportLoaded(
                model="smollm2", device="cpu", memory_bytes=1 << 28, context=2048, slots=1, dtype="float32"
            )
        )

    def answer(self, number: int) -> None:
        """Have one request answered."""
        request = f"req-{number:020d}"
        caller = cmd.Caller(connection="con-1", rpc=number)
        submit = cmd.Submit(request=request, caller=caller, method="chat", model=MODEL, stream=True, size_bytes=60)
        self.take(submit, {"messages": [{"role": "user", "content": "What do bees do in winter?"}], "params": {}})
        for token in range(1, TOKENS + 1):
            last = token == TOKENS
            row = cmd.RowFacts(request=request, tokens=1, size_bytes=4, finish_reason="length" if last else None)
            self.take(cmd.ReportStep(device="cpu", rows=(row,)), [{"content": " bee", "tokens": [token]}])


async def write(path: Path, records: int) -> None:
    """Write a log of about so many records; a long one up to just before its last segment is full."""
    settings = LogConfig(durability="process")
    log = await Log.open(path, real_world(), settings, version="0.0.0")
    writer = Writer(log)
    writer.begin()
    number = 0
    full_bytes = settings.segment_bytes - 64 * 1024
    while log.last_seq < records or (records == LONG and last_segment_bytes(path) < full_bytes):
        number += 1
        writer.answer(number)
    await log.close()


def last_segment_bytes(path: Path) -> int:
    return max((path / "segments").iterdir()).stat().st_size


def start_ms(log: Path, line: bytes) -> float:
    """Return the time from spawning to the answer of one line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "mlzoo", "serve", "--log", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(line)
        server.stdin.flush()
        assert b'"result"' in server.stdout.readline()
        taken_s = time.perf_counter() - start
        server.stdin.close()
    return taken_s * 1e3


def measure(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".start-") as directory:
        short, long = Path(directory) / "short", Path(directory) / "long"
        trio.run(write, short, SHORT)
        trio.run(write, long, LONG)
        found = interleave(
            rounds,
            {
                f"{name} {what}": partial(start_ms, log, line)
                for name, log in (("short", short), ("long", long))
                for what, line in (("ping", PING), ("decision", CANCEL))
            },
        )
    peer = f"{SHORT:,} records"
    return [
        compare(
            f"start with {LONG:,} records, first ping", "ms", found["long ping"], peer, found["short ping"], "<= 1.5"
        ),
        compare(
            f"start with {LONG:,} records, first decision",
            "ms",
            found["long decision"],
            peer,
            found["short decision"],
            "<= 1.5",
        ),
    ]


if __name__ == "__main__":
    main("Start on a long log", measure, rounds=ROUNDS)
