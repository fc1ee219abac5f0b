"""Explore stories and crash states: ``python -m mlzoo.simulation --seed N | --minutes M | --lives N --crash-states N``.

Prints the seeds and what was explored. A failure prints the seed and the commit that tell it again, and the shortest
story found that fails the same way; the status is then 1. With ``--progress FILE`` what was explored is kept there, now
and then and at the end, and the next run with the same file goes on where this one ended.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from pathlib import Path
from pprint import pformat
from random import SystemRandom

from mlzoo.simulation import recoveries
from mlzoo.simulation.progress import Progress
from mlzoo.simulation.shrinking import shrunk
from mlzoo.simulation.stories import Outcome, told

FRESH = 1 << 32  # seeds that no test uses
EVERY_S = 60.0  # a line of progress
STORIES_A_HISTORY = 25  # by which both take about the same time


class Exploration:
    """Explores on from some progress, and tells of it.

    Args:
        progress: what was explored before.
        file: where it is kept, if anywhere.
    """

    def __init__(self, progress: Progress, file: Path | None = None) -> None:
        self.progress = progress
        self._file = file
        self._began_s = self._told_s = time.monotonic()
        name = commit()
        if name not in progress.commits:
            progress.commits.append(name)

    def tell_story(self) -> None:
        """Tell the next story."""
        progress = self.progress
        seed = progress.first_seed + progress.stories
        began_s = time.process_time()
        outcome = told(seed)
        gc.collect()  # between stories, while it lies near: only what they have made is looked through
        progress.in_stories_s += time.process_time() - began_s
        progress.stories += 1
        progress.lives += outcome.lives
        progress.steps += outcome.steps
        if outcome.violations:
            progress.failures.append(f"--seed {seed}")
            _show(outcome, shrunk(outcome))

    def crash_histories(self) -> None:
        """Look at the crash states of the next histories of a log."""
        progress = self.progress
        seed = progress.first_seed + progress.histories
        began_s = time.process_time()
        count = recoveries.explore(seed)
        progress.in_states_s += time.process_time() - began_s
        progress.histories += 1
        progress.states += count.states
        if count.violations:
            progress.failures.append(f"--seed {seed} --crash-states")
            print(f"seed {seed}, commit {commit()}: {count.violations[0]}")
            print(f"  again: python -m mlzoo.simulation --seed {seed} --crash-states", flush=True)

    def summary(self) -> str:
        """Return what was explored, in one line."""
        progress = self.progress
        return (
            f"commit {', '.join(progress.commits)}, seeds from {progress.first_seed}: {progress.stories} stories, "
            f"{progress.lives} lives ({progress.lives_per_s():.0f}/s of one core), {progress.steps} checked steps; "
            f"{progress.histories} histories, {progress.states} crash states of the log "
            f"({progress.states_per_s():.0f}/s); {len(progress.failures)} failed; "
            f"{time.monotonic() - self._began_s:.0f} s"
        )

    def tell(self) -> None:
        """Tell how far it is, now and then, and keep it."""
        if time.monotonic() - self._told_s > EVERY_S:
            self._told_s = time.monotonic()
            print(self.summary(), flush=True)
            self.keep()

    def keep(self) -> None:
        """Write down how far it is, where that is wanted."""
        if self._file is not None:
            self.progress.write(self._file)


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
    progress, turn = exploration.progress, 0
    while (in_time := time.monotonic() < ends_s) or progress.lives < lives or progress.states < states:
        turn += 1
        if turn % STORIES_A_HISTORY == 0 and (in_time or progress.states < states):
            exploration.crash_histories()
        if progress.lives < lives or in_time:
            exploration.tell_story()
        exploration.tell()


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mlzoo.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell one story, or with --crash-states look at one seed's")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with fresh seeds for so long")
    parser.add_argument("--lives", type=int, default=0, help="go on until so many lives were lived")
    parser.add_argument(
        "--crash-states", type=int, nargs="?", const=1, default=0, help="the same of states of the log's recovery"
    )
    parser.add_argument("--progress", type=Path, metavar="FILE", help="keep there what was explored, and go on from it")
    asked = parser.parse_args()
    gc.freeze()  # What is imported stays: looking through it for garbage is a waste,
    gc.disable()  # and so is looking in the middle of stories.
    if asked.seed is not None:
        exploration = Exploration(Progress(asked.seed))
        if asked.crash_states:
            exploration.crash_histories()
        else:
            exploration.tell_story()
    else:
        kept = Progress.read(asked.progress) if asked.progress is not None else None
        fresh = FRESH + SystemRandom().randrange(FRESH) * FRESH
        exploration = Exploration(kept or Progress(fresh), asked.progress)
        try:
            explore(exploration, minutes=asked.minutes, lives=asked.lives, states=asked.crash_states)
        finally:
            exploration.keep()
    print(exploration.summary())
    return 1 if exploration.progress.failures else 0


if __name__ == "__main__":
    sys.exit(main())
