"""How commands show the progress of something long, on stderr: a bar on a terminal, else a line for every tenth."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress as Bars

_IN_WORDS = {
    "start": "starting a worker process",
    "tokenizer": "reading the tokenizer",
    "weights": "reading the weights",
    "check": "checking what was loaded",
    "prefill": "reading the prompt",
}


class ProgressDisplay:
    """Shows the params of ``progress`` notifications, from the first one until ``clear``.

    Args:
        title: What the progress is of, where it does not say so itself.
        lines: Whether to tell it in lines where stderr is no terminal, or not at all.
    """

    def __init__(self, title: str, *, lines: bool = True) -> None:
        self._title = title
        self._lines = lines
        self._on_terminal = sys.stderr.isatty()
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}
        self._told: set[tuple[str, int]] = set()

    def show(self, progress: Mapping[str, Any]) -> None:
        """Show how far it is."""
        stage = progress["stage"]
        what = f"{progress.get('model', self._title)}: {_IN_WORDS.get(stage, stage)}"
        done, total = progress["done"], progress["total"]
        if self._on_terminal:
            self._show_bar(what, done, total, in_bytes=progress["unit"] == "bytes")
            return
        tenth = done * 10 // total if total else 0
        if self._lines and (what, tenth) not in self._told:
            self._told.add((what, tenth))
            print(f"{what} {tenth * 10} %" if total else what, file=sys.stderr)

    def clear(self) -> None:
        """Take the bars away; what follows on the terminal begins where they stood."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _show_bar(self, what: str, done: int, total: int, *, in_bytes: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        if self._bars is None:
            amounts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else ()
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amounts)
            self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=None)
        self._bars.update(self._tasks[what], completed=done, total=total or None)
