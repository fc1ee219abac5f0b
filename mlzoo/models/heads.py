"""Heads that answer for a row: classes, several labels at once, numbers, a vector, likeness and order.

Knows features and examples; nothing of backbones by name, of files or of requests. Tagging is in ``tagging.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.nn import functional

from mlzoo.errors import ConfigError
from mlzoo.models.head import Head, Outputs, by_example, need_labels, numbers, row_of, unwanted
from mlzoo.models.tagging import Tagging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.models.features import Features
    from mlzoo.pipelines import Example

__all__ = ["Classification", "Embedding", "MultiLabel", "Regression", "Rerank", "Similarity", "Tagging"]
_share = [attrs.validators.ge(0.0), attrs.validators.lt(1.0)]


@attrs.frozen
class ClassificationOptions:
    """dropout: of features, while it is trained. smoothing: of labels (Szegedy et al., 2016)."""

    dropout: float = attrs.field(default=0.0, validator=_share)
    smoothing: float = attrs.field(default=0.0, validator=_share)


class Classification(Head):
    """One of several labels: a linear layer and softmax, with cross-entropy.

    pooled [rows, width] -> logits [rows, labels]; targets [rows] int64. ``{label, score, scores: {label: score}}``.

    Source: Devlin et al., "BERT", 2019, section 4.1 (a linear layer over a pooled vector).
    """

    Options = ClassificationOptions

    def __init__(self, options: ClassificationOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        need_labels(labels, 2, "classification")
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(width, len(labels))

    def forward(self, features: Features) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.linear(self.dropout(features.pooled))
        return logits

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(outputs, targets, label_smoothing=self.options.smoothing)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return the place of each label."""
        places = {label: place for place, label in enumerate(self.labels)}
        for at, value in enumerate(values):
            if value not in places:
                raise unwanted(f"{path}[{at}]", f"one of the labels {', '.join(self.labels)}")
        return torch.tensor([places[value] for value in values])

    def decode(self, outputs: Outputs, _examples: Sequence[Example] = ()) -> list[Any]:
        """Return the likeliest label, and how likely each is."""
        return [self._answer(row.softmax(-1).tolist()) for row in row_of(outputs)]

    def _answer(self, scores: list[float]) -> dict[str, Any]:
        best = max(range(len(scores)), key=scores.__getitem__)
        return {
            "label": self.labels[best],
            "score": scores[best],
            "scores": dict(zip(self.labels, scores, strict=True)),
        }


@attrs.frozen
class MultiLabelOptions:
    """threshold: the score from which a label is given."""

    dropout: float = attrs.field(default=0.0, validator=_share)
    threshold: float = attrs.field(default=0.5, validator=[attrs.validators.gt(0.0), attrs.validators.lt(1.0)])


class MultiLabel(Head):
    """Any number of labels: a linear layer and a sigmoid for each, with binary cross-entropy.

    pooled [rows, width] -> logits [rows, labels]; targets [rows, labels] float32. ``{labels, scores: {label: score}}``.

    Source: Nam et al., "Large-scale Multi-label Text Classification", 2014.
    """

    Options = MultiLabelOptions

    def __init__(self, options: MultiLabelOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        need_labels(labels, 1, "multilabel")
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(width, len(labels))

    def forward(self, features: Features) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.linear(self.dropout(features.pooled))
        return logits

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the binary cross-entropy, over all labels."""
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return a one for each label of each list."""
        places = {label: place for place, label in enumerate(self.labels)}
        found = torch.zeros(len(values), len(self.labels))
        for at, value in enumerate(values):
            if not isinstance(value, list | tuple) or not all(label in places for label in value):
                raise unwanted(f"{path}[{at}]", f"a list of labels out of {', '.join(self.labels)}")
            found[at, [places[label] for label in value]] = 1
        return found

    def decode(self, outputs: Outputs, _examples: Sequence[Example] = ()) -> list[Any]:
        """Return the labels that are likely enough, the likeliest first, and how likely each is."""
        return [self._answer(dict(zip(self.labels, row.sigmoid().tolist(), strict=True))) for row in row_of(outputs)]

    def _answer(self, scores: dict[str, float]) -> dict[str, Any]:
        given = [label for label, score in scores.items() if score >= self.options.threshold]
        return {"labels": sorted(given, key=lambda label: -scores[label]), "scores": scores}


@attrs.frozen
class RegressionOptions:
    """values: how many numbers each input has. delta: where the loss turns from squares to lengths; 0: never."""

    values: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    dropout: float = attrs.field(default=0.0, validator=_share)
    delta: float = attrs.field(default=0.0, validator=attrs.validators.ge(0.0))


class Regression(Head):
    """Numbers: a linear layer, learned on targets of mean 0 and deviation 1, which ``learn`` takes from the data.

    pooled [rows, width] -> [rows, values] in those units; targets [rows, values] float32 in the data's own.
    ``{value}``, or ``{values}`` where there are several.

    Source: Huber, "Robust Estimation of a Location Parameter", 1964 (delta); else least squares.
    """

    Options = RegressionOptions
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, options: RegressionOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(width, options.values)
        self.register_buffer("mean", torch.zeros(options.values))
        self.register_buffer("deviation", torch.ones(options.values))

    def learn(self, targets: torch.Tensor) -> None:
        """Take in mean and deviation of the targets ``[rows, values]``."""
        self.mean.copy_(targets.mean(dim=0))
        deviation = targets.std(dim=0, correction=0)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, features: Features) -> torch.Tensor:
        """Return numbers of mean 0 and deviation 1."""
        numbers: torch.Tensor = self.linear(self.dropout(features.pooled))
        return numbers

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean square of the errors, or Huber's loss."""
        targets = (targets - self.mean) / self.deviation
        if self.options.delta > 0:
            return functional.huber_loss(outputs, targets, delta=self.options.delta)
        return functional.mse_loss(outputs, targets)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return the numbers, each or a list of them."""
        rows = []
        for at, value in enumerate(values):
            row = list(value) if isinstance(value, list | tuple) else [value]
            if len(row) != self.options.values:
                raise unwanted(f"{path}[{at}]", f"{self.options.values} numbers")
            rows.append(numbers(row, f"{path}[{at}]"))
        return torch.tensor(rows)

    def decode(self, outputs: Outputs, _examples: Sequence[Example] = ()) -> list[Any]:
        """Return the numbers in the data's own units."""
        mean, deviation = self.mean.float().cpu(), self.deviation.float().cpu()
        told = [(row * deviation + mean).tolist() for row in row_of(outputs)]
        return [{"value": row[0]} if self.options.values == 1 else {"values": row} for row in told]


@attrs.frozen
class EmbeddingOptions:
    """dimensions: of a linear layer over the features; 0: the features themselves. temperature: of the loss."""

    dimensions: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    normalize: bool = True
    temperature: float = attrs.field(default=0.05, validator=attrs.validators.gt(0.0))


class Embedding(Head):
    """A vector: the features, or a linear map of them, of unit length.

    pooled [rows, width] -> [rows, dimensions]. ``[float, ...]``.

    While it is trained, rows 2i and 2i+1 belong together, and all others of a batch do not: targets are not looked at.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; with the other rows
    of a batch as negatives: Henderson et al., "Efficient Natural Language Response Suggestion", 2017.
    """

    Options = EmbeddingOptions

    def __init__(self, options: EmbeddingOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        self.linear = nn.Linear(width, options.dimensions, bias=False) if options.dimensions else nn.Identity()

    def forward(self, features: Features) -> torch.Tensor:
        """Return vectors."""
        vectors: torch.Tensor = self.linear(features.pooled)
        return functional.normalize(vectors, dim=-1) if self.options.normalize else vectors

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of finding the other of each pair among all of the batch."""
        del targets
        if len(outputs) % 2:
            raise unwanted("rows", "an even number of rows: pairs that belong together")
        vectors = functional.normalize(outputs, dim=-1)
        likeness = vectors[0::2] @ vectors[1::2].T / self.options.temperature
        places = torch.arange(len(likeness), device=likeness.device)
        return functional.cross_entropy(likeness, places)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return nothing: what belongs together stands together."""
        del path
        return torch.zeros(len(values))

    def decode(self, outputs: Outputs, _examples: Sequence[Example] = ()) -> list[Any]:
        """Return vectors."""
        return [row.numpy() for row in row_of(outputs)]


@attrs.frozen
class SimilarityOptions:
    """It has none: what is like what, the backbone knows."""


class Similarity(Head):
    """How alike two texts are: the cosine of their vectors (a bi-encoder). It has no weights of its own.

    pooled [rows, width] -> [rows, width], of unit length; rows 2i and 2i+1 are a pair, targets [pairs] its cosine. For
    a pair ``{score}``; for a query and documents ``{ranking: [{index, score}, ...]}``, the most alike first.

    Source: Reimers and Gurevych, "Sentence-BERT", 2019.
    """

    Options = SimilarityOptions

    def __init__(self, options: SimilarityOptions, _width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)

    def forward(self, features: Features) -> torch.Tensor:
        """Return vectors of unit length."""
        return functional.normalize(features.pooled, dim=-1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean square of what the cosines are off by."""
        return functional.mse_loss((outputs[0::2] * outputs[1::2]).sum(dim=-1), targets)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return cosines."""
        return torch.tensor(numbers(values, path))

    def decode(self, outputs: Outputs, examples: Sequence[Example] = ()) -> list[Any]:
        """Return how alike the first row of each example is to the others."""
        if not examples:
            raise ConfigError("similarity compares the rows of an example: expected examples", path="examples")
        answers: list[Any] = []
        for example, rows in zip(examples, by_example(row_of(outputs), examples), strict=True):
            scores = [float(rows[0] @ row) for row in rows[1:]]
            answers.append(ranked(scores) if example.ranks else {"score": scores[0]})
        return answers


@attrs.frozen
class RerankOptions:
    """dropout: of features, while it is trained."""

    dropout: float = attrs.field(default=0.0, validator=_share)


class Rerank(Head):
    """How well a text answers a query, both read together (a cross-encoder; the pipeline text with ``joined: true``).

    pooled [rows, width] -> logits [rows]; targets [rows] float32, 0 to 1. For a pair ``{score}``; for a query and
    documents ``{ranking: [{index, score}, ...]}``, the best first.

    Source: Nogueira and Cho, "Passage Re-ranking with BERT", 2019.
    """

    Options = RerankOptions

    def __init__(self, options: RerankOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(width, 1)

    def forward(self, features: Features) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.linear(self.dropout(features.pooled))
        return logits[:, 0]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def targets(
        self, values: Sequence[Any], _examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return how well each row answers."""
        return torch.tensor(numbers(values, path))

    def decode(self, outputs: Outputs, examples: Sequence[Example] = ()) -> list[Any]:
        """Return how likely each row answers its query."""
        answers: list[Any] = []
        rows = row_of(outputs)
        for place, of_one in enumerate(by_example(rows, examples)):
            scores = [float(row.sigmoid()) for row in of_one]
            answers.append(ranked(scores) if examples and examples[place].ranks else {"score": scores[0]})
        return answers


def ranked(scores: Sequence[float]) -> dict[str, Any]:
    """Return places and scores, the best first; of equal ones the first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return {"ranking": [{"index": place, "score": scores[place]} for place in order]}
