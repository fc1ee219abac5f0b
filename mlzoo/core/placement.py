"""Where a model goes: a pure choice from probed memory.

Knows no device library. Devices come fastest first; the first that has room, or would have it without models that
nobody uses, is taken. A slower one than the first is never taken silently, and one that a request requires is the only
one considered.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import attrs

from mlzoo import errors
from mlzoo.core.replicas import key_of, replicas_of
from mlzoo.core.state import idle_models
from mlzoo.errors import Failure

if TYPE_CHECKING:
    from mlzoo.core.state import ModelState, State
    from mlzoo.events.commands import DeviceFacts, ModelFacts


@attrs.frozen(kw_only=True)
class Place:
    """There is room; degraded says why it is not on the fastest device, where that is so."""

    device: str
    degraded: str | None = None


@attrs.frozen(kw_only=True)
class Evict:
    """There will be room once this model is gone, the least recently used that nobody needs."""

    victim: str


@attrs.frozen(kw_only=True)
class Wait:
    """There will be room without any more doing: what is being unloaded gives enough memory back."""


@attrs.frozen(kw_only=True)
class NoRoom:
    """No device can hold it."""

    failure: Failure


@attrs.frozen(kw_only=True)
class Unusable:
    """The device that a request requires is not there, or cannot be used."""

    failure: Failure


def choose(
    state: State, facts: ModelFacts, devices: tuple[DeviceFacts, ...], required: str | None
) -> Place | Evict | Wait | NoRoom | Unusable:
    """Return what to do for a model that wants the memory that it is known to need on one of ``devices``."""
    needed_bytes = needed_by(state, facts)
    usable = [d for d in devices if d.usable and required in {None, d.name}]
    if not usable:
        return Unusable(failure=_unusable(facts, devices, required))
    skipped = [f"{d.name}: {d.reason}" for d in devices if not d.usable and d.kind != "cpu"]
    idle = idle_models(state)
    for device in usable:
        free_bytes = _free_bytes(state, device)
        if free_bytes >= needed_bytes:
            degraded = None if not skipped or required else "; ".join(skipped)
            return Place(device=device.name, degraded=degraded)
        on_device = [m for m in state.models.values() if m.device == device.name]
        soon_free = free_bytes + sum(m.memory_bytes for m in on_device if m.phase == "unloading")
        if soon_free >= needed_bytes:
            return Wait()
        victims = [m for m in idle if m.device == device.name]
        if soon_free + sum(m.memory_bytes for m in victims) >= needed_bytes:
            return Evict(victim=key_of(victims[0]))
        skipped.append(f"{device.name}: not enough free memory")
    best = max(usable, key=lambda d: _free_bytes(state, d))
    free_bytes = _free_bytes(state, best)
    return NoRoom(
        failure=errors.OutOfMemory(
            f"Model {facts.name} needs {needed_bytes} bytes, {best.name} has {free_bytes} free: "
            "unload another model or take a smaller one.",
            device=best.name,
            needed=needed_bytes,
            free=free_bytes,
        ).failure()
    )


def needed_by(state: State, facts: ModelFacts) -> int:
    """Return the most that any replica took when it was loaded last, configured as it is; else what is estimated."""
    measured = [m.measured_bytes for m in replicas_of(state, facts.name) if m.facts == facts]
    return max(measured, default=0) or facts.memory_bytes


def beside(
    state: State, model: ModelState, devices: tuple[DeviceFacts, ...], taken: set[str], required: str | None
) -> Place | Wait | NoRoom | Unusable:
    """Return what to do for a replica of a model that has others on the taken devices: nothing makes room for it.

    Where it cannot be on the device that somebody requires, another one will do.
    """
    left = tuple(device for device in devices if device.name not in taken)
    choice = choose(state, model.facts, left, required)
    if required is not None and not isinstance(choice, Place | Wait):
        choice = choose(state, model.facts, left, None)
    if isinstance(choice, Evict):
        message = f"No other device has room for a further replica of {model.facts.name}."
        return NoRoom(failure=errors.OutOfMemory(message).failure())
    if isinstance(choice, Place):
        return attrs.evolve(choice, degraded=choice.degraded or _slower_than(choice.device, devices, taken))
    return choice


def _slower_than(name: str, devices: tuple[DeviceFacts, ...], taken: set[str]) -> str | None:
    """Return why a replica is not on a faster kind of device, where others of it are."""
    kind = next(device.kind for device in devices if device.name == name)
    faster = takewhile(lambda device: device.kind != kind, devices)
    return "; ".join(f"{device.name}: has another replica" for device in faster if device.name in taken) or None


def _free_bytes(state: State, device: DeviceFacts) -> int:
    """What is free beyond what loads in progress will still take."""
    coming = sum(m.memory_bytes for m in state.models.values() if m.phase == "loading" and m.device == device.name)
    return device.memory_free_bytes - coming


def _unusable(facts: ModelFacts, devices: tuple[DeviceFacts, ...], required: str | None) -> Failure:
    known = {d.name: d for d in devices}
    why = known[required].reason if required in known else f"there are {', '.join(known) or 'none'}"
    return errors.Unsupported(
        f"Device {required or 'any'} cannot be used for {facts.name}: {why}.",
        feature=f"device {required or 'any'}",
        model=facts.name,
    ).failure()
