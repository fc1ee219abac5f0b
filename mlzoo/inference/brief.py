"""Attention of encoders over short texts, by plain products of matrices.

Torch's fused kernel goes through keys in blocks, for each head of each text by itself: for long texts that saves
memory and time, for a few dozen tokens most of its time is that way of working. Tried at each load against the fused
kernel: what differs, is slower or cannot be had is left as it was. Knows modules of transformers; no requests.

Source: Vaswani et al. 2017, "Attention Is All You Need".
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "mlzoo_brief"
FUSED = "sdpa"
MOST_TOKENS = 64  # of a text; of longer ones the fused kernel is the faster
LINE = 16  # scores that torch takes at once
TEXTS, TOKENS = 32, (6, 24, 12)  # that both are tried with, the last for their speed
TRIES = 5
TOLERANCE = 1e-3  # of hidden states, which are of the order of 1
ELSEWISE = ("softcap", "position_bias", "cache", "s_aux")  # what attention may be asked for beside, and is not here


def brief_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to short texts here, and to all else by the fused kernel.

    Args:
        module: The attention module of the model.
        query: ``[texts, heads, tokens, dim]``.
        key: The same.
        value: The same.
        attention_mask: What may be seen, bool, or what is added to scores, ``[texts, 1, 1 or tokens, tokens]``.
        dropout: Of weights, in training.
        scaling: Of the scores; None: one over the root of dim.
        is_causal: Whether a token sees those before it alone, where no mask says what it sees; None: as the module.
        more: As transformers has it.

    Returns:
        ``[texts, tokens, heads, dim]``, and no weights.
    """
    is_masked = attention_mask is not None
    is_plain = (
        key.shape[2] <= MOST_TOKENS
        and key.shape == query.shape
        and not dropout
        and (is_masked or not (getattr(module, "is_causal", True) if is_causal is None else is_causal))
        and not more.get("output_attentions")
        and all(more.get(name) is None for name in ELSEWISE)
    )
    if not is_plain:
        return sdpa_attention_forward(  # type: ignore[no-any-return, no-untyped-call, unused-ignore]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = _weights(query * scale, key, attention_mask)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return how much of each key a query gets, ``[texts, heads, queries, keys]``."""
    if key.shape[2] >= LINE:
        return _masked(torch.matmul(query, key.transpose(2, 3)), mask).softmax(-1)
    # Torch adds up several queries at once where their scores are neighbours, and lines that are short one by one.
    scores = torch.matmul(key, query.transpose(2, 3))
    return _masked(scores, None if mask is None else mask.transpose(2, 3)).softmax(-2).transpose(2, 3)


def _masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


ALL_ATTENTION_FUNCTIONS.register(NAME, brief_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


@torch.inference_mode()
def attend_briefly(encoder: Any) -> str:
    """Have an encoder on a processor attend so, where that is faster; return what became of it, for people.

    Args:
        encoder: A model of transformers that gives hidden states; in evaluation mode.
    """
    if next(encoder.parameters()).device.type != "cpu" or encoder.config._attn_implementation != FUSED:  # noqa: SLF001
        return "attention: as the model was loaded"
    texts = [_texts(encoder, tokens) for tokens in TOKENS]
    try:
        expected = [_hidden(encoder, text) for text in texts]
        encoder.set_attn_implementation(NAME)
        seen = [_hidden(encoder, text) for text in texts]
        difference = max(float((a - b).abs().max()) for a, b in zip(expected, seen, strict=True))
        if difference > TOLERANCE:
            encoder.set_attn_implementation(FUSED)
            return "attention: the fused kernel, as another would change what is computed"
        gain = _gain(encoder, texts[-1])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
        encoder.set_attn_implementation(FUSED)  # Some models have an attention of their own.
        return "attention: the fused kernel, as this model takes no other"
    encoder.set_attn_implementation(NAME if gain > 1 else FUSED)
    if gain > 1:
        return f"attention over up to {MOST_TOKENS} tokens: plain products, forwards {gain:.2f} times as fast"
    return "attention: the fused kernel, which is the fastest here"


def _gain(encoder: Any, text: torch.Tensor) -> float:
    """Return how many times faster a forward is."""
    spent: dict[str, list[float]] = {FUSED: [], NAME: []}
    for _ in range(TRIES):
        for name, seconds in spent.items():
            encoder.set_attn_implementation(name)
            began_s = time.perf_counter()
            _hidden(encoder, text)
            seconds.append(time.perf_counter() - began_s)
    return median(spent[FUSED]) / median(spent[NAME])


def _texts(encoder: Any, tokens: int) -> torch.Tensor:
    size: int = encoder.config.get_text_config().vocab_size
    return (torch.arange(TEXTS * tokens) * 7 % size).view(TEXTS, tokens)


def _hidden(encoder: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return hidden states of texts of which the second half ends early, but for what stands behind their ends."""
    seen = torch.ones_like(ids)
    seen[len(ids) // 2 :, -2:] = 0
    hidden: torch.Tensor = encoder(input_ids=ids, attention_mask=seen).last_hidden_state
    return hidden[:, :-2].float()
