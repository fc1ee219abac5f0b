"""What a graph of a decoder's step is made of, and the library that was made of it, opened on the decoder's tensors.

Knows decoders and files; nothing of when a graph is made, compared or used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import torch

from mlzoo import graph_notes
from mlzoo.inference import graph_library, tracing
from mlzoo.inference.memory import drop_file_at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.inference.decoder import SlotDecoder
    from mlzoo.inference.linears import Family
    from mlzoo.inference.rows import Rows

MOST_ROWS = 256  # of a step, where our own kernel attends: tokens of prompts are rows as well


def name_of(decoder: SlotDecoder, family: Family, subject: Mapping[str, Any]) -> str:
    """Return the file name of a family's library, which holds a digest of all that it depends on."""
    products = [attrs.asdict(tracing.product_of(layer, family)) for layer in tracing.layers_of(decoder.module)]
    size = [decoder.slots, decoder.context, decoder.is_wide]
    whole = {"subject": subject, "size": size, "products": products}
    digest = hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"graph-{digest[:32]}-{family}.so"


def most_rows(decoder: SlotDecoder) -> int:
    """Return how many rows a step has at most."""
    return max(MOST_ROWS, decoder.slots) if decoder.own_attention else decoder.slots


def step_of(decoder: SlotDecoder, family: Family) -> tracing.Step:
    """Return what a graph of a decoder is made of; something must have been read into its slots."""
    products = [tracing.product_of(layer, family) for layer in tracing.layers_of(decoder.module)]
    caches = [
        (tracing.shape_of(layer.keys), tracing.shape_of(layer.values)) if layer.is_initialized else None
        for layer in decoder.cache.layers
    ]
    return tracing.Step(
        products=tuple(products),
        caches=tuple(caches),
        slots=decoder.slots,
        context=decoder.context,
        rows=most_rows(decoder),
        attention=_attention(decoder, family),
        is_wide=decoder.is_wide,
    )


def _attention(decoder: SlotDecoder, family: Family) -> str:
    if decoder.own_attention:
        return tracing.SLOTS
    plan = None if decoder.kernels is None else decoder.kernels.plan
    return tracing.LIBRARY if plan is not None and not (plan.few_rows and family == plan.few) else tracing.SUMS


def buffers_of(decoder: SlotDecoder) -> dict[str, torch.Tensor]:
    """Return keys and values of a decoder, by the names that they have in a graph."""
    layers = [(place, layer) for place, layer in enumerate(decoder.cache.layers) if layer.is_initialized]
    return {f"{kind}_{place}": getattr(layer, kind) for place, layer in layers for kind in ("keys", "values")}


@attrs.frozen(eq=False)
class Library:
    """A library that computes a step."""

    compiled: graph_library.CompiledLibrary | graph_library.Interpreted
    constants: Mapping[str, torch.Tensor]  # what it reads, which must outlive it
    sha256: str = ""  # of the file

    def free(self) -> None:
        """Give back the memory of what it read, where it keeps hold of that whatever becomes of it."""
        if not self.compiled.keeps_what_it_reads:
            return
        for tensor in self.constants.values():
            storage = tensor.untyped_storage()
            if storage.resizable():
                storage.resize_(0)
            else:  # Of slots, which have been given back, or of a file, most of whose weights were read to be ordered.
                drop_file_at(storage.data_ptr())

    def __call__(self, rows: Rows, wanted: Sequence[int], extent: int) -> torch.Tensor:
        """Return the logits of the wanted rows, ``[wanted, vocabulary]``; none sees more tokens than the extent."""
        tokens, positions, slots, which = map(torch.tensor, (rows.tokens, rows.positions, rows.slots, list(wanted)))
        seen = torch.empty(extent, dtype=torch.uint8)
        return self.compiled.run([tokens[:, None], positions[:, None], slots, seen, which])


def opened(path: Path, decoder: SlotDecoder, family: Family) -> Library:
    """Return the library at a path, which reads the tensors of a decoder.

    Raises:
        ValueError: It is not what was made.
        OSError: It cannot be read, or loaded.
        RuntimeError: It does not fit.
        KeyError: It reads what is not there.
    """
    tensors = tracing.operands_of(decoder.module, family) | buffers_of(decoder)
    note = graph_notes.read(path.with_suffix(".graph"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != note.get("sha256"):
        raise ValueError("the file is damaged")
    compiled = graph_library.load(path)
    names = compiled.constants()
    its_own = {
        name: torch.tensor(one["numbers"], dtype=getattr(torch, one["dtype"]))
        for name, one in note["constants"].items()
    }
    constants = {constant: tensors[name] if name in tensors else its_own[constant] for constant, name in names.items()}
    compiled.read(constants)
    return Library(compiled, constants, sha256)
