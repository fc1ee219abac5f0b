"""A head: turns what a backbone made into raw outputs, these into a loss while it is trained, and into JSON after."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlzoo.errors import ConfigError, InvalidParams

if TYPE_CHECKING:
    from mlzoo.models.features import Features
    from mlzoo.pipelines import Example

Outputs = torch.Tensor | Sequence[torch.Tensor]
"""Of rows that stand together ``[rows, ...]``, or of each row alone: what is said of a row depends on it only."""


class Head(nn.Module):
    """Answers from features.

    A class of a user's own has a frozen attrs class as ``Options``, is made with an instance of it, the width of the
    backbone's vectors and the labels, and has the methods that are abstract here.
    """

    Options: type[Any]
    takes_tokens: bool = False  # whether it needs a vector of each token, and not only of each row

    def __init__(self, options: Any, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.options = options
        self.labels = labels

    @abstractmethod
    def forward(self, features: Features) -> torch.Tensor:
        """Return raw outputs: ``[rows, ...]``."""

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""

    @abstractmethod
    def targets(
        self, values: Sequence[Any], examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return what is to be learned, as training data has it, as what ``loss`` takes.

        Raises:
            InvalidParams: A value is none that this head could give; ``data.path`` names its place.
        """

    @abstractmethod
    def decode(self, outputs: Outputs, examples: Sequence[Example] = ()) -> list[Any]:
        """Return the answer to each input, as JSON has it.

        Args:
            outputs: Of all rows, in the order of the examples.
            examples: The inputs; needed where their rows are not one each, or their text is told of.
        """

    def learn(self, targets: torch.Tensor) -> None:
        """Take in what all training targets are like, before the first step: their mean and deviation, say."""


def need_labels(labels: tuple[str, ...], least: int, kind: str) -> None:
    """Refuse a head without the labels that it tells apart.

    Raises:
        ConfigError: There are too few.
    """
    if len(labels) < least:
        told = f"{kind} tells labels apart: expected at least {least} of them, got {len(labels)}"
        raise ConfigError(f"labels: {told}", path="labels", expected=told)


def row_of(outputs: Outputs) -> list[torch.Tensor]:
    """Return the output of each row, as float32 on the CPU."""
    if isinstance(outputs, torch.Tensor):
        return list(outputs.float().cpu())
    return [row.float().cpu() for row in outputs]


def by_example(rows: Sequence[torch.Tensor], examples: Sequence[Example]) -> list[list[torch.Tensor]]:
    """Return the rows of each example; without examples each row is one."""
    if not examples:
        return [[row] for row in rows]
    found, at = [], 0
    for example in examples:
        found.append(list(rows[at : at + len(example.rows)]))
        at += len(example.rows)
    return found


def numbers(values: Sequence[Any], path: str) -> list[float]:
    """Return values that must be numbers.

    Raises:
        InvalidParams: One is none.
    """
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise unwanted(f"{path}[{place}]", "a number")
    return [float(value) for value in values]


def unwanted(path: str, expected: str) -> InvalidParams:
    """Return the error of a target that is not what it should be."""
    return InvalidParams(f"{path}: expected {expected}", path=path, expected=expected)
