"""Personas that hosts describe: taken in, carried on, dropped. Knows neither what is said of them nor others."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mlzoo.core import requests
from mlzoo.core.room import no_persona_more
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft


def decide(draft: Draft, command: talk.PersonaCommand) -> None:
    """Decide one of these commands."""
    match command:
        case talk.PutPersona():
            put(draft, command)
        case talk.CarryPersona():
            carry(draft, command)
        case talk.DropPersona():
            drop(draft, command)
        case _:
            assert_never(command)


def put(draft: Draft, command: talk.PutPersona) -> None:
    """Take a persona, in the place of what was said of it before."""
    closed = requests.door_closed(draft.state)
    refusal = closed or no_persona_more(draft.state, command.persona, command.size_bytes)
    if refusal is not None:
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=refusal))
        return
    draft.say(talk.PersonaPut(persona=command.persona, base_seq=draft.first_seq, size_bytes=command.size_bytes))
    draft.say(ev.RequestReplied(request=command.request, caller=command.caller, result={"name": command.persona}))


def carry(draft: Draft, command: talk.CarryPersona) -> None:
    """Take a copy in the place of the first one, if that is still what holds."""
    found = draft.state.personas.get(command.persona)
    carried = found is not None and found.base_seq == command.base_seq
    if found is not None and carried:
        draft.say(talk.PersonaPut(persona=command.persona, base_seq=draft.first_seq, size_bytes=found.size_bytes))
    draft.say(ev.RequestReplied(request=command.request, caller=None, result={"carried": carried}))


def drop(draft: Draft, command: talk.DropPersona) -> None:
    """Let go of a persona; what is unknown is no error: its text may still be there."""
    known = command.persona in draft.state.personas
    if known:
        draft.say(talk.PersonaDropped(persona=command.persona))
    draft.say(ev.RequestReplied(request=command.request, caller=None, result={"dropped": known}))
