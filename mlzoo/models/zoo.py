"""From the names of parts to a model: backbone, head and pipeline, fitted together.

``build`` makes a model from a specification, ``ZooModel`` is what it makes. Knows nothing of files of artifacts
(``artifact.py``), of training or of requests. A class of a user's own is found by its name as those here are; see
docs/own-models.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from mlzoo.config.validate import structure
from mlzoo.errors import ConfigError
from mlzoo.parts import Part, ZooSpec, find, spec_of
from mlzoo.pipelines import make

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.models.features import Backbone, Batch
    from mlzoo.models.head import Head
    from mlzoo.pipelines import Pipeline

__all__ = ["Part", "ZooModel", "ZooSpec", "build", "spec_of"]


class ZooModel(nn.Module):
    """A backbone with a head on it, and the pipeline that both were made for.

    ``model(batch)`` gives the raw outputs of the head, ``[rows, ...]``. To train the head alone, keep what
    ``model.backbone(batch)`` gives, and call ``model.head`` on it.
    """

    def __init__(self, backbone: Backbone, head: Head, pipeline: Pipeline) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pipeline = pipeline

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the raw outputs of a batch, as ``pipeline.collate`` gives it and ``tensors`` converts it."""
        outputs: torch.Tensor = self.head(self.backbone(batch))
        return outputs

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the head's loss."""
        return self.head.loss(outputs, targets)

    def spec(self, spec: ZooSpec) -> ZooSpec:
        """Return a specification with all options as they are in force, those that were left open filled in."""
        return ZooSpec(
            Part(spec.backbone.kind, attrs.asdict(self.backbone.options)),
            Part(spec.head.kind, attrs.asdict(self.head.options)),
            Part(spec.pipeline.kind, attrs.asdict(self.pipeline.options)),
            self.head.labels,
        )


def build(
    spec: ZooSpec, *, directory: Path | None = None, pipeline: Pipeline | None = None, pretrained: bool = True
) -> ZooModel:
    """Return a model, in evaluation mode, in float32 on the CPU.

    Args:
        spec: What it is made of.
        directory: Where the files of its backbone and its pipeline are (config.json, tokenizer.json, weights).
        pipeline: The pipeline, where it has learned from data; None: it is made from its part.
        pretrained: Whether the weights of the backbone are read from the directory. Those of a head are never there:
            they are trained, or come with an artifact.

    Raises:
        ConfigError: A part does not exist, an option does not hold, or the parts do not fit together; ``data.path``
            names the place.
        ModelLoadFailed: The files hold no such model.
    """
    if pipeline is None:
        pipeline = make(spec.pipeline, directory=directory)
    backbone_class, head_class = find("backbone", spec.backbone.kind), find("head", spec.head.kind)
    options = structure(spec.backbone.options, backbone_class.Options, at="backbone")
    backbone: Backbone = backbone_class.make(options, pipeline.shapes(), directory, pretrained=pretrained)
    if head_class.takes_tokens and not backbone.has_tokens:
        told = f"{spec.head.kind} needs a vector of each token, and {spec.backbone.kind} makes one of each row"
        raise ConfigError(f"head.kind: {told}", path="head.kind", expected=told)
    head: Head = head_class(structure(spec.head.options, head_class.Options, at="head"), backbone.width, spec.labels)
    return ZooModel(backbone, head, pipeline).eval()


def tensors(arrays: dict[str, Any], device: torch.device | str = "cpu") -> Batch:
    """Return what ``pipeline.collate`` gave as tensors on a device."""
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
