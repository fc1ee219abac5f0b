"""Any decoder architecture: in slots where it fits, equal to generate; one at a time where it does not."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_models import SERIAL, SLOTTED, ask, load, run, save_causal

from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
PROMPTS = (
    "the quick brown fox",
    "one two three four five six seven eight nine ten eleven",
    "the lazy dog and one two three " * 25,  # more than two chunks
    "x",
)


@pytest.mark.parametrize("kind", [*SLOTTED, *SERIAL])
def test_rows_that_join_at_different_steps_with_prompts_of_any_length_get_what_generate_gives(kind, tmp_path):
    module = tiny_models.causal(kind)
    model = load_chat(load(save_causal(tmp_path, kind)), CPU)
    assert model.batching == ("slots" if kind in SLOTTED else "serial"), model.why
    engine, heard = BatchEngine(model), tiny_models.Heard()
    for i, prompt in enumerate(PROMPTS):
        heard.take(engine.submit(ask(f"r{i}", prompt)))
        for _ in range(3):
            heard.take(engine.step())
    while not engine.idle:
        heard.take(engine.step())
    assert len(model.text.encode(PROMPTS[2])) > 2 * 128
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([model.text.encode(prompt)])
        out = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert heard.tokens(f"r{i}") == out[0, ids.shape[1] :].tolist(), kind


@pytest.mark.parametrize("kind", list(SERIAL))
def test_a_serial_model_samples_stops_and_serves_the_next_request(kind, tmp_path):
    model = load_chat(load(save_causal(tmp_path, kind)), CPU)
    assert "serial" in " ".join(model.why)
    engine = BatchEngine(model)
    first = run(engine, ask("a", temperature=1.0, seed=7), ask("b", temperature=1.0, seed=7), ask("c", temperature=1.0))
    assert first.tokens("a") == first.tokens("b") != first.tokens("c")
    assert run(engine, ask("d", temperature=1.0, seed=7)).tokens("d") == first.tokens("a")
