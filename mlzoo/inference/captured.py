"""Captured decode steps, for devices that replay what they computed: which there are, and when one is to be trusted.

A step is recorded for a number of rows and an extent that rows see, both rounded up, once it was wanted for some time.
It is compared with the eager step before it is used. Knows steps, shapes and a recorder; nothing of requests or of how
a device records. Whatever goes wrong leaves the eager step, and is said.
"""

from __future__ import annotations

import math
import sys
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch

from mlzoo.inference import gate, memory, sizing
from mlzoo.inference.decoder import EXTENT_GRAIN, SlotDecoder
from mlzoo.inference.gathered import COLUMNS, GatheredStep
from mlzoo.inference.linears import Family
from mlzoo.inference.recording import Computation, CudaRecorder
from mlzoo.inference.rows import StepsLost
from mlzoo.inference.transfer import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlzoo.frames import Load
    from mlzoo.inference.recording import Recorder

# A recording costs about as much as so many eager steps: who waits as long pays at most twice what was best.
AFTER_STEPS = 8
CHECKS = 2  # later steps in which it computes what the eager one does; numbers that were recorded are others by then
MOST = 48  # recordings that are kept

State = Literal["wanted", "checking", "used", "refused"]
Rows = list[tuple[int, int, int]]  # of each its token, where that stands, in which slot


@attrs.frozen
class Shape:
    """What a recording is for."""

    family: Family
    width: int  # rows
    extent: int  # tokens that each sees at most

    def __str__(self) -> str:
        return f"{self.width} rows of up to {self.extent} tokens in {self.family}"


@attrs.define(eq=False)
class Captured:
    """The recording of one shape, or what there is in its stead."""

    shape: Shape
    state: State = "wanted"
    wanted: int = 0  # times
    replay: Computation | None = None
    checks: int = 0
    took_s: float = math.inf  # a step by the recording, and by eager, at best, as far as they were compared
    eager_s: float = math.inf

    def drop(self, state: State) -> None:
        """Forget the recording."""
        self.state, self.replay = state, None
        self.wanted = self.checks = 0
        self.took_s = self.eager_s = math.inf


class CapturedSteps:
    """The captured steps of one model.

    Args:
        decoder: Of the model.
        name: Of the model.
        recorder: Of the device.
        room_bytes: That recordings may take.
        free_bytes: Says what memory may still be had.
        after_steps: In which a shape is wanted before it is recorded.
        say: Hears what became of a recording, for whoever looks after the worker.
        clock: Seconds that pass; a recording that is slower than the eager step is not used.
    """

    def __init__(
        self,
        decoder: SlotDecoder,
        name: str,
        recorder: Recorder,
        room_bytes: int,
        *,
        free_bytes: Callable[[], int],
        after_steps: int = AFTER_STEPS,
        say: Callable[[str], object] = sys.stderr.write,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._decoder, self._name, self._recorder = decoder, name, recorder
        self._room_bytes, self._free_bytes, self._taken_bytes = room_bytes, free_bytes, 0
        self._after_steps, self._say, self._clock = after_steps, say, clock
        self._given = torch.zeros(decoder.slots, COLUMNS, dtype=torch.long, device=decoder.module.device)
        self._mixes: set[Family] = set()  # whose rows came out otherwise than in the eager step
        self.all: OrderedDict[Shape, Captured] = OrderedDict()  # the one that was wanted last is the last
        self.refused = ""  # why there are none any more

    def keeps_apart(self, family: Family) -> bool:
        """Whether a row of a step in a family is the same among any number of rows: whether it is the eager one's."""
        return family not in self._mixes

    def takes_any_rows(self, family: Family) -> bool:  # noqa: ARG002 - the interface's
        """Whether a step takes rows of prompts: what is captured has one shape."""
        return False

    def free(self) -> None:
        """See ``Compiled``: what they read goes with the model."""

    def digest(self, family: Family) -> str:
        """It takes no rows of prompts."""
        raise StepsLost(f"what is captured in {family} takes no rows of prompts")

    def read(self, family: Family, rows: object, wanted: Sequence[int]) -> torch.Tensor:
        """It takes no rows of prompts."""
        raise StepsLost(f"what is captured in {family} takes no rows of prompts: {rows}, {wanted}")

    def decode(
        self,
        family: Family,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        eager: Computation,
        *,
        exact: bool = False,
    ) -> torch.Tensor:
        """Return the logits after a step, ``[rows, vocabulary]``: of a recording where one is to be trusted.

        Args:
            family: That is in force.
            slots: Of the rows.
            tokens: Of the rows.
            positions: Of the rows.
            eager: Computes the step without a recording.
            exact: It is eager's logits that are wanted.
        """
        if self.refused or exact:
            return eager()
        one = self._wanted(Shape(family, self._width(len(slots)), self._extent(max(positions) + 1)))
        rows = list(zip(tokens, positions, slots, strict=True))
        match one.state:
            case "wanted":
                one.wanted += 1
                if one.wanted > self._after_steps:
                    self._record(one, rows)
                return eager()  # It comes last, and what the slots hold is its own.
            case "checking":
                return self._check(one, rows, eager)
            case "used":
                return self._run(one, rows)
            case "refused":
                return eager()

    def _width(self, rows: int) -> int:
        return min(1 << (rows - 1).bit_length(), self._decoder.slots)

    def _extent(self, length: int) -> int:
        return min(max(1 << (length - 1).bit_length(), EXTENT_GRAIN), self._decoder.context)

    def _wanted(self, shape: Shape) -> Captured:
        one = self.all.setdefault(shape, Captured(shape))
        self.all.move_to_end(shape)
        return one

    def _record(self, one: Captured, rows: Rows) -> None:
        self._make_room()
        memory.give_back(self._decoder.module.device)  # What is free now is nobody's cache.
        shape, before_bytes = one.shape, self._free_bytes()
        self._fill(shape.width, rows)
        try:
            one.replay = self._recorder.record(GatheredStep(self._decoder, self._given[: shape.width], shape.extent))
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError, LookupError) as error:
            # Models do what they like in their forward, and all of it means the same.
            if memory.is_out_of_memory(error):
                self._refuse(one, "there is not memory enough")
            else:
                self._refuse_all(f"a step cannot be recorded ({_line(error)})")
            return
        self._taken_bytes += max(before_bytes - self._free_bytes(), 0)
        one.state = "checking"

    def _make_room(self) -> None:
        """Give recordings up where there are too many.

        They share their memory, so that it comes back only when all are gone.
        """
        held = [one for one in self.all.values() if one.replay is not None]
        if self._taken_bytes >= self._room_bytes:
            for one in held:
                one.drop("wanted")
            self._taken_bytes = 0
        elif len(held) >= MOST:
            held[0].drop("wanted")

    def _fill(self, width: int, rows: Rows) -> None:
        """Put rows where a recording reads them; in place of each that is missing, the first, which writes it again."""
        fill(self._given[:width], [*rows, *rows[:1] * (width - len(rows))])

    def _run(self, one: Captured, rows: Rows) -> torch.Tensor:
        assert one.replay is not None
        self._fill(one.shape.width, rows)
        # The next recording computes where this one has left its logits.
        return one.replay()[: len(rows)].clone()

    def _check(self, one: Captured, rows: Rows, eager: Computation) -> torch.Tensor:
        """Return the eager step's logits, and compare the recording's with them."""
        seen, took_s = self._timed(partial(self._run, one, rows))
        expected, eager_s = self._timed(eager)
        one.took_s, one.eager_s = min(one.took_s, took_s), min(one.eager_s, eager_s)
        if not torch.equal(seen, expected):
            self._mixes.add(one.shape.family)
        difference = gate.mean_difference(list(expected), list(seen))
        if difference > gate.tolerance(self._decoder.module.dtype):
            self._refuse_all(f"the logits of {one.shape} differ by {difference:.2g}")
            return expected
        one.checks += 1
        if one.checks == CHECKS and one.took_s > one.eager_s:
            self._refuse(one, "it is not faster")
        elif one.checks == CHECKS:
            one.state = "used"
            self._say(f"{self._name}: a captured step of {one.shape} is used from now on\n")
        return expected

    def _timed(self, compute: Computation) -> tuple[torch.Tensor, float]:
        self._recorder.wait()
        began_s = self._clock()
        out = compute()
        self._recorder.wait()
        return out, self._clock() - began_s

    def _refuse(self, one: Captured, why: str) -> None:
        one.drop("refused")
        self._say(f"{self._name}: no captured step of {one.shape}: {why}\n")

    def _refuse_all(self, why: str) -> None:
        self.refused = why
        self.all.clear()
        self._say(f"{self._name}: no captured steps: {why}\n")


def offer(decoder: Any, load: Load) -> str:
    """Give a decoder on a GPU its captured steps, where there can be some; return what is the case, for people."""
    if load.compile == "none":
        return "no captured steps: switched off"
    if not isinstance(decoder, SlotDecoder):
        return "no captured steps: they are for slots"
    device = decoder.module.device
    free_bytes = partial(memory.free_bytes, device)
    room_bytes, why = sizing.choose_captured(free_bytes())
    if room_bytes:
        decoder.graphs = CapturedSteps(decoder, load.model, CudaRecorder(device), room_bytes, free_bytes=free_bytes)
    return why


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
