"""Params and result of predict: what a custom model is asked, and what it says."""

from __future__ import annotations

from typing import Any

import attrs

from mlzoo.api.embed import EmbedUsage
from mlzoo.api.fields import about, checked, naming
from mlzoo.api.inference import WorkParams


@attrs.frozen(kw_only=True)
class PredictParams(WorkParams):
    """Inputs that a custom model is to answer; what one is, the model's pipeline says."""

    model: str = attrs.field(validator=checked, metadata=naming("Name of the model or one of its aliases."))
    inputs: tuple[Any, ...] = attrs.field(
        validator=checked,
        metadata=about(
            'Texts, {"a", "b"}, {"query", "documents"}, rows of a table or pictures in base64.', min_items=1
        ),
    )


@attrs.frozen(kw_only=True)
class PredictResult:
    """What a custom model says of each input, in their order."""

    model: str
    outputs: tuple[Any, ...] = attrs.field(
        metadata=about("{label, score, scores}, {labels, scores}, {value}, spans, vectors, {score} or {ranking}.")
    )
    device: str | None = None
    usage: EmbedUsage | None = attrs.field(default=None, metadata=about("Of models that read tokens."))
    degraded: str | None = attrs.field(default=None, metadata=about("Why a slower device was used than the best."))
