"""A story that fails, told shorter: lives, hosts, actions and faults are left out for as long as it fails the same way.

Greedy, and one thing after the other: a story takes milliseconds, and what is left is read by a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs

from mlzoo.simulation.stories import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.plans import HostPlan, LifePlan, StoryPlan
    from mlzoo.simulation.stories import Outcome

T = TypeVar("T")
MOST_TELLINGS = 400


def shrunk(outcome: Outcome) -> Outcome:
    """Return the shortest story found that breaks one of the same invariants."""
    broken = {violation.invariant for violation in outcome.violations}
    left = MOST_TELLINGS
    shorter = True
    while shorter:
        shorter = False
        for plan in _shorter(outcome.plan):
            left -= 1
            if left < 0:
                return outcome
            tried = tell(plan)
            if broken & {violation.invariant for violation in tried.violations}:
                outcome, shorter = tried, True
                break
    return outcome


def _shorter(plan: StoryPlan) -> Iterator[StoryPlan]:
    """Yield the plans that lack one thing, the largest first."""
    for lives in _without_one(plan.lives):
        if lives:
            yield attrs.evolve(plan, lives=lives)
    for number, life in enumerate(plan.lives):
        for shorter in _shorter_lives(life):
            yield attrs.evolve(plan, lives=(*plan.lives[:number], shorter, *plan.lives[number + 1 :]))


def _shorter_lives(life: LifePlan) -> Iterator[LifePlan]:
    for hosts in _without_one(life.hosts):
        if hosts:
            yield attrs.evolve(life, hosts=hosts)
    for faults in _without_one(life.faults):
        yield attrs.evolve(life, faults=faults)
    for number, host in enumerate(life.hosts):
        for shorter in _shorter_hosts(host):
            yield attrs.evolve(life, hosts=(*life.hosts[:number], shorter, *life.hosts[number + 1 :]))
    if life.sync_s:
        yield attrs.evolve(life, sync_s=0.0)
    if life.small_segments:
        yield attrs.evolve(life, small_segments=False)


def _shorter_hosts(host: HostPlan) -> Iterator[HostPlan]:
    half = len(host.actions) // 2
    if half > 1:
        yield attrs.evolve(host, actions=host.actions[:half])
        yield attrs.evolve(host, actions=host.actions[half:])
    for actions in _without_one(host.actions):
        yield attrs.evolve(host, actions=actions)


def _without_one(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    for number in range(len(items)):
        yield (*items[:number], *items[number + 1 :])
