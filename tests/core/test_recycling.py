"""Worker processes that keep the memory of what they unloaded: who makes way, when, and who waits for that."""

from __future__ import annotations

import pytest
from core_driver import CHAT, EMBED, OTHER, Core, device, row

from mlzoo import errors
from mlzoo.core.recycling import KEPT_BYTES
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

BEGAN = 300 << 20  # held by a worker that has loaded nothing
KEEPS = BEGAN + KEPT_BYTES + 1


def kinds(events):
    return [type(event).__name__ for event in events]


def worker_up(core, on="cpu", held_bytes=BEGAN):
    return core.tell(cmd.ReportWorkerUp(device=on, pid=7, threads=1, versions={}, held_bytes=held_bytes))


def unloaded(core, model=CHAT, on="cpu", held_bytes=KEEPS):
    return core.tell(cmd.ReportUnloaded(model=model.name, device=on, held_bytes=held_bytes))


def a_core_that_makes_room(began_bytes=BEGAN):
    """A core whose one model is evicted for a chat with another one."""
    core = Core()
    core.load("l1")
    core.devices()
    worker_up(core, held_bytes=began_bytes)
    core.loaded()
    core.chat("r1", OTHER)
    assert kinds(core.devices(device("cpu", 10), model=OTHER)) == ["DevicesSeen", "ModelUnloadStarted"]
    return core


def retired(events):
    return [event for event in events if isinstance(event, ev.WorkerRetired)]


def test_a_worker_that_keeps_the_memory_of_what_it_unloaded_makes_way_though_a_model_is_about_to_come():
    core = a_core_that_makes_room()
    events = unloaded(core)
    assert retired(events) == [ev.WorkerRetired(device="cpu", reason="memory", kept_bytes=KEPT_BYTES + 1)]
    core.chat("r2")
    core.chat("r3", OTHER)
    assert core.state.workers["cpu"].retiring
    assert len(retired(core.events)) == 1, "it is sent away once"


@pytest.mark.parametrize(
    ("began_bytes", "held_bytes"),
    [(BEGAN, BEGAN + KEPT_BYTES), (BEGAN, 1), (0, KEEPS), (BEGAN, 0)],
    ids=["no more than libraries do", "less than it began with", "nobody knows since when", "nobody knows how much"],
)
def test_a_worker_of_which_that_cannot_be_said_stays_for_the_model_that_may_come(began_bytes, held_bytes):
    core = a_core_that_makes_room(began_bytes)
    assert kinds(unloaded(core, held_bytes=held_bytes)) == ["ModelUnloaded", "PlacementAsked"]
    assert "ModelLoadStarted" in kinds(core.devices(device("cpu", 50), model=OTHER))


def test_who_wants_a_place_waits_for_the_memory_of_a_worker_that_makes_way():
    core = a_core_that_makes_room()
    unloaded(core)
    assert kinds(core.devices(device("cpu", 10), model=OTHER)) == ["DevicesSeen"], "that is not all there is"
    core.chat("r2")
    assert kinds(core.devices(device("cpu", 10))) == ["DevicesSeen"]
    assert kinds(core.lost(expected=True)) == ["WorkerWentDown", "PlacementAsked", "PlacementAsked"]
    assert core.state.workers["cpu"].crashes == 0
    assert kinds(core.devices(device("cpu", 100), model=OTHER)) == ["DevicesSeen", "ModelLoadStarted"]
    assert kinds(core.devices(device("cpu", 100))) == ["DevicesSeen", "ModelLoadStarted"]
    worker_up(core)
    assert kinds(core.loaded(OTHER)) == ["ModelReady", "RequestDispatched"]
    assert kinds(core.loaded()) == ["ModelReady", "RequestDispatched"]
    assert not any(isinstance(event, ev.RequestFailed) for event in core.events)
    core.check_replay()


def test_a_worker_that_dies_before_it_makes_way_keeps_nobody_waiting():
    core = a_core_that_makes_room()
    unloaded(core)
    assert kinds(core.lost()) == ["WorkerWentDown", "PlacementAsked"]
    assert "ModelLoadStarted" in kinds(core.devices(device("cpu", 100), model=OTHER))


def test_a_worker_that_has_another_model_stays_whatever_it_keeps():
    core = Core()
    core.load("l1")
    core.devices()
    worker_up(core)
    core.loaded()
    core.chat("r1", EMBED)
    core.ready(EMBED)
    core.unload("u1")
    assert not retired(unloaded(core))
    core.step(row("r1", "stop"))
    core.unload("u2", EMBED)
    [left] = retired(unloaded(core, EMBED))
    assert left.reason == "memory"


def test_what_was_held_beside_a_load_that_failed_says_nothing():
    core = Core()
    core.load("l1")
    core.devices()
    worker_up(core)
    core.loaded()
    core.load("l2", EMBED)
    core.devices(model=EMBED)
    core.unload("u1")
    unloaded(core)
    failure = errors.ModelLoadFailed("broken", model=EMBED.name, reason="broken").failure()
    events = core.tell(cmd.ReportLoadFailed(model=EMBED.name, device="cpu", failure=failure))
    assert retired(events) == [ev.WorkerRetired(device="cpu")]


def test_a_fresh_process_is_judged_by_what_it_holds_itself():
    core = a_core_that_makes_room()
    unloaded(core)
    core.lost(expected=True)
    core.devices(device("cpu", 100), model=OTHER)
    worker_up(core)
    core.loaded(OTHER)
    core.step(row("r1", "stop"))
    core.chat("r2")
    core.devices(device("cpu", 10))
    assert not retired(unloaded(core, OTHER, held_bytes=BEGAN + 1))


def test_a_worker_that_leaves_anyway_says_what_it_kept():
    core = Core()
    core.load("l1")
    core.devices()
    worker_up(core)
    core.loaded()
    core.unload("u1")
    assert kinds(unloaded(core)) == ["ModelUnloaded", "RequestReplied", "WorkerRetired"]
    assert core.events[-1].reason == "memory"
