"""Attention over slots: one mask function and one attention function for every architecture.

Knows transformers' registries and the forward in progress; nothing of particular models. The mask is the model's own
rule (causal, sliding, chunked, ...), evaluated at each row's own positions.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.inference.cache import Forward

NAME = "mlzoo_slots"

_in_progress: list[Forward] = []  # The registries take plain functions; one thread runs all forwards of a process.


@contextlib.contextmanager
def during(forward: Forward) -> Iterator[None]:
    """Let mask and attention know which forward is in progress."""
    _in_progress.append(forward)
    try:
        yield
    finally:
        _in_progress.pop()


def slot_mask(
    *, mask_function: Callable[..., torch.Tensor], dtype: torch.dtype = torch.float32, **_: Any
) -> torch.Tensor:
    """Return what to add to the scores, ``[rows, 1, tokens, extent]``: 0 or the least number of the dtype."""
    now = _in_progress[-1]
    device = now.positions.device
    rows = torch.arange(now.rows, device=device)[:, None, None, None]
    seen = torch.arange(now.extent, device=device)[None, None, None, :]
    visible = mask_function(rows, 0, now.positions[:, None, :, None], seen)
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def slot_attention(
    module: Any,  # noqa: ARG001 - transformers' interface
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from the rows that count to their slots; padding rows get zeros.

    Args:
        module: The attention module of the model.
        query: ``[rows and padding, heads, tokens, dim]``.
        key: ``[slots, key heads, size, dim]``.
        value: ``[slots, key heads, size, dim]``.
        attention_mask: ``[rows, 1, tokens, extent]``.
        scaling: Of the scores; None: one over the root of dim.
        softcap: Bound of the scores (Gemma 2).
        s_aux: One more score for each head, which takes attention away (GPT-OSS's sinks).

    Returns:
        ``[rows and padding, tokens, heads, dim]``, and no weights.
    """
    now = _in_progress[-1]
    padding = query.shape[0] - now.rows
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = attend_runs(now, query[: now.rows], key, value, attention_mask, scale, softcap, s_aux)
    return (functional.pad(out, (0, 0, 0, 0, 0, 0, 0, padding)) if padding else out), None


def attend_runs(
    now: Forward,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from the rows of the forward in progress, neighbours together; shapes as in ``slot_attention``."""
    dtype, query = query.dtype, query.to(key.dtype)
    mask = None if mask is None else mask.to(key.dtype)
    parts = []
    for run in now.runs:
        queries = query[run.rows]
        keys, values = key[run.slots, :, : run.extent], value[run.slots, :, : run.extent]
        if len(keys) < len(queries):  # of one slot, which all of them read
            keys, values = (lines.expand(len(queries), -1, -1, -1) for lines in (keys, values))
        seen = None if mask is None else mask[run.rows, ..., : run.extent]
        if softcap is None and s_aux is None:
            parts.append(attend(queries, keys, values, seen, scale, now.query_grain))
        else:
            parts.append(attend_in_steps(queries, keys, values, seen, scale, softcap, s_aux, now.query_grain))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(dtype)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    grain: int = 1,
) -> torch.Tensor:
    """Attend from queries to keys and values, heads of a group sharing theirs; shapes as in ``slot_attention``.

    Queries are padded to a multiple of ``grain``, so that no row's bits depend on which thread has it (see
    ``mlzoo.inference.kernels``). A row that decodes has one query for each head, and those of one group count.
    """
    rows, heads, tokens, dim = query.shape
    groups = heads // key.shape[1]
    if tokens == 1:
        # The heads of one group become the queries of their key head: nothing is repeated in memory.
        query = query.reshape(rows, heads // groups, groups, dim)
        query = functional.pad(query, (0, 0, 0, -groups % grain))
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return out[:, :, :groups].reshape(rows, 1, heads, -1)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    padding = -tokens % grain
    query = functional.pad(query, (0, 0, 0, padding)) if padding else query
    mask = functional.pad(mask, (0, 0, 0, padding)) if padding and mask is not None else mask
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out[:, :, :tokens].transpose(1, 2).contiguous()


def attend_in_steps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    grain: int = 1,
) -> torch.Tensor:
    """Attend with bounded scores, or with sinks ``[heads]``; the other shapes as in ``slot_attention``.

    With a grain above 1 rows are taken one by one: products of a batch choose their kernel by its size.
    """
    if grain > 1 and len(query) > 1:
        parts = [slice(row, row + 1) for row in range(len(query))]
        masks = [None if mask is None else mask[part] for part in parts]
        alone = [
            attend_in_steps(query[part], key[part], value[part], seen, scale, softcap, sinks, grain)
            for part, seen in zip(parts, masks, strict=True)
        ]
        return torch.cat(alone)
    rows, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(2, 3)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask.float()
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        sink = sinks.float().reshape(1, -1, 1, 1).expand(rows, heads, tokens, 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(NAME, slot_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, slot_mask)
