"""Reading the history of a conversation: from its latest turn backwards, to the record that holds what came before.

Each turn is a request; its dispatch names the turn before it. Turns that were copied lie in the text of one command, in
the shape in which they are read here, so that reading and copying know one form. What was read last of a conversation
is remembered, and its next turn is then the only one that is read from the log.

What is damaged or gone of a turn is that turn's misfortune: the others are told, and it leaves its place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import orjson
import trio

from mlzoo.errors import LogUnusable
from mlzoo.events import commands as cmd
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev
from mlzoo.events.facts import SummaryRef, TurnFacts
from mlzoo.events.records import is_gone
from mlzoo.events.said import Said

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from mlzoo.events.facts import History, TurnRef
    from mlzoo.events.records import Group

    GroupsOf = Callable[[str, int], Iterator[Group]]
    GroupsAfter = Callable[[int], Iterator[Group]]

TURN_GROUPS = 64  # read from the log before other tasks get their turn
REMEMBERED_BYTES = 16 * 1024 * 1024  # of histories; the one that was read last is remembered whatever its size
ANSWERED = ("content", "tool_calls")  # of an answer, that the next turn reads; what led to it is not read again
SUMMARY_WANTED = (
    "Summarise our conversation so far in a few sentences: who I am, what I wanted, what was found out and agreed, and "
    "what is still open. Write nothing but the summary."
)
T = TypeVar("T")


@attrs.frozen
class Turn:
    """One turn: what is known of it, and its text, {messages, content, tool_calls?, greeting?}, or a tombstone."""

    facts: TurnFacts
    text: Any
    size_bytes: int


@attrs.frozen
class Summary:
    """What stands for the oldest turns of a conversation, and what it said when it was read."""

    ref: SummaryRef
    text: str


Turns = tuple[Turn, ...]


def turn_messages(turn: Turn) -> tuple[dict[str, Any], ...]:
    """Return what a model reads of a turn; nothing, where its text is gone."""
    if is_gone(turn.text):
        return ()
    text = turn.text
    greeting = [{"role": "assistant", "content": text["greeting"]}] if "greeting" in text else []
    answered = {name: text[name] for name in ANSWERED if name in text}
    return (*greeting, *text["messages"], {"role": "assistant", **answered})


def summary_messages(summary: Summary) -> tuple[dict[str, Any], ...]:
    """Return what a model reads of a summary: a question and its answer, so that those who speak still alternate."""
    return ({"role": "user", "content": SUMMARY_WANTED}, {"role": "assistant", "content": summary.text})


def read_at_once(steps: Generator[None, None, T]) -> T:
    """Return what a reading comes to, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


async def read_through(steps: Generator[None, None, T]) -> T:
    """Return what a reading comes to; others get their turn whenever it pauses."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        await trio.lowlevel.checkpoint()


class HistoryReader:
    """Reads histories from one log.

    Args:
        groups_of: yields the groups of a request after a log_seq.
        groups_after: yields the groups that end after a log_seq.
    """

    def __init__(self, groups_of: GroupsOf, groups_after: GroupsAfter) -> None:
        self._groups_of = groups_of
        self._groups_after = groups_after
        self._known: OrderedDict[str | int, Turns] = OrderedDict()  # latest turn, or record -> all turns up to it
        self._forgotten = 0  # how often; what was read before is not remembered after

    def forget(self) -> None:
        """Remember nothing of what was read."""
        self._known.clear()
        self._forgotten += 1

    def turns(self, history: History) -> Generator[None, None, Turns]:
        """Read a history, oldest turn first; pauses now and then.

        Raises:
            LogUnusable: What tells of its turns is damaged, so that nobody can say which they are.
            OutOfRange: It has been copied or dropped, and its records are gone.
        """
        began = self._forgotten
        latest: list[Turn] = []
        here, end = history, _end_of(history)
        while (found := self._known.get(_end_of(here) or "")) is None and here.head is not None:
            turn, here = yield from self._turn(here.head)
            latest.append(turn)
        if found is not None:
            self._known.pop(_end_of(here) or "")
        elif here.base_seq is not None:
            found = yield from self._copied(here.base_seq)
        turns = (*(found or ()), *reversed(latest))
        if end is not None and self._forgotten == began:
            self._remember(end, turns)
        return turns

    def summary(self, history: History) -> Generator[None, None, Summary | None]:
        """Read the summary of a history; None where there is none, or its text is gone. Fails as ``turns`` does."""
        yield
        ref = history.summary
        if ref is None:
            return None
        place = history.base_seq if ref.is_copied else ref.seq
        assert place is not None, "a copy lies somewhere"
        group = next(self._groups_after(place - 1))
        text = group.text
        if isinstance(text, list) and not ref.is_copied:
            event = group.events[ref.seq - group.first_seq - 1]
            assert isinstance(event, talk.ConversationSummarised), "it tells of a summary"
            text = text[event.row]
        elif isinstance(text, list):
            text = text[-1]
        return None if is_gone(text) else Summary(ref, text["summary"])

    def _remember(self, end: str | int, turns: Turns) -> None:
        self._known[end] = turns
        self._known.move_to_end(end)
        size_bytes = sum(turn.size_bytes for known in self._known.values() for turn in known)
        while size_bytes > REMEMBERED_BYTES and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            size_bytes -= sum(turn.size_bytes for turn in oldest)

    def _turn(self, place: TurnRef) -> Generator[None, None, tuple[Turn, History]]:
        """Read a turn from its own records, and learn what came before it."""
        asked: Group | None = None
        before: History | None = None
        said = Said()
        gone: Any = None
        for read, group in enumerate(self._groups_of(place.request, place.accepted_seq - 2), start=1):
            if isinstance(group.command, cmd.Submit) and group.command.request == place.request:
                asked, gone = group, group.text if is_gone(group.text) else gone
            for seq, event in enumerate(group.events, group.first_seq + 1):
                if getattr(event, "request", None) != place.request:
                    continue
                if isinstance(event, ev.RequestDispatched):
                    before = event.history
                elif isinstance(event, ev.RequestStreamed):
                    row = group.text[event.row]
                    if is_gone(row):
                        gone = row
                    else:
                        said.add(row)
                if seq == place.ended_seq and asked is not None and before is not None:
                    facts = _facts(place, asked, group, cancelled=isinstance(event, ev.RequestCancelled))
                    return _turn(facts, gone or _text(asked.text, before, said.message())), before
            if read % TURN_GROUPS == 0:
                yield
        raise LogUnusable(
            f"the log does not hold the whole of {place.request}, a turn of a conversation",
            reason="inconsistent",
            log_seq=place.accepted_seq,
            remedy="fork the conversation at a later place, or delete it",
        )

    def _copied(self, base_seq: int) -> Generator[None, None, Turns]:
        """Read the turns in the text of a command."""
        yield
        group = next(self._groups_after(base_seq - 1))
        command = group.command
        assert isinstance(command, talk.CarryConversation | talk.ForkConversation), "it holds turns"
        texts = group.text if isinstance(group.text, list) else [group.text] * len(command.rows)
        return tuple(_turn(facts, text) for facts, text in zip(command.rows, texts, strict=False))  # A summary is last.


def _end_of(history: History) -> str | int | None:
    """Return what a history ends with, by which it is known."""
    return history.base_seq if history.head is None else history.head.request


def _facts(place: TurnRef, asked: Group, ended: Group, *, cancelled: bool) -> TurnFacts:
    return TurnFacts(
        request=place.request,
        asked_seq=asked.first_seq,
        ended_seq=place.ended_seq,
        asked_at_ms=asked.time_ms,
        ended_at_ms=ended.time_ms,
        cancelled=cancelled,
    )


def _text(asked: Any, before: History, answer: dict[str, Any]) -> dict[str, Any]:
    answered = {name: answer[name] for name in ANSWERED if name in answer}
    text = {"messages": list(asked["messages"]), **answered}
    is_first = before.head is None and before.base_seq is None
    return text | {"greeting": asked["greeting"]} if is_first and "greeting" in asked else text


def _turn(facts: TurnFacts, text: Any) -> Turn:
    return Turn(facts, text, len(orjson.dumps(text)))
