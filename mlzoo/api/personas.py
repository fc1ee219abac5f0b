"""Params and results of personas.*: who a model is to be."""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.fields import INTEGER_MAX, about, checked, naming

PERSONA_CHARACTERS = 100_000  # of one prompt: a persona is read before each turn


@attrs.frozen(kw_only=True)
class PersonaParams:
    """The persona that is meant."""

    name: str = attrs.field(validator=checked, metadata=naming("Name of the persona."))


@attrs.frozen(kw_only=True)
class PersonaSampling:
    """How it samples where a request is silent; what is absent is the model's own."""

    temperature: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Flatness of the distribution; 0 is greedy.", minimum=0)
    )
    top_p: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Share of the likeliest tokens.", above=0, maximum=1)
    )
    top_k: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Number of likeliest tokens.", minimum=0, maximum=INTEGER_MAX),
    )
    min_p: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Least share of the likeliest one.", minimum=0, maximum=1)
    )
    repetition_penalty: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Above 1 makes repeating less likely.", above=0)
    )


@attrs.frozen(kw_only=True)
class PersonaTruncation:
    """What becomes of a conversation that is longer than its model's context."""

    policy: Literal["drop_oldest", "keep_last", "none", "summarise"] = attrs.field(
        metadata=about(
            "drop_oldest: as few turns go as must; keep_last: all but the last ones; none: it is refused; "
            "summarise: the model reads a summary of its own in their place.",
        )
    )
    turns: int = attrs.field(
        default=0, validator=checked, metadata=about("How many are kept by keep_last.", minimum=0, maximum=INTEGER_MAX)
    )


@attrs.frozen(kw_only=True)
class PersonasPutParams:
    """A persona as a host describes it."""

    name: str = attrs.field(validator=checked, metadata=naming("Name of the persona."))
    system: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("System prompt of requests that bring none.", max_length=PERSONA_CHARACTERS),
    )
    model: str | None = attrs.field(default=None, validator=checked, metadata=naming("Model of requests without one."))
    sampling: PersonaSampling | None = None
    greeting: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("What it says first in a conversation.", max_length=PERSONA_CHARACTERS),
    )
    truncation: PersonaTruncation | None = None


# ---------------------------------------------------------------------------------------------------------- results


@attrs.frozen(kw_only=True)
class PersonasPutResult:
    """It is recorded, and holds for requests that come from now on."""

    name: str


@attrs.frozen(kw_only=True)
class Persona:
    """A persona, and where it comes from."""

    name: str
    source: Literal["configuration", "host"]
    system: str | None = None
    model: str | None = None
    sampling: PersonaSampling | None = None
    greeting: str | None = None
    truncation: PersonaTruncation | None = None


@attrs.frozen(kw_only=True)
class PersonaSummary:
    """A persona, shortly."""

    name: str
    source: Literal["configuration", "host"]


@attrs.frozen(kw_only=True)
class BrokenPersona:
    """A persona whose configuration does not hold."""

    name: str
    error: str


@attrs.frozen(kw_only=True)
class PersonasListResult:
    """All personas, and apart from them those whose configuration does not hold."""

    personas: tuple[PersonaSummary, ...]
    broken: tuple[BrokenPersona, ...]


@attrs.frozen(kw_only=True)
class PersonasDeleteResult:
    """What a host described is gone, durably; one of that name that is configured holds again."""

    name: str
    groups: int = attrs.field(metadata=about("How many commands of the log were about it; they are tombstones now."))
