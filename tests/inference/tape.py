"""A recorder on the processor that records as a GPU does: calls and the memory that they had, and no line of Python."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlzoo.inference.recording import CannotRecord

ASKS_THE_DEVICE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Tape(TorchDispatchMode):
    """The calls that were made while it was on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if ASKS_THE_DEVICE & set(func.tags) and not _takes_places(func, args):
            raise CannotRecord(f"{func} waits for the device")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def play(self) -> None:
        """Make all calls again, each on the tensors and into the memory that it had."""
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                # A view, and what was changed in its place, lie there already.
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _takes_places(func, args) -> bool:
    """Whether tensors are picked by numbers of places, which says how many there are, and not by truth values."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return not any(one.dtype in {torch.bool, torch.uint8} for one in args[1] if one is not None)


class TapeRecorder:
    """Records on tapes; counts them."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def record(self, compute):
        """Compute once, then record."""
        compute()
        tape = Tape()
        with tape:
            out = compute()
        self.recorded += 1

        def replay():
            tape.play()
            self.replayed += 1
            return out

        return replay

    def wait(self) -> None:
        """The processor has always done what it was given."""
