"""What failing means when a recording is made smaller: a command's exit status, or our own check or rerun.

Each candidate is written to a file and tried. The same exit status as that of the whole recording is the same failure:
a candidate that a command cannot even read must not pass for one that fails as the whole does. So a command is asked
first what it makes of a recording that holds nothing: where it ends in the same way, its status says nothing.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import TYPE_CHECKING

from mlzoo.errors import ConfigError, LogUnusable, MlzooError
from mlzoo.events import recording
from mlzoo.events.recording import Recording

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.config import Config

OUR_OWN = ("check", "rerun")
PLACE = "{}"  # of the recording's path in a command
LONGEST = 5  # times as long as for the whole recording a command may take; a host may wait for what was left out
LEAST_S = 5.0  # that it may take in any case
NO_TEST_FAILED = {
    2: "it was interrupted, or could not collect the tests",
    3: "it failed itself",
    4: "it cannot use its command line",
    5: "it found no tests",
    18: "the test's session is not the recorded one",
}
"""What pytest means by statuses that are not those of a failed test; 18 is that of our plugin."""
HAND_OVER = "pytest gets a recording by `--mlzoo-recording {}`"


class Enough(Exception):
    """Nobody's fault: the runs or the seconds that were granted are used up."""


class Trial:
    """Tries recordings.

    Args:
        check: ``check``, ``rerun``, or a command line; ``{}`` in it stands for the recording, else that comes last.
        config: for rerun.
        path: where candidates are written.
        runs: how many may be tried.
        seconds: how long it may take.

    Attributes:
        count: how many were tried.
    """

    def __init__(self, check: str, config: Config | None, path: Path, *, runs: int, seconds: float) -> None:
        self.count = 0
        self._check = check
        self._config = config
        self._path = path
        self._runs = runs
        self._until_s = time.monotonic() + seconds
        self._whole_s: float | None = None  # what the command took for the whole recording, the first that is tried

    def status(self, found: Recording) -> int | None:
        """Return the exit status for a recording; 0: it does not fail; None: it took too long to fail in the same way.

        Raises:
            Enough: No more may be tried.
            ConfigError: The command cannot be run at all.
        """
        if self.count >= self._runs or time.monotonic() >= self._until_s:
            raise Enough
        self.count += 1
        recording.write(self._path, found.header, found.lines)
        if self._check in OUR_OWN:
            return self._own()
        return self._run()

    def doubt(self, found: Recording, failure: int) -> None:
        """Refuse a command whose exit status for a recording says nothing of that recording.

        Raises:
            Enough: No more may be tried.
            ConfigError: It is a status by which pytest says that no test failed, or that of nothing recorded as well.
        """
        if self._check in OUR_OWN:
            return
        is_pytest = "pytest" in self._check
        if is_pytest and failure in NO_TEST_FAILED:
            what = f"status {failure} of pytest is no failed test: {NO_TEST_FAILED[failure]}"
            raise ConfigError(f"{self._check!r} says nothing of the recording: {what}; {HAND_OVER}")
        if self.status(Recording(header=found.header, lines=())) == failure:
            hint = f"; {HAND_OVER}" if is_pytest else ""
            raise ConfigError(
                f"{self._check!r} exits with {failure} for a recording that holds nothing as well, so that this says "
                f"nothing of the recording: give a command that plays it, and exits otherwise where it cannot{hint}"
            )

    def _own(self) -> int:
        try:
            if self._check == "check":
                from mlzoo.replay.check import check  # noqa: PLC0415 - each is heavy, and one is wanted
                from mlzoo.world import real_world  # noqa: PLC0415

                return int(check(real_world(), self._path).difference is not None)
            from mlzoo.replay.rerun import rerun  # noqa: PLC0415 - as above

            assert self._config is not None
            return int(not rerun(recording.read(self._path), self._config).holds)
        except LogUnusable:
            return 3
        except MlzooError:
            return 2

    def _run(self) -> int | None:
        words = shlex.split(self._check)
        path = str(self._path)
        command = [word.replace(PLACE, path) for word in words]
        if command == words:
            command.append(path)
        began_s = time.monotonic()
        left_s = max(0.1, self._until_s - began_s)
        longest_s = left_s if self._whole_s is None else min(left_s, max(LEAST_S, LONGEST * self._whole_s))
        quiet = subprocess.DEVNULL  # A pipe would be waited for as long as any grandchild holds it.
        try:
            done = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False, timeout=longest_s)
        except subprocess.TimeoutExpired:
            if longest_s == left_s:
                raise Enough from None
            return None
        except OSError as error:
            shell = "no shell is used; for what only a shell understands give sh -c '...', with {} for the recording"
            raise ConfigError(f"{words[0]} cannot be run: {error}; {shell}") from error
        if self._whole_s is None:
            self._whole_s = time.monotonic() - began_s
        return done.returncode
