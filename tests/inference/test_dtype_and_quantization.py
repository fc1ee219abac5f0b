"""What a model's entry says of dtype and quantisation is done, and told, or the load is refused: never passed over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import ask, load, run, save_causal, save_encoder
from transformers import AutoModelForCausalLM

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import gate, gpu_int4, images, sizing
from mlzoo.inference.embedder import load_embed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.predictor import load_predict
from mlzoo.models.artifact import save

sys.path.append(str(Path(__file__).parent.parent / "models"))
from zoo_specs import COLUMNS, TABLE, made

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    model, spec = made(TABLE, columns=COLUMNS)
    directory = tmp_path_factory.mktemp("table") / "artifact"
    save(model, spec, directory)
    return directory


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_what_a_model_then_has_and_says(dtype, tmp_path, encoder, table):
    chat = load_chat(load(save_causal(tmp_path), dtype=dtype), CPU)
    embed = load_embed(load(encoder, kind="embed", dtype=dtype), CPU)
    predict = load_predict(load(table, kind="predict", dtype=dtype), CPU)
    modules = (chat.decoder.module, embed.module, predict.module)
    for model, module in zip((chat, embed, predict), modules, strict=True):
        assert model.dtype == DTYPES[dtype]
        assert {tensor.dtype for tensor in module.parameters()} == {DTYPES[dtype]}
        assert f"dtype {dtype}: asked for" in model.why
    assert len(run(BatchEngine(chat), ask("r", "one", 3)).tokens("r")) == 3


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_that_was_asked_for_is_chosen_on_every_device(dtype, device):
    assert sizing.choose_dtype(dtype, torch.device(device))[0] == DTYPES[dtype]


@pytest.mark.parametrize("kind", ["stablelm", "gptj"])
def test_four_bits_of_a_model_that_runs_one_request_at_a_time_are_refused(kind, tmp_path):
    directory = save_causal(tmp_path, kind)
    with pytest.raises(ModelLoadFailed, match="cannot have 4-bit weights: it runs with its own layers, one request at"):
        load_chat(load(directory, quantization="int4"), CPU)
    for other in ("auto", "none"):
        assert "linear layers: torch's own, none in 4 bits" in load_chat(load(directory, quantization=other), CPU).why


def test_four_bits_of_a_model_that_the_gate_sends_back_are_refused(tiny_directory, monkeypatch):
    monkeypatch.setattr(gate, "disagreement", lambda *_: 0.5)
    with pytest.raises(ModelLoadFailed, match=r"its logits in slots differ by 0\.5; set quantization to none"):
        load_chat(load(tiny_directory, quantization="int4"), CPU)


def test_four_bits_of_a_model_that_sees_are_refused(tiny_directory, monkeypatch):
    monkeypatch.setattr(images, "sees", lambda _load: True)
    monkeypatch.setattr(images, "kind_of", lambda _load: AutoModelForCausalLM)
    with pytest.raises(ModelLoadFailed, match="cannot have 4-bit weights"):
        load_chat(load(tiny_directory, quantization="int4"), CPU)


def test_four_bits_of_embeddings_and_custom_models_are_refused(encoder, table):
    with pytest.raises(ModelLoadFailed, match="cannot have 4-bit weights: embeddings are"):
        load_embed(load(encoder, kind="embed", quantization="int4"), CPU)
    with pytest.raises(ModelLoadFailed, match="cannot have 4-bit weights: custom models compute"):
        load_predict(load(table, kind="predict", quantization="int4"), CPU)


@pytest.mark.parametrize(("able", "intermediate_size"), [(2, 64), (0, 48)])
def test_four_bits_are_refused_where_most_layers_cannot_have_them(able, intermediate_size, tmp_path):
    directory = save_causal(tmp_path, hidden_size=48, num_attention_heads=6, intermediate_size=intermediate_size)
    told = f"only {able} of its 9 linear layers have a shape that 4-bit weights can have; set quantization to none"
    with pytest.raises(ModelLoadFailed, match=told):
        load_chat(load(directory, quantization="int4", dtype="bfloat16"), CPU)


def test_four_bits_are_refused_where_a_model_reaches_into_its_layers(tiny_directory, monkeypatch):
    monkeypatch.setattr(gate, "mean_difference", lambda *_: gate.WORST)
    monkeypatch.setattr(gate, "disagreement", lambda *_: 0.0)
    with pytest.raises(ModelLoadFailed, match="it reaches into its linear layers"):
        load_chat(load(tiny_directory, quantization="int4", dtype="bfloat16"), CPU)


def test_how_many_layers_have_four_bits_is_told(tiny_directory):
    why = load_chat(load(tiny_directory, quantization="int4", dtype="bfloat16"), CPU).why
    assert "4 bits, as asked for: 8 of 9 linear layers have them" in why


@pytest.mark.parametrize("dtype", ["float16"])
def test_four_bits_beside_a_dtype_that_has_no_kernel_for_them_are_refused(dtype, tiny_directory):
    with pytest.raises(ModelLoadFailed, match=r"no kernel for 4-bit weights beside torch\.float16"):
        load_chat(load(tiny_directory, quantization="int4", dtype=dtype), CPU)


def test_four_bits_on_a_device_that_has_none_are_refused():
    with pytest.raises(ModelLoadFailed, match="4-bit weights cannot be had on mps"):
        gpu_int4.expect("tiny", torch.device("mps"), torch.float16)


def test_no_four_bits_where_they_are_not_wanted(tmp_path):
    directory = save_causal(tmp_path, dtype=torch.bfloat16)
    why = load_chat(load(directory, quantization="none", dtype="bfloat16"), CPU).why
    assert not any("int4" in line or "4 bits" in line for line in why)
