"""A decode step of plain decoders, in as few operations as it takes.

Where no compiler makes a step, most of the time of a few rows is what Python and torch spend around products: twenty
operations for a rotation, eight for a norm. Decoders of Llama's kind (norms by root mean square, rotated queries and
keys, a gated network) are computed here in half of the operations, from the model's own weights, in the same order of
rows and slots. Who uses it has compared it with the model's own forward. Knows modules of transformers by the names of
their parts; nothing of requests, or of how kernels are chosen.

Others have the same parts and use them in another way (other rotations, scales that grow with the position), which a
few tokens need not show: only what is named here is of that kind.

Sources: Touvron et al. 2023, "LLaMA"; Su et al. 2021, "RoFormer"; Zhang and Sennrich 2019, "Root Mean Square Layer
Normalization"; Shazeer 2020, "GLU Variants Improve Transformer".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.nn import functional

from mlzoo.inference.attention import attend_runs
from mlzoo.inference.linears import Linear, Sibling
from mlzoo.inference.wide import in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.inference.cache import SlotCache, SlotLayer

    # A layer's slots, queries [rows, heads, dim], keys and values of all slots -> what the rows get.
    Attention = Callable[[SlotLayer, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

KINDS = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}  # classes of transformers
INNER = {"embed_tokens", "layers", "norm", "rotary_emb"}  # parts of a decoder of that kind, by transformers' names
OF_LAYERS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
OF_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
OF_NETWORKS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@attrs.frozen(eq=False)
class Norm:
    """Divides by the root of the mean square, and weighs; ``[rows, width]``."""

    weight: torch.Tensor
    least: float  # that is added to the mean

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return rows as they leave it."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.least)


@attrs.frozen(eq=False)
class Layer:
    """The parts of one layer."""

    before: Norm
    heads: Linear  # queries, keys and values
    out: Linear
    after: Norm
    gates: Linear  # the gates, and what they let through
    down: Linear


@attrs.frozen(eq=False)
class LeanStep:
    """The step of one model."""

    module: Any
    layers: tuple[Layer, ...]
    last: Norm
    logits: Linear
    queries: int  # heads
    keys: int
    dim: int
    scale: float
    own_attention: bool  # whether it attends by our own kernel, all rows at once

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, lines: torch.Tensor, cache: SlotCache
    ) -> torch.Tensor:
        """Write each row's token into its slot; return the logits after them, ``[rows, vocabulary]``.

        Args:
            ids: A token for each row, ``[rows and padding]``.
            positions: Where it stands, ``[rows and padding]``.
            lines: Of the cache, where it is written, ``[rows]``.
            cache: Its forward in progress says what the rows see.
        """
        inner = self.module.model
        x = inner.embed_tokens(ids)
        cos, sin = (part[0, :, None] for part in inner.rotary_emb(x[None], positions[None]))
        half = self.dim // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        attend = self._attention(positions, lines, cache)
        for layer, slots in zip(self.layers, cache.layers, strict=True):
            heads = layer.heads.rows(layer.before(x)).view(len(x), -1, self.dim)
            turned = heads[:, : self.queries + self.keys]
            turned = turned * cos + torch.cat((turned[..., half:], turned[..., :half]), -1) * sin
            x = x + layer.out.rows(self._attended(attend, slots, lines, turned, heads))
            gates, values = layer.gates.rows(layer.after(x)).chunk(2, -1)
            x = x + layer.down.rows(in_pieces(functional.silu, gates) * values)
        return self.logits.rows(self.last(x))

    def _attention(self, positions: torch.Tensor, lines: torch.Tensor, cache: SlotCache) -> Attention:
        """Return what the rows attend with in each layer: a row sees what is not after it."""
        now = cache.forward
        seen = torch.arange(now.extent) <= now.positions
        if self.own_attention:
            first_lines = lines - positions[: len(lines)]
            return lambda slots, query, _key, _value: torch.ops.mlzoo.slot_attention(
                query, slots.keys, slots.values, first_lines, seen, self.scale
            )
        kept_in = cache.layers[0].kept_in
        mask = torch.zeros(seen.shape, dtype=kept_in).masked_fill_(~seen, torch.finfo(kept_in).min)[:, None, None]
        return lambda _slots, query, key, value: attend_runs(now, query[:, :, None], key, value, mask, self.scale)

    def _attended(
        self, attend: Attention, slots: SlotLayer, lines: torch.Tensor, turned: torch.Tensor, heads: torch.Tensor
    ) -> torch.Tensor:
        """Return what the rows attend to, ``[rows and padding, queries * dim]``; padding gets zeros."""
        rows = len(lines)
        key, value = slots.put(lines, turned[:rows, self.queries :], heads[:rows, self.queries + self.keys :])
        out = attend(slots, turned[:rows, : self.queries], key, value).reshape(rows, -1)
        padding = len(turned) - rows
        return functional.pad(out, (0, 0, 0, padding)) if padding else out


def step_of(module: Any, *, own_attention: bool = False) -> LeanStep | None:
    """Return the lean step of a model whose linear layers were replaced; None where it is of another kind.

    Args:
        module: The model.
        own_attention: Whether this process has our own kernel of attention, and the model's heads are for it.
    """
    kind = type(module)
    if kind.__name__ not in KINDS or not kind.__module__.startswith("transformers.models."):
        return None
    try:
        inner, config = module.model, module.config
        layers = tuple(_layer(layer) for layer in inner.layers)
        attention = inner.layers[0].self_attn
        step = LeanStep(
            module=module,
            layers=layers,
            last=_norm(inner.norm),
            logits=_alone(module.lm_head),
            queries=config.num_attention_heads,
            keys=config.num_key_value_heads,
            dim=attention.head_dim,
            scale=attention.scaling,
            own_attention=own_attention,
        )
    except (AttributeError, TypeError):
        return None
    is_usual = (
        _parts(inner) == INNER
        and type(inner.embed_tokens) is nn.Embedding
        and not getattr(config, "sliding_window", None)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )
    return step if is_usual else None


def _layer(layer: Any) -> Layer:
    attention, network = layer.self_attn, layer.mlp
    kinds = (_parts(layer), OF_LAYERS), (_parts(attention), OF_ATTENTION), (_parts(network), OF_NETWORKS)
    if any(found != wanted for found, wanted in kinds) or not _is_silu(network.act_fn):
        raise TypeError("a layer of another kind")
    return Layer(
        before=_norm(layer.input_layernorm),
        heads=_joined(attention.q_proj),
        out=_alone(attention.o_proj),
        after=_norm(layer.post_attention_layernorm),
        gates=_joined(network.gate_proj),
        down=_alone(network.down_proj),
    )


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _norm(norm: Any) -> Norm:
    return Norm(norm.weight, norm.variance_epsilon)


def _joined(first: Any) -> Linear:
    """Return the product that siblings share."""
    if not isinstance(first, Sibling):
        raise TypeError("layers that read the same input, and are no siblings")
    return first.linear


def _alone(layer: Any) -> Linear:
    if not isinstance(layer, Linear):
        raise TypeError("a layer that is no linear one")
    return layer


def _is_silu(function: Any) -> bool:
    numbers = torch.linspace(-4, 4, 9)
    return torch.equal(function(numbers), functional.silu(numbers))
