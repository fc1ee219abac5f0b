"""Weights that come in 4 bits are known before they are loaded, and computed by our own kernels on any processor."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import load, save_causal

from mlzoo.config.loading import cache_directory
from mlzoo.inference import grids, native, sizing
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch

WIDE = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture
def model(tmp_path):
    return save_causal(tmp_path, **WIDE)


@pytest.fixture
def model_on_a_grid(model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    save_file({name: on_a_grid(numbers) for name, numbers in tensors.items()}, file, {"format": "pt"})
    return model


def on_a_grid(numbers: torch.Tensor) -> torch.Tensor:
    """Return as many weights of which each 32 neighbours are one of 16; what is no matrix, as it is."""
    if numbers.dim() != 2:
        return numbers
    steps = torch.randint(0, 16, numbers.shape, generator=torch.Generator().manual_seed(numbers.numel()))
    steps[:, 0::32], steps[:, 1::32] = 0, 15
    return steps * 0.0625 - 0.5


def test_weights_on_a_grid_are_told_from_others(model, model_on_a_grid, tmp_path_factory):
    assert grids.lies_on_one(model_on_a_grid)
    assert not grids.lies_on_one(save_causal(tmp_path_factory.mktemp("other"), **WIDE))


def test_weights_whose_shapes_have_no_groups_lie_on_no_grid(tmp_path):
    assert not grids.lies_on_one(save_causal(tmp_path, hidden_size=24, intermediate_size=40))


@pytest.mark.parametrize("left_bytes", [0, 7, 4000])
def test_what_is_wrong_with_a_file_is_left_to_whoever_loads_it(model_on_a_grid, left_bytes):
    file = model_on_a_grid / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left_bytes])
    assert not grids.lies_on_one(model_on_a_grid)


def test_a_processor_without_bfloat16_computes_such_a_model_in_it_all_the_same(model_on_a_grid, monkeypatch):
    monkeypatch.setattr(sizing, "_processor_has", lambda _name: False)
    cache = cache_directory(None, os.environ)
    lacking = native.offer(cache)
    chosen = load_chat(load(model_on_a_grid, dtype="auto"), torch.device("cpu"), cache=cache)
    assert chosen.dtype == (torch.float32 if lacking else torch.bfloat16)
    for settings in ({"compile": "none"}, {"quantization": "none"}):
        without = load_chat(load(model_on_a_grid, dtype="auto", **settings), torch.device("cpu"), cache=cache)
        assert without.dtype == torch.float32
