"""A model as the engine sees it: prompts are read in chunks into slots, and rows of slots decode one token each.

Knows models, caches and kernels; nothing of requests, sampling or text. Two kinds: ``SlotDecoder`` runs many rows in
one forward; ``SerialDecoder`` (``serial_decoder``) runs one row on the model's own cache, for architectures that slots
do not fit.
"""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from mlzoo.inference import attention, memory, threads
from mlzoo.inference.cache import Run, SlotCache
from mlzoo.inference.rows import Part, Rows, rows_of
from mlzoo.inference.transfer import given

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlzoo.inference.adapters import Adapters
    from mlzoo.inference.lean import LeanStep
    from mlzoo.inference.linears import Family
    from mlzoo.inference.plan import Kernels

NO_IMAGES: Mapping[str, Any] = {}
EXTENT_GRAIN = 64  # Attention sees a multiple of this many tokens, so that shapes repeat.


class Decoder(Protocol):
    """What the engine asks of a model."""

    adapters: Adapters | None  # that its rows can have

    @property
    def slots(self) -> int:
        """Rows that may decode together."""

    @property
    def context(self) -> int:
        """Tokens that a row holds."""

    @property
    def chunk(self) -> int | None:
        """Tokens of a prompt that one forward reads at most; None: it must be read whole."""

    @property
    def grain(self) -> int:
        """Rows that a forward has a multiple of, so that a row's bits do not depend on its company."""

    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        start: int,
        images: Mapping[str, Any] = NO_IMAGES,
        *,
        adapter: str = "",
    ) -> torch.Tensor:
        """Read tokens into a slot from position start on; return the logits after the last one, ``[vocabulary]``.

        images is what a model that sees is given beside the tokens, of a whole prompt.
        """

    @property
    def takes_any_rows(self) -> bool:
        """Whether ``read`` is there, and whatever it or a fast step computes has the same bits in every company."""

    @property
    def steps_digest(self) -> str:
        """What stands for all that such a step computes; empty where there is none."""

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """Read parts of some prompts, in one forward; return the logits after each, ``[parts, vocabulary]``.

        Where ``takes_any_rows``. What a slot gets does not depend on how its prompt is cut into parts.
        """

    def reads_ahead(self, sequences: int, *, exact: bool, adapted: bool = False) -> bool:
        """Whether slots may have several rows in a step of so many sequences, without a change of any row's bits."""

    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        exact: bool = False,
        adapters: Sequence[str] = (),
    ) -> torch.Tensor:
        """Read one token into each of some slots; return the logits after them, ``[rows, vocabulary]``.

        Where ``reads_ahead`` allows it, a slot may have several rows that follow each other, at the positions that do:
        each sees the tokens of those before it.

        With exact a row's bits depend on nothing but its own tokens; without, on how many decode together as well.
        adapters is that of each row; none are given where none has one.
        """

    def forget(self, slot: int, start: int, stop: int) -> None:
        """What a slot has at some positions is broken, and must not reach what follows."""

    def release(self, slot: int, tokens: int, *, dirty: bool) -> None:
        """A slot's row has ended after so many tokens; what a failed one left must not reach the next."""

    def free(self) -> None:
        """Give back the memory of the model, with which nothing is computed any more."""


class Compiled(Protocol):
    """Steps that are not Python's, as far as there are any: compiled (``graphs``), or captured (``captured``)."""

    def decode(
        self,
        family: Family,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        eager: Callable[[], torch.Tensor],
        *,
        exact: bool = False,
    ) -> torch.Tensor:
        """Return the logits after a step of a family: those of eager where there is nothing better, or it is exact."""

    def keeps_apart(self, family: Family) -> bool:
        """Whether a row of such a step is the same among any number of rows, if it is a compiled one."""

    def takes_any_rows(self, family: Family) -> bool:
        """Whether a step takes rows of prompts, too, and none is different for what is beside it."""

    def digest(self, family: Family) -> str:
        """Return what stands for the bits that such a step computes."""

    def read(self, family: Family, rows: Rows, wanted: Sequence[int]) -> torch.Tensor:
        """Return the logits of some rows of a step that takes any, ``[wanted, vocabulary]``."""

    def free(self) -> None:
        """Give back the memory of the model that they compute with, as far as somebody else keeps hold of it."""


class SlotDecoder:
    """Many rows in one forward, each at its own position.

    Where a step is to be exact, a row's result does not depend on its company: linear layers may compute a row
    differently in matrices of different heights, so one family of kernels is kept to, and the number of rows is padded
    to a multiple of ``grain`` (see ``mlzoo.inference.kernels``). There, a prompt is always cut into chunks at
    places that depend on nothing but the prompt.
    """

    def __init__(
        self,
        module: Any,
        slots: int,
        context: int,
        *,
        chunk: int = 64,
        grain: int = 1,
        query_grain: int = 1,
        kernels: Kernels | None = None,
    ) -> None:
        module.set_attn_implementation(attention.NAME)
        for part in module.modules():
            if isinstance(part, PreTrainedModel):
                # It reads the tokens back from the device to say what is no concern here.
                part.warn_if_padding_and_no_attention_mask = _say_nothing
        self.module, self.slots, self.context, self.chunk, self.grain = module, slots, context, chunk, grain
        layers = module.config.get_text_config(decoder=True).num_hidden_layers
        free_bytes = partial(memory.free_bytes, module.device) if module.device.type == "cpu" else None
        self.cache = SlotCache(layers, slots, context, module.dtype, free_bytes)
        self.cache.forward.query_grain = query_grain
        self.kernels = kernels
        self.ahead = False  # whether a slot may have several rows in a step; none of its rows depends on another then
        self.few_threads: int | None = None  # for eager steps of few rows; None: all (see ``mlzoo.inference.threads``)
        self.own_attention = False  # whether compiled and lean steps attend by our own kernel
        self.lean: LeanStep | None = None  # computes the steps of rows without adapters, where it is there
        self.is_wide = False  # whether what runs between layers has 32 bits (see ``mlzoo.inference.wide``)
        self.own_products = False  # whether all linear layers compute by our own kernel, for prompts and for answers
        self.any_threads = False  # whether no bit depends on how many threads compute
        self.graphs: Compiled | None = None  # of fast steps
        self.adapters: Adapters | None = None
        self._device = module.device

    @torch.inference_mode()
    def prefill(
        self,
        slot: int,
        tokens: Sequence[int],
        start: int,
        images: Mapping[str, Any] = NO_IMAGES,
        *,
        adapter: str = "",
    ) -> torch.Tensor:
        """Read tokens into a slot from position start on; return the logits after the last one, ``[vocabulary]``."""
        assert not images, "what sees runs one request at a time"
        self.cache.reserve(slot, start + len(tokens))
        stop = start + len(tokens)
        ids, positions = given([list(tokens), list(range(start, stop))], self._device)[:, None]
        if self.kernels is not None:
            self.kernels.for_prompt()
        lines = (positions + slot * self.context).reshape(-1)
        with with_adapters(self.adapters, (adapter,) if adapter else ()):
            return self._forward(ids, positions, lines, self._runs([slot], [stop]), keep=1)[0, -1]

    @property
    def takes_any_rows(self) -> bool:
        """Whether a compiled step computes everything, with the same bits for a row in every company."""
        plan = None if self.kernels is None else self.kernels.plan
        if plan is None or self.graphs is None or plan.few_rows or plan.many not in plan.apart or not self.own_products:
            return False  # Others choose their kernels by the number of rows, of which some only were tried.
        return self.graphs.takes_any_rows(plan.many)

    @property
    def steps_digest(self) -> str:
        """What stands for all that such a step computes; empty where there is none."""
        if not self.takes_any_rows:
            return ""
        assert self.graphs is not None
        assert self.kernels is not None
        return self.graphs.digest(self.kernels.plan.many)

    @torch.inference_mode()
    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """Read parts of some prompts, in one forward; return the logits after each, ``[parts, vocabulary]``."""
        assert self.graphs is not None
        assert self.kernels is not None
        for part in parts:
            self.cache.reserve(part.slot, part.start + len(part.tokens))
        self.kernels.for_prompt()
        ends = [*accumulate(len(part.tokens) for part in parts)]
        return self.graphs.read(self.kernels.in_force.family, rows_of(parts), [end - 1 for end in ends])

    def reads_ahead(self, sequences: int, *, exact: bool, adapted: bool = False) -> bool:
        """Whether slots may have several rows in a step of so many sequences, without a change of any row's bits."""
        if not self.ahead or (adapted and not (self.adapters and self.adapters.keeps_apart)):
            return False
        if exact:
            return True
        plan = None if self.kernels is None else self.kernels.plan
        family = "plain" if plan is None else plan.decoding(sequences, exact=False)
        kernels_do = self.grain == 1 if plan is None else plan.keeps_apart(sequences)
        return kernels_do and (adapted or self.graphs is None or self.graphs.keeps_apart(family))

    @torch.inference_mode()
    def decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        exact: bool = False,
        adapters: Sequence[str] = (),
    ) -> torch.Tensor:
        """Read one token into each of some slots; return the logits after them, ``[rows, vocabulary]``."""
        for slot, position in zip(slots, positions, strict=True):
            self.cache.reserve(slot, position + 1)
        if self.kernels is not None:
            self.kernels.for_step(len(set(slots)), exact=exact)
        lean = None if adapters else self.lean
        eager = partial(self._eager, slots, tokens, positions, grain=self.grain if exact else 1, lean=lean)
        if adapters:
            with with_adapters(self.adapters, adapters):
                return eager()
        if self.graphs is None:
            return eager()
        family = "plain" if self.kernels is None else self.kernels.in_force.family
        return self.graphs.decode(family, slots, tokens, positions, eager, exact=exact)

    def _eager(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        grain: int,
        lean: LeanStep | None,
    ) -> torch.Tensor:
        """Decode step by step of Python, which a second thread waits for more than it helps where rows are few."""
        is_few = self.few_threads is not None and len(slots) <= threads.FEW_ROWS
        most = torch.get_num_threads()
        with threads.using(min(self.few_threads or most, most) if is_few else most):
            return self._decode(slots, tokens, positions, grain=grain, lean=lean)

    @torch.inference_mode()
    def forget(self, slot: int, start: int, stop: int) -> None:
        """What a slot has at some positions is broken, and must not reach what follows."""
        self.cache.clear(slot, start, stop)

    def release(self, slot: int, tokens: int, *, dirty: bool) -> None:
        """A slot's row has ended after so many tokens; what a failed one left must not reach the next."""
        if dirty:
            self.forget(slot, 0, tokens)

    def free(self) -> None:
        """See ``Decoder``."""
        if self.graphs is not None:
            self.graphs.free()
        self.cache.free()

    def _decode(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        grain: int,
        lean: LeanStep | None = None,
    ) -> torch.Tensor:
        ids, places, index = given([list(tokens), list(positions), list(slots)], self._device)[:, :, None]
        lines = (index * self.context + places).reshape(-1)
        runs = self._runs(slots, [position + 1 for position in positions])
        if lean is None or not self.cache.layers[0].is_initialized:
            return self._forward(ids, places, lines, runs, keep=0, grain=grain)[: len(slots), -1]
        now = self.cache.forward
        now.positions, now.lines, now.runs = places, lines, runs
        ids, places = ids[:, 0], places[:, 0]
        padding = -len(slots) % grain
        if padding:
            ids, places = (functional.pad(column, (0, padding)) for column in (ids, places))
        return lean(ids, places, lines, self.cache)[: len(slots)]

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        lines: torch.Tensor,
        runs: tuple[Run, ...],
        *,
        keep: int,
        grain: int = 1,
    ) -> torch.Tensor:
        now = self.cache.forward
        now.positions, now.lines, now.runs = positions, lines, runs
        padding = -len(ids) % grain
        if padding:
            ids = torch.cat([ids, ids.new_zeros(padding, 1)])
            positions = torch.cat([positions, positions.new_zeros(padding, 1)])
        with attention.during(now):
            output = self.module(
                input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=keep
            )
        logits: torch.Tensor = output.logits
        return logits

    def _runs(self, slots: Sequence[int], lengths: Sequence[int]) -> tuple[Run, ...]:
        """Group rows by what they see: a row's extent depends on its own length alone, as its rounding does."""
        runs: list[Run] = []
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            extent = min(-(-length // EXTENT_GRAIN) * EXTENT_GRAIN, self.context)
            last = runs[-1] if runs else None
            if last is not None and last.extent == extent and _joins(last, slot):
                runs[-1] = Run(slice(last.rows.start, row + 1), slice(last.slots.start, slot + 1), extent)
            else:
                runs.append(Run(slice(row, row + 1), slice(slot, slot + 1), extent))
        return tuple(runs)


def _joins(run: Run, slot: int) -> bool:
    """Return whether a row in a slot goes on with a run: of one slot, or of neighbours."""
    rows, slots = run.rows.stop - run.rows.start, run.slots.stop - run.slots.start
    is_same, is_next = slot == run.slots.start, slot == run.slots.stop
    return bool((slots == 1 and is_same) or (slots == rows and is_next))


def with_adapters(adapters: Adapters | None, rows: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Have the rows of a forward have their adapters, where there are any."""
    if not rows:
        return contextlib.nullcontext()
    assert adapters is not None, "whoever names an adapter knows that there is one"
    return adapters.during(rows)


def _say_nothing(*_: Any) -> None:
    """Stand in the place of a warning."""
