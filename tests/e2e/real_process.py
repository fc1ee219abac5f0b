"""The real process, from outside: bytes in, bytes out, signals, exit status.

Nothing here waits for a time to pass; the limits end a test that hangs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import anyio
import psutil
import pytest
from anyio.from_thread import start_blocking_portal

from mlzoo.client import RemoteError, spawn
from mlzoo.client import serve_command as client_command

PATIENCE_S = 300  # Only ever waited for by a test that fails.


def serve_command(*arguments):
    return [sys.executable, "-m", "mlzoo", "serve", *map(str, arguments)]


class RawSidecar:
    """A sidecar spoken to in bytes. Leaves with its block; what is left of it is killed."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            serve_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else {**os.environ, **env},
        )
        self.stderr = b""
        self._drain = threading.Thread(target=self._drain_stderr)
        self._drain.start()
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        self._drain.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()

    def send(self, *lines):
        """Write lines: bytes as they are, all else as JSON."""
        for line in lines:
            self.process.stdin.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self):
        """Read one line. A protocol line is whole and valid, whatever happens."""
        line = self.process.stdout.readline()
        assert line, f"stdout ended; stderr says {self.stderr.decode()}"
        assert line.endswith(b"\n")
        return json.loads(line)

    def ask(self, *lines):
        self.send(*lines)
        return self.receive()

    def ping(self, request="ping"):
        """Say whether the next request still works."""
        return self.ask(call("ping", request=request)) == {"jsonrpc": "2.0", "id": request, "result": {}}

    def leave(self):
        """End stdin; return the exit status and what was said meanwhile."""
        self.process.stdin.close()
        rest = [json.loads(line) for line in self.process.stdout]
        return self.process.wait(), rest

    def _drain_stderr(self):
        for line in self.process.stderr:
            self.stderr += line


def call(method, request=1, **params):
    return {"jsonrpc": "2.0", "id": request, "method": method, "params": params}


def mlzoo(*arguments, **options):
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mlzoo", *map(str, arguments)],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **{"stdin": subprocess.DEVNULL, **options},
    )


def wait_until_gone(pids):
    """Wait until processes, which need not be children of this one, are gone."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert not alive


class Host:
    """A client of one sidecar that many tests share: a worker process takes seconds to start."""

    def __init__(self, portal, client, log):
        self._portal = portal
        self.client = client
        self.log = log

    def run(self, function, *args):
        async def bounded():
            with anyio.fail_after(PATIENCE_S):
                return await function(self.client, *args)

        return self._portal.call(bounded)

    def call(self, method, **params):
        return self.run(lambda client: client.call(method, params))

    def refused(self, method, **params):
        """Return the error that a call ends with, after making sure that the next request works."""
        with pytest.raises(RemoteError) as caught:
            self.call(method, **params)
        assert self.call("ping") == {}
        return caught.value


@contextmanager
def hosting(log, *overrides, config_dir=None):
    # Many tests' tokens together would have a compiler started, which takes a core for minutes from those that follow.
    command = client_command(["model.compile=none", *overrides], log=log, config_dir=config_dir)
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(spawn(command)) as client,
    ):
        yield Host(portal, client, log)


def user(text):
    return [{"role": "user", "content": text}]


def story(log):
    """Return all records of a log, as ``mlzoo log cat`` tells them."""
    done = mlzoo("log", "cat", "--json", log)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_whole(log):
    return mlzoo("log", "verify", log).returncode == 0
