"""A model's linear layers in several kernel families, of which one is in force for each forward.

Knows weights and torch's kernels for them; nothing of requests, rows' owners or how a family is chosen (``kernels``).
Layers that read the same input, as those of query, key and value, become one matrix product.

Families, for processors; on a GPU plain, and int4 by a library (``gpu_int4``):
    plain: torch's own, the weights as they were loaded.
    packed: the same 16-bit numbers in the order in which oneDNN's kernel reads them.
    int4: groups of 32 weights as 4-bit steps between their least and greatest (asymmetric round-to-nearest), which
        moves a quarter of the memory: what a few rows wait for. Weights that come from a 4-bit file lie on such a grid
        already and lose next to nothing; ``int4_error`` says how much others would.
    w4a16: the same 4 bits, and 8 for the logits' weights, by a kernel of our own (``native``) that takes each row
        as whole numbers of 16 bits, in groups as well: integer products take less time, for one row and for many.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs
import torch
from torch import nn
from torch.nn import functional

from mlzoo.inference import gpu_int4, memory, native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Family = Literal["plain", "packed", "int4", "w4a16"]

GROUP = 32  # weights that share a step and a least value
STEPS = 15  # between the least and the greatest of a group, in 4 bits
AT_ONCE = 4096  # outputs whose weights are turned into fewer bits: in between they take several times their memory
HEAD_BITS = 8  # of the weights of logits, which 4 bits would change
PACKED_FOR_ROWS = 16  # oneDNN orders weights for a height; this order serves smaller ones as well
WIDTH_GRAIN = 16  # int4's kernel writes blocks of so many columns
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # read the same input, by transformers' names


@attrs.define(eq=False)
class InForce:
    """The family that all layers of one model compute with now."""

    family: Family = "plain"


class Linear(nn.Module):
    """One or several linear layers over the same input, in the families that were made of them.

    Args:
        layers: Equal in their inputs; their outputs follow each other.
        in_force: Of the model; read at each forward.
        is_head: Whether these are the logits.
    """

    def __init__(self, layers: Sequence[nn.Linear], in_force: InForce, *, is_head: bool = False) -> None:
        super().__init__()
        first = layers[0]
        self.in_features, self.out_features = first.in_features, sum(layer.out_features for layer in layers)
        joined = first.weight.data if len(layers) == 1 else torch.cat([layer.weight.data for layer in layers])
        self.weight: nn.Parameter | None
        self.weight = nn.Parameter(joined, requires_grad=False)
        biases: list[torch.Tensor | None] = [layer.bias for layer in layers]
        self.bias: torch.Tensor | None
        bias = torch.cat([bias.detach() for bias in biases if bias is not None]) if biases[0] is not None else None
        self.register_buffer("bias", bias, persistent=False)
        self.products: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"plain": self._plain}
        self._in_force = in_force
        self.is_head = is_head
        self.is_blocked = is_blocked(self.out_features, self.in_features)
        self.takes_int4 = not is_head and self.is_blocked

    def make(self, family: Family) -> None:
        """Have a family at hand, beside those that are.

        A layer that does not take fewer bits is packed in their stead; plain where nothing can be packed, as on a GPU.

        Raises:
            RuntimeError: This machine has no such kernel. Torch raises other things as well.
        """
        if family in self.products:
            return
        assert self.weight is not None, "the plain weights are what others are made of"
        is_there = "packed" in self.products and not self._bits(family)
        self.products[family] = self.products["packed"] if is_there else self._made(family, self.weight.data)

    def product(self, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what the family in force makes of other weights of this shape."""
        return self._made(self._in_force.family, weight)

    def keep(self, families: Iterable[Family]) -> None:
        """Give the memory of all other families back."""
        self.products = {name: product for name, product in self.products.items() if name in set(families)}
        if "plain" not in self.products:
            self.weight = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[..., outputs]`` for ``[..., inputs]``, in the family that is in force."""
        return self.rows(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[rows, outputs]`` for ``[rows, inputs]``."""
        out = self.products[self._in_force.family](x)
        return out if self.bias is None else out + self.bias

    @property
    def kind(self) -> str:
        """What tells layers of one shape apart that are computed in different ways."""
        return "int4" if self.takes_int4 else "head" if self.is_head else "packed"

    def _bits(self, family: Family) -> int:
        """Return how many bits a weight has in a family of few; 0: it has those that it was loaded with."""
        if family == "w4a16" and self.is_head and self.is_blocked:
            return HEAD_BITS
        return 4 if family in ("int4", "w4a16") and self.takes_int4 else 0

    def _made(self, family: Family, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        bits = self._bits(family)
        if bits:
            return w4a16(weight, bits) if family == "w4a16" else int4(weight)
        if family != "plain" and weight.device.type == "cpu":
            try:
                return packed(weight)
            except RuntimeError as error:
                # A machine may have kernels for fewer bits, and none for numbers of 16 in this order.
                if family == "packed" or memory.is_out_of_memory(error):
                    raise
        return partial(plain_product, weight)

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        return functional.linear(x, self.weight)


class _Shared:
    """What siblings have in common: the product that the first of them computes for all."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear
        self.out: torch.Tensor | None = None


class Sibling(nn.Module):
    """Stands where one of several joined layers stood; the first computes, each takes its columns."""

    def __init__(self, shared: _Shared, place: int, of: int, columns: slice) -> None:
        super().__init__()
        self._shared, self._is_first, self._is_last, self._columns = shared, place == 0, place == of - 1, columns
        if self._is_first:
            self.linear = shared.linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns of this layer, ``[..., outputs]``."""
        shared = self._shared
        if self._is_first:
            shared.out = shared.linear(x)
        assert shared.out is not None
        mine = shared.out[..., self._columns]
        if self._is_last:
            shared.out = None
        return mine


@attrs.frozen(eq=False)
class Replaced:
    """The layers that stand in a model now, and how to have those from before again."""

    layers: list[Linear]
    in_force: InForce
    originals: list[tuple[nn.Module, str, nn.Module]]  # parent, name, layer

    def undo(self) -> None:
        """Put the layers from before back."""
        for parent, name, layer in self.originals:
            setattr(parent, name, layer)


def replace(module: nn.Module) -> Replaced:
    """Put ``Linear`` in the place of all linear layers, plain as yet."""
    done = Replaced([], InForce(), [])
    head = getattr(module, "get_output_embeddings", _no_head)()
    for parent in list(module.modules()):
        own = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
        done.originals.extend((parent, name, child) for name, child in own.items())
        for names in SIBLINGS:
            siblings = [own[name] for name in names if name in own]
            if len(siblings) == len(names) and _fit(siblings):
                done.layers.append(_join(parent, names, siblings, done.in_force))
                for name in names:
                    del own[name]
        for name, child in own.items():
            done.layers.append(Linear([child], done.in_force, is_head=child is head))
            setattr(parent, name, done.layers[-1])
    return done


def is_blocked(outputs: int, inputs: int) -> bool:
    """Return whether weights of that shape can come in fewer bits."""
    return inputs % GROUP == 0 and outputs % WIDTH_GRAIN == 0


def int4_error(weight: torch.Tensor) -> float:
    """Return the error that 4 bits would bring to weights ``[outputs, inputs]``, relative to their norm."""
    steps, size, least = to_int4(weight)
    groups = weight.float().view(*size.shape, GROUP)
    restored = steps.view_as(groups) * size[..., None] + least[..., None]
    return float((restored - groups).norm() / groups.norm().clamp_min(1e-12))


def plain_product(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the product of rows with weights ``[outputs, inputs]`` as they are."""
    return functional.linear(x, weight)


def packed(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product with weights ``[outputs, inputs]`` in oneDNN's order."""
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)  # noqa: SLF001 - torch's own compiler uses it
    return partial(packed_product, ordered)


def packed_product(ordered: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the product of rows with weights in oneDNN's order."""
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, ordered, None, "none", [], "")  # noqa: SLF001
    return out


def int4(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product with weights ``[outputs, inputs]`` in 4 bits."""
    if weight.device.type == "cuda":
        return gpu_int4.product(weight, GROUP)
    steps, size, least = to_int4(weight)
    # The kernel computes (step - 8) * size + zero.
    scales = torch.stack([size, least + 8 * size], -1).transpose(0, 1).contiguous().to(weight.dtype)
    ordered = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1)  # noqa: SLF001 - no public name as yet
    return partial(int4_product, ordered, scales)


def int4_product(ordered: torch.Tensor, scales: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the product of rows with weights in 4 bits."""
    out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, ordered, GROUP, scales)  # noqa: SLF001
    return out


def w4a16(weight: torch.Tensor, bits: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product with weights ``[outputs, inputs]`` in 4 or 8 bits, of rows in 16.

    Raises:
        RuntimeError: This process has no such kernel.
    """
    if not native.is_there():
        raise RuntimeError("there is no kernel for weights in 4 bits and rows in 16")
    parts = [_in_bits(part, bits) for part in torch.split(weight, AT_ONCE)]
    return partial(w4a16_product, torch.cat(parts))


def _in_bits(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return some outputs' weights as our own kernel reads them."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    least, greatest = torch.aminmax(groups, dim=-1)
    if bits == HEAD_BITS:  # Steps to both sides of 0: the grid of files in 8 bits.
        size = (torch.maximum(greatest, -least) / 127).half()
        least = -128 * size
    else:
        size, least = ((greatest - least) / STEPS).half(), least.half()
    # What the kernel reads is what the steps are counted by.
    counted = groups.sub(least.float()[..., None]).div_(size.float().clamp_min(1e-8)[..., None])
    steps = counted.round_().clamp_(0, (1 << bits) - 1).to(torch.uint8).view(weight.shape)
    return native.order(steps, size, least, bits)


def are_ours(module: nn.Module, family: Family) -> bool:
    """Whether all linear layers of a module compute by our own kernel in a family."""
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)]
    products = [layer.products.get(family) for layer in layers]
    return all(isinstance(one, partial) and one.func is w4a16_product for one in products)


def w4a16_product(ordered: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the product of rows, rounded to 16 bits of each group's, with weights in 4 or 8 bits."""
    out: torch.Tensor = torch.ops.mlzoo.w4a16(ordered, x.contiguous())
    return out


def to_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weights ``[outputs, inputs]`` as steps (int32, 0 to 15), size of a step and least weight of each group."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    least, greatest = torch.aminmax(groups, dim=-1)
    size = ((greatest - least) / STEPS).clamp_min(1e-8)
    steps = groups.sub(least[..., None]).div_(size[..., None]).round_().clamp_(0, STEPS)
    return steps.to(torch.int32).view(weight.shape), size, least


def _no_head() -> None:
    """A model without logits."""


def _fit(siblings: Sequence[nn.Linear]) -> bool:
    first = siblings[0]
    return all(
        layer.in_features == first.in_features
        and (layer.bias is None) == (first.bias is None)
        and layer.weight.dtype == first.weight.dtype
        for layer in siblings
    )


def _join(parent: nn.Module, names: Sequence[str], siblings: Sequence[nn.Linear], in_force: InForce) -> Linear:
    linear = Linear(siblings, in_force)
    shared, at = _Shared(linear), 0
    for place, (name, layer) in enumerate(zip(names, siblings, strict=True)):
        setattr(parent, name, Sibling(shared, place, len(names), slice(at, at + layer.out_features)))
        at += layer.out_features
    return linear
