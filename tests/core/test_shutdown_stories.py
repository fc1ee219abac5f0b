"""How a sidecar leaves: after what runs, at the latest when the drain is over, with every call answered."""

from __future__ import annotations

from core_driver import BOUNDS, CHAT, OTHER, Core, row, start

from mlzoo.events import commands as cmd
from mlzoo.events import types as ev


def kinds(events):
    return [type(event).__name__ for event in events]


def a_core_with_one_running_chat():
    core = Core()
    core.chat("r1")
    core.ready()
    return core


def test_an_idle_sidecar_answers_a_shutdown_and_stops_at_once():
    events = Core().shut_down()
    assert kinds(events) == ["RequestAccepted", "DrainStarted", "RequestReplied", "SidecarStopped"]


def test_a_shutdown_is_answered_when_what_runs_has_ended():
    core = a_core_with_one_running_chat()
    assert kinds(core.shut_down()) == ["RequestAccepted", "DrainStarted"]
    assert kinds(core.step(row("r1", "stop"))) == [
        "RequestStreamed",
        "RequestCompleted",
        "RequestReplied",
        "SidecarStopped",
    ]


def test_a_draining_sidecar_refuses_new_work_of_every_kind():
    core = a_core_with_one_running_chat()
    core.shut_down()
    refusals = [core.chat("r2"), core.load("l", OTHER), core.unload("u"), core.pull("p"), core.remove("x", OTHER)]
    assert [e.failure.code for [e] in refusals] == [1009] * 5


def test_what_was_queued_before_the_drain_is_still_served():
    core = Core()
    core.chat("r1")
    core.shut_down()
    core.ready()
    assert kinds(core.step(row("r1", "stop")))[-1] == "SidecarStopped"


def test_the_end_of_the_drain_interrupts_what_is_left():
    core = a_core_with_one_running_chat()
    core.step(row("r1"))
    core.pull("p1", OTHER)
    core.shut_down()
    core.shut_down("bye again")
    assert core.pass_time(BOUNDS.drain_ms - 1) == ()
    events = core.pass_time(1)
    assert kinds(events) == [
        "WorkAbandoned",
        "RequestFailed",
        "PullAbandoned",
        "RequestFailed",
        "RequestReplied",
        "RequestReplied",
        "SidecarStopped",
    ]
    assert events[1].failure.code == 1008
    assert events[1].failure.data["seq"] == 0
    assert "5 s (limits.drain_s) were too short" in events[1].failure.message


def test_a_second_shutdown_does_not_prolong_the_drain():
    core = a_core_with_one_running_chat()
    core.shut_down()
    core.at_ms += BOUNDS.drain_ms // 2
    assert kinds(core.shut_down("again")) == ["RequestAccepted"]
    assert core.state.drain_until_ms == core.at_ms + BOUNDS.drain_ms // 2


def test_a_shutdown_that_comes_after_the_stop_is_answered_too():
    core = Core()
    core.shut_down()
    assert kinds(core.shut_down("again")) == ["RequestAccepted", "RequestReplied"]


def test_a_flood_of_shutdowns_is_refused_and_the_drain_goes_on():
    core = a_core_with_one_running_chat()
    for number in range(BOUNDS.max_queued):
        core.shut_down(f"bye-{number}")
    [refused] = core.shut_down("late")
    assert refused.failure.code == 1001
    assert kinds(core.step(row("r1", "stop"))).count("RequestReplied") == BOUNDS.max_queued


def test_the_end_of_stdin_is_a_shutdown_that_nobody_waits_for():
    core = a_core_with_one_running_chat()
    assert kinds(core.tell(cmd.Shutdown(request="eof", caller=None, reason="eof"))) == ["DrainStarted"]
    assert kinds(core.step(row("r1", "stop")))[-1] == "SidecarStopped"


def test_cancelling_a_shutdown_withdraws_the_call_and_not_the_drain():
    core = a_core_with_one_running_chat()
    core.shut_down("bye")
    core.cancel("bye")
    assert kinds(core.step(row("r1", "stop"))) == ["RequestStreamed", "RequestCompleted", "SidecarStopped"]


def test_a_worker_that_dies_in_the_drain_ends_the_wait():
    core = a_core_with_one_running_chat()
    core.shut_down()
    assert kinds(core.lost()) == [
        "WorkerWentDown",
        "RequestFailed",
        "ModelUnloaded",
        "RequestReplied",
        "SidecarStopped",
    ]


def test_the_log_of_a_stopped_sidecar_is_taken_up_again():
    core = Core()
    core.shut_down()
    core.tell(cmd.Start(version="1", core_version=1, bounds=BOUNDS))
    assert kinds(core.chat("r1", CHAT)) == ["RequestAccepted", "PlacementAsked"]
    assert not any(isinstance(e, ev.RequestRefused) for e in core.events)


def test_a_restart_after_a_drain_that_was_cut_short_names_the_bound():
    core = a_core_with_one_running_chat()
    core.shut_down()
    again = start()
    [failed, *_] = [event for event in core.tell(again) if isinstance(event, ev.RequestFailed)]
    assert (failed.failure.code, "5 s (limits.drain_s) to finish" in failed.failure.message) == (1008, True)
