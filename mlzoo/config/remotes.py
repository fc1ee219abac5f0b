"""Providers and routes, validated: every file of ``provider`` and ``route`` is known, as every file of ``model`` is.

A file that does not hold costs its provider and the models of that, or its route and those that lead to it; what is
said on a command line is refused with its place. Only composing uses this.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mlzoo.config.schema import LOCAL, ModelEntry, ProviderEntry, RouteEntry
from mlzoo.config.sources import parse
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlzoo.config.origins import Origins

_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # It names a directory, too.


Entry = TypeVar("Entry", ProviderEntry, RouteEntry)


class _LeadsToBroken(ConfigError):
    """The host's fault: a route leads to a model whose configuration does not hold."""


def providers_of(
    stems: Iterable[str], said: Callable[[str, Callable[[str], str]], Any], origins: Origins, broken: dict[str, str]
) -> dict[str, ProviderEntry]:
    """Return the providers by their names, and note what is wrong with those whose own file does not hold.

    Args:
        stems: The names of their files.
        said: Returns what is said at a path; the label of a path says where.
        origins: Where settings were said.
        broken: What is wrong with files, by their names; those that are there already are passed over.

    Raises:
        ConfigError: What an override says of one does not hold.
    """
    found = _entries("provider", stems, said, origins, broken, _provider)
    return {name: entry for name, (_, entry) in found.items()}


def _entries(
    group: str,
    stems: Iterable[str],
    said: Callable[[str, Callable[[str], str]], Any],
    origins: Origins,
    broken: dict[str, str],
    read: Callable[[str, Any, Callable[[str], str]], Entry],
) -> dict[str, tuple[str, Entry]]:
    """Return what the files of a group describe by its name, each behind its file's; note those that do not hold.

    Raises:
        ConfigError: What an override says of one does not hold.
    """
    found: dict[str, tuple[str, Entry]] = {}
    for stem in stems:
        at, label = f"{group}s.{stem}", _label(origins, group, stem)
        if stem in broken:
            if origins.is_override(at):
                raise ConfigError(broken[stem], path=at)
            continue
        try:
            entry = read(stem, said(at, label), label)
            _is_new(entry.name, found, label, f"{at}.name")
        except ConfigError as error:
            _expect_file(group, stem, origins, error)
            broken[stem] = error.message
        else:
            found[entry.name] = stem, entry
    return found


def _expect_file(group: str, stem: str, origins: Origins, error: ConfigError) -> None:
    """Raise what is wrong where a command line or the environment says it, and no file."""
    if f"{group}/{stem}" not in origins.files or origins.is_override(f"{group}s.{stem}"):
        raise error


def _route(stem: str, settings: Any, label: Callable[[str], str]) -> RouteEntry:
    return structure(_named(settings, stem), RouteEntry, at=f"routes.{stem}", label=label)


def _provider(stem: str, settings: Any, label: Callable[[str], str]) -> ProviderEntry:
    entry = structure(_named(settings, stem), ProviderEntry, at=f"providers.{stem}", label=label)
    if entry.name == LOCAL:
        at, expected = f"providers.{stem}.name", f"expected another name: {LOCAL} is this machine"
        raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
    url = urlsplit(entry.base_url)
    if entry.kind != "scripted" and (url.scheme not in {"http", "https"} or not url.hostname):
        at, expected = f"providers.{stem}.base_url", f"expected an http or https URL, got {entry.base_url!r}"
        raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
    if url.username or url.password or url.query or url.fragment:
        at, expected = f"providers.{stem}.base_url", "expected a URL without credentials, query or fragment"
        raise ConfigError(f"{label(at)}: {expected}", path=at, expected=expected)
    return entry


def called(broken: Mapping[str, str], group: str, origins: Origins) -> dict[str, str]:
    """Return what is wrong with files, by all names that they give to what they describe."""
    found = dict(broken)
    for stem, why in broken.items():
        written = origins.written.get(f"{group}/{stem}", {})
        aliases = written.get("aliases")
        names = [written.get("name"), *(aliases if isinstance(aliases, list) else ())]
        found |= {name: why for name in names if isinstance(name, str) and name not in found}
    return found


def routes_of(
    stems: Iterable[str],
    said: Callable[[str, Callable[[str], str]], Any],
    origins: Origins,
    models: Mapping[str, ModelEntry],
    broken: dict[str, str],
    unreadable: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    """Return each route -> the names of the models that it leads to, each once.

    One whose file does not hold, names what does not exist, leads back to itself or to what is broken, costs no other.

    Args:
        stems: The names of their files.
        said: Returns what is said at a path; the label of a path says where.
        origins: Where settings were said.
        models: Those that hold, by the names of their files.
        broken: What is wrong with models; routes are noted there as well, by their names.
        unreadable: What is wrong with files of routes that say nothing usable, by their names.

    Raises:
        ConfigError: What an override says of one does not hold.
    """
    faulty = dict(unreadable)
    read = _entries("route", stems, said, origins, faulty, _route)
    entries = {name: entry for name, (_, entry) in read.items()}
    labels = {
        name: partial(_beneath, _label(origins, "route", stem), f"routes.{stem}") for name, (stem, _) in read.items()
    }
    by_alias = {alias: entry.name for entry in models.values() for alias in entry.aliases}
    names = {**by_alias, **{entry.name: entry.name for entry in models.values()}}
    faults = {**called(faulty, "route", origins), **called(broken, "model", origins)}
    faults = {name: why for name, why in faults.items() if name not in names}
    broken |= {stem: why for stem, why in faulty.items() if stem not in broken}
    found = {}
    for name, (stem, entry) in read.items():
        try:
            chain = tuple(dict.fromkeys(_models_of(entry, entries, names, labels, (name,), faults)))
            _expect_one_kind(chain, models, labels[name]("chain"), f"routes.{stem}.chain")
        except ConfigError as error:
            if not isinstance(error, _LeadsToBroken):
                _expect_file("route", stem, origins, error)
            broken[name] = error.message
        else:
            found[name] = chain
    return found


def _expect_one_kind(chain: Iterable[str], models: Mapping[str, ModelEntry], where: str, path: str) -> None:
    if len({model.kind for model in models.values() if model.name in chain}) > 1:
        expected = "expected models of one kind, which chat or embed"
        raise ConfigError(f"{where}: {expected}", path=path, expected=expected)


def _models_of(
    entry: RouteEntry,
    entries: Mapping[str, RouteEntry],
    names: Mapping[str, str],
    labels: Mapping[str, Callable[[str], str]],
    way: tuple[str, ...],
    faults: Mapping[str, str],
) -> list[str]:
    found: list[str] = []
    for index, step in enumerate(entry.chain):
        at = f"chain[{index}]"
        if step in names:
            found.append(names[step])
        elif step in way:
            circle = " -> ".join((*way[way.index(step) :], step))
            raise ConfigError(f"{labels[entry.name](at)}: the route leads back to itself: {circle}", path=at)
        elif step in entries:
            try:
                found += _models_of(entries[step], entries, names, labels, (*way, step), faults)
            except ConfigError as error:
                told = f"{labels[entry.name](at)}: {step!r} does not hold: {error.message}"
                raise _LeadsToBroken(told, path=at) from error
        elif step in faults:
            raise _LeadsToBroken(f"{labels[entry.name](at)}: {step!r} does not hold: {faults[step]}", path=at)
        else:
            known = nearest(step, (*names, *entries))
            raise ConfigError(f"{labels[entry.name](at)}: no model and no route is called {step!r}{known}", path=at)
    return found


def fault_of(
    entry: ModelEntry, providers: Mapping[str, ProviderEntry], faults: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return what is wrong with who answers for a model: the setting, and what was expected; None: nothing.

    Args:
        entry: The model's.
        providers: Those that hold, by their names.
        faults: What is wrong with the others, by their names.
    """
    if entry.provider != LOCAL:
        if entry.provider not in providers and entry.provider in faults:
            return "provider", f"that of {entry.provider!r} does not hold: {faults[entry.provider]}"
        if entry.provider not in providers:
            there = ", ".join((LOCAL, *providers))
            return "provider", f"no provider is called {entry.provider!r} (there are {there})"
        if entry.kind == "predict":
            return "kind", "expected chat or embed: no provider predicts"
        if entry.source:
            return "source", f"expected none: provider {entry.provider} answers, and nothing is brought here"
        if entry.adapters:
            return "adapters", f"expected none: provider {entry.provider} answers, and has what it has"
        return None
    if not entry.source:
        return "source", "this setting is missing"
    try:
        parse(entry.source)
    except ConfigError as error:
        return "source", str(error.data["expected"])
    return _fault_of_adapters(entry)


def _fault_of_adapters(entry: ModelEntry) -> tuple[str, str] | None:
    if entry.adapters and entry.kind != "chat":
        return "adapters", "expected none: this setting is for kind: chat alone"
    for name, source in entry.adapters.items():
        if not _ADAPTER_NAME.fullmatch(name):
            return f"adapters.{name}", "expected a name of letters, digits, dots, hyphens and underscores"
        try:
            parse(source)
        except ConfigError as error:
            return f"adapters.{name}", str(error.data["expected"])
    return None


def _named(settings: Any, stem: str) -> Any:
    return {"name": stem, **settings} if isinstance(settings, dict) else settings


def _label(origins: Origins, group: str, stem: str) -> Callable[[str], str]:
    """Return what says where a setting of one file was said."""

    def label(path: str) -> str:
        file = origins.files.get(f"{group}/{stem}")
        if file is None or origins.is_override(path):
            return origins.label(path)
        return f"{file.path}: {path.removeprefix(f'{group}s.{stem}.')}"

    return label


def _beneath(label: Callable[[str], str], outer: str, path: str) -> str:
    return label(f"{outer}.{path}")


def _is_new(name: str, found: Mapping[str, object], label: Callable[[str], str], path: str) -> None:
    if name in found:
        raise ConfigError(f"{label(path)}: two configuration files have the name {name!r}", path=path)
