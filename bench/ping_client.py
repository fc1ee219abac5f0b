"""ping_client.rs in Python, for where there is no rustc: the same arguments, the same output, a slower host.

With it a fast server's figures are the client's rather than the server's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

WARM_UP = 500
CHUNK_BYTES = 64 * 1024


class Host:
    """A server's other end."""

    def __init__(self, command: list[str]) -> None:
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._stdin, self._stdout = self._server.stdin, self._server.stdout
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Write all of data."""
        while data:
            data = data[self._stdin.write(data) :]

    def receive(self) -> list[bytes]:
        """Return the lines that the next read completes."""
        chunk = os.read(self._stdout.fileno(), CHUNK_BYTES)
        if not chunk:
            sys.exit("the server closed its stdout")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines

    def leave(self) -> bool:
        """Close stdin and wait for the server to leave; say whether it left well."""
        self._stdin.close()
        self._stdout.close()
        return self._server.wait() == 0


def main() -> None:
    if len(sys.argv) < 6 or sys.argv[4] != "--":
        sys.exit("usage: ping_client.py DEPTH COUNT HELLO -- PROGRAM [ARGUMENT...]")
    depth, count = int(sys.argv[1]), int(sys.argv[2])
    hello = Path(sys.argv[3]).read_bytes()
    host = Host(sys.argv[5:])
    if hello:
        first, *others = hello.splitlines(keepends=True)
        host.send(first)
        while not host.receive():
            pass
        host.send(b"".join(others))
    total = WARM_UP + count
    sent_at: list[float] = []
    latencies_us: list[float] = []
    began, done = time.perf_counter(), 0
    while done < total:
        pings = []
        while len(sent_at) < min(total, done + depth):
            pings.append(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % len(sent_at))
            sent_at.append(time.perf_counter())
        host.send(b"".join(pings))
        for line in host.receive():
            reply = json.loads(line)
            if "result" not in reply:
                sys.exit(f"no result: {line!r}")
            done += 1
            if done == WARM_UP:
                began = time.perf_counter()
            if done > WARM_UP:
                latencies_us.append((time.perf_counter() - sent_at[reply["id"]]) * 1e6)
    duration_s = time.perf_counter() - began
    latencies_us.sort()
    result = {
        "rate": round(count / duration_s),
        "p50_us": round(latencies_us[len(latencies_us) // 2], 1),
        "p99_us": round(latencies_us[len(latencies_us) * 99 // 100], 1),
        "left_well": host.leave(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
