"""Compiled graphs of steps: made in the background, kept on disk, compared with the eager step before they are used.

A graph is a library that torch's compiler makes of a whole step, one for each family of kernels that fast requests
have. It reads the weights and the slots of the model that is there, so that it takes no memory of its own. Knows
libraries, their files and the process that makes them; nothing of requests. Whatever goes wrong leaves the eager step,
and is said.

The files, whose name is a key of all that a graph depends on, are those of ``mlzoo.graph_notes``.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from mlzoo import graph_notes
from mlzoo.inference import gate, graph_steps, memory, native, native_options
from mlzoo.inference.graph_making import COMMAND, Making
from mlzoo.inference.linears import Family
from mlzoo.inference.rows import Rows, StepsLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from mlzoo.frames import Load
    from mlzoo.inference.decoder import SlotDecoder

AFTER_TOKENS = 512  # that a model has decoded before a graph of it is worth its making
CHECKS = 3  # steps in which a graph computes what the eager step does, before it is used in its stead
GRAIN = 64  # of what rows see, as in the eager step
HEIGHTS = (2, 3, 16, 37, 256)  # rows among which one must be what it is alone, for a graph to keep rows apart
MAKING_BYTES = 2 << 30  # that must be free before one is made, beside as much as the slots may take
FARTHEST = (
    384  # Rows that see more are computed eagerly: its attention is the faster one there, unless ours is at hand.
)
BORDER = 32  # before that, where nothing is read ahead: what is read in one step is computed in one way

State = Literal["wanted", "making", "there", "checking", "used", "refused"]


@attrs.define(eq=False)
class Graph:
    """One family's graph."""

    family: Family
    path: Path
    state: State = "wanted"
    why: str = ""  # it was refused
    failures: int = 0  # of its making, in a row
    library: graph_steps.Library | None = None
    checks: int = 0
    difference: float = 0.0  # of its logits from those of the eager step, the mean of all checks
    took_s: float = math.inf  # a step by the graph, and by eager, at best, as far as they were compared
    eager_s: float = math.inf
    apart: bool = True  # whether a row was the same among any number of rows so far


NOTHING = Rows([0], [0], [0])  # The next request writes over it.


class Graphs:
    """The graphs of one model.

    Args:
        decoder: Of the model.
        load: What was loaded.
        directory: Where graphs are kept.
        subject: All that the machine's numbers depend on, as of ``selftest``.
        command: What compiles, to be given an order.
        after_tokens: That are decoded before one is made.
        say: Hears what became of a graph, for whoever looks after the worker.
        clock: Seconds that pass; a graph that is slower than the eager step is not used.
    """

    def __init__(
        self,
        decoder: SlotDecoder,
        load: Load,
        directory: Path,
        subject: Mapping[str, Any],
        *,
        command: Sequence[str] = COMMAND,
        after_tokens: int = AFTER_TOKENS,
        say: Callable[[str], object] = sys.stderr.write,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        assert decoder.kernels is not None
        plan = decoder.kernels.plan
        self._decoder, self._load, self._command = decoder, load, command
        self._say, self._clock = say, clock
        self._after_tokens, self._decoded = after_tokens, 0
        self._seen = 0  # by the row that saw farthest in the last step
        self.making: Making | None = None  # the compiler that runs now
        self._farthest = decoder.context if decoder.own_attention else FARTHEST
        few: tuple[Family, ...] = (plan.few,) if plan.few_rows else ()
        families: tuple[Family, ...] = few if plan.few_rows >= decoder.slots else (*few, plan.many)
        self.all = {
            family: Graph(family, directory / graph_steps.name_of(decoder, family, subject)) for family in families
        }
        for graph in self.all.values():
            self._look(graph)

    def why(self) -> str:
        """Return what is the case with them, as a sentence for people."""
        said = {
            "used": "in use",
            "checking": "compiled, compared with the eager step before use",
            "there": "compiled, compared with the eager step before use",
            "making": "being compiled, eager until then",
            "wanted": f"compiled in the background once {self._after_tokens} tokens are decoded, eager until then",
        }
        parts = (f"{name}: {said.get(graph.state) or f'none, {graph.why}'}" for name, graph in self.all.items())
        return "compiled graphs, by family of layers, " + "; ".join(parts)

    def watch(self) -> None:
        """See what became of what is being made; otherwise that is seen with the next step."""
        if self.making is not None:
            self._collect(self.making)

    def takes_any_rows(self, family: Family) -> bool:
        """Whether a step in a family takes rows of prompts, too, and none is different for what is beside it."""
        graph = self.all.get(family)
        return graph is not None and graph.state == "used" and graph.apart and self._decoder.own_attention

    def free(self) -> None:
        """See ``Compiled``."""
        for graph in self.all.values():
            if graph.library is not None:
                graph.library.free()

    def digest(self, family: Family) -> str:
        """Return what stands for the bits that a family's graph computes."""
        library = self.all[family].library
        return "" if library is None else library.sha256

    def read(self, family: Family, rows: Rows, wanted: Sequence[int]) -> torch.Tensor:
        """Return the logits of some rows of a step that takes any, ``[wanted, vocabulary]``.

        Raises:
            StepsLost: The graph does not run any more.
        """
        seen = self._run(self.all[family], rows, wanted=wanted)
        if seen is None:
            raise StepsLost(f"the graph that has read until now does not run ({self.all[family].why})")
        return seen

    def keeps_apart(self, family: Family) -> bool:
        """Whether a row of a step in a family is the same among any number of rows, if its graph computes it."""
        graph = self.all.get(family)
        if graph is None or graph.state != "used":
            return True
        is_near = self._farthest < self._decoder.context and self._farthest - BORDER <= self._seen < self._farthest
        return graph.apart and not is_near

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
        """Return the logits after a step, ``[rows, vocabulary]``: of the graph where there is one to be trusted.

        Args:
            family: That is in force.
            slots: Of the rows.
            tokens: Of the rows.
            positions: Of the rows.
            eager: Computes the step without a graph.
            exact: It is eager's logits that are wanted; a graph is only made and compared beside them.
        """
        graph, rows = self.all.get(family), Rows(slots, tokens, positions)
        self._decoded += len(rows.slots)
        self._seen = max(positions) + 1
        if self.making is not None:
            self._collect(self.making)
        if graph is None or graph.state == "refused" or self._seen > self._farthest:
            return eager()
        if graph.state == "wanted":
            self._make(graph)
        if graph.state == "there":
            return self._first(graph, rows, eager)
        if graph.state == "checking":
            return self._check(graph, rows, eager)
        if graph.state != "used" or exact:
            return eager()
        seen = self._run(graph, rows)
        return eager() if seen is None else seen

    def _look(self, graph: Graph) -> None:
        """Take up what an earlier load has left."""
        note = graph_notes.read(graph.path.with_suffix(".graph"))
        if isinstance(note.get("failed"), str):
            graph.failures = int(note.get("times", graph_notes.TRIES))
            if graph.failures >= graph_notes.TRIES:
                self._refuse(graph, f"{note['failed']} (`mlzoo doctor` says how to try again)")
        elif isinstance(note.get("sha256"), str):
            graph.state = "there"

    def _make(self, graph: Graph) -> None:
        """Begin to make a graph, where it is worth it and none is being made."""
        if self.making is None and self._decoded >= self._after_tokens and self._has_room():
            try:
                step = graph_steps.step_of(self._decoder, graph.family)
                self.making = Making.begin(self._command, self._load, self._decoder.module, step, graph.path)
                graph.state = "making"
            except (OSError, ValueError, KeyError) as error:
                self._refuse(graph, str(error))

    def _collect(self, making: Making) -> None:
        """See what became of the graph that is being made, whichever family's step it is that asks."""
        ended = making.ended()
        if ended is None:
            return
        self.making = None
        graph = next(graph for graph in self.all.values() if graph.state == "making")
        if ended:
            graph.failures += 1  # Somebody may have ended it, or memory or the disk was full: later loads try again.
            self._refuse(graph, ended)
            self._keep(graph, graph.failures)
        else:
            graph.state = "wanted"
            self._look(graph)
            if graph.state == "wanted":
                self._refuse(graph, "its compiler has left nothing")

    def _has_room(self) -> bool:
        needed = MAKING_BYTES + self._decoder.cache.size_bytes()
        return memory.free_bytes(self._decoder.module.device) >= needed

    def take_up(self) -> None:
        """Open at once what an earlier process has compared with the eager step, and found to keep rows apart."""
        for graph in self.all.values():
            is_known = graph_notes.read(graph.path.with_suffix(".graph")).get("apart") is True
            if (
                graph.state == "there"
                and is_known
                and self._tried(graph, partial(self._run, graph, NOTHING)) is not None
            ):
                graph.state = "used"

    def _first(self, graph: Graph, rows: Rows, eager: Callable[[], torch.Tensor]) -> torch.Tensor:
        seen = self._tried(graph, lambda: self._check(graph, rows, eager))
        return eager() if seen is None else seen

    def _tried(self, graph: Graph, compute: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """Load a graph and compute with it, both of which may end this process: a later one knows of what it may be.

        None is returned where it is refused, or where another process is at it just now for the first time.
        """
        marker = graph.path.with_suffix(".loading")
        try:
            deaths = graph_notes.begin_trial(marker)
            if deaths is None and not graph_notes.read(graph.path.with_suffix(".graph")).get("apart"):
                return None
            if deaths is None or deaths < graph_notes.TRIES:
                graph.library = graph_steps.opened(graph.path, self._decoder, graph.family)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            self._refuse(graph, f"it cannot be loaded ({_line(error)})", keep=True)
            graph_notes.end_trial(marker)
            return None
        try:
            if graph.library is None:
                self._refuse(graph, f"{deaths} processes in a row ended while they tried this graph", keep=True)
                return None
            graph.state = "checking"
            return compute()
        finally:  # Whatever was raised, this process lives.
            if deaths is not None:
                graph_notes.end_trial(marker)

    def _check(self, graph: Graph, rows: Rows, eager: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the eager step's logits, and compare the graph's with them.

        The eager step is the later one: what the slots hold afterwards is its own.
        """
        began_s = self._clock()
        seen = self._run(graph, rows)
        graph.took_s = min(graph.took_s, self._clock() - began_s)
        alone = self._run(graph, rows.times(1))
        for height in {min(height, graph_steps.most_rows(self._decoder)) for height in HEIGHTS}:
            some = range(height) if height <= self._decoder.slots else (0, height // 2, height - 1)
            among = self._run(graph, rows.times(height), farther=GRAIN, wanted=some)
            if alone is None or among is None or len(among) != len(some) or not bool((among == alone).all()):
                graph.apart = False
        began_s = self._clock()
        expected = eager()
        graph.eager_s = min(graph.eager_s, self._clock() - began_s)
        if seen is None or graph.library is None:
            return expected
        graph.difference += gate.mean_difference(list(expected), list(seen)) / CHECKS
        graph.checks += 1
        if graph.difference > gate.tolerance(self._decoder.module.dtype):
            graph.failures += 1  # Some texts are such that all that rounds goes far apart: later loads try again.
            self._refuse(graph, f"its logits differ by {graph.difference:.2g}")
            self._keep(graph, graph.failures)
            return expected
        if graph.checks == CHECKS and graph.took_s > graph.eager_s:
            self._refuse(graph, "it is not faster")
        elif graph.checks == CHECKS:
            graph.state = "used"
            note = graph_notes.read(graph.path.with_suffix(".graph"))
            if note.get("sha256") == graph.library.sha256:  # Another process may have made another one.
                graph_notes.write(graph.path.with_suffix(".graph"), {**note, "apart": graph.apart})
            self._say(f"{self._load.model}: the graph of a step in {graph.family} is used from now on\n")
        return expected

    def _run(
        self, graph: Graph, rows: Rows, farther: int = 0, wanted: Sequence[int] | None = None
    ) -> torch.Tensor | None:
        """Return a graph's logits, of all rows or of those that are wanted; None where it does not compute them.

        It will not be asked again then.
        """
        if graph.library is None:
            return None
        extent = min(-(-(max(rows.positions) + 1) // GRAIN) * GRAIN + farther, self._decoder.context)
        which = range(len(rows.slots)) if wanted is None else wanted
        try:
            return graph.library(rows, which, extent)
        except (RuntimeError, IndexError) as error:
            # What a library says of itself goes to stderr: whether it lacked memory is seen by what is left.
            if memory.is_out_of_memory(error) or self._decoder.cache.lacks(0):
                raise MemoryError(f"a compiled step lacks memory ({_line(error)})") from error
            self._refuse(graph, f"it does not run ({_line(error)})")
            self._count_failure(graph)
            return None

    def _refuse(self, graph: Graph, why: str, *, keep: bool = False) -> None:
        """Do without a graph from now on; where that is kept, in later loads as well."""
        graph.state, graph.why, graph.library = "refused", why, None
        self._say(f"{self._load.model}: no graph of a step in {graph.family}: {why}\n")
        if keep:
            self._keep(graph, graph_notes.TRIES)

    def _count_failure(self, graph: Graph) -> None:
        """Note that a graph did not run; only after some times later loads do without."""
        place = graph.path.with_suffix(".graph")
        note = graph_notes.read(place)
        failures = int(note.get("failures", 0)) + 1
        if failures >= graph_notes.TRIES:
            self._keep(graph, graph_notes.TRIES)
        elif "sha256" in note:
            graph_notes.write(place, {**note, "failures": failures})

    def _keep(self, graph: Graph, times: int) -> None:
        graph_notes.refuse(graph.path.with_suffix(".graph"), self._load.model, graph.family, graph.why, times)


def offer(decoder: Any, load: Load, directory: Path | None, subject: Mapping[str, Any]) -> str:
    """Give a decoder its graphs, where there can be some; return what is the case, as a sentence for people."""
    kernels = getattr(decoder, "kernels", None)
    if load.compile == "none":
        return "no compiled graphs: switched off"
    if kernels is None:
        return "no compiled graphs: they are for slots on a processor"
    if directory is None or not load.digest:
        return "no compiled graphs: nothing is remembered of weights whose digest is not known"
    graph_notes.sweep(directory)
    try:
        made = Graphs(decoder, load, directory, subject)
    except ValueError as error:  # A layer of a kind that nobody has taught to compile.
        return f"no compiled graphs: {error}"
    if not native_options.compiler() and not any(graph.state == "there" for graph in made.all.values()):
        return "no compiled graphs: this machine has no C++ compiler"
    if (why := native.unknown_to_steps()) and (decoder.own_attention or "w4a16" in kernels.plan.families()):
        return f"no compiled graphs: {why}"
    decoder.graphs = made
    if any(graph.state == "there" for graph in made.all.values()):
        with contextlib.suppress(MemoryError):  # They are tried again with the first request, which may find some.
            decoder.prefill(0, [0], 0)  # There are slots to be read once something was.
            made.take_up()
    return made.why()


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
