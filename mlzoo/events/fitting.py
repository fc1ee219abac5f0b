"""What is recorded of ``mlzoo fit``: a part of ``mlzoo.events.commands`` and of ``mlzoo.events.types``.

The rules are told there. A run has a log of its own, or shares one with other runs; one of them lives at a time. Only
counts, numbers and digests stand here: paths, names of columns and what was set are the text of ``BeginFit``.
"""

from __future__ import annotations

from typing import Literal

import attrs

FitEnding = Literal["finished", "interrupted", "failed"]
FitStop = Literal["epochs", "patience"]


# ------------------------------------------------------------------------------------------------ commands


@attrs.frozen(kw_only=True)
class BeginFit:
    """A training process begins a run, or takes it up where a checkpoint has it. Text: {path, columns, settings}.

    patience: epochs without a better one after which it ends; 0: never before the last. better_by is what makes an
    epoch better: so much more of the metric, or less where ``falls``.
    """

    run: str
    name: str
    version: str
    settings_digest: str
    data_digest: str
    train_rows: int
    validation_rows: int
    test_rows: int
    parameters: int  # that are trained
    metric: str
    falls: bool
    epochs: int
    patience: int = 0
    better_by: float = 0.0
    epoch: int = 0  # the last one that is done
    best_epoch: int = 0
    best: float | None = None


@attrs.frozen(kw_only=True)
class ReportFitEpoch:
    """An epoch is done: mean losses, and the metric that decides, on the rows for validation."""

    run: str
    epoch: int
    train_loss: float
    validation_loss: float
    value: float


@attrs.frozen(kw_only=True)
class EndFit:
    """The training process leaves a run. Text: {detail}, where it failed. figures are of the best epoch's weights."""

    run: str
    reason: FitEnding
    digest: str = ""  # of the artifact
    figures: dict[str, float] = attrs.field(factory=dict)


FitCommand = BeginFit | ReportFitEpoch | EndFit


# ------------------------------------------------------------------------------------------------ events


@attrs.frozen(kw_only=True)
class FitStarted:
    """A run goes on from an epoch, 0 where it begins. What it is judged by is that of ``BeginFit``."""

    run: str
    name: str
    falls: bool
    epochs: int
    patience: int = 0
    better_by: float = 0.0
    epoch: int = 0
    best_epoch: int = 0
    best: float | None = None


@attrs.frozen(kw_only=True)
class FitEpochEnded:
    """Instructs: where it is the best so far, keep its weights; where it says why, stop."""

    run: str
    epoch: int
    value: float
    is_best: bool
    stop: FitStop | None = None


@attrs.frozen(kw_only=True)
class FitEnded:
    """A run is over, or was interrupted and may be taken up again; best is the metric of the best epoch."""

    run: str
    reason: FitEnding
    best_epoch: int = 0
    best: float | None = None
    digest: str = ""


FitEvent = FitStarted | FitEpochEnded | FitEnded
