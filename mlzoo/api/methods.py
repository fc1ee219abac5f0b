"""The table of methods: what each is called, what it takes and gives, and who answers it.

Importing this costs a millisecond. The classes of params and results are named here and imported only when asked for,
group by group, so that a sidecar that is only pinged never makes them.
"""

from __future__ import annotations

import importlib
from functools import cache

import attrs

from mlzoo.errors import MethodNotFound, nearest

PROTOCOL_VERSION = "1"
OWN = "_meta"  # The one key of params that belongs to the host alone; it is never looked at.


@attrs.frozen(kw_only=True)
class Empty:
    """Nothing: the params of a method that takes none, the result of one that only says that it is done."""


NOTHING = Empty()


@attrs.frozen(kw_only=True, eq=False, repr=False)  # Each thing that attrs writes costs a start its time.
class MethodSpec:
    """One method of the protocol."""

    name: str
    summary: str
    group: str
    """The module of ``mlzoo.api`` that has the classes."""
    params_name: str = "Empty"
    result_name: str = "Empty"
    wait: bool = False
    """True: the engine decides it, and its answer is an event of its own. False: answered where it arrives."""
    private: bool = False
    """Whether its params may repeat what a person wrote; an aside holds only their digest then."""
    without_log: bool = False
    """Whether it is answered even where the log cannot be used."""
    secret: bool = False
    """Whether some of its params are secrets (``x-secret``): those are replaced before anything is recorded."""

    @property
    def params(self) -> type:
        """The class of its params; imports the group."""
        return _class(self.group, self.params_name)

    @property
    def result(self) -> type:
        """The class of its result; imports the group. ``dict[str, Any]`` for the document of ``rpc.discover``."""
        return _class(self.group, self.result_name)


@cache
def _class(group: str, name: str) -> type:
    if name == "Empty":
        return Empty
    found: type = getattr(importlib.import_module(f"mlzoo.api.{group}"), name)
    return found


def find(name: str) -> MethodSpec:
    """Return a method by its name.

    Raises:
        MethodNotFound: There is none; the message names the nearest.
    """
    spec = METHODS.get(name)
    if spec is not None:
        return spec
    available = list(METHODS)
    raise MethodNotFound(f"there is no such method{nearest(name, available)}", available=available)


_TABLE = (
    MethodSpec(
        name="initialize",
        summary="Agree on the protocol's version and learn what this sidecar can do. Optional.",
        group="lifecycle",
        params_name="InitializeParams",
        result_name="InitializeResult",
        without_log=True,
    ),
    MethodSpec(name="ping", summary="Ask for a sign of life.", group="lifecycle", without_log=True),
    MethodSpec(
        name="status",
        summary="Say how the sidecar is: actors, models, devices, requests and the log.",
        group="lifecycle",
        result_name="StatusResult",
        without_log=True,
    ),
    MethodSpec(
        name="shutdown",
        summary="Take no new work, finish what runs, answer, and exit with status 0.",
        group="lifecycle",
        wait=True,
        without_log=True,
    ),
    MethodSpec(
        name="chat",
        summary="Answer a conversation with a message.",
        group="inference",
        params_name="ChatParams",
        result_name="ChatResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="complete",
        summary="Continue a text.",
        group="inference",
        params_name="CompleteParams",
        result_name="CompleteResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="embed",
        summary="Turn texts into vectors.",
        group="embed",
        params_name="EmbedParams",
        result_name="EmbedResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="predict",
        summary="Have a custom model answer inputs: classes, numbers, spans, vectors, an order.",
        group="predict",
        params_name="PredictParams",
        result_name="PredictResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="tokenize",
        summary="Turn a text, or messages through the model's chat template, into tokens.",
        group="inference",
        params_name="TokenizeParams",
        result_name="TokenizeResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="detokenize",
        summary="Turn tokens into text.",
        group="inference",
        params_name="DetokenizeParams",
        result_name="DetokenizeResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="cancel",
        summary="End a running request; it is answered with error -32800. Also taken as a notification.",
        group="inference",
        params_name="CancelParams",
        result_name="CancelResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="resume",
        summary="Hear a keyed request on, from a piece of its stream to its answer, whatever has happened since.",
        group="resuming",
        params_name="ResumeParams",
        result_name="ResumeResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="forget",
        summary="Have the text of a request gone, in every file of the log; its events stay as tombstones.",
        group="forgetting",
        params_name="ForgetParams",
        result_name="ForgetResult",
        private=True,
    ),
    MethodSpec(
        name="conversations.list",
        summary="List the conversations that there are.",
        group="conversations",
        result_name="ConversationsListResult",
    ),
    MethodSpec(
        name="conversations.get",
        summary="Tell what was said in a conversation, or had been at a place of it.",
        group="conversations",
        params_name="ConversationsGetParams",
        result_name="ConversationsGetResult",
    ),
    MethodSpec(
        name="conversations.fork",
        summary="Begin a conversation with a copy of the turns of another one, up to a place.",
        group="conversations",
        params_name="ConversationsForkParams",
        result_name="ConversationsForkResult",
    ),
    MethodSpec(
        name="conversations.delete",
        summary="Have a conversation and all of its text gone, in every file of the log.",
        group="conversations",
        params_name="ConversationParams",
        result_name="ConversationsDeleteResult",
    ),
    MethodSpec(
        name="personas.list",
        summary="List the personas that there are.",
        group="personas",
        result_name="PersonasListResult",
    ),
    MethodSpec(
        name="personas.get",
        summary="Tell all about a persona.",
        group="personas",
        params_name="PersonaParams",
        result_name="Persona",
    ),
    MethodSpec(
        name="personas.put",
        summary="Describe a persona, for requests that come from now on.",
        group="personas",
        params_name="PersonasPutParams",
        result_name="PersonasPutResult",
        private=True,
        wait=True,
    ),
    MethodSpec(
        name="personas.delete",
        summary="Have what hosts said of a persona gone, in every file of the log.",
        group="personas",
        params_name="PersonaParams",
        result_name="PersonasDeleteResult",
    ),
    MethodSpec(
        name="models.list",
        summary="List the models that are configured, and how each is.",
        group="models",
        result_name="ModelsListResult",
    ),
    MethodSpec(
        name="models.info",
        summary="Tell all about one model: digest, licence, what was chosen for it and why.",
        group="models",
        params_name="ModelParams",
        result_name="ModelsInfoResult",
    ),
    MethodSpec(
        name="models.estimate",
        summary="Estimate what a model needs, before it is pulled or loaded.",
        group="models",
        params_name="ModelsEstimateParams",
        result_name="ModelsEstimateResult",
    ),
    MethodSpec(
        name="models.pull",
        summary="Bring a model's weights to this machine, with progress.",
        group="models",
        params_name="ModelsPullParams",
        result_name="ModelsPullResult",
        wait=True,
    ),
    MethodSpec(
        name="models.remove",
        summary="Remove a model's weights from this machine.",
        group="models",
        params_name="ModelParams",
        result_name="ModelsRemoveResult",
        wait=True,
    ),
    MethodSpec(
        name="models.load",
        summary="Make a model ready on a device, with progress.",
        group="models",
        params_name="ModelsLoadParams",
        result_name="ModelsLoadResult",
        wait=True,
    ),
    MethodSpec(
        name="models.unload",
        summary="Give a model's memory back once what runs on it has ended.",
        group="models",
        params_name="ModelParams",
        result_name="ModelsUnloadResult",
        wait=True,
    ),
    MethodSpec(
        name="devices.list",
        summary="List the devices of this machine, and why those that cannot be used cannot.",
        group="devices",
        result_name="DevicesListResult",
    ),
    MethodSpec(
        name="providers.list",
        summary="List what can answer requests: this machine, and providers elsewhere, with what they lack.",
        group="devices",
        result_name="ProvidersListResult",
    ),
    MethodSpec(
        name="providers.authenticate",
        summary="Give a provider its key, which is kept in memory only.",
        group="devices",
        params_name="ProvidersAuthenticateParams",
        secret=True,
    ),
    MethodSpec(
        name="events.read",
        summary="Read what the log has.",
        group="observation",
        params_name="EventsReadParams",
        result_name="EventsReadResult",
    ),
    MethodSpec(
        name="events.subscribe",
        summary="Have events sent as notifications, from now on or from a place in the log.",
        group="observation",
        params_name="EventsSubscribeParams",
        result_name="EventsSubscribeResult",
    ),
    MethodSpec(
        name="events.unsubscribe",
        summary="End a subscription.",
        group="observation",
        params_name="EventsUnsubscribeParams",
    ),
    MethodSpec(
        name="metrics",
        summary="Give counters and histograms.",
        group="observation",
        result_name="MetricsResult",
    ),
    MethodSpec(
        name="rpc.discover",
        summary="Give the OpenRPC document of all this.",
        group="observation",
        result_name="Document",
    ),
)

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _TABLE}
SECRET: frozenset[str] = frozenset(spec.name for spec in _TABLE if spec.secret)
"""Methods of which some params are secrets."""
