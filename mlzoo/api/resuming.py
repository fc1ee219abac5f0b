"""Params and result of resume: a request under a key, heard on."""

from __future__ import annotations

import attrs

from mlzoo.api.embed import EmbedResult
from mlzoo.api.fields import INTEGER_MAX, about, checked
from mlzoo.api.inference import KEYED, ChatResult, CompleteResult
from mlzoo.api.predict import PredictResult

_AFTER = about("The seq of the last piece that the host has; -1: none.", minimum=-1, maximum=INTEGER_MAX)


@attrs.frozen(kw_only=True)
class ResumeParams:
    """The request under a key, running or ended, that is to be heard from a piece on."""

    key: str = attrs.field(validator=checked, metadata=KEYED)
    after: int = attrs.field(default=-1, validator=checked, metadata=_AFTER)


ResumeResult = ChatResult | CompleteResult | EmbedResult | PredictResult
"""The answer of the request that was resumed, whatever it was."""
