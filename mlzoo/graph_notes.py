"""What is noted of compiled steps in the cache directory: by the workers that make and try them.

Files, by the name of a graph (``graph-DIGEST-FAMILY``):
    .so and .json: the library, and what it calls by name.
    .graph: the library's digest, whether its rows keep apart, and how often it failed; or why there is none.
    .loading: the process that loads and tries it just now, and how many died of that in a row.
    .order-PID and .said-PID: what a worker has ordered, and what its compiler says.
    .PID, and directories graph-PID-…: what a compiler has not finished.

A process that ends while it tries a graph may have died of it, or of something else: somebody killed it, memory ran
out. From inside the two look the same, so the deaths are counted, and only TRIES of them in a row are held against a
graph. The same goes for a compiler that failed, which a full disk may do to it. Knows files and processes; nothing of
what a graph computes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import psutil

from mlzoo import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TRIES = 3  # that must fail one after another, where chance may have had its hand in it
_CLOCK_S = 1.0  # by which two readings of when a process began may differ
_OF_PROCESS = re.compile(r"graph-(?:[0-9a-f]{32}-\w+\.(?:order-|said-)?(\d+)|(\d+)-\w+)")


@attrs.frozen
class Refused:
    """A graph that later loads do without.

    Attributes:
        model: Whose steps it would have computed.
        family: Of layers.
        why: It is done without, as a part of a sentence.
        path: The note of that; without it, the graph is made and tried again.
    """

    model: str
    family: str
    why: str
    path: Path


def read(path: Path) -> dict[str, Any]:
    """Return a note; an empty one where none can be read."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, note: Mapping[str, Any]) -> None:
    """Write a note, whole or not at all; where that cannot be done, later loads know nothing of it."""
    beside = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            beside.write_bytes(orjson.dumps(note))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def refuse(path: Path, model: str, family: str, why: str, times: int = TRIES) -> None:
    """Note that there is no such graph, and why; from TRIES times on, later loads do not try again."""
    note = {"failed": why, "times": times, "model": model, "family": family, "mlzoo": __version__}
    write(path, note)


def refused(directory: Path) -> Iterator[Refused]:
    """Yield the graphs that loads with this version do without."""
    for path in sorted(directory.glob("graph-*.graph")):
        note = read(path)
        if note.get("mlzoo") == __version__ and "failed" in note and note.get("times") == TRIES:
            yield Refused(str(note.get("model")), str(note.get("family")), str(note["failed"]), path)


# -------------------------------------------------------------------------------------------------------- trials


def begin_trial(path: Path) -> int | None:
    """Note that this process loads and tries a graph, if no other one does so now; ``end_trial`` takes that back.

    Returns:
        How many processes died of that in a row; None: another one is at it. From TRIES on nothing is noted, and it
        should not be tried.

    Raises:
        OSError: It cannot be noted.
    """
    left = read(path)
    pid, began_s, deaths = left.get("pid"), left.get("began_s"), left.get("deaths", 0)
    own = {"pid": os.getpid(), "began_s": psutil.Process().create_time()}
    if isinstance(pid, int) and (pid, began_s) != (own["pid"], own["began_s"]):
        if not _is_gone(pid, began_s):
            return None
        deaths += 1
    if deaths < TRIES:
        path.write_bytes(orjson.dumps({**own, "deaths": deaths}))
    return int(deaths)


def end_trial(path: Path) -> None:
    """Note that this process, which tried a graph, has outlived it."""
    with contextlib.suppress(OSError):
        path.unlink()


def _is_gone(pid: int, began_s: float | None) -> bool:
    """Whether a process is no more. Its number may be another one's by now: in a container they are few."""
    try:
        began_now_s = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return began_s is not None and abs(began_now_s - began_s) > _CLOCK_S


# ----------------------------------------------------------------------------------------------------- leftovers


def sweep(directory: Path) -> None:
    """Remove what processes that are gone had begun there and could not finish."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            whose = _OF_PROCESS.fullmatch(path.name)
            if whose is None or psutil.pid_exists(int(whose[1] or whose[2])):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
