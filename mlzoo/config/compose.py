"""Composing settings with Hydra and OmegaConf, then validating them: slow, and only done when inputs changed.

Every file of the group ``model`` is a known model and stands at ``models.<file name>``. ``model=NAME`` chooses the one
that chats where a request names none and ``model@embed=NAME`` the one that embeds; what is said under ``model.`` or
``embed.`` is said about the chosen one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped] # OmegaConf lets its errors through; it has no types.
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlzoo.config.schema import Config
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override

_CHOICES = {"model": "chat", "embed": "embed"}  # where a choice stands -> the kind of model that it must be


def compose(files: Mapping[str, str], overrides: Sequence[str]) -> Config:
    """Return the configuration that files and overrides make.

    Args:
        files: The text of each YAML file by group and option, such as ``model/smollm2``, and of ``config``.
        overrides: ``key=value`` as in Hydra; the last one wins.

    Raises:
        ConfigError: It does not hold; ``data.path`` names the place.
    """
    groups = _groups(files)
    try:
        lines = [_line(override, groups) for override in OverridesParser.create().parse_overrides(list(overrides))]
        lines += [f"+model@models.{option}={option}" for option in groups.get("model", ())]
        composed = _composed(files, lines)
        plain = _plain(composed, files)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"the configuration cannot be composed: {_reason(error)}") from error
    return structure(plain, Config)


def _groups(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each group -> its options."""
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        group, _, option = name.rpartition("/")
        if "." in option:
            raise ConfigError(
                f"{name}.yaml: the name of a configuration file cannot hold a dot; rename it and write name: inside",
                path=name,
            )
        groups.setdefault(group, []).append(option)
    del groups[""]
    return groups


def _composed(files: Mapping[str, str], lines: list[str]) -> DictConfig:
    """Compose what was read, not what may stand on the disk by now; Hydra wants it in one directory."""
    with tempfile.TemporaryDirectory(prefix="mlzoo-config-") as name:
        for path, text in files.items():
            place = Path(name, path + ".yaml")
            place.parent.mkdir(exist_ok=True)
            place.write_text(text, encoding="utf-8")
        with initialize_config_dir(config_dir=name, version_base="1.3", job_name="mlzoo"):
            composed: DictConfig = hydra_compose(config_name="config", overrides=lines, return_hydra_config=True)
            return composed


def _line(override: Override, groups: Mapping[str, Sequence[str]]) -> str:
    """Return an override so that Hydra adds what is unknown, for that is refused with a better message later.

    Raises:
        ConfigError: It chooses what does not exist, or asks Hydra for what only its own programs do.
    """
    key, line = override.key_or_group, override.input_line or ""
    if override.is_sweep_override() or override.is_hydra_override():
        raise ConfigError(f"{line}: sweeps and hydra.* settings have no meaning here", path=key)
    options = groups.get(key)
    if options is None:
        return line if override.is_delete() or override.is_add() or override.is_force_add() else f"++{line}"
    value = override.value()
    if not override.is_delete() and value not in options:
        raise ConfigError(
            f"{line}: {key} has no option {value!r}" + nearest(str(value), options),
            path=key,
            expected=list(options),
        )
    return line


def _plain(composed: DictConfig, files: Mapping[str, str]) -> dict[str, Any]:
    """Return plain data in the shape of ``Config``: the choices laid over the models that they chose."""
    choices = composed.hydra.runtime.choices
    chosen = {place: str(choices[group]) for place, group in (("model", "model"), ("embed", "model@embed"))}
    written = {
        place: OmegaConf.to_container(OmegaConf.create(files[f"model/{stem}"])) for place, stem in chosen.items()
    }
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    by_file = plain.get("models") or {}
    for place, stem in chosen.items():
        said, stands_in_file = plain.pop(place), written[place]
        assert isinstance(stands_in_file, dict)
        by_file[stem] |= {key: value for key, value in said.items() if stands_in_file.get(key) != value}
    for stem, entry in by_file.items():
        if isinstance(entry, dict):
            entry.setdefault("name", stem)
    models: dict[str, Any] = {}
    for stem, entry in by_file.items():
        name = entry["name"] if isinstance(entry, dict) else stem
        if name in models:
            raise ConfigError(f"two configuration files describe a model called {name!r}", path=f"models.{stem}.name")
        models[name] = entry
    defaults = {}
    for place, stem in chosen.items():
        entry, kind = by_file[stem], _CHOICES[place]
        if entry.get("kind") != kind:
            raise ConfigError(f"{place}: {stem!r} is no model that can {kind}", path=f"{place}.kind", expected=kind)
        defaults[kind] = entry["name"]
    return {**{str(key): value for key, value in plain.items()}, "models": models, "defaults": defaults}


def _reason(error: Exception) -> str:
    """Return what a library says, on one line and with the cause where the outer text only points to it."""
    told = [str(error)]
    if error.__cause__ is not None:
        told.append(str(error.__cause__))
    return "; ".join(" ".join(text.split()) for text in told if text)
