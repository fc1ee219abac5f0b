"""Numbers on their way to a device, and back: the processor waits for the device when it reads, and at no other time.

Knows devices and their queues of work; nothing of what the numbers mean. What a GPU is given lies in pinned memory,
from where it fetches it in its turn; a plain copy would have the processor wait until all work before it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def is_here(tensor: torch.Tensor) -> bool:
    """Whether the processor may look at a tensor without waiting for a device."""
    return tensor.device.type == "cpu"


def given(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return numbers, nested as the tensor's shape is, on a device; nobody waits until they are there."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the processor's on a device; nobody waits until it is there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fill(buffer: torch.Tensor, numbers: Sequence[Any]) -> None:
    """Put numbers, nested as the buffer's shape is, into a buffer of a device; nobody waits until they are there."""
    here = torch.tensor(numbers, dtype=buffer.dtype, pin_memory=buffer.device.type == "cuda")
    buffer.copy_(here, non_blocking=True)


def read(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return tensors of one device where the processor can look at them, after one wait for all of them."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.to("cpu") for tensor in tensors]
    here = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return here


def rows_of(whole: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return some rows of a tensor: the tensor itself where those are all of them."""
    if len(rows) == len(whole):
        return whole
    return whole.index_select(0, given(rows, whole.device))
