"""How this machine's kernels round: what a row's company, and the number of threads, do to its bits.

Knows linear layers and attention, and probes them; nothing of requests or particular processors. Matrix libraries
choose a kernel by the matrix's height and by where its memory begins, and one may add in another order than the next:
the same row then has another last bit, and a text another ending. So a model is asked once, when it is loaded: at
which multiples of rows is a row's result the same, whatever the other rows are and however many threads compute?

Rounding to 16 bits hides nearly all of such differences, until one does show in somebody's answer. So what is
multiplied in a probe cancels: each term comes twice, with both signs, and what is left is nothing but the error of the
additions, which another order changes at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import torch
from torch.nn import functional

from mlzoo.inference.attention import attend, attend_in_steps
from mlzoo.inference.linears import GROUP, Linear
from mlzoo.inference.threads import using

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Product = Callable[[torch.Tensor], torch.Tensor]

GRAINS = (1, 2, 4, 8, 16)
GREATEST = 7.5  # weight of a probe: with steps of 1 from its negative on, 4 bits hold each exactly
EXPONENTS = 9  # Numbers of a probe are up to 2 to this apart from 1, so that their sums must round.
BLOCK = 256  # outputs of a probe's weights that differ; others repeat them, as far as the layer has any
JOINED_UP_TO = 1024  # tokens of a prompt in which joined chunks are tried; kernels' blocks are half as long at most
EXTENTS = (64, 576)  # tokens that probes attend to: within one block of a kernel, and beyond
LENGTHS = (3, 37, 64, 128, 192, 256)  # tokens of prompts that are read with all numbers of threads
COMPANIES = (1, 2, 3, 5, 8)  # rows that attend together, beside all but one


@attrs.frozen
class Heads:
    """A model's attention: how many heads, how many of keys and values, how wide, and what bounds or takes scores."""

    queries: int
    keys: int
    dim: int
    softcap: float | None = None
    sinks: bool = False


@attrs.frozen(eq=False)
class Scene:
    """What attention is tried with; shapes as in ``attention.slot_attention``."""

    heads: Heads
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float

    def attend(self, grain: int, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the model's attention gives, with its queries padded to a multiple of grain."""
        if mask is None:
            mask = self.query.new_zeros(len(self.query), 1, self.query.shape[2], self.key.shape[2])
        if self.heads.softcap is None and not self.heads.sinks:
            return attend(self.query, self.key, self.value, mask, self.scale, grain)
        sinks = self.query.new_ones(self.heads.queries) if self.heads.sinks else None
        return attend_in_steps(self.query, self.key, self.value, mask, self.scale, self.heads.softcap, sinks, grain)

    def rows(self, part: slice) -> Scene:
        """Return some of its rows."""
        return attrs.evolve(self, query=self.query[part], key=self.key[part], value=self.value[part])


@torch.inference_mode()
def row_grain(module: torch.nn.Module, rows: int) -> int | None:
    """Return the least grain at which the model's linear layers do not mix rows.

    Args:
        module: The model.
        rows: How many rows there are at most.

    Returns:
        A member of ``GRAINS``: with the height of each matrix padded to a multiple of it, a row's result is the same
        in every company. None where no grain does.
    """
    like = next(module.parameters())
    products = [_probe(layer, like) for layer in _one_of_each_shape(module)]
    for grain in GRAINS:
        heights = range(grain, rows + grain, grain)  # the last one is that of all rows, padded
        if all(_rows_are_equal(product, width, like, heights) for product, width in products):
            return grain
    return None


@torch.inference_mode()
def query_grain(heads: Heads, rows: int, like: torch.Tensor) -> int | None:
    """Return the least number of which a head's queries are padded to a multiple, so that no row mixes with others.

    Torch's kernel gives each thread a scratch whose rows are the queries: where they are odd in number, it begins at
    another place of a cache line for each thread, and a row's bits depend on which thread has it. Where there is a
    grain with which the number of threads changes nothing either, it is that.
    """
    scenes = [scene for extent in EXTENTS for scene in _cancelling(heads, rows, 1, extent, like)]
    least: int | None = None
    for grain in GRAINS:
        if all(_rows_attend_equally(scene, grain) for scene in scenes):
            if attention_takes_any_threads(heads, rows, like, grain):
                return grain
            least = least or grain
    return least


@torch.inference_mode()
def joins_chunks(module: torch.nn.Module, chunk: int, joined: int, heads: Heads, grain: int) -> bool:
    """Return whether up to so many chunks of a prompt may be read as one: each of its tokens has the same result then.

    They begin at multiples of all of them: from elsewhere a kernel may add up its blocks in another order.
    """
    like = next(module.parameters())
    for layer in _one_of_each_shape(module):
        if not _rows_are_equal(*_probe(layer, like), like, range(chunk, joined * chunk + 1, chunk)):
            return False
    starts = range(0, JOINED_UP_TO, joined * chunk)
    stops = [(start, start + parts * chunk) for start in starts for parts in range(2, joined + 1)]
    return all(
        _chunks_attend_equally(scene, chunk, start, grain)
        for start, stop in stops
        for scene in _cancelling(heads, 1, stop - start, stop, like, near=True)
    )


@torch.inference_mode()
def layers_take_any_threads(module: torch.nn.Module, rows: int) -> bool:
    """Return whether rows and prompts get the same bits in linear layers from all numbers of threads up to that of now.

    Args:
        module: The model, its layers in the family that is asked about.
        rows: How many decode together at most.
    """
    like = next(module.parameters())
    heights = sorted({*range(1, rows + 1), *LENGTHS})
    for layer in _one_of_each_shape(module):
        product, width = _probe(layer, like)
        numbers = _numbers(heights[-1], width, like)
        if not all(_takes_any_threads(partial(product, numbers[:height])) for height in heights):
            return False
    return True


@torch.inference_mode()
def attention_takes_any_threads(heads: Heads, rows: int, like: torch.Tensor, grain: int) -> bool:
    """Return whether rows and prompts attend the same with all numbers of threads up to that of now."""
    scenes = [scene for extent in EXTENTS for scene in _cancelling(heads, rows, 1, extent, like)]
    scenes += [scene for tokens in LENGTHS for scene in _cancelling(heads, 1, tokens, EXTENTS[-1], like)]
    return all(_takes_any_threads(partial(scene.attend, grain)) for scene in scenes)


def _takes_any_threads(compute: Callable[[], torch.Tensor]) -> bool:
    most, expected = torch.get_num_threads(), compute()
    for fewer in range(1, most):
        with using(fewer):
            if not torch.equal(compute(), expected):
                return False
    return True


def _one_of_each_shape(module: torch.nn.Module) -> Iterable[torch.nn.Linear | Linear]:
    shapes = set()
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Linear, Linear)):
            # A layer that is computed in another way than those of its shape says so by its kind.
            shape = layer.in_features, layer.out_features, isinstance(layer, Linear) and layer.kind
            if shape not in shapes:
                shapes.add(shape)
                yield layer


def _probe(layer: torch.nn.Linear | Linear, like: torch.Tensor) -> tuple[Product, int]:
    """Return a product like a layer's, of weights under which ``_numbers`` cancel, and how wide its input is."""
    block = _cancelling_weights(min(layer.out_features, BLOCK), layer.in_features)
    repeats = -(-layer.out_features // BLOCK)
    weight = block.repeat(repeats, 1)[: layer.out_features].to(like)
    if isinstance(layer, Linear):
        return layer.product(weight), layer.in_features
    return lambda x: functional.linear(x, weight), layer.in_features


def _pairs(width: int, *, near: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places that pair up, at random or as neighbours; the last of an odd number has none.

    The first two of each group are always a pair, so that each may hold the least and the greatest weight there are.
    """
    places = torch.arange(width - width % 2)
    is_fixed = torch.ones_like(places, dtype=torch.bool) if near else places % GROUP < 2
    fixed, free = places[is_fixed], places[~is_fixed]
    free = free[torch.randperm(len(free), generator=_generator())]
    return torch.cat([fixed[0::2], free[0::2]]), torch.cat([fixed[1::2], free[1::2]])


def _cancelling_weights(outputs: int, width: int) -> torch.Tensor:
    """Return weights ``[outputs, width]`` that 4 bits hold, of which those of a pair add up to 0."""
    first, second = _pairs(width)
    weights = torch.zeros(outputs, width)
    steps = int(2 * GREATEST)
    weights[:, first] = torch.randint(0, steps + 1, (outputs, len(first)), generator=_generator()) - GREATEST
    weights[:, first[first % GROUP == 0]] = GREATEST
    weights[:, second] = -weights[:, first]
    return weights


def _numbers(rows: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Return numbers ``[rows, width]`` of very different size, of which those of a pair are equal."""
    generator = _generator()
    first, second = _pairs(width)
    numbers = torch.randn(rows, width, generator=generator)
    numbers *= torch.exp2(torch.randint(-EXPONENTS, EXPONENTS + 1, numbers.shape, generator=generator))
    numbers[:, second] = numbers[:, first]
    return numbers.to(like)


def _rows_are_equal(product: Product, width: int, like: torch.Tensor, heights: range) -> bool:
    """Return whether rows come out the same in matrices of these heights, at their beginning and at their end."""
    rows = _numbers(heights[-1], width, like)
    whole = product(rows)
    return all(
        torch.equal(product(rows[part]), whole[part])
        for height in heights
        for part in (slice(height), slice(heights[-1] - height, None))
    )


def _cancelling(
    heads: Heads, rows: int, tokens: int, extent: int, like: torch.Tensor, *, near: bool = False
) -> Iterable[Scene]:
    """Yield a scene in which what is added up cancels (by neighbouring tokens, if near), then one of scores that do."""
    generator = _generator()
    query = torch.randn(rows, heads.queries, tokens, heads.dim, generator=generator)
    shape = rows, extent, heads.keys, heads.dim
    key, value = (torch.randn(shape, generator=generator) for _ in range(2))
    first, second = _pairs(extent, near=near)
    paired, cancelling = key.clone(), value * torch.exp2(torch.randint(-4, 5, shape, generator=generator))
    paired[:, second], cancelling[:, second] = key[:, first], -cancelling[:, first]
    yield _scene(heads, query, paired, cancelling, heads.dim**-0.5, like)

    first, second = _pairs(heads.dim)
    query = query * torch.exp2(torch.randint(-EXPONENTS, EXPONENTS + 1, query.shape, generator=generator))
    query[..., second] = query[..., first]
    key[..., second] = -key[..., first]
    error = float(query.abs().amax()) * torch.finfo(torch.float32).eps  # of a score that cancels, about
    yield _scene(heads, query, key, value, 1 / error, like)


def _scene(
    heads: Heads, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, like: torch.Tensor
) -> Scene:
    # Lines of the cache hold all heads of a token.
    return Scene(heads, query.to(like), key.to(like).transpose(1, 2), value.to(like).transpose(1, 2), scale)


def _rows_attend_equally(scene: Scene, grain: int) -> bool:
    """Return whether rows that decode one token attend the same in every company."""
    rows = len(scene.query)
    whole = scene.attend(grain)
    for size in sorted({size for size in (*COMPANIES, rows - 1) if 0 < size < rows}):
        for part in (slice(size), slice(rows - size, None)):
            if not torch.equal(scene.rows(part).attend(grain), whole[part]):
                return False
    # Rows of one slot read the same keys and values, which are in memory once.
    key, value = (lines[:1].expand(rows, -1, -1, -1) for lines in (scene.key, scene.value))
    scene = attrs.evolve(scene, key=key, value=value)
    together = scene.attend(grain)
    parts = [slice(row, row + 1) for row in {0, rows // 2, rows - 1}]
    return all(torch.equal(scene.rows(part).attend(grain), together[part]) for part in parts)


def _chunks_attend_equally(scene: Scene, chunk: int, start: int, grain: int) -> bool:
    """Return whether a scene's chunks from start on attend as one in the same way as one after the other."""
    stop = scene.key.shape[2]
    hidden = torch.ones(stop, stop, dtype=torch.bool, device=scene.query.device).triu(1)[start:]
    mask = torch.zeros_like(hidden, dtype=scene.query.dtype)
    mask = mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)[None, None]
    whole = scene.attend(grain, mask)
    parts = []
    for at in range(0, stop - start, chunk):
        seen = start + at + chunk
        part = attrs.evolve(
            scene,
            query=scene.query[:, :, at : at + chunk],
            key=scene.key[:, :, :seen],
            value=scene.value[:, :, :seen],
        )
        parts.append(part.attend(grain, mask[:, :, at : at + chunk, :seen]))
    return torch.equal(torch.cat(parts, dim=1), whole)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
