"""Explore stories and crash states: ``python -m mlzoo.simulation [--seed N | --minutes M | --stories N --states N]``.

Prints the seeds and what was explored. A failure prints the seed and the commit that tell it again, and the shortest
story found that fails the same way; the status is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from pprint import pformat
from random import SystemRandom

from mlzoo.simulation import recoveries
from mlzoo.simulation.shrinking import shrunk
from mlzoo.simulation.stories import Outcome, told

FRESH = 1 << 32  # seeds that no test uses
EVERY_S = 60.0  # a line of progress
STORIES_A_HISTORY = 25  # by which both take about the same time


class Exploration:
    """Counts what was explored, and tells of it."""

    def __init__(self, first_seed: int) -> None:
        self.first_seed = first_seed
        self.failed = 0
        self.stories = self.lives = self.steps = 0
        self.histories = self.states = 0
        self._began_s = self._told_s = time.monotonic()
        self._in_stories_s = self._in_states_s = 0.0

    def tell_story(self) -> None:
        """Tell the next story."""
        seed = self.first_seed + self.stories
        began_s = time.process_time()
        outcome = told(seed)
        self._in_stories_s += time.process_time() - began_s
        self.stories += 1
        self.lives += outcome.lives
        self.steps += outcome.steps
        if outcome.violations:
            self.failed += 1
            _show(outcome, shrunk(outcome))

    def crash_histories(self) -> None:
        """Look at the crash states of the next histories of a log."""
        seed = self.first_seed + self.histories
        began_s = time.process_time()
        count = recoveries.explore(seed)
        self._in_states_s += time.process_time() - began_s
        self.histories += 1
        self.states += count.states
        if count.violations:
            self.failed += 1
            print(f"seed {seed}, commit {commit()}: {count.violations[0]}")
            print(f"  again: python -m mlzoo.simulation --crash-states --seed {seed}")

    def summary(self) -> str:
        """Return what was explored, in one line."""
        per_s = self.lives / self._in_stories_s if self._in_stories_s else 0.0
        states_per_s = self.states / self._in_states_s if self._in_states_s else 0.0
        return (
            f"commit {commit()}, seeds from {self.first_seed}: {self.stories} stories, {self.lives} lives "
            f"({per_s:.0f}/s of one core), {self.steps} checked steps; {self.states} crash states of the log "
            f"({states_per_s:.0f}/s); {self.failed} failed; {time.monotonic() - self._began_s:.0f} s"
        )

    def progress(self) -> None:
        """Tell how far it is, now and then."""
        if time.monotonic() - self._told_s > EVERY_S:
            self._told_s = time.monotonic()
            print(self.summary(), flush=True)


def commit() -> str:
    """Return the commit that this code is of, with a plus where it has been changed since."""
    here = Path(__file__).parent

    def git(*command: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    return name + "+" * bool(git("status", "--porcelain", "--untracked-files=no", "..")) if name else "unknown"


def _show(outcome: Outcome, shorter: Outcome) -> None:
    print(f"seed {outcome.plan.seed}, commit {commit()}:")
    for violation in outcome.violations:
        print(f"  {violation.invariant} in life {violation.life}, at {violation.step}: {violation.what}")
    print(f"  again: python -m mlzoo.simulation --seed {outcome.plan.seed}")
    print("  the shortest story found that fails so:")
    print("    " + pformat(shorter.plan, width=116).replace("\n", "\n    "), flush=True)


def explore(exploration: Exploration, *, minutes: float, lives: int, states: int) -> None:
    """Go on until the time is over, and so much was explored; half of the time goes to either kind."""
    ends_s = time.monotonic() + minutes * 60
    turn = 0
    while (in_time := time.monotonic() < ends_s) or exploration.lives < lives or exploration.states < states:
        turn += 1
        if exploration.states < states or (in_time and turn % STORIES_A_HISTORY == 0):
            exploration.crash_histories()
        if exploration.lives < lives or in_time:
            exploration.tell_story()
        exploration.progress()


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlzoo.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell one story, or with --crash-states look at one seed's")
    parser.add_argument("--crash-states", action="store_true", help="with --seed: the log's recovery alone")
    parser.add_argument("--minutes", type=float, help="go on with fresh seeds for so long")
    parser.add_argument("--lives", type=int, default=0, help="go on until so many lives were lived")
    parser.add_argument("--states", type=int, default=0, help="go on until so many crash states were looked at")
    asked = parser.parse_args()
    if asked.seed is not None:
        exploration = Exploration(asked.seed)
        if asked.crash_states:
            exploration.crash_histories()
        else:
            exploration.tell_story()
    else:
        fresh = asked.minutes is not None
        exploration = Exploration(FRESH + SystemRandom().randrange(FRESH) * FRESH if fresh else 0)
        explore(exploration, minutes=asked.minutes or 0.0, lives=asked.lives, states=asked.states)
    print(exploration.summary())
    return 1 if exploration.failed else 0


if __name__ == "__main__":
    sys.exit(main())
