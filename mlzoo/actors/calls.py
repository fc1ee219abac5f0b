"""Calls that ask for something: params become a command, with the facts that the core needs and the text beside it.

Every check that needs no decision is made here, so that a refusal costs nothing and binds nothing. Knows methods,
configuration and store; knows no bytes, and decides nothing about work.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo import errors
from mlzoo.actors import candidates, conversations, forgetting, personas
from mlzoo.actors.messages import Order
from mlzoo.actors.outcomes import Answer, Ask, Claim, Later
from mlzoo.api.content import check_tools, embed_texts, stop_strings, told_messages
from mlzoo.config.schema import LOCAL
from mlzoo.events import commands as cmd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlzoo.actors.candidates import Wanted
    from mlzoo.actors.outcomes import Outcome
    from mlzoo.actors.services import Peer, Services
    from mlzoo.api import inference as api
    from mlzoo.api.conversations import ConversationParams, ConversationsForkParams, ConversationsGetParams
    from mlzoo.api.embed import EmbedParams
    from mlzoo.api.forgetting import ForgetParams
    from mlzoo.api.personas import PersonaParams, PersonasPutParams
    from mlzoo.api.predict import PredictParams
    from mlzoo.api.resuming import ResumeParams
    from mlzoo.events.commands import JsonObject
    from mlzoo.transport.jsonrpc import Call

NOT_PART_OF_A_REQUEST = ("stream", "deadline_ms", "priority", "_meta")
TEXTS = frozenset(
    {"messages", "prompt", "input", "inputs", "text", "tokens", "stop", "_meta"}
)  # kept in a form of their own
FORMS = frozenset({"response_format", "tools"})  # kept among the others, and as long as a text
PREFIX_CHARACTERS = 1024  # of a prompt that is no conversation
NEW = "new"  # the name by which a host asks for a conversation of a fresh one


class Calls:
    """What becomes of each call."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.methods: dict[str, Callable[[Peer, Call, Any], Outcome]] = {
            "shutdown": self._shutdown,
            "chat": self._chat,
            "complete": self._complete,
            "embed": self._embed,
            "predict": self._predict,
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "cancel": self._cancel,
            "resume": self._resume,
            "forget": self._forget,
            "conversations.list": self._conversations,
            "conversations.get": self._conversation,
            "conversations.fork": self._fork,
            "conversations.delete": self._delete,
            "personas.list": self._personas,
            "personas.get": self._persona,
            "personas.put": self._put_persona,
            "personas.delete": self._delete_persona,
            "models.pull": self._pull,
            "models.remove": self._remove,
            "models.load": self._load,
            "models.unload": self._unload,
            "providers.authenticate": self._authenticate,
        }

    def cancelled(self, connection: Peer, params: api.CancelParams) -> Order:
        """Return what becomes of a ``cancel`` notification, which nobody answers."""
        return _cancel(self._services.world.ids.new("req"), None, connection, params)

    # ---------------------------------------------------------------------------------------- inference

    def _chat(self, connection: Peer, call: Call, params: api.ChatParams) -> Outcome:
        check_tools(params)
        name = self._services.world.ids.new("conv") if params.conversation == NEW else params.conversation or ""
        text = {"messages": told_messages(params.messages)}
        who = personas.who(self._services, params.persona, name, keyed=params.key is not None)
        if who.entry is not None:
            text |= personas.asked_with(who.entry, greets=bool(name))
            params = personas.with_defaults(params, who.entry)
        return self._generate(connection, call, params, text, conversation=name, who=who)

    def _complete(self, connection: Peer, call: Call, params: api.CompleteParams) -> Outcome:
        return self._generate(connection, call, params, {"prompt": params.prompt})

    def _generate(
        self,
        connection: Peer,
        call: Call,
        params: api.GenerationParams,
        text: Any,
        conversation: str = "",
        who: personas.Who = personas.NOBODY,
    ) -> Outcome:
        wanted = candidates.wanted(self._services, call.method, params)
        wanted = attrs.evolve(wanted, refused=wanted.refused or who.refused)
        stop = stop_strings(params)
        seed = self._services.world.seeds.new() if params.seed is None else params.seed
        is_near = wanted.facts.replicas > 1 and params.retention != "ephemeral"
        if stop:
            text["stop"] = stop
        return self._submit(
            connection,
            call,
            wanted,
            text,
            stream=params.stream,
            sampling=candidates.sampling_of(params, wanted.first.sampling, seed),
            chain=tuple(
                cmd.Candidate(
                    model=other.facts,
                    sampling=candidates.sampling_of(params, other.sampling, seed),
                    refused=other.refused,
                )
                for other in wanted.others
            ),
            max_tokens=params.max_tokens,
            prefixes=_prefixes(text, conversation) if is_near else (),
            conversation=conversation,
            persona=who.name,
            truncation=who.truncation if conversation else None,
            adapter=params.adapter or "",
            key=params.key,
            determinism=params.determinism,
            ephemeral=params.retention == "ephemeral",
            deadline_ms=params.deadline_ms,
            priority=params.priority,
            require_device=params.require_device,
        )

    def _embed(self, connection: Peer, call: Call, params: EmbedParams) -> Outcome:
        wanted = candidates.wanted(self._services, "embed", params)
        texts = embed_texts(params)
        self._expect_few(texts, "texts")
        return self._submit(
            connection,
            call,
            wanted,
            {"texts": texts},
            normalize=params.normalize,
            chain=tuple(cmd.Candidate(model=other.facts, refused=other.refused) for other in wanted.others),
            key=params.key,
            ephemeral=params.retention == "ephemeral",
            deadline_ms=params.deadline_ms,
            priority=params.priority,
            require_device=params.require_device,
        )

    def _predict(self, connection: Peer, call: Call, params: PredictParams) -> Outcome:
        wanted = candidates.wanted(self._services, "predict", params)
        self._expect_few(params.inputs, "inputs")
        return self._submit(
            connection,
            call,
            wanted,
            {"inputs": list(params.inputs)},
            key=params.key,
            ephemeral=params.retention == "ephemeral",
            deadline_ms=params.deadline_ms,
            priority=params.priority,
            require_device=params.require_device,
        )

    def _expect_few(self, inputs: Sequence[object], unit: str) -> None:
        limit = self._services.config.limits.inputs_per_embed
        if len(inputs) > limit:
            message = f"input has {len(inputs)} {unit}, the limit is {limit}: send several requests."
            raise errors.TooLarge(message, limit=limit, got=len(inputs))

    def _tokenize(self, connection: Peer, call: Call, params: api.TokenizeParams) -> Outcome:
        wanted = candidates.wanted(self._services, "tokenize", params)
        text = {"text": params.text} if params.messages is None else {"messages": told_messages(params.messages)}
        return self._submit(connection, call, wanted, text)

    def _detokenize(self, connection: Peer, call: Call, params: api.DetokenizeParams) -> Outcome:
        wanted = candidates.wanted(self._services, "detokenize", params)
        return self._submit(connection, call, wanted, {"tokens": params.tokens})

    def _submit(
        self,
        connection: Peer,
        call: Call,
        wanted: Wanted,
        text: Any,
        *,
        stream: bool = False,
        key: str | None = None,
        **fields: Any,
    ) -> Ask:
        request = self._services.world.ids.new("req")
        kept = {name: value for name, value in _named(call).items() if name not in NOT_PART_OF_A_REQUEST}
        as_sent = {name: value for name, value in _named(call).items() if name not in TEXTS}
        submit = cmd.Submit(
            request=request,
            caller=_caller(connection, call),
            method=_method(call.method),
            model=wanted.facts,
            refused=wanted.refused,
            unfit=wanted.first.refused,
            stream=stream,
            params_digest=hashlib.sha256(orjson.dumps([call.method, kept], option=orjson.OPT_SORT_KEYS)).hexdigest(),
            key="" if key is None else _digest(key),
            size_bytes=len(orjson.dumps(text | {name: as_sent[name] for name in FORMS & as_sent.keys()})),
            **fields,
        )
        claim = None if key is None else Claim(submit.key, submit.params_digest)
        return Ask(request, Order(submit, {**text, "params": as_sent}), stream=stream, claim=claim)

    def _cancel(self, connection: Peer, call: Call, params: api.CancelParams) -> Outcome:
        request, caller = self._request(connection, call)
        return Ask(request, _cancel(request, caller, connection, params))

    def _resume(self, connection: Peer, call: Call, params: ResumeParams) -> Outcome:
        request, caller = self._request(connection, call)
        resume = cmd.Resume(request=request, caller=caller, key=_digest(params.key), after=params.after)
        return Ask(request, Order(resume, {"params": _named(call)}), stream=True, claim=Claim(resume.key))

    def _forget(self, _connection: Peer, _call: Call, params: ForgetParams) -> Outcome:
        return forgetting.forget(self._services, params)

    # ---------------------------------------------------------------------------------------- conversations

    def _conversations(self, _connection: Peer, _call: Call, _params: Any) -> Outcome:
        return Later(partial(conversations.listed, self._services))

    def _conversation(self, _connection: Peer, _call: Call, params: ConversationsGetParams) -> Outcome:
        return Later(partial(conversations.get, self._services, params), recorded=False)

    def again(self, method: str, params: Any) -> JsonObject | None:
        """Return once more what a conversation is, or what a host said of a persona."""
        if method == "personas.get":
            return personas.told(self._services, params.name)
        return conversations.again(self._services, params)

    def _fork(self, _connection: Peer, _call: Call, params: ConversationsForkParams) -> Outcome:
        into = self._services.world.ids.new("conv") if params.into in {None, NEW} else params.into
        return conversations.fork(self._services, params, into or "")

    def _delete(self, _connection: Peer, _call: Call, params: ConversationParams) -> Outcome:
        return forgetting.delete(self._services, params.conversation)

    # ---------------------------------------------------------------------------------------- personas

    def _personas(self, _connection: Peer, _call: Call, _params: Any) -> Outcome:
        return Answer(personas.listed(self._services))

    def _persona(self, _connection: Peer, _call: Call, params: PersonaParams) -> Outcome:
        return personas.get(self._services, params.name)

    def _put_persona(self, connection: Peer, call: Call, params: PersonasPutParams) -> Outcome:
        request, caller = self._request(connection, call)
        return personas.put(self._services, request, caller, params, _named(call))

    def _delete_persona(self, _connection: Peer, _call: Call, params: PersonaParams) -> Outcome:
        return personas.delete(self._services, params.name)

    # ---------------------------------------------------------------------------------------- models

    def _request(self, connection: Peer, call: Call) -> tuple[str, cmd.Caller]:
        return self._services.world.ids.new("req"), _caller(connection, call)

    def _pull(self, connection: Peer, call: Call, params: Any) -> Outcome:
        request, caller = self._request(connection, call)
        facts = self._local("pull", params.model)
        pull = cmd.PullModel(request=request, caller=caller, model=facts, accept_license=params.accept_license)
        return Ask(request, Order(pull))

    def _remove(self, connection: Peer, call: Call, params: Any) -> Outcome:
        request, caller = self._request(connection, call)
        return Ask(
            request, Order(cmd.RemoveModel(request=request, caller=caller, model=self._local("remove", params.model)))
        )

    def _load(self, connection: Peer, call: Call, params: Any) -> Outcome:
        entry = self._services.config.model(params.model)
        if entry.provider != LOCAL:
            return Answer(candidates.loaded(self._services, entry))
        request, caller = self._request(connection, call)
        facts = candidates.facts_of(self._services, entry, candidates.installed_weights(self._services, entry))
        device = None if params.device == "auto" else params.device
        load = cmd.LoadModel(request=request, caller=caller, model=facts, device=device, pin=params.pin)
        return Ask(request, Order(load))

    def _unload(self, connection: Peer, call: Call, params: Any) -> Outcome:
        entry = self._services.config.model(params.model)
        if entry.provider != LOCAL:
            return Answer({"model": entry.name, "state": "available"})  # It holds no memory of this machine.
        request, caller = self._request(connection, call)
        facts = candidates.facts_of(self._services, entry, None)
        return Ask(request, Order(cmd.UnloadModel(request=request, caller=caller, model=facts)))

    def _local(self, doing: str, name: str) -> cmd.ModelFacts:
        """Return the facts of a model that has weights.

        Raises:
            ModelNotFound: no configuration names it.
            Unsupported: a provider answers for it.
        """
        entry = self._services.config.model(name)
        if entry.provider != LOCAL:
            message = f"Provider {entry.provider} answers for model {entry.name}: there are no weights to {doing}."
            raise errors.Unsupported(message, feature=f"models.{doing}", model=entry.name)
        return candidates.facts_of(self._services, entry, None)

    # ---------------------------------------------------------------------------------------- providers

    def _authenticate(self, _connection: Peer, _call: Call, params: Any) -> Outcome:
        if params.provider not in self._services.config.providers:
            raise errors.NotFound(
                f"No provider is called that; there are: {', '.join(self._services.config.providers) or 'none'}.",
                what="provider",
                id=_digest(params.provider),
            )
        self._services.secrets.tell(params.provider, params.secret)
        return Answer({})

    # ---------------------------------------------------------------------------------------- leaving

    def _shutdown(self, connection: Peer, call: Call, _params: Any) -> Outcome:
        if self._services.unusable is not None:
            return Answer({}, then=self._services.leave)
        request, caller = self._request(connection, call)
        return Ask(request, Order(cmd.Shutdown(request=request, caller=caller, reason="asked")))


def _caller(connection: Peer, call: Call) -> cmd.Caller:
    return cmd.Caller(connection=connection.name, rpc=call.id, after_aside=connection.after_aside)


def _digest(key: str) -> str:
    """Return what stands for a key wherever no text may stand."""
    return hashlib.sha256(key.encode()).hexdigest()


def _prefixes(text: JsonObject, conversation: str) -> tuple[str, ...]:
    """Return what stands for how a text begins: its first message, as a rule its persona, and its first two.

    Of a turn it is its conversation. Four bytes of a digest: enough to tell conversations apart, and too few to tell
    what was said in one.
    """
    if conversation:
        return (hashlib.blake2s(conversation.encode(), digest_size=4).hexdigest(),)
    begins = text["messages"][:2] if "messages" in text else [text["prompt"][:PREFIX_CHARACTERS]]
    heads = [orjson.dumps(begins[: size + 1]) for size in range(len(begins))]
    return tuple(hashlib.blake2s(head, digest_size=4).hexdigest() for head in heads)


def _cancel(request: str, caller: cmd.Caller | None, connection: Peer, params: api.CancelParams) -> Order:
    """Return the order that ends what a call of this connection hears of, or what runs under a key."""
    if params.key is not None:
        command = cmd.Cancel(request=request, caller=caller, target=None, key=_digest(params.key))
        return Order(command, {"params": {"key": params.key}})
    target = connection.outbox.heard_by(params.request)
    claim = connection.outbox.claim_of(params.request) or Claim("")
    return Order(
        cmd.Cancel(request=request, caller=caller, target=target, key=claim.key, params_digest=claim.params_digest)
    )


def _named(call: Call) -> dict[str, Any]:
    return call.params if isinstance(call.params, dict) else {}


def _method(name: str) -> cmd.Method:
    match name:
        case "chat" | "complete" | "embed" | "predict" | "tokenize" | "detokenize":
            return name
        case _:
            message = f"{name} is no inference"
            raise AssertionError(message)
