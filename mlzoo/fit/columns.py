"""Columns of a file -> what a model is asked and what it should answer, with refusals that name line and column.

What a value must be follows from the head (a class, a number, labels, spans) and from the pipeline (a text, a row of a
table). CSV has texts alone: numbers are read of them where a number is needed. Knows no model and no training.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import attrs

from mlzoo.errors import ConfigError
from mlzoo.parts import Part, ZooSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlzoo.fit.files import DataFile
    from mlzoo.fit.settings import DataSettings

Task = Literal["classes", "labels", "numbers", "spans", "other"]
TASKS: dict[str, Task] = {
    "classification": "classes",
    "multilabel": "labels",
    "regression": "numbers",
    "tagging": "spans",
}
"""Kind of a head -> what it learns; a head of somebody else's is given the column as it is."""
_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
_SHOWN = 40  # characters of a value in a message
_NAMED = 8  # columns of a table, at most, that a message names all


@attrs.frozen
class Samples:
    """What is learned from: inputs as ``predict`` takes them, and their targets as the head takes them, row by row."""

    task: Task
    spec: ZooSpec
    inputs: list[Any]
    targets: list[Any]
    columns: dict[str, list[Any]]
    """The columns that the pipeline learns from."""


def samples(data: DataFile, settings: DataSettings, spec: ZooSpec) -> Samples:
    """Return what a file has to teach.

    Args:
        data: The file.
        settings: Which columns are what.
        spec: What the model is made of; its labels are found in the data, where they are not said, and so are the
            columns of a table.

    Raises:
        ConfigError: A column is missing, or a value is not what it should be; the message names line and column.
    """
    task = TASKS.get(spec.head.kind, "other")
    found = data.column(settings.target, "data.target")
    readers: dict[Task, Callable[[], tuple[list[Any], tuple[str, ...]]]] = {
        "classes": lambda: _classes(data, settings.target, found, spec.labels),
        "labels": lambda: _labels(data, settings.target, found, spec.labels),
        "numbers": lambda: ([_number(data, settings.target, row, value) for row, value in enumerate(found)], ()),
        "spans": lambda: _spans(data, settings.target, found, spec.labels),
        "other": lambda: (list(found), spec.labels),
    }
    targets, labels = readers[task]()
    spec = attrs.evolve(spec, labels=labels)
    if settings.input is not None:
        inputs = data.column(settings.input, "data.input")
        for row, value in enumerate(inputs):
            if value is None or value == "":
                raise _wrong(data, settings.input, row, "nothing is there, and an input is needed")
        return Samples(task, spec, inputs, targets, {settings.input: inputs})
    columns, spec = _table(data, settings, spec)
    names = list(columns)
    inputs = [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return Samples(task, spec, inputs, targets, columns)


# ------------------------------------------------------------------------------------------------ targets


def _classes(
    data: DataFile, column: str, values: Sequence[Any], labels: tuple[str, ...]
) -> tuple[list[str], tuple[str, ...]]:
    found = []
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == "":
            raise _wrong(data, column, row, "the class is empty: fill it in, or take the row out")
        if isinstance(value, list | dict):
            raise _wrong(data, column, row, "expected a class, one text or number")
        if str(value).strip().lower() == "nan":
            raise _wrong(
                data, column, row, f"the class is {value}, which is no number: fill it in, or take the row out"
            )
        found.append(_label(value))
    counts = Counter(found)
    if len(counts) == 1:
        told = f"all {len(found)} rows are of the class {_shown(found[0])}: there is nothing to tell apart"
        raise ConfigError(f"{data.path}, column {column!r}: {told}", path="data.target")
    if len(counts) == len(found):
        told = "each row has a class of its own: choose another column, or learn numbers (model.head.kind=regression)"
        raise ConfigError(f"{data.path}, column {column!r}: {told}", path="data.target")
    return found, labels or tuple(sorted(counts))


def _labels(
    data: DataFile, column: str, values: Sequence[Any], labels: tuple[str, ...]
) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return lists of labels; in CSV they stand in one cell, with ``|`` between them."""
    found: list[list[str]] = []
    for row, value in enumerate(values):
        if isinstance(value, str):
            found.append([label.strip() for label in value.split("|") if label.strip()])
        elif isinstance(value, list) and all(isinstance(label, str | int) for label in value):
            found.append([_label(label) for label in value])
        else:
            raise _wrong(data, column, row, "expected a list of labels")
    there = sorted({label for row in found for label in row})
    if not there:
        raise ConfigError(f"{data.path}, column {column!r}: no row has a label", path="data.target")
    return found, labels or tuple(there)


def _spans(
    data: DataFile, column: str, values: Sequence[Any], labels: tuple[str, ...]
) -> tuple[list[Any], tuple[str, ...]]:
    kinds = set()
    for row, value in enumerate(values):
        if not isinstance(value, list):
            raise _wrong(data, column, row, "expected a list of spans, {start, end, label} each (so not CSV)")
        for span in value:
            if not isinstance(span, dict) or not {"start", "end", "label"} <= span.keys():
                raise _wrong(data, column, row, f"expected {{start, end, label}}, got {_shown(span)}")
            start, end = span["start"], span["end"]
            if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end):
                raise _wrong(data, column, row, f"expected start < end, in characters, got {_shown(span)}")
            kinds.add(_label(span["label"]))
    if not kinds:
        raise ConfigError(f"{data.path}, column {column!r}: no row has a span", path="data.target")
    return list(values), labels or ("O", *sorted(kinds))


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(data: DataFile, column: str, row: int, value: Any) -> float:
    """Return a number; CSV has it as a text."""
    told = "expected a number"
    if value is None or value == "":
        raise _wrong(data, column, row, f"{told}, and nothing is there: fill it in, or take the row out")
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(data, column, row, f"{told}, got {_shown(value)}")
    return number


# ------------------------------------------------------------------------------------------------ tables


def _table(data: DataFile, settings: DataSettings, spec: ZooSpec) -> tuple[dict[str, list[Any]], ZooSpec]:
    """Return the columns of a table as the pipeline takes them; their types are found where nobody said them."""
    others = {settings.target, settings.split.column}
    names = settings.features or tuple(name for name in data.columns if name not in others)
    if settings.target in names:
        told = f"{settings.target!r} is what is to be learned: take it out of data.features"
        raise ConfigError(f"data.features: {told}", path="data.features")
    if not names:
        raise ConfigError(f"data.features: {data.path} has no column but {settings.target!r}", path="data.features")
    cells = {name: data.column(name, "data.features") for name in names}
    if spec.pipeline.kind != "tabular":
        return cells, spec
    said = spec.pipeline.options.get("columns") or {name: _type_of(data, name, cells[name]) for name in names}
    unknown = [name for name in said if name not in cells]
    if unknown:
        data.column(unknown[0], "model.pipeline.columns")
        told = f"{unknown[0]!r} is not among data.features"
        raise ConfigError(f"model.pipeline.columns: {told}", path="model.pipeline.columns")
    kinds = {name: of if isinstance(of, str) else dict(of).get("type", "number") for name, of in said.items()}
    columns = {
        name: [_cell(data, name, kinds[name], row, cell) for row, cell in enumerate(cells[name])] for name in said
    }
    for name, of in said.items():
        may_be_missing = not isinstance(of, str) and dict(of).get("missing") == "fill"
        if not may_be_missing and None in columns[name]:
            raise _wrong(data, name, columns[name].index(None), _how_to_fill(name, kinds))
    part = Part(spec.pipeline.kind, {**spec.pipeline.options, "columns": dict(said)})
    return columns, attrs.evolve(spec, pipeline=part)


def _type_of(data: DataFile, name: str, cells: Sequence[Any]) -> str:
    """Return what a column holds: numbers, truths or names of categories; and refuse one that holds a bit of each."""
    there = [(row, cell) for row, cell in enumerate(cells) if cell is not None and cell != ""]
    if there and all(str(cell).lower() in {"true", "false"} for _, cell in there):
        return "truth"
    texts = [row for row, cell in there if not _is_number(cell)]
    if not texts:
        return "number"
    if len(texts) == len(there):
        return "category"
    row = texts[0] if len(texts) <= len(there) / 2 else next(row for row, cell in there if _is_number(cell))
    other = "numbers" if row == texts[0] else "texts"
    told = f"{_shown(cells[row])} stands among {other}: a column holds one kind of value"
    raise _wrong(data, name, row, f"{told} (or say what it is: model.pipeline.columns)")


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str):
        try:
            float(cell)
        except ValueError:
            return False
        return True
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell(data: DataFile, column: str, kind: str, row: int, cell: Any) -> Any:
    """Return a cell as the pipeline takes it; what is not there is None, of which the pipeline knows what to do."""
    if cell is None or cell == "":
        return None
    if kind == "number":
        return _number(data, column, row, cell)
    if kind == "truth":
        truth = cell if isinstance(cell, bool) else _TRUTHS.get(str(cell).lower())
        if truth is None:
            raise _wrong(data, column, row, f"expected true or false, got {_shown(cell)}")
        return truth
    return _label(cell)


def _how_to_fill(column: str, kinds: dict[str, str]) -> str:
    """Return what to do about an empty cell. Columns that are named are all that are learned from: so all are named."""
    told = [f"{name}: {kind}" for name, kind in kinds.items()] if len(kinds) <= _NAMED else []
    place = list(kinds).index(column) if told else 0
    told[place : place + 1] = [f"{column}: {{type: {kinds[column]}, missing: fill}}"]
    rest = "" if len(kinds) <= _NAMED else ", and there each other column with its type"
    said = f"missing: fill, as in 'model.pipeline.columns={{{', '.join(told)}}}'{rest}"
    return f"the cell is empty: fill it in, take the row out, or allow it by {said}"


def _wrong(data: DataFile, column: str, row: int, told: str) -> ConfigError:
    return ConfigError(f"{data.place(row, column)}: {told}", path=f"data.{column}", expected=told)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
