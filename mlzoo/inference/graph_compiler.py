"""The process that compiles a graph: ``python -m mlzoo.inference.graph_compiler ORDER``.

Reads an order (JSON), builds the model without weights, has torch trace and compile its step, and puts the library in
its place, whole or not at all. It runs beside the worker, with the least priority there is, and ends with it, or when
its time is over, together with the compiler that it started. Its last line on stderr says what went wrong. Knows
torch's compiler; nothing of requests, nor of who uses what it makes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import cattrs
import orjson

if TYPE_CHECKING:
    from mlzoo.inference.tracing import Step

LOOK_S = 1.0  # between two looks at the parent and the clock
EXAMPLE_ROWS, EXAMPLE_WANTED = (
    3,
    2,
)  # Not 1, nor a number that the model might have somewhere: a compiler takes those to be fixed.
EXAMPLE_EXTENT = 192
MOST_NUMBERS = 4096  # of a constant of the compiler's own; they are few


@attrs.frozen(kw_only=True)
class Order:
    """What to compile, and where to put it."""

    model: str  # the directory of its weights, of which the configuration is read
    dtype: str
    trust_remote_code: bool
    step: Any  # a Step, as JSON has it
    library: str  # the file to make; what belongs to it gets other endings
    parent: int  # the process that this one must not outlive
    timeout_s: float


def main(arguments: list[str]) -> None:
    """Compile what is ordered."""
    order = cattrs.structure(orjson.loads(Path(arguments[0]).read_bytes()), Order)
    if sys.platform != "win32":
        os.nice(19)
    threading.Thread(target=_end_in_time, args=(order,), daemon=True, name="deadline").start()
    library = Path(order.library)
    with tempfile.TemporaryDirectory(prefix=f"graph-{os.getpid()}-", dir=library.parent) as scratch:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["OMP_NUM_THREADS"] = "1"
        path, constants = compiled(order, scratch)
        made = Path(path)
        proxies = made.with_suffix(".json")  # what the library calls by name, where it does
        if proxies.exists():
            proxies.replace(library.with_suffix(".json"))
        else:
            library.with_suffix(".json").unlink(missing_ok=True)
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        made.replace(library)
        note = library.with_suffix(f".{os.getpid()}")
        note.write_bytes(orjson.dumps({"sha256": digest, "constants": constants}))
        note.replace(library.with_suffix(".graph"))


def compiled(order: Order, scratch: str) -> tuple[str, dict[str, Any]]:
    """Return the path of a library that computes a step, and the numbers that it needs beside the model's."""
    import torch  # noqa: PLC0415 - the environment is set first
    from torch._inductor import aot_compile  # noqa: PLC0415 - the public way packs libraries into archives, which are unpacked at each load
    from torch.export import Dim, export  # noqa: PLC0415

    from mlzoo.inference import native  # noqa: PLC0415
    from mlzoo.inference.tracing import Step  # noqa: PLC0415

    step = cattrs.structure(order.step, Step)
    with torch.no_grad():
        traced = build(order, step)
        rows, wanted = Dim("rows", min=1, max=step.rows), Dim("wanted", min=1, max=step.rows)
        extent, seen = Dim("extent", min=2, max=step.context), min(EXAMPLE_EXTENT, step.context - 1)
        whole = torch.zeros(min(EXAMPLE_ROWS, step.rows), 1, dtype=torch.long)
        which = torch.arange(min(EXAMPLE_WANTED, step.rows))
        given = (whole, whole.clone(), whole[:, 0].clone(), torch.zeros(seen, dtype=torch.uint8), which)
        by_row, by_wanted = ({0: rows}, {0: wanted}) if step.rows > 1 else (None, None)
        shapes = (by_row, by_row, by_row, {0: extent}, by_wanted)
        program = export(traced, given, dynamic_shapes=shapes, strict=False)
        options = {
            "aot_inductor.output_path": str(Path(scratch) / "step.so"),
            "aot_inductor.package_constants_in_so": False,  # The worker has the weights.
            "aot_inductor.compile_wrapper_opt_level": "O0",  # It only calls the loops, and is most of the text.
            "always_keep_tensor_constants": True,  # The numbers of placeholders mean nothing.
            "aot_inductor.custom_ops_to_c_shims": {
                getattr(torch.ops.mlzoo, name).default: [shim] for name, shim in native.SHIMS.items()
            },
            "compile_threads": 1,
            "cpp.dynamic_threads": True,  # The worker has more or fewer from step to step.
        }
        constants = _remembered({tensor.data_ptr() for tensor in chain(traced.parameters(), traced.buffers())})
        path = aot_compile(program.module(), given, options=options)
    assert isinstance(path, str)
    return path, constants


def _remembered(known: set[int]) -> dict[str, Any]:
    """Return what will hold the compiler's own constants, by name: dtype and numbers. Libraries come without any.

    Args:
        known: Where the tensors of the model are.
    """
    from torch._inductor.graph import GraphLowering  # noqa: PLC0415

    found: dict[str, Any] = {}
    name_of = GraphLowering.allocate_non_dup_const_name

    def remember(graph: Any, name: str | None, data: Any) -> str:
        given: str = name_of(graph, name, data)
        if data.data_ptr() not in known and data.numel() <= MOST_NUMBERS:
            found[given] = {"dtype": str(data.dtype).removeprefix("torch."), "numbers": data.tolist()}
        return given

    GraphLowering.allocate_non_dup_const_name = remember  # type: ignore[assignment, method-assign]  # nothing else sees them
    return found


def build(order: Order, step: Step) -> Any:
    """Return the step of a model whose weights are memory that nobody has touched."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    from mlzoo.inference import linears, tracing, wide  # noqa: PLC0415

    options = {"local_files_only": True, "trust_remote_code": order.trust_remote_code}
    config = AutoConfig.from_pretrained(order.model, **options)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, order.dtype), attn_implementation="eager"
        ).eval()
        linears.replace(module)
    module = module.to_empty(device="cpu").requires_grad_(requires_grad=False)
    tracing.place(module, step.products)
    if step.is_wide:
        wide.widen(module)
    return tracing.TracedStep(module, step)


def _end_in_time(order: Order) -> None:
    """End this process, and those that it started, when its parent is gone or its time over."""
    ends = time.monotonic() + order.timeout_s
    while time.monotonic() < ends and (sys.platform == "win32" or os.getppid() == order.parent):
        time.sleep(LOOK_S)
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - whatever a compiler raises is said in one line, and means the same
        first = next(iter(str(error).splitlines()), "")
        sys.stderr.write(f"\n{type(error).__name__}: {first}\n")
        sys.exit(1)
