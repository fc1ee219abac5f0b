"""The same prompt and seed give the same text, to the bit, whatever else runs."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["llama float32", "llama bfloat16", "gemma2 float32", "gemma2 bfloat16"])
def model(request, tmp_path_factory):
    kind, dtype = request.param.split()
    # Wide enough that matrix libraries use several kernels.
    wide = {
        "hidden_size": 96,
        "intermediate_size": 1536,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,  # Three queries for each: an odd number, which kernels lay out in their own way.
        "head_dim": 16,
        "num_hidden_layers": 3,
    }
    directory = save_causal(tmp_path_factory.mktemp("exact"), kind, dtype=getattr(torch, dtype), **wide)
    return load_chat(load(directory, dtype=dtype), CPU)


def frames():
    prompts = ["the fox", "one two three " * 9, "größer " * 40, "a", "dog " * 70, "Fritz", "seven six", "four " * 20]
    return [
        ask(
            f"r{i}",
            prompt,
            24,
            temperature=1.0,
            top_p=0.95 if i % 2 else 1.0,
            top_k=40 if i % 3 else 0,
            seed=i,
            logprobs=True,
            exact=True,
        )
        for i, prompt in enumerate(prompts)
    ]


def story(heard: Heard, request: str) -> list[tuple[int, float]]:
    """Tokens and the bits of their log-probabilities."""
    return [(row.tokens[0], row.logprobs[0].logprob) for row in heard.rows[request]]


def test_eight_requests_together_equal_each_alone(model):
    together = run(BatchEngine(model), *frames())
    for frame in frames():
        alone = run(BatchEngine(model), frame)
        assert story(alone, frame.request) == story(together, frame.request), frame.request


def test_rows_in_scattered_slots_equal_each_alone(model):
    engine, heard = BatchEngine(model), Heard()
    for frame in frames():
        heard.take(engine.submit(frame))
    for _ in range(12):
        heard.take(engine.step())
    for gone in ("r1", "r2", "r4", "r6"):
        engine.abandon(gone)
    while not engine.idle:
        heard.take(engine.step())
    for frame in frames():
        if frame.request in {"r0", "r3", "r5", "r7"}:
            assert story(run(BatchEngine(model), frame), frame.request) == story(heard, frame.request)


def test_a_long_prompt_beside_decoding_rows_is_read_in_the_same_way_as_alone(model):
    long = ask("long", "the lazy dog jumps " * 20, 8, temperature=1.0, seed=3, logprobs=True, exact=True)
    alone = story(run(BatchEngine(model), long), "long")
    assert story(run(BatchEngine(model), *frames()[:3], long), "long") == alone
