"""Where settings come from, and the cache of composed ones that makes a start fast.

Composing takes over 100 ms (Hydra, OmegaConf, YAML, cattrs). Its result is kept in the user's cache directory beside
the very inputs it was made from: the text of every YAML file, the overrides, the ``MLZOO_*`` variables, the version and
the shape of the classes. Where they are equal, nothing heavy is imported. The cache is never trusted further than that:
what is damaged is composed again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo import __version__
from mlzoo.config.files import read_files
from mlzoo.config.schema import (
    Config,
    Defaults,
    DevicesConfig,
    Licence,
    Limits,
    LogConfig,
    ModelEntry,
    PersonaEntry,
    ProviderEntry,
    RouteEntry,
    SamplingDefaults,
    TruncationPolicy,
)
from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG_DIR_VARIABLE = "MLZOO_CONFIG_DIR"
CACHE_DIR_VARIABLE = "MLZOO_CACHE_DIR"

_SECTIONS = {"limits": Limits, "log": LogConfig, "devices": DevicesConfig}


def load(
    overrides: Sequence[str] = (),
    *,
    config_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    cache_dir: Path | None = None,
) -> Config:
    """Return the configuration of this start.

    Args:
        overrides: ``key=value`` as in Hydra, such as ``model=smollm2`` or ``limits.max_running=8``. They win.
        config_dir: A directory that is searched before the built-in one; ``MLZOO_CONFIG_DIR``, else the user's
            configuration directory, where None.
        environ: Where ``MLZOO_*`` variables are read.
        cache_dir: Where the composed result is kept; ``MLZOO_CACHE_DIR``, else the user's cache directory, where None.

    Raises:
        ConfigError: A key is unknown, a value is of the wrong type or out of range, or a file is not YAML.
    """
    variables = from_environment(environ)
    every = [*variables, *overrides]
    files = read_files(search_path(config_dir, environ))
    inputs: dict[str, Any] = {
        "version": __version__,
        "schema": _shape(),
        "overrides": every,
        "files": {name: [file.path, file.text, file.fault] for name, file in files.items()},
    }
    place = cache_directory(cache_dir, environ) / f"config-{zlib.crc32(orjson.dumps(inputs)):08x}.json"
    cached = _from_cache(place, inputs)
    if cached is not None:
        return cached
    from mlzoo.config.compose import compose  # noqa: PLC0415 - heavy, and needed only here

    composed = compose(files, every, {key_of(line): variable for line, variable in variables.items()})
    _to_cache(place, inputs, composed)
    return composed


def own_directory(config_dir: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where a user's own configuration is looked for; it need not exist."""
    return config_dir or Path(environ.get(CONFIG_DIR_VARIABLE) or _user_dir("config"))


def search_path(config_dir: Path | None, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the directories with configuration files, the first to be searched first; the last is the built-in one.

    Raises:
        ConfigError: A directory that was asked for does not exist.
    """
    if config_dir is None and environ.get(CONFIG_DIR_VARIABLE):
        config_dir = Path(environ[CONFIG_DIR_VARIABLE])
    if config_dir is None:
        config_dir = _user_dir("config")
        asked_for = False
    else:
        asked_for = True
    if config_dir.is_dir():
        return (config_dir.absolute(), _built_in())
    if asked_for:
        raise ConfigError(f"the configuration directory {config_dir} does not exist", path=str(config_dir))
    return (_built_in(),)


def key_of(line: str) -> str:
    """Return where an override says something; a choice of the group ``model@embed`` stands at ``embed``."""
    return line.partition("=")[0].rpartition("@")[2]


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return overrides -> the variables that say them: ``MLZOO_LIMITS_MAX_RUNNING=8`` is ``limits.max_running=8``.

    Raises:
        ConfigError: A variable in our name means nothing, so that a typing error does not pass for a setting.
    """
    settings = _variables()
    found = {}
    for variable in sorted(environ):
        if not variable.startswith("MLZOO_") or variable in {CONFIG_DIR_VARIABLE, CACHE_DIR_VARIABLE}:
            continue
        if variable not in settings:
            # All begin alike, which would make any of them seem near.
            known = {name.removeprefix("MLZOO_"): name for name in (*settings, CONFIG_DIR_VARIABLE, CACHE_DIR_VARIABLE)}
            meant = nearest(variable.removeprefix("MLZOO_"), known).replace("mean ", "mean MLZOO_")
            raise ConfigError(
                f"the environment variable {variable} is no setting of mlzoo"
                + (meant or "; they are called after settings, as MLZOO_LIMITS_MAX_RUNNING after limits.max_running"),
                path=variable,
            )
        setting, value = settings[variable], environ[variable]
        found[f"{setting}={_quoted(value) if setting == 'store' else value}"] = variable
    return found


def _variables() -> dict[str, str]:
    """Return the name of each setting's environment variable -> its path."""
    names = {"MLZOO_STORE": "store", "MLZOO_MODEL": "model", "MLZOO_EMBED": "model@embed"}
    for section, cls in _SECTIONS.items():
        for field in attrs.fields(cls):
            names[f"MLZOO_{section}_{field.name}".upper()] = f"{section}.{field.name}"
    return names


def _quoted(text: str) -> str:
    """Return a text as Hydra's grammar has it: only a quote is escaped, and the backslashes before it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), text) + "'"


def _built_in() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def cache_directory(cache_dir: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where what can be found out again is kept: where it was asked for, else the user's cache directory."""
    if cache_dir is not None:
        return cache_dir
    if environ.get(CACHE_DIR_VARIABLE):
        return Path(environ[CACHE_DIR_VARIABLE])
    return _user_dir("cache")


def _user_dir(kind: str) -> Path:
    import platformdirs  # noqa: PLC0415 - not needed where both directories are given

    return Path(platformdirs.user_config_dir("mlzoo") if kind == "config" else platformdirs.user_cache_dir("mlzoo"))


def _shape() -> str:
    """Return the shape of the classes: a cache that another state of the source wrote must not be taken for ours."""
    found = (Defaults, ModelEntry, Licence, SamplingDefaults, ProviderEntry, RouteEntry, PersonaEntry, TruncationPolicy)
    classes = (Config, *_SECTIONS.values(), *found)
    return ";".join(
        f"{cls.__name__}({','.join(f'{field.name}:{annotations[field.name]}={field.default}' for field in fields)})"
        for cls, fields, annotations in ((cls, attrs.fields(cls), cls.__annotations__) for cls in classes)
    )


def _from_cache(place: Path, inputs: Mapping[str, Any]) -> Config | None:
    try:
        kept = orjson.loads(place.read_bytes())
        return from_plain(kept["config"]) if kept["inputs"] == inputs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_cache(place: Path, inputs: Mapping[str, Any], config: Config) -> None:
    """Keep a result; a cache that cannot be written costs the next start its speed and nothing else."""
    temporary = place.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({"inputs": inputs, "config": attrs.asdict(config)}))
        temporary.replace(place)


def from_plain(plain: Mapping[str, Any]) -> Config:
    """Return the configuration that ``attrs.asdict`` and JSON made plain.

    Raises:
        KeyError, TypeError, ValueError: It is not of this shape.
    """
    return Config(
        limits=Limits(**plain["limits"]),
        log=LogConfig(**plain["log"]),
        devices=DevicesConfig(**{**plain["devices"], "auto": tuple(plain["devices"]["auto"])}),
        defaults=Defaults(**plain["defaults"]),
        models={sys.intern(name): entry_from_plain(entry) for name, entry in plain["models"].items()},
        store=plain["store"],
        broken=plain["broken"],
        providers={
            name: ProviderEntry(**{**p, "script": tuple(p["script"])}) for name, p in plain["providers"].items()
        },
        broken_providers=plain["broken_providers"],
        routes={name: tuple(chain) for name, chain in plain["routes"].items()},
        personas={name: persona_from_plain(entry) for name, entry in plain["personas"].items()},
        broken_personas=plain["broken_personas"],
    )


def persona_from_plain(plain: Mapping[str, Any]) -> PersonaEntry:
    """Return the persona that ``attrs.asdict`` and JSON made plain."""
    sampling = SamplingDefaults(**plain["sampling"])
    return PersonaEntry(**{**plain, "sampling": sampling, "truncation": TruncationPolicy(**plain["truncation"])})


def entry_from_plain(plain: Mapping[str, Any]) -> ModelEntry:
    """Return the entry that ``attrs.asdict`` and JSON made plain."""
    return ModelEntry(
        **{
            **plain,
            "licence": Licence(**plain["licence"]),
            "sampling": SamplingDefaults(**plain["sampling"]),
            "files": tuple(plain["files"]),
            "aliases": tuple(plain["aliases"]),
            "labels": tuple(plain["labels"]),
            "capabilities": tuple(plain["capabilities"]),
        }
    )
