"""What goes on after its worker, its connection or its sidecar is gone, how it goes on, and what ends all the same."""

from __future__ import annotations

import pytest
from core_driver import BOUNDS, CHAT, EMBED, OTHER, Core, row, start

from mlzoo.core.state import needed_from
from mlzoo.core.suspects import MOST_LOSSES
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

BITS = "f1"


def kinds(events):
    return [type(event).__name__ for event in events]


def the(kind, events):
    [event] = [event for event in events if isinstance(event, kind)]
    return event


def a_core_with_a_keyed_chat(tokens=2, *, fingerprint=BITS, **more):
    core = Core()
    core.chat("r1", key="k1", **more)
    core.ready(fingerprint=fingerprint)
    for _ in range(tokens):
        core.step(row("r1"))
    return core


def test_a_keyed_request_whose_worker_died_is_suspended_and_runs_again_once_its_model_is_back():
    core = a_core_with_a_keyed_chat()
    assert kinds(core.lost()) == ["WorkerWentDown", "RequestSuspended", "ModelUnloaded", "PlacementAsked"]
    assert (core.state.requests["r1"].phase, core.state.requests["r1"].device) == ("suspended", None)
    assert kinds(core.ready(fingerprint=BITS)) == ["ModelReady", "RequestDispatched"]
    core.step(row("r1"))
    done = the(ev.RequestCompleted, core.step(row("r1", "stop")))
    assert [e.seq for e in core.events if isinstance(e, ev.RequestStreamed)] == [0, 1, 2, 3]
    assert (done.completion_tokens, done.resumed) == (4, "prefill")


def test_what_has_no_key_ends_beside_what_has_one():
    core = a_core_with_a_keyed_chat()
    core.chat("r2")
    events = core.lost()
    assert the(ev.RequestFailed, events).request == "r2"
    assert the(ev.RequestSuspended, events).request == "r1"


@pytest.mark.parametrize(
    ("determinism", "tokens", "later", "resume"),
    [
        ("exact", 2, BITS, "exact"),
        ("exact", 2, "f2", "prefill"),
        ("fast", 2, BITS, "prefill"),
        ("exact", 0, "f2", None),
        ("fast", 0, BITS, None),
    ],
)
@pytest.mark.parametrize("lost", ["worker", "sidecar"])
def test_a_request_is_continued_as_exactly_as_what_computes_it_allows(lost, determinism, tokens, later, resume):
    core = a_core_with_a_keyed_chat(tokens, determinism=determinism)
    if lost == "worker":
        core.lost()
    else:
        assert the(ev.RequestSuspended, core.tell(start())).reason == "sidecar"
    dispatched = the(ev.RequestDispatched, core.ready(fingerprint=later))
    assert dispatched.resume == resume
    assert the(ev.RequestCompleted, core.step(row("r1", "stop"))).resumed == resume


def test_what_was_once_continued_by_prefill_is_never_exact_again():
    core = a_core_with_a_keyed_chat(determinism="exact")
    for fingerprint in ("f2", BITS, "f2"):
        core.lost()
        assert the(ev.RequestDispatched, core.ready(fingerprint=fingerprint)).resume == "prefill"
        core.step(row("r1"))


def test_a_request_that_begins_anew_is_exact_under_what_computes_it_then():
    core = a_core_with_a_keyed_chat(0, determinism="exact")
    core.lost()
    core.ready(fingerprint="f2")
    core.step(row("r1"))
    core.lost()
    assert the(ev.RequestDispatched, core.ready(fingerprint="f2")).resume == "exact"


def test_a_model_that_promises_no_equal_bits_refuses_exact_and_serves_fast():
    core = Core()
    core.chat("exact", determinism="exact")
    core.chat("fast")
    events = core.ready(fingerprint="")
    failure = the(ev.RequestFailed, events).failure
    assert (failure.code, failure.data["feature"]) == (1010, "determinism: exact")
    assert the(ev.RequestDispatched, events).request == "fast"


def test_a_request_that_may_be_what_kills_its_worker_ends_after_some_losses():
    core = a_core_with_a_keyed_chat()
    for _ in range(MOST_LOSSES - 1):
        assert "RequestSuspended" in kinds(core.lost())
        core.ready(fingerprint=BITS)
    failure = the(ev.RequestFailed, core.lost()).failure
    assert (failure.code, failure.data["seq"], failure.data["resumable"]) == (1008, 1, False)


def test_two_that_may_be_what_kills_their_worker_never_run_beside_each_other():
    core = a_core_with_a_keyed_chat()
    core.chat("r2", key="k2")
    for _ in range(MOST_LOSSES - 1):
        core.lost()
        events = core.ready(fingerprint=BITS)
    assert the(ev.RequestDispatched, events).request == "r1"
    assert the(ev.RequestDispatched, core.chat("r3", key="k3")).request == "r3"
    events = core.lost()
    assert the(ev.RequestFailed, events).request == "r1"
    assert the(ev.RequestSuspended, events).request == "r3"
    events = core.ready(fingerprint=BITS)
    assert [event.request for event in events if isinstance(event, ev.RequestDispatched)] == ["r2", "r3"]


def test_who_has_said_a_token_lets_the_next_one_run_beside_it():
    core = a_core_with_a_keyed_chat()
    core.chat("r2", key="k2")
    for _ in range(MOST_LOSSES - 1):
        core.lost()
        core.ready(fingerprint=BITS)
    assert the(ev.RequestDispatched, core.step(row("r1", size_bytes=0))).request == "r2"


def test_losses_between_which_a_token_came_do_not_end_a_request():
    core = a_core_with_a_keyed_chat()
    for _ in range(3 * MOST_LOSSES):
        assert "RequestSuspended" in kinds(core.lost())
        core.ready(fingerprint=BITS)
        core.step(row("r1", size_bytes=0))


def test_starts_of_the_sidecar_are_no_losses_of_the_worker():
    core = a_core_with_a_keyed_chat()
    for _ in range(3 * MOST_LOSSES):
        core.tell(start())
        core.ready(fingerprint=BITS)
    assert core.state.requests["r1"].losses == 0


def test_a_worker_that_dies_while_it_loads_is_started_again_for_what_has_a_key_and_not_for_ever():
    core = a_core_with_a_keyed_chat()
    core.chat("unkeyed")
    core.lost()
    for attempt in range(1, MOST_LOSSES):
        core.devices()
        events = core.lost()
        if attempt == 1:
            assert "ModelFailed" in kinds(events)
        assert ("RequestSuspended" in kinds(events)) == (attempt < MOST_LOSSES - 1)
    assert core.state.requests == {}


def test_a_second_start_has_nothing_to_say_of_what_is_suspended_already():
    core = a_core_with_a_keyed_chat()
    core.tell(start())
    assert kinds(core.tell(start())) == ["SidecarStarted", "PlacementAsked"]


def test_what_was_queued_under_a_key_is_taken_up_by_the_next_sidecar():
    core = Core()
    for name in ("r1", "r2"):
        core.chat(name, OTHER, key=name)
    core.tell(start())
    assert the(ev.RequestDispatched, core.ready(OTHER)).request == "r1"
    core.step(row("r1", "stop"))
    assert core.state.requests["r2"].phase == "running"


def test_who_has_begun_goes_on_before_who_has_not_also_one_of_a_batch():
    core = Core()
    core.chat("begun", OTHER, key="k", priority="batch")
    core.ready(OTHER)
    core.chat("waits", OTHER)
    core.lost()
    assert the(ev.RequestDispatched, core.ready(OTHER)).request == "begun"


def test_what_is_suspended_counts_as_waiting_at_the_door():
    core = Core()
    for number in range(BOUNDS.max_queued):
        core.chat(f"r{number}", key=f"k{number}")
    core.tell(start())
    assert core.chat("late")[0].failure.code == 1001


def test_an_embedding_under_a_key_is_simply_asked_again():
    core = Core()
    core.tell(cmd.Submit(request="e", caller=core.caller(), method="embed", model=EMBED, key="k"))
    core.ready(EMBED)
    core.lost()
    assert the(ev.RequestDispatched, core.ready(EMBED)).resume is None
    assert the(ev.RequestCompleted, core.tell(cmd.ReportAnswer(request="e", count=1))).resumed is None


def test_a_row_that_comes_from_before_the_loss_is_dropped():
    core = a_core_with_a_keyed_chat()
    core.lost()
    assert core.step(row("r1")) == ()


def test_the_end_of_the_drain_suspends_what_has_a_key_and_the_sidecar_leaves():
    core = a_core_with_a_keyed_chat()
    core.chat("waits", OTHER, key="k2")
    core.chat("unkeyed", OTHER)
    core.shut_down()
    events = core.pass_time(BOUNDS.drain_ms)
    assert [e.reason for e in events if isinstance(e, ev.RequestSuspended)] == ["drain", "drain"]
    assert the(ev.RequestFailed, events).request == "unkeyed"
    assert kinds(events)[-2:] == ["RequestReplied", "SidecarStopped"]
    core.tell(start())
    assert "RequestDispatched" in kinds(core.ready(fingerprint=BITS))


def test_who_waits_for_what_was_suspended_before_hears_of_the_end_of_the_drain_too():
    core = a_core_with_a_keyed_chat()
    core.tell(start())
    core.shut_down()
    assert the(ev.RequestSuspended, core.pass_time(BOUNDS.drain_ms)).request == "r1"


def test_what_goes_on_in_the_drain_is_waited_for():
    core = a_core_with_a_keyed_chat()
    core.tell(start())
    core.shut_down()
    core.ready(fingerprint=BITS)
    assert kinds(core.step(row("r1", "stop")))[-2:] == ["RequestReplied", "SidecarStopped"]


def test_without_time_to_drain_what_has_a_key_is_suspended_at_once():
    core = Core(cmd.Bounds(max_queued=8, max_running=4, queued_bytes=1000, drain_ms=0))
    core.chat("r1", key="k")
    assert kinds(core.tell(cmd.Shutdown(request="eof", caller=None, reason="eof"))) == [
        "DrainStarted",
        "RequestSuspended",
        "SidecarStopped",
    ]


def test_a_cancel_by_key_ends_what_is_suspended():
    core = a_core_with_a_keyed_chat()
    core.lost()
    events = core.tell(cmd.Cancel(request="c", caller=core.caller(), target=None, key="k1"))
    assert kinds(events)[:2] == ["RequestCancelled", "RequestReplied"]
    assert core.state.requests == {}


def test_a_deadline_holds_on_while_a_request_is_suspended():
    core = a_core_with_a_keyed_chat(deadline_ms=1000)
    core.lost()
    failure = the(ev.RequestFailed, core.pass_time(1000)).failure
    assert failure.code == 1002


def test_timing_counts_from_the_first_run():
    core = Core()
    core.chat("r1", key="k1")
    core.at_ms += 10
    core.ready(fingerprint=BITS)
    core.at_ms += 5
    core.step(row("r1", prompt_tokens=4))
    core.lost()
    core.at_ms += 100
    core.ready(fingerprint=BITS)
    done = the(ev.RequestCompleted, core.step(row("r1", "stop")))
    assert (done.timing.queue_ms, done.timing.ttft_ms, done.timing.total_ms) == (10, 15, 115)
    assert (done.prompt_tokens, done.completion_tokens) == (4, 2)


def test_the_records_of_what_is_suspended_are_needed_as_long_as_it_is():
    core = a_core_with_a_keyed_chat()
    accepted_seq = core.state.requests["r1"].accepted_seq
    core.chat("other", CHAT)
    core.tell(start())
    assert needed_from(core.state) == accepted_seq
    core.tell(cmd.Cancel(request="c", caller=core.caller(), target=None, key="k1"))
    assert needed_from(core.state) is None
