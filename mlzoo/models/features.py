"""What stands between a backbone and a head, and what both have in common. Knows neither kind by name."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.pipelines import Shapes

Batch = dict[str, torch.Tensor]


@attrs.frozen(eq=False)
class Features:
    """What a backbone made of a batch.

    pooled: ``[rows, width]``, one vector of each row. tokens: ``[rows, tokens, width]``, one of each token, where the
    backbone reads tokens; mask: ``[rows, tokens]``, true where there is one.
    """

    pooled: torch.Tensor
    tokens: torch.Tensor | None = None
    mask: torch.Tensor | None = None


class Backbone(nn.Module):
    """Makes features of a batch.

    A class of a user's own has a frozen attrs class as ``Options``, ``width``, ``reads`` and these two methods. It is
    made in training mode, as modules are; ``build`` gives it back in evaluation mode.
    """

    Options: type[Any]
    reads: frozenset[str]  # the arrays of a batch that it needs
    options: Any  # as they are in force: what was left to the model's files is found out
    width: int  # of the vectors that it makes
    has_tokens: bool = False  # whether it makes one of each token
    has_read_weights: bool = False  # whether make has read its weights from files, as one says of itself that has

    @classmethod
    @abstractmethod
    def make(cls, options: Any, shapes: Shapes, directory: Path | None, *, pretrained: bool) -> Backbone:
        """Return one.

        Args:
            options: An instance of ``Options``.
            shapes: What the arrays of its pipeline look like.
            directory: Where files of the model are; None: there are none.
            pretrained: Whether weights are read from the directory; if not, they come later, or by training. Who reads
                them sets ``has_read_weights``: without that, a backbone is not trained around (``trained: head``).

        Raises:
            ConfigError: The options do not fit the shapes, or the files.
            ModelLoadFailed: The files hold no such model.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> Features:
        """Return the features of a batch."""

    def files(self) -> dict[str, bytes]:
        """Return the files that it is made from beside its weights, by name; they become a part of the artifact."""
        return {}

    def why(self) -> tuple[str, ...]:
        """Return what was chosen and for what reason, for people."""
        return ()
