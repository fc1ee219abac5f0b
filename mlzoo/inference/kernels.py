"""How this machine's kernels round: what a row's neighbours in a matrix do to its bits.

Knows linear layers and probes them; nothing of attention, requests or particular processors. Matrix libraries choose
a kernel by the matrix's height, and one for few rows may add in another order: the same row then has another last
bit, and a text another ending. So a model is asked once, when it is loaded: at which multiples of rows is a row's
result the same, whatever the other rows are?
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from mlzoo.inference.attention import attend

if TYPE_CHECKING:
    from collections.abc import Iterable

GRAINS = (1, 2, 4, 8, 16)
OUTPUTS = 200_000  # numbers that are compared for each layer and grain


@torch.inference_mode()
def row_grain(module: torch.nn.Module, rows: int) -> int | None:
    """Return the least grain at which the model's linear layers do not mix rows, for up to so many rows.

    Returns:
        A member of ``GRAINS``: with the height of each matrix padded to a multiple of it, a row's result is the same
        in every company. None where no grain does.
    """
    weights = list(_one_of_each_shape(module))
    for grain in GRAINS:
        heights = range(grain, max(rows, grain) + 1, grain)
        if all(_rows_are_equal(weight, heights) for weight in weights):
            return grain
    return None


@torch.inference_mode()
def joins_chunks(module: torch.nn.Module, chunk: int, heads: int, key_heads: int, dim: int) -> bool:
    """Return whether two chunks of a prompt may be read as one: whether each of its tokens then has the same result."""
    for weight in _one_of_each_shape(module):
        if not _rows_are_equal(weight, range(chunk, 2 * chunk + 1, chunk)):
            return False
    generator = torch.Generator().manual_seed(0)
    like = next(module.parameters())
    query = torch.randn(1, heads, 2 * chunk, dim, generator=generator).to(like)
    key, value = (torch.randn(1, key_heads, 2 * chunk, dim, generator=generator).to(like) for _ in range(2))
    hidden = torch.ones(2 * chunk, 2 * chunk, dtype=torch.bool, device=like.device).triu(1)
    mask = torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, torch.finfo(like.dtype).min)[None, None]
    whole = attend(query, key, value, mask, dim**-0.5)
    parts = [
        attend(
            query[:, :, at : at + chunk],
            key[:, :, : at + chunk],
            value[:, :, : at + chunk],
            mask[:, :, at : at + chunk, : at + chunk],
            dim**-0.5,
        )
        for at in (0, chunk)
    ]
    return torch.equal(torch.cat(parts, dim=1), whole)


def _one_of_each_shape(module: torch.nn.Module) -> Iterable[torch.Tensor]:
    shapes = set()
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, torch.nn.Linear) and weight is not None and weight.shape not in shapes:
            shapes.add(weight.shape)
            yield weight


def _rows_are_equal(weight: torch.Tensor, heights: range) -> bool:
    """Return whether rows come out the same in matrices of these heights.

    Rounding to 16 bits hides most differences, so that small layers are asked often enough to see some.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-OUTPUTS // (weight.shape[0] * heights[-1]))):
        rows = torch.randn(heights[-1], weight.shape[1], generator=generator).to(weight)
        whole = functional.linear(rows, weight)
        for height in heights:
            # The rows at the end of a matrix are those that a kernel for the remainder computes.
            if not torch.equal(functional.linear(rows[-height:], weight), whole[-height:]):
                return False
    return True
