"""A model whose layers hand on numbers of 32 bits, though its weights have fewer.

Between two layers, bfloat16 has 8 bits of a number; what is added up through all layers loses there most of what a
model loses by being computed in 16 bits. Our own kernels round rows by themselves, to 16 bits of each group's, and
take wide ones as fast. Keys and values are kept in the model's own dtype. Knows modules of transformers; nothing of
kernels, nor of who decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


def can_be(module: Any) -> bool:
    """Whether a model is such that nothing but its embeddings and products would meet numbers of two widths.

    Its linear layers hold no plain weights any more; what has matrices besides, as experts do, multiplies by itself.
    """
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
