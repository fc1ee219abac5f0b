"""What a model says of itself: its heads, its experts, its vocabulary, and what a token takes in its cache.

Knows configurations and modules of transformers; nothing of kernels, nor of what is made of the answers.
"""

from __future__ import annotations

from typing import Any

import torch

from mlzoo.inference import linears, native
from mlzoo.inference.kernels import Heads


def has_experts(module: Any) -> bool:
    """Return whether a model has experts, each of which computes the rows that chose it, as config or modules say."""
    config = module.config.get_text_config(decoder=True)
    by_config = any(getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    return by_config or any("experts" in name.split(".") for name, _ in module.named_modules())


def heads(module: Any) -> Heads | None:
    """Return what is known of a model's attention; None where that is not enough to try it."""
    config = module.config.get_text_config(decoder=True)
    queries = getattr(config, "num_attention_heads", None)
    if not queries:
        return None
    return Heads(
        queries,
        keys=getattr(config, "num_key_value_heads", None) or queries,
        dim=getattr(config, "head_dim", None) or config.hidden_size // queries,
        softcap=getattr(config, "attn_logit_softcapping", None),
        sinks=any(name.endswith("sinks") for name, _ in module.named_parameters()),
    )


def attends_plainly(module: Any) -> bool:
    """Return whether our own attention is one that a model can have: of usual scores, in heads of usual width."""
    known, config = heads(module), module.config.get_text_config(decoder=True)
    if known is None or known.softcap is not None or known.sinks:
        return False
    width = getattr(config, "v_head_dim", None) or known.dim
    return known.dim == width and known.dim in native.DIMS and known.queries // known.keys <= native.MOST_GROUPS


def token_bytes(module: Any) -> int:
    """Return what one token takes in the cache, by the config's numbers."""
    config = module.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * key_heads * dim * module.dtype.itemsize)


def known_tokens(module: Any) -> int:
    """Return how many tokens a model has embeddings of; its tokenizer may have more."""
    return int(module.get_input_embeddings().weight.shape[0])


def vocabulary(module: Any) -> int:
    """Return how wide a model's logits are."""
    head = module.get_output_embeddings()
    if isinstance(head, (torch.nn.Linear, linears.Linear)):
        return head.out_features
    return int(head.weight.shape[0]) if head is not None else int(module.config.get_text_config().vocab_size)
