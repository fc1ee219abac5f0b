"""Memory as it is measured: what places, evicts and admits a model once it was loaded; what a crash gives back."""

from __future__ import annotations

import attrs
from core_driver import CHAT, EMBED, OTHER, Core, device

from mlzoo.events import commands as cmd
from mlzoo.events import types as ev


def kinds(events):
    return [type(event).__name__ for event in events]


def loaded(core, model, memory_bytes, on="cpu"):
    core.worker_up(on)
    return core.tell(
        cmd.ReportLoaded(
            model=model.name,
            device=on,
            memory_bytes=memory_bytes,
            peak_bytes=memory_bytes,
            context=64,
            slots=model.slots,
        )
    )


def a_core_that_has_measured(memory_bytes, model=CHAT):
    """A core that loaded a model of 40 estimated bytes, and dropped it again."""
    core = Core()
    core.load("l1", model)
    core.devices(device("cpu", 100), model=model)
    loaded(core, model, memory_bytes)
    core.unload("u1", model)
    core.unloaded(model)
    core.lost(expected=True)
    return core


def test_a_model_that_took_more_than_was_estimated_is_placed_by_what_it_took():
    core = a_core_that_has_measured(70)
    core.load("l2")
    events = core.devices(device("cuda:0", 60), device("cpu", 100))
    [placed] = [event for event in events if isinstance(event, ev.ModelLoadStarted)]
    assert (placed.device, placed.memory_bytes) == ("cpu", 70)


def test_a_model_that_took_less_is_admitted_where_its_estimate_would_not_fit():
    core = a_core_that_has_measured(10)
    core.load("l2")
    assert "ModelLoadStarted" in kinds(core.devices(device("cpu", 15)))


def test_other_weights_under_the_same_name_are_estimated_anew():
    core = a_core_that_has_measured(10)
    core.load("l2", attrs.evolve(CHAT, digest="other"))
    assert "ModelFailed" in kinds(core.devices(device("cpu", 15)))


def test_what_is_evicted_is_counted_as_it_was_measured():
    core = Core()
    core.load("l1", EMBED)
    core.devices(device("cpu", 100), model=EMBED)
    loaded(core, EMBED, 5)
    core.chat("r1", OTHER)
    assert "ModelFailed" in kinds(core.devices(device("cpu", 34), model=OTHER)), "34 and 5 are not 40"
    core.chat("r2", OTHER)
    assert "ModelUnloadStarted" in kinds(core.devices(device("cpu", 35), model=OTHER))


def test_a_crash_while_loading_leaves_nothing_reserved():
    core = Core()
    core.load("l1")
    core.devices(device("cpu", 45))
    core.lost()
    core.load("l2", OTHER)
    assert "ModelLoadStarted" in kinds(core.devices(device("cpu", 45), model=OTHER))


def test_a_crash_under_a_loaded_model_leaves_nothing_reserved():
    core = a_core_with_a_running_chat()
    core.lost()
    assert {(m.phase, m.device, m.memory_bytes) for m in core.state.models.values()} == {("available", None, 0)}
    core.load("l2", OTHER)
    assert "ModelLoadStarted" in kinds(core.devices(device("cpu", 45), model=OTHER))


def a_core_with_a_running_chat():
    core = Core()
    core.chat("r1")
    core.ready()
    return core


def test_twenty_requests_at_once_are_one_load():
    core = Core(cmd.Bounds(max_queued=32, max_running=32, queued_bytes=1000, drain_ms=5000))
    for number in range(10):
        core.chat(f"before{number}")
    core.devices()
    for number in range(10):
        core.chat(f"while{number}")
    core.worker_up()
    core.loaded()
    asked = [event for event in core.events if isinstance(event, ev.PlacementAsked | ev.ModelLoadStarted)]
    assert kinds(asked) == ["PlacementAsked", "ModelLoadStarted"]
    assert len(core.state.requests) == 20
