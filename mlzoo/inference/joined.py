"""A model whose requests share forwards: rows of many are computed together, and each is answered once it is whole.

Embeddings and custom models differ in what a row is, how rows are computed and how an answer is made; that is left to
them. A row that cannot be computed fails its request alone. Knows frames; nothing of sockets or of weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
import torch

from mlzoo.inference.failing import broken
from mlzoo.inference.joining import Joiner

if TYPE_CHECKING:
    from mlzoo.frames import FromWorker
    from mlzoo.inference.joining import Place

Frame = TypeVar("Frame")
Row = TypeVar("Row")

REQUESTS = 64  # of one model that a worker is given together: forwards are full, and max_running has room for others
ROWS_CPU, TOKENS_CPU = 32, 2048  # of one forward: more make none of them sooner, and who comes next wait
PADDING_CPU = 40  # tokens that are computed in the time that it takes to begin a forward
ROWS_ELSEWHERE, TOKENS_ELSEWHERE, PADDING_ELSEWHERE = 256, 16384, 4096
FAILS = (MemoryError, RuntimeError, IndexError, ValueError, TypeError, KeyError)


class NotComputed(ValueError):
    """The model's or the input's fault: numbers came out that are none."""


@attrs.define(eq=False)
class Job(Generic[Frame, Row]):
    """One request: its rows, and what came of them so far."""

    request: str
    frame: Frame
    rows: Sequence[Row]
    outputs: list[Any]
    missing: int
    more: Any = None  # what its answer is made of besides


class Joined(ABC, Generic[Frame, Row]):
    """Runs the requests of one model together. ``submit``, then ``step`` until ``idle``."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cpu":
            self._joiner = Joiner(TOKENS_CPU, ROWS_CPU, PADDING_CPU)
        else:
            self._joiner = Joiner(TOKENS_ELSEWHERE, ROWS_ELSEWHERE, PADDING_ELSEWHERE)
        self._jobs: dict[str, Job[Frame, Row]] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    @abstractmethod
    def submit(self, frame: Frame) -> list[FromWorker]:
        """Take in a request; return what is to be said of it at once: its failure, or an answer to nothing."""

    @abstractmethod
    def _compute(self, rows: Sequence[Row]) -> Sequence[Any]:
        """Return the output of each of some rows, computed together; one that is no number is None."""

    @abstractmethod
    def _answer(self, job: Job[Frame, Row]) -> FromWorker:
        """Return the answer to a request whose rows are all computed."""

    def abandon(self, request: str) -> None:
        """Drop a request: its rows that are not computed yet never are. An unknown one is no error."""
        self._jobs.pop(request, None)
        self._joiner.drop(request)

    def forget(self) -> None:
        """Nothing is kept of what has ended."""

    def free(self) -> None:
        """The memory of its model goes with it."""

    def step(self) -> list[FromWorker]:
        """Compute one forward; return the answers of the requests that are whole by it."""
        places = self._joiner.take()
        if not places:
            return []
        said: list[FromWorker] = []
        try:
            said += self._put(places, self._compute(self._rows_of(places)))
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except FAILS as error:
            said += self._apart(places, error)
        return said

    def _begin(self, request: str, frame: Frame, rows: Sequence[Row], lengths: Sequence[int], **fields: Any) -> None:
        """Have the rows of a request computed; there is at least one."""
        batch = fields.pop("batch", False)
        self._jobs[request] = Job(request, frame, rows, [None] * len(rows), len(rows), **fields)
        self._joiner.add(request, lengths, batch=batch)

    def _rows_of(self, places: Sequence[Place]) -> list[Row]:
        return [self._jobs[place.request].rows[place.row] for place in places]

    def _apart(self, places: Sequence[Place], error: Exception) -> list[FromWorker]:
        """Compute the rows of each request alone, where together they failed, so that the one at fault fails alone."""
        requests = list(dict.fromkeys(place.request for place in places))
        if len(requests) == 1:
            return [self._fail(requests[0], error)]
        said: list[FromWorker] = []
        for request in requests:
            own = [place for place in places if place.request == request]
            try:
                said += self._put(own, self._compute(self._rows_of(own)))
            except torch.AcceleratorError:
                raise
            except FAILS as fault:
                said.append(self._fail(request, fault))
        return said

    def _put(self, places: Sequence[Place], outputs: Sequence[Any]) -> list[FromWorker]:
        said: list[FromWorker] = []
        for place, output in zip(places, outputs, strict=True):
            job = self._jobs.get(place.request)
            if job is None:
                continue  # An earlier row of it has failed.
            if output is None:
                said.append(self._fail(job.request, NotComputed("the model computed NaN or infinite numbers")))
                continue
            job.outputs[place.row] = output
            job.missing -= 1
            if job.missing == 0:
                del self._jobs[job.request]
                said.append(self._told(job))
        return said

    def _told(self, job: Job[Frame, Row]) -> FromWorker:
        """Return the answer of a request; one that cannot be made is that request's failure alone."""
        try:
            return self._answer(job)
        except Exception as error:  # noqa: BLE001 - a head of a user's own raises what it likes
            return broken(job.request, error)

    def _fail(self, request: str, error: Exception) -> FromWorker:
        self.abandon(request)
        return broken(request, error)
