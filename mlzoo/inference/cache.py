"""Keys and values of all rows of a batch: slots of equal size in one buffer for each layer.

Knows transformers' Cache interface and which rows the forward in progress has; nothing of requests or scheduling.
A model's own forward calls ``update`` and gets views of its rows: any decoder architecture runs on it unchanged.

Layout of a layer: ``[slots * size, heads * dim]``, one line for each token. Lines are zero until written: a masked
position takes part in attention with weight 0, and 0 times whatever lay in uninitialised memory need not be 0.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from mlzoo.inference.memory import drop_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESERVED_LINES = 256  # of a slot that are asked for at once: to ask is a matter of a tenth of a millisecond
SPARED_BYTES = 256 << 20  # of the machine's memory that no slot takes: the sidecar and its host live there too


@attrs.frozen
class Run:
    """Neighbouring rows that see equally far: attention takes them together, without a copy.

    They stand in neighbouring slots, one in each, or all in the same slot.
    """

    rows: slice
    slots: slice  # as many as rows, or one
    extent: int  # tokens of each slot that attention sees


class Forward:
    """What the forward in progress looks like: set by the decoder, read by cache, mask and attention."""

    def __init__(self) -> None:
        self.positions = torch.zeros(0)  # [rows, tokens] of the sequence, without padding rows
        self.lines = torch.zeros(0)  # [rows * tokens] lines of the buffers that are written
        self.runs: tuple[Run, ...] = ()
        self.query_grain = 1  # that a head's queries are padded to a multiple of

    @property
    def rows(self) -> int:
        """Rows that count; what follows them is padding."""
        return int(self.positions.shape[0])

    @property
    def extent(self) -> int:
        """Tokens that the row which sees farthest sees."""
        return max(run.extent for run in self.runs)


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """One layer's keys and values. Buffers come with the first forward, which shows heads and size."""

    is_sliding = False  # Windows are the mask's business: positions say which tokens a row sees.
    is_compileable = True

    def __init__(self, forward: Forward, slots: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.forward, self.slots, self.size, self.kept_in = forward, slots, size, dtype

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the buffers for keys and values of this shape, ``[rows, heads, tokens, dim]``."""
        self.keys = self._zeros(self.slots * self.size, key_states)
        self.values = self._zeros(self.slots * self.size, value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; return all slots, of which attention takes its runs, ``[slots, heads, size, dim]``."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now = self.forward
        keys, values = (states[: now.rows].transpose(1, 2).flatten(0, 1) for states in (key_states, value_states))
        return self.put(now.lines, keys, values)

    def put(self, lines: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values ``[lines, heads, dim]``, where there are buffers; return all slots as ``update``."""
        for buffer, states in ((self.keys, keys), (self.values, values)):
            buffer.index_copy_(0, lines, states.reshape(len(lines), -1).to(buffer.dtype))
        return self._seen(self.keys, keys.shape[1]), self._seen(self.values, values.shape[1])

    def _seen(self, buffer: torch.Tensor, heads: int) -> torch.Tensor:
        return buffer.view(self.slots, self.size, heads, -1).transpose(1, 2)

    def clear(self, slot: int, start: int, stop: int) -> None:
        """Zero some tokens of a slot."""
        if self.is_initialized:
            for buffer in (self.keys, self.values):
                buffer[slot * self.size + start : slot * self.size + stop].zero_()

    def free(self) -> None:
        """Give back the memory of the buffers, whoever still holds them; what they hold is zero then."""
        if self.is_initialized and self.keys.device.type == "cpu":
            for buffer in (self.keys, self.values):
                drop_pages(buffer.data_ptr(), buffer.nbytes)

    def _zeros(self, lines: int, states: torch.Tensor) -> torch.Tensor:
        """Return zeros for lines of keys or values; on the CPU, memory that costs nothing until it is written."""
        width = states.shape[1] * states.shape[3]
        if states.device.type != "cpu":
            return states.new_zeros(lines, width, dtype=self.kept_in)
        # torch.zeros writes its zeros; what the system maps has pages that exist once they are touched.
        return torch.frombuffer(_mapped(lines * width * self.kept_in.itemsize), dtype=self.kept_in).view(lines, width)

    def size_bytes(self) -> int:
        """Return what the buffers hold."""
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - transformers' interface
        """Return length and offset of what attention sees."""
        return self.forward.extent, 0

    def get_seq_length(self) -> int:
        """Return 0: each row has a length of its own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the tokens that a slot holds."""
        return self.size


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """All layers' slots.

    Args:
        layers: Of the model.
        slots: Rows that may run together.
        size: Tokens that each holds.
        dtype: That keys and values are kept in.
        free_bytes: Says what memory may still be had, where buffers take it as they are written: on the CPU. None: they
            have it from the start.
    """

    def __init__(
        self, layers: int, slots: int, size: int, dtype: torch.dtype, free_bytes: Callable[[], int] | None = None
    ) -> None:
        self.forward = Forward()
        self.slots, self.size = slots, size
        self.free_bytes = free_bytes
        self._reserved = [0] * slots  # lines of each slot for which there is memory
        super().__init__(layers=[SlotLayer(self.forward, slots, size, dtype) for _ in range(layers)])

    def reserve(self, slot: int, stop: int) -> None:
        """Make sure that there is memory for a slot's lines up to one, before they are written for the first time.

        The system ends a process that touches memory which nobody has; only whoever asks before can fail alone.

        Raises:
            MemoryError: There is none.
        """
        if stop <= self._reserved[slot]:
            return
        stop = min(-(-stop // RESERVED_LINES) * RESERVED_LINES, self.size)
        needed_bytes = (stop - self._reserved[slot]) * self.line_bytes()
        if self.lacks(needed_bytes):
            raise MemoryError(f"{needed_bytes} bytes for keys and values are not free")
        self._reserved[slot] = stop

    def lacks(self, needed_bytes: int) -> bool:
        """Whether the machine has not so much memory left that it can be taken without harm."""
        return self.free_bytes is not None and self.free_bytes() - needed_bytes < SPARED_BYTES

    def clear(self, slot: int, start: int, stop: int) -> None:
        """Zero some tokens of a slot in all layers: what a broken row left must not reach the next.

        What was never reserved was never written, and to zero it would take the memory that may be lacking.
        """
        stop = min(stop, self._reserved[slot])
        for layer in self.layers:
            layer.clear(slot, start, stop)

    @torch.inference_mode()
    def copy_out(self, slot: int, start: int, stop: int) -> torch.Tensor:
        """Return a copy of some lines of a slot, of all layers' keys and values one after the other."""
        first = slot * self.size
        return torch.cat([buffer[first + start : first + stop].view(-1) for buffer in self._buffers()])

    @torch.inference_mode()
    def copy_in(self, slot: int, copies: Sequence[torch.Tensor]) -> None:
        """Write copies of equally many lines into a slot, one after the other from its first line on."""
        buffers = self._buffers()
        lines = len(copies[0]) // sum(buffer.shape[1] for buffer in buffers)
        parts = [copy.split_with_sizes([lines * buffer.shape[1] for buffer in buffers]) for copy in copies]
        first = slot * self.size
        for buffer, *mine in zip(buffers, *parts, strict=True):
            torch.cat(mine, out=buffer[first : first + lines * len(copies)].view(-1))

    def free(self) -> None:
        """Give back the memory of all layers: nothing is computed with it any more."""
        for layer in self.layers:
            layer.free()

    def line_bytes(self) -> int:
        """Return what one token takes in all layers, once something was written."""
        return sum(buffer.nbytes for buffer in self._buffers()) // (self.slots * self.size)

    def size_bytes(self) -> int:
        """Return what all buffers hold."""
        return sum(layer.size_bytes() for layer in self.layers)

    def _buffers(self) -> list[torch.Tensor]:
        """Return keys and values of each layer that has its own: some share those of another."""
        return [buffer for layer in self.layers if layer.is_initialized for buffer in (layer.keys, layer.values)]


def _mapped(size_bytes: int) -> mmap.mmap:
    """Return zeros that take no memory until they are written, and then no more than a small page for each place.

    Raises:
        MemoryError: The system has not so many addresses.
    """
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(-1, size_bytes)
        else:
            memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size_bytes} bytes of addresses for keys and values are not to be had") from error
    if sys.platform == "linux":
        # Of huge pages, the first token of a slot takes 2 MiB in each layer, and once more for the values: as much as
        # thousands of tokens need, and the time to have it zeroed.
        with suppress(OSError):  # A kernel without huge pages knows no such advice.
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
