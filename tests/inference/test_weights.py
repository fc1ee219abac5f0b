"""Weights on disk: whole, and unable to run code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference.weights import verify

pytestmark = pytest.mark.torch


@pytest.fixture
def directory(tmp_path):
    save_file({"a": torch.zeros(10, 10), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    return tmp_path


def test_whole_weights_pass_with_their_size(directory):
    assert verify(directory) == (directory / "model.safetensors").stat().st_size


@pytest.mark.parametrize("length", [0, 4, 20, 100, -1])
def test_truncated_weights_are_named(directory, length):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelLoadFailed, match="corrupt"):
        verify(directory)


def test_a_garbled_header_is_named(directory):
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[9:20] = b"not a head!"
    path.write_bytes(data)
    with pytest.raises(ModelLoadFailed, match="header"):
        verify(directory)


def test_a_missing_shard_is_named(directory):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadFailed, match=r"model-2\.safetensors is missing"):
        verify(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickled_weights_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ModelLoadFailed, match="refused"):
        verify(tmp_path)


def test_an_empty_or_missing_directory_is_named(tmp_path):
    with pytest.raises(ModelLoadFailed, match="holds no"):
        verify(tmp_path)
    with pytest.raises(ModelLoadFailed, match="no directory"):
        verify(tmp_path / "gone")
