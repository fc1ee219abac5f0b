"""A head that labels tokens, and says where in the text the labelled words are. Knows features and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.nn import functional

from mlzoo.errors import ConfigError
from mlzoo.models.head import Head, Outputs, need_labels, row_of, unwanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.models.features import Features
    from mlzoo.pipelines import Example

IGNORED = -100  # of targets: tokens that are padding, or no part of the text
OUTSIDE = "O"


@attrs.frozen
class TaggingOptions:
    """dropout: of features, while it is trained."""

    dropout: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0.0), attrs.validators.lt(1.0)])


class Tagging(Head):
    """Words of a kind (names, places) in a text: a label of each token, joined into spans.

    tokens [rows, tokens, width] -> logits [rows, tokens, labels]; targets [rows, tokens] int64. The labels are ``O``
    and kinds, as ``B-KIND`` (a span begins) and ``I-KIND`` (it goes on), or plain kinds.
    ``[{start, end, label, text, score}]``, in characters of the text; the score is the mean of its tokens.

    Source: Ramshaw and Marcus, "Text Chunking using Transformation-Based Learning", 1995 (labels); Devlin et al.,
    "BERT", 2019, section 5.3 (a linear layer over tokens).
    """

    Options = TaggingOptions
    takes_tokens = True

    def __init__(self, options: TaggingOptions, width: int, labels: tuple[str, ...]) -> None:
        super().__init__(options, labels)
        need_labels(labels, 2, "tagging")
        if OUTSIDE not in labels:
            raise ConfigError(f"labels: expected {OUTSIDE}, of words that are of no kind, among them", path="labels")
        self.dropout = nn.Dropout(options.dropout)
        self.linear = nn.Linear(width, len(labels))

    def forward(self, features: Features) -> torch.Tensor:
        """Return logits of each token."""
        if features.tokens is None:
            raise ConfigError("head: tagging needs a backbone that reads tokens", path="head.kind")
        logits: torch.Tensor = self.linear(self.dropout(features.tokens))
        return logits

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy over tokens of texts."""
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def targets(
        self, values: Sequence[Any], examples: Sequence[Example] = (), *, path: str = "targets"
    ) -> torch.Tensor:
        """Return the label of each token of spans ``[{start, end, label}, ...]``, label without ``B-`` and ``I-``."""
        longest = max((len(example.offsets) for example in examples), default=0)
        found = torch.full((len(values), longest), IGNORED)
        for at, (spans, example) in enumerate(zip(values, examples, strict=True)):
            for token, (start, end) in enumerate(example.offsets):
                if end > start:
                    found[at, token] = self._target(spans, start, end, f"{path}[{at}]")
        return found

    def _target(self, spans: Any, start: int, end: int, path: str) -> int:
        if not isinstance(spans, list | tuple) or not all(isinstance(span, dict) for span in spans):
            raise unwanted(path, "a list of {start, end, label}")
        for place, span in enumerate(spans):
            if start < span["end"] and end > span["start"]:
                kind = span["label"]
                names = [kind] if kind in self.labels else [f"B-{kind}" if start <= span["start"] else f"I-{kind}"]
                if names[0] not in self.labels:
                    raise unwanted(f"{path}[{place}].label", f"one of {', '.join(self.kinds)}")
                return self.labels.index(names[0])
        return self.labels.index(OUTSIDE)

    @property
    def kinds(self) -> list[str]:
        """The labels as spans have them: without ``B-`` and ``I-``, and without that of words of no kind."""
        return list(dict.fromkeys(_kind(label) for label in self.labels if label != OUTSIDE))

    def decode(self, outputs: Outputs, examples: Sequence[Example] = ()) -> list[Any]:
        """Return the spans of each text."""
        if not examples:
            raise ConfigError("tagging says where in a text words are: expected examples", path="examples")
        return [
            self._spans(row[: len(example.offsets)].softmax(-1), example)
            for row, example in zip(row_of(outputs), examples, strict=True)
        ]

    def _spans(self, scores: torch.Tensor, example: Example) -> list[dict[str, Any]]:
        best, places = scores.max(dim=-1)
        spans: list[dict[str, Any]] = []
        counted: list[list[float]] = []
        goes_on = ""  # the kind of the span that the token before belongs to
        for (start, end), score, place in zip(example.offsets, best.tolist(), places.tolist(), strict=True):
            if end <= start:
                continue  # a token that stands for no text
            label = self.labels[place]
            kind = "" if label == OUTSIDE else _kind(label)
            if kind and kind == goes_on and not label.startswith("B-"):
                spans[-1]["end"] = end
                counted[-1].append(score)
            elif kind:
                spans.append({"start": start, "end": end, "label": kind})
                counted.append([score])
            goes_on = kind
        for span, of_tokens in zip(spans, counted, strict=True):
            span["text"] = example.text[span["start"] : span["end"]]
            span["score"] = sum(of_tokens) / len(of_tokens)
        return spans


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label
