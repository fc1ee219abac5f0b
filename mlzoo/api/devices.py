"""Results of devices.list and providers.list: where requests can run."""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.fields import about, checked, naming

Breaker = Literal["closed", "open", "half_open"]
WorkerPhase = Literal["absent", "starting", "up", "retiring"]


@attrs.frozen(kw_only=True)
class DeviceInfo:
    """One device of this machine."""

    name: str = attrs.field(metadata=about('Such as "cuda:0", "mps" or "cpu".'))
    kind: str
    memory_total_bytes: int
    memory_free_bytes: int
    dtypes: tuple[str, ...] = attrs.field(metadata=about("Number formats that it computes in."))
    worker: WorkerPhase
    models: tuple[str, ...] = attrs.field(metadata=about("Models that are loaded on it."))
    usable: bool = True
    description: str | None = attrs.field(default=None, metadata=about("What it is, for people."))
    reason: str | None = attrs.field(default=None, metadata=about("Why it cannot be used."))
    remedy: str | None = attrs.field(default=None, metadata=about("What would make it usable."))


@attrs.frozen(kw_only=True)
class DevicesListResult:
    """All devices, those that cannot be used too."""

    devices: tuple[DeviceInfo, ...]


@attrs.frozen(kw_only=True)
class ProviderInfo:
    """One that can answer requests."""

    name: str
    usable: bool
    models: tuple[str, ...]
    reason: str | None = attrs.field(default=None, metadata=about("Why it cannot be used."))
    remedy: str | None = attrs.field(default=None, metadata=about("What would make it usable."))
    kind: str | None = attrs.field(default=None, metadata=about("What it speaks: openai, anthropic or scripted."))
    running: int | None = attrs.field(default=None, metadata=about("Requests that are with it."))
    max_concurrency: int | None = attrs.field(default=None, metadata=about("Most requests that are with it at once."))
    breaker: Breaker | None = attrs.field(default=None, metadata=about("Whether it is left alone for a while."))
    faults: int | None = attrs.field(default=None, metadata=about("Times that it has failed, one after the other."))
    retry_after_ms: int | None = attrs.field(default=None, metadata=about("How long it is still left alone."))


@attrs.frozen(kw_only=True)
class ProvidersListResult:
    """All providers."""

    providers: tuple[ProviderInfo, ...]


@attrs.frozen(kw_only=True)
class ProvidersAuthenticateParams:
    """The key of a provider."""

    provider: str = attrs.field(validator=checked, metadata=naming("Name of the provider."))
    secret: str = attrs.field(
        validator=checked, metadata=about("The key; never recorded.", min_length=1, max_length=4096, secret=True)
    )
