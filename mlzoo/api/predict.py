"""Params and result of predict: what a custom model is asked, and what it says."""

from __future__ import annotations

from typing import Any

import attrs

from mlzoo.api.embed import EmbedUsage
from mlzoo.api.fields import about, checked, naming
from mlzoo.api.inference import (
    DEADLINE,
    KEY,
    PRIORITY,
    REQUIRE_DEVICE,
    RETENTION,
    Priority,
    Retention,
)


@attrs.frozen(kw_only=True)
class PredictParams:
    """Inputs that a custom model is to answer; what one is, the model's pipeline says."""

    model: str = attrs.field(validator=checked, metadata=naming("Name of the model or one of its aliases."))
    inputs: tuple[Any, ...] = attrs.field(
        validator=checked,
        metadata=about(
            'Texts, {"a", "b"}, {"query", "documents"}, rows of a table or pictures in base64.', min_items=1
        ),
    )
    retention: Retention = attrs.field(default="keep", metadata=RETENTION)
    key: str | None = attrs.field(default=None, validator=checked, metadata=KEY)
    deadline_ms: int | None = attrs.field(default=None, validator=checked, metadata=DEADLINE)
    priority: Priority = attrs.field(default="interactive", metadata=PRIORITY)
    require_device: str | None = attrs.field(default=None, validator=checked, metadata=REQUIRE_DEVICE)


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
