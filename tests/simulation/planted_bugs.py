"""Bugs that one could make, planted: each a small change of the real code, under a name that says what is wrong."""

import attrs

from mlzoo import errors
from mlzoo.actors import cursors, engine, ephemeral, ledger
from mlzoo.actors.connection import Connection
from mlzoo.actors.ledger import Ledger
from mlzoo.actors.outbox import Outbox
from mlzoo.actors.watchdog import Watchdog
from mlzoo.actors.worker import Worker
from mlzoo.core import apply, keys, routing, schedule
from mlzoo.core.state import State
from mlzoo.events import closed, forgetting, framing, recovery
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.answers import KeptAnswers
from mlzoo.events.durability import Durability
from mlzoo.events.forgetter import Forgetter
from mlzoo.events.history import HistoryReader
from mlzoo.events.log import Log
from mlzoo.events.records import is_terminal
from mlzoo.events.writing import SegmentWriter
from mlzoo.simulation import recoveries
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.world import SimulatedIds
from mlzoo.state_codec import STATES
from mlzoo.views import RequestView, Result
from mlzoo.world import RealIds


def checksums_say_nothing(patch):
    patch.setattr(framing, "crc32", lambda _data: 0)


def called_synced_when_written(patch):
    def wrote(self, seq):
        self.written = self.synced = seq

    patch.setattr(Durability, "wrote", wrote)


def names_are_never_synced(patch):
    async def sync_dir(self, _path):
        return

    patch.setattr(SimulatedDisk, "sync_dir", sync_dir)


def full_segments_are_not_synced(patch):
    sync = SegmentWriter.sync

    async def only_the_last(self):
        self._sealed.clear()
        await sync(self)

    patch.setattr(SegmentWriter, "sync", only_the_last)


def the_torn_tail_stays(patch):
    async def cut(segments, first, found):
        segments.sizes[first] = found.whole_bytes
        return "as good as cut"

    patch.setattr(recovery, "_cut", cut)


def the_last_segment_is_believed_alone(patch):
    patch.setattr(recovery, "_lost_before", lambda *_: False)


def a_segment_begins_with_an_empty_state(patch):
    patch.setattr(Ledger, "snapshot", lambda _self: STATES.data(State()))


def the_fold_forgets_streams(patch):
    class Forgetful(ledger.Folding):
        def add(self, group):
            if type(group.command).__name__ != "ReportStep":
                super().add(group)

    patch.setattr(ledger, "Folding", Forgetful)


def nobody_looks_at_what_an_orderly_end_said(patch):
    recover = recoveries.recover

    async def careless(segments, *, strict, closed):
        return await recover(segments, strict=strict)

    patch.setattr(recoveries, "recover", careless)


def an_end_is_called_durable_before_it_is(patch):
    flush = Durability.flush

    async def flush_and_tell_first(self, *, seals=False):
        if self.written > self.synced and (crc := self._writer.last_crc) is not None:
            disk = self._writer.segments.disk
            await closed.write(disk, self._path, closed.Closed(self.written, crc))
        await flush(self, seals=seals)

    patch.setattr(Durability, "flush", flush_and_tell_first)


RECOVERY_BUGS = {
    checksums_say_nothing: {"I7"},
    called_synced_when_written: {"I2"},
    names_are_never_synced: {"I2"},
    full_segments_are_not_synced: {"I2"},
    the_torn_tail_stays: {"I7"},
    the_last_segment_is_believed_alone: {"I7"},
    a_segment_begins_with_an_empty_state: {"I8"},
    the_fold_forgets_streams: {"I8"},
    nobody_looks_at_what_an_orderly_end_said: {"I2"},
    an_end_is_called_durable_before_it_is: {"I7"},
}
"""What is wrong -> the invariants of which at least one must say so."""


# ------------------------------------------------------------------------------------------------ in the whole app


def _decided(patch, change):
    """Have the core decide something else: change(state, command, events) returns the events."""
    decide = engine.decide

    def decided(state, command, first_seq, at_ms):
        events, after = decide(state, command, first_seq, at_ms)
        return tuple(change(state, command, events)), after

    patch.setattr(engine, "decide", decided)


def requests_end_twice(patch):
    _decided(patch, lambda _s, _c, events: [e for event in events for e in [event] * (1 + is_terminal(event))])


def pieces_are_counted_from_one(patch):
    def change(_state, _command, events):
        for event in events:
            if isinstance(event, ev.RequestStreamed) and event.seq is not None:
                yield attrs.evolve(event, seq=event.seq + 1)
            else:
                yield event

    _decided(patch, change)


def told_before_it_is_durable(patch):
    patch.setattr(Log, "is_shown", lambda self, group: True)


def a_token_comes_after_the_end(patch):
    def change(_state, command, events):
        yield from events
        for event in events:
            if isinstance(event, ev.RequestCompleted) and isinstance(command, cmd.ReportStep):
                yield ev.RequestStreamed(request=event.request, row=0, tokens=1, seq=None)

    _decided(patch, change)


def nothing_ever_strikes(patch):
    patch.setattr(engine, "next_strike_ms", lambda _state: None)


def neither_clock_nor_beats_end_what_hangs(patch):
    nothing_ever_strikes(patch)
    patch.setattr(Watchdog, "tick", lambda _self: None)


def late_tokens_of_a_cancelled_request_are_recorded(patch):
    def change(state, command, events):
        yield from events
        if isinstance(command, cmd.ReportStep):
            for row, facts in enumerate(command.rows):
                if facts.request not in state.requests:
                    yield ev.RequestStreamed(request=facts.request, row=row, tokens=1, seq=None)

    _decided(patch, change)


def a_worker_takes_all_requests_with_it(patch):
    def change(state, command, events):
        yield from events
        if isinstance(command, cmd.ReportWorkerLost):
            failure = errors.Interrupted("gone").failure()
            for request in state.requests.values():
                if request.phase == "running" and request.device != command.device:
                    yield ev.RequestFailed(request=request.id, caller=request.caller, failure=failure)

    _decided(patch, change)


def what_a_host_does_not_take_is_kept_in_memory(patch):
    def asides(self, lines, _first_seq):
        if lines and not self._is_taken(b"".join(lines)):
            self._whole.extend(lines)
            self._whole.append(b"x" * 70_000 + b"\n")  # as if there were many
            self._news.set()

    patch.setattr(Outbox, "asides", asides)


def malformed_lines_are_answered_twice(patch):
    refuse = Connection._refuse

    def twice(self, bad, batch):
        refuse(self, bad, batch)
        refuse(self, bad, batch)

    patch.setattr(Connection, "_refuse", twice)


def the_newline_comes_later(patch):
    def is_taken(self, data):
        return self._stream.send_nowait(data[:-1]) and self._stream.send_nowait(b"\n")

    patch.setattr(Outbox, "_is_taken", is_taken)


def the_clock_is_that_on_the_wall(patch):
    def now_ms(self):
        return self._clock.wall_ms() - 1_700_000_000_000 - self._began_ms

    patch.setattr(Ledger, "now_ms", now_ms)


def a_process_is_started_for_each_frame(patch):
    async def spawned_twice(self, load):
        await self._spawn(self._device)
        return await started(self, load)

    started = Worker._start
    patch.setattr(Worker, "_start", spawned_twice)


def keys_are_forgotten(patch):
    patch.setattr(keys, "reuse", lambda _draft, _command: False)


def other_params_are_taken_for_the_same(patch):
    reuse = keys.reuse

    def careless(draft, command):
        bound = keys._bound(draft, command)
        return reuse(draft, command if bound is None else attrs.evolve(command, params_digest=bound.params_digest))

    patch.setattr(keys, "reuse", careless)


def ephemeral_text_is_recorded(patch):
    patch.setattr(engine, "kept_text", lambda _ledger, _command, text: text)


def forgetting_forgets_nothing(patch):
    async def forget(self, target):
        return 1

    patch.setattr(Forgetter, "forget", forget)


def what_was_forgotten_is_told_as_empty(patch):
    patch.setattr(RequestView, "_ending", lambda self, event, text: Result(self._result(event, text)))


def who_comes_again_brings_forgotten_words_back(patch):
    patch.setattr(ephemeral, "_why_key_is_gone", lambda _ledger, _command: None)


def forgetting_takes_the_text_of_others(patch):
    without_rows = forgetting._without_rows

    def without_all(line, start, rows, which):
        return without_rows(line, start, rows, [True] * len(which))

    patch.setattr(forgetting, "_without_rows", without_all)


def what_keys_stand_for_is_not_copied(patch):
    async def put(self, _answers):
        return

    patch.setattr(KeptAnswers, "put", put)


def subscribers_miss_commands(patch):
    params = cursors.event_params

    def one_later(group, index):
        return params(group, max(index, 1))

    patch.setattr(cursors, "event_params", one_later)


def whatever_goes_on_is_called_exact(patch):
    patch.setattr(schedule, "_resumption", lambda request, _model: "exact" if request.completion_tokens else None)


def whatever_goes_on_is_prefilled(patch):
    patch.setattr(schedule, "_resumption", lambda request, _model: "prefill" if request.completion_tokens else None)


def a_route_goes_on_amid_an_answer(patch):
    patch.setattr(routing, "may_move_on", lambda request, failure: bool(request.chain))


def turns_that_follow_are_not_counted(patch):
    with_turn = apply.with_turn

    def only_the_first(state, request, seq, at_ms, *, cancelled):
        is_known = request.conversation in state.conversations
        return state if is_known else with_turn(state, request, seq, at_ms, cancelled=cancelled)

    patch.setattr(apply, "with_turn", only_the_first)


def a_conversation_is_told_without_its_latest_turn(patch):
    turns = HistoryReader.turns

    def all_but_the_latest(self, history):
        return (yield from turns(self, history))[:-1]

    patch.setattr(HistoryReader, "turns", all_but_the_latest)


APP_BUGS = {
    ephemeral_text_is_recorded: {"I17"},
    forgetting_forgets_nothing: {"I17"},
    forgetting_takes_the_text_of_others: {"I2"},
    what_was_forgotten_is_told_as_empty: {"I19"},
    who_comes_again_brings_forgotten_words_back: {"I17"},
    what_keys_stand_for_is_not_copied: {"I18"},
    subscribers_miss_commands: {"I3", "I4"},
    keys_are_forgotten: {"I6"},
    other_params_are_taken_for_the_same: {"I6"},
    requests_end_twice: {"I1"},
    called_synced_when_written: {"I2", "I4"},
    names_are_never_synced: {"I2", "I4"},
    pieces_are_counted_from_one: {"I3"},
    told_before_it_is_durable: {"I4"},
    a_token_comes_after_the_end: {"I5"},
    the_torn_tail_stays: {"I7"},
    the_fold_forgets_streams: {"I8"},
    neither_clock_nor_beats_end_what_hangs: {"I9"},
    nothing_ever_strikes: {"I16"},
    late_tokens_of_a_cancelled_request_are_recorded: {"I10"},
    a_worker_takes_all_requests_with_it: {"I11"},
    a_process_is_started_for_each_frame: {"I11"},
    what_a_host_does_not_take_is_kept_in_memory: {"I12"},
    malformed_lines_are_answered_twice: {"I13"},
    the_newline_comes_later: {"I14"},
    the_clock_is_that_on_the_wall: {"I16"},
    turns_that_follow_are_not_counted: {"I20"},
    a_conversation_is_told_without_its_latest_turn: {"I20"},
}
"""The same for stories of the whole app."""


def ids_come_from_the_machine(patch):
    patch.setattr(SimulatedIds, "new", RealIds.new)
