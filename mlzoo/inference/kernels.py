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

from mlzoo.inference.attention import attend
from mlzoo.inference.linears import Linear

if TYPE_CHECKING:
    from collections.abc import Iterable

GRAINS = (1, 2, 4, 8, 16)
OUTPUTS = 200_000  # numbers that are compared for each layer and grain
JOINED_UP_TO = 1024  # tokens of a prompt in which joined chunks are tried; kernels' blocks are half as long at most


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
    layers, like = list(_one_of_each_shape(module)), next(module.parameters())
    for grain in GRAINS:
        heights = range(grain, max(rows, grain) + 1, grain)
        if all(_rows_are_equal(layer, like, heights) for layer in layers) and (
            heads is None or _rows_attend_equally(heads, rows, grain, like)
        ):
            return grain
    return None


@torch.inference_mode()
def joins_chunks(module: torch.nn.Module, chunk: int, heads: Heads) -> bool:
    """Return whether two chunks of a prompt may be read as one: whether each of its tokens then has the same result.

    Pairs begin at multiples of their length: from elsewhere a kernel may add up its blocks in another order.
    """
    like = next(module.parameters())
    for layer in _one_of_each_shape(module):
        if not _rows_are_equal(layer, like, range(chunk, 2 * chunk + 1, chunk)):
            return False
    return all(_chunks_attend_equally(heads, chunk, start, like) for start in range(0, JOINED_UP_TO, 2 * chunk))


def _chunks_attend_equally(heads: Heads, chunk: int, start: int, like: torch.Tensor) -> bool:
    """Return whether two chunks from a token on attend as one in the same way as one after the other."""
    generator = torch.Generator().manual_seed(0)
    stop, dim = start + 2 * chunk, heads.dim
    query = torch.randn(1, heads.queries, 2 * chunk, dim, generator=generator).to(like)
    key, value = (torch.randn(1, heads.keys, stop, dim, generator=generator).to(like) for _ in range(2))
    hidden = torch.ones(stop, stop, dtype=torch.bool, device=like.device).triu(1)[start:]
    mask = torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, torch.finfo(like.dtype).min)[None, None]
    whole = attend(query, key, value, mask, dim**-0.5)
    parts = [
        attend(
            query[:, :, at : at + chunk],
            key[:, :, : start + at + chunk],
            value[:, :, : start + at + chunk],
            mask[:, :, at : at + chunk, : start + at + chunk],
            dim**-0.5,
        )
        for at in (0, chunk)
    ]
    return torch.equal(torch.cat(parts, dim=1), whole)


def _one_of_each_shape(module: torch.nn.Module) -> Iterable[torch.nn.Linear | Linear]:
    shapes = set()
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Linear, Linear)):
            # A layer that is computed in another way than those of its shape says so by its kind.
            shape = layer.in_features, layer.out_features, isinstance(layer, Linear) and layer.takes_int4
            if shape not in shapes:
                shapes.add(shape)
                yield layer


def _rows_are_equal(layer: torch.nn.Linear | Linear, like: torch.Tensor, heights: range) -> bool:
    """Return whether rows come out the same in matrices of these heights.

    Rounding to 16 bits hides most differences, so that small layers are asked often enough to see some.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-OUTPUTS // (layer.out_features * heights[-1]))):
        rows = torch.randn(heights[-1], layer.in_features, generator=generator).to(like)
        whole = layer(rows)
        for height in heights:
            # The rows at the end of a matrix are those that a kernel for the remainder computes.
            if not torch.equal(layer(rows[-height:]), whole[-height:]):
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
    # Rows of one slot read the same keys and values, which are in memory once.
    one_key, one_value = key[:1].expand(rows, -1, -1, -1), value[:1].expand(rows, -1, -1, -1)
    together = attend(query, one_key, one_value, mask, scale, grain)
    return all(
        torch.equal(attend(query[row : row + 1], key[:1], value[:1], mask[:1], scale, grain), together[row : row + 1])
        for row in range(rows)
    )
