"""How this machine's kernels round: what a row's neighbours in a matrix do to its bits.

Knows linear layers and probes them; nothing of attention, requests or particular processors. Matrix libraries choose
a kernel by the matrix's height, and one for few rows may add in another order: the same row then has another last
bit, and a text another ending. So a model is asked once, when it is loaded: at which multiples of rows is a row's
result the same, whatever the other rows are?
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch.nn import functional

from mlzoo.inference.attention import attend

if TYPE_CHECKING:
    from collections.abc import Iterable

GRAINS = (1, 2, 4, 8, 16)
OUTPUTS = 200_000  # numbers that are compared for each layer and grain


@attrs.frozen
class Heads:
    """The shape of a model's attention: how many heads, how many of keys and values, and how wide."""

    queries: int
    keys: int
    dim: int


@torch.inference_mode()
def row_grain(module: torch.nn.Module, rows: int, heads: Heads | None) -> int | None:
    """Return the least grain at which the model's linear layers and attention do not mix rows.

    Args:
        module: The model.
        rows: How many rows there are at most.
        heads: Of its attention; None: not known, or of a kind that is not looked at here.

    Returns:
        A member of ``GRAINS``: with the height of each matrix padded to a multiple of it, a row's result is the same
        in every company. None where no grain does.
    """
    weights = list(_one_of_each_shape(module))
    for grain in GRAINS:
        heights = range(grain, max(rows, grain) + 1, grain)
        if all(_rows_are_equal(weight, heights) for weight in weights) and (
            heads is None or _rows_attend_equally(heads, rows, grain, weights[0])
        ):
            return grain
    return None


@torch.inference_mode()
def joins_chunks(module: torch.nn.Module, chunk: int, heads: Heads) -> bool:
    """Return whether two chunks of a prompt may be read as one: whether each of its tokens then has the same result."""
    for weight in _one_of_each_shape(module):
        if not _rows_are_equal(weight, range(chunk, 2 * chunk + 1, chunk)):
            return False
    generator = torch.Generator().manual_seed(0)
    like = next(module.parameters())
    dim = heads.dim
    query = torch.randn(1, heads.queries, 2 * chunk, dim, generator=generator).to(like)
    key, value = (torch.randn(1, heads.keys, 2 * chunk, dim, generator=generator).to(like) for _ in range(2))
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


def _rows_attend_equally(heads: Heads, rows: int, grain: int, like: torch.Tensor) -> bool:
    """Return whether rows that decode one token attend the same in every company."""
    generator = torch.Generator().manual_seed(0)
    tokens = 64
    query = torch.randn(rows, heads.queries, 1, heads.dim, generator=generator).to(like)
    shape = (rows, tokens, heads.keys, heads.dim)
    key, value = (torch.randn(shape, generator=generator).to(like).transpose(1, 2) for _ in range(2))
    mask = torch.zeros(rows, 1, 1, tokens, dtype=like.dtype, device=like.device)
    scale = heads.dim**-0.5
    whole = attend(query, key, value, mask, scale, grain)
    for size in range(1, rows):
        for at in range(0, rows, size):
            part = slice(at, at + size)
            if not torch.equal(attend(query[part], key[part], value[part], mask[part], scale, grain), whole[part]):
                return False
    return True
