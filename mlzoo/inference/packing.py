"""An encoder's linear layers with their weights in the order in which oneDNN's kernel reads them.

Forwards of many rows wait for products, not for memory, so that nothing is gained by fewer bits; but the order of the
weights is a third to a half of their time on processors that torch's own library was not made for. Tried at each load
against torch's own layers: what differs, is slower or cannot be had is left as it was. Knows modules; no requests.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

ROWS = 512  # tokens of a forward, for which weights are ordered; others are computed as well
TRIES = 5
TOLERANCE = 1e-3  # of hidden states, which are of the order of 1
SAMPLE_TOKENS = 16


class Packed(nn.Module):
    """A linear layer with ordered weights; the plain ones are not kept.

    Args:
        layer: The plain one.
        then: What is done to each output in the same pass: none, or gelu (the exact one).
    """

    def __init__(self, layer: nn.Linear, then: str = "none") -> None:
        super().__init__()
        self._then = then
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.ordered = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data.contiguous(), ROWS)  # noqa: SLF001 - torch's own compiler uses it
        self.bias: torch.Tensor | None = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[..., outputs]`` for ``[..., inputs]``."""
        rows = x.reshape(-1, self.in_features)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            rows, self.ordered, self.bias, self._then, [], "none" if self._then == "gelu" else ""
        )
        return out.view(*x.shape[:-1], self.out_features)


@torch.inference_mode()
def pack(encoder: Any) -> str:
    """Order the weights of an encoder on a processor, where that is faster; return what became of it, for people.

    Args:
        encoder: A model of transformers that gives hidden states; in evaluation mode.
    """
    if next(encoder.parameters()).device.type != "cpu":
        return "linear layers: torch's own"
    layers = [
        (parent, name, child)
        for parent in encoder.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    fused = {id(parent.dense): parent for parent in encoder.modules() if _is_followed_by_gelu(parent)}
    try:
        expected = _hidden(encoder)
        packed = {id(layer): Packed(layer, "gelu" if id(layer) in fused else "none") for _, _, layer in layers}
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return "linear layers: torch's own, as this processor or this model takes no others"
    gain = _gain([(layer, packed[id(layer)]) for _, _, layer in layers])
    if gain <= 1:
        return "linear layers: torch's own, which are the fastest here"
    for parent, name, layer in layers:
        setattr(parent, name, packed[id(layer)])
    activations = {parent: parent.intermediate_act_fn for parent in fused.values()}
    for parent in activations:
        parent.intermediate_act_fn = nn.Identity()
    try:
        difference = float((_hidden(encoder) - expected).abs().max())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        difference = float("inf")  # Some models reach into their layers.
    if difference <= TOLERANCE:
        return f"linear layers: weights in oneDNN's order, {gain:.2f} times as fast"
    for parent, name, layer in layers:
        setattr(parent, name, layer)
    for parent, activation in activations.items():
        parent.intermediate_act_fn = activation
    return "linear layers: torch's own, as others would change what is computed"


def _is_followed_by_gelu(module: Any) -> bool:
    """Whether a module is one of BERT's kind, a linear layer and then the exact GELU: one pass can compute both."""
    activation = getattr(module, "intermediate_act_fn", None)
    is_gelu = type(activation).__name__ == "GELUActivation" or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )
    return is_gelu and type(getattr(module, "dense", None)) is nn.Linear


def _hidden(encoder: Any) -> torch.Tensor:
    ids = torch.arange(SAMPLE_TOKENS)[None] % encoder.config.get_text_config().vocab_size
    hidden: torch.Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return hidden.float()


def _gain(pairs: list[tuple[nn.Linear, Packed]]) -> float:
    """Return how many times faster ordered weights are, over all layers; each shape is tried once."""
    spent: dict[tuple[int, int], tuple[float, float]] = {}
    total = [0.0, 0.0]
    for layer, packed in pairs:
        shape = (layer.in_features, layer.out_features)
        if shape not in spent:
            x = torch.randn(ROWS, layer.in_features, dtype=layer.weight.dtype)
            tries = [(_seconds(layer, x), _seconds(packed, x)) for _ in range(TRIES)]
            spent[shape] = (median(plain for plain, _ in tries), median(ours for _, ours in tries))
        total = [total[0] + spent[shape][0], total[1] + spent[shape][1]]
    return total[0] / total[1] if total[1] else 0.0


def _seconds(layer: nn.Module, x: torch.Tensor) -> float:
    began_s = time.perf_counter()
    layer(x)
    return time.perf_counter() - began_s
