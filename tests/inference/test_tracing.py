"""A step as a compiler reads it computes what the eager step does, for every architecture that runs in slots."""

from __future__ import annotations

import os

import attrs
import pytest
import torch
from tiny_models import SLOTTED, causal

from mlzoo.config.loading import cache_directory
from mlzoo.inference import gate, graph_steps, linears, native, tracing
from mlzoo.inference.decoder import SlotDecoder

pytestmark = pytest.mark.torch

PROMPTS = {0: range(40), 1: range(7), 2: range(100, 123)}


@pytest.mark.parametrize("attention", [tracing.SUMS, tracing.LIBRARY, tracing.SLOTS])
@pytest.mark.parametrize("kind", SLOTTED)
def test_a_traced_step_computes_what_the_eager_one_does(kind, attention):
    module = causal(kind, **SLOTTED[kind]).eval()
    if attention == tracing.SLOTS:
        lacking = native.offer(cache_directory(None, os.environ))
        if lacking:
            pytest.skip(f"no kernels of our own: {lacking}")
        module = module.bfloat16()
    linears.replace(module)
    decoder = SlotDecoder(module, 4, 128)
    for slot, prompt in PROMPTS.items():
        decoder.prefill(slot, list(prompt), 0)
    slots, tokens, positions = [2, 0, 0], [5, 6, 7], [23, 40, 41]  # Two of them follow each other in one slot.
    expected = decoder.decode(slots, tokens, positions)
    traced = tracing.TracedStep(module, attrs.evolve(graph_steps.step_of(decoder, "plain"), attention=attention))
    for name, buffer in graph_steps.buffers_of(decoder).items():
        setattr(traced, name, buffer)
    with torch.inference_mode():
        ids, places = torch.tensor(tokens)[:, None], torch.tensor(positions)[:, None]
        given = ids, places, torch.tensor(slots), torch.empty(64, dtype=torch.uint8)
        seen, some = traced(*given, torch.arange(3)), traced(*given, torch.tensor([2, 0]))
    assert gate.mean_difference(list(expected), list(seen)) < gate.tolerance(module.dtype)
    assert gate.mean_difference([expected[2], expected[0]], list(some)) < gate.tolerance(module.dtype)


def test_a_product_that_is_no_function_of_tensors_is_refused():
    layer = linears.Linear([torch.nn.Linear(4, 4)], linears.InForce())
    layer.products["packed"] = lambda x: x
    with pytest.raises(ValueError, match="no function of tensors"):
        tracing.product_of(layer, "packed")
