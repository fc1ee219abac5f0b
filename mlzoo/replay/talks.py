"""What a host was told of a conversation or a persona, read once more out of what had been recorded by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.actors.conversations import shown
from mlzoo.core.apply import Folding
from mlzoo.events import commands as cmd
from mlzoo.events import conversations as talk
from mlzoo.events.history import HistoryReader, read_at_once
from mlzoo.events.records import request_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlzoo.core.state import State
    from mlzoo.events.recording import Line
    from mlzoo.events.records import Group


def told_conversation(before: State, groups: Iterable[Group], name: str, at: int | None) -> Line:
    """Return a conversation as ``conversations.get`` tells it after some groups, which follow a state."""
    folding = Folding(before)
    turns: dict[str, list[Group]] = {
        request.id: [] for request in before.requests.values() if request.conversation == name
    }
    copies: dict[int, Group] = {}  # and what holds summaries, by the events that tell of them
    for group in groups:
        folding.add(group)
        command = group.command
        if isinstance(command, cmd.Submit) and command.conversation == name:
            turns[command.request] = []
        elif isinstance(command, talk.CarryConversation | talk.ForkConversation) and command.conversation == name:
            copies[group.first_seq] = group
        for seq, event in enumerate(group.events, group.first_seq + 1):
            if isinstance(event, talk.ConversationSummarised) and event.conversation == name:
                copies[seq] = group
        for request in dict.fromkeys(map(request_of, group.events)):
            if request in turns:
                turns[request].append(group)

    def after(seq: int) -> Iterator[Group]:
        yield copies[seq + 1]

    found = folding.state.conversations.get(name)
    if found is None:
        return shown(name, at, "", ())
    reader = HistoryReader(lambda request, seq: (g for g in turns[request] if g.first_seq > seq), after)
    said, summary = read_at_once(reader.turns(found.history)), read_at_once(reader.summary(found.history))
    return shown(name, at, found.persona, said, summary)


def told_persona(groups: Iterable[Group], name: str) -> Line:
    """Return what a host had said of a persona by the end of some groups, as ``personas.get`` tells it."""
    found: Line = {}
    for group in groups:
        command = group.command
        if isinstance(command, talk.PutPersona | talk.CarryPersona) and command.persona == name:
            found = group.text.get("persona", {})
    return {**found, "source": "host"}
