"""Eager steps in few operations say what a model's own forward says, and keep rows apart as it does."""

from __future__ import annotations

import os

import pytest
import torch
from tiny_models import ask, causal, load, run, save_causal

from mlzoo.config.loading import cache_directory
from mlzoo.inference import anatomy, gate, kernels, lean, linears, native
from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


def of(kind, dtype=torch.float32, *, own_attention=False, **settings):
    """Return a model as it is served, and its lean step."""
    if own_attention:
        settings["head_dim"] = 16  # the least that our kernel takes
        if lacking := native.offer(cache_directory(None, os.environ)):
            pytest.skip(f"no kernels of our own: {lacking}")
    module = causal(kind, dtype, **settings)
    linears.replace(module)
    return module, lean.step_of(module, own_attention=own_attention)


def logits(module, step=None):
    return gate.sample_logits(module, anatomy.vocabulary(module), step)


@pytest.mark.parametrize(("kind", "settings"), [("llama", {}), ("qwen2", {}), ("mistral", {"sliding_window": None})])
def test_what_is_of_that_kind_gives_the_logits_of_its_own_forward(kind, settings):
    module, step = of(kind, **settings)
    assert gate.mean_difference(logits(module), logits(module, step)) < 1e-5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", {"sliding_window": 8}),
        ("llama", {"hidden_act": "gelu"}),
        ("mixtral", {}),
        ("gemma", {}),
        ("qwen3", {}),
        ("ernie4_5", {}),
        ("smollm3", {}),
        ("helium", {}),
        ("granite", {}),
    ],
)
def test_what_is_of_another_kind_has_none(kind, settings):
    assert of(kind, **settings)[1] is None


def test_layers_that_are_torchs_own_have_none():
    assert lean.step_of(causal("llama")) is None


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_our_own_attention_gives_what_the_library_does(kind):
    module, step = of(kind, torch.bfloat16, own_attention=True)
    assert gate.mean_difference(logits(module), logits(module, step)) < gate.tolerance(torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "own_attention"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_rows_are_the_same_alone_in_company_and_several_of_one_slot(dtype, own_attention):
    module, step = of("llama", dtype, own_attention=own_attention)
    heads, like = anatomy.heads(module), next(module.parameters())
    grain, queries = kernels.row_grain(module, 4), kernels.query_grain(heads, 4, like)
    if grain is None or queries is None:
        pytest.skip("on this machine no padding keeps rows apart")
    decoder = SlotDecoder(module, 4, 64, grain=grain, query_grain=queries)
    decoder.lean = step
    prompts = [[5, 6, 7, 8, 9], [9, 8, 7], [4, 4, 4, 4], [1, 2]]
    for slot, prompt in enumerate(prompts):
        decoder.prefill(slot, prompt, 0)
    lengths = [len(prompt) for prompt in prompts]
    together = decoder.decode(range(4), [3, 4, 5, 6], lengths, exact=True)
    for slot, length in enumerate(lengths):
        assert torch.equal(decoder.decode([slot], [3 + slot], [length], exact=True)[0], together[slot])
    one_by_one = [decoder.decode([1], [token], [3 + at], exact=True)[0] for at, token in enumerate((4, 7, 8))]
    at_once = decoder.decode([1, 1, 1, 2], [4, 7, 8, 5], [3, 4, 5, 4], exact=True)
    assert torch.equal(at_once, torch.stack([*one_by_one, together[2]]))


def test_a_model_says_that_it_has_one_and_answers_as_without(tmp_path):
    directory = save_causal(tmp_path)
    model, other = (load_chat(load(directory), CPU) for _ in range(2))
    assert any("few operations" in line for line in model.why)
    other.decoder.lean = None
    frames = [ask("greedy", max_tokens=20), ask("exact", "one two", 20, exact=True, seed=4)]
    answers, expected = (run(BatchEngine(one), *frames) for one in (model, other))
    for frame in frames:
        assert answers.tokens(frame.request) == expected.tokens(frame.request)
