"""Keys, case by case: what is asked under a key that is free, is bound, lives, has ended or is old."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import BOUNDS, CHAT, Core, row

from mlzoo import errors
from mlzoo.core.state import next_strike_ms
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.codec import CODEC

DAY_MS = 24 * 60 * 60 * 1000
KEPT = cmd.Bounds(max_queued=8, max_running=4, queued_bytes=1000, drain_ms=5000, key_ms=DAY_MS)


def bound(*, ended: bool = True, **more: Any) -> Core:
    """Return a core whose key k1 has been used for the request r1, of two pieces."""
    core = Core(KEPT)
    core.chat("r1", key="k1", params_digest="p1", **more)
    core.ready()
    core.step(row("r1", prompt_tokens=3))
    core.step(row("r1", "stop" if ended else None))
    return core


def filed(core: Core) -> cmd.KeyFacts:
    """File what the core's state holds of k1, and return it."""
    facts = core.state.keys["k1"]
    core.tell(cmd.ReportKeysFiled(upto_seq=facts.ended_seq))
    assert core.state.keys == {}
    return facts


def resume(core: Core, **more: Any) -> tuple[ev.Event, ...]:
    caller = core.caller("c2")
    return core.tell(cmd.Resume(request=f"call-{caller.rpc}", caller=caller, **{"key": "k1", **more}))


def refusal(events: tuple[ev.Event, ...]) -> errors.Failure:
    [event] = events
    assert isinstance(event, ev.RequestRefused)
    return event.failure


def test_what_ended_under_a_key_is_remembered_until_it_is_filed():
    core = bound()
    [accepted] = [g for g in core.groups if isinstance(g.command, cmd.Submit)]
    facts = filed(core)
    assert facts == cmd.KeyFacts(
        request="r1",
        params_digest="p1",
        accepted_seq=accepted.first_seq + 1,
        ended_seq=core.groups[-2].last_seq,
        next_seq=2,
        ended_at_ms=core.at_ms,
    )


@pytest.mark.parametrize("state", ["live", "ended", "filed"])
@pytest.mark.parametrize("again", ["submit", "resume"])
def test_a_bound_key_leads_to_its_request_and_runs_nothing(state, again):
    core = bound(ended=state != "live")
    known = filed(core) if state == "filed" else None
    before = core.state
    if again == "submit":
        [event] = core.chat("r2", key="k1", params_digest="p1", stream=True, known=known)
    else:
        [event] = resume(core, after=0, known=known)
    assert isinstance(event, ev.RequestAttached)
    assert (event.target, event.after, event.stream) == ("r1", -1 if again == "submit" else 0, True)
    assert event.from_seq == next(g.first_seq + 1 for g in core.groups if isinstance(g.command, cmd.Submit))
    assert (event.upto_seq is None) == (state == "live")
    assert core.state == before, "it took no place and no turn"


@pytest.mark.parametrize("again", ["submit", "resume"])
def test_once_the_sidecar_has_stopped_what_waits_for_the_next_one_is_not_attached_to(again):
    core = bound(ended=False)
    core.shut_down("bye")
    core.pass_time(KEPT.drain_ms)
    assert core.state.stopped
    assert core.state.requests["r1"].phase == "suspended"
    events = core.chat("r2", key="k1", params_digest="p1") if again == "submit" else resume(core)
    assert refusal(events).code == 1009


def test_once_the_sidecar_has_stopped_what_has_ended_under_a_key_is_still_answered():
    core = bound()
    core.shut_down("bye")
    assert core.state.stopped
    [event] = resume(core)
    assert isinstance(event, ev.RequestAttached)


@pytest.mark.parametrize("again", ["submit", "resume"])
def test_to_cancel_a_call_that_was_attached_is_to_cancel_what_it_is_attached_to(again):
    core = bound(ended=False)
    if again == "submit":
        core.chat("r2", key="k1", params_digest="p1")
        events = core.cancel("r2", key="k1", params_digest="p1")
    else:
        resume(core)
        events = core.cancel("call", key="k1")
    cancelled = [event.request for event in events if isinstance(event, ev.RequestCancelled)]
    assert cancelled == ["r1"]


def test_to_cancel_a_call_that_was_refused_for_other_params_leaves_what_its_key_stands_for_alone():
    core = bound(ended=False)
    assert refusal(core.chat("r2", key="k1", params_digest="p2")).code == -32602
    [event] = core.cancel("r2", key="k1", params_digest="p2")
    assert isinstance(event, ev.RequestReplied)
    assert event.result == {"cancelled": False}


@pytest.mark.parametrize("state", ["live", "ended", "filed", "old"])
def test_other_params_under_a_bound_key_are_refused(state):
    core = bound(ended=state != "live")
    known = filed(core) if state in {"filed", "old"} else None
    core.pass_time(2 * DAY_MS if state == "old" else 0)
    failure = refusal(core.chat("r2", key="k1", params_digest="p2", known=known))
    assert (failure.code, failure.data["path"]) == (-32602, "key")


@pytest.mark.parametrize("closed", ["draining", "disk low", "model gone"])
def test_a_bound_key_is_answered_where_new_work_is_turned_away(closed):
    core = bound()
    gone = errors.ModelNotInstalled("It is not here.").failure() if closed == "model gone" else None
    if closed == "draining":
        core.chat("r0")
        core.shut_down()
    if closed == "disk low":
        core.tell(cmd.ReportStorage(low=True))
    [event] = core.chat("r2", key="k1", params_digest="p1", refused=gone)
    assert isinstance(event, ev.RequestAttached)
    assert refusal(core.chat("r3", key="k2", params_digest="p1", refused=gone)).code in {1009, 1014, 1016}


@pytest.mark.parametrize("code", [1001, 1009, 1011, 1014, 1015, 1016])
def test_a_refusal_at_the_door_binds_no_key(code):
    core = Core(KEPT)
    match code:
        case 1001:
            for number in range(KEPT.max_queued):
                core.chat(f"q{number}")
        case 1009:
            core.shut_down()
        case 1014:
            core.tell(cmd.ReportStorage(low=True))
    refused = {
        1015: errors.LogUnusable("The index is damaged.").failure(),
        1016: errors.ModelNotInstalled("It is not here.").failure(),
    }
    size_bytes = KEPT.queued_bytes + 1 if code == 1011 else 1
    failure = refusal(core.chat("r1", key="k1", params_digest="p1", size_bytes=size_bytes, refused=refused.get(code)))
    assert failure.code == code
    assert core.state.keys == {}
    assert all(request.key == "" for request in core.state.requests.values())


def test_whoever_resumes_a_key_that_was_never_used_hears_so_by_its_digest():
    core = Core(KEPT)
    failure = refusal(resume(core, key="k9"))
    assert (failure.code, failure.data["what"], failure.data["id"]) == (1012, "key", "k9")


@pytest.mark.parametrize(("after", "code"), [(-1, None), (0, None), (1, None), (2, 1013), (99, 1013)])
@pytest.mark.parametrize("ended", [False, True])
def test_a_stream_is_resumed_up_to_its_last_piece_and_not_beyond(after, code, ended):
    core = bound(ended=ended)
    events = resume(core, after=after)
    if code is None:
        [event] = events
        assert isinstance(event, ev.RequestAttached)
    else:
        failure = refusal(events)
        assert (failure.code, failure.data["type"], failure.data["durable"]) == (1013, "ahead", 1)


def test_an_old_key_is_a_tombstone():
    core = bound()
    facts = filed(core)
    core.pass_time(DAY_MS - 1)
    [event] = resume(core, known=facts)
    assert isinstance(event, ev.RequestAttached)
    core.pass_time(1)
    for events in (resume(core, known=facts), core.chat("r2", key="k1", params_digest="p1", known=facts)):
        failure = refusal(events)
        assert (failure.code, failure.data["type"], failure.data["oldest"]) == (1013, "expired", 2)


def test_a_key_whose_answer_the_log_has_given_up_is_a_tombstone_too():
    core = bound()
    facts = filed(core)
    [event] = resume(core, known=facts, kept_from=facts.accepted_seq - 1)
    assert isinstance(event, ev.RequestAttached)
    failure = refusal(resume(core, known=facts, kept_from=facts.accepted_seq + 1))
    assert (failure.code, failure.data["type"]) == (1013, "expired")


def again(core: Core, **more: Any) -> tuple[ev.Event, ...]:
    """Send the request of k1 again, as a call of its own."""
    return core.chat(f"call-{len(core.groups)}", key="k1", params_digest="p1", **more)


def test_a_key_whose_answer_is_damaged_is_told_so_until_it_is_too_old_and_no_other_reason_stands_for_that():
    core = bound()
    facts = filed(core)
    gone = {"known": facts, "kept_from": facts.accepted_seq + 1}
    damaged = errors.LogUnusable("damaged", reason="damaged").failure()
    absent = errors.ModelNotInstalled("absent", model="toy", download_bytes=0).failure()
    for answer in (resume, again):
        assert refusal(answer(core, **gone, refused=damaged)) == damaged
        assert refusal(answer(core, **gone, refused=absent)).code == 1013
    core.pass_time(DAY_MS)
    assert refusal(resume(core, **gone, refused=damaged)).code == 1013


def test_a_cancel_finds_what_lives_under_a_key_from_any_connection():
    core = bound(ended=False)
    caller = core.caller("elsewhere")
    events = core.tell(cmd.Cancel(request="c", caller=caller, target=None, key="k1"))
    assert any(isinstance(event, ev.RequestCancelled) and event.request == "r1" for event in events)
    [reply] = core.tell(cmd.Cancel(request="d", caller=caller, target=None, key="k1"))
    assert isinstance(reply, ev.RequestReplied)
    assert reply.result == {"cancelled": False}
    [event] = resume(core)
    assert isinstance(event, ev.RequestAttached), "that it was cancelled is what the key stands for"


def test_a_connection_that_ends_leaves_what_has_a_key():
    core = bound(ended=False)
    core.chat("r2")
    core.tell(cmd.HostGone(connection="c1"))
    assert list(core.state.requests) == ["r1"]


def test_a_filing_that_is_told_twice_changes_nothing_the_second_time():
    core = bound()
    facts = filed(core)
    assert core.tell(cmd.ReportKeysFiled(upto_seq=facts.ended_seq)) == ()


def test_keys_that_ended_are_waited_for_by_no_clock():
    core = bound()
    core.pass_time(CHAT.keep_alive_ms)
    core.unloaded()
    core.lost(expected=True)
    assert core.state.keys
    assert next_strike_ms(core.state) is None


def test_without_keys_nothing_is_remembered():
    core = Core(BOUNDS)
    core.chat("r1", params_digest="p1")
    core.ready()
    core.step(row("r1", "stop"))
    assert core.state.keys == {}
    assert all("key" not in attrs_of(event) for event in core.events if isinstance(event, ev.RequestAccepted))


def attrs_of(event: ev.RequestAccepted) -> set[str]:
    """Return the fields that differ from their defaults, as the log has them."""
    return set(CODEC.data(event))
