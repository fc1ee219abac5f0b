"""What a request's slot holds from the start, and what is kept of it for others; it gives way where memory lacks.

Knows models and requests that run; nothing of when they run, or of what is said of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.memory import is_out_of_memory
from mlzoo.inference.prefixes import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.inference.loader import ChatModel
    from mlzoo.inference.running import Running

FREE = "rows"  # the owner of what was read in steps that take any rows


class Seats:
    """The slots of one model, as those find them who get one."""

    def __init__(self, model: ChatModel) -> None:
        self._adapters, self.prefixes = model.adapters, _prefix_cache(model)

    def take(self, running: Running, slot: int) -> int:
        """Give a request a slot and put into it what is kept of its prompt; return how many tokens that is."""
        running.slot = slot
        if self.prefixes is not None:
            running.restored = self.prefixes.restore(
                slot, running.to_read, exact=running.frame.exact, owner=self._owner(running), free=running.free
            )
        return running.restored.tokens

    def keep(self, row: Running) -> None:
        """Keep what a row's slot holds for others, and for the next turn of its conversation; if it may be kept."""
        if self.prefixes is not None and not (row.frame.ephemeral or row.leaves_nothing):
            owner = self._owner(row)
            self.prefixes.keep(row.slot, row.to_read, row.read, row.restored, owner, free=row.free)

    def clear(self) -> None:
        """Keep nothing of what was kept."""
        if self.prefixes is not None:
            self.prefixes.clear()

    def compute(self, forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return a forward's logits. Where it lacks memory, what is kept of earlier prompts gives way first."""
        while True:
            try:
                return forward()
            except torch.AcceleratorError:
                raise  # The device is in an unknown state: nothing that it computes can be trusted.
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.prefixes is None or not self.prefixes.give_way():
                    raise

    def _owner(self, row: Running) -> str:
        """Return what a row is computed with, beside the model: nothing is taken from what is computed otherwise."""
        return FREE if row.free else self._adapters.digest(row.frame.adapter)


def _prefix_cache(model: ChatModel) -> PrefixCache | None:
    decoder = model.decoder
    if not isinstance(decoder, SlotDecoder) or not model.prefix_bytes:
        return None
    return PrefixCache(decoder.cache, model.prefix_bytes, decoder.chunk, model.device)
