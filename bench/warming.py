"""A sidecar with its compiled steps ready: those are made in the background, once a model has worked for a while.

Knows what ``models.info`` says of them and where they are kept; nothing of how they are made.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mlzoo import graph_notes
from mlzoo.config.loading import cache_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream import Host

GRAPHS = "compiled graphs"
WAITING = ("compiled in the background", "being compiled")  # as ``models.info`` has it
MOST_S = 900.0  # for the graphs of one model, on a slow machine
LOOK_EVERY_S = 1.0
STREAMS = (1, 4, 16)  # that use each family of kernels
TOKENS = 48
PROMPT = "river stone morning letter garden"


def warm(host: Host, model: str, *, streams: Sequence[int] = STREAMS) -> str:
    """Load a model, have its graphs made where there can be some, and return what is the case, for people.

    Afterwards it was loaded anew, and has been compared with the eager step: a graph that is any good is in use.
    """
    host.call("models.load", {"model": model})
    said = _said(host, model)
    waiting = sum(part.count(words) for part in said.split(";") for words in WAITING)
    until = time.monotonic() + MOST_S
    known = set(_notes())
    while waiting and len(set(_notes()) - known) < waiting:
        assert time.monotonic() < until, f"no graphs after {MOST_S:.0f} s: {said}"
        for together in streams:
            _complete(host, model, together)
        time.sleep(LOOK_EVERY_S)
    if waiting:
        host.call("models.unload", {"model": model})
        host.call("models.load", {"model": model})
        said = _said(host, model)
    for together in streams:
        _complete(host, model, together)
    return said


def _said(host: Host, model: str) -> str:
    why: list[str] = host.call("models.info", {"model": model})["why"]
    return next((line for line in why if GRAPHS in line), "")


def _notes() -> list[Path]:
    """Return the notes of graphs that were made and compared, or will not be."""
    return [path for path in cache_directory(None, os.environ).rglob("graph-*.graph") if "made" not in _state(path)]


def _state(path: Path) -> str:
    note = graph_notes.read(path)
    return "used" if "apart" in note else "refused" if "failed" in note else "made"


def _complete(host: Host, model: str, together: int) -> None:
    params = {"model": model, "temperature": 0, "max_tokens": TOKENS}
    waiting = {host.send("complete", {**params, "prompt": f"{number} {PROMPT}"}) for number in range(together)}
    while waiting:
        message = host.receive()
        assert "error" not in message, message
        waiting.discard(message.get("id"))
