"""The life of a model: placed, loaded once for all who wait, evicted, unloaded, pulled and removed."""

from __future__ import annotations

import attrs
from core_driver import CHAT, EMBED, OTHER, Core, device, row

from mlzoo import errors
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

BROKEN = errors.ModelLoadFailed("The weights are damaged.", model="chatty", reason="digest").failure()


def kinds(events):
    return [type(event).__name__ for event in events]


def all_of(events, kind):
    return [e for e in events if isinstance(e, kind)]


def only(events, kind):
    [event] = all_of(events, kind)
    return event


def phase(core, model=CHAT):
    return core.state.models[model.name].phase


def a_core_with(*models, on="cpu"):
    """Each model ready on one device, the first used longest ago."""
    core = Core()
    for model in models:
        core.load(f"load-{model.name}", model)
        core.ready(model, on)
        core.at_ms += 10
    return core


def failing(core, model=CHAT, failure=BROKEN, on="cpu"):
    return core.tell(cmd.ReportLoadFailed(model=model.name, device=on, failure=failure))


# ------------------------------------------------------------------------------------------ loading


def test_a_load_is_single_flight_and_answers_everybody_who_waits():
    core = Core()
    core.load("l1")
    assert kinds(core.load("l2")) == ["RequestAccepted"]
    assert kinds(core.chat("r1")) == ["RequestAccepted"]
    core.devices()
    assert kinds(core.chat("r2")) == ["RequestAccepted"]
    events = core.loaded()
    assert kinds(events) == ["ModelReady", *["RequestReplied"] * 2, *["RequestDispatched"] * 2]
    assert all_of(events, ev.RequestReplied)[0].result == {
        "model": "chatty",
        "state": "ready",
        "device": "cpu",
        "bytes": 40,
    }
    assert kinds(core.load("l3")) == ["RequestAccepted", "RequestReplied"]


def test_a_failed_load_fails_all_who_wait_and_the_next_request_tries_again():
    core = Core()
    core.load("l1")
    core.chat("r1")
    core.devices()
    core.worker_up()
    events = failing(core)
    assert kinds(events) == ["ModelFailed", "RequestFailed", "RequestFailed", "WorkerRetired"]
    assert [e.failure for e in all_of(events, ev.RequestFailed)] == [BROKEN, BROKEN]
    assert core.state.models["chatty"].failure == BROKEN
    assert kinds(core.chat("r2")) == ["RequestAccepted", "PlacementAsked"]
    core.ready()
    assert core.state.models["chatty"].failure is None


def test_what_a_worker_says_about_a_load_that_is_over_is_dropped():
    core = Core()
    core.chat("r1")
    assert failing(core) == ()  # still placing
    core.devices()
    assert failing(core, on="cuda:0") == ()
    assert core.loaded(on="cuda:0") == ()
    core.loaded()
    assert core.loaded() == failing(core) == ()
    assert core.unloaded() == ()  # nobody asked for it
    assert core.devices()[1:] == ()


def test_a_model_goes_to_the_first_device_with_room_and_a_slower_one_is_said_to_be_so():
    core = Core()
    core.load("l1")
    started = only(core.devices(device("cuda:0", 39), device("cpu", 100)), ev.ModelLoadStarted)
    assert (started.device, started.degraded) == ("cpu", "cuda:0: not enough free memory")
    assert only(core.loaded(), ev.RequestReplied).result["degraded"] == started.degraded


def test_memory_that_a_load_in_progress_will_take_is_not_given_away_twice():
    core = Core()
    core.load("l1")
    core.load("l2", OTHER)
    core.devices(device("cpu", 79))
    failure = only(core.devices(device("cpu", 79), model=OTHER), ev.ModelFailed).failure
    assert (failure.code, failure.data["needed"], failure.data["free"]) == (1005, 40, 39)


def test_without_room_anywhere_a_load_is_out_of_memory():
    core = Core()
    core.chat("r1")
    events = core.devices(device("cpu", 10))
    assert kinds(events) == ["DevicesSeen", "ModelFailed", "RequestFailed"]
    assert only(events, ev.RequestFailed).failure.data["retryable"]


def test_a_probe_that_fails_fails_who_waited_for_a_place():
    core = Core()
    core.chat("r1")
    failure = errors.ModelLoadFailed("The driver hangs.").failure()
    assert only(failing(core, failure=failure, on=""), ev.RequestFailed).failure == failure
    assert failing(core, failure=failure, on="") == ()


def test_a_load_that_fails_by_a_fault_of_ours_is_an_incident_of_which_all_who_wait_hear_the_number():
    core = Core()
    core.chat("r1")
    core.chat("r2")
    number = core.seq
    events = failing(core, failure=errors.InternalError("A bug.").failure(), on="")
    assert kinds(events) == ["IncidentNoted", "ModelFailed", "RequestFailed", "RequestFailed"]
    heard = [event.failure.data["incident"] for event in all_of(events, ev.RequestFailed)]
    assert heard == [number, number]


def test_without_a_usable_device_a_load_is_unsupported():
    core = Core()
    core.chat("r1")
    events = core.tell(cmd.ReportDevices(model="chatty", devices=()))
    assert only(events, ev.RequestFailed).failure.code == 1010


# ------------------------------------------------------------------------------------------ a required device


def test_a_required_device_is_the_only_one_considered_and_no_fall_back():
    core = Core()
    core.load("l1", device="cpu")
    started = only(core.devices(device("cuda:0", 100), device("cpu", 100)), ev.ModelLoadStarted)
    assert (started.device, started.degraded) == ("cpu", None)


def test_a_device_that_is_not_there_fails_who_required_it_and_nobody_else():
    core = Core()
    core.chat("r1")
    core.chat("r2", require_device="cuda:9")
    core.chat("r3", require_device="cuda:8")
    events = core.devices()
    failed = {e.request: e.failure.code for e in all_of(events, ev.RequestFailed)}
    assert failed == {"r2": 1010, "r3": 1010}
    assert only(events, ev.ModelLoadStarted).device == "cpu"


def test_a_required_device_without_room_fails_who_required_it_and_nobody_else():
    core = Core()
    core.chat("r1", require_device="cuda:0")
    core.chat("r2")
    events = core.devices(device("cuda:0", 10), device("cpu", 100))
    assert only(events, ev.RequestFailed).request == "r1"
    assert only(events, ev.RequestFailed).failure.code == 1005
    assert only(events, ev.ModelLoadStarted).device == "cpu"


def test_a_model_that_is_loaded_elsewhere_refuses_who_requires_another_device():
    core = a_core_with(CHAT)
    events = core.chat("r1", require_device="cuda:0")
    assert kinds(events) == ["RequestAccepted", "RequestFailed"]
    assert only(events, ev.RequestFailed).failure.code == 1010
    assert kinds(core.chat("r2", require_device="cpu")) == ["RequestAccepted", "RequestDispatched"]


# ------------------------------------------------------------------------------------------ making room


def test_the_least_recently_used_model_makes_room_and_then_the_load_goes_on():
    core = a_core_with(CHAT, EMBED)
    core.chat("r1", OTHER)
    evicted = only(core.devices(device("cpu", 30), model=OTHER), ev.ModelUnloadStarted)
    assert (evicted.model, evicted.reason) == ("chatty", "evicted")
    assert only(core.unloaded(CHAT), ev.PlacementAsked).model == OTHER
    assert only(core.devices(device("cpu", 70), model=OTHER), ev.ModelLoadStarted).model == "other"
    assert kinds(core.loaded(OTHER)) == ["ModelReady", "RequestDispatched"]


def test_an_idle_model_makes_room_on_the_fastest_device_before_a_slower_one_is_taken():
    core = a_core_with(CHAT, on="cuda:0")
    core.chat("r1", OTHER)
    evicted = only(core.devices(device("cuda:0", 30), device("cpu", 1000), model=OTHER), ev.ModelUnloadStarted)
    assert (evicted.model, evicted.device) == ("chatty", "cuda:0")


def test_what_runs_or_is_pinned_is_never_evicted():
    core = a_core_with(CHAT)
    core.load("pin", EMBED, pin=True)
    core.ready(EMBED)
    core.chat("r1")
    core.load("l1", OTHER)
    assert only(core.devices(device("cpu", 30), model=OTHER), ev.ModelFailed).failure.code == 1005
    core.step(row("r1", "stop"))
    core.load("l2", OTHER)
    assert only(core.devices(device("cpu", 30), model=OTHER), ev.ModelUnloadStarted).model == "chatty"


def test_a_load_waits_for_memory_that_is_already_being_given_back():
    core = a_core_with(CHAT, EMBED)
    core.unload("u1", CHAT)
    core.load("l1", OTHER)
    for _ in range(2):  # a probe that comes twice evicts nobody either
        assert kinds(core.devices(device("cpu", 30), model=OTHER)) == ["DevicesSeen"]
    assert phase(core, EMBED) == "ready"
    core.unloaded(CHAT)
    assert only(core.devices(device("cpu", 70), model=OTHER), ev.ModelLoadStarted).model == "other"


def test_the_crash_of_a_worker_makes_room_for_who_waits_for_it():
    core = a_core_with(CHAT)
    core.load("l1", OTHER)
    core.devices(device("cpu", 30), model=OTHER)
    assert phase(core) == "unloading"
    assert only(core.lost(), ev.PlacementAsked).model == OTHER


# ------------------------------------------------------------------------------------------ unloading


def test_a_model_that_nobody_used_for_its_keep_alive_goes_and_then_its_worker():
    core = a_core_with(CHAT)
    core.at_ms -= 10
    assert core.pass_time(CHAT.keep_alive_ms - 1) == ()
    assert only(core.pass_time(1), ev.ModelUnloadStarted).reason == "idle"
    assert kinds(core.unloaded()) == ["ModelUnloaded", "WorkerRetired"]
    assert kinds(core.lost(expected=True)) == ["WorkerWentDown"]
    assert not core.state.workers["cpu"].up


def test_use_prolongs_a_keep_alive():
    core = a_core_with(CHAT)
    core.pass_time(CHAT.keep_alive_ms // 2)
    core.chat("r1")
    core.pass_time(CHAT.keep_alive_ms * 2)
    core.step(row("r1", "stop"))
    assert core.pass_time(CHAT.keep_alive_ms - 1) == ()
    assert kinds(core.pass_time(1)) == ["ModelUnloadStarted"]


def test_a_pinned_model_stays_until_it_is_unloaded_by_hand():
    core = Core()
    core.load("l1", pin=True)
    core.ready()
    assert core.pass_time(CHAT.keep_alive_ms * 9) == ()
    assert kinds(core.unload("u1")) == ["RequestAccepted", "ModelPinned", "ModelUnloadAsked", "ModelUnloadStarted"]
    assert only(core.unloaded(), ev.RequestReplied).result == {"model": "chatty", "state": "available"}
    assert not core.state.models["chatty"].pinned


def test_an_unload_waits_for_what_runs_and_takes_nothing_new_in_meanwhile():
    core = a_core_with(CHAT)
    core.chat("r1")
    assert kinds(core.unload("u1")) == ["RequestAccepted", "ModelUnloadAsked"]
    assert kinds(core.unload("u2")) == ["RequestAccepted", "ModelUnloadAsked"]
    assert kinds(core.chat("r2")) == ["RequestAccepted"]
    assert kinds(core.step(row("r1", "stop")))[-1] == "ModelUnloadStarted"
    assert kinds(core.unloaded()) == ["ModelUnloaded", "RequestReplied", "RequestReplied", "PlacementAsked"]
    core.ready()
    assert core.state.requests["r2"].phase == "running"


def test_unloading_what_is_not_loaded_is_answered_at_once():
    assert kinds(Core().unload("u1")) == ["RequestReplied"]


def test_an_unload_of_a_model_that_is_still_being_placed_is_not_forgotten():
    core = a_core_with(EMBED)
    core.load("l1")
    core.chat("r1")
    core.unload("u1")
    core.unload("u2", EMBED)
    assert only(core.unloaded(EMBED), ev.PlacementAsked).model == CHAT  # asked again: there is room now
    core.devices()
    core.loaded()
    assert only(core.unloaded(), ev.ModelUnloaded).model == "chatty"
    assert "u1" not in core.state.requests


def test_nothing_is_evicted_or_loaded_for_a_request_that_was_cancelled_meanwhile():
    core = a_core_with(CHAT, EMBED)
    core.chat("r1", OTHER)
    core.unload("u1", OTHER)
    core.cancel("r1")
    events = core.devices(device("cpu", 30), model=OTHER)
    assert kinds(events) == ["DevicesSeen", "ModelUnloaded", "RequestReplied"]
    assert phase(core, OTHER) == "available"


def test_an_unload_is_answered_when_the_load_it_waits_for_fails():
    core = Core()
    core.load("l1")
    core.unload("u1")
    core.devices()
    assert only(failing(core), ev.RequestReplied).result == {"model": "chatty", "state": "failed"}
    core.load("l2")
    core.ready()
    assert phase(core) == "ready"


def test_an_unload_works_while_the_disk_is_low():
    core = a_core_with(CHAT)
    core.tell(cmd.ReportStorage(low=True))
    assert kinds(core.unload("u1"))[-1] == "ModelUnloadStarted"


# ------------------------------------------------------------------------------------------ pull and remove


def ended(core, pull="p1", failure=None):
    return core.tell(cmd.ReportPullEnded(model="chatty", pull=pull, failure=failure, digest="sha256:1"))


def test_two_pulls_of_one_model_are_one_and_both_are_answered():
    core = Core()
    assert kinds(core.pull("p1")) == ["RequestAccepted", "PullStarted"]
    assert kinds(core.pull("p2")) == ["RequestAccepted"]
    assert kinds(ended(core)) == ["PullEnded", "RequestReplied", "RequestReplied"]
    assert kinds(core.pull("p3")) == ["RequestAccepted", "PullStarted"]


def test_a_pull_goes_on_for_the_second_when_the_first_is_cancelled_and_ends_with_the_last():
    core = Core()
    core.pull("p1")
    core.pull("p2")
    assert kinds(core.cancel("p1")) == ["RequestCancelled", "RequestReplied"]
    assert kinds(core.cancel("p2")) == ["PullAbandoned", "RequestCancelled", "RequestReplied"]
    assert ended(core) == ()


def test_the_late_end_of_an_abandoned_pull_answers_no_new_call_of_that_model():
    core = Core()
    core.pull("p1")
    core.cancel("p1")
    assert only(core.pull("p2"), ev.PullStarted).pull == "p2"
    offline = errors.PullFailed("No network.", reason="offline").failure()
    assert ended(core, pull="p1", failure=offline) == ()
    assert kinds(ended(core, pull="p2")) == ["PullEnded", "RequestReplied"]


def test_a_failed_pull_says_why():
    core = Core()
    core.pull("p1")
    offline = errors.PullFailed("No network.", reason="offline").failure()
    assert only(ended(core, failure=offline), ev.RequestFailed).failure == offline


def test_a_pull_does_not_wait_for_the_model_to_be_loaded_nor_load_it():
    core = Core()
    core.pull("p1")
    assert core.state.models == {}


def test_a_model_that_is_in_memory_is_not_removed():
    core = a_core_with(CHAT)
    refused = only(core.remove("x1"), ev.RequestRefused)
    assert refused.failure.code == 1010
    assert "models.unload" in refused.failure.message


def test_a_model_that_is_not_in_memory_is_removed_even_while_the_disk_is_low():
    core = Core()
    core.tell(cmd.ReportStorage(low=True))
    assert kinds(core.remove("x1")) == ["RequestAccepted", "RemoveStarted"]
    assert kinds(core.remove("x2")) == ["RequestAccepted"]
    events = core.tell(cmd.ReportRemoved(model="chatty"))
    assert kinds(events) == ["RemoveEnded", "RequestReplied", "RequestReplied"]


def test_each_model_is_known_by_its_newest_facts():
    core = a_core_with(CHAT)
    core.unload("u1")
    core.unloaded()
    core.load("l1", attrs.evolve(CHAT, memory_bytes=60))
    assert only(core.devices(), ev.ModelLoadStarted).memory_bytes == 60
