"""From a directory of weights to a model that can serve: config.json, *.safetensors, a tokenizer.

Knows transformers' loading and this package's parts; nothing of requests or the wire. Never downloads, never unpickles.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from transformers import AutoConfig, AutoTokenizer

from mlzoo.errors import ModelLoadFailed, OutOfMemory
from mlzoo.inference import (
    anatomy,
    captured,
    gate,
    gpu_int4,
    graphs,
    images,
    kernels,
    linears,
    memory,
    native,
    plan,
    selftest,
    sizing,
    speculation,
    threads,
    weights,
)
from mlzoo.inference.constraint import Constraints
from mlzoo.inference.decoder import Decoder, SerialDecoder, SlotDecoder
from mlzoo.inference.text import Text, end_tokens
from mlzoo.inference.tool_forms import ToolForm, tool_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlzoo.frames import Load

    OnProgress = Callable[[str, int, int, str], None]  # stage, done, total, unit

CHUNK = 64  # tokens of a prompt that are read while rows decode, before they have their turn
JOINED = 4  # chunks that are read as one while none does
MEMORY_SLACK = 1.1  # what loading needs, times the size of the weights


@attrs.frozen(eq=False)
class ChatModel:
    """A causal language model, ready to serve."""

    name: str
    decoder: Decoder
    text: Text
    constraints: Constraints
    tool_form: ToolForm | str  # how calls of tools are written; in words why none are
    end_tokens: frozenset[int]
    vocabulary: int  # width of the logits
    device: torch.device
    dtype: torch.dtype
    architecture: str
    joined_chunks: int  # chunks of a prompt that may be read as one
    prefix_bytes: int  # that copies of what was read before may take
    memory_bytes: int
    fingerprint: str  # of all that an answer's bits depend on; empty: they depend on more than can be told
    why: tuple[str, ...]

    @property
    def batching(self) -> Literal["slots", "serial"]:
        """How rows share forwards: slots or serial."""
        return "serial" if isinstance(self.decoder, SerialDecoder) else "slots"


@attrs.frozen(eq=False)
class Arrangement:
    """How a model is to run on this machine."""

    decoder: Decoder
    why: list[str]
    joined_chunks: int = 1  # of a prompt that may be read as one
    prefix_bytes: int = 0  # that copies of what was read before may take
    rows: dict[str, Any] | None = None  # how they are computed; None: their bits depend on their company


@attrs.frozen(eq=False)
class Weights:
    """A model's module and tokenizer, straight from its directory."""

    module: Any
    tokenizer: Any
    dtype: torch.dtype
    why: str


def silent(_stage: str, _done: int, _total: int, _unit: str) -> None:
    """Progress that nobody watches."""


def load_chat(
    load: Load, device: torch.device, progress: OnProgress = silent, *, cache: Path | None = None
) -> ChatModel:
    """Load a causal language model.

    Args:
        load: What to load.
        device: Where to.
        progress: Hears how far it is.
        cache: The directory in which the findings of self-tests are kept; None: nowhere.

    Raises:
        ModelLoadFailed: What is in the directory is no model, or does not fit together.
        OutOfMemory: It does not fit on the device.
    """
    before = memory.used_bytes(device)
    found = read(load, device, images.kind_of(load), progress)
    progress("check", 0, 1, "checks")
    lacking = _own_kernels(load, device, found.dtype, cache)
    subject = selftest.subject(load, device, found.dtype, own_kernels=not lacking)
    findings = selftest.Findings(cache if load.digest else None, subject)
    arranged = _arrange(found, load, device, findings, own_kernels=not lacking)
    decoder = arranged.decoder
    if not findings.keep():
        del found, arranged, decoder
        memory.give_back(device)
        return load_chat(load, device, progress, cache=cache)
    if findings.asked_anew:
        memory.give_back(device)  # What was only made to be measured is not the model's.
    is_gpu = device.type == "cuda"
    compiled = captured.offer(decoder, load) if is_gpu else graphs.offer(decoder, load, cache, subject)
    progress("check", 1, 1, "checks")
    module = found.module
    ends, vocabulary = end_tokens(module, found.tokenizer), anatomy.vocabulary(module)
    calls = tool_form(found.tokenizer)
    return ChatModel(
        name=load.model,
        decoder=decoder,
        text=Text(found.tokenizer, load.model, images.eyes_of(load)),
        constraints=Constraints(found.tokenizer, load.model, vocabulary, ends),
        tool_form=calls,
        end_tokens=ends,
        vocabulary=vocabulary,
        device=device,
        dtype=found.dtype,
        architecture=type(module).__name__,
        joined_chunks=arranged.joined_chunks,
        prefix_bytes=arranged.prefix_bytes,
        memory_bytes=max(memory.used_bytes(device) - before, 0),
        fingerprint=selftest.fingerprint(subject, arranged.rows) if load.digest and arranged.rows is not None else "",
        why=(
            found.why,
            *arranged.why,
            calls if isinstance(calls, str) else calls.why,
            f"kernels of our own: {f'none, {lacking}' if lacking else 'at hand'}",
            compiled,
            *(() if findings.asked_anew else ("its self-test was passed at an earlier load",)),
        ),
    )


def read(load: Load, device: torch.device, kind: Any, progress: OnProgress, attention: str = "eager") -> Weights:
    """Read module and tokenizer; ``kind`` is the class of transformers that makes the module."""
    directory = Path(load.path)
    size = weights.verify(directory)
    dtype, why = sizing.choose_dtype(load.dtype, device)
    expect_room(size, device)
    options = {"local_files_only": True, "trust_remote_code": load.trust_remote_code}
    progress("tokenizer", 0, 1, "files")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **options)
        progress("weights", 0, size, "bytes")
        config = AutoConfig.from_pretrained(directory, **options)
        module, report = kind.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **options,
        )
        module = module.eval().to(device)
    except Exception as error:
        # Loading runs a library over files of strangers: it raises what it likes, and all of it means the same.
        if memory.is_out_of_memory(error):
            raise OutOfMemory(f"{load.model} does not fit on {device}", device=str(device), needed=size) from error
        raise ModelLoadFailed(f"{load.model} could not be loaded: {error}", model=load.model) from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelLoadFailed(
            f"the weights of {load.model} lack {len(missing)} tensors, {missing[0]} for one", model=load.model
        )
    progress("weights", size, size, "bytes")
    return Weights(module, tokenizer, dtype, why)


def expect_room(size_bytes: int, device: torch.device) -> None:
    """Raise OutOfMemory, with what is needed and what is free, where weights cannot fit."""
    free = memory.free_bytes(device)
    needed = int(size_bytes * MEMORY_SLACK)
    if needed > free:
        raise OutOfMemory(
            f"{device} has {free} bytes free, the model needs about {needed}",
            device=str(device),
            needed=needed,
            free=free,
        )


def _own_kernels(load: Load, device: torch.device, dtype: torch.dtype, cache: Path | None) -> str:
    """Have our own kernels at hand, where a model can use them; return why not, or nothing."""
    if load.compile == "none":
        return "switched off"
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "they are for bfloat16 on a processor"
    return native.offer(cache)


def _arrange(
    found: Weights, load: Load, device: torch.device, findings: selftest.Findings, *, own_kernels: bool
) -> Arrangement:
    """Choose between slots and one row at a time."""
    module = found.module
    reason = images.SEES if images.sees(load) else gate.objection(module)
    if reason is None:
        difference = findings.ask("difference in slots", lambda: gate.disagreement(module, anatomy.vocabulary(module)))
        if difference > gate.tolerance(found.dtype):
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
    if device.type == "cpu" and torch.get_num_threads() > 1:
        decoder.any_threads = heads is not None and findings.ask(
            f"any number of threads for {size.slots} rows",
            lambda: _takes_any_threads(module, chosen, heads, size.slots, queries or 1),
        )
        if decoder.any_threads:
            decoder.few_threads = findings.ask("threads for few rows", lambda: threads.fewest(decoder))
            why.append(
                f"{decoder.few_threads} threads for eager steps of up to {threads.FEW_ROWS} rows: enough to be fast"
            )
        else:
            why.append("always all threads: fewer would change last bits")
    rows_are = {
        "context": decoder.context,
        "chunk": decoder.chunk,
        "joined": joins,
        "grains": [grain, queries],
        "families": None if chosen is None else [chosen.plan.many, chosen.plan.exact],
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
    question = "difference of its kernels"
    expected = None if findings.knows(question) else gate.sample_logits(module, anatomy.vocabulary(module))
    replaced = linears.replace(module)
    chosen = plan.choose(module, replaced, rows, load.quantization, findings, own=own)
    # 4 bits that were asked for round as they do; what comes by itself must not.
    families = () if load.quantization == "int4" else chosen.plan.families()
    if findings.ask(question, lambda: _difference(module, chosen, families, expected)) <= gate.tolerance(module.dtype):
        return chosen
    replaced.undo()
    return None


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
    why = [f"serial, one request at a time: {reason}", size.why]
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
