"""How a model is to run on this machine: rows in slots or one at a time, with which kernels, in how much memory.

Knows a model's module and what was asked for; asks the self-tests, and says why it is as it is. Nothing of files,
tokenizers or requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import (
    anatomy,
    gate,
    gpu_int4,
    images,
    kernels,
    lean,
    linears,
    memory,
    plan,
    selftest,
    sizing,
    speculation,
    threads,
    wide,
)
from mlzoo.inference.decoder import Decoder, SlotDecoder
from mlzoo.inference.serial_decoder import SerialDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Load

CHUNK = 64  # tokens of a prompt that are read while rows decode, before they have their turn
JOINED = 4  # chunks that are read as one while none does


@attrs.frozen(eq=False)
class Arrangement:
    """How a model is to run on this machine."""

    decoder: Decoder
    why: list[str]
    joined_chunks: int = 1  # of a prompt that may be read as one
    prefix_bytes: int = 0  # that copies of what was read before may take
    rows: dict[str, Any] | None = None  # how they are computed; None: their bits depend on their company


def arrange(
    module: Any, load: Load, device: torch.device, findings: selftest.Findings, *, own_kernels: bool
) -> Arrangement:
    """Choose between slots and one row at a time.

    Raises:
        ModelLoadFailed: 4 bits were asked for, and cannot be had.
        OutOfMemory: Not even one short row fits.
    """
    reason = images.SEES if images.sees(load) else gate.objection(module)
    if reason is None:
        difference = findings.ask("difference in slots", lambda: gate.disagreement(module, anatomy.vocabulary(module)))
        if difference > gate.tolerance(module.dtype):
            reason = f"its logits in slots differ by {difference:.2g}"
    if reason is not None:
        return _serial(module, load, device, findings, reason)
    return _slots(module, load, device, findings, own_kernels=own_kernels)


def _slots(
    module: Any, load: Load, device: torch.device, findings: selftest.Findings, *, own_kernels: bool
) -> Arrangement:
    token_bytes = anatomy.token_bytes(module)
    size = sizing.choose_size(load.slots, load.context, sizing.longest(module), token_bytes, memory.free_bytes(device))
    heads, like = anatomy.heads(module), next(module.parameters())
    why = [f"slots: {size.slots} rows in one forward", size.why]
    chosen = _kernels(module, load, device, size.slots, findings, own=own_kernels)
    if chosen is None:
        grain = findings.ask(f"grain of {size.slots} rows", lambda: kernels.row_grain(module, size.slots))
        why.append("linear layers: torch's own")
    else:
        grain = chosen.plan.grain if chosen.plan.exact is not None else None
        why += chosen.why
        chosen.for_prompt()
    is_wide = chosen is not None and _widened(module, chosen, findings, why)
    queries = heads and findings.ask(
        f"grain of {size.slots} rows' queries", lambda: kernels.query_grain(heads, size.slots, like)
    )
    if grain is None or queries is None:
        grain = None
        why.append("a row's last bits may depend on its company: no padding helps on this machine")
    elif grain > 1:
        why.append(f"rows of exact requests padded to multiples of {grain}, so that no result depends on its company")
    if anatomy.has_experts(module):
        why.append("a row's last bits may depend on its company: experts are computed over all rows that chose them")
    joins = heads is not None and findings.ask(
        f"joins {JOINED} chunks of {CHUNK}", lambda: kernels.joins_chunks(module, CHUNK, JOINED, heads, queries or 1)
    )
    decoder = SlotDecoder(
        module, size.slots, size.context, chunk=CHUNK, grain=grain or 1, query_grain=queries or 1, kernels=chosen
    )
    decoder.own_attention = own_kernels and anatomy.attends_plainly(module)
    kernels_are = f"{'wide' if is_wide else 'narrow'} {'plain' if chosen is None else chosen.plan.many}"
    if decoder.own_attention:
        kernels_are += " own attention"
    decoder.is_wide = is_wide
    decoder.lean = _lean(module, device, findings, why, kernels_are, own_attention=decoder.own_attention)
    decoder.own_products = chosen is not None and linears.are_ours(module, chosen.plan.many)
    if device.type == "cpu" and torch.get_num_threads() > 1:
        decoder.any_threads = heads is not None and findings.ask(
            f"any number of threads for {size.slots} rows",
            lambda: _takes_any_threads(module, chosen, heads, size.slots, queries or 1),
        )
        why.append(_threads(decoder, findings))
    rows_are = {
        "context": decoder.context,
        "chunk": decoder.chunk,
        "joined": joins,
        "grains": [grain, queries],
        "families": None if chosen is None else [chosen.plan.many, chosen.plan.exact],
        "wide": is_wide,
        "lean": decoder.lean is not None and kernels_are,
    }
    is_exact = grain is not None and not anatomy.has_experts(module)
    decoder.ahead = load.speculation and is_exact
    why.append(_speculation(load, decoder, is_exact=is_exact))
    prefix_bytes, prefix_why = sizing.choose_prefixes(size, token_bytes, memory.free_bytes(device))
    return Arrangement(
        decoder,
        [*why, prefix_why],
        joined_chunks=JOINED if joins else 1,
        prefix_bytes=prefix_bytes,
        rows=rows_are if is_exact else None,
    )


def _threads(decoder: SlotDecoder, findings: selftest.Findings) -> str:
    if not decoder.any_threads:
        return "always all threads: fewer would change last bits"
    decoder.few_threads = findings.ask("threads for few rows", lambda: threads.fewest(decoder))
    return f"{decoder.few_threads} threads for eager steps of up to {threads.FEW_ROWS} rows: enough to be fast"


def refuse_int4(load: Load, why: str) -> None:
    """Refuse 4 bits where they were asked for, and cannot be had.

    Raises:
        ModelLoadFailed: They were.
    """
    if load.quantization == "int4":
        message = f"{load.model} cannot have 4-bit weights: {why}; set quantization to none, or leave it out"
        raise ModelLoadFailed(message, model=load.model, reason="load")


def _takes_any_threads(module: Any, chosen: plan.Kernels | None, heads: kernels.Heads, rows: int, queries: int) -> bool:
    """Whether no bit of an exact answer depends on how many threads compute it."""
    if not kernels.attention_takes_any_threads(heads, rows, next(module.parameters()), queries):
        return False
    if chosen is None:
        return kernels.layers_take_any_threads(module, rows)
    chosen.for_step(1, exact=True)
    decodes = kernels.layers_take_any_threads(module, rows)
    chosen.for_prompt()
    return decodes and kernels.layers_take_any_threads(module, rows)


def _kernels(
    module: Any, load: Load, device: torch.device, rows: int, findings: selftest.Findings, *, own: bool
) -> plan.Kernels | None:
    """Put other linear layers into a model, on a GPU where that was asked for; None where it keeps its own.

    Raises:
        ModelLoadFailed: 4 bits were asked for, and cannot be had.
    """
    if device.type != "cpu":
        if load.quantization != "int4":
            return None
        gpu_int4.expect(load.model, device, module.dtype)
    question = f"difference of its kernels, for {rows} rows"
    expected = None if findings.knows(question) else gate.sample_logits(module, anatomy.vocabulary(module))
    replaced = linears.replace(module)
    chosen = plan.choose(module, replaced, rows, load.quantization, findings, own=own)
    families = chosen.plan.families()
    difference = findings.ask(question, lambda: _difference(module, chosen, families, expected))
    if load.quantization == "int4":  # Those that were asked for round as they do; what comes by itself must not.
        if difference < gate.WORST:
            return chosen
        refuse_int4(load, "it reaches into its linear layers, which others cannot stand in for")
    if difference <= gate.tolerance(module.dtype):
        return chosen
    replaced.undo()
    return None


def _widened(module: Any, chosen: plan.Kernels, findings: selftest.Findings, why: list[str]) -> bool:
    """Have 32 bits between layers where all products are of our own kernel, which takes them as fast."""
    whole = linears.are_ours(module, chosen.plan.many) and set(chosen.plan.families()) == {chosen.plan.many}
    if not whole or module.dtype != torch.bfloat16 or not wide.can_be(module):
        return False
    question = "difference of 32 bits between layers"
    expected = None if findings.knows(question) else gate.sample_logits(module, anatomy.vocabulary(module))
    undo, in_one_piece = wide.widen(module), wide.activate_in_pieces(module)
    difference = findings.ask(question, lambda: _difference(module, chosen, [chosen.plan.many], expected))
    if difference > gate.tolerance(module.dtype):
        undo()
        in_one_piece()
        return False
    why.append("32 bits between layers: our own kernels take rows so")
    return True


def _lean(
    module: Any,
    device: torch.device,
    findings: selftest.Findings,
    why: list[str],
    kernels_are: str,
    *,
    own_attention: bool,
) -> lean.LeanStep | None:
    """Return the lean step of a model of that kind, on a processor: elsewhere steps are captured."""
    step = lean.step_of(module, own_attention=own_attention) if device.type == "cpu" else None
    if step is None:
        return None

    def difference() -> float:
        prompt_and_steps = [gate.sample_logits(module, anatomy.vocabulary(module), one) for one in (None, step)]
        expected, seen = (logits[1:] for logits in prompt_and_steps)  # Prompts are read by the module itself.
        return max(gate.mean_difference([one], [other]) for one, other in zip(expected, seen, strict=True))

    if findings.ask(f"difference of lean steps, {kernels_are}", difference) > gate.tolerance(module.dtype):
        return None
    why.append("eager steps: in few operations, as of decoders of Llama's kind")
    return step


def _difference(
    module: Any, chosen: plan.Kernels, families: Sequence[linears.Family], expected: Sequence[torch.Tensor] | None
) -> float:
    """Return how far the logits of some families are, at worst, from those of torch's own layers."""
    assert expected is not None
    worst = 0.0
    for family in families:
        chosen.in_force.family = family
        try:
            seen = gate.sample_logits(module, anatomy.vocabulary(module))
        except (RuntimeError, AssertionError, AttributeError, TypeError):
            return gate.WORST  # Some models reach into their layers, or call them in an order of their own.
        worst = max(worst, gate.mean_difference(expected, seen))
    return worst


def _serial(module: Any, load: Load, device: torch.device, findings: selftest.Findings, reason: str) -> Arrangement:
    refuse_int4(load, f"it runs with its own layers, one request at a time: {reason}")
    for implementation in ("sdpa", "eager"):
        try:
            module.set_attn_implementation(implementation)
            break
        except (ValueError, ImportError):
            continue  # Not every architecture has it; eager is what it was loaded with.
    token_bytes = anatomy.token_bytes(module)
    size = sizing.choose_size(1, load.context, sizing.longest(module), token_bytes, memory.free_bytes(device))
    reads = reason != images.SEES and findings.ask(
        f"reads chunks of {gate.CHUNK}", lambda: gate.reads_in_chunks(module, anatomy.vocabulary(module))
    )
    chunk = CHUNK if reads else None
    why = [f"serial, one request at a time: {reason}", size.why, "linear layers: torch's own, none in 4 bits"]
    if chunk is None:
        why.append("prompts are read whole: its cache does not take them in parts")
    why.append("no prefix cache: what its own cache held cannot be taken up again")
    return Arrangement(SerialDecoder(module, size.context, chunk=chunk), why)


def _speculation(load: Load, decoder: SlotDecoder, *, is_exact: bool) -> str:
    if not load.speculation:
        return "no speculation: switched off"
    if not is_exact or decoder.slots == 1:
        return f"no speculation: {'one slot has one row' if is_exact else 'rows depend on each other'}"
    few = range(1, speculation.SEQUENCES + 1)
    who = "all" if all(decoder.reads_ahead(n, exact=False) for n in few) else "exact"
    return f"speculation: for {who} requests, while up to {speculation.SEQUENCES} decode, by what their text repeats"
