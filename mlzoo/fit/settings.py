"""What a run of ``mlzoo fit`` is, in settings: data, model, what is trained and how.

Frozen values whose validators refuse what cannot be; knows nothing of where they come from (``composing.py``) nor of
what is done with them. Units come last in the names.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, le, lt, min_len, optional

DataFormat = Literal["auto", "csv", "jsonl", "parquet"]
Trained = Literal["head", "all", "lora"]
MetricName = Literal["auto", "loss", "accuracy", "macro_f1", "f1", "mae", "rmse", "r2"]


def _is_a_name(_: object, field: attrs.Attribute[str], value: str) -> None:
    """Refuse what cannot be the name of a model and of its file in a group of settings."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise ValueError(f"'{field.name}' must be letters, digits, - and _: {value!r}")


def _is_one_character(_: object, field: attrs.Attribute[str], value: str) -> None:
    if len(value) != 1:
        raise ValueError(f"'{field.name}' must be one character: {value!r}")


@attrs.frozen(kw_only=True)
class SplitSettings:
    """Which rows are trained on, which decide when to stop, and which only tell how good it is."""

    validation: float = attrs.field(default=0.15, validator=[gt(0.0), lt(1.0)])
    """Share of the rows that decides which epoch is the best."""
    test: float = attrs.field(default=0.15, validator=[ge(0.0), lt(1.0)])
    """Share of the rows that nothing is decided by; 0: none, and the card says so."""
    column: str | None = None
    """A column that says train, validation or test in each row; then no share is drawn."""
    stratified: bool = True
    """Whether each part has its share of each class; of classes only."""


@attrs.frozen(kw_only=True)
class DataSettings:
    """The file that is learned from, and which of its columns."""

    path: str = attrs.field(validator=min_len(1))
    """From the directory in which the command runs."""
    format: DataFormat = "auto"
    """auto: as the name of the file ends."""
    delimiter: str = attrs.field(default=",", validator=_is_one_character)
    """Between the columns of CSV."""
    input: str | None = None
    """The column of what ``predict`` is given: a text, a picture; null: each input is a row of the columns below."""
    features: tuple[str, ...] = ()
    """The columns of a table; none: all but the target's and the split's."""
    target: str = attrs.field(default="label", validator=min_len(1))
    """The column of what is to be learned: a class, a number, a list of labels, or of spans {start, end, label}."""
    split: SplitSettings = attrs.field(factory=SplitSettings)


@attrs.frozen(kw_only=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models")."""

    rank: int = attrs.field(default=8, validator=ge(1))
    alpha: float = attrs.field(default=16.0, validator=gt(0.0))
    dropout: float = attrs.field(default=0.0, validator=[ge(0.0), lt(1.0)])
    targets: tuple[str, ...] = ()
    """Ends of the names of the layers that get an adapter; none: all linear layers of the backbone."""


@attrs.frozen(kw_only=True)
class OptimiserSettings:
    """How a step is taken."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = attrs.field(default=1e-3, validator=gt(0.0))
    weight_decay: float = attrs.field(default=0.01, validator=ge(0.0))
    momentum: float = attrs.field(default=0.9, validator=[ge(0.0), lt(1.0)])
    """Of sgd alone."""
    clip: float = attrs.field(default=1.0, validator=ge(0.0))
    """Norm to which longer gradients are cut; 0: never."""


@attrs.frozen(kw_only=True)
class ScheduleSettings:
    """How the learning rate goes over the steps of all epochs."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    """What follows the warm-up: it stays, or falls to nothing on a line or half a cosine."""
    warmup: float = attrs.field(default=0.05, validator=[ge(0.0), lt(1.0)])
    """Share of the steps in which it rises from nothing, on a line."""


@attrs.frozen(kw_only=True)
class StoppingSettings:
    """Which epoch is the best, and when no better one is waited for."""

    metric: MetricName = "auto"
    """On the rows for validation; auto: accuracy of classes, rmse of numbers, f1 of tags."""
    patience: int = attrs.field(default=10, validator=ge(0))
    """Epochs without a better one after which training ends; 0: never before the last."""
    better_by: float = attrs.field(default=0.0, validator=ge(0.0))
    """By how much an epoch must be better to count as such."""


@attrs.frozen(kw_only=True)
class LicenceSettings:
    """The terms of the result, for its card and its entry."""

    spdx: str = "unknown"
    url: str = ""


@attrs.frozen(kw_only=True)
class FitSettings:
    """One run."""

    name: str = attrs.field(validator=_is_a_name)
    """Under which the result is served."""
    data: DataSettings
    model: dict[str, Any]
    """backbone, head and pipeline, {kind: NAME, OPTION: ...} each (``mlzoo.parts``); labels are found in the data."""
    base: str | None = None
    """A model in the store, or a directory, with the weights of the backbone, its tokenizer and the like."""
    trained: Trained = "head"
    """The head alone, backbone and head, or the head and adapters in the backbone."""
    lora: LoraSettings = attrs.field(factory=LoraSettings)
    optimiser: OptimiserSettings = attrs.field(factory=OptimiserSettings)
    schedule: ScheduleSettings = attrs.field(factory=ScheduleSettings)
    batch_size: int = attrs.field(default=32, validator=ge(1))
    epochs: int = attrs.field(default=50, validator=[ge(1), le(1_000_000)])
    stopping: StoppingSettings = attrs.field(factory=StoppingSettings)
    seed: int = attrs.field(default=0, validator=[ge(0), lt(2**32)])
    threads: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Of torch; null: the processors that this process may use."""
    device: str = "cpu"
    """cpu, cuda:0, mps; the same bits are promised on one machine's cpu."""
    checkpoint_s: float = attrs.field(default=30.0, validator=ge(0.0))
    """How much work a kill may cost at most; 0: a checkpoint after each step."""
    licence: LicenceSettings = attrs.field(factory=LicenceSettings)


__all__ = [
    "DataFormat",
    "DataSettings",
    "FitSettings",
    "LicenceSettings",
    "LoraSettings",
    "MetricName",
    "OptimiserSettings",
    "ScheduleSettings",
    "SplitSettings",
    "StoppingSettings",
    "Trained",
]
