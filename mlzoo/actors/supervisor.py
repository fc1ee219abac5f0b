"""The supervisor: starts children in order, restarts them when they crash, stops them in reverse.

One task, the supervisor's own, makes every decision; the children's tasks only report that they are ready or over.
Each time something has changed it looks at all children and does whatever is due: what is to be stopped, last one
first, one at a time; then what is to be started, first one first. So a crash in the middle of a restart is no special
case. Knows nothing of messages.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import trio

from mlzoo.actors.failures import RestartIntensityExceeded
from mlzoo.actors.runtime import Inbox
from mlzoo.actors.specs import (
    ChildCrashed,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStatus,
    ChildStopped,
    State,
    SupervisorEvent,
    SupervisorSpec,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from mlzoo.actors.specs import AnyChild

LEAST_GRACE_S = 1.0  # what even a child that is cancelled at once has for its cleaning up before others go on


def _ignore(_event: SupervisorEvent) -> None:
    pass


class _Child:
    """A child as it is now."""

    def __init__(self, spec: AnyChild, path: str) -> None:
        self.spec = spec
        self.path = path
        self.state: State = "waiting"
        self.due = -math.inf  # backoff: when to start; stopping: when to cancel
        self.again = False  # alive, and to be stopped and started with its group
        self.was_ready = False
        self.starts = 0
        self.recent: deque[float] = deque()  # times of its own crashes, for the backoff
        self.failure: Exception | None = None
        self.scope = trio.CancelScope()
        self.nested: Supervisor | None = None  # kept after its end, for snapshots
        self.inbox: Inbox[Any] | None = None

    @property
    def alive(self) -> bool:
        """Whether an instance has its task."""
        return self.state in {"starting", "running", "stopping"}

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in {"stopped", "failed"}

    def end_instance(self, error: Exception | None, *, gone: bool) -> None:
        """End what waits for the instance that is over: its asks, its watchers and, if it has gone, its mailbox."""
        if self.inbox is not None:
            self.inbox.end(error)
        if gone:
            _end_for_good(self.spec, error)
        elif isinstance(self.spec, ChildSpec):
            self.spec.mailbox.instance_ended(error, gone=False)


class Supervisor:
    """Runs one SupervisorSpec.

    Args:
        spec: what to run.
        random: where the jitter comes from.
        observe: called with each event, synchronously; what it raises crashes the supervisor.
        path: what stands before the children's names in events and snapshots.
    """

    def __init__(
        self,
        spec: SupervisorSpec,
        *,
        random: Random,
        observe: Callable[[SupervisorEvent], None] = _ignore,
        path: str = "",
    ) -> None:
        self._spec = spec
        self._random = random
        self._observe = observe
        self._children = [_Child(child, path + child.name) for child in spec.children]
        self._restarts: deque[float] = deque()  # times, of all children
        self._changed = trio.Event()
        self._leaving = False
        self._for_good = False
        self._exceeded: RestartIntensityExceeded | None = None

    def snapshot(self) -> tuple[ChildStatus, ...]:
        """Return how each child is, in the order of their start, a nested supervisor before its own children."""
        rows: list[ChildStatus] = []
        for child in self._children:
            depth = child.spec.mailbox.depth if isinstance(child.spec, ChildSpec) else 0
            failure = None if child.failure is None else type(child.failure).__name__
            rows.append(ChildStatus(child.path, child.state, child.restarts, depth, failure))
            if child.nested is not None:
                rows.extend(child.nested.snapshot())
        return tuple(rows)

    def stop(self, *, for_good: bool = True) -> None:
        """Have the children stopped, last one first; ``run`` returns when that is done.

        A stop for good is not weakened by a later one that is not.

        Args:
            for_good: whether their mailboxes close. Otherwise they wait for whoever starts the next instances.
        """
        self._leaving = True
        self._for_good = self._for_good or for_good
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop``; once only. Says that it has started when each child has been ready once.

        Cancelling it cancels all children at once, without the order and the deadlines of ``stop``.

        Raises:
            RestartIntensityExceeded: restarting was given up; the children are stopped.
        """
        try:
            await self.run_instance(task_status.started)
        finally:
            _end_for_good(self._spec, self._exceeded)

    async def run_instance(self, on_ready: Callable[[], None]) -> None:
        """Do as ``run`` does, but leave the children's mailboxes open: what a supervisor runs as a child."""
        ready = False
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                if not self._stop_due(now):
                    if self._leaving:
                        break  # The nursery waits for those that ignore their cancellation.
                    self._start_due(now, nursery)
                    if not ready and all(child.was_ready or child.over for child in self._children):
                        ready = True
                        on_ready()
                due = self._next_due(now)
                if due == math.inf:
                    await self._changed.wait()  # Mostly: a deadline that never comes need not be set.
                else:
                    with trio.move_on_at(due):
                        await self._changed.wait()
                self._changed = trio.Event()
        if self._exceeded is not None:
            raise self._exceeded

    def _stop_due(self, now: float) -> bool:
        """Go on with stopping what is to be stopped; False when there is nothing to wait for."""
        for child in reversed(self._children):
            if not child.alive or not (self._leaving or child.again):
                continue
            if child.state != "stopping":
                child.state = "stopping"
                child.due = now + child.spec.shutdown_s
            if now < child.due:
                self._tell_to_stop(child)
            elif not child.scope.cancel_called:
                child.scope.cancel()
                child.due = now + max(child.spec.shutdown_s, LEAST_GRACE_S)
                self._tell_to_stop(child)  # after the cancellation, so that it cannot end well on the last moment
            elif self._leaving:
                continue  # It ignores its cancellation; those below it must not wait for it.
            return True
        return False

    def _tell_to_stop(self, child: _Child) -> None:
        for_good = self._for_good or child.spec.restart == "temporary"
        if isinstance(child.spec, ChildSpec) and for_good:
            child.spec.mailbox.close()
        if child.inbox is not None:
            child.inbox.stop()
        elif child.nested is not None:
            child.nested.stop(for_good=for_good)

    def _start_due(self, now: float, nursery: trio.Nursery) -> None:
        """Start what may start: each child whose time has come, up to the first that holds back those after it."""
        for child in self._children:
            if child.state in {"waiting", "backoff"} and child.due <= now:
                self._start(child, nursery)
            ready = child.was_ready if self._spec.strategy == "one_for_one" else child.state == "running"
            if not (ready or child.over):
                break

    def _start(self, child: _Child, nursery: trio.Nursery) -> None:
        if isinstance(child.spec, ChildSpec):
            if child.spec.mailbox.closed:  # It ended for good in an earlier life of this supervisor.
                child.state = "stopped"
                return
            child.inbox = Inbox(child.spec.mailbox, partial(self._ready, child))
        else:
            child.nested = Supervisor(child.spec, random=self._random, observe=self._observe, path=f"{child.path}/")
        child.state = "starting"
        child.starts += 1
        child.scope = trio.CancelScope()
        nursery.start_soon(self._live, child, name=child.path)

    def _ready(self, child: _Child) -> None:
        child.was_ready = True
        if child.state == "starting":
            child.state = "running"
            self._observe(ChildStarted(child.path, child.restarts))
        self._changed.set()

    async def _live(self, child: _Child) -> None:
        """Run one instance to its end. What is no Exception (cancellation, KeyboardInterrupt) passes through."""
        error: Exception | None = None
        try:
            with child.scope:
                if child.nested is not None:
                    await child.nested.run_instance(partial(self._ready, child))
                elif isinstance(child.spec, ChildSpec) and child.inbox is not None:
                    await child.spec.actor(child.inbox)
        except Exception as crash:  # noqa: BLE001  Any crash is the supervisor's business: it reports and restarts.
            error = crash
        except BaseException:
            child.end_instance(None, gone=False)
            raise
        self._over(child, error)

    def _over(self, child: _Child, error: Exception | None) -> None:
        """Decide what follows on the end of an instance."""
        in_group, child.again = child.again, False
        child.failure = error or child.failure
        restart = child.spec.restart
        if self._leaving or restart == "temporary" or (error is None and restart == "transient" and not in_group):
            child.state = "stopped" if error is None else "failed"
        elif in_group:
            child.state = "waiting"
            child.due = -math.inf
        else:
            child.state = "backoff"
        finished = child.over and not self._leaving
        child.end_instance(error, gone=finished or self._for_good or restart == "temporary")
        if error is None:
            self._observe(ChildStopped(child.path, child.scope.cancelled_caught))
        else:
            self._observe(ChildCrashed(child.path, error))
        if child.state == "backoff":
            self._plan_restart(child, error)
        self._changed.set()

    def _plan_restart(self, child: _Child, error: Exception | None) -> None:
        now = trio.current_time()
        intensity = self._spec.intensity
        for times in (self._restarts, child.recent):
            times.append(now)
            while times[0] <= now - intensity.within_s:
                times.popleft()
        if len(self._restarts) > intensity.restarts:
            child.state = "failed"
            self._exceeded = RestartIntensityExceeded(
                f"{child.path} failed, after {intensity.restarts} restarts within {intensity.within_s} s"
            )
            self._exceeded.__cause__ = error
            self.stop(for_good=False)
            return
        delay_s = self._delay_s(len(child.recent))
        child.due = now + delay_s
        for other in self._group(child):
            other.again = other.alive
        self._observe(ChildRestarting(child.path, delay_s))

    def _group(self, child: _Child) -> list[_Child]:
        """Return whom the strategy restarts with a child."""
        match self._spec.strategy:
            case "one_for_one":
                return []
            case "one_for_all":
                return [other for other in self._children if other is not child]
            case "rest_for_one":
                return self._children[self._children.index(child) + 1 :]
            case _:
                assert_never(self._spec.strategy)

    def _delay_s(self, attempt: int) -> float:
        backoff = self._spec.backoff
        exponent = min(attempt - 1, 64)  # so that no intensity, however generous, overflows a float
        delay_s = min(backoff.most_s, backoff.first_s * backoff.factor**exponent)
        return delay_s * self._random.uniform(0.5, 1.0)

    def _next_due(self, now: float) -> float:
        """Return when to look again although nothing has changed. What was due by now has been done or held back."""
        dues = (child.due for child in self._children if child.state in {"backoff", "stopping"})
        return min((due for due in dues if due > now), default=math.inf)


def _end_for_good(spec: AnyChild, reason: Exception | None) -> None:
    if isinstance(spec, ChildSpec):
        spec.mailbox.instance_ended(reason, gone=True)
        return
    for child in reversed(spec.children):
        _end_for_good(child, reason)
