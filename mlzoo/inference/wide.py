"""A model whose layers hand on numbers of 32 bits, though its weights have fewer.

Between two layers, bfloat16 has 8 bits of a number; what is added up through all layers loses there most of what a
model loses by being computed in 16 bits. Our own kernels round rows by themselves, to 16 bits of each group's, and
take wide ones as fast. Keys and values are kept in the model's own dtype. Knows modules of transformers; nothing of
kernels, nor of who decides.

Rounding to 16 bits also hides that torch computes the last numbers of each thread's share by another function than the
others; 32 bits show it, and where shares end depends on how many rows there are. So activations are computed in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 16384  # numbers that torch gives to one thread, and all of which are computed in the same way
ACTIVATION = "act_fn"  # of a layer's network, by transformers' name


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return what a function makes of each number, the same in every company and by all numbers of threads.

    Args:
        function: Of torch, on each number by itself.
        x: ``[..., width]``; the width is a multiple of 32, as that of all inputs of our own kernels.
    """
    if x.numel() <= PIECE:
        return function(x)
    return torch.cat([function(piece) for piece in torch.split(x.reshape(-1), PIECE)]).view(x.shape)


class InPieces(nn.Module):
    """An activation that is computed in pieces."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[..., width]`` for ``[..., width]``."""
        return in_pieces(self.activation, x)


def activate_in_pieces(module: Any) -> Callable[[], None]:
    """Have the activations of a model's networks computed in pieces; return what undoes it."""
    found = [(part, getattr(part, ACTIVATION)) for part in module.modules() if hasattr(part, ACTIVATION)]
    for part, activation in found:
        setattr(part, ACTIVATION, InPieces(activation))

    def undo() -> None:
        for part, activation in found:
            setattr(part, ACTIVATION, activation)

    return undo


def can_be(module: Any) -> bool:
    """Whether a model is such that nothing but its embeddings and products would meet numbers of two widths.

    Its linear layers hold no plain weights any more; what has matrices besides, as experts do, multiplies by itself.
    Each of its networks has an activation that can be computed in pieces.
    """
    activations = [getattr(part, ACTIVATION) for part in module.modules() if hasattr(part, ACTIVATION)]
    if not activations or not all(isinstance(one, nn.Module) for one in activations):
        return False
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return all(id(weight) in embeddings or weight.dim() < 2 for weight in module.parameters())


def widen(module: Any) -> Callable[[], None]:
    """Have a model hand on 32 bits from its embeddings on; return what has it be as before.

    What is added to, or multiplied with, what runs between layers is widened: weights of norms, and biases.
    """
    embeddings = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    kept = {id(part.weight) for part in embeddings}
    narrow = [
        tensor
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.dtype == module.dtype and tensor.dim() < 2 and id(tensor) not in kept
    ]
    before = module.dtype
    for tensor in narrow:
        tensor.data = tensor.data.float()
    hooks = [part.register_forward_hook(_wide) for part in embeddings]

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for tensor in narrow:
            tensor.data = tensor.data.to(before)

    return undo


def _wide(_embedding: nn.Module, _given: object, out: torch.Tensor) -> torch.Tensor:
    return out.float()
