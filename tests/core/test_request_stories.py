"""The life of a request, told to the pure core one command at a time."""

from __future__ import annotations

from core_driver import BOUNDS, CHAT, EMBED, OTHER, Core, device, row, start

from mlzoo import errors
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev


def kinds(events):
    return [type(event).__name__ for event in events]


def only(events, kind):
    [event] = [e for e in events if isinstance(e, kind)]
    return event


def running(core):
    return [r.id for r in core.state.requests.values() if r.phase == "running"]


def a_core_with_one_running_chat():
    core = Core()
    core.chat("r1")
    core.ready()
    assert running(core) == ["r1"]
    return core


def test_a_chat_is_accepted_placed_loaded_dispatched_streamed_and_completed():
    core = Core()
    assert kinds(core.chat("r1")) == ["RequestAccepted", "PlacementAsked"]
    core.at_ms += 5
    assert kinds(core.devices()) == ["DevicesSeen", "ModelLoadStarted"]
    assert kinds(core.worker_up()) == ["WorkerWentUp"]
    core.at_ms += 10
    assert kinds(core.loaded()) == ["ModelReady", "RequestDispatched"]
    core.at_ms += 20
    first = only(core.step(row("r1", prompt_tokens=12, cached_tokens=4)), ev.RequestStreamed)
    assert (first.seq, first.row, first.prompt_tokens) == (0, 0, 12)
    core.at_ms += 30
    events = core.step(row("r1", "stop", digest="d"))
    assert kinds(events) == ["RequestStreamed", "RequestCompleted"]
    done = only(events, ev.RequestCompleted)
    assert done.timing == ev.Timing(queue_ms=15, ttft_ms=35, total_ms=65)
    assert (done.prompt_tokens, done.completion_tokens, done.cached_tokens) == (12, 2, 4)
    assert (done.digest, done.device, done.finish_reason) == ("d", "cpu", "stop")
    assert core.state.requests == {}
    core.check_replay()


def test_a_row_that_shows_nothing_yet_takes_no_stream_seq():
    core = a_core_with_one_running_chat()
    seqs = [only(core.step(row("r1", size_bytes=size)), ev.RequestStreamed).seq for size in (0, 3, 0, 3)]
    assert seqs == [None, 0, None, 1]


def test_an_embedding_comes_whole():
    core = Core()
    core.tell(cmd.Submit(request="e1", caller=core.caller(), method="embed", model=EMBED))
    core.ready(EMBED)
    done = only(
        core.tell(cmd.ReportAnswer(request="e1", prompt_tokens=9, count=2, dimensions=384, blob="b")),
        ev.RequestCompleted,
    )
    assert (done.count, done.dimensions, done.blob, done.prompt_tokens) == (2, 384, "b", 9)
    assert core.tell(cmd.ReportAnswer(request="e1")) == ()


def test_no_more_requests_wait_than_max_queued():
    core = Core()
    for number in range(BOUNDS.max_queued):
        core.chat(f"r{number}")
    failure = only(core.chat("late"), ev.RequestRefused).failure
    assert failure.code == 1001
    assert failure.data["queued"] == failure.data["limit"] == BOUNDS.max_queued
    assert failure.data["retryable"]
    assert "late" not in core.state.requests


def test_calls_about_models_are_counted_apart_and_bounded_too():
    core = Core()
    for number in range(BOUNDS.max_queued):
        core.pull(f"p{number}")
    failure = only(core.pull("late"), ev.RequestRefused).failure
    assert (failure.code, failure.data["unit"]) == (1001, "calls")
    assert kinds(core.chat("r1")) == ["RequestAccepted", "PlacementAsked"]


def test_no_more_bytes_are_held_than_queued_bytes_and_the_refusal_says_bytes():
    core = Core()
    core.chat("r1", size_bytes=600)
    failure = only(core.chat("r2", size_bytes=600), ev.RequestRefused).failure
    assert failure.code == 1001
    assert failure.data["limit"] == BOUNDS.queued_bytes
    assert "bytes" in failure.message


def test_a_request_that_could_never_fit_is_too_large_and_not_told_to_retry():
    core = Core()
    failure = only(core.chat("r1", size_bytes=BOUNDS.queued_bytes + 1), ev.RequestRefused).failure
    assert (failure.code, failure.data["retryable"]) == (errors.TooLarge.code, False)
    assert (failure.data["limit"], failure.data["got"]) == (BOUNDS.queued_bytes, BOUNDS.queued_bytes + 1)


def test_retry_after_is_reckoned_from_the_time_that_requests_run_not_from_the_time_they_waited():
    core = Core()
    core.chat("r1")
    core.at_ms += 600_000  # a long load
    core.ready()
    core.at_ms += 2_000
    core.step(row("r1", "stop"))
    for number in range(CHAT.slots + BOUNDS.max_queued):
        core.chat(f"q{number}")
    failure = only(core.chat("late"), ev.RequestRefused).failure
    assert failure.data["retry_after_ms"] == 2_000 * (BOUNDS.max_queued + 1) // CHAT.slots


def test_retry_after_is_not_reckoned_from_short_work_while_what_runs_takes_long():
    core = Core()
    core.tell(cmd.Submit(request="t", caller=core.caller(), method="tokenize", model=CHAT))
    core.ready()
    core.at_ms += 2
    core.tell(cmd.ReportAnswer(request="t", prompt_tokens=9))
    for number in range(CHAT.slots + BOUNDS.max_queued):
        core.chat(f"q{number}")
    core.at_ms += 20_000
    failure = only(core.chat("late"), ev.RequestRefused).failure
    assert failure.data["retry_after_ms"] == 20_000 * (BOUNDS.max_queued + 1) // CHAT.slots


def test_retry_after_counts_the_slots_that_there_was_memory_for():
    core = Core()
    core.chat("r1")
    core.devices(device("cpu", 100))
    core.worker_up("cpu")
    core.tell(cmd.ReportLoaded(model=CHAT.name, device="cpu", memory_bytes=40, context=64, slots=1))
    core.at_ms += 2_000
    core.step(row("r1", "stop"))
    for number in range(1 + BOUNDS.max_queued):
        core.chat(f"q{number}")
    failure = only(core.chat("late"), ev.RequestRefused).failure
    assert failure.data["retry_after_ms"] == 2_000 * (BOUNDS.max_queued + 1)


def test_nothing_new_is_taken_in_while_the_disk_is_low_and_what_runs_goes_on():
    core = a_core_with_one_running_chat()
    core.tell(cmd.ReportStorage(low=True))
    assert core.tell(cmd.ReportStorage(low=True)) == ()
    failure = only(core.chat("r2"), ev.RequestRefused).failure
    assert (failure.code, failure.data["reason"], failure.data["retryable"]) == (1014, "disk_low", True)
    assert only(core.load("l1", OTHER), ev.RequestRefused).failure.code == 1014
    assert kinds(core.step(row("r1", "stop"))) == ["RequestStreamed", "RequestCompleted"]
    core.tell(cmd.ReportStorage(low=False))
    assert kinds(core.chat("r3")) == ["RequestAccepted", "RequestDispatched"]


def test_cancelling_a_queued_request_ends_it_without_touching_a_worker():
    core = Core()
    core.chat("r1")
    events = core.cancel("r1")
    assert kinds(events) == ["RequestCancelled", "RequestReplied"]
    assert only(events, ev.RequestReplied).result == {"cancelled": True}


def test_cancelling_a_running_request_withdraws_it_and_fills_its_slot():
    core = a_core_with_one_running_chat()
    core.chat("r2")
    core.chat("r3")
    events = core.cancel("r1")
    assert kinds(events) == ["WorkAbandoned", "RequestCancelled", "RequestReplied", "RequestDispatched"]
    assert running(core) == ["r2", "r3"]


def test_a_row_that_arrives_after_the_cancel_is_dropped_and_its_neighbours_are_not():
    core = a_core_with_one_running_chat()
    core.chat("r2")
    core.cancel("r1")
    [streamed] = core.step(row("r1"), row("r2"))
    assert (streamed.request, streamed.row) == ("r2", 1)
    assert core.tell(cmd.ReportFailure(request="r1", failure=errors.OutOfMemory("late").failure())) == ()


def test_a_row_of_a_request_that_no_worker_has_is_dropped():
    core = Core()
    core.chat("r1")
    assert core.step(row("r1", "stop")) == core.tell(cmd.ReportAnswer(request="r1")) == ()


def test_cancelling_what_is_unknown_finished_or_cancelled_already_is_no_error():
    core = a_core_with_one_running_chat()
    core.step(row("r1", "stop"))
    core.chat("r2")
    core.cancel("r2")
    for target in (None, "never", "r1", "r2"):
        [reply] = core.cancel(target)
        assert reply.result == {"cancelled": False}
    assert core.tell(cmd.Cancel(request="n", caller=None, target="r1")) == ()


def test_a_failure_in_the_worker_ends_one_request_and_gives_its_slot_to_the_next():
    core = a_core_with_one_running_chat()
    core.chat("r2")
    core.chat("r3")
    failure = errors.ContextLengthExceeded("too long", limit=8, got=9).failure()
    events = core.tell(cmd.ReportFailure(request="r1", failure=failure))
    assert only(events, ev.RequestFailed).failure == failure
    assert running(core) == ["r2", "r3"]


def test_a_deadline_ends_a_request_wherever_it_is():
    core = Core()
    core.chat("runs", deadline_ms=500)
    core.ready()
    core.chat("alone")
    core.chat("waits", deadline_ms=400)
    assert core.pass_time(399) == ()
    assert kinds(core.pass_time(1)) == ["RequestFailed"]
    events = core.pass_time(100)
    assert kinds(events) == ["WorkAbandoned", "RequestFailed"]
    assert only(events, ev.RequestFailed).failure.code == 1002
    assert list(core.state.requests) == ["alone"]


def test_interactive_requests_go_before_batch_and_each_kind_in_its_order():
    core = Core()
    core.chat("b1", OTHER, priority="batch")
    core.chat("b2", OTHER, priority="batch")
    core.chat("i1", OTHER)
    core.chat("i2", OTHER)
    core.ready(OTHER)
    order = running(core)
    while core.state.requests:
        [now] = running(core)
        core.step(row(now, "stop"))
        order += running(core)
    assert order == ["i1", "i2", "b1", "b2"]


def test_no_more_run_than_a_model_has_slots():
    core = Core()
    for number in range(4):
        core.chat(f"r{number}")
    core.ready()
    assert running(core) == ["r0", "r1"]
    core.step(row("r0", "length"))
    assert running(core) == ["r1", "r2"]


def test_no_more_run_than_max_running_over_all_models():
    core = Core(cmd.Bounds(max_queued=8, max_running=3, queued_bytes=1000, drain_ms=5000))
    for number in range(2):
        core.chat(f"c{number}")
        core.tell(cmd.Submit(request=f"e{number}", caller=core.caller(), method="embed", model=EMBED))
    core.ready()
    core.ready(EMBED)
    assert running(core) == ["c0", "e0", "c1"]
    core.tell(cmd.ReportAnswer(request="e0"))
    assert running(core) == ["c0", "c1", "e1"]


def test_a_connection_that_ends_takes_only_its_own_requests_with_it():
    core = a_core_with_one_running_chat()
    core.chat("theirs", connection="c2")
    core.pull("p1", OTHER)
    events = core.tell(cmd.HostGone(connection="c1"))
    assert kinds(events) == ["WorkAbandoned", "RequestFailed", "PullAbandoned", "RequestFailed"]
    assert list(core.state.requests) == ["theirs"]


def test_an_incident_is_noted_ends_the_request_it_was_about_and_frees_its_worker():
    core = a_core_with_one_running_chat()
    core.chat("r2")
    number = core.seq
    events = core.tell(cmd.ReportIncident(command="ReportAnswer", error="KeyError", request="r1"))
    assert kinds(events) == ["IncidentNoted", "WorkAbandoned", "RequestFailed"]
    failure = only(events, ev.RequestFailed).failure
    assert (failure.code, failure.data["incident"]) == (-32603, number)
    assert list(core.state.requests) == ["r2"]


def test_an_incident_about_a_call_that_was_never_accepted_answers_its_caller():
    core = Core()
    caller = core.caller()
    events = core.tell(cmd.ReportIncident(command="Submit", error="KeyError", request="r1", caller=caller))
    assert only(events, ev.RequestFailed).caller == caller
    assert kinds(core.tell(cmd.ReportIncident(command="ReportLoaded", error="KeyError"))) == ["IncidentNoted"]


def test_a_restart_ends_what_the_last_sidecar_left_and_forgets_its_models_and_workers():
    core = a_core_with_one_running_chat()
    core.step(row("r1"), row("r1"))
    core.chat("waits", OTHER)
    events = core.tell(start())
    failed = [e for e in events if isinstance(e, ev.RequestFailed)]
    assert [(e.request, e.failure.code, e.failure.data.get("seq")) for e in failed] == [
        ("r1", 1008, 1),
        ("waits", 1008, None),
    ]
    assert all("The sidecar ended while" in e.failure.message for e in failed)
    assert (core.state.requests, core.state.models, core.state.workers) == ({}, {}, {})
    assert kinds(core.chat("r2")) == ["RequestAccepted", "PlacementAsked"]
    core.check_replay()


def test_a_fall_back_to_a_slower_device_is_said_in_the_answer():
    core = Core()
    core.chat("r1")
    core.devices(device("cuda:0", 0, usable=False, reason="the driver is too old"), device("cpu", 100))
    core.loaded()
    done = only(core.step(row("r1", "stop")), ev.RequestCompleted)
    assert done.degraded == "cuda:0: the driver is too old"


def test_what_shows_has_a_seq_be_it_text_reasoning_or_a_call_of_a_tool():
    core = a_core_with_one_running_chat()
    silent = cmd.RowFacts(request="r1", tokens=1, size_bytes=0)
    thinks = cmd.RowFacts(request="r1", tokens=1, size_bytes=0, reasoning_bytes=4)
    calls = cmd.RowFacts(request="r1", tokens=1, size_bytes=0, tool_calls=1, finish_reason="tool_calls")
    assert [e.seq for e in core.step(silent) + core.step(thinks)] == [None, 0]
    *streamed, completed = core.step(calls)[:2]
    assert ([e.seq for e in streamed], completed.finish_reason) == ([1], "tool_calls")


def test_an_api_says_how_many_tokens_there_were_instead_of_each_of_them():
    core = a_core_with_one_running_chat()
    core.step(cmd.RowFacts(request="r1", tokens=0, size_bytes=5))
    last = cmd.RowFacts(
        request="r1", tokens=0, size_bytes=0, prompt_tokens=9, completion_tokens=4, finish_reason="stop"
    )
    completed = only(core.step(last), ev.RequestCompleted)
    assert (completed.prompt_tokens, completed.completion_tokens) == (9, 4)
