"""Composing settings with Hydra and OmegaConf, then validating them: slow, and only done when inputs changed.

Every file of the group ``model`` is a known model and stands at ``models.<file name>``. ``model=NAME`` chooses the one
that chats where a request names none and ``model@embed=NAME`` the one that embeds; what is said under ``model.`` or
``embed.`` is said about the chosen one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlzoo.config.load import nearest
from mlzoo.config.schema import Config
from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_CHOICES = {"model": "chat", "embed": "embed"}  # where a choice stands -> the kind of model that it must be


def compose(directories: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Return the configuration that files and overrides make; the first directory wins, then the last override.

    Raises:
        ConfigError: It does not hold; ``data.path`` names the place.
    """
    groups = _groups(directories)
    try:
        lines = [_line(override, groups) for override in OverridesParser.create().parse_overrides(list(overrides))]
        lines += [f"+model@models.{stem}={stem}" for stem in groups.get("model", {})]
        if len(directories) > 1:
            lines.append(f"hydra.searchpath=[{','.join(map(_location, directories[1:]))}]")
        with initialize_config_dir(config_dir=str(directories[0]), version_base="1.3", job_name="mlzoo"):
            composed = hydra_compose(config_name="config", overrides=lines, return_hydra_config=True)
        plain = _plain(composed, groups.get("model", {}))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"the configuration cannot be composed: {_reason(error)}") from error
    return structure(plain, Config)


def _groups(directories: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Return each group -> its options -> their files, as the search path has them."""
    groups: dict[str, dict[str, Path]] = {}
    for directory in reversed(directories):
        for path in sorted(directory.glob("*/*.yaml")):
            if "." in path.stem:
                raise ConfigError(
                    f"{path}: a dot in the name of a configuration file cannot be used; rename it and set name: inside",
                    path=str(path),
                )
            groups.setdefault(path.parent.name, {})[path.stem] = path
    return groups


def _line(override: Override, groups: Mapping[str, Mapping[str, Path]]) -> str:
    """Return an override in a form in which Hydra adds what is unknown, for that is refused with a better message later.

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
            f"{line}: {key} has no option {value!r}" + nearest(str(value), list(options)),
            path=key,
            expected=sorted(options),
        )
    return line


def _location(directory: Path) -> str:
    quoted = directory.as_posix().replace("\\", "\\\\").replace("'", "\\'")
    return f"'file://{quoted}'"


def _plain(composed: DictConfig, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return plain data in the shape of ``Config``: the choices laid over the models that they chose."""
    choices = composed.hydra.runtime.choices
    chosen = {place: str(choices[group]) for place, group in (("model", "model"), ("embed", "model@embed"))}
    written = {place: OmegaConf.to_container(OmegaConf.load(files[stem])) for place, stem in chosen.items()}
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
