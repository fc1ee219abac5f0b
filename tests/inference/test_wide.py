"""32 bits between layers: nearer to what a model would say in full precision, in the memory that it took before."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from tiny_models import causal
from torch import nn
from torch.nn import functional

from mlzoo.config.loading import cache_directory
from mlzoo.inference import anatomy, gate, linears, native, wide
from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.threads import using

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


@pytest.mark.parametrize("function", [functional.silu, functional.gelu, torch.tanh])
def test_activations_are_the_same_in_every_company_and_by_all_numbers_of_threads(function):
    rows = torch.randn(37, 1696, generator=torch.Generator().manual_seed(3)) * 3
    whole = wide.in_pieces(function, rows)
    for first, last in ((0, 1), (5, 6), (2, 19), (0, 36)):
        assert torch.equal(wide.in_pieces(function, rows[first:last]), whole[first:last])
    with using(1):
        assert torch.equal(wide.in_pieces(function, rows), whole)
    assert torch.allclose(whole, function(rows))


def test_activations_of_a_wide_model_are_computed_so_until_that_is_undone():
    module = by_our_kernels(causal("llama", **SIZES).eval().bfloat16())
    before = logits(module)
    undo = wide.activate_in_pieces(module)
    assert {type(layer.mlp.act_fn) for layer in module.model.layers} == {wide.InPieces}
    assert all(map(torch.equal, before, logits(module)))
    undo()
    assert wide.InPieces not in {type(part) for part in module.modules()}


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
