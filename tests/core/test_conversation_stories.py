"""Conversations in the core: one turn runs at a time, what enters the history, what forks, carries and drops it."""

from core_driver import CHAT, OTHER, Core, row, start

from mlzoo.core.state import needed_from
from mlzoo.events import commands as cmd
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev
from mlzoo.events.facts import History, TurnFacts


def bounds(**more):
    return cmd.Bounds(max_queued=8, max_running=4, queued_bytes=1000, drain_ms=5000, **more)


def turn(core, name, conversation="talk", **more):
    return core.chat(name, conversation=conversation, size_bytes=10, **more)


def only(events, kind):
    [found] = [event for event in events if isinstance(event, kind)]
    return found


def ready():
    core = Core()
    turn(core, "t1")
    core.ready()
    return core


def forked(core, into, rows=(), size_bytes=5):
    command = talk.ForkConversation(
        request=f"fork-{core.seq}", source="talk", conversation=into, persona="", rows=rows, size_bytes=size_bytes
    )
    return core.tell(command)


FACTS = TurnFacts(request="t1", asked_seq=1, ended_seq=2, asked_at_ms=0, ended_at_ms=0)


def test_a_second_turn_waits_for_the_first_and_others_of_the_model_do_not():
    core = ready()
    assert not [e for e in turn(core, "t2") if isinstance(e, ev.RequestDispatched)]
    assert only(turn(core, "other", "another"), ev.RequestDispatched).request == "other"
    dispatched = only(core.step(row("t1", "stop")), ev.RequestDispatched)
    assert dispatched.request == "t2"
    assert dispatched.history.head.request == "t1"


def test_turns_come_in_the_order_of_their_acceptance_whatever_their_priority():
    core = ready()
    turn(core, "t2", priority="batch")
    turn(core, "t3")
    core.step(row("t1", "stop"))
    assert core.state.requests["t2"].phase == "running"
    assert core.state.requests["t3"].phase == "queued"


def test_a_turn_for_another_model_waits_without_having_it_loaded():
    core = ready()
    assert not [e for e in turn(core, "t2", model=OTHER) if isinstance(e, ev.PlacementAsked)]
    assert only(core.step(row("t1", "stop")), ev.PlacementAsked).model == OTHER


def test_a_suspended_turn_is_still_the_running_one_and_goes_on_with_its_own_history():
    core = ready()
    core.step(row("t1", "stop"))
    before = core.state.conversations["talk"].history
    turn(core, "t2", key="k")
    turn(core, "t3")
    core.step(row("t2"))
    core.lost()
    core.ready()
    assert core.state.requests["t2"].phase == "running"
    assert core.state.requests["t3"].phase == "queued"
    resumed = [e for e in core.events if isinstance(e, ev.RequestDispatched) and e.request == "t2"]
    assert [e.history for e in resumed] == [before, before]
    assert core.state.requests["t3"].history is None
    core.check_replay()


def test_a_turn_that_ends_without_running_lets_the_next_one_begin_at_once():
    core = ready()
    core.step(row("t1", "stop"))
    turn(core, "t2")
    turn(core, "t3", determinism="exact")  # the model's bits depend on its company
    turn(core, "t4")
    events = core.step(row("t2", "stop"))
    assert [e.request for e in events if isinstance(e, ev.RequestFailed)] == ["t3"]
    assert only(events, ev.RequestDispatched).request == "t4"


def test_a_completed_turn_is_the_head_and_a_failed_one_stays_out():
    core = ready()
    core.step(row("t1", "stop"))
    found = core.state.conversations["talk"]
    ended_seq = next(
        group.first_seq + 1 + index
        for group in core.groups
        for index, event in enumerate(group.events)
        if isinstance(event, ev.RequestCompleted)
    )
    assert (found.history.head.request, found.history.head.ended_seq, found.turns) == ("t1", ended_seq, 1)
    assert found.history.from_seq == found.history.head.accepted_seq - 1
    turn(core, "t2", deadline_ms=10)
    core.step(row("t2"))
    core.pass_time(20)
    assert core.state.conversations["talk"] == found
    core.check_replay()


def test_a_cancelled_turn_enters_if_it_had_said_something():
    core = ready()
    core.step(row("t1", "stop"))
    turn(core, "t2")
    core.cancel("t2")
    assert core.state.conversations["talk"].turns == 1
    turn(core, "t3")
    core.step(row("t3"))
    core.cancel("t3")
    assert core.state.conversations["talk"].history.head.request == "t3"


def test_an_ephemeral_turn_reads_the_history_and_leaves_none():
    core = ready()
    core.step(row("t1", "stop"))
    assert only(turn(core, "t2", ephemeral=True), ev.RequestDispatched).history.head.request == "t1"
    core.step(row("t2", "stop"))
    assert core.state.conversations["talk"].history.head.request == "t1"
    turn(core, "alone", "nothing", ephemeral=True)
    core.step(row("alone", "stop"))
    assert "nothing" not in core.state.conversations


def test_a_live_turn_needs_its_history():
    core = ready()
    core.step(row("t1", "stop"))
    from_seq = core.state.conversations["talk"].history.from_seq
    core.chat("between")
    core.step(row("between", "stop"))
    turn(core, "t2")
    assert needed_from(core.state) == from_seq


def carried(core, head, *rows):
    command = talk.CarryConversation(
        request=f"carry-{core.seq}", conversation="talk", head=head, base_seq=None, rows=rows, size_bytes=5
    )
    return only(core.tell(command), ev.RequestReplied).result["carried"]


def test_a_copy_takes_the_place_of_the_turns_unless_something_has_happened_since():
    core = ready()
    core.step(row("t1", "stop"))
    head = core.state.conversations["talk"].history.head
    turn(core, "t2")
    assert not carried(core, head, FACTS)  # one runs, and reads
    core.step(row("t2", "stop"))
    assert not carried(core, head, FACTS)  # it was another history
    head = core.state.conversations["talk"].history.head
    seq = core.seq
    assert carried(core, head, FACTS, FACTS)
    assert core.state.conversations["talk"].history == History(base_seq=seq, from_seq=seq)
    turn(core, "t3")
    core.step(row("t3", "stop"))
    history = core.state.conversations["talk"].history
    assert (history.head.request, history.base_seq, history.from_seq) == ("t3", seq, seq)
    core.check_replay()


def test_a_fork_begins_with_a_copy_and_takes_no_name_that_is_taken():
    core = ready()
    seq = core.seq
    reply = only(forked(core, "side", (FACTS,)), ev.RequestReplied)
    assert reply.result == {"conversation": "side", "turns": 1}
    assert core.state.conversations["side"].history == History(base_seq=seq, from_seq=seq)
    for name in ("side", "talk"):  # the first turn of the other one runs
        assert only(forked(core, name), ev.RequestFailed).failure.code == -32602


def test_what_is_dropped_ends_and_its_name_is_free():
    core = ready()
    core.step(row("t1", "stop"))
    turn(core, "t2")
    turn(core, "t3")
    events = core.tell(talk.DropConversation(request="d", conversation="talk"))
    assert [e.request for e in events if isinstance(e, ev.RequestCancelled)] == ["t2", "t3"]
    assert only(events, ev.RequestReplied).result == {"dropped": True}
    assert core.state.conversations == {}
    again = core.tell(talk.DropConversation(request="d2", conversation="talk"))
    assert only(again, ev.RequestReplied).result == {"dropped": False}
    assert only(turn(core, "t4"), ev.RequestDispatched).history == History()


def test_conversations_have_room_for_so_many_and_so_much():
    core = Core(bounds(max_conversations=1, conversation_bytes=4000, conversations_bytes=900))
    turn(core, "t1")
    core.ready()
    core.step(row("t1", "stop"))
    full = only(turn(core, "t2", "second"), ev.RequestRefused).failure
    assert (full.code, full.data["reason"]) == (1014, "conversations_full")
    core.tell(start(bounds(max_conversations=2, conversation_bytes=4000, conversations_bytes=270)))
    assert only(turn(core, "t3"), ev.RequestRefused).failure.data["reason"] == "conversations_full"
    core.tell(start(bounds(conversation_bytes=270)))
    assert only(turn(core, "t4"), ev.RequestRefused).failure.code == 1011
    assert isinstance(turn(core, "t5", ephemeral=True)[0], ev.RequestAccepted)  # it does not grow by that


def test_the_model_facts_of_a_turn_are_its_own():
    core = ready()
    core.step(row("t1", "stop"))
    assert only(turn(core, "t2", model=CHAT), ev.RequestAccepted).conversation == "talk"
