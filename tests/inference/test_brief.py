"""Attention over short texts by plain products: it is that of the fused kernel, and stands back where it is not."""

from __future__ import annotations

import pytest
import torch
from tiny_models import save_encoder
from transformers import AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mlzoo.inference import brief

pytestmark = pytest.mark.torch


class Module:
    is_causal = False


def parts(texts, tokens, heads=4, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(texts, tokens, heads, dim, generator=generator).transpose(1, 2) for _ in range(3)]


def masks(texts, tokens):
    """No mask, and masks of the kinds that transformers makes: the last two tokens of half of the texts are hidden."""
    seen = torch.ones(texts, 1, 1, tokens, dtype=torch.bool)
    seen[texts // 2 :, ..., -2:] = False
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return {"none": None, "bool": seen, "of each token": seen.expand(-1, -1, tokens, -1), "added": added}


@pytest.mark.parametrize("tokens", [3, 15, 16, 40, brief.MOST_TOKENS, brief.MOST_TOKENS + 1])
@pytest.mark.parametrize("kind", ["none", "bool", "of each token", "added"])
def test_it_gives_what_the_fused_kernel_gives(tokens, kind):
    query, key, value = parts(6, tokens)
    mask = masks(6, tokens)[kind]
    seen, _ = brief.brief_attention(Module(), query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, mask, scaling=0.3)
    assert seen.shape == expected.shape
    assert torch.allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize("asked", [{"is_causal": True}, {"dropout": 1.0}])
def test_what_it_does_not_do_is_left_to_the_fused_kernel(asked):
    query, key, value = parts(2, 8)
    seen, _ = brief.brief_attention(Module(), query, key, value, None, **asked)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, None, **asked)
    assert torch.equal(seen, expected)


def test_heads_that_share_keys_are_left_to_the_fused_kernel():
    query, _, _ = parts(2, 8, heads=4)
    _, key, value = parts(2, 8, heads=2)
    module = Module()
    module.num_key_value_groups = 2
    seen, _ = brief.brief_attention(module, query, key, value, None)
    expected, _ = sdpa_attention_forward(module, query, key, value, None)
    assert torch.equal(seen, expected)


@pytest.fixture
def model(tmp_path):
    return AutoModel.from_pretrained(save_encoder(tmp_path)).eval()


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_an_encoder_has_it_where_it_is_faster_and_says_so(model, monkeypatch, gain):
    ids = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
        monkeypatch.setattr(brief, "_gain", lambda *_: gain)
        why = brief.attend_briefly(model)
        seen = model(input_ids=ids).last_hidden_state
    assert model.config._attn_implementation == (brief.NAME if gain > 1 else brief.FUSED)
    assert ("2.00 times as fast" in why) is (gain > 1)
    assert torch.allclose(seen, expected, atol=1e-5)


def test_one_that_would_compute_something_else_is_left_as_it_was(model, monkeypatch):
    monkeypatch.setattr(brief, "_weights", lambda query, key, _: torch.matmul(query, key.transpose(2, 3)))
    assert "would change" in brief.attend_briefly(model)
    assert model.config._attn_implementation == brief.FUSED


def test_an_encoder_with_an_attention_of_its_own_is_left_as_it_was(model):
    model.set_attn_implementation("eager")
    assert brief.attend_briefly(model) == "attention: as the model was loaded"
