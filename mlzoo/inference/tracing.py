"""A decode step as one function of tensors, for a compiler to read: no code of Python is left when it runs.

Knows transformers' interfaces and linear layers; nothing of compilers, files or requests. The model's own forward runs
on keys and values that are buffers, with attention and mask in plain operations, of which a compiler makes its own
loops. What it is given says how many rows there are and how far they see, so that one graph serves all numbers of rows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mlzoo.inference import linears, native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NAME = "mlzoo_traced"
SUMS, LIBRARY, SLOTS = "sums", "library", "slots"  # the compiler's own loops, torch's kernel, ours
PLAIN = "plain"  # a product that has no operands but the layer's own weight


@attrs.frozen(kw_only=True)
class Shape:
    """A tensor that will be there when a graph runs."""

    size: tuple[int, ...]
    dtype: str  # by torch's name, such as bfloat16


@attrs.frozen(kw_only=True)
class Product:
    """What computes a linear layer: a function of ``linears``, by its name, and what it is given before the rows."""

    function: str
    operands: tuple[Shape, ...] = ()


@attrs.frozen(kw_only=True)
class Step:
    """All that a graph is made of, and its key beside the machine and the versions."""

    products: tuple[Product, ...]  # of each linear layer, in the order in which they are found
    caches: tuple[tuple[Shape, Shape] | None, ...]  # keys and values of each layer; None: it has none of its own
    slots: int
    context: int
    rows: int  # that one step has at most
    attention: str = SUMS  # of SUMS, LIBRARY, SLOTS; where the last two do not fit a model, SUMS
    is_wide: bool = False  # whether what runs between layers has 32 bits (see ``wide``)


class TracedStep(nn.Module):
    """The step. Weights are found by their names in the module, prefixed with ``module.``."""

    def __init__(self, module: Any, step: Step) -> None:
        super().__init__()
        module.set_attn_implementation(NAME)
        self.module, self.step = module, step
        for place, shapes in enumerate(step.caches):
            for kind, shape in zip(("keys", "values"), shapes or (), strict=False):
                self.register_buffer(f"{kind}_{place}", placeholder(shape))

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        extent: torch.Tensor,
        wanted: torch.Tensor,
    ) -> torch.Tensor:
        """Return the logits of some rows, ``[wanted, vocabulary]``.

        Args:
            ids: A token for each row, ``[rows, 1]``.
            positions: Where it stands, ``[rows, 1]``.
            slots: In which slot, ``[rows]``.
            extent: As long as what the row that sees farthest sees; its numbers are not read.
            wanted: Which rows' logits are to be computed, ``[wanted]``: of a prompt's those of its last token.
        """
        now = _Now(positions, slots, extent.shape[0], self.step.context, self.step.attention)
        layers = [
            _Layer(now, *(getattr(self, f"{kind}_{place}", None) for kind in ("keys", "values")))
            for place in range(len(self.step.caches))
        ]
        head = self.module.get_output_embeddings()
        narrowing = head.register_forward_pre_hook(lambda _head, given: (given[0].index_select(0, wanted), *given[1:]))
        _in_progress.append(now)
        try:
            logits: torch.Tensor = self.module(
                input_ids=ids, position_ids=positions, past_key_values=Cache(layers=layers), use_cache=True
            ).logits
        finally:
            _in_progress.pop()
            narrowing.remove()
        return logits[:, -1]


@attrs.frozen(eq=False)
class _Now:
    """The step in progress."""

    positions: torch.Tensor  # [rows, 1]
    slots: torch.Tensor  # [rows]
    extent: int
    context: int
    attention: str

    def written(self) -> torch.Tensor:
        """Return the lines that the rows write, ``[rows]``."""
        return self.slots * self.context + self.positions[:, 0]

    def gathered(self, buffer: torch.Tensor, dim: int) -> torch.Tensor:
        """Return what the rows may see of a buffer, ``[rows, heads, extent, dim]``."""
        seen = torch.arange(self.extent, device=self.slots.device)
        lines = buffer[self.slots[:, None] * self.context + seen[None]]
        return lines.view(self.slots.shape[0], self.extent, -1, dim).transpose(1, 2)


_in_progress: list[_Now] = []  # The registries take plain functions.


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values, read row by row from wherever the row's slot is."""

    is_sliding = False
    is_compileable = True
    is_initialized = True

    def __init__(self, now: _Now, keys: torch.Tensor | None, values: torch.Tensor | None) -> None:
        super().__init__()
        self.now, self.keys, self.values = now, keys, values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The buffers are there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; return what each row may see, ``[rows, heads, extent, dim]``.

        Where attention reads the slots themselves: all of them, ``[lines, heads * dim]``.
        """
        keys, values = self._written(self.keys, key_states), self._written(self.values, value_states)
        dim = key_states.shape[-1]
        fit = dim in native.DIMS and values.shape == keys.shape and {keys.dtype, values.dtype} == {torch.bfloat16}
        if fit and self.now.attention == SLOTS:
            return keys, values
        return self.now.gathered(keys, dim), self.now.gathered(values, value_states.shape[-1])

    def _written(self, buffer: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        assert buffer is not None, "a layer without keys of its own writes none"
        return buffer.index_copy_(0, self.now.written(), states.reshape(states.shape[0], -1).to(buffer.dtype))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - transformers' interface
        """Return length and offset of what attention sees."""
        return self.now.extent, 0

    def get_seq_length(self) -> int:
        """Return 0: each row has a length of its own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the tokens that a slot holds."""
        return self.now.context


def traced_mask(*, mask_function: Callable[..., torch.Tensor], **_: Any) -> torch.Tensor:
    """Return which tokens a row sees, ``[rows, 1, 1, extent]``."""
    now = _in_progress[-1]
    rows = torch.arange(now.positions.shape[0], device=now.positions.device)[:, None, None, None]
    seen = torch.arange(now.extent, device=now.positions.device)[None, None, None, :]
    return mask_function(rows, 0, now.positions[:, None, :, None], seen)


def traced_attention(
    module: Any,  # noqa: ARG001 - transformers' interface
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one query for each head and row, ``[rows, heads, 1, dim]``; return ``[rows, 1, heads, dim]``.

    Our own kernel reads keys and values where they lie. Without it, for a few rows, products are sums over a dimension,
    and not matrix products: a compiler puts reading, widening and summing into one loop, and a row's numbers are
    gathered from its slot without a copy. For many rows a copy and the library's own attention take less (a third of
    the time, of 16 rows that see 100 tokens each).
    """
    now = _in_progress[-1]
    rows, heads, _tokens, dim = query.shape
    scale = dim**-0.5 if scaling is None else scaling
    is_usual = softcap is None and s_aux is None
    if key.dim() == 2:
        fits = heads * dim // key.shape[1] <= native.MOST_GROUPS and query.dtype in native.ROWS
        if fits and is_usual and attention_mask is not None:
            seen = attention_mask[:, 0, 0].contiguous()
            queries = query[:, :, 0].contiguous()
            out = torch.ops.mlzoo.slot_attention(queries, key, value, now.slots * now.context, seen, scale)
            return out.view(rows, 1, heads, dim), None
        key, value = now.gathered(key, dim), now.gathered(value, dim)
    groups = heads // key.shape[1]
    if now.attention != SUMS and is_usual:
        queries = query.view(rows, heads // groups, groups, dim).to(key.dtype)
        out = functional.scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=scale)
        return out.reshape(rows, 1, heads, -1).to(query.dtype), None
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    queries = query.view(rows, 1, -1, groups, dim).float()
    scores = (queries * key[:, :, :, None].float()).sum(-1) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, 0, 0, :, None, None], torch.finfo(torch.float32).min)
    if s_aux is None:
        weights = scores.softmax(1)
    else:
        sinks = s_aux.float().view(1, 1, -1, groups).expand(rows, 1, -1, groups)
        weights = torch.cat([scores, sinks], 1).softmax(1)[:, :-1]
    out = (weights[..., None] * value[:, :, :, None].float()).sum(1)
    return out.to(query.dtype).reshape(rows, 1, heads, -1), None


def placeholder(shape: Shape) -> torch.Tensor:
    """Return a tensor of a shape; its memory exists once it is touched, which a compiler does not do."""
    return torch.empty(shape.size, dtype=getattr(torch, shape.dtype), device="cpu")


def place(module: nn.Module, products: Sequence[Product]) -> None:
    """Give the linear layers of a module what the products of a step are made of: placeholders."""
    for layer, product in zip(layers_of(module), products, strict=True):
        if product.function != PLAIN:
            for number, shape in enumerate(product.operands):
                layer.register_buffer(_operand(number), placeholder(shape))
            layer.products = {"plain": partial(_placed, layer, product)}
            layer.weight = None


def _placed(layer: linears.Linear, product: Product, x: torch.Tensor) -> torch.Tensor:
    """Return a layer's product. Who traces puts tensors of its own in the place of buffers, so they are looked up."""
    operands = [layer.get_buffer(_operand(number)) for number in range(len(product.operands))]
    out: torch.Tensor = getattr(linears, product.function)(*operands, x)
    return out


def _operand(number: int) -> str:
    return f"operand_{number}"


def product_of(layer: linears.Linear, family: linears.Family) -> Product:
    """Return what computes a layer in a family.

    Raises:
        ValueError: It is no function that a graph could hold.
    """
    product = layer.products[family]
    if family == "plain":
        return Product(function=PLAIN)
    if not isinstance(product, partial) or getattr(linears, product.func.__name__, None) is not product.func:
        raise ValueError(f"what computes {family} is no function of tensors alone")
    return Product(function=product.func.__name__, operands=tuple(map(shape_of, product.args)))


def shape_of(tensor: torch.Tensor) -> Shape:
    """Return a tensor's shape."""
    return Shape(size=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def operands_of(module: nn.Module, family: linears.Family) -> dict[str, torch.Tensor]:
    """Return all tensors that a step of a family may read, by the names that they have in a graph."""
    found = dict(_named(module))
    for name, layer in module.named_modules():
        if isinstance(layer, linears.Linear) and isinstance(product := layer.products[family], partial):
            found |= {f"{name}.{_operand(number)}": operand for number, operand in enumerate(product.args)}
    return {f"module.{name}": tensor for name, tensor in found.items()}


def _named(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def layers_of(module: nn.Module) -> list[linears.Linear]:
    """Return the linear layers of a module, in an order that its structure gives."""
    return [layer for layer in module.modules() if isinstance(layer, linears.Linear)]


ALL_ATTENTION_FUNCTIONS.register(NAME, traced_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, traced_mask)
