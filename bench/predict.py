"""Embeddings and custom models of many requests at once: ``python bench/predict.py [--rounds N] [--json FILE]``.

Needs the weights of minilm (``mlzoo models pull minilm``). Installs sentence-transformers in bench/.peers, beside the
project's own torch and transformers. All sides have the same weights, threads and wait policy.

1,000 sentences come in 64 requests together, and are answered, recorded and read as JSON; sentence-transformers gets
all of them in one call, and keeps its vectors to itself. 64 requests of one sentence each go to a text classifier,
beside the same artifact called bare, one sentence after the other.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from measure import PeerMissing, Row, compare, interleave, main
from rivals import BENCH, PEERS, Rival
from stream import Host, result_of

from mlzoo.config import load
from mlzoo.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

SENTENCES, REQUESTS = 1000, 64
SINGLES = 64
SHORT = (3, 4, 5)  # words of what is asked about in the short case
WORDS = re.findall(r"\w+", (BENCH.parent / "ARCHITECTURE.md").read_text(encoding="utf-8"))
LENGTHS = (4, 6, 8, 10, 12, 16, 20, 28, 40)  # words, equally likely
SENTENCE = (
    "sentence-transformers==6.2.0",
    "scikit-learn==1.9.1",
    "scipy==1.17.1",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
    "cloudpickle==3.1.3",
    "narwhals==2.29.0",
)
CLASSIFIER = "classifier"
BARE = "the bare model, one by one"


def sentences(count: int, seed: int, lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """Return sentences of mixed lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice(lengths))) for _ in range(count)]


def encoder() -> Path:
    """Return where the weights of minilm are."""
    config = load(())
    installed = open_store(config).find(config.model("minilm"))
    if installed is None:
        sys.exit("The weights of minilm are not in the store: mlzoo models pull minilm")
    return Path(installed.path)


def beside() -> dict[str, str]:
    """Return the environment in which sentence-transformers is beside the project's own packages.

    Raises:
        PeerMissing: It cannot be installed here.
    """
    directory = PEERS / "sentence"
    complete = directory / "complete"
    if not complete.exists() or complete.read_text(encoding="utf-8") != "\n".join(SENTENCE):
        shutil.rmtree(directory, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if subprocess.run([*install, "--target", str(directory), *SENTENCE], check=False).returncode != 0:
            raise PeerMissing
        complete.write_text("\n".join(SENTENCE), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(directory), "HF_HUB_OFFLINE": "1"}


class Timed(Rival):
    """A peer that is given texts, and says how long it took."""

    def given(self, texts: list[str]) -> float:
        """Return the texts per second."""
        self.wake()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"texts": texts}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        self.suspend()
        if not line:
            raise PeerMissing
        return len(texts) / json.loads(line)["seconds"]


class Sidecar(Host):
    """Ours, suspended between measurements."""

    def all_of(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def together(self, method: str, asked: list[dict]) -> float:
        """Return the seconds from the first request to the last answer."""
        for process in reversed(self.all_of()):
            process.resume()
        start = time.perf_counter()
        waiting = {self.send(method, params) for params in asked}
        while waiting:
            message = self.receive()
            if "id" in message:
                result_of(message)
                waiting.discard(message["id"])
        duration_s = time.perf_counter() - start
        for process in self.all_of():
            process.suspend()
        return duration_s


def embed_rate(sidecar: Sidecar, texts: list[str]) -> float:
    """Return the sentences per second of all, in many requests at once."""
    asked = [{"model": "minilm", "input": texts[number::REQUESTS]} for number in range(REQUESTS)]
    return len(texts) / sidecar.together("embed", asked)


def predict_rate(sidecar: Sidecar, texts: list[str]) -> float:
    """Return the requests per second of one sentence each, all at once."""
    return len(texts) / sidecar.together("predict", [{"model": CLASSIFIER, "inputs": [text]} for text in texts])


def measure(rounds: int) -> list[Row]:
    """Have everybody ready, and measure in turns."""
    weights = encoder()
    texts, singles, short = sentences(SENTENCES, 1), sentences(SINGLES, 2), sentences(SINGLES, 3, SHORT)
    with tempfile.TemporaryDirectory(prefix="mlzoo-bench-") as name:
        directory = Path(name)
        artifact = directory / "artifact"
        subprocess.run([sys.executable, BENCH / "peers" / "make_artifact.py", weights, artifact], check=True)
        (directory / "configs" / "model").mkdir(parents=True)
        entry = f"kind: predict\nsource: path:{artifact}\nmemory_bytes: 300000000\n"
        (directory / "configs" / "model" / f"{CLASSIFIER}.yaml").write_text(entry, encoding="utf-8")
        env = {**os.environ, "MLZOO_CONFIG_DIR": str(directory / "configs")}
        store = open_store(load(())).root
        command = [
            sys.executable,
            "-m",
            "mlzoo",
            "serve",
            "--log",
            f"{directory}/log",
            f"store={_store(store, directory)}",
        ]
        with Sidecar(command, env) as sidecar, Timed(_peer("bare_predict.py", artifact)) as bare:
            sidecar.call("models.pull", {"model": CLASSIFIER})
            sidecar.call("embed", {"model": "minilm", "input": "one"})
            sidecar.call("predict", {"model": CLASSIFIER, "inputs": ["one"]})
            bare.given(singles)
            ours = {
                "embed": lambda: embed_rate(sidecar, texts),
                "predict": lambda: predict_rate(sidecar, singles),
                "predict short": lambda: predict_rate(sidecar, short),
            }
            theirs = {"bare": lambda: bare.given(singles), "bare short": lambda: bare.given(short)}
            rates = _together({**ours, **theirs}, weights, texts, rounds)
            for process in reversed(sidecar.all_of()):
                process.resume()
            sidecar.leave()
    what = f"{SENTENCES:,} sentences embedded, in {REQUESTS} requests at once"
    singly = f"{SINGLES} predictions at once, a sentence each"
    shortly = f"{SINGLES} predictions at once, {SHORT[0]} to {SHORT[-1]} words each"
    return [
        compare(what, "sentences/s", rates["embed"], "sentence-transformers, one call", rates["encode"], ">= 1.0"),
        compare(shortly, "requests/s", rates["predict short"], BARE, rates["bare short"], ">= 5.0"),
        compare(singly, "requests/s", rates["predict"], BARE, rates["bare"]),
    ]


def _together(
    measures: dict[str, Callable[[], float]], weights: Path, texts: list[str], rounds: int
) -> dict[str, list[float]]:
    """Measure in turns, with sentence-transformers among them where it can be had."""
    try:
        environment = beside()
    except PeerMissing:
        return {"encode": [], **interleave(rounds, measures)}
    with Timed(_peer("sentence_encode.py", weights), environment) as encode:
        encode.given(texts[:1])
        return interleave(rounds, {**measures, "encode": lambda: encode.given(texts)})


def _peer(script: str, directory: Path) -> list[str]:
    return [sys.executable, str(BENCH / "peers" / script), str(directory)]


def _store(store: Path, directory: Path) -> Path:
    """Return a store of our own that has what is installed: what is pulled here leaves no trace in the user's."""
    own = directory / "models"
    own.mkdir()
    for model in store.iterdir():
        if model.is_dir() and not model.name.startswith("."):
            (own / model.name).symlink_to(model)
    return own


if __name__ == "__main__":
    main("Embeddings and custom models", measure)
