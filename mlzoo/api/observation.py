"""Params and results of events.*, metrics and rpc.discover: looking at the sidecar from outside."""

from __future__ import annotations

from typing import Any

import attrs

from mlzoo.api.fields import INTEGER_MAX, about, checked, naming

Document = dict[str, Any]

_TYPES = about("Only events of these types; without it all.", max_items=256, each={"minLength": 1, "maxLength": 256})


@attrs.frozen(kw_only=True)
class EventsReadParams:
    """Which events are asked for."""

    after: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("The log_seq to begin behind; without it the oldest.", minimum=-1, maximum=INTEGER_MAX),
    )
    limit: int = attrs.field(
        default=1000, validator=checked, metadata=about("Most events to give.", minimum=1, maximum=10_000)
    )
    types: tuple[str, ...] | None = attrs.field(default=None, validator=checked, metadata=_TYPES)
    request: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("Only events of this request, by its name in the log.")
    )


@attrs.frozen(kw_only=True)
class EventsSubscribeParams:
    """Which events are to be sent."""

    after: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("The log_seq to begin behind; without it from now on.", minimum=-1, maximum=INTEGER_MAX),
    )
    types: tuple[str, ...] | None = attrs.field(default=None, validator=checked, metadata=_TYPES)


@attrs.frozen(kw_only=True)
class EventsUnsubscribeParams:
    """The subscription that is to end."""

    subscription: str = attrs.field(validator=checked, metadata=naming("What events.subscribe answered."))


# ---------------------------------------------------------------------------------------------------------- results


@attrs.frozen(kw_only=True)
class EventRecord:
    """One event, as the log has it."""

    log_seq: int
    time_ms: int = attrs.field(metadata=about("Wall clock, milliseconds since the Unix epoch."))
    type: str
    version: int = attrs.field(metadata=about("Version of the type's schema."))
    data: dict[str, Any]
    request: str | None = attrs.field(default=None, metadata=about("The request's name in the log."))
    text: Any = attrs.field(
        default=None, metadata=about("What people wrote or a model said, where the event has some.")
    )


@attrs.frozen(kw_only=True)
class EventsReadResult:
    """Events in the order of the log."""

    events: tuple[EventRecord, ...]
    last: int = attrs.field(metadata=about("The last log_seq that was looked at: the next after."))


@attrs.frozen(kw_only=True)
class EventsSubscribeResult:
    """The subscription's name, which its notifications carry."""

    subscription: str


@attrs.frozen(kw_only=True)
class Bucket:
    """How many measurements were at most so large; the buckets add up, as Prometheus has them."""

    le: float
    count: int


@attrs.frozen(kw_only=True)
class Histogram:
    """How a measurement is distributed. What lies above the last bucket is only in the count."""

    count: int
    sum: float
    buckets: tuple[Bucket, ...]


@attrs.frozen(kw_only=True)
class MetricsResult:
    """Figures since the start; a name ends in its unit."""

    counters: dict[str, float]
    histograms: dict[str, Histogram]
