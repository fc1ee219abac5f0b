"""What a command asks of the training process, and what that says in the end. Light: it knows nothing that trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from mlzoo.config import Config
from mlzoo.errors import ConfigError, ModelNotFound, ModelNotInstalled
from mlzoo.fit.composing import Run
from mlzoo.fit.entries import entry_file
from mlzoo.parts import spec_of
from mlzoo.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen(kw_only=True)
class Order:
    """What is to be done."""

    runs: tuple[Run, ...]
    config: Config
    own_config: Path
    """The user's configuration directory, where the entry of the result goes."""
    state: Path
    """Where checkpoints lie while a run is not finished."""
    log: Path
    output: Path | None = None
    """Where the artifact goes; None: into the store."""
    replace: bool = False
    restart: bool = False

    @property
    def name(self) -> str:
        """What the result will be called."""
        return self.runs[0].settings.name


class Telling(Protocol):
    """Who hears how it goes."""

    def say(self, text: str) -> None:
        """Hear something that is worth a line."""

    def rows(self, done: int, total: int) -> None:
        """Hear how many rows have gone through the backbone."""

    def epoch(self, run: str, epoch: int, epochs: int, values: Mapping[str, float], *, is_best: bool) -> None:
        """Hear that an epoch has ended."""


@attrs.frozen(kw_only=True)
class RunReport:
    """What came of one run."""

    chosen: tuple[str, ...]
    epochs: int
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float]


@attrs.frozen(kw_only=True)
class Report:
    """What came of a command."""

    metric: str
    runs: tuple[RunReport, ...]
    best: int
    """Which of the runs is served."""
    artifact: Path
    entry: Path


@attrs.frozen
class Interrupted:
    """The command was interrupted, and where it is."""

    run: str
    epoch: int


def check(order: Order) -> None:
    """Refuse what could only fail after hours: what can be known before anything heavy is imported.

    Raises:
        ConfigError: A part of the model does not exist, or the name is taken.
        ModelNotInstalled: The base is in no store.
    """
    names = {run.settings.name for run in order.runs}
    if len(names) > 1:
        raise ConfigError(
            "name: the runs of one command share a name: the best of them is served under it", path="name"
        )
    for run in order.runs:
        spec_of(run.settings.model, at="model")
        base_of(order, run.settings.base)
    output = order.output
    if output is not None and not order.replace and output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output: {output} is not empty: choose another directory, or say --replace", path="output")
    entry = order.config.models.get(order.name)
    taken = entry is not None or order.name in order.config.broken or entry_path(order).exists()
    if not taken:
        return
    own = entry_path(order).is_file()
    if entry is not None and (entry.kind != "predict" or not own):
        raise ConfigError(
            f"name: {order.name!r} is a model that mlzoo fit did not make: take another name", path="name"
        )
    if not order.replace:
        told = f"{order.name!r} is there already ({entry_path(order)}): take another name, or say --replace"
        raise ConfigError(f"name: {told}", path="name")


def entry_path(order: Order) -> Path:
    """Return the file of the result's entry."""
    return entry_file(order.own_config, order.name)


def base_of(order: Order, name: str | None) -> tuple[Path | None, str]:
    """Return where the files of a base are, and their digest; nothing where there is no base.

    Raises:
        ConfigError: It is neither a model nor a directory.
        ModelNotInstalled: It is a model whose files are not here.
    """
    if name is None:
        return None, ""
    try:
        entry = order.config.model(name)
    except ModelNotFound as error:
        directory = Path(name).expanduser()
        if directory.is_dir():
            return directory.absolute(), ""
        raise ConfigError(f"base: {error.message}; and there is no such directory", path="base") from error
    installed = open_store(order.config).find(entry)
    if installed is None:
        told = f"base: {entry.name} is not installed: `mlzoo models pull {entry.name}` brings it"
        raise ModelNotInstalled(told, model=entry.name, download_bytes=entry.download_bytes)
    return installed.path, installed.digest
