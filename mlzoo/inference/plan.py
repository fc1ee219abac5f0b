"""Which kernels a model computes with: measured once on this machine, by the number of sequences that decode.

Knows families of linear layers (``linears``), a clock, and what was found at earlier loads; nothing of requests. One
family is kept for prompts and for many rows, and beside it one of 4 bits for few rows, where that is faster. Where
weights lose next to nothing by 4 bits, our own may do everything, torch's few rows only; where 4 bits were asked for,
either may do everything, and no family of more bits does anything. ``exact`` requests have one family for all their
tokens, whatever the company: the one that is least behind at one row and at all, among those whose rows do not depend
on each other.
"""

from __future__ import annotations

import math
import sys
import time
from functools import cache, partial
from itertools import product, takewhile
from typing import TYPE_CHECKING, Literal

import attrs
import torch

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import grids, kernels, linears, threads
from mlzoo.inference.linears import Family, InForce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlzoo.inference.linears import Linear, Replaced
    from mlzoo.inference.selftest import Findings

Quantization = Literal["auto", "none", "int4"]
Took = dict[tuple[Family, int], float]  # (family, rows) -> milliseconds of the layers that were measured

FEWER_BITS: tuple[Family, ...] = ("int4", "w4a16")
HEIGHTS = (1, 2, 4, 8, 16)  # rows at which families are measured
PROMPT = 128  # and tokens of a prompt
PROMPTS_SHARE = 1 / 6  # chunks that are read for each step of many rows, where answers are as long as prompts
WORTH = 0.95  # of the other's time, at most, that a second family must take to be kept
WHOLE = 0.75  # of what our own family costs, that the cheapest one must cost less than to be taken in its stead
SAMPLE_BYTES = 64 * 1024 * 1024  # of layers that are measured: more than caches hold
ROUNDING = 0.05  # of a product's norm at most: what a kernel in 16 bits may differ; 0.01 is usual
# Of this thread; where its clock is too coarse (Windows), the time that passes.
OWN_TIME = time.perf_counter if sys.platform == "win32" else time.thread_time
ROUNDS = 5  # in which everybody is measured; the fastest counts, since others use the machine as well
FAR_BEHIND = 2.0  # times as long as the fastest takes: so one is not measured again, once it was so often
SURE_AFTER = 2  # rounds; the first one makes what a library needs


@attrs.frozen
class Plan:
    """The families of a model.

    Attributes:
        many: For prompts, and for more sequences than few_rows.
        few: For up to so many sequences as few_rows.
        few_rows: 0 where all decode in one family.
        exact: For whoever wants the same bits in every company; None: no family gives them.
        grain: Rows that a forward in it has a multiple of.
        apart: In these a row is the same among any number of rows.
    """

    many: Family = "plain"
    few: Family = "int4"
    few_rows: int = 0
    exact: Family | None = None
    grain: int = 1
    apart: tuple[Family, ...] = ()

    def families(self) -> tuple[Family, ...]:
        """Return what must be at hand."""
        return (self.many, *((self.few,) if self.few_rows else ()), *((self.exact,) if self.exact is not None else ()))

    def decoding(self, sequences: int, *, exact: bool) -> Family:
        """Return the family for a step of so many sequences."""
        if exact and self.exact is not None:
            return self.exact
        return self.few if sequences <= self.few_rows else self.many

    def keeps_apart(self, sequences: int) -> bool:
        """Whether a row of a fast step is the same among any number of rows of as many sequences."""
        return self.decoding(sequences, exact=False) in self.apart


@attrs.frozen(eq=False)
class Kernels:
    """The plan of one model, and the switch that puts its families in force."""

    plan: Plan
    in_force: InForce
    why: tuple[str, ...] = ()

    def for_prompt(self) -> None:
        """Compute with what reads prompts."""
        self.in_force.family = self.plan.many

    def for_step(self, sequences: int, *, exact: bool) -> None:
        """Compute with what a step of so many sequences takes."""
        self.in_force.family = self.plan.decoding(sequences, exact=exact)


def choose(
    module: torch.nn.Module,
    replaced: Replaced,
    rows: int,
    quantization: Quantization,
    findings: Findings,
    clock: Callable[[], float] = OWN_TIME,
    *,
    own: bool = False,
) -> Kernels:
    """Measure, choose, and make what was chosen; until then the layers are plain.

    Args:
        module: The model.
        replaced: Its linear layers.
        rows: That may decode together.
        quantization: auto: 4 bits where that is free; int4: everywhere; none: nowhere.
        findings: Of earlier loads.
        clock: Seconds that this thread computes.
        own: Whether kernels of our own may be taken.

    Raises:
        ModelLoadFailed: 4 bits were asked for, and at most half of the layers can have them, or this machine has no
            kernel for them.
    """
    layers = replaced.layers
    like = next(module.parameters())
    if quantization == "int4" and not mark_int4(layers, quantization, findings):
        able_ones = sum(layer.takes_int4 for layer in layers)
        told = f"only {able_ones} of its {len(layers)} linear layers have a shape that 4-bit weights can have"
        raise ModelLoadFailed(f"{told}; set quantization to none, or leave it out", reason="load")
    usable = able(layers, like, quantization, findings, own=own)
    has_fewer_bits = bool(set(FEWER_BITS) & set(usable))
    if quantization == "int4" and not has_fewer_bits:
        raise ModelLoadFailed(
            f"this machine has no kernel for 4-bit weights beside {like.dtype}; set quantization to none", reason="load"
        )
    if has_fewer_bits and not mark_int4(layers, quantization, findings):
        usable = [family for family in usable if family not in FEWER_BITS]
    heights = sorted({min(height, rows) for height in HEIGHTS})
    is_timed = len(usable) > 1 and like.device.type == "cpu"  # Elsewhere nothing is chosen, and other clocks tell time.
    took = _measure(replaced, like, usable, heights, findings, clock) if is_timed else {}
    plan = fitting(usable, took, heights, quantization)
    beyond = () if quantization == "int4" else usable[-1:]
    candidates = dict.fromkeys((*plan.families(), *beyond))
    plan = _with_exact(plan, candidates, module, replaced, rows, took, findings)
    for layer in layers:
        for family in plan.families():
            layer.make(family)
        layer.keep(plan.families())
    share = f"{sum(layer.takes_int4 for layer in layers)} of {len(layers)} linear layers"
    return Kernels(plan, replaced.in_force, tuple(_why(plan, took, heights, quantization, share)))


def fitting(able: Sequence[Family], took: Took, heights: Sequence[int], quantization: Quantization) -> Plan:
    """Return the fastest plan for what was measured; which family is exact is not its business."""
    is_asked = quantization == "int4"
    whole = [family for family in able if (family in FEWER_BITS if is_asked else family != "int4")]
    cost = {family: _cost(family, took, heights) for family in whole} if took else {}
    many = min(whole, key=lambda family: cost[family]) if cost else whole[0]
    # Ours does all by itself where that costs little: a second one would take memory of its own, and its rows do not
    # depend on each other, so that one compiled step computes prompts and answers together.
    if "w4a16" in cost and cost["w4a16"] * WHOLE <= cost[many]:
        many = "w4a16"
    others = [family for family in FEWER_BITS if family in able and family != many]
    if not others:
        return Plan(many=many)
    few = min(others, key=lambda family: took[family, heights[0]])
    faster = takewhile(lambda height: took[few, height] <= WORTH * took[many, height], heights)
    return Plan(many=many, few=few, few_rows=max(faster, default=0))


def _cost(family: Family, took: Took, heights: Sequence[int]) -> float:
    return took[family, heights[-1]] + PROMPTS_SHARE * took[family, PROMPT]


def able(
    layers: Sequence[Linear], like: torch.Tensor, quantization: Quantization, findings: Findings, *, own: bool = False
) -> list[Family]:
    """Return the families that may be looked at, and that this machine has kernels for."""
    candidates = [family for family in _candidates(quantization, like.dtype) if own or family != "w4a16"]
    return [family for family in candidates if _works(family, layers, like, findings)]


def _candidates(quantization: Quantization, dtype: torch.dtype) -> tuple[Family, ...]:
    if quantization == "none" or (quantization == "auto" and dtype == torch.float32):
        return ("plain", "packed")  # Who asks for 32 bits wants them.
    return ("plain", "packed", *FEWER_BITS)


def _works(family: Family, layers: Sequence[Linear], like: torch.Tensor, findings: Findings) -> bool:
    """Whether this machine has a family's kernels, and they compute what plain ones do."""
    if family == "plain":
        return True
    return bool(findings.ask(f"computes {family}", lambda: _computes(family, layers, like)))


def _computes(family: Family, layers: Sequence[Linear], like: torch.Tensor) -> bool:
    layer = next((layer for layer in layers if family not in FEWER_BITS or layer.takes_int4), None)
    if layer is None or layer.weight is None or like.dtype == torch.float16:
        return False
    rows = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        out = _product(family, layer.weight.data)(rows)
    except (RuntimeError, AttributeError):
        return False  # It was built without oneDNN, or for a processor that this kernel is not for.
    expected = rows.float() @ layer.weight.data.float().T
    if family in FEWER_BITS:
        steps, size, least = linears.to_int4(layer.weight.data)
        restored = steps.view(*size.shape, linears.GROUP) * size[..., None] + least[..., None]
        expected = rows.float() @ restored.view(layer.weight.shape).T
    return float((out.float() - expected).norm() / expected.norm().clamp_min(1e-12)) < ROUNDING


def _product(family: Family, weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    if family == "w4a16":
        return linears.w4a16(weight, 4)
    return linears.int4(weight) if family == "int4" else linears.packed(weight)


def mark_int4(layers: Sequence[Linear], quantization: Quantization, findings: Findings) -> bool:
    """Note for each layer whether it comes in 4 bits; return whether enough of them do."""
    if quantization == "auto":
        free = findings.ask("layers that 4 bits cost nothing", lambda: "".join(map(_mark, layers)))
        for layer, mark in zip(layers, free, strict=True):
            layer.takes_int4 = mark == "4"
    return sum(layer.takes_int4 for layer in layers) * 2 > len(layers)


def _mark(layer: Linear) -> str:
    is_free = layer.takes_int4 and layer.weight is not None and linears.int4_error(layer.weight.data) < grids.FREE
    return "4" if is_free else "-"


def _measure(
    replaced: Replaced,
    like: torch.Tensor,
    able: Sequence[Family],
    heights: Sequence[int],
    findings: Findings,
    clock: Callable[[], float],
) -> Took:
    sample: list[Linear] = []
    size_bytes = 0
    for layer in replaced.layers:
        if size_bytes < SAMPLE_BYTES and layer.weight is not None and not layer.is_head:
            sample.append(layer)
            size_bytes += layer.weight.nbytes

    @cache
    def took() -> Took:
        return _rounds(replaced, sample, like, tried, clock)

    tried = [(family, height) for family in able for height in (*heights, PROMPT)]

    def took_by(one: tuple[Family, int]) -> float:
        return took()[one]

    return {one: findings.ask(f"ms of {one[0]} at {one[1]} rows", partial(took_by, one)) for one in tried}


def _rounds(
    replaced: Replaced,
    sample: Sequence[Linear],
    like: torch.Tensor,
    tried: Sequence[tuple[Family, int]],
    clock: Callable[[], float],
) -> Took:
    """Measure everybody in turns, so that a neighbour's busy moment is nobody's alone; the fastest of each counts.

    With one thread, by what it computes and not by what passes: threads wait for each other at each layer, beside a
    busy neighbour fifty times as long as they work.
    """
    took = dict.fromkeys(tried, math.inf)
    widths = {layer.in_features for layer in sample}
    inputs = {height: {width: torch.randn(height, width).to(like) for width in widths} for _, height in tried}
    for layer in sample:
        for family, _ in tried:
            layer.make(family)
    with threads.using(1):
        for number, (family, height) in product(range(ROUNDS), tried):
            if number >= SURE_AFTER and took[family, height] > FAR_BEHIND * _least(took, height):
                continue
            replaced.in_force.family = family
            took[family, height] = min(took[family, height], _pass_s(sample, inputs[height], clock) * 1e3)
    return smoothed(took)


def _least(took: Took, height: int) -> float:
    return min(ms for (_, at), ms in took.items() if at == height)


def smoothed(took: Took) -> Took:
    """Return what was measured, where more rows took less time: that. Fewer are no more work, and were disturbed."""
    return {
        (family, height): min(ms for (other, more), ms in took.items() if other == family and more >= height)
        for family, height in took
    }


@torch.inference_mode()
def _pass_s(layers: Iterable[Linear], inputs: dict[int, torch.Tensor], clock: Callable[[], float]) -> float:
    began = clock()
    for layer in layers:
        layer(inputs[layer.in_features])
    return clock() - began


def _with_exact(
    plan: Plan,
    candidates: Iterable[Family],
    module: torch.nn.Module,
    replaced: Replaced,
    rows: int,
    took: Took,
    findings: Findings,
) -> Plan:
    """Return the plan with the family for exact requests: the one that is least behind what fast ones get."""
    best: tuple[float, Plan] | None = None
    apart: tuple[Family, ...] = ()
    for family in candidates:
        find = partial(_grain, module, replaced, family, rows)
        grain = findings.ask(f"grain of {rows} rows in {family}", find)
        if grain is None:
            continue
        if grain == 1:
            apart = (*apart, family)
        behind = _behind(family, grain, plan, took)
        if best is None or behind < best[0]:
            best = behind, attrs.evolve(plan, exact=family, grain=grain)
    return attrs.evolve(plan if best is None else best[1], apart=apart)


def _grain(module: torch.nn.Module, replaced: Replaced, family: Family, rows: int) -> int | None:
    for layer in replaced.layers:
        layer.make(family)
    replaced.in_force.family = family
    return kernels.row_grain(module, rows)


def _behind(family: Family, grain: int, plan: Plan, took: Took) -> float:
    """Return how many times as long a step takes as the fast one, where that is most."""
    heights = sorted({height for _, height in took if height != PROMPT})
    ends = heights[:1] + heights[-1:]
    padded = {end: next((height for height in heights if height >= max(grain, end)), heights[-1]) for end in ends}
    ratios = [took[family, padded[end]] / took[plan.decoding(end, exact=False), end] for end in ends]
    return max(ratios, default=1.0)


def _why(plan: Plan, took: Took, heights: Sequence[int], quantization: Quantization, in_int4: str) -> Iterable[str]:
    if quantization == "int4":
        yield f"4 bits, as asked for: {in_int4} have them"
    if not took:
        yield f"linear layers: {plan.many}"
        return
    for family in dict.fromkeys(family for family, _ in took):
        measured = ", ".join(f"{took[family, height]:.2g} at {height}" for height in (*heights, PROMPT))
        yield f"linear layers, ms measured by rows, {family}: {measured}"
    bits = "the weights lie on a 4-bit grid" if quantization == "auto" else "4 bits were asked for"
    many = f"{plan.many} ({bits})" if plan.many in FEWER_BITS else plan.many
    if plan.few_rows:
        yield f"linear layers: {plan.few} for up to {plan.few_rows} sequences ({bits}), {many} above and for prompts"
    else:
        yield f"linear layers: {many}"
    if plan.exact is not None:
        yield f"exact requests: {plan.exact} for all their tokens"
