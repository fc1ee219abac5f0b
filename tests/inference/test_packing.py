"""Weights in oneDNN's order compute what torch's own layers compute, and are given up where they do not."""

from __future__ import annotations

import pytest
import torch
from tiny_models import save_encoder
from transformers import AutoModel

from mlzoo.inference import packing
from mlzoo.inference.packing import Packed, pack

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def hidden(module):
    ids = torch.arange(60).reshape(4, 15) % 300
    with torch.inference_mode():
        return module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize("rows", [1, 3, 600])
def test_an_ordered_layer_gives_what_the_plain_one_gives(rows):
    layer = torch.nn.Linear(48, 80)
    x = torch.randn(rows, 2, 48)
    with torch.inference_mode():
        torch.testing.assert_close(Packed(layer)(x), layer(x), atol=1e-5, rtol=1e-5)


def test_an_encoder_gives_the_same_states_where_its_layers_are_ordered(directory, monkeypatch):
    monkeypatch.setattr(packing, "_gain", lambda _pairs: 2.0)
    module = AutoModel.from_pretrained(directory).eval()
    expected = hidden(module)
    assert pack(module) == "linear layers: weights in oneDNN's order, 2.00 times as fast"
    assert any(isinstance(child, Packed) for child in module.modules())
    assert isinstance(module.encoder.layer[0].intermediate.intermediate_act_fn, torch.nn.Identity)
    torch.testing.assert_close(hidden(module), expected, atol=1e-5, rtol=1e-5)


def test_layers_that_are_slower_are_not_taken(directory, monkeypatch):
    monkeypatch.setattr(packing, "_gain", lambda _pairs: 0.9)
    module = AutoModel.from_pretrained(directory).eval()
    assert "the fastest here" in pack(module)
    assert not any(isinstance(child, Packed) for child in module.modules())


def test_layers_that_differ_are_given_up(directory, monkeypatch):
    monkeypatch.setattr(packing, "_gain", lambda _pairs: 2.0)
    plain = Packed.forward
    monkeypatch.setattr(Packed, "forward", lambda layer, x: plain(layer, x) * 1.1)
    module = AutoModel.from_pretrained(directory).eval()
    expected = hidden(module)
    assert "would change what is computed" in pack(module)
    torch.testing.assert_close(hidden(module), expected)


def test_a_model_that_reaches_into_its_layers_keeps_them(directory, monkeypatch):
    monkeypatch.setattr(packing, "_gain", lambda _pairs: 2.0)
    module = AutoModel.from_pretrained(directory).eval()
    module.register_forward_pre_hook(lambda model, _given: model.encoder.layer[0].intermediate.dense.weight.dtype)
    assert "torch's own" in pack(module)
    assert not any(isinstance(child, Packed) for child in module.modules())
