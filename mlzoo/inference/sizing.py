"""How a model is fitted to a device: the dtype, the context of a row, the number of rows.

Knows numbers and devices' abilities; nothing of loading. Each choice comes with its reason, for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from mlzoo.errors import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

IN_4_BITS = "dtype bfloat16: there are kernels of our own for weights in 4 bits"
MOST_CONTEXT = 8192  # tokens of a row, where nothing else is asked for
LEAST_CONTEXT = 4096  # rows are given up before the context gets shorter than this
SHORTEST_CONTEXT = 256
CACHE_SHARE = 0.5  # of the memory that is free after the weights
PREFIX_SHARE = 0.1  # likewise: for copies of what was read before
CAPTURED_SHARE = 0.1  # likewise: for captured steps, where there are some
CAPTURED_BYTES = 64 << 20  # below which they are not worth their trouble


def never() -> bool:
    """Answer whether weights come in 4 bits, where nobody has kernels for them."""
    return False


def choose_dtype(asked: str, device: torch.device, in_4_bits: Callable[[], bool] = never) -> tuple[torch.dtype, str]:
    """Return the dtype to compute in, and why.

    bfloat16 halves the memory that each token reads: it wins where the processor multiplies it natively (a decode
    step of a small model on AVX512-BF16: 44 against 58 ms, of 16 rows: 75 against 126), and loses elsewhere, unless
    kernels of our own multiply whole numbers instead.

    Args:
        asked: For; auto: whatever is fastest.
        device: Where.
        in_4_bits: Whether weights come in 4 bits, and kernels of our own compute with them; asked where it matters.
    """
    if asked != "auto":
        return getattr(torch, asked), f"dtype {asked}: asked for"
    if device.type == "mps":
        return torch.float16, "dtype float16: what MPS computes fastest"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "dtype bfloat16: this GPU computes it natively"
        return torch.float16, "dtype float16: this GPU does not compute bfloat16 natively"
    native = [name for name in ("amx_tile", "avx512_bf16") if _processor_has(name)]
    if native:
        return torch.bfloat16, f"dtype bfloat16: this processor computes it natively ({native[0]})"
    if in_4_bits():
        return torch.bfloat16, IN_4_BITS
    return torch.float32, "dtype float32: this processor does not compute bfloat16 natively"


def _processor_has(ability: str) -> bool:
    # torch knows, but says so under private names only; one that a later version lacks means no.
    ask = getattr(torch.cpu, f"_is_{ability}_supported", None)
    return bool(ask is not None and ask())


@attrs.frozen
class Size:
    """How many rows, and how many tokens each holds."""

    slots: int
    context: int
    why: str


def choose_size(slots: int, context: int, longest: int | None, token_bytes: int, free_bytes: int) -> Size:
    """Fit a cache into memory.

    Args:
        slots: Rows that were asked for.
        context: Tokens of a row that were asked for; 0: choose.
        longest: What the model was made for, in tokens; None where it does not say.
        token_bytes: What one token takes in the cache.
        free_bytes: What is free after the weights; the cache gets ``CACHE_SHARE`` of it.

    Raises:
        OutOfMemory: Not even one short row fits.
    """
    budget = int(free_bytes * CACHE_SHARE) // max(token_bytes, 1)
    if context:
        most = context if longest is None else min(context, longest)
        size = Size(min(slots, budget // most), most, "asked for" if most == context else "all the model can")
    else:
        most = MOST_CONTEXT if longest is None else min(MOST_CONTEXT, longest)
        least = min(LEAST_CONTEXT, most)
        fitting = max(1, min(slots, budget // least))
        size = Size(fitting, min(most, budget // fitting), "the model's own" if most == longest else "a sensible bound")
        if size.context < min(SHORTEST_CONTEXT, most):
            size = Size(0, most, "")
    if size.slots < 1:
        raise OutOfMemory(
            f"a row of {size.context} tokens does not fit into memory",
            needed=size.context * token_bytes,
            free=free_bytes,
        )
    reasons = [f"context {size.context}: {size.why}" if size.context == most else f"context {size.context}: memory"]
    if size.slots < slots:
        reasons.append(f"{size.slots} rows instead of {slots}: memory")
    return Size(size.slots, size.context, "; ".join(reasons))


def choose_prefixes(size: Size, token_bytes: int, free_bytes: int) -> tuple[int, str]:
    """Return how many bytes copies of what was read before may take, and why: no more than all rows can hold."""
    tokens = min(int(free_bytes * PREFIX_SHARE) // max(token_bytes, 1), size.slots * size.context)
    room = tokens * token_bytes
    return room, f"prefix cache: what was read before is kept, up to {tokens} tokens ({room} bytes), and not read again"


def choose_captured(free_bytes: int) -> tuple[int, str]:
    """Return how many bytes captured steps may take, 0 for none, and what is the case with them."""
    room = int(free_bytes * CAPTURED_SHARE)
    if room < CAPTURED_BYTES:
        return 0, f"no captured steps: {room} bytes are left for them, and less than {CAPTURED_BYTES} are of no use"
    return room, f"captured steps: of each number of rows once it was wanted a while, in {room} bytes; eager until then"


def longest(module: Any) -> int | None:
    """Return how many tokens a model was made for, by its config; None where that does not say."""
    most = getattr(module.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None
