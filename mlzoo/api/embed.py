"""Params and result of embed: texts that are to become vectors."""

from __future__ import annotations

import attrs

from mlzoo.api.fields import about, checked
from mlzoo.api.inference import MODEL, WorkParams
from mlzoo.api.routing import Rerouted


@attrs.frozen(kw_only=True)
class EmbedParams(WorkParams):
    """Texts that are to become vectors."""

    model: str | None = attrs.field(default=None, validator=checked, metadata=MODEL)
    input: str | tuple[str, ...] = attrs.field(validator=checked, metadata=about("A text, or several.", min_items=1))
    normalize: bool = attrs.field(default=True, metadata=about("Scale each vector to length 1."))


@attrs.frozen(kw_only=True)
class EmbedUsage:
    """Tokens that embedding took."""

    prompt_tokens: int
    total_tokens: int


@attrs.frozen(kw_only=True)
class TextsCut:
    """What was longer than the model reads."""

    texts: int = attrs.field(metadata=about("How many texts were cut; their vectors are those of their beginnings."))


@attrs.frozen(kw_only=True)
class EmbedResult:
    """Vectors, in the order of the texts."""

    model: str
    embeddings: tuple[tuple[float, ...], ...]
    usage: EmbedUsage
    device: str | None = None
    degraded: str | None = attrs.field(default=None, metadata=about("Why a slower device was used than the best."))
    provider: str | None = attrs.field(default=None, metadata=about("Who answered, where that was not this machine."))
    rerouted: tuple[Rerouted, ...] | None = None
    truncated: TextsCut | None = None
