"""GGUF to safetensors, as the store calls it: a process with JSON lines on stdout."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from tiny_models import ask, load, run
from worker_process import ROOT

from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.weights import verify

pytestmark = pytest.mark.torch


def convert(source, target):
    done = subprocess.run(
        [sys.executable, "-m", "mlzoo.inference.convert", str(source), str(target)],
        cwd=ROOT, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def tiny_gguf(path):
    """A llama of one layer in GGUF, with a byte-level tokenizer."""
    import gguf
    import numpy as np
    from tiny_models import tokenizer

    words = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words["vocab"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(words["vocab"], key=words["vocab"].get))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(words["vocab"]), 32), "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32), "blk.0.attn_v.weight": (16, 32),
        "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_up.weight": (64, 32),
        "blk.0.ffn_down.weight": (32, 64),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="transformers reads GGUF with accelerate only"
)
def test_a_gguf_file_becomes_a_directory_that_loads_and_chats(tmp_path):
    source, target = tmp_path / "tiny.gguf", tmp_path / "made" / "tiny"
    tiny_gguf(source)
    status, lines, stderr = convert(source, target)
    assert status == 0, (lines, stderr.decode())
    assert [line["stage"] for line in lines] == ["tokenizer", "tokenizer", "weights", "weights", "save", "save"]
    assert all(set(line) == {"stage", "done", "total", "unit"} for line in lines)
    assert verify(target) == lines[-1]["done"]
    model = load_chat(load(target, dtype="auto"), torch.device("cpu"))
    assert model.end_tokens == frozenset({1})
    assert run(BatchEngine(model), ask("r", messages=({"role": "user", "content": "one"},), max_tokens=4)).tokens("r")


@pytest.mark.parametrize("content", [None, b"", b"GGML old", b"GGUF\x03\0\0\0 cut off"])
def test_what_cannot_be_converted_is_one_line_and_status_1(tmp_path, content):
    source = tmp_path / "bad.gguf"
    if content is not None:
        source.write_bytes(content)
    status, lines, _ = convert(source, tmp_path / "target")
    assert status == 1
    assert [set(line) for line in lines if "stage" not in line] == [{"error"}]
    assert "bad.gguf" in lines[-1]["error"] or "accelerate" in lines[-1]["error"]
