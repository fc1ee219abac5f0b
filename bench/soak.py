"""One long soak of the simulation: ``python bench/soak.py``; --json for the figures alone.

Fresh seeds, until so many lives were lived and so many crash states were looked at; any violation is shown as it is
found. What was explored is kept for each commit, in ``bench/.build/``: a soak that was broken off goes on, and one that
is done is only told again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import Row, main

from mlzoo.simulation.__main__ import commit
from mlzoo.simulation.progress import Progress

BENCH = Path(__file__).resolve().parent
LIVES, STATES = 50_000, 1_000_000


def measure(_rounds: int) -> list[Row]:
    """Soak, or go on with it; return what was explored. Rounds would be nothing but another number of lives."""
    file = BENCH / ".build" / f"soak-{commit()}.json"
    command = [sys.executable, "-m", "mlzoo.simulation", "--lives", str(LIVES), "--crash-states", str(STATES)]
    done = subprocess.run([*command, "--progress", str(file)], cwd=BENCH.parent, check=False)
    progress = Progress.read(file)
    if progress is None or done.returncode not in {0, 1}:
        sys.exit(f"the soak ended with status {done.returncode}")
    seeds = f"seeds from {progress.first_seed}"
    states = f"crash states of the log, {seeds} to {progress.first_seed + progress.histories - 1}"
    lives = f"lives of the whole app, {seeds} to {progress.first_seed + progress.stories - 1}"
    failures = len(progress.failures)
    return [
        _wanted(states, progress.states, STATES),
        _wanted(lives, progress.lives, LIVES),
        Row(what="steps of them that were checked", value=float(progress.steps), unit=""),
        Row(
            what="violations",
            value=float(failures),
            unit="",
            peer="allowed",
            peer_value=0.0,
            ratio=float(failures),
            target="<= 0",
        ),
    ]


def _wanted(what: str, value: int, wanted: int) -> Row:
    ratio = value / wanted
    return Row(
        what=what, value=float(value), unit="", peer="wanted", peer_value=float(wanted), ratio=ratio, target=">= 1"
    )


if __name__ == "__main__":
    main("Soak", measure, rounds=1)
