"""Personas: from the configuration, or described by hosts; of one name, a host's goes before.

What a host said of one is text, and lies in the log alone: it is read there when it is wanted, and the last ones are
remembered. The prompt that applied is put into each request's own text, so that a later description changes no earlier
turn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

from mlzoo import errors
from mlzoo.actors.asking import decided, folded
from mlzoo.actors.messages import Order
from mlzoo.actors.outcomes import Answer, Ask, Later
from mlzoo.config.schema import PersonaEntry, SamplingDefaults, TruncationPolicy
from mlzoo.errors import Failure
from mlzoo.events.conversations import DropPersona, PutPersona
from mlzoo.events.forgetting import TargetPersona
from mlzoo.events.records import is_gone
from mlzoo.frames import Truncation

if TYPE_CHECKING:
    from mlzoo.actors.outcomes import Outcome
    from mlzoo.actors.services import Services
    from mlzoo.api.inference import ChatParams
    from mlzoo.api.personas import PersonasPutParams
    from mlzoo.core.state import PersonaState
    from mlzoo.events.commands import Caller, JsonObject
    from mlzoo.events.records import Group


def find(services: Services, name: str) -> PersonaEntry:
    """Return a persona by its name.

    Raises:
        LogUnusable: what the log has of it is damaged.
        NotFound: there is none, or its configuration does not hold.
        StorageFailed: the log failed before it had taken what a host said of it.
    """
    said = described(services, name)
    if said is not None:
        sampling, truncation = said.get("sampling") or {}, said.get("truncation") or {}
        fields = {part: said[part] for part in ("system", "model", "greeting") if said.get(part) is not None}
        return PersonaEntry(
            name=services.config.defaults.chat,  # its own may be of any characters, and is not asked for
            sampling=SamplingDefaults(**sampling),
            truncation=TruncationPolicy(**truncation),
            **fields,
        )
    entry = services.config.personas.get(name)
    if entry is not None:
        return entry
    if name in services.config.broken_personas:
        message = f"the configuration of persona {name!r} does not hold: {services.config.broken_personas[name]}"
        raise errors.NotFound(message, what="persona", id=name)
    message = "There is no such persona: personas.list tells which there are."
    raise errors.NotFound(message, what="persona", id=name)


def described(services: Services, name: str) -> JsonObject | None:
    """Return what a host said of a persona; None where none did. Fails as ``find`` does."""
    found = services.state.personas.get(name)
    if found is None:
        return None
    group = record_of(services, found)
    if is_gone(group.text):
        raise errors.NotFound("This persona is being deleted.", what="persona", id=name)
    said: JsonObject = group.text["persona"]
    return said


def record_of(services: Services, found: PersonaState) -> Group:
    """Return the record whose text describes a persona.

    The state knows what was decided, and that may not be written yet: where the engine crashed in between, it is
    written now, since nobody is told what is in no file; where the log has failed, it never will be.

    Raises:
        LogUnusable: it is damaged.
        OutOfRange: it has been copied, and is gone.
        StorageFailed: the log failed before it had taken it.
    """
    log = services.log
    if found.base_seq > log.written:
        log.commit()
    [group] = log.read(found.base_seq - 1, 1)
    return group


def get(services: Services, name: str) -> Outcome:
    """Return what becomes of ``personas.get``; what a host described is not copied into the log once more."""
    said = told(services, name)
    if said is not None:
        return Answer(said, recorded=False)
    plain = {part: value for part, value in attrs.asdict(find(services, name)).items() if value is not None}
    plain["sampling"] = {part: value for part, value in plain["sampling"].items() if value is not None}
    return Answer({**plain, "source": "configuration"})


def told(services: Services, name: str) -> JsonObject | None:
    """Return what a host said of a persona, as hosts are told; None where none did. Fails as ``find`` does."""
    said = described(services, name)
    return None if said is None else {**said, "source": "host"}


def listed(services: Services) -> JsonObject:
    """Return all personas shortly."""
    sources = dict.fromkeys(services.config.personas, "configuration") | dict.fromkeys(services.state.personas, "host")
    broken = services.config.broken_personas
    return {
        "personas": [{"name": name, "source": sources[name]} for name in sorted(sources)],
        "broken": [{"name": name, "error": why} for name, why in broken.items()],
    }


def put(services: Services, request: str, caller: Caller, params: PersonasPutParams, sent: JsonObject) -> Ask:
    """Return the question to the engine that ``personas.put`` is.

    Raises:
        ModelNotFound: no configuration names its model.
    """
    if params.model is not None:
        services.config.chain(params.model)
    text = {"persona": {name: value for name, value in sent.items() if value is not None and name != "_meta"}}
    command = PutPersona(request=request, caller=caller, persona=params.name, size_bytes=len(orjson.dumps(text)))
    return Ask(request, Order(command, text))


def delete(services: Services, name: str) -> Later:
    """Return what becomes of ``personas.delete``."""
    holds = trio.Event()
    return Later(partial(_delete, services, name, holds), holds=holds)


async def _delete(services: Services, name: str, holds: trio.Event) -> JsonObject:
    """Forget what hosts said of a persona, and return the answer once nothing is left of it.

    ``holds`` is set as soon as no host has described it any more.

    Raises:
        NotFound: no host has described it.
        ShuttingDown: the sidecar leaves.
        StorageFailed: the log has failed.
        Unsupported: it is configured, and nothing else.
    """
    await folded(services)
    is_there, upto_seq = name in services.state.personas, services.log.last_seq
    if is_there:
        drop = DropPersona(request=services.world.ids.new("req"), persona=name)
        _, upto_seq = await decided(services, drop)
    holds.set()
    groups = await services.log.forgetter.forget(TargetPersona(name, upto_seq))
    if groups == 0 and not is_there:
        configured = name in services.config.personas
        told = "It is configured: remove its file." if configured else "personas.list tells which there are."
        raise errors.NotFound(f"No host has described such a persona. {told}", what="persona", id=name)
    return {"name": name, "groups": groups}


@attrs.frozen
class Who:
    """Who is to answer a request: the persona, and why it cannot be had, if so."""

    name: str = ""
    entry: PersonaEntry | None = None
    refused: Failure | None = None

    @property
    def truncation(self) -> Truncation:
        """What becomes of its long conversations."""
        policy = TruncationPolicy() if self.entry is None else self.entry.truncation
        return Truncation(policy=policy.policy, keep_last=policy.turns)


NOBODY = Who()


def who(services: Services, named: str | None, conversation: str, *, keyed: bool) -> Who:
    """Return who answers a request: the persona that it names, else that of its conversation.

    Under a key it need not be there: the result may be.

    Raises:
        LogUnusable: what the log has of it is damaged.
        NotFound: there is no such persona.
        StorageFailed: the log failed before it had taken what a host said of it.
    """
    name = named or _persona_of(services, conversation)
    if not name:
        return NOBODY
    try:
        return Who(name, find(services, name))
    except errors.MlzooError as error:
        if not keyed:
            raise
        return Who(name, refused=error.failure())


def _persona_of(services: Services, conversation: str) -> str:
    """Return the persona of a conversation: that of its latest turn which named one, also of one that waits."""
    if not conversation:
        return ""
    live = [one.persona for one in services.state.requests.values() if one.conversation == conversation and one.persona]
    found = services.state.conversations.get(conversation)
    return live[-1] if live else "" if found is None else found.persona


def with_defaults(params: ChatParams, entry: PersonaEntry) -> ChatParams:
    """Return params of chat with what a persona says where they are silent: its model, its sampling."""
    wishes = {"model": entry.model, **attrs.asdict(entry.sampling)}
    silent = {name: wish for name, wish in wishes.items() if wish is not None and getattr(params, name) is None}
    return attrs.evolve(params, **silent)


def asked_with(entry: PersonaEntry, *, greets: bool) -> dict[str, Any]:
    """Return what a persona adds to the text of a request."""
    added = {}
    if entry.system:
        added["system"] = entry.system
    if greets and entry.greeting:
        added["greeting"] = entry.greeting
    return added
