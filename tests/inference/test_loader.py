"""What loading refuses, and what it chooses."""

from __future__ import annotations

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ask, load, run, save_causal

from mlzoo.errors import ModelLoadFailed, OutOfMemory
from mlzoo.inference import gate, memory, sizing
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


def test_progress_names_each_stage_and_counts_the_weights(tiny_directory):
    seen = []
    load_chat(load(tiny_directory), CPU, lambda *step: seen.append(step))
    assert [stage for stage, *_ in seen] == ["tokenizer", "weights", "weights", "check", "check"]
    assert seen[2][1] == seen[2][2] == (tiny_directory / "model.safetensors").stat().st_size


def test_truncated_weights_are_refused_with_a_clear_message(tmp_path):
    path = save_causal(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadFailed, match="truncated or corrupt"):
        load_chat(load(tmp_path), CPU)


def test_weights_that_lack_a_tensor_are_refused_instead_of_filled_with_noise(tmp_path):
    path = save_causal(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadFailed, match="lack 1 tensors"):
        load_chat(load(tmp_path), CPU)


def test_a_directory_without_a_config_is_refused(tmp_path):
    save_causal(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelLoadFailed):
        load_chat(load(tmp_path), CPU)


def test_a_model_larger_than_memory_is_refused_before_it_is_read(tiny_directory, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)
    with pytest.raises(OutOfMemory) as caught:
        load_chat(load(tiny_directory), CPU)
    assert caught.value.data["free"] == 1000
    assert caught.value.data["needed"] > 1000


def test_a_model_that_computes_differently_in_slots_runs_serially(tiny_directory, monkeypatch):
    expected = run(BatchEngine(load_chat(load(tiny_directory), CPU)), ask("r")).tokens("r")
    monkeypatch.setattr(gate, "disagreement", lambda *_: 0.5)
    model = load_chat(load(tiny_directory), CPU)
    assert model.batching == "serial"
    assert any("differ" in reason for reason in model.why)
    assert run(BatchEngine(model), ask("r")).tokens("r") == expected


def test_the_gate_sees_a_wrong_mask(tiny_directory, monkeypatch):
    from mlzoo.inference import attention

    monkeypatch.setitem(
        attention.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping,
        attention.NAME,
        lambda **given: attention.slot_mask(**{**given, "mask_function": lambda _b, _h, q, kv: kv < q}),
    )
    assert load_chat(load(tiny_directory), CPU).batching == "serial"


def test_several_end_tokens_come_from_the_generation_config(tmp_path):
    save_causal(tmp_path, eos_token_id=[1, 5])
    assert load_chat(load(tmp_path), CPU).end_tokens == frozenset({1, 5})


def test_unloading_gives_the_memory_back(tmp_path):
    save_causal(tmp_path, hidden_size=512, intermediate_size=4096, num_hidden_layers=8)
    memory.give_back(CPU)
    before = memory.used_bytes(CPU)
    model = load_chat(load(tmp_path, context=256), CPU)
    size = memory.used_bytes(CPU) - before
    assert size > 100e6
    assert model.memory_bytes > 100e6
    del model
    memory.give_back(CPU)
    assert memory.used_bytes(CPU) - before < 0.2 * size


def test_the_context_is_the_models_own_where_memory_allows():
    size = sizing.choose_size(16, 0, 2048, 1000, 10**12)
    assert (size.slots, size.context) == (16, 2048)
    assert sizing.choose_size(16, 0, 10**6, 1000, 10**12).context == sizing.MOST_CONTEXT
    assert sizing.choose_size(16, 512, None, 1000, 10**12).context == 512


def test_little_memory_costs_context_first_then_rows():
    token, free = 1000, 2 * 1000 * 16 * 5000  # half of it holds 16 rows of 5000 tokens
    size = sizing.choose_size(16, 0, 10**6, token, free)
    assert (size.slots, size.context) == (16, 5000)
    assert "memory" in size.why
    size = sizing.choose_size(16, 0, 10**6, token, free // 4)
    assert (size.slots, size.context) == (4, 5000)
    size = sizing.choose_size(16, 0, 10**6, token, 2 * token * 1000)
    assert (size.slots, size.context) == (1, 1000)
    with pytest.raises(OutOfMemory):
        sizing.choose_size(16, 0, 10**6, token, 2 * token * 100)
    with pytest.raises(OutOfMemory):
        sizing.choose_size(16, 4096, 10**6, token, 2 * token * 100)


def test_the_dtype_is_what_was_asked_for_or_what_the_processor_is_fast_at(monkeypatch):
    assert sizing.choose_dtype("float16", CPU)[0] == torch.float16
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(sizing, "_processor_has", lambda _name, native=native: native)
        assert sizing.choose_dtype("auto", CPU)[0] == dtype
    assert sizing.choose_dtype("auto", CPU, lambda: True)[0] == torch.bfloat16
    assert sizing.choose_dtype("auto", torch.device("mps"))[0] == torch.float16


def test_remote_code_stays_off_unless_asked_for(tiny_directory):
    assert attrs.fields(type(load(tiny_directory))).trust_remote_code.default is False


@pytest.mark.parametrize(("kind", "config"), [("mixtral", {}), ("aria_text", {"moe_num_experts": 4, "moe_topk": 2})])
def test_a_model_with_experts_promises_no_exact_answers_whatever_its_config_calls_them(tmp_path, kind, config):
    model = load_chat(load(save_causal(tmp_path, kind, **config), digest="d" * 64), CPU)
    assert (model.batching, model.fingerprint) == ("slots", "")
    assert any("experts" in reason for reason in model.why)
