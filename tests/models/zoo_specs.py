"""Specifications of small custom models, one of each kind of backbone, and what trains a few steps of one."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image

from mlzoo.models.zoo import build, spec_of, tensors
from mlzoo.pipelines import make

TABLE = {
    "backbone": {"kind": "mlp", "hidden": [32, 16]},
    "head": {"kind": "classification"},
    "pipeline": {"kind": "tabular", "columns": {"age": "number", "job": "category", "member": "truth"}},
    "labels": ["no", "yes"],
}
COLUMNS: dict[str, list[Any]] = {
    "age": [20, 30, 40, 50],
    "job": ["smith", "clerk", "smith", "baker"],
    "member": [True, False, True, False],
}
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
PICTURES = {
    "backbone": {"kind": "cnn", "channels": [4, 8]},
    "head": {"kind": "classification"},
    "pipeline": {"kind": "image", "height": 8, "width": 8, "channels": 1},
    "labels": ["dark", "light"],
}


def texts(head: Any = "classification", labels: Any = ("bad", "good"), **pipeline: Any) -> dict[str, Any]:
    """The plain specification of a model that reads texts."""
    return {
        "backbone": {"kind": "transformer"},
        "head": head,
        "pipeline": {"kind": "text", **pipeline},
        "labels": list(labels),
    }


def picture(value: int = 0, width: int = 8, height: int = 8, kind: str = "PNG") -> str:
    """A picture of one colour, as base64."""
    file = io.BytesIO()
    Image.new("L", (width, height), value).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def made(plain: dict[str, Any], directory=None, columns=None):
    """A model and its specification; its pipeline has learned from columns where there are some."""
    torch.manual_seed(0)
    spec = spec_of(plain)
    pipeline = make(spec.pipeline, directory=directory)
    if columns is not None:
        pipeline = pipeline.fit(columns)
    return build(spec, directory=directory, pipeline=pipeline), spec


def answer(model: Any, inputs: list[Any]) -> list[Any]:
    """What a model says of inputs, all of them in one forward."""
    examples = model.pipeline.read(inputs)
    with torch.inference_mode():
        outputs = model(tensors(model.pipeline.collate(examples)))
    return model.head.decode(outputs, examples)


def train(model: Any, inputs: list[Any], values: list[Any], steps: int = 60) -> list[float]:
    """Train on one batch; return the losses."""
    examples = model.pipeline.read(inputs)
    batch = tensors(model.pipeline.collate(examples))
    targets = model.head.targets(values, examples)
    model.head.learn(targets)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(model(batch), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses
