"""``mlzoo fit``: from a data file to a model that is served by its name.

Says what is wrong with a configuration before anything heavy is imported; the training process is imported by its name,
since this half of the house knows no torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from rich.progress import Progress as Bars

    from mlzoo.fit.order import Order, Report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``fit`` to the commands of ``mlzoo``."""
    parser = subparsers.add_parser(
        "fit",
        help="train a model on a data file; it is then served by its name",
        description="Train a head on a backbone, or all of a model, and serve the result by its name.",
        epilog="example: mlzoo fit text name=reviews data.path=reviews.csv epochs=20",
    )
    parser.add_argument("config", metavar="CONFIG", help="a file of settings, or the name of one in the group fit")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="OVERRIDE", help="key=value, such as optimiser.lr=1e-3"
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="make a run of each of several values: optimiser.lr=1e-3,1e-4"
    )
    parser.add_argument("--log", type=Path, metavar="DIR", help="the event log; without it, one of the model's own")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the result goes; without it, into the store")
    parser.add_argument("--replace", action="store_true", help="put the result in the place of an earlier one")
    parser.add_argument("--restart", action="store_true", help="begin anew, where an unfinished run is there")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="searched before the built-in configuration")


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; return the exit status."""
    from mlzoo.errors import StorageFailed

    try:
        return _run(args)
    except OSError as error:
        raise StorageFailed(f"the run cannot be kept: {error}", reason="failed") from error


def _run(args: argparse.Namespace) -> int:
    from importlib import import_module

    order = _order(args)
    telling = _Terminal() if sys.stderr.isatty() else _Lines()
    try:
        session = import_module("mlzoo.fit.session")  # by name: see above
        report = session.run(order, telling)
    except ImportError as error:
        from mlzoo.errors import ConfigError

        told = f"training needs the extras local and fit: pip install 'mlzoo[local,fit]' ({error})"
        raise ConfigError(told, path="installation") from error
    finally:
        telling.clear()
    if not hasattr(report, "best"):
        again = "the same command goes on from there; --restart begins anew"
        print(f"mlzoo: interrupted in {report.run}; what was reached is kept: {again}", file=sys.stderr)
        raise KeyboardInterrupt
    _tell(order, report)
    return 0


def _order(args: argparse.Namespace) -> Order:
    import platformdirs

    from mlzoo import config
    from mlzoo.config.loading import own_directory, search_path
    from mlzoo.fit.composing import compose
    from mlzoo.fit.order import Order, check

    settings = config.load((), config_dir=args.config_dir)
    directories = search_path(args.config_dir, os.environ)
    runs = compose(args.config, args.overrides, directories, multirun=args.multirun)
    state = Path(platformdirs.user_state_dir("mlzoo")) / "fit" / runs[0].settings.name
    order = Order(
        runs=runs,
        config=settings,
        own_config=own_directory(args.config_dir, os.environ).absolute(),
        state=state,
        log=args.log or state / "log",
        output=None if args.output is None else args.output.expanduser().absolute(),
        replace=args.replace,
        restart=args.restart,
    )
    check(order)
    return order


def _tell(order: Order, report: Report) -> None:
    """Tell what came of it: each run on a line where there are several, and where the best one is."""
    from mlzoo.cli.columns import columns

    names = list(report.runs[0].validation)
    head = ["RUN"] if len(report.runs) > 1 else []
    rows = [(*head, "EPOCHS", "BEST", *(f"{name.upper()} (VAL)" for name in names), *_of_test(report, names))]
    for number, made in enumerate(report.runs):
        mark = " *" if number == report.best else ""
        rows.append((
            *([f"{' '.join(made.chosen)}{mark}"] if head else []),
            str(made.epochs),
            str(made.best_epoch),
            *(f"{made.validation[name]:.4f}" for name in names),
            *(f"{made.test[name]:.4f}" for name in names if made.test),
        ))  # fmt: skip
    print(columns(rows))
    if head:
        print(
            f"\n* the best by {report.metric} on the rows for validation: {' '.join(report.runs[report.best].chosen)}"
        )
    print(f"\n{order.name} is in {report.artifact}")
    print(f"README.md there is its card; {report.entry} has it served, the log of the run is {order.log}")
    print(
        'ask for it: {"jsonrpc":"2.0","id":1,"method":"predict","params":{"model":"' + order.name + '","inputs":[...]}}'
    )


def _of_test(report: Report, names: list[str]) -> list[str]:
    return [f"{name.upper()} (TEST)" for name in names] if report.runs[0].test else []


def _in_words(run: str, epoch: int, epochs: int, values: Mapping[str, float], *, is_best: bool) -> str:
    told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    return f"{run}: epoch {epoch} of {epochs}: {told}{' (best)' if is_best else ''}"


class _Lines:
    """Tells in lines on stderr, for a pipe or a file."""

    def __init__(self) -> None:
        self._tenth = -1

    def say(self, text: str) -> None:
        """Tell something."""
        print(text, file=sys.stderr, flush=True)

    def rows(self, done: int, total: int) -> None:
        """Tell each tenth."""
        tenth = done * 10 // total
        if tenth != self._tenth:
            self._tenth = tenth
            self.say(f"features: {done} of {total} rows")

    def epoch(self, run: str, epoch: int, epochs: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Tell each epoch."""
        self.say(_in_words(run, epoch, epochs, values, is_best=is_best))

    def clear(self) -> None:
        """There is nothing to take away."""


class _Terminal:
    """Tells by bars, and leaves a line of each epoch that was the best."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Tell something above the bars."""
        self._shown().console.print(text, markup=False, highlight=False)

    def rows(self, done: int, total: int) -> None:
        """Show how many rows are done."""
        self._show("features", done, total, f"{done} of {total} rows")

    def epoch(self, run: str, epoch: int, epochs: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Show how far it is."""
        if is_best:
            self.say(_in_words(run, epoch, epochs, values, is_best=is_best))
        self._show(run, epoch, epochs, f"epoch {epoch} of {epochs}")

    def clear(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _shown(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        if self._bars is None:
            words = TextColumn("{task.description}", markup=False), BarColumn()
            self._bars = Bars(*words, TextColumn("{task.fields[told]}", markup=False), TimeElapsedColumn(),
                              console=Console(stderr=True), transient=True)  # fmt: skip
            self._bars.start()
        return self._bars

    def _show(self, what: str, done: int, total: int, told: str) -> None:
        bars = self._shown()
        if what not in self._tasks:
            self._tasks[what] = bars.add_task(what, total=total, told="")
        bars.update(self._tasks[what], completed=done, told=told)
