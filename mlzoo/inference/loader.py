"""From a directory of weights to a model that can serve: config.json, *.safetensors, a tokenizer.

Knows transformers' loading and this package's parts; nothing of requests or the wire. Never downloads, never unpickles.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from transformers import AutoConfig, AutoTokenizer

from mlzoo.errors import ModelLoadFailed, OutOfMemory
from mlzoo.inference import (
    adapter_files,
    adapters,
    anatomy,
    captured,
    graphs,
    grids,
    images,
    memory,
    native,
    selftest,
    sizing,
    weights,
)
from mlzoo.inference.adapters import Adapters
from mlzoo.inference.arranging import CHUNK, Arrangement, arrange
from mlzoo.inference.constraint import Constraints
from mlzoo.inference.decoder import Decoder, SlotDecoder
from mlzoo.inference.serial_decoder import SerialDecoder
from mlzoo.inference.text import Text, end_tokens
from mlzoo.inference.tool_forms import ToolForm, tool_form

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlzoo.frames import Load

    OnProgress = Callable[[str, int, int, str], None]  # stage, done, total, unit

IN_STEPS = "exact requests: in compiled steps for all their tokens, as fast ones; those that began eagerly go on so"
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
    known_tokens: int  # that it has embeddings of
    device: torch.device
    dtype: torch.dtype
    architecture: str
    joined_chunks: int  # chunks of a prompt that may be read as one
    prefix_bytes: int  # that copies of what was read before may take
    memory_bytes: int
    fingerprint: str  # of all that an answer's bits depend on in eager steps; empty: on more than can be told
    free_fingerprint: str  # the same, in steps that take any rows; empty: there were none when it was loaded
    chosen: tuple[str, ...]  # what for, and for what reason, for people
    steps: str  # of compiled ones, what was the case when it was loaded, for people
    adapters: Adapters

    @property
    def why(self) -> tuple[str, ...]:
        """What was chosen and for what reason, for people: as it is now."""
        return (*self.chosen, self.steps if self.compiled is None else self.compiled.why())

    @property
    def compiled(self) -> graphs.Graphs | None:
        """Its compiled steps, where it has such as change while it is loaded."""
        found = getattr(self.decoder, "graphs", None)
        return found if isinstance(found, graphs.Graphs) else None

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the ways in which exact requests are computed, the one in which they begin first."""
        return tuple(found for found in (self.free_fingerprint, self.fingerprint) if found)

    @property
    def batching(self) -> Literal["slots", "serial"]:
        """How rows share forwards: slots or serial."""
        return "serial" if isinstance(self.decoder, SerialDecoder) else "slots"


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
    load: Load,
    device: torch.device,
    progress: OnProgress = silent,
    *,
    cache: Path | None = None,
    in_4_bits: bool = True,
) -> ChatModel:
    """Load a causal language model.

    Args:
        load: What to load.
        device: Where to.
        progress: Hears how far it is.
        cache: The directory in which the findings of self-tests are kept; None: nowhere.
        in_4_bits: Whether the dtype may be the one that our own kernels for weights in 4 bits have.

    Raises:
        ModelLoadFailed: What is in the directory is no model, or does not fit together.
        OutOfMemory: It does not fit on the device.
    """
    before = memory.used_bytes(device)
    may = partial(_comes_in_4_bits, load, device, cache) if in_4_bits else sizing.never
    found = read(load, device, images.kind_of(load), progress, in_4_bits=may)
    known = adapters.read(load.model, load.adapters, found.module, device, CHUNK)
    progress("check", 0, 1, "checks")
    lacking = _own_kernels(load, device, found.dtype, cache)
    subject = selftest.subject(load, device, found.dtype, own_kernels=not lacking)
    findings = selftest.Findings(cache if load.digest else None, subject)
    arranged = arrange(found.module, load, device, findings, own_kernels=not lacking)
    decoder = arranged.decoder
    if found.why == sizing.IN_4_BITS and not _computes_by_our_own(decoder):
        del found, arranged, decoder, known
        memory.give_back(device)
        return load_chat(load, device, progress, cache=cache, in_4_bits=False)
    if known:
        _adapt(found, arranged, known, findings)
    if not findings.keep():
        del found, arranged, decoder, known
        memory.give_back(device)
        return load_chat(load, device, progress, cache=cache, in_4_bits=in_4_bits)
    if findings.asked_anew:
        memory.give_back(device)  # What was only made to be measured is not the model's.
    compiled = _compiled(load, decoder, device, cache, subject)
    progress("check", 1, 1, "checks")
    module, calls = found.module, tool_form(found.tokenizer)
    eager, free = _fingerprints(load, decoder, subject, arranged.rows)
    ends, vocabulary = end_tokens(module, found.tokenizer), anatomy.vocabulary(module)
    return ChatModel(
        name=load.model,
        decoder=decoder,
        text=Text(found.tokenizer, load.model, images.eyes_of(load)),
        constraints=Constraints(found.tokenizer, load.model, vocabulary, ends),
        tool_form=calls,
        end_tokens=ends,
        vocabulary=vocabulary,
        known_tokens=anatomy.known_tokens(module),
        device=device,
        dtype=found.dtype,
        architecture=type(module).__name__,
        joined_chunks=arranged.joined_chunks,
        prefix_bytes=arranged.prefix_bytes,
        memory_bytes=max(memory.used_bytes(device) - before, 0),
        fingerprint=eager,
        free_fingerprint=free,
        chosen=_chosen(found, arranged, calls, lacking, findings, in_steps=bool(free)),
        steps=compiled,
        adapters=known,
    )


def _adapt(found: Weights, arranged: Arrangement, known: Adapters, findings: selftest.Findings) -> None:
    """Give a decoder its adapters."""
    decoder = arranged.decoder
    decoder.adapters = known
    any_threads = isinstance(decoder, SlotDecoder) and decoder.any_threads
    arranged.why.append(known.try_out(decoder.slots, findings, any_threads=any_threads))
    known.install(found.module)


def _chosen(
    found: Weights,
    arranged: Arrangement,
    calls: ToolForm | str,
    lacking: str,
    findings: selftest.Findings,
    *,
    in_steps: bool,
) -> tuple[str, ...]:
    return (
        found.why,
        *arranged.why,
        calls if isinstance(calls, str) else calls.why,
        f"kernels of our own: {f'none, {lacking}' if lacking else 'at hand'}",
        *((IN_STEPS,) if in_steps else ()),
        *(() if findings.asked_anew else ("its self-test was passed at an earlier load",)),
    )


def _compiled(
    load: Load, decoder: Decoder, device: torch.device, cache: Path | None, subject: Mapping[str, Any]
) -> str:
    """Give a decoder steps that are not Python's, where there can be some; return what is the case, for people."""
    return captured.offer(decoder, load) if device.type == "cuda" else graphs.offer(decoder, load, cache, subject)


def _fingerprints(
    load: Load, decoder: Decoder, subject: Mapping[str, Any], rows: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return what the bits of exact answers depend on: in eager steps, and in those that take any rows."""
    if not load.digest or rows is None:
        return "", ""
    eager, steps = selftest.fingerprint(subject, rows), decoder.steps_digest
    return eager, selftest.fingerprint(subject, {**rows, "steps": steps}) if steps else ""


def read(
    load: Load,
    device: torch.device,
    kind: Any,
    progress: OnProgress,
    attention: str = "eager",
    in_4_bits: Callable[[], bool] = sizing.never,
) -> Weights:
    """Read module and tokenizer; ``kind`` is the class of transformers that makes the module."""
    directory = Path(load.path)
    size = weights.verify(directory)
    size += sum(adapter_files.size_bytes(Path(path)) for path in load.adapters.values())
    dtype, why = sizing.choose_dtype(load.dtype, device, in_4_bits)
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


def _comes_in_4_bits(load: Load, device: torch.device, cache: Path | None) -> bool:
    """Whether our own kernels will compute with weights in 4 bits, as far as can be told before they are read."""
    if load.quantization == "none" or images.sees(load):
        return False
    is_so = load.quantization == "int4" or grids.lies_on_one(Path(load.path))
    return is_so and not _own_kernels(load, device, torch.bfloat16, cache)


def _computes_by_our_own(decoder: Decoder) -> bool:
    kernels = decoder.kernels if isinstance(decoder, SlotDecoder) else None
    return kernels is not None and "w4a16" in kernels.plan.families()
