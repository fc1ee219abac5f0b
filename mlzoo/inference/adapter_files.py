"""An adapter on the disk, as peft saves it, read and held against the model that it is for.

Knows peft's format (``adapter_config.json``, ``adapter_model.safetensors``) and a model's linear layers; nothing of how
an adapter is computed. Plain LoRA alone is read, with ranks and scales of each layer's own: what would have to be
computed in another way is refused by the setting that says so, never left out. Nothing is unpickled.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; the scale of rsLoRA: Kalajdzievski, 2023.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import nn

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference.weights import PICKLED

if TYPE_CHECKING:
    from pathlib import Path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
_OWN = re.compile(r"base_model\.model\.(?P<layer>.+?)(\.base_layer)?\.weight")  # of head or embedding, saved as well
_ALL = "all-linear"  # peft's word for every linear layer but the head
SHOWN = 100  # characters of a setting that does not hold

# Settings that change nothing of what is computed here, or are looked at below.
# fmt: off
UNDERSTOOD = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config", "exclude_modules",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
})
# fmt: on
KEEPS_THE_WEIGHTS = (True, False, None, "gaussian", "eva", "orthogonal")  # ways to begin that leave the model as it is


@attrs.frozen(eq=False)
class Part:
    """What an adapter adds to one linear layer: ``scale * up(down(x))``."""

    down: torch.Tensor  # [rank, inputs], in 32 bits as peft has them
    up: torch.Tensor  # [outputs, rank]
    scale: float


@attrs.frozen(eq=False)
class Adapter:
    """An adapter that fits its model."""

    name: str
    parts: Mapping[str, Part]  # by the layer's name in the model
    digest: str  # SHA-256 of its two files

    @property
    def rank(self) -> int:
        """The greatest rank of its parts."""
        return max(len(part.down) for part in self.parts.values())

    @property
    def targets(self) -> tuple[str, ...]:
        """The kinds of layers that it changes, by the last part of their names."""
        return tuple(sorted({layer.rpartition(".")[2] for layer in self.parts}))

    @property
    def size_bytes(self) -> int:
        """What it holds."""
        return sum(part.down.nbytes + part.up.nbytes for part in self.parts.values())


def read(model: str, name: str, directory: Path, module: nn.Module, device: torch.device) -> Adapter:
    """Read an adapter of a model, whose layers are those that it was loaded with.

    Raises:
        ModelLoadFailed: It is no adapter, or none for this model; the place in it that is wrong is named.
    """
    return _Reading(model, name, directory, module).adapter(device)


def size_bytes(directory: Path) -> int:
    """Return how large an adapter's file is, 0 where there is none; whoever reads it will say so."""
    path = directory / WEIGHTS
    return path.stat().st_size if path.is_file() else 0


class _Reading:
    """One adapter as it is read."""

    def __init__(self, model: str, name: str, directory: Path, module: nn.Module) -> None:
        self._model, self._name, self._directory = model, name, directory
        self._architecture = type(module).__name__
        self._layers = dict(module.named_modules())

    def adapter(self, device: torch.device) -> Adapter:
        """Return it."""
        config_bytes, weights_bytes = self._bytes(CONFIG), self._bytes(WEIGHTS)
        config = self._config(config_bytes)
        try:
            tensors = tensors_of(weights_bytes)
        except SafetensorError as error:
            raise self._wrong(WEIGHTS, f"it is corrupt or truncated: {error}") from error
        parts = self._parts(config, tensors, device)
        self._expect_all(config, parts)
        return Adapter(self._name, parts, hashlib.sha256(config_bytes + b"\0" + weights_bytes).hexdigest())

    def _bytes(self, file: str) -> bytes:
        path = self._directory / file
        if path.is_file():
            return path.read_bytes()
        found = sorted(path.iterdir()) if (path := self._directory).is_dir() else []
        pickled = [path.name for path in found if path.suffix in PICKLED]
        if file == WEIGHTS and pickled:
            raise self._wrong(pickled[0], "pickled weights can run code and are refused; save it as safetensors")
        raise self._wrong(
            file, f"there is no such file in {self._directory}; an adapter is a directory as peft saves it"
        )

    def _config(self, read: bytes) -> dict[str, Any]:
        try:
            config = orjson.loads(read)
        except orjson.JSONDecodeError as error:
            raise self._wrong(CONFIG, f"it is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise self._wrong(CONFIG, "it is no JSON object")
        if config.get("peft_type") != "LORA":
            raise self._wrong_setting(config, "peft_type", "LORA")
        if config.get("task_type") not in ("CAUSAL_LM", None):
            raise self._wrong_setting(config, "task_type", "CAUSAL_LM")
        if config.get("bias", "none") != "none":
            raise self._wrong_setting(config, "bias", "none")
        if config.get("init_lora_weights", True) not in KEEPS_THE_WEIGHTS:
            raise self._wrong_setting(config, "init_lora_weights", "true: another one changes the weights of the model")
        for key, value in config.items():
            if key not in UNDERSTOOD and value:
                raise self._wrong_setting(config, key, "none: only plain LoRA is computed")
        if not isinstance(config.get("target_modules"), str | list):
            raise self._wrong_setting(config, "target_modules", "the names of layers")
        for key, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
            if not _is_number(config.get(key)):
                raise self._wrong_setting(config, key, "a number above 0")
            by_name = config.get(patterns) or {}
            if not isinstance(by_name, dict) or not all(map(_is_number, by_name.values())):
                raise self._wrong_setting(config, patterns, "an object of numbers above 0")
        return config

    def _parts(
        self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device
    ) -> dict[str, Part]:
        halves: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            found = _NAME.fullmatch(key)
            if found is None:
                self._expect_same(key, tensor)
                continue
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
                raise self._wrong(f"{WEIGHTS}: {key}", "it holds what are no numbers")
            halves.setdefault(found["layer"], {})[found["half"]] = tensor
        if not halves:
            raise self._wrong(WEIGHTS, "there are no tensors in it")
        return {layer: self._part(layer, two, config, device) for layer, two in sorted(halves.items())}

    def _expect_same(self, key: str, tensor: torch.Tensor) -> None:
        """Pass over weights of the model itself, which peft saves beside an adapter of the head; refuse other ones."""
        found = _OWN.fullmatch(key)
        own = getattr(self._layers.get(found["layer"]), "weight", None) if found is not None else None
        if not isinstance(own, torch.Tensor):
            raise self._wrong(f"{WEIGHTS}: {key}", "it is no part of plain LoRA")
        if own.shape != tensor.shape or not torch.equal(own.detach(), tensor.to(own)):
            told = "these are not the weights of the model, which an adapter must leave as they are"
            raise self._wrong(f"{WEIGHTS}: {key}", told)

    def _part(
        self, layer: str, halves: Mapping[str, torch.Tensor], config: Mapping[str, Any], device: torch.device
    ) -> Part:
        place = f"{WEIGHTS}: base_model.model.{layer}"
        linear = self._layers.get(layer)
        if linear is None:
            raise self._wrong(
                place, f"{self._architecture} has no such layer: this adapter is for another architecture"
            )
        if type(linear) is not nn.Linear:
            raise self._wrong(place, f"this layer is a {type(linear).__name__}: only linear layers can have adapters")
        if "experts" in layer.split("."):
            raise self._wrong(place, "this is an expert, which not all rows pass: experts can have no adapters")
        if not _is_named(layer, config["target_modules"]):
            raise self._wrong(place, f"{CONFIG}: target_modules does not name this layer")
        for half in "AB":
            if half not in halves:
                raise self._wrong(f"{place}.lora_{half}.weight", "this tensor is missing")
        rank = _pattern(config.get("rank_pattern") or {}, layer, config["r"])
        alpha = _pattern(config.get("alpha_pattern") or {}, layer, config["lora_alpha"])
        shapes = {"A": [rank, linear.in_features], "B": [linear.out_features, rank]}
        for half, shape in shapes.items():
            if list(halves[half].shape) != shape:
                told = f"its shape is {list(halves[half].shape)}, and the model's layer and {CONFIG} make it {shape}"
                raise self._wrong(f"{place}.lora_{half}.weight", told)
        down, up = (halves[half].to(device, torch.float32).contiguous() for half in "AB")
        return Part(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))

    def _expect_all(self, config: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
        """Refuse an adapter that has less than its settings say for this model: it is for a shallower one, or broken.

        Where its settings leave layers out, that is not looked at.
        """
        targets = config["target_modules"]
        if targets == _ALL or config.get("layers_to_transform") is not None or config.get("exclude_modules"):
            return
        for layer, module in self._layers.items():
            if type(module) is nn.Linear and layer not in parts and _is_named(layer, targets):
                told = f"this tensor is missing, and {CONFIG}: target_modules names the layer"
                raise self._wrong(f"{WEIGHTS}: base_model.model.{layer}.lora_A.weight", told)

    def _wrong_setting(self, config: Mapping[str, Any], key: str, expected: str) -> ModelLoadFailed:
        found = orjson.dumps(config.get(key)).decode()[:SHOWN]
        return self._wrong(f"{CONFIG}: {key}", f"expected {expected}, got {found}")

    def _wrong(self, place: str, why: str) -> ModelLoadFailed:
        message = f"adapter {self._name} of {self._model}: {place}: {why}"
        return ModelLoadFailed(message, model=self._model, reason="adapter")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_named(layer: str, targets: str | list[str]) -> bool:
    """Whether peft would take a layer by the names of targets: ends of names, or one expression for all of a name."""
    if targets == _ALL:
        return True
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, layer) is not None
        except re.error:
            return False
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def _pattern(patterns: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    """Return what the first pattern says that a layer's name ends with, as peft reads them."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        except re.error:
            continue
    return otherwise
