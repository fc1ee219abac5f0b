"""Ping through the whole sidecar, each one recorded in its log, against a raw loop and the MCP Python SDK, in one run.

``python bench/ping.py [--rounds N] [--json FILE]``. Sets up what it needs in bench/.build/ (the compiled client) and
bench/.peers/ (the SDK, in an environment of its own). Rates: higher is better. Times and memory: lower is better.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from measure import PeerMissing, Row, compare, interleave, main

BENCH = Path(__file__).resolve().parent
PEERS = BENCH / "peers"
MCP = "mcp==2.3.0"
MCP_HELLO = PEERS / "mcp_hello.ndjson"
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
MEMORY_MB = 60  # What an idle sidecar may take.
SETTLED_S = 1.5  # After this, all that a server imports behind its first reply is there.
PINGS = {1: 10_000, 64: 50_000}
MCP_PINGS = {1: 500, 64: 2_000}


def build_client() -> list[str]:
    """Return the client's command: compiled where there is rustc, else the one in Python."""
    rustc = shutil.which("rustc")
    if rustc is None:
        print("No rustc: the client is Python, and fast servers wait for it.\n")
        return [sys.executable, str(BENCH / "ping_client.py")]
    source, built = BENCH / "ping_client.rs", BENCH / ".build" / "ping_client"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(exist_ok=True)
        subprocess.run([rustc, "-O", "--edition=2021", "-o", built, source], check=True)
    return [str(built)]


def build_mcp() -> list[str]:
    """Return the command of the SDK's server, installing it first; empty where that is not possible."""
    environment = BENCH / ".peers" / "mcp"
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (environment / "complete").exists():
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MCP]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            subprocess.run(install, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{MCP} cannot be installed here: {error}\n")
            return []
        (environment / "complete").touch()
    return [str(python), str(PEERS / "mcp_server.py")]


class Servers:
    """The commands that are measured, and how."""

    def __init__(self, log: str) -> None:
        self._client = build_client()
        self.raw = [sys.executable, str(PEERS / "raw_loop.py")]
        self.raw_batched = [*self.raw, "batched"]
        self.transport = [sys.executable, str(PEERS / "transport_loop.py")]
        self.sidecar = [sys.executable, "-m", "mlzoo", "serve", "--log", log]
        self.mcp = build_mcp()

    def rate(self, command: list[str], depth: int) -> float:
        """Return pings per second with depth of them in flight."""
        is_mcp = command is self.mcp
        if not command:
            raise PeerMissing
        hello = str(MCP_HELLO) if is_mcp else os.devnull
        count = MCP_PINGS[depth] if is_mcp else PINGS[depth]
        done = subprocess.run(
            [*self._client, str(depth), str(count), hello, "--", *command],
            check=True,
            stdout=subprocess.PIPE,
            cwd=BENCH.parent,
        )
        result = json.loads(done.stdout)
        assert result["left_well"], f"{command} did not leave well"
        return float(result["rate"])

    def first_reply_ms(self, command: list[str]) -> float:
        """Return the time from spawning to the first reply."""
        if not command:
            raise PeerMissing
        start = time.perf_counter()
        with self._spawn(command) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(PING)
            server.stdin.flush()
            assert b'"result"' in server.stdout.readline()
            duration_s = time.perf_counter() - start
            server.stdin.close()
        return duration_s * 1e3

    def memory_mb(self, command: list[str]) -> float:
        """Return what an idle server takes: its proportional set size, or what is resident."""
        if not command:
            raise PeerMissing
        with self._spawn(command) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(PING)
            server.stdin.flush()
            server.stdout.readline()
            time.sleep(SETTLED_S)
            memory = psutil.Process(server.pid).memory_full_info()
            server.stdin.close()
        return float(getattr(memory, "pss", memory.rss)) / 1e6

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=BENCH.parent
        )


def bare_python_ms() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - start) * 1e3


def measure(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as log:
        servers = Servers(log)
        named = {
            "sidecar": servers.sidecar,
            "transport": servers.transport,
            "raw": servers.raw,
            "raw batched": servers.raw_batched,
            "mcp": servers.mcp,
        }
        measures = {"bare python": bare_python_ms}
        for name, command in named.items():
            for depth in PINGS:
                measures[f"{name} {depth}"] = partial(servers.rate, command, depth)
        for name in ("sidecar", "mcp"):
            measures[f"{name} first"] = partial(servers.first_reply_ms, named[name])
            measures[f"{name} memory"] = partial(servers.memory_mb, named[name])
        values = interleave(rounds, measures)
    ours, alone = "ping, recorded", "ping, transport alone"
    raw, batched = "raw loop, a write per reply", "raw loop, a write per read"
    mcp, python = "MCP Python SDK", "python -c pass"
    first, memory = "spawn to first reply", "idle memory"
    allowed = [float(MEMORY_MB)] * rounds
    return [
        compare(f"{ours}, 64 in flight", "/s", values["sidecar 64"], raw, values["raw 64"], ">= 0.12"),
        compare(f"{ours}, 64 in flight", "/s", values["sidecar 64"], batched, values["raw batched 64"]),
        compare(f"{ours}, 64 in flight", "/s", values["sidecar 64"], mcp, values["mcp 64"], ">= 15"),
        compare(f"{ours}, 1 in flight", "/s", values["sidecar 1"], raw, values["raw 1"]),
        compare(f"{ours}, 1 in flight", "/s", values["sidecar 1"], mcp, values["mcp 1"], ">= 5"),
        compare(f"{alone}, 64 in flight", "/s", values["transport 64"], raw, values["raw 64"], ">= 1.0"),
        compare(f"{alone}, 64 in flight", "/s", values["transport 64"], batched, values["raw batched 64"]),
        compare(f"{alone}, 1 in flight", "/s", values["transport 1"], raw, values["raw 1"]),
        compare(first, "ms", values["sidecar first"], python, values["bare python"], "<= 12"),
        compare(first, "ms", values["sidecar first"], mcp, values["mcp first"]),
        compare(memory, "MB", values["sidecar memory"], "what is allowed", allowed, "<= 1"),
        compare(memory, "MB", values["sidecar memory"], mcp, values["mcp memory"]),
    ]


if __name__ == "__main__":
    main("Ping", measure)
