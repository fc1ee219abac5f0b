"""Tables: rows of named columns as numbers, normalised, and as categories.

What is to be known of the data (means, deviations, categories) is learned by ``fit`` and kept with the model, so that
a model reads what it is asked as it read what it was trained on. Knows no model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest
from mlzoo.pipelines.pipeline import Array, Example, Pipeline, Row, Shapes, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlzoo.pipelines.pipeline import JsonObject

FARTHEST = 1e18  # deviations from the mean: the square of more is too large for float32
OTHER = 0  # the category of all that was not there when the model learned, and of what is missing
Missing = Literal["refuse", "fill"]


@attrs.frozen
class Column:
    """One column: what it holds, and what is done where it holds nothing (null, or left out).

    fill puts in the mean of a number, and tells the model that it was missing by a number of its own; a category that
    is missing is one of its own. categories may be named; without that, fit learns them.
    """

    type: Literal["number", "category", "truth"] = "number"
    missing: Missing = "refuse"
    categories: tuple[str, ...] = ()
    unknown: Missing = "fill"  # of a category that was not there when the model learned


@attrs.frozen
class TabularOptions:
    """The columns by name; a type alone is a column of that type: ``{age: number, job: category}``."""

    columns: dict[str, Any]
    most_categories: int = attrs.field(default=1000, validator=attrs.validators.ge(1))  # of a column, the most frequent


class TabularPipeline(Pipeline):
    """Objects ``{"age": 41, "job": "smith"}`` as ``numbers`` [rows, n] float32 and ``categories`` [rows, m] int64."""

    Options = TabularOptions

    def __init__(self, options: TabularOptions, directory: Path | None, state: JsonObject | None) -> None:
        super().__init__(options, directory, state)
        self.columns = {name: _column(name, said) for name, said in options.columns.items()}
        if not self.columns:
            raise ConfigError("pipeline.columns: expected at least one column", path="pipeline.columns")
        learned = state or {}
        self._places: dict[str, dict[str, int]] = {
            name: {category: place for place, category in enumerate(categories, start=OTHER + 1)}
            for name, categories in learned.get("categories", {}).items()
        }
        self._scales: dict[str, tuple[float, float]] = {
            name: (float(mean), float(deviation)) for name, (mean, deviation) in learned.get("scales", {}).items()
        }

    def fit(self, columns: Mapping[str, Sequence[Any]]) -> TabularPipeline:
        """Learn categories (the most frequent first) and, of numbers, mean and deviation."""
        categories: dict[str, list[str]] = {}
        scales: dict[str, tuple[float, float]] = {}
        for name, column in self.columns.items():
            if name not in columns:
                raise wrong(name, f"a column {name}{nearest(name, columns)} (there are {', '.join(columns)})")
            if column.type == "category":
                categories[name] = list(column.categories) or self._learned_categories(name, columns[name])
            elif column.type == "number":
                scales[name] = _scale(name, column, columns[name])
        state = {"categories": categories, "scales": {name: list(scale) for name, scale in scales.items()}}
        return TabularPipeline(self.options, self.directory, state)

    def read_one(self, value: Any, path: str) -> Example:
        """Read one row of a table."""
        self._expect_learned()
        if not isinstance(value, dict):
            raise wrong(path, f"an object with {', '.join(self.columns)}")
        if not value.keys() <= self.columns.keys():
            unknown = next(key for key in value if key not in self.columns)
            meant = nearest(str(unknown), self.columns)
            raise wrong(path, f"nothing but {', '.join(self.columns)}{meant}")
        numbers: list[float] = []
        categories: list[int] = []
        for name, column in self.columns.items():
            cell, place = value.get(name), f"{path}.{name}"
            if column.type == "category":
                categories.append(self._category(name, column, cell, place))
                continue
            numbers.append(self._number(name, column, cell, place))
            if column.missing == "fill":
                numbers.append(float(cell is None))
        values: dict[str, Array] = {
            "numbers": np.array(numbers, np.float32),
            "categories": np.array(categories, np.int64),
        }
        return Example((Row(values),))

    def shapes(self) -> Shapes:
        """Return how many numbers a row has, and the size of each category."""
        self._expect_learned()
        numbers = [column for column in self.columns.values() if column.type != "category"]
        width = len(numbers) + sum(column.missing == "fill" for column in numbers)
        sizes = [len(self._places[name]) + 1 for name, column in self.columns.items() if column.type == "category"]
        return Shapes(numbers=width, categories=tuple(sizes))

    def why(self) -> tuple[str, ...]:
        """Return what the columns are."""
        told = [f"{name}: {column.type}, {column.missing} where missing" for name, column in self.columns.items()]
        return (f"columns {'; '.join(told)}",)

    def _expect_learned(self) -> None:
        if self._learned is None:
            raise ConfigError("pipeline: it has learned nothing yet: fit it first", path="pipeline")

    def _learned_categories(self, name: str, cells: Sequence[Any]) -> list[str]:
        counts: dict[str, int] = {}
        for place, cell in enumerate(cells):
            if cell is None:
                continue
            if not isinstance(cell, str):
                raise wrong(f"{name}[{place}]", "a text, the name of a category")
            counts[cell] = counts.get(cell, 0) + 1
        most = sorted(counts, key=lambda category: (-counts[category], category))
        return most[: self.options.most_categories]

    def _category(self, name: str, column: Column, cell: Any, path: str) -> int:
        if cell is None:
            if column.missing == "refuse":
                raise wrong(path, "a category: it is missing")
            return OTHER
        if not isinstance(cell, str):
            raise wrong(path, "a category, as a text")
        place = self._places[name].get(cell)
        if place is None and column.unknown == "refuse":
            raise wrong(path, f"one of {', '.join(list(self._places[name])[:20])}")
        return OTHER if place is None else place

    def _number(self, name: str, column: Column, cell: Any, path: str) -> float:
        if cell is None:
            if column.missing == "refuse":
                raise wrong(
                    path, "a number: it is missing" if column.type == "number" else "true or false: it is missing"
                )
            return 0.0  # the mean, once numbers are normalised
        if column.type == "truth":
            if not isinstance(cell, bool):
                raise wrong(path, "true or false")
            return float(cell)
        mean, deviation = self._scales[name]
        scaled = (_finite(cell, path) - mean) / deviation
        if abs(scaled) > FARTHEST:
            raise wrong(path, f"a number of the size of those that it has learned from, whose mean is {mean:g}")
        return scaled


def _column(name: str, said: Any) -> Column:
    at = f"pipeline.columns.{name}"
    return structure({"type": said} if isinstance(said, str) else said, Column, at=at)


def _finite(cell: Any, path: str) -> float:
    if isinstance(cell, bool) or not isinstance(cell, int | float) or not math.isfinite(cell):
        raise wrong(path, "a number")
    return float(cell)


def _scale(name: str, column: Column, cells: Sequence[Any]) -> tuple[float, float]:
    numbers = []
    for place, cell in enumerate(cells):
        if cell is not None:
            numbers.append(_finite(cell, f"{name}[{place}]"))
        elif column.missing == "refuse":
            raise wrong(f"{name}[{place}]", "a number: it is missing (missing: fill allows that)")
    if not numbers:
        raise wrong(name, "at least one number in the column")
    deviation = float(np.std(numbers))
    return float(np.mean(numbers)), deviation if deviation > 0 else 1.0  # A constant says nothing, and stays one.
