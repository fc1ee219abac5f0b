"""The default models themselves: sensible answers, sensible neighbours."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import ask, load, run

from mlzoo.frames import Embed
from mlzoo.inference.embedder import Embedder, load_embed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = [pytest.mark.torch, pytest.mark.weights]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def smollm2(weights):
    return load_chat(load(weights("smollm2"), model="smollm2", dtype="auto"), CPU)


def test_smollm2_knows_the_capital_of_france(smollm2):
    messages = ({"role": "user", "content": "What is the capital of France?"},)
    heard = run(BatchEngine(smollm2), ask("r", messages=messages, max_tokens=32))
    assert "Paris" in heard.text("r")
    assert heard.rows["r"][-1].finish_reason == "stop"


def test_smollm2_says_the_same_alone_and_in_company(smollm2):
    frames = [
        ask(
            f"r{i}",
            messages=({"role": "user", "content": question},),
            max_tokens=16,
            temperature=0.9,
            top_p=0.95,
            seed=i,
        )
        for i, question in enumerate(("Tell a story.", "What is 2 + 2?", "Name a colour. " * 30))
    ]
    together = run(BatchEngine(smollm2), *frames)
    for frame in frames:
        assert run(BatchEngine(smollm2), frame).tokens(frame.request) == together.tokens(frame.request)


def test_minilm_puts_like_texts_together(weights):
    model = load_embed(load(weights("minilm"), model="minilm", kind="embed", dtype="auto"), CPU)
    texts = ("Paris is the capital of France.", "The French capital is Paris.", "I like cheese with onions.")
    embedder = Embedder(model)
    embedder.submit(Embed(request="e", model="minilm", texts=texts))
    (frame,) = embedder.step()
    vectors = np.array(json.loads(frame.vectors), "<f4")
    assert vectors.shape == (3, 384)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.9
    assert far < 0.3
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
