"""The adapters of one model: rows of one forward have different ones, or none.

The base's layers compute all rows together; then each adapter adds its low-rank product to those rows that have it, as
one small matrix product for each adapter and layer. Such products are padded to a number of rows at which none of them
depends on its company, which is found out at each load as it is for the base's own layers (``kernels``): so rows are
the same, to the bit, alone and beside any others. Without an adapter in force a layer is what it was.

Sources: Chen et al., "Punica: Multi-Tenant LoRA Serving", 2023, and Sheng et al., "S-LoRA: Serving Thousands of
Concurrent LoRA Adapters", 2023: one batch of the base for all, gathered products for the adapters. Unlike theirs these
products are no kernel of their own: adapters that run together are few, and layers are many times as large.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn
from torch.nn import functional

from mlzoo.adapter_facts import AdapterFacts
from mlzoo.errors import InvalidParams
from mlzoo.inference import adapter_files, kernels
from mlzoo.inference.linears import InForce, Linear, packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlzoo.inference.adapter_files import Adapter
    from mlzoo.inference.linears import Family
    from mlzoo.inference.selftest import Findings

PIECE = (
    128  # tokens that are computed at once: a chunk of a prompt, so that two that are read as one stay what they were
)


@attrs.frozen(eq=False)
class Product:
    """What an adapter adds to one layer, by the kernels that were chosen for it."""

    down: Callable[[torch.Tensor], torch.Tensor]
    up: Callable[[torch.Tensor], torch.Tensor]
    scale: float


class Adapters:
    """What a model can be beside itself.

    Args:
        adapters: By their names; they fit the model.
        device: Where the model is.
        chunk: Tokens of a prompt that are computed at once, so that several chunks that are read as one stay what they
            were.
    """

    def __init__(self, adapters: Mapping[str, Adapter], device: torch.device, chunk: int) -> None:
        self._parts = {name: dict(adapter.parts) for name, adapter in adapters.items()}  # until they are installed
        self._facts = {name: _facts_of(adapter) for name, adapter in adapters.items()}
        self._device, self._chunk = device, chunk
        self._rows: dict[str, torch.Tensor] = {}  # of the forward in progress: adapter -> the places of its rows
        self._family: Family = "plain"
        self._grain = 1
        self.keeps_apart = False  # whether a row is the same in any company, and for any number of threads

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._facts)

    def expect(self, name: str, model: str) -> None:
        """See that an adapter is there, if one is named: it may have gone since an earlier life of the sidecar.

        Raises:
            InvalidParams: It is not.
        """
        if name and name not in self._facts:
            expected = f"one of {', '.join(self._facts)}" if self._facts else "none"
            raise InvalidParams(f"{model} has no such adapter: expected {expected}", path="adapter", expected=expected)

    def digest(self, name: str) -> str:
        """Return what tells an adapter from others, and from what it was; nothing for none."""
        return self._facts[name].digest if name else ""

    def facts(self, fingerprint: str) -> tuple[AdapterFacts, ...]:
        """Return what is told of each; fingerprint is that of the model without them."""
        return tuple(
            attrs.evolve(facts, fingerprint=self._fingerprint(fingerprint, facts)) for facts in self._facts.values()
        )

    def try_out(self, rows: int, findings: Findings, *, any_threads: bool) -> str:
        """Choose the kernels by which rows are kept apart; return what is the case, as a sentence for people.

        Args:
            rows: That decode together at most.
            findings: Of earlier loads.
            any_threads: Whether the base's rows are the same for any number of threads, so that it may change.
        """
        shapes = sorted({tuple(matrix.shape) for matrix in self._matrices()})
        named = ", ".join(f"{outputs}x{inputs}" for outputs, inputs in shapes)
        families: tuple[Family, ...] = ("plain", "packed") if self._device.type == "cpu" else ("plain",)
        for family in families:
            find = partial(self._grain_of, family, shapes, rows, any_threads=any_threads)
            grain = findings.ask(f"grain of {rows} rows in {family} adapters of {named}", find)
            if grain is not None:
                self._family, self._grain, self.keeps_apart = family, grain, True
                break
        told = f"adapters: {', '.join(self._facts)}; rows that have one step by themselves, without compiled steps"
        return told if self.keeps_apart else f"{told}, and their last bits may depend on their company"

    def install(self, module: nn.Module) -> None:
        """Have the layers of a model ask for adapters from now on."""
        by_layer: dict[str, dict[str, Product]] = {}
        while self._parts:  # One after the other, as what a product is made of may be another copy.
            name, parts = self._parts.popitem()
            for layer, part in parts.items():
                product = Product(self._product(part.down), self._product(part.up), part.scale)
                by_layer.setdefault(layer, {})[name] = product
        for layer, products in by_layer.items():
            module.get_submodule(layer).register_forward_hook(partial(self._after, products))

    @contextlib.contextmanager
    def during(self, rows: Sequence[str]) -> Iterator[None]:
        """Let the layers know which adapter each row of a forward has; one that all have is that of all there is."""
        places: dict[str, list[int]] = {}
        for place, name in enumerate(rows):
            places.setdefault(name, []).append(place)
        self._rows = {name: torch.tensor(own, device=self._device) for name, own in places.items()}
        try:
            yield
        finally:
            self._rows = {}

    def _fingerprint(self, base: str, facts: AdapterFacts) -> str:
        if not base or not self.keeps_apart:
            return ""
        return hashlib.sha256(f"{base} {facts.digest} {self._family} {self._grain}".encode()).hexdigest()

    def _matrices(self) -> Iterator[torch.Tensor]:
        for parts in self._parts.values():
            for part in parts.values():
                yield from (part.down, part.up)

    def _grain_of(
        self, family: Family, shapes: Sequence[tuple[int, ...]], rows: int, *, any_threads: bool
    ) -> int | None:
        """Return the number of rows that a family's products are padded to a multiple of; None: none is enough."""
        probes = nn.ModuleList()
        for outputs, inputs in shapes:
            plain = nn.Linear(inputs, outputs, bias=False, device=self._device, dtype=torch.float32)
            probes.append(Linear([plain], InForce(family)))
        try:
            grain = kernels.row_grain(probes, rows)
            is_kept = grain is not None and (not any_threads or kernels.layers_take_any_threads(probes, rows))
        except (RuntimeError, AttributeError):
            return None  # This machine has no such kernel.
        return grain if is_kept else None

    def _product(self, matrix: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return packed(matrix) if self._family == "packed" else partial(_plain, matrix)

    def _after(
        self, products: Mapping[str, Product], _layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> torch.Tensor | None:
        """Return a layer's output with what the adapters of its rows add; None where no row has one."""
        if not self._rows:
            return None
        (x,) = given
        changed: torch.Tensor | None = None
        for name, places in self._rows.items():
            product = products.get(name)
            if product is None:
                continue
            if len(self._rows) == 1:
                return _sum(out, self._low_rank(x, product))
            changed = out.clone() if changed is None else changed
            changed[places] = _sum(out[places], self._low_rank(x[places], product))
        return changed

    def _low_rank(self, x: torch.Tensor, product: Product) -> torch.Tensor:
        """Return what an adapter adds, ``[..., outputs]``, in 32 bits as peft computes it."""
        lines = x.reshape(-1, x.shape[-1]).float()
        added = [self._piece(lines[at : at + self._chunk], product) for at in range(0, len(lines), self._chunk)]
        whole = added[0] if len(added) == 1 else torch.cat(added)
        return whole.view(*x.shape[:-1], -1)

    def _piece(self, lines: torch.Tensor, product: Product) -> torch.Tensor:
        padding = -len(lines) % self._grain
        padded = functional.pad(lines, (0, 0, 0, padding)) if padding else lines
        return product.up(product.down(padded))[: len(lines)] * product.scale


def _facts_of(adapter: Adapter) -> AdapterFacts:
    return AdapterFacts(
        name=adapter.name,
        digest=adapter.digest,
        rank=adapter.rank,
        targets=adapter.targets,
        size_bytes=adapter.size_bytes,
    )


def _plain(matrix: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    return functional.linear(lines, matrix)


def _sum(out: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    return (out + added).to(out.dtype)


def read(model: str, sources: Mapping[str, str], module: nn.Module, device: torch.device, chunk: int) -> Adapters:
    """Read a model's adapters from their directories, by their names.

    Raises:
        ModelLoadFailed: One is no adapter, or not for this model.
    """
    found = {name: adapter_files.read(model, name, Path(path), module, device) for name, path in sources.items()}
    return Adapters(found, device, chunk)
