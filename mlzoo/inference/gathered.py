"""A decode step as a function of tensors that stay where they are: no number in it is Python's, but its sizes.

Knows a decoder's module and slots; nothing of who records the step, or of requests. The eager step takes neighbouring
slots together, by views that Python chooses anew for each step. Here the keys and values of each row are gathered by an
index that the device computes, as far as the row sees that sees farthest. Mask and attention are those of the eager
step, so that windows, bounds of scores and sinks are as well.
"""

from __future__ import annotations

import attrs
import torch
from transformers.cache_utils import Cache

from mlzoo.inference import attention
from mlzoo.inference.cache import Forward, Run, SlotLayer
from mlzoo.inference.decoder import SlotDecoder

COLUMNS = 3  # of what a step is given for each row: its token, where that stands, in which slot


@attrs.frozen(eq=False)
class GatheredStep:
    """The step of some rows.

    Args:
        decoder: Something must have been read into its slots.
        given: ``[rows, COLUMNS]``; its numbers are read when the step is computed.
        extent: Tokens that each row sees at most.
    """

    decoder: SlotDecoder
    given: torch.Tensor
    extent: int

    def __call__(self) -> torch.Tensor:
        """Write each row's token into its slot; return the logits after them, ``[rows, vocabulary]``."""
        ids, positions, slots = (self.given[:, column : column + 1] for column in range(COLUMNS))
        cache, rows = self.decoder.cache, slice(0, len(self.given))
        now = Forward()
        now.positions, now.lines = positions, (slots * cache.size + positions).reshape(-1)
        now.runs = (Run(rows, rows, self.extent),)
        now.query_grain = cache.forward.query_grain
        seen = (slots * cache.size + torch.arange(self.extent, device=slots.device)).reshape(-1)
        layers = [GatheredLayer(layer, now, seen) for layer in cache.layers]
        with attention.during(now):
            logits: torch.Tensor = self.decoder.module(
                input_ids=ids, position_ids=positions, past_key_values=Cache(layers=layers), use_cache=True
            ).logits
        return logits[:, -1]


class GatheredLayer(SlotLayer):
    """A layer's slots, of which each row of a step gets its own."""

    def __init__(self, layer: SlotLayer, forward: Forward, seen: torch.Tensor) -> None:
        super().__init__(forward, layer.slots, layer.size, layer.kept_in)
        self.keys, self.values, self.is_initialized = layer.keys, layer.values, layer.is_initialized
        self.seen = seen  # [rows * extent] lines of the buffers

    def _seen(self, buffer: torch.Tensor, heads: int) -> torch.Tensor:
        """Return what each row may see, ``[rows, heads, extent, dim]``."""
        lines = buffer.index_select(0, self.seen)
        return lines.view(self.forward.rows, self.forward.extent, heads, -1).transpose(1, 2)
