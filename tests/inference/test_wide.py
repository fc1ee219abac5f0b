"""32 bits between layers: nearer to what a model would say in full precision, in the memory that it took before."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from tiny_models import causal
from torch import nn

from mlzoo.config.loading import cache_directory
from mlzoo.inference import anatomy, gate, linears, native, wide
from mlzoo.inference.decoder import SlotDecoder

pytestmark = pytest.mark.torch
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    lacking = native.offer(cache_directory(None, os.environ))
    if lacking:
        pytest.skip(f"no kernels of our own: {lacking}")


def on_a_grid(module):
    """Round the weights of linear layers to 4 bits, and all others to 16."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            steps, size, least = linears.to_int4(layer.weight.data)
            size, least = size.bfloat16().float(), least.bfloat16().float()
            grid = steps.view(*size.shape, linears.GROUP) * size[..., None] + least[..., None]
            layer.weight.data = grid.view(layer.weight.shape)
    return module.bfloat16()


def by_our_kernels(module):
    replaced = linears.replace(module)
    replaced.in_force.family = "w4a16"
    for layer in replaced.layers:
        layer.make("w4a16")
        layer.keep(["w4a16"])
    return module


def logits(module):
    return gate.sample_logits(module, anatomy.vocabulary(module))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma"])
def test_logits_are_nearer_to_those_of_full_precision(kind):
    module = on_a_grid(causal(kind, **SIZES).eval())
    expected = logits(copy.deepcopy(module).float())
    narrow = by_our_kernels(module)
    before = gate.mean_difference(expected, logits(narrow))
    assert wide.can_be(narrow)
    wide.widen(narrow)
    assert gate.mean_difference(expected, logits(narrow)) < before * 0.7  # What is left is that of keys and values.


def test_keys_and_values_take_as_much_memory_as_before():
    module = by_our_kernels(causal("llama", **SIZES).eval().bfloat16())
    wide.widen(module)
    decoder = SlotDecoder(module, 2, 32)
    decoder.prefill(0, [1, 2, 3], 0)
    assert {buffer.dtype for buffer in decoder.cache._buffers()} == {torch.bfloat16}
    assert decoder.cache.line_bytes() == anatomy.token_bytes(module)


def test_it_can_be_undone():
    module = by_our_kernels(causal("llama", **SIZES).eval().bfloat16())
    before = logits(module)
    undo = wide.widen(module)
    assert not all(map(torch.equal, before, logits(module)))
    undo()
    assert all(map(torch.equal, before, logits(module)))
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}


def test_what_multiplies_by_itself_is_left_alone():
    assert not wide.can_be(by_our_kernels(causal("mixtral").eval().bfloat16()))
    assert not wide.can_be(causal("llama").eval().bfloat16())  # Its plain weights are there.
