"""Which rows are trained on, which decide when to stop, and which only tell how good the result is.

Drawn by scikit-learn under the run's seed, or said by a column. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from mlzoo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.fit.columns import Samples
    from mlzoo.fit.files import DataFile
    from mlzoo.fit.settings import DataSettings

PartName = Literal["train", "validation", "test"]


@attrs.frozen
class Split:
    """The numbers of the rows of each part, in the order of the file."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...] = ()


def split(data: DataFile, settings: DataSettings, samples: Samples, seed: int) -> Split:
    """Return the parts of the data.

    Raises:
        ConfigError: A part would be empty, or could not hold each class.
    """
    if settings.split.column is not None:
        found = _said(data, settings.split.column)
    else:
        found = _drawn(data, settings, samples, seed)
    if samples.task == "classes":
        trained = {samples.targets[row] for row in found.train}
        for name in ("validation", "test"):
            for row in getattr(found, name):
                if samples.targets[row] not in trained:
                    where = data.place(row, settings.target)
                    told = f"the class {samples.targets[row]!r} is in no row for training, only in one for {name}"
                    raise ConfigError(f"{where}: {told}", path="data.split")
    return found


def _said(data: DataFile, column: str) -> Split:
    rows: dict[str, list[int]] = {name: [] for name in get_args(PartName)}
    for row, value in enumerate(data.column(column, "data.split.column")):
        if value not in rows:
            told = f"expected train, validation or test, got {value!r}"
            raise ConfigError(f"{data.place(row, column)}: {told}", path="data.split.column")
        rows[value].append(row)
    for name in ("train", "validation"):
        if not rows[name]:
            told = f"{data.path}, column {column!r}: no row is for {name}"
            raise ConfigError(told, path="data.split.column")
    return Split(*(tuple(rows[name]) for name in get_args(PartName)))


def _drawn(data: DataFile, settings: DataSettings, samples: Samples, seed: int) -> Split:
    shares = settings.split
    if shares.validation + shares.test >= 1:
        told = f"validation and test take {shares.validation + shares.test:g} of the rows, and leave none for training"
        raise ConfigError(f"data.split: {told}", path="data.split")
    counts = {"validation": round(shares.validation * data.rows), "test": round(shares.test * data.rows)}
    needed = {"validation": True, "test": shares.test > 0}
    for name, count in counts.items():
        if needed[name] and count == 0:
            told = f"{name}: {getattr(shares, name):g} of {data.rows} rows is none: give a larger share, or more rows"
            raise ConfigError(f"data.split.{told}", path=f"data.split.{name}")
    classes = samples.targets if samples.task == "classes" and shares.stratified else None
    if classes is not None:
        _check_classes(data, settings, classes, {name: count for name, count in counts.items() if needed[name]})
    parts = 1 + sum(needed.values())
    kept = [] if classes is not None or samples.task != "classes" else _rare(samples.targets, parts)
    rest = sorted({*range(data.rows)} - {*kept})
    if len(rest) <= sum(counts.values()):
        told = f"{data.rows} rows leave none for training"
        if kept:
            told = f"of {data.rows} rows {len(kept)} must be trained on, one of each rare class, and too few are left"
        raise ConfigError(f"data.split: {told}: give smaller shares, or more rows", path="data.split")
    test: list[int] = []
    if needed["test"]:
        rest, test = _draw(rest, counts["test"], classes, seed)
    train, validation = _draw(rest, counts["validation"], classes, seed)
    train += kept
    return Split(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _rare(classes: Sequence[Any], parts: int) -> list[int]:
    """Return a row of each class that has not one for each part: without it in training nobody learns of that class."""
    rows: dict[Any, list[int]] = {}
    for row, name in enumerate(classes):
        rows.setdefault(name, []).append(row)
    return [of_one[0] for of_one in rows.values() if len(of_one) < parts]


def _draw(rows: list[int], count: int, classes: Sequence[Any] | None, seed: int) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    stratify = None if classes is None else [classes[row] for row in rows]
    kept, drawn = train_test_split(rows, test_size=count, random_state=seed, stratify=stratify)
    return kept, drawn


def _check_classes(data: DataFile, settings: DataSettings, classes: Sequence[Any], counts: dict[str, int]) -> None:
    """Refuse what cannot be drawn class by class, and say what to do."""
    parts = len(counts) + 1
    remedy = "gather more of it, take it out, or say data.split.stratified=false, which trains on it all the same"
    for name, count in sorted(Counter(classes).items(), key=lambda item: item[1]):
        if count < parts:
            place = data.place(classes.index(name), settings.target)
            times = "once" if count == 1 else f"{count} times"
            told = f"the class {name!r} is there {times}, and each of {parts} parts needs one: {remedy}"
            raise ConfigError(f"{place}: {told}", path="data.split.stratified")
    kinds = len(set(classes))
    for part, count in counts.items():
        if count < kinds:
            told = f"{count} rows cannot hold each of {kinds} classes: give a larger share, or say stratified=false"
            raise ConfigError(f"data.split.{part}: {told}", path=f"data.split.{part}")
