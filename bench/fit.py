"""How good `mlzoo fit` makes a head, and in what time: against scikit-learn's logistic regression on the same features.

``python bench/fit.py [--rounds N] [--json FILE]``, or ``--reviews FILE`` to have the data alone: sentences of product
reviews with the mean sentiment that people gave them (Hutto and Gilbert, "VADER", ICWSM 2014), which the source
distribution of vaderSentiment 3.3.2 has under the MIT licence. Those of a clear sentiment (1 or more, either way) are
kept, as two classes. Each round is a split under a seed of its own: 55 % for training, 15 % to choose the epoch, 30 %
for test. The peer learns from the rows for training alone, as it has nothing to choose. Beside it, the digits that
scikit-learn ships, as a table of 64 numbers.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import mean

from measure import Row, main

BENCH = Path(__file__).resolve().parent
PACKAGE = "vaderSentiment==3.3.2"
INSIDE = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
CLEAR = 1.0  # of a sentiment from -4 to 4
HALF_A_POINT = 0.005  # that the accuracy may be below the peer's


def reviews(path: Path) -> None:
    """Write the reviews as CSV; the archive is fetched once."""
    kept = BENCH / ".peers" / "vader"
    if not list(kept.glob("*.tar.gz")):
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "vaderSentiment"]
        subprocess.run([*words, "--dest", str(kept), PACKAGE], check=True)
    with tarfile.open(next(kept.glob("*.tar.gz"))) as outer:
        (name,) = [name for name in outer.getnames() if name.endswith(INSIDE)]
        archive = outer.extractfile(name)
        assert archive is not None
        with tarfile.open(fileobj=io.BytesIO(archive.read())) as inner:
            file = inner.extractfile(FILE)
            assert file is not None
            lines = file.read().decode().splitlines()
    rows = [line.split("\t") for line in lines]
    said = [(text, float(score)) for _, score, text in rows if abs(float(score)) >= CLEAR]
    write(path, ["text", "label"], [(text, "positive" if score > 0 else "negative") for text, score in said])


def digits(path: Path) -> None:
    """Write the digits of scikit-learn: 1,797 pictures of 8 x 8 pixels (Alpaydin and Kaynak, 1998; UCI, CC BY 4.0)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    names = [*found.feature_names, "label"]
    write(path, names, [(*cells, f"digit {kind}") for cells, kind in zip(found.data, found.target, strict=True)])


def write(path: Path, names: list[str], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def ours(directory: Path, config: str, data: Path, rounds: int) -> tuple[list[float], float]:
    """Return the accuracy on the rows for test of each round, and how long a run took."""
    from mlzoo.config import load
    from mlzoo.store import open_store

    store = directory / "store"  # of its own, with the base of the user's: what is made here stays here
    store.mkdir(exist_ok=True)
    base = open_store(load(())).root / "minilm"
    if base.is_dir() and not (store / "minilm").exists():
        (store / "minilm").symlink_to(base)
    kept = {f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in ("STATE", "CONFIG")}
    kept["MLZOO_STORE"] = str(store)
    log = directory / f"log-{config}"
    words = ["fit", config, f"name={config}", f"data.path={data}", "data.split={validation: 0.15, test: 0.3}"]
    options = ["--multirun", "--log", str(log), "--output", str(directory / config)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "mlzoo", *words, f"seed=range(0,{rounds})", *options]
    subprocess.run(
        command, env={**os.environ, **kept}, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    took_s = (time.perf_counter() - began) / rounds
    told = subprocess.run(
        [sys.executable, "-m", "mlzoo", "log", "cat", "--json", str(log)], check=True, capture_output=True
    )
    records = [json.loads(line) for line in told.stdout.splitlines()]
    return [record["data"]["figures"]["accuracy"] for record in records if record["type"] == "EndFit"], took_s


def theirs(config: str, data: Path, rounds: int) -> list[float]:
    """Return the accuracy of logistic regression on the same features and rows."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from mlzoo.config import load
    from mlzoo.config.loading import search_path
    from mlzoo.fit import files
    from mlzoo.fit.columns import samples
    from mlzoo.fit.composing import compose
    from mlzoo.fit.learning import keep_features, make
    from mlzoo.fit.splitting import split
    from mlzoo.parts import spec_of
    from mlzoo.store import open_store

    words = [f"name={config}", f"data.path={data}", "data.split={validation: 0.15, test: 0.3}"]
    [run] = compose(config, words, search_path(None, os.environ), multirun=False)
    settings = run.settings
    file = files.read(settings.data)
    found = samples(file, settings.data, spec_of(settings.model))
    accuracies = []
    features = None
    for seed in range(rounds):
        parts = split(file, settings.data, found, seed)
        if settings.base is None:
            pipeline = make(settings, found, parts, None).model.pipeline
            features = pipeline.collate(pipeline.read(found.inputs))["numbers"]
        elif features is None:
            installed = open_store(load(())).find(load(()).model(settings.base))
            if installed is None:
                sys.exit(f"{settings.base} is not in the store: mlzoo models pull {settings.base}")
            learner = make(settings, found, parts, installed.path)
            keep_features(learner, lambda _done, _total: None)
            assert learner.kept is not None
            features = learner.kept.pooled.numpy()
        targets = np.array(found.targets)
        peer = LogisticRegression(max_iter=5000).fit(features[list(parts.train)], targets[list(parts.train)])
        accuracies.append(float(peer.score(features[list(parts.test)], targets[list(parts.test)])))
    return accuracies


def measure(rounds: int) -> list[Row]:
    """Return a row for the accuracy on each data set, and one for the time of a run on texts."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="mlzoo-bench-") as name:
        directory = Path(name)
        for config, make_data, what in (
            ("text", reviews, "accuracy, head on MiniLM, 2,455 sentences of reviews"),
            ("table", digits, "accuracy, small network, digits as a table"),
        ):
            data = directory / f"{config}.csv"
            make_data(data)
            accuracies, took_s = ours(directory, config, data, rounds)
            peers = theirs(config, data, rounds)
            rows.append(
                Row(
                    what=f"{what}, mean of {rounds} splits",
                    value=100 * mean(accuracies),
                    unit="%",
                    peer="logistic regression of scikit-learn, same features",
                    peer_value=100 * mean(peers),
                    ratio=mean(accuracies) / mean(peers),
                    target=f">= {1 - HALF_A_POINT / mean(peers):.4f}",
                )
            )
            rows.append(Row(what=f"time of a run, {config}, imports and features shared", value=took_s, unit="s"))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reviews"]:
        reviews(Path(sys.argv[2]))
        sys.exit()
    main("Fit", measure, rounds=5)
