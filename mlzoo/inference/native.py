"""Kernels of our own (``native.cpp``), reached as operators of torch: compiled once by this machine's C++ compiler.

Where there is none, or it fails, they are those that came with the package, if a wheel for this machine was installed:
of the same bits, but unknown to compiled steps. Knows files and torch's registry of operators; nothing of models, nor
of who chooses a kernel. Whatever goes wrong leaves the kernels that torch has, and is said. Two operators:

    w4a16: products of rows with weights in 4 or 8 bits, the rows in 16: integer products, as llama.cpp's quantised
        kernels compute them (ggml's Q4_1 by Q8_1), in groups of 32, but with rows more precise than bfloat16. A row
        is rounded by itself, and added up in an order of its own, so that its result is the same in every company.
    slot_attention: from one query for each head of each row to the keys and values of its slot, where they lie.

Both take rows in bfloat16 or in 32 bits, and return them so.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from mlzoo import graph_notes
from mlzoo.inference import native_options

LACKING = "this processor has neither AVX2 nor AVX-512 with VNNI"
GROUP = 32  # weights, and numbers of a row, that share a step
WIDTH = 16  # outputs that are computed together
LOGITS_BITS = 8  # of the weights of logits, whose products are not rounded to 16 bits
MOST_GROUPS = 8  # heads of queries that share keys, in slot_attention
DIMS = range(16, 129, 16)  # of a head, in slot_attention
ROWS = (torch.bfloat16, torch.float32)  # what rows may come in
SHIMS = {  # what compiled steps call, by operator: torch's interface for those of others
    "w4a16": "int32_t aoti_torch_cpu_w4a16(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)",
    "slot_attention": "int32_t aoti_torch_cpu_slot_attention(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, "
    "AtenTensorHandle, AtenTensorHandle, double, AtenTensorHandle*)",
}


class _State:
    """The library of this process, once it was looked for."""

    library: ctypes.CDLL | None = None
    not_made: str = ""  # why it is not one that was compiled here
    asked: tuple[Path, str] | None = None  # where it was looked for, and why there is none


def offer(directory: Path | None) -> str:
    """Have the kernels ready, compiling them where nobody has; return why there are none, or nothing.

    Args:
        directory: Where they are kept; None: nowhere, so that there are none.
    """
    if directory is None:
        return "nothing is kept where this model is loaded"
    if _State.library is not None:
        return ""
    if _State.asked is None or _State.asked[0] != directory:
        _State.asked = directory, _opened(directory)
    return _State.asked[1]


def is_there() -> bool:
    """Whether this process has the kernels."""
    return _State.library is not None


def unknown_to_steps() -> str:
    """Return why compiled steps do not find the kernels, or nothing: those of a wheel were made without torch."""
    if _State.library is None or all(hasattr(_State.library, f"aoti_torch_cpu_{name}") for name in SHIMS):
        return ""
    return f"the kernels that came with the package are not made for them, and none are made here: {_State.not_made}"


def _opened(directory: Path) -> str:
    """Load the library; return why that cannot be."""
    if not native_options.is_for_this_system():
        return "they are for Linux on x86-64"
    try:
        processor = _processor()
        name = native_options.best_for(processor.split())
        if name is None:
            return LACKING
    except OSError as error:
        return f"nobody can say what this processor is ({error})"
    try:
        place, _State.not_made = _made_here(directory, name, processor)
        why = _State.not_made or _loaded(place)
    except OSError as error:
        why = f"they cannot be made ({error})"
    prebuilt = native_options.PREBUILT / f"{name}.so"
    if why and prebuilt.exists():
        _State.not_made = why
        why = _loaded(prebuilt)
    return why


def _loaded(place: Path) -> str:
    """Have a library be that of this process; return why it cannot be."""
    try:
        library = ctypes.CDLL(str(place), mode=ctypes.RTLD_GLOBAL)  # Compiled steps look for its names.
        if not library.mlzoo_supported():
            return LACKING
    except (OSError, AttributeError) as error:
        return f"they cannot be loaded ({error})"
    _State.library = library
    return ""


def _made_here(directory: Path, name: str, processor: str) -> tuple[Path, str]:
    """Return the library that was compiled on this machine, and why there is none, or nothing.

    Raises:
        OSError: The directory cannot be written.
    """
    # Who compiled it changes no bit: a library is taken up where there is no compiler any more.
    sources = [file.read_text(encoding="utf-8") for file in sorted(native_options.SOURCE.parent.glob("native*.[ch]*"))]
    options = [*native_options.OPTIONS, *native_options.INSTRUCTIONS[name][1]]
    key = repr([*sources, *options, torch.__version__, processor])
    place = directory / f"native-{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    return place, "" if _is_whole(place) else _made(place, name)


def _is_whole(place: Path) -> bool:
    """Whether a library is there as it was made: one that is cut ends the process that loads it."""
    note = graph_notes.read(place.with_suffix(".made"))
    return place.exists() and hashlib.sha256(place.read_bytes()).hexdigest() == note.get("sha256")


def _made(place: Path, name: str) -> str:
    """Make a library; return why that cannot be. A compiler that has failed three times in a row is not asked again."""
    command, failures = native_options.compiler(), place.with_suffix(".failed")
    if command is None:
        return "this machine has no C++ compiler"
    before = graph_notes.read(failures)
    times = int(before.get("times", 0)) + 1
    if times > graph_notes.TRIES:
        return f"{before.get('why')} (remove {failures} to have it asked again)"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _compile(command, place, name)
    except subprocess.TimeoutExpired:
        why = "the C++ compiler took too long"
    except subprocess.CalledProcessError as error:
        why = f"the C++ compiler failed ({(error.stderr or b'').decode(errors='replace').strip()[-200:]})"
    else:
        failures.unlink(missing_ok=True)
        return ""
    graph_notes.write(failures, {"why": why, "times": times})
    return why


def _compile(command: str, place: Path, name: str) -> None:
    """Compile into a place, whole or not at all: only what the note beside it describes is ever loaded."""
    libraries = Path(torch.__file__).with_name("lib")
    # By its name, what a process that was killed leaves is removed by later ones.
    with tempfile.TemporaryDirectory(prefix=f"graph-{os.getpid()}-", dir=place.parent) as scratch:
        beside = Path(scratch) / "native.so"
        native_options.compile_for(name, command, beside, [f"-L{libraries}", "-ltorch_cpu"])
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        beside.replace(place)
    graph_notes.write(place.with_suffix(".made"), {"sha256": digest})


def _processor() -> str:
    """Return what tells processors apart: a library that was made on another machine is another."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    return "\n".join(line for line in described.splitlines() if line.startswith(("model name", "flags")))


def order(steps: torch.Tensor, size: torch.Tensor, least: torch.Tensor, bits: int) -> torch.Tensor:
    """Return weights in the order in which ``w4a16`` reads them, ``[outputs / 16, groups, bytes]``.

    Args:
        steps: Above the least weight of each group, ``[outputs, inputs]`` of uint8.
        size: Of a step, ``[outputs, groups]`` of float16.
        least: Weight of each group, ``[outputs, groups]`` of float16.
        bits: 4 or 8, of each step.
    """
    outputs, inputs = steps.shape
    tiles, groups = outputs // WIDTH, inputs // GROUP
    fours = steps.view(tiles, WIDTH, groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
    if bits == 4:
        fours = fours[:, :, : GROUP // 8] | (fours[:, :, GROUP // 8 :] << 4)
    scales = torch.stack([size, least]).view(2, tiles, WIDTH, groups).permute(1, 3, 0, 2).contiguous()
    parts = [fours.reshape(tiles, groups, -1), scales.view(torch.uint8).view(tiles, groups, -1)]
    return torch.cat(parts, -1).contiguous()


def _w4a16(ordered: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    assert _State.library is not None
    x = x.contiguous()
    rows, inputs = x.shape
    if x.dtype not in ROWS or inputs != ordered.shape[1] * GROUP:
        raise RuntimeError(f"rows of {inputs} numbers of {x.dtype} are not what these weights are for")
    outputs, bits = ordered.shape[0] * WIDTH, ordered.shape[2] // 64 - 1
    out = _w4a16_shape(ordered, x)
    numbers = rows, inputs, outputs, x.dtype == torch.float32
    _State.library.mlzoo_w4a16(_pointer(ordered), _long(bits), *map(_pointer, (x, out)), *map(_long, numbers))
    return out


def _slot_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first_lines: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    assert _State.library is not None
    if query.dtype not in ROWS or {keys.dtype, values.dtype} != {torch.bfloat16}:
        raise RuntimeError("this kernel attends to keys and values in bfloat16 alone, from queries in that or 32 bits")
    query, first_lines, seen = query.contiguous(), first_lines.contiguous(), seen.contiguous()
    rows, heads, dim = query.shape
    if dim not in DIMS or heads * dim > keys.shape[1] * MOST_GROUPS:
        raise RuntimeError(f"this kernel attends with no {heads} heads of {dim} over lines of {keys.shape[1]}")
    out = query.new_empty(rows, heads * dim)
    numbers = rows, heads, keys.shape[1] // dim, dim, seen.shape[1], query.dtype == torch.float32
    _State.library.mlzoo_attention(
        *map(_pointer, (query, keys, values, first_lines, seen, out)), *map(_long, numbers), ctypes.c_double(scale)
    )
    return out


def _pointer(tensor: torch.Tensor) -> Any:
    return ctypes.c_void_p(tensor.data_ptr())


def _long(number: int) -> Any:
    return ctypes.c_int64(number)


def _w4a16_shape(ordered: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    is_logits = ordered.shape[2] // 64 - 1 == LOGITS_BITS
    return x.new_empty(x.shape[0], ordered.shape[0] * WIDTH, dtype=torch.float32 if is_logits else x.dtype)


def _slot_attention_shape(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[1] * query.shape[2])


def _register() -> torch.library.Library:
    """Give torch the operators; who exports a step needs their shapes alone."""
    registry = torch.library.Library("mlzoo", "DEF")  # type: ignore[no-untyped-call]  # torch has no types for it
    slots = "Tensor query, Tensor keys, Tensor values, Tensor first_lines, Tensor seen, float scale"
    for schema, compute, shape in (
        ("w4a16(Tensor ordered, Tensor x) -> Tensor", _w4a16, _w4a16_shape),
        (f"slot_attention({slots}) -> Tensor", _slot_attention, _slot_attention_shape),
    ):
        name = schema.partition("(")[0]
        registry.define(schema)  # type: ignore[no-untyped-call]
        registry.impl(name, compute, "CPU")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"mlzoo::{name}", shape)
    return registry


_registry = _register()  # What it registers lasts as long as it does.
