"""The simulator against its targets: ``python bench/simulation.py``; --json for the figures alone.

Rates are per second of CPU time of one core, since that is what a soak has: crash states of the log that were recovered
and checked, and lives of the whole app, start to end or crash, checked at each step. Seeds are those of the tests.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from statistics import median

from measure import Row, interleave, main

from mlzoo.simulation import recoveries
from mlzoo.simulation.stories import told

HISTORIES = 4
STORIES = 100
STATES_PER_S, LIVES_PER_S = 5000, 100


def crash_states() -> float:
    """Return crash states per second."""
    start = time.process_time()
    counts = [recoveries.explore(seed) for seed in range(HISTORIES)]
    assert not any(count.violations for count in counts)
    return sum(count.states for count in counts) / (time.process_time() - start)


def lives() -> float:
    """Return lives per second; garbage is looked for when a soak does."""
    gc.collect()
    gc.freeze()
    gc.disable()
    lived, start = 0, time.process_time()
    for seed in range(STORIES):
        outcome = told(seed)
        assert not outcome.violations
        lived += outcome.lives
        gc.collect()
    took_s = time.process_time() - start
    gc.enable()
    gc.unfreeze()
    return lived / took_s


def row(what: str, values: list[float], wanted: int) -> Row:
    """Return a figure beside what is wanted of it."""
    value = median(values)
    ratio = value / wanted
    return Row(what=what, value=value, unit="/s", peer="wanted", peer_value=float(wanted), ratio=ratio, target=">= 1.0")


def measure(rounds: int) -> list[Row]:
    """Measure both, round by round."""
    found = interleave(rounds, {"states": crash_states, "lives": lives})
    return [
        row("crash states of the log, recovered and checked", found["states"], STATES_PER_S),
        row("lives of the whole app, checked at each step", found["lives"], LIVES_PER_S),
    ]


if __name__ == "__main__":
    main("Simulation", measure)
