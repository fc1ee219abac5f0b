"""Writes a text classifier as an artifact: a pretrained encoder, and a head with random weights.

``make_artifact.py ENCODER DIRECTORY``
"""

import sys
from pathlib import Path

import torch

from mlzoo.models.artifact import save
from mlzoo.models.zoo import build, spec_of

torch.manual_seed(0)
parts = {
    "backbone": {"kind": "transformer"},
    "head": {"kind": "classification"},
    "pipeline": {"kind": "text"},
    "labels": ["a", "b", "c", "d"],
}
spec = spec_of(parts)
save(build(spec, directory=Path(sys.argv[1])), spec, Path(sys.argv[2]))
