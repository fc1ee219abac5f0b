"""Which models may answer a request, and why others cannot, as far as that can be told without asking anybody.

A name stands for a model or for a route, several of them in their order. What only time tells, whether a model fits or
a provider works, is the core's (``mlzoo.core.routing``). Knows configuration, store and keys; nothing of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from mlzoo import errors
from mlzoo.api.content import unsupported_features
from mlzoo.api.forms import GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat, TextFormat
from mlzoo.api.inference import ChatParams, CompleteParams, GenerationParams, ImagePart
from mlzoo.config.schema import LOCAL, Capability, ModelKind, SamplingDefaults
from mlzoo.core.state import device_of
from mlzoo.errors import Failure
from mlzoo.events import commands as cmd
from mlzoo.frames import Sampling
from mlzoo.providers.protocol import how_to_authenticate
from mlzoo.store import estimate_of

if TYPE_CHECKING:
    from mlzoo.actors.services import Services
    from mlzoo.config import ModelEntry
    from mlzoo.store import Installed

KIND_OF: dict[str, ModelKind] = {"chat": "chat", "complete": "chat", "embed": "embed", "predict": "predict"}
BYTES_A_TOKEN = 4
_ANY_TEXT = (None, TextFormat(type="text"))


@attrs.frozen
class Option:
    """A model, how it is sampled where a request is silent, and why it cannot answer, if so."""

    facts: cmd.ModelFacts
    sampling: SamplingDefaults
    error: errors.MlzooError | None = None

    @property
    def refused(self) -> Failure | None:
        """The reason as it is recorded."""
        return None if self.error is None else self.error.failure()


@attrs.frozen
class Wanted:
    """The model that a request is for, others that may answer in its place, and why the request cannot run, if so."""

    first: Option
    others: tuple[Option, ...] = ()
    refused: Failure | None = None

    @property
    def facts(self) -> cmd.ModelFacts:
        """The first model's."""
        return self.first.facts


def wanted(services: Services, method: str, params: Any) -> Wanted:
    """Return the models that a request is for. Under a key there need be none: the result may be there already.

    Raises:
        ModelNotFound: no configuration names it.
        ModelNotInstalled, ProviderError, Unsupported: no model can answer; the first of them says why.
    """
    try:
        return _find(services, method, params)
    except errors.MlzooError as error:
        if getattr(params, "key", None) is None:
            raise
        facts = cmd.ModelFacts(name=params.model or "", kind=KIND_OF.get(method, "chat"))
        return Wanted(Option(facts, SamplingDefaults()), refused=error.failure())


def _find(services: Services, method: str, params: Any) -> Wanted:
    config = services.config
    name = params.model or (config.defaults.embed if method == "embed" else config.defaults.chat)
    entries = config.chain(name)
    provider = getattr(params, "provider", None)
    if provider is not None:
        entries = tuple(entry for entry in entries if entry.provider == provider)
        if not entries:
            there = ", ".join((LOCAL, *config.providers))
            message = f"Provider {provider} does not answer for {name}: leave provider out (there are {there})."
            raise errors.Unsupported(message, feature="provider", model=name)
    options = [_judged(services, entry, method, params, one_of=len(entries)) for entry in entries]
    if all(option.error is not None for option in options):
        assert options[0].error is not None
        raise options[0].error
    return Wanted(options[0], tuple(options[1:]))


def _judged(services: Services, entry: ModelEntry, method: str, params: Any, *, one_of: int) -> Option:
    error: errors.MlzooError | None = None
    installed: Installed | None = None
    try:
        _refuse_kind(services, entry, method)
        _refuse_adapter(entry, getattr(params, "adapter", None))
        if entry.provider == LOCAL:
            _refuse_unserved(entry, unsupported_features(params))
            installed = installed_weights(services, entry)
        else:
            _refuse_remote(services, entry, method, params)
        if one_of > 1:
            _refuse_length(entry, params)
    except errors.MlzooError as found:
        error = found
    return Option(facts_of(services, entry, installed), entry.sampling, error)


def _refuse_kind(services: Services, entry: ModelEntry, method: str) -> None:
    able_kinds = {KIND_OF[method]} if method in KIND_OF else {"chat", "embed"}
    if entry.kind not in able_kinds:
        able = [other.name for other in services.config.models.values() if other.kind in able_kinds]
        there = f"name one that is: {', '.join(able)}" if able else "no model is configured that is"
        message = f"Model {entry.name} is for {entry.kind}, not for {method}; {there}."
        raise errors.Unsupported(message, feature=method, model=entry.name)


def _refuse_adapter(entry: ModelEntry, adapter: str | None) -> None:
    if adapter is None or adapter in entry.adapters:
        return
    if entry.adapters:
        expected = f"one of {', '.join(entry.adapters)}"
        meant = errors.nearest(adapter, entry.adapters)
        message = f"adapter: model {entry.name} has no such adapter, expected {expected}{meant}"
        raise errors.InvalidParams(message, path="adapter", expected=expected)
    why = "has none: name them under adapters in its entry" if entry.provider == LOCAL else "is answered elsewhere"
    message = f"Model {entry.name} {why}, or leave adapter out."
    raise errors.Unsupported(message, feature="adapter", model=entry.name)


def _refuse_unserved(entry: ModelEntry, unserved: list[str]) -> None:
    if unserved:
        message = f"This version does not serve {', '.join(unserved)}: leave it out."
        raise errors.Unsupported(message, feature=unserved[0], model=entry.name)


def _refuse_remote(services: Services, entry: ModelEntry, method: str, params: Any) -> None:
    _refuse_unserved(entry, unsupported_features(params))
    lacks = [need for need in needs_of(params) if need not in entry.capabilities]
    exact = getattr(params, "determinism", "fast") == "exact"
    form = getattr(params, "response_format", None)
    unknown = isinstance(form, RegexFormat | GrammarFormat) or (method == "complete" and form not in _ANY_TEXT)
    wrong = (
        (unknown, "response_format", "knows no such form: ask for JSON in a chat, or a local model"),
        (method in {"tokenize", "detokenize"}, method, "shows no tokens: ask a local model"),
        (exact, "determinism: exact", 'does not promise the same bits: leave determinism out, or ask for "fast"'),
        (getattr(params, "require_device", None) is not None, "require_device", "is on no device of this machine"),
        (bool(lacks), ", ".join(lacks), f"is not said to be capable of {', '.join(lacks)} (capabilities of the model)"),
    )
    for is_so, feature, why in wrong:
        if is_so:
            message = f"Model {entry.name} of provider {entry.provider} {why}."
            raise errors.Unsupported(message, feature=feature, model=entry.name)
    if services.secrets.is_missing(entry.provider):
        raise no_key(services, entry.provider)


def no_key(services: Services, provider: str) -> errors.ProviderError:
    """Return what is said where a provider's key is missing."""
    remedy = how_to_authenticate(provider, services.config.providers[provider].key_env)
    message = f"Provider {provider} has no key: {remedy}."
    return errors.ProviderError(message, provider=provider, reason="no_key", retryable=False)


def needs_of(params: Any) -> list[Capability]:
    """Return what a model must be capable of for a request, beside text."""
    messages = getattr(params, "messages", None) or ()
    tools = any(m.role == "tool" or m.tool_calls or m.tool_call_id is not None for m in messages)
    vision = any(isinstance(part, ImagePart) for message in messages for part in message.content or ())
    json = False
    if isinstance(params, ChatParams):
        tools = tools or bool(params.tools)
        json = isinstance(params.response_format, JsonObjectFormat | JsonSchemaFormat)
    needs: dict[Capability, bool] = {"tools": tools, "json": json, "vision": vision}
    return [need for need, is_needed in needs.items() if is_needed]


def sampling_of(params: GenerationParams, defaults: SamplingDefaults, seed: int) -> Sampling:
    """Return how to sample: as the request says, else as the model's entry does, else as OpenAI's API does."""

    def pick(name: str, otherwise: float) -> Any:
        asked, default = getattr(params, name), getattr(defaults, name)
        return asked if asked is not None else default if default is not None else otherwise

    return Sampling(
        temperature=pick("temperature", 1.0),
        top_k=pick("top_k", 0),
        top_p=pick("top_p", 1.0),
        min_p=pick("min_p", 0.0),
        repetition_penalty=pick("repetition_penalty", 1.0),
        seed=seed,
        logprobs=params.logprobs,
        top_logprobs=params.top_logprobs or 0,
    )


def _refuse_length(entry: ModelEntry, params: Any) -> None:
    """Refuse what is surely too long, where another model may be asked: nobody has counted its tokens yet."""
    if not entry.context or not isinstance(params, ChatParams | CompleteParams):
        return
    texts = [params.prompt] if isinstance(params, CompleteParams) else [_text_of(m.content) for m in params.messages]
    got = sum(len(text.encode()) for text in texts) // BYTES_A_TOKEN + (params.max_tokens or 0)
    if got > entry.context:
        message = f"Model {entry.name} has a context of {entry.context} tokens; this is about {got}."
        raise errors.Unsupported(message, feature="context", model=entry.name)


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(getattr(part, "text", "") for part in content or ())


def installed_weights(services: Services, entry: ModelEntry) -> Installed:
    """Return what is installed of a local model.

    Raises:
        ModelNotInstalled: Nothing is.
    """
    installed = services.store.find(entry)
    if installed is None:
        is_bare = services.store.find(attrs.evolve(entry, adapters={})) is not None
        what = f"An adapter of model {entry.name}" if is_bare else f"Model {entry.name}"
        raise errors.ModelNotInstalled(
            f"{what} is not installed; bring it with models.pull, or `mlzoo models pull {entry.name}`.",
            model=entry.name,
            download_bytes=entry.download_bytes,
        )
    return installed


def facts_of(services: Services, entry: ModelEntry, installed: Installed | None) -> cmd.ModelFacts:
    """Return what the core needs to know of a model."""
    if entry.provider != LOCAL:
        slots = services.config.providers[entry.provider].max_concurrency
        return cmd.ModelFacts(name=entry.name, kind=entry.kind, provider=entry.provider, slots=slots)
    costs = services.store.estimate(entry) if installed is None else estimate_of(entry, installed)
    return cmd.ModelFacts(
        name=entry.name,
        kind=entry.kind,
        digest=installed.digest if installed is not None else "",
        memory_bytes=costs.memory_bytes,
        slots=entry.slots,
        keep_alive_ms=round(entry.keep_alive_s * 1000),
        replicas=entry.replicas,
    )


def loaded(services: Services, entry: ModelEntry) -> cmd.JsonObject:
    """Return what is said of a provider's model that is to be loaded: it is ready where it can be asked.

    Raises:
        ProviderError: its key is missing.
    """
    if services.secrets.is_missing(entry.provider):
        raise no_key(services, entry.provider)
    return {"model": entry.name, "state": "ready", "device": device_of(entry.provider), "bytes": 0}
