"""What is no adapter for a model is refused by the place in it that is wrong, and nothing of it is ever unpickled."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import ATTENTION, save_adapter
from tiny_models import load, save_causal

from mlzoo.errors import ModelLoadFailed, OutOfMemory
from mlzoo.inference import memory
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ALWAYS = "adapter mine of tiny: "


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    return save_adapter(base, tmp_path_factory.mktemp("whole"), targets=ATTENTION)


@pytest.fixture
def mine(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "mine")


def why(base, directory):
    """What loading says of an adapter that is refused."""
    with pytest.raises(ModelLoadFailed) as refused:
        load_chat(load(base, adapters={"mine": str(directory)}), CPU)
    assert refused.value.message.startswith(ALWAYS)
    return refused.value.message.removeprefix(ALWAYS)


def set_in_config(directory, **settings):
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def with_tensors(directory, change):
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


def test_the_adapter_from_which_the_others_are_made_is_taken(base, mine):
    assert load_chat(load(base, adapters={"mine": str(mine)}), CPU).adapters


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, 'peft_type: expected LORA, got "IA3"'),
        ({"task_type": "SEQ_CLS"}, "task_type: expected CAUSAL_LM"),
        ({"use_dora": True}, "use_dora: expected none: only plain LoRA is computed, got true"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: expected none"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens: expected none"),
        ({"lora_bias": True}, "lora_bias: expected none"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: expected none"),
        ({"something_new": {"a": 1}}, "something_new: expected none"),
        ({"bias": "all"}, "bias: expected none"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: expected true"),
        ({"r": 0}, "r: expected a number above 0, got 0"),
        ({"r": "4"}, 'r: expected a number above 0, got "4"'),
        ({"lora_alpha": None}, "lora_alpha: expected a number above 0, got null"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern: expected an object of numbers"),
        ({"target_modules": None}, "target_modules: expected the names of layers"),
    ],
)
def test_settings_that_would_be_computed_in_another_way_are_refused_by_their_names(base, mine, settings, told):
    set_in_config(mine, **settings)
    assert why(base, mine).startswith(f"{CONFIG}: {told}")


@pytest.mark.parametrize("written", ["", "{", "[]", "null"])
def test_a_configuration_that_is_none_is_refused(base, mine, written):
    (mine / CONFIG).write_text(written)
    assert why(base, mine).startswith(f"{CONFIG}: it is no")


def test_settings_that_say_nothing_of_what_is_computed_are_passed_over(base, mine):
    set_in_config(mine, something_new=None, use_dora=False, lora_dropout=0.5, peft_version="99", loftq_config={})
    assert load_chat(load(base, adapters={"mine": str(mine)}), CPU).adapters


def test_an_adapter_of_another_architecture_is_refused_by_its_first_layer_that_is_not_there(mine, tmp_path):
    other = save_causal(tmp_path / "other", "gpt_neox")
    told = why(other, mine)
    assert told.startswith(
        f"{WEIGHTS}: base_model.model.model.layers.0.self_attn.k_proj: GPTNeoXForCausalLM has no such"
    )


def test_an_adapter_of_a_wider_or_deeper_model_is_refused(mine, tmp_path):
    wider = save_causal(tmp_path / "wider", hidden_size=64)
    told = why(wider, mine)
    assert "k_proj.lora_A.weight: its shape is [4, 32], and the model's layer and" in told
    assert told.endswith("make it [4, 64]")
    deeper = save_causal(tmp_path / "deeper", num_hidden_layers=3)
    assert why(deeper, mine).startswith(
        f"{WEIGHTS}: base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight: this"
    )
    shallower = save_causal(tmp_path / "shallower", num_hidden_layers=1)
    assert "layers.1.self_attn.k_proj: LlamaForCausalLM has no such layer" in why(shallower, mine)


def test_layers_that_are_not_linear_are_refused(tmp_path):
    base = save_causal(tmp_path / "base", "gpt2")
    told = why(base, save_adapter(base, tmp_path / "one", targets=["c_attn"], fan_in_fan_out=True))
    assert told.startswith(f"{CONFIG}: fan_in_fan_out")
    set_in_config(tmp_path / "one", fan_in_fan_out=False)
    assert "c_attn: this layer is a Conv1D: only linear layers" in why(base, tmp_path / "one")
    llama = save_causal(tmp_path / "llama")
    assert why(llama, save_adapter(llama, tmp_path / "two", targets=["embed_tokens"])).startswith(
        f"{WEIGHTS}: base_model"
    )


def test_a_rank_that_is_not_that_of_the_configuration_is_refused_by_the_tensor(base, mine):
    set_in_config(mine, r=8)
    assert "lora_A.weight: its shape is [4, 32]" in why(base, mine)


def test_a_layer_that_the_configuration_does_not_target_is_refused(base, mine):
    set_in_config(mine, target_modules=["q_proj", "k_proj", "v_proj"])
    assert "layers.0.self_attn.o_proj: adapter_config.json: target_modules does not name this layer" in why(base, mine)


def test_a_half_without_the_other_is_refused(base, mine):
    with_tensors(mine, lambda tensors: tensors.pop(FIRST))
    assert why(base, mine) == f"{WEIGHTS}: {FIRST}: this tensor is missing"


def test_numbers_that_are_none_are_refused(base, mine):
    with_tensors(mine, lambda tensors: tensors[FIRST].fill_(float("nan")))
    assert why(base, mine) == f"{WEIGHTS}: {FIRST}: it holds what are no numbers"


def test_tensors_of_another_kind_are_refused(base, mine):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    with_tensors(mine, lambda tensors: tensors.update({name: torch.ones(32)}))
    assert why(base, mine) == f"{WEIGHTS}: {name}: it is no part of plain LoRA"


def test_weights_of_the_model_itself_are_taken_only_as_they_are(base, mine):
    name = "base_model.model.model.embed_tokens.weight"
    own = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    with_tensors(mine, lambda tensors: tensors.update({name: own.clone()}))
    assert load_chat(load(base, adapters={"mine": str(mine)}), CPU).adapters
    with_tensors(mine, lambda tensors: tensors[name].add_(1))
    assert why(base, mine).startswith(f"{WEIGHTS}: {name}: these are not the weights of the model")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_file_that_is_cut_off_is_refused(base, mine, size):
    whole = (mine / WEIGHTS).read_bytes()
    (mine / WEIGHTS).write_bytes(whole[:size])
    assert why(base, mine).startswith(f"{WEIGHTS}: it is corrupt or truncated")


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_a_pickle_is_refused_and_never_opened(base, mine):
    (mine / WEIGHTS).unlink()
    (mine / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    assert why(base, mine).startswith("adapter_model.bin: pickled weights can run code")
    (mine / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    assert why(base, mine).startswith(f"{WEIGHTS}: it is corrupt")


def test_a_directory_that_is_none_or_empty_is_refused(base, tmp_path):
    assert why(base, tmp_path / "none").startswith(f"{CONFIG}: there is no such file in")
    assert why(base, tmp_path).startswith(f"{CONFIG}: there is no such file in")


def test_what_an_adapter_needs_counts_before_anything_is_read(base, mine, monkeypatch):
    room = int((base / "model.safetensors").stat().st_size * 1.1) + 100
    monkeypatch.setattr(memory, "free_bytes", lambda _device: room)
    with pytest.raises(OutOfMemory):
        load_chat(load(base, adapters={"mine": str(mine)}), CPU)
