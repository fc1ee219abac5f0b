"""What a custom model is made of, by name: a backbone, a head and a pipeline, each a class with options.

A name is looked up in the table here, then among the entry points that other packages declare, so that nobody edits
mlzoo to add a class. Names are checked without importing what they stand for. Knows neither torch nor numpy, and no
class until it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal

import attrs

from mlzoo.errors import ConfigError, nearest

Group = Literal["backbone", "head", "pipeline"]

_BUILT_IN: dict[Group, dict[str, str]] = {
    "backbone": {
        "transformer": "mlzoo.models.backbones:Transformer",
        "mlp": "mlzoo.models.backbones:Mlp",
        "cnn": "mlzoo.models.backbones:Cnn",
    },
    "head": {
        "classification": "mlzoo.models.heads:Classification",
        "multilabel": "mlzoo.models.heads:MultiLabel",
        "regression": "mlzoo.models.heads:Regression",
        "tagging": "mlzoo.models.heads:Tagging",
        "embedding": "mlzoo.models.heads:Embedding",
        "similarity": "mlzoo.models.heads:Similarity",
        "rerank": "mlzoo.models.heads:Rerank",
    },
    "pipeline": {
        "text": "mlzoo.pipelines.text:TextPipeline",
        "tabular": "mlzoo.pipelines.tabular:TabularPipeline",
        "image": "mlzoo.pipelines.image:ImagePipeline",
    },
}
_ENTRY_POINTS: dict[Group, str] = {
    "backbone": "mlzoo.backbones",
    "head": "mlzoo.heads",
    "pipeline": "mlzoo.pipelines",
}
JsonObject = dict[str, Any]


@attrs.frozen
class Part:
    """One part of a model: the name of its class, and the options that the class is made with."""

    kind: str
    options: JsonObject = attrs.field(factory=dict)

    def plain(self) -> JsonObject:
        """Return it as YAML and JSON have it: the kind, and the options beside it."""
        return {"kind": self.kind, **self.options}


@attrs.frozen
class ZooSpec:
    """A whole custom model: what it is made of, and the labels that its head tells apart."""

    backbone: Part
    head: Part
    pipeline: Part
    labels: tuple[str, ...] = ()

    def plain(self) -> JsonObject:
        """Return it as YAML and JSON have it."""
        parts = {"backbone": self.backbone.plain(), "head": self.head.plain(), "pipeline": self.pipeline.plain()}
        return {**parts, "labels": list(self.labels)} if self.labels else parts


def spec_of(plain: object, *, at: str = "") -> ZooSpec:
    """Return what ``{backbone: {kind, ...}, head: {kind, ...}, pipeline: {kind, ...}, labels?: [...]}`` says.

    Raises:
        ConfigError: It does not hold; ``data.path`` names the place, below ``at``.
    """
    if not isinstance(plain, Mapping):
        raise _wrong(at, f"expected backbone, head and pipeline, got {plain!r}")
    for key in plain:
        if key not in {*_BUILT_IN, "labels"}:
            known = [*_BUILT_IN, "labels"]
            raise _wrong(_below(at, key), f"there is no such part{nearest(str(key), known)} (there are {known})")
    parts = {group: part_of(group, plain.get(group), at=_below(at, group)) for group in _BUILT_IN}
    labels = plain.get("labels", ())
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise _wrong(_below(at, "labels"), f"expected a list of names, got {labels!r}")
    if len(set(labels)) != len(labels):
        raise _wrong(_below(at, "labels"), "expected names that differ, and one is there twice")
    return ZooSpec(parts["backbone"], parts["head"], parts["pipeline"], tuple(labels))


def part_of(group: Group, plain: object, *, at: str = "") -> Part:
    """Return what ``{kind: NAME, OPTION: ...}`` says; a name alone is a part without options.

    Raises:
        ConfigError: There is no such class; the message names the nearest.
    """
    if isinstance(plain, str):
        plain = {"kind": plain}
    if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
        raise _wrong(at or group, f"expected kind: NAME (one of {', '.join(known(group))}), got {plain!r}")
    options = {str(name): value for name, value in plain.items() if name != "kind"}
    check(group, plain["kind"], at=_below(at or group, "kind"))
    return Part(plain["kind"], options)


def known(group: Group) -> list[str]:
    """Return the names that there are, those of other packages among them."""
    return sorted({*_BUILT_IN[group], *metadata.entry_points(group=_ENTRY_POINTS[group]).names})


def check(group: Group, kind: str, *, at: str) -> None:
    """Refuse a name that stands for nothing.

    Raises:
        ConfigError: The message names the nearest, and how a class comes to have a name.
    """
    if kind in _BUILT_IN[group]:
        return
    names = known(group)
    if kind not in names:
        how = f"a package adds one by an entry point of the group {_ENTRY_POINTS[group]}"
        told = f"there is no {group} {kind!r}{nearest(kind, names)} (there are {', '.join(names)}; {how})"
        raise _wrong(at, told)


def find(group: Group, kind: str) -> Any:
    """Return the class that a name stands for; imports it.

    Raises:
        ConfigError: There is none, or the package that declares it cannot be imported.
    """
    check(group, kind, at=f"{group}.kind")
    place = _BUILT_IN[group].get(kind)
    if place is not None:
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module), name)
    (entry, *_) = metadata.entry_points(group=_ENTRY_POINTS[group], name=kind)
    try:
        return entry.load()
    except Exception as error:
        # A stranger's module raises what it likes; all of it means that the class cannot be had.
        told = f"{entry.value}, which {entry.dist.name if entry.dist else 'a package'} declares, cannot be imported"
        raise _wrong(f"{group}.kind", f"{told}: {error!r}") from error


def _below(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _wrong(path: str, expected: str) -> ConfigError:
    return ConfigError(f"{path}: {expected}" if path else expected, path=path, expected=expected)
