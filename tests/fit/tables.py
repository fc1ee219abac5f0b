"""Small data files for tests of training, and where a test keeps all that a run leaves."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

TABLE = ("table", "name=toy", "data.path=toy.csv")


def write_csv(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def toy(directory, rows=120):
    """Write a table of three classes that can be told apart, with a number, a category and a truth."""
    draws = random.Random(7)
    made = []
    for number in range(rows):
        kind = number % 3
        made.append((
            f"{kind + draws.gauss(0, 0.3):.4f}",
            f"{draws.gauss(0, 1):.4f}",
            ("red", "green", "blue")[kind if draws.random() < 0.7 else draws.randrange(3)],
            "true" if draws.random() < 0.5 else "false",
            ("low", "middle", "high")[kind],
        ))  # fmt: skip
    return write_csv(directory / "toy.csv", ("size", "noise", "colour", "fresh", "label"), made)


def environment(directory):
    """Return an environment in which everything that is kept lies below a directory."""
    kept = {f"XDG_{kind}_HOME": str(directory / kind.lower()) for kind in ("STATE", "CONFIG", "CACHE", "DATA")}
    others = {name: value for name, value in os.environ.items() if not name.startswith("MLZOO_")}
    return {**others, **kept, "COLUMNS": "200"}


def command(*words):
    return [sys.executable, "-m", "mlzoo", "fit", *words]


def fit(directory, *words, **options):
    """Run the command as a person does; return what ended."""
    return subprocess.run(
        command(*words),
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def weights(directory, name="toy"):
    """Return the bytes of a result's weights."""
    (found,) = (directory / "data" / "mlzoo" / "models" / name).glob("*/model.safetensors")
    return found.read_bytes()


def run_directory(directory, name="toy"):
    return directory / "state" / "mlzoo" / "fit" / name


def read(path):
    return Path(path).read_text(encoding="utf-8")
