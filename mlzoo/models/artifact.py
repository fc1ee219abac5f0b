"""A custom model as a directory: ``zoo.json``, ``model.safetensors``, and the files of its backbone and its pipeline.

Nothing in it is code, and nothing is unpickled. ``zoo.json`` holds what the model is made of, with all options as they
were in force, what its pipeline learned, the versions that wrote it, and the SHA-256 of each other file.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import orjson
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mlzoo import __version__
from mlzoo.errors import ConfigError, ModelLoadFailed
from mlzoo.models.zoo import ZooModel, build
from mlzoo.parts import ZooSpec, spec_of
from mlzoo.pipelines import make

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
MANIFEST, WEIGHTS = "zoo.json", "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # of torch.save: an archive since torch 1.6, before that a bare pickle


@attrs.frozen
class Manifest:
    """What ``zoo.json`` says."""

    spec: ZooSpec
    pipeline_state: dict[str, Any]
    digests: dict[str, str]
    versions: dict[str, str]


def save(model: ZooModel, spec: ZooSpec, directory: Path) -> None:
    """Write an artifact; it is there whole, or not at all.

    Args:
        model: The model, on any device.
        spec: What it was built from; what was left open in it is written as it was found out.
        directory: Where to; it must not exist, or be empty.

    Raises:
        FileExistsError: There is something.
    """
    if directory.exists() and any(directory.iterdir()):
        message = f"{directory} is not empty: an artifact is written into a directory of its own"
        raise FileExistsError(message)
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = {**model.backbone.files(), **model.pipeline.files()}
    for name, content in files.items():
        (partial / name).write_bytes(content)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, partial / WEIGHTS)
    manifest = {
        "format": FORMAT,
        "spec": model.spec(spec).plain(),
        "pipeline_state": model.pipeline.state(),
        "versions": _versions(),
        "digests": {name: _digest(partial / name) for name in sorted([*files, WEIGHTS])},
    }
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    (partial / MANIFEST).write_bytes(orjson.dumps(manifest, option=option))
    if directory.exists():
        directory.rmdir()
    partial.rename(directory)


def load(directory: Path, device: torch.device | str = "cpu", *, check: bool = True) -> ZooModel:
    """Return the model of an artifact, in evaluation mode, on a device.

    Args:
        directory: Where it is.
        device: Where to.
        check: Whether the digests of its files are computed; a store that has checked them need not.

    Raises:
        ModelLoadFailed: It is no artifact, not whole, of a newer format, pickled, or its weights are those of another
            architecture: the message names the first tensor that differs.
        ConfigError: A part of it does not exist here, or an option does not hold.
    """
    manifest = read(directory)
    if check:
        _check_digests(directory, manifest.digests)
    weights = weights_of(directory)
    pipeline = make(manifest.spec.pipeline, directory=directory, state=manifest.pipeline_state)
    model = build(manifest.spec, directory=directory, pipeline=pipeline, pretrained=False)
    put(model, weights, str(directory / WEIGHTS))
    return model.to(device)


def read(directory: Path) -> Manifest:
    """Return what an artifact says of itself.

    Raises:
        ModelLoadFailed: It is none.
        ConfigError: What it is made of does not hold.
    """
    path = directory / MANIFEST
    try:
        said = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ModelLoadFailed(f"{directory} is no artifact: {MANIFEST} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise ModelLoadFailed(f"{path} is no JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("format"), int):
        raise ModelLoadFailed(f"{path} says no format: it is none of an artifact")
    if said["format"] > FORMAT:
        raise ModelLoadFailed(f"{path} has format {said['format']}, this version reads {FORMAT}: install a newer mlzoo")
    missing = [key for key in ("spec", "pipeline_state", "digests") if not isinstance(said.get(key), dict)]
    if missing:
        raise ModelLoadFailed(f"{path}: {missing[0]} is missing")
    try:
        spec = spec_of(said["spec"], at="spec")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", **error.data) from error
    return Manifest(spec, said["pipeline_state"], said["digests"], said.get("versions", {}))


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an artifact.

    Raises:
        ModelLoadFailed: There are none, or they are pickled, which could run any code: that is never read.
    """
    path = directory / WEIGHTS
    if not path.is_file():
        pickled = sorted(file.name for file in directory.iterdir() if file.suffix.lower() in PICKLED)
        why = f"only pickled weights ({', '.join(pickled)}), which can run any code" if pickled else f"no {WEIGHTS}"
        raise ModelLoadFailed(f"{directory} holds {why}; safetensors are needed", reason="source")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLE_STARTS) and not _is_safetensors(path):
        told = "is a pickle under the name of safetensors; it can run any code and was not read"
        raise ModelLoadFailed(f"{path} {told}: save the weights with safetensors", reason="source")
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadFailed(f"{path} is damaged, or no safetensors: {error}", reason="source") from error
    return weights


def put(model: ZooModel, weights: dict[str, torch.Tensor], where: str) -> None:
    """Put weights into a model, all of them and nothing else.

    Raises:
        ModelLoadFailed: They are those of another architecture; the message names the first tensor that differs.
    """
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in weights:
            raise ModelLoadFailed(f"{where} is of another architecture: {name} {list(tensor.shape)} is not in it")
        if weights[name].shape != tensor.shape:
            found = list(weights[name].shape)
            raise ModelLoadFailed(
                f"{where} is of another architecture: {name} is {found} in it, the model has {list(tensor.shape)}"
            )
    for name in weights:
        if name not in wanted:
            raise ModelLoadFailed(f"{where} is of another architecture: the model has no {name}, which is in it")
    model.load_state_dict(weights)


def _is_safetensors(path: Path) -> bool:
    """Whether it is one all the same: the first byte is that of the length of its header, and may be any."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool(file.keys() or True)
    except (SafetensorError, OSError):
        return False


def _check_digests(directory: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        path = directory / name
        if not path.is_file():
            continue  # What needs it says so, and better.
        if _digest(path) != digest:
            raise ModelLoadFailed(f"{path} is not what {MANIFEST} says it is: it has changed, or was mixed up")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    return {
        "mlzoo": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
