"""Params and results of models.*: the weights on this machine and the models in its memory."""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.fields import INTEGER_MAX, about, checked, naming

ModelKind = Literal["chat", "complete", "embed", "predict"]
ModelPhase = Literal["absent", "downloading", "available", "loading", "ready", "unloading", "failed"]

_MODEL = naming("Name of the model or one of its aliases.")


@attrs.frozen(kw_only=True)
class ModelParams:
    """The model that is meant."""

    model: str = attrs.field(validator=checked, metadata=_MODEL)


@attrs.frozen(kw_only=True)
class ModelsPullParams:
    """The model whose weights are to be brought."""

    model: str = attrs.field(validator=checked, metadata=_MODEL)
    accept_license: bool = attrs.field(default=False, metadata=about("The user has accepted the model's licence."))


@attrs.frozen(kw_only=True)
class ModelsEstimateParams:
    """The model whose needs are asked for."""

    model: str = attrs.field(validator=checked, metadata=_MODEL)
    context: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Tokens that a request shall be able to hold.", minimum=1, maximum=INTEGER_MAX),
    )


@attrs.frozen(kw_only=True)
class ModelsLoadParams:
    """The model that is to be ready."""

    model: str = attrs.field(validator=checked, metadata=_MODEL)
    device: str = attrs.field(default="auto", validator=checked, metadata=naming("A device's name, or auto."))
    pin: bool = attrs.field(default=False, metadata=about("Keep it loaded until it is unloaded by hand."))


# ---------------------------------------------------------------------------------------------------------- results


@attrs.frozen(kw_only=True)
class ModelSummary:
    """One model, and how it is."""

    name: str
    kind: ModelKind
    provider: str
    state: ModelPhase
    device: str | None
    bytes: int | None = attrs.field(metadata=about("Memory that it holds, null where it is not loaded."))
    loaded_at: int | None = attrs.field(metadata=about("Milliseconds since the Unix epoch."))
    last_used_at: int | None = attrs.field(metadata=about("Milliseconds since the Unix epoch."))
    error: str | None = attrs.field(default=None, metadata=about("Why it failed."))


@attrs.frozen(kw_only=True)
class BrokenModel:
    """A model whose configuration does not hold; nothing else is known of it, and the others work without it."""

    name: str = attrs.field(metadata=about("That of its file."))
    error: str = attrs.field(metadata=about("What is wrong with it, and where."))


@attrs.frozen(kw_only=True)
class ModelsListResult:
    """All models that are configured."""

    models: tuple[ModelSummary, ...]
    broken: tuple[BrokenModel, ...] = attrs.field(default=(), metadata=about("Those that cannot be used."))


@attrs.frozen(kw_only=True)
class Licence:
    """The terms under which the weights may be used."""

    spdx: str
    url: str


@attrs.frozen(kw_only=True)
class Chosen:
    """How a model is run."""

    dtype: str | None = None
    context: int | None = attrs.field(default=None, metadata=about("Tokens that a request can hold."))
    slots: int | None = attrs.field(default=None, metadata=about("Requests that can run together."))
    architecture: str | None = None
    batching: str | None = None
    labels: tuple[str, ...] | None = attrs.field(default=None, metadata=about("That a custom model tells apart."))


@attrs.frozen(kw_only=True)
class Replica:
    """A model on one of several devices."""

    device: str | None
    state: ModelPhase
    bytes: int | None


@attrs.frozen(kw_only=True)
class Adapter:
    """What requests may have beside a model; more than its name and source is known once the model is loaded."""

    name: str
    source: str = attrs.field(metadata=about("Where it comes from."))
    digest: str | None = attrs.field(default=None, metadata=about("SHA-256 of what was loaded."))
    rank: int | None = attrs.field(default=None, metadata=about("Of the layer that has the greatest."))
    targets: tuple[str, ...] | None = attrs.field(default=None, metadata=about("The kinds of layers that it changes."))
    bytes: int | None = attrs.field(default=None, metadata=about("Memory that it holds, a part of the model's."))
    exact: bool | None = attrs.field(default=None, metadata=about("Whether exact requests may have it."))


@attrs.frozen(kw_only=True)
class ModelsInfoResult(ModelSummary):
    """All about one model."""

    source: str = attrs.field(metadata=about("Where its weights come from."))
    digest: str | None = attrs.field(metadata=about("SHA-256 of the weights, null where none are here."))
    licence: Licence
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    disk_bytes: int | None = None
    chosen: Chosen = attrs.field(factory=Chosen, metadata=about("How it is run, as far as that is decided."))
    why: tuple[str, ...] = attrs.field(default=(), metadata=about("The reasons for what was chosen."))
    replicas: tuple[Replica, ...] = attrs.field(
        default=(), metadata=about("Each that there is on a device, or about to be.")
    )
    adapters: tuple[Adapter, ...] = attrs.field(default=(), metadata=about("Those of its entry."))


@attrs.frozen(kw_only=True)
class ModelsEstimateResult:
    """What a model needs."""

    download_bytes: int
    disk_bytes: int
    memory_bytes: int
    fits: bool = attrs.field(metadata=about("Whether it would fit on some device now."))


@attrs.frozen(kw_only=True)
class ModelsPullResult:
    """The weights are here, whole and verified."""

    model: str
    digest: str


@attrs.frozen(kw_only=True)
class ModelsRemoveResult:
    """The weights are gone."""

    model: str


@attrs.frozen(kw_only=True)
class ModelsLoadResult:
    """The model is ready."""

    model: str
    state: ModelPhase
    device: str
    bytes: int
    degraded: str | None = attrs.field(default=None, metadata=about("Why a slower device was used than the best."))


@attrs.frozen(kw_only=True)
class ModelsUnloadResult:
    """The model's memory is back."""

    model: str
    state: ModelPhase
