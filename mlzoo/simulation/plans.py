"""What happens in one story, drawn from a seed as a value: so that it can be told again, and told shorter.

A story is several lives of a sidecar on one log; a life has hosts, which act one after the other, faults, and mostly a
crash at its end. Knows nothing of how any of it is done.
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import attrs

from mlzoo.simulation import faults, garbage
from mlzoo.simulation.actions import (
    Action,
    Ask,
    Cancel,
    CloseOutput,
    EndInput,
    Forget,
    Fork,
    Pause,
    ReadOn,
    Repeat,
    Say,
    Settle,
    Stop,
    Take,
    Together,
    Turns,
)
from mlzoo.simulation.machines import Machine

Method = Literal["chat", "complete", "embed", "predict", "tokenize", "detokenize"]
CrashPoint = Literal["append", "fsync", "emit", "step"]
CRASH_POINTS: tuple[CrashPoint, ...] = ("append", "fsync", "emit", "step")
MACHINES: tuple[Machine, ...] = ("gpu", "two workers", "small")
PAUSES_S = (0.0, 0.01, 0.05, 0.2, 0.7, 3.0)


@attrs.frozen
class HostPlan:
    """What one host does. The first of a life is the one that spawned the sidecar; room_bytes is that of its pipe.

    Its lines may end as on Windows, and come in two parts each.
    """

    actions: tuple[Action, ...]
    room_bytes: int
    line_end: bytes = b"\n"
    splits: bool = False


@attrs.frozen
class FaultPlan:
    """A fault of the menu, and when it strikes."""

    name: str
    at_s: float


@attrs.frozen
class Crash:
    """The process ends at the so-manieth such moment; with it the machine, if power is lost."""

    point: CrashPoint
    after: int
    power: bool


@attrs.frozen
class LifePlan:
    """One sidecar."""

    hosts: tuple[HostPlan, ...]
    faults: tuple[FaultPlan, ...]
    crash: Crash | None
    sync_s: float
    small_segments: bool
    keep_s: float | None = None  # that a segment is kept which nobody needs
    machine: Machine = "gpu"


@attrs.frozen
class StoryPlan:
    """Several lives on one log; the last one ends in peace."""

    seed: int
    lives: tuple[LifePlan, ...]
    durability: Literal["disk", "process"]


def draw(seed: int) -> StoryPlan:
    """Draw a story."""
    random = Random(f"{seed} plan")
    durability: Literal["disk", "process"] = "process" if random.random() < 0.15 else "disk"
    count = random.choice((1, 2, 2, 3))
    lives = tuple(_life(random, durability, last=number == count - 1) for number in range(count))
    if random.random() < 0.06:  # What a key stands for outlives its records: rare by chance.
        lives = (*lives[:-1], _outliving(random, lives[-1]))
    if random.random() < 0.06:  # So is a model that has to wait for the memory of others.
        lives = (*lives[:-1], _leaking(random, lives[-1]))
    own = Random(f"{seed} forgotten")  # Draws of its own, so that a seed that found something still does.
    if own.random() < 0.1:
        lives = _coming_again(own, lives)
    talks = Random(f"{seed} talks")  # by itself, so that all else is what it was
    lives = tuple(_talking(talks, life) if talks.random() < 0.3 else life for life in lives)
    return StoryPlan(seed, lives, durability)


def _life(random: Random, durability: str, *, last: bool) -> LifePlan:
    hosts = [_host(random) for _ in range(random.choice((1, 1, 1, 1, 2, 3)))]
    names = random.sample(sorted(faults.MENU), random.choice((0, 1, 1, 2, 3)))
    struck = tuple(FaultPlan(name, random.choice((0.0, 0.01, 0.1, 1.0, 4.0))) for name in names)
    if random.random() < 0.2:  # What goes on afterwards is rare by chance.
        name = random.choice(("worker_killed", "worker_is_another_build"))
        struck += (FaultPlan(name, random.choice((0.05, 0.2, 0.5, 1.5))),)
    point = random.choice(CRASH_POINTS)
    power = random.random() < 0.7 and durability == "disk"  # The other kind is promised nothing when power is lost.
    crash = Crash(point, random.randrange(200 if point == "step" else 30), power)
    sync_s, small = random.choice((0.0, 0.0, 0.01, 2.0)), random.random() < 0.3
    keep_s = random.choice((0.4, 40.0)) if small and random.random() < 0.5 else None
    machine = random.choices(MACHINES, (5, 3, 2))[0]
    return LifePlan(tuple(hosts), struck, None if last else crash, sync_s, small, keep_s, machine)


def _outliving(random: Random, life: LifePlan) -> LifePlan:
    """Return a life whose first host asks again under a key when the segment of its request has gone by its age."""
    keyed = _keyed(random, random.choice((0, 1, 2, 3)))
    again = random.choice((keyed, Ask("resume", {"key": keyed.key, "after": -1})))
    filling = [Ask("chat", {"model": "toy", "stream": True}, pieces=9) for _ in range(3)]
    waiting: tuple[Action, ...] = (*filling, Settle(), Pause(3.0))
    scene: tuple[Action, ...] = (keyed, Settle(), *waiting, *waiting, again, Settle())
    return attrs.evolve(_beginning_with(life, scene), small_segments=True, keep_s=0.4)


def _coming_again(random: Random, lives: tuple[LifePlan, ...]) -> tuple[LifePlan, ...]:
    """Return lives in which a key is used, forgotten, and used again: in the last life, or in an earlier one before."""
    keyed = _keyed(random, random.randrange(KEYS))
    by_name, by_key = Forget(0), Ask("forget", {"key": keyed.key})
    until: Action = random.choice((Settle(), Settle(), Pause(random.choice(PAUSES_S))))  # It may still run.
    before: tuple[Action, ...] = (keyed, until, random.choice((by_name, by_key, by_key)), Settle())
    other = attrs.evolve(keyed, pieces=keyed.pieces + 1)
    ways = (keyed, keyed, other, Ask("resume", {"key": keyed.key, "after": random.choice((-1, 2, 50))}), by_key)
    after: list[Action] = []
    for way in random.sample(ways, 3):
        after += [way, random.choice((Settle(), Turns(random.randrange(30))))]
    first, last = lives[0], lives[-1]
    if len(lives) == 1 or random.random() < 0.5:
        return (*lives[:-1], _beginning_with(last, (*before, *after, Settle())))
    return (_beginning_with(first, before), *lives[1:-1], _beginning_with(last, (*after, Settle())))


def _beginning_with(life: LifePlan, scene: tuple[Action, ...]) -> LifePlan:
    first = attrs.evolve(life.hosts[0], actions=scene + life.hosts[0].actions, room_bytes=1 << 18)
    return attrs.evolve(life, hosts=(first, *life.hosts[1:]))


def _leaking(random: Random, life: LifePlan) -> LifePlan:
    """Return a life whose first host has models make room for each other, in a worker that keeps their memory."""
    embed = Ask("embed", {"model": "vec", "input": ["a", "bé"]})
    pause: Action = random.choice((Settle(), Settle(), Pause(random.choice(PAUSES_S))))
    scene: tuple[Action, ...] = (embed, Settle(), _generation(random), pause, embed, Settle(), _keyed(random, 1))
    first = attrs.evolve(life.hosts[0], actions=scene + life.hosts[0].actions)
    leak = FaultPlan("worker_leaks", 0.0)
    return attrs.evolve(life, hosts=(first, *life.hosts[1:]), faults=(*life.faults, leak), machine="small")


def _talking(random: Random, life: LifePlan) -> LifePlan:
    """Return a life whose first host talks in conversations, looks at them, forks one, and talks on."""
    name, other = random.sample(TALKS, 2)
    before, after = [tuple(_talk(random, name) for _ in range(random.randrange(1, 6))) for _ in range(2)]
    look, look_again = [Ask("conversations.get", {"conversation": each}) for each in (name, other)]
    fork = (look, Settle(), Fork(name, other, random.randrange(3)), _talk(random, other))
    scene = (*before, Settle(), *fork, *after, Settle(), look, look_again)
    return _beginning_with(life, scene)


def _talk(random: Random, name: str) -> Action:
    params: dict[str, Any] = {"model": "toy", "stream": random.random() < 0.7, "conversation": name}
    params |= {"persona": "clerk"} if random.random() < 0.2 else {}
    params |= {"retention": "ephemeral"} if random.random() < 0.1 else {}
    actions: tuple[tuple[Action, int], ...] = (
        (Settle(), 3),
        (Fork(name, random.choice(TALKS), random.randrange(4)), 1),
        (Cancel(0, notify=random.random() < 0.5), 2),
        (Forget(0), 1),
        (Ask("chat", params, pieces=random.choice((0, 1, 2, 5))), 12),
        (Ask("conversations.get", {"conversation": name}), 4),
        (Ask("conversations.delete", {"conversation": name}), 1),
        (Ask("personas.put", {"name": "clerk", "system": "be brief", "greeting": "good day"}), 2),
        (Ask(random.choice(("personas.get", "personas.delete")), {"name": "clerk"}), 1),
        (Ask("conversations.list"), 1),
    )
    return random.choices([action for action, _ in actions], [weight for _, weight in actions])[0]


TALKS = ("talk-0", "talk-1", "talk-2")


def _host(random: Random) -> HostPlan:
    actions = [_action(random) for _ in range(random.randrange(1, 7))]
    scene: list[Action] = []  # what is rare by chance
    kind = random.random()
    if kind < 0.2:  # It is forgotten once it was answered.
        scene = [_generation(random), Settle(), Forget(0)]
    elif kind < 0.5:  # It was interrupted before, or will be now, and goes on.
        keyed = _keyed(random, random.choice((0, 1, 1, 2, 2, 5)))
        resume = Ask("resume", {"key": keyed.key, "after": random.choice((-1, -1, 0, 2))})
        until: Action = random.choice((Settle(), Pause(random.choice(PAUSES_S))))
        scene = [keyed, until, random.choice((resume, keyed))]
    elif kind < 0.7:  # It is cancelled as it runs.
        chat = Ask("chat", {"model": "toy", "stream": True}, pieces=9)
        wait = Pause(random.choice(PAUSES_S)) if random.random() < 0.5 else Turns(random.randrange(60))
        scene = [chat, wait, Cancel(0, notify=random.random() < 0.5)]
    actions = scene + actions if random.random() < 0.5 else actions + scene
    room_bytes = random.choice((1 << 10, 1 << 16, 1 << 18))
    return HostPlan(tuple(actions), room_bytes, random.choice((b"\n", b"\r\n")), random.random() < 0.2)


def _action(random: Random) -> Action:
    match random.choices(range(13), (30, 6, 8, 6, 2, 20, 3, 2, 4, 1, 1, 5, 3))[0]:
        case 0:
            return _ask(random)
        case 1:
            return Together(tuple(_ask(random) for _ in range(random.choice((1, 1, 2, 2, 3, 12)))))
        case 2:
            return Cancel(random.choice((0, 0, 1, 3)), random.random() < 0.5)
        case 3:
            return Say(random.choice(sorted(garbage.MENU)))
        case 4:
            return Repeat(random.randrange(2))
        case 5:
            return Pause(random.choice(PAUSES_S))
        case 6:
            return Stop()
        case 7:
            return Take(random.randrange(1, 2000))
        case 8:
            return ReadOn()
        case 9:
            return CloseOutput()
        case 11:
            return Turns(random.randrange(30))
        case 12:
            return Forget(random.choice((0, 0, 1)))
        case _:
            return EndInput(random.random() < 0.5)


KEYS = 7  # of a story
EPHEMERAL_KEYS = {4, 5}  # nothing is kept of what they stand for
FAR_KEY = 6  # whose request a provider answers
LOOKS = ("ping", "status", "models.list", "events.read", "devices.list", "metrics", "providers.list")


def _ask(random: Random) -> Ask:
    match random.choices(range(11), (10, 2, 2, 4, 2, 5, 5, 2, 1, 0.7, 0.4))[0]:
        case 0 | 1:
            return _generation(random)
        case 2:
            return random.choice(
                (
                    Ask("tokenize", {"model": "toy", "text": "abc"}),
                    Ask("detokenize", {"model": "toy", "tokens": [65, 66]}),
                )
            )
        case 3:
            return Ask(random.choice(LOOKS))
        case 6:
            return _keyed(random, random.randrange(KEYS))
        case 7:
            after = random.choice((-1, -1, 0, 2, 50))
            return Ask("resume", {"key": f"key-{random.randrange(KEYS)}", "after": after})
        case 8:
            return Ask("forget", {"key": f"key-{random.randrange(KEYS)}"})
        case 9:
            return Ask("events.subscribe", random.choice(({}, {"after": 0})))
        case 10:
            return Ask("shutdown")
        case 4:
            embed = Ask("embed", {"model": "vec", "input": ["a", "bé"]})
            return random.choice((embed, Ask("predict", {"model": "guess", "inputs": ["é", {"age": 3}]})))
        case _:
            method = random.choice(("models.load", "models.unload", "models.info", "nothing"))
            return Ask(method, {"model": random.choice(("toy", "vec", "far", "none"))})


def _generation(random: Random) -> Ask:
    model = random.choices(("toy", "far", "any", "near"), (14, 2, 3, 1))[0]  # the last two are routes
    params: dict[str, Any] = {"model": model, "stream": random.random() < 0.7}
    if random.random() < 0.2:
        params["retention"] = "ephemeral"
    if random.random() < 0.2:
        params["deadline_ms"] = random.choice((1, 1000, 1000, 5000))
    method = "chat" if random.random() < 0.8 else "complete"
    pieces = random.choice((0, 1, 2, 5, 9))
    if pieces == 5 and model == "toy":  # A provider may lack what these need.
        params["response_format"] = {"type": "json_schema", "json_schema": {"schema": {"enum": ["on", "off"]}}}
    if pieces == 2 and model == "toy" and method == "chat":
        params["tools"] = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    return Ask(method, params, pieces=pieces)


def _keyed(random: Random, key: int) -> Ask:
    other = random.random() < 0.1  # than what it was used for before
    params = {"model": "toy", "stream": random.random() < 0.7, "determinism": "fast" if key % 4 == 0 else "exact"}
    if key in EPHEMERAL_KEYS:
        params["retention"] = "ephemeral"
    if key == FAR_KEY:
        params |= {"model": random.choice(("far", "far", "any")), "determinism": "fast"}
    return Ask("chat", params, (9, 7, 9, 0, 2, 5, 7)[key] + other, f"key-{key}")
