"""What the loss of a worker process does, and what it leaves alone."""

from __future__ import annotations

from core_driver import CHAT, EMBED, OTHER, Core, device, row

from mlzoo.events import commands as cmd
from mlzoo.events import types as ev


def kinds(events):
    return [type(event).__name__ for event in events]


def failures(events):
    return {e.request: e.failure for e in events if isinstance(e, ev.RequestFailed)}


def test_a_crash_ends_only_what_ran_there_and_reloads_for_those_who_wait():
    core = Core()
    core.chat("there", OTHER)
    core.ready(OTHER, on="cuda:0")
    core.chat("waits", OTHER)
    core.chat("elsewhere", EMBED)
    core.ready(EMBED)
    core.step(row("there"), row("there"), on="cuda:0")
    events = core.lost("cuda:0")
    assert kinds(events) == ["WorkerWentDown", "RequestFailed", "ModelUnloaded", "PlacementAsked"]
    failure = failures(events)["there"]
    assert (failure.code, failure.data["seq"], failure.data["resumable"]) == (1008, 1, False)
    assert core.state.requests["elsewhere"].phase == "running"
    core.ready(OTHER, on="cuda:0")
    assert core.state.requests["waits"].phase == "running"
    assert core.state.workers["cuda:0"].crashes == 1


def test_a_crash_before_the_first_piece_names_no_piece():
    core = Core()
    core.chat("r1")
    core.ready()
    assert "seq" not in failures(core.lost())["r1"].data


def test_a_crash_while_loading_is_a_failed_load():
    core = Core()
    core.chat("r1")
    core.devices()
    events = core.lost()
    assert kinds(events) == ["WorkerWentDown", "ModelFailed", "RequestFailed"]
    assert failures(events)["r1"].code == 1004
    assert kinds(core.chat("r2")) == ["RequestAccepted", "PlacementAsked"]


def test_rows_that_a_dead_worker_had_sent_are_dropped():
    core = Core()
    core.chat("r1")
    core.ready()
    core.lost()
    assert core.step(row("r1", "stop")) == ()


def test_an_unload_that_a_crash_overtakes_is_answered():
    core = Core()
    core.load("l1")
    core.ready()
    core.unload("u1")
    events = core.lost()
    assert kinds(events) == ["WorkerWentDown", "ModelUnloaded", "RequestReplied"]


def test_a_retired_worker_leaves_without_harm():
    core = a_core_with_a_retired_worker()
    assert kinds(core.lost(expected=True)) == ["WorkerWentDown"]
    assert core.state.workers["cpu"].crashes == 0


def a_core_with_a_retired_worker():
    core = Core()
    core.load("l1")
    core.ready()
    core.unload("u1")
    assert kinds(core.unloaded())[-1] == "WorkerRetired"
    return core


def test_a_load_that_was_decided_while_a_worker_leaves_goes_to_its_successor():
    core = a_core_with_a_retired_worker()
    core.chat("r1")
    assert kinds(core.devices()) == ["DevicesSeen", "ModelLoadStarted"]
    assert kinds(core.lost(expected=True)) == ["WorkerWentDown"]
    core.worker_up()
    assert kinds(core.loaded()) == ["ModelReady", "RequestDispatched"]
    assert not core.state.workers["cpu"].retiring


def test_a_worker_that_was_stopped_by_others_is_no_crash_yet_a_loss_for_what_ran_on_it():
    core = Core()
    core.chat("r1")
    core.ready()
    core.load("l1", EMBED)
    core.devices(model=EMBED)
    events = core.lost(expected=True)
    assert {name: f.code for name, f in failures(events).items()} == {"r1": 1008, "l1": 1004}
    assert core.state.workers["cpu"].crashes == 0


def test_a_worker_stays_while_a_model_may_be_about_to_land_on_it():
    core = Core()
    core.load("l1")
    core.ready()
    core.load("l2", OTHER)
    core.devices(device("cpu", 10), model=OTHER)
    assert kinds(core.unloaded()) == ["ModelUnloaded", "PlacementAsked"]
    assert "ModelLoadStarted" in kinds(core.devices(model=OTHER))


def test_a_worker_that_comes_up_with_nothing_to_do_leaves_again():
    assert kinds(Core().worker_up()) == ["WorkerWentUp", "WorkerRetired"]


def test_a_cancelled_load_still_lands_and_goes_when_its_keep_alive_is_over():
    core = Core()
    core.chat("r1")
    core.devices()
    core.cancel("r1")
    core.worker_up()
    assert kinds(core.loaded()) == ["ModelReady"]
    assert kinds(core.pass_time(CHAT.keep_alive_ms)) == ["ModelUnloadStarted"]
    assert kinds(core.tell(cmd.ReportUnloaded(model="chatty", device="cpu"))) == ["ModelUnloaded", "WorkerRetired"]
