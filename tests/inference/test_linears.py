"""Linear layers in other kernels: the same numbers, in fewer products."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from torch import nn

from mlzoo.inference import gate, linears
from mlzoo.inference.plan import able
from mlzoo.inference.selftest import Findings

pytestmark = pytest.mark.torch


def nothing_found() -> Findings:
    return Findings(None, {})


def usable(family: str, dtype: torch.dtype) -> bool:
    like = torch.zeros(1, dtype=dtype)
    layer = linears.Linear([nn.Linear(64, 32, bias=False, dtype=dtype)], linears.InForce())
    return family in able([layer], like, "int4", nothing_found())


def on_a_grid(outputs: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    """Weights that 4 bits hold without an error: 16 steps in each group."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 16, (outputs, inputs // 32, 32), generator=generator)
    steps[..., 0], steps[..., 1] = 0, 15
    return (steps * 0.125 - 1).view(outputs, inputs).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["plain", "packed", "int4"])
@pytest.mark.parametrize("bias", [False, True])
def test_every_family_computes_what_the_layers_did(family, dtype, bias):
    if not usable(family, dtype):
        pytest.skip(f"this machine has no kernel for {family} in {dtype}")
    layers = [nn.Linear(64, outputs, bias=bias, dtype=dtype) for outputs in (32, 16, 16)]
    for layer in layers:
        layer.weight.data = on_a_grid(layer.out_features, 64, dtype)
    in_force = linears.InForce()
    joined = linears.Linear(layers, in_force)
    joined.make(family)
    in_force.family = family
    rows = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        expected = torch.cat([layer(rows) for layer in layers], -1)
        torch.testing.assert_close(joined(rows), expected, atol=0.2 if dtype == torch.bfloat16 else 1e-4, rtol=2e-2)


def test_weights_on_a_grid_of_4_bits_lose_nothing_and_others_do():
    layer = nn.Linear(64, 32, bias=False)
    layer.weight.data = on_a_grid(32, 64, torch.float32)
    assert linears.int4_error(layer.weight.data) < 1e-6
    torch.manual_seed(0)
    nn.init.normal_(layer.weight)
    assert linears.int4_error(layer.weight.data) > 0.02


def test_siblings_are_one_product_and_each_gets_its_columns():
    module = tiny_models.causal("llama")
    before = gate.sample_logits(module, tiny_models.VOCABULARY)
    replaced = linears.replace(module)
    # Query, key and value are one, gate and up another, beside those for output and down, and the head.
    assert len(replaced.layers) == 2 * 4 + 1
    assert [layer.is_head for layer in replaced.layers].count(True) == 1
    assert gate.mean_difference(before, gate.sample_logits(module, tiny_models.VOCABULARY)) < 1e-5


def test_what_was_replaced_can_be_put_back():
    module = tiny_models.causal("llama")
    names = {name: type(part) for name, part in module.named_modules()}
    linears.replace(module).undo()
    assert {name: type(part) for name, part in module.named_modules()} == names


def test_families_that_are_not_kept_give_their_memory_back():
    layer = linears.Linear([nn.Linear(64, 32, bias=False)], linears.InForce())
    layer.keep(["plain"])
    assert layer.weight is not None
    layer.products["packed"] = layer.products["plain"]
    layer.keep(["packed"])
    assert layer.weight is None
    assert list(layer.products) == ["packed"]


def test_a_head_never_comes_in_4_bits():
    head = linears.Linear([nn.Linear(64, 32, bias=False)], linears.InForce(), is_head=True)
    assert not head.takes_int4
