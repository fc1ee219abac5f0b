"""A pipeline: reads inputs as a host sends them, and joins what it read into the arrays of one forward.

Knows neither torch nor what a model does with the arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np

from mlzoo.config.validate import structure
from mlzoo.errors import InvalidParams
from mlzoo.parts import find

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.parts import Part

Array = np.ndarray[Any, np.dtype[Any]]
JsonObject = dict[str, Any]
Config = TypeVar("Config")


@attrs.frozen(eq=False)
class Row:
    """One row of a forward: its arrays without the dimension of rows, and how long it is.

    The length is what rows are padded to, in tokens; 1 where all rows have one shape.
    """

    values: Mapping[str, Array]
    length: int = 1


@attrs.frozen(eq=False)
class Example:
    """One input as a model takes it: one row, or several that are answered together.

    offsets are the ``(start, end)`` of each token of its row in its text, in characters; (0, 0) for a special token.
    """

    rows: tuple[Row, ...]
    tokens: int = 0
    text: str = ""
    offsets: tuple[tuple[int, int], ...] = ()
    ranks: bool = False  # whether its answer is an order of its rows


@attrs.frozen
class Shapes:
    """What a pipeline's arrays look like, so that a backbone can be made for them."""

    numbers: int = 0  # [rows, numbers] float32
    categories: tuple[int, ...] = ()  # [rows, categories] int64, each below its size
    pixels: tuple[int, int, int] | None = None  # [rows, channels, height, width] float32
    tokens: int = 0  # most tokens of a row: input_ids and attention_mask, [rows, tokens] int64


class Pipeline(ABC):
    """Reads, pads and joins. Made by ``make``; what it learned by ``fit`` is its ``state``.

    A class of a user's own has a frozen attrs class as ``Options``, and is made with an instance of it, the directory
    of the model's files (or None) and a state (or None, before it has learned anything).
    """

    Options: type[Any]

    def __init__(self, options: Any, directory: Path | None, state: JsonObject | None) -> None:
        self.options = options
        self.directory = directory
        self._learned = state

    def fit(self, columns: Mapping[str, Sequence[Any]]) -> Pipeline:  # noqa: ARG002 - of those that learn
        """Learn what is to be known of the data: categories, means, sizes. Returns a pipeline that knows it.

        Args:
            columns: The values of each column of the training data, by name.

        Raises:
            InvalidParams: The data cannot be learned from; ``data.path`` names the column and the place.
        """
        return self

    def read(self, inputs: Sequence[Any], *, path: str = "inputs") -> list[Example]:
        """Read inputs as they were sent.

        Raises:
            InvalidParams: One is wrong; ``data.path`` says where, as in ``inputs[3].age``.
            TooLarge: One is over a bound of the pipeline.
        """
        return [self.read_one(value, f"{path}[{place}]") for place, value in enumerate(inputs)]

    @abstractmethod
    def read_one(self, value: Any, path: str) -> Example:
        """Read one input."""

    def collate(self, examples: Sequence[Example]) -> dict[str, Array]:
        """Return all rows of some examples as the arrays of one forward, padded where they differ in length."""
        return self.join([row for example in examples for row in example.rows])

    def join(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Return rows as the arrays of one forward: ``[rows, ...]`` each."""
        return {name: np.stack([row.values[name] for row in rows]) for name in rows[0].values}

    def state(self) -> JsonObject:
        """Return what was learned, as JSON; ``make`` takes it back."""
        return dict(self._learned or {})

    def files(self) -> dict[str, bytes]:
        """Return the files that it needs beside its state, by name; they become a part of the artifact."""
        return {}

    @abstractmethod
    def shapes(self) -> Shapes:
        """Return what its arrays look like.

        Raises:
            ConfigError: That depends on data, and nothing was learned yet.
        """

    def why(self) -> tuple[str, ...]:
        """Return what was chosen and for what reason, for people."""
        return ()


def make(part: Part, *, directory: Path | None = None, state: JsonObject | None = None) -> Pipeline:
    """Return a pipeline.

    Args:
        part: Its kind and its options.
        directory: Where the files of its model are (a tokenizer, say).
        state: What it had learned; None: nothing yet.

    Raises:
        ConfigError: There is no such kind, an option does not hold, or a file is missing.
    """
    cls = find("pipeline", part.kind)
    pipeline: Pipeline = cls(structure(part.options, cls.Options, at="pipeline"), directory, state)
    return pipeline


def wrong(path: str, expected: str) -> InvalidParams:
    """Return the error of an input that is not what it should be; it never repeats the input."""
    return InvalidParams(f"{path}: expected {expected}", path=path, expected=expected)
