"""One stream of a model of 1.2 billion parameters, beside llama.cpp on the same weights, and what memory allows both.

``python bench/large.py [--rounds N] [--json FILE]``. Makes a Llama configuration with random weights (seeded) once, in
bench/.peers/large: as a GGUF file in Q4_1 with its head in Q8_0, as such files usually are, and the very numbers of
that file as safetensors in bfloat16. Takes 4 GB of disk and of memory.

A token needs all weights once, but for the embeddings: memory that is read so fast (measured here, in the same rounds)
bounds the rate of whoever reads the file's bytes. Ours is asked over NDJSON, compiled steps warm; prompts are read
within the time on both sides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from itertools import count
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from measure import PeerMissing, Row, compare, interleave, main
from prompts import WORDS
from rivals import BENCH, LLAMA, PEERS, Rival, environment
from stream import Host, result_of
from warming import warm

from mlzoo.inference import process

if TYPE_CHECKING:
    from pathlib import Path

NAME = "large"
HOME = PEERS / NAME
WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 2048, 8192, 18, 32, 8, 32_000
PROMPT_WORDS, TOKENS = 24, 64
SEED = 12
READ_BYTES = 1 << 30  # in one measurement of the memory


def shapes() -> dict[str, tuple[str, tuple[int, int]]]:
    """Return the matrices: their name in a GGUF file -> their name in transformers, and their shape."""
    key_width = WIDTH // HEADS * KEY_HEADS
    found = {
        "token_embd": ("model.embed_tokens", (VOCABULARY, WIDTH)),
        "output": ("lm_head", (VOCABULARY, WIDTH)),
    }
    for layer in range(LAYERS):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for name, other, shape in (
            ("attn_q", "self_attn.q_proj", (WIDTH, WIDTH)),
            ("attn_k", "self_attn.k_proj", (key_width, WIDTH)),
            ("attn_v", "self_attn.v_proj", (key_width, WIDTH)),
            ("attn_output", "self_attn.o_proj", (WIDTH, WIDTH)),
            ("ffn_gate", "mlp.gate_proj", (INNER, WIDTH)),
            ("ffn_up", "mlp.up_proj", (INNER, WIDTH)),
            ("ffn_down", "mlp.down_proj", (WIDTH, INNER)),
        ):
            found[f"{theirs}.{name}"] = (f"{ours}.{other}", shape)
    return found


def norms() -> dict[str, str]:
    """Return the vectors, all of ones: their name in a GGUF file -> their name in transformers."""
    found = {"output_norm": "model.norm"}
    for layer in range(LAYERS):
        found[f"blk.{layer}.attn_norm"] = f"model.layers.{layer}.input_layernorm"
        found[f"blk.{layer}.ffn_norm"] = f"model.layers.{layer}.post_attention_layernorm"
    return found


def make() -> tuple[Path, Path]:
    """Return the GGUF file and the directory with the same weights, made at first."""
    file, directory = HOME / "large.gguf", HOME / "weights"
    if not (HOME / "complete").exists():
        print("Making a model of 1.2 billion parameters; takes some minutes.", flush=True)
        directory.mkdir(parents=True, exist_ok=True)
        _write(file, directory)
        _describe(directory)
        (HOME / "complete").touch()
    return file, directory


def _write(file: Path, directory: Path) -> None:
    import gguf
    import torch
    from gguf import GGMLQuantizationType as Kind
    from safetensors.torch import save_file

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    draw = np.random.default_rng(SEED)
    tensors = {}
    for theirs, (ours, shape) in shapes().items():
        kind = Kind.Q8_0 if theirs in ("output", "token_embd") else Kind.Q4_1
        values = draw.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1]))
        blocks = gguf.quants.quantize(values, kind)
        restored = gguf.quants.dequantize(blocks, kind)
        tensors[f"{ours}.weight"] = torch.from_numpy(restored).to(torch.bfloat16)
        heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(theirs.rpartition(".")[2])
        writer.add_tensor(f"{theirs}.weight", blocks if heads is None else _paired(blocks, heads), raw_dtype=kind)
    for theirs, ours in norms().items():
        writer.add_tensor(f"{theirs}.weight", np.ones(WIDTH, dtype=np.float32))
        tensors[f"{ours}.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _paired(blocks: np.ndarray, heads: int) -> np.ndarray:
    """Return rows in the order in which llama.cpp rotates them: halves of a head interleaved."""
    rows, width = blocks.shape
    return blocks.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def _describe(directory: Path) -> None:
    """Write what belongs to weights: a configuration, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        dtype="bfloat16",
    )
    config.save_pretrained(directory)
    words = {word: number for number, word in enumerate(WORDS)}
    filled = words | {f"w{number}": number for number in range(len(words), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(filled, unk_token="w31999"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w31999").save_pretrained(directory)


def configured(directory: Path) -> dict[str, str]:
    """Return the environment in which the model is one of ours."""
    config = HOME / "config"
    (config / "model").mkdir(parents=True, exist_ok=True)
    (config / "model" / f"{NAME}.yaml").write_text(
        f"name: {NAME}\nkind: chat\nsource: path:{directory}\nslots: 4\ncontext: 1024\nlicence: {{spdx: CC0-1.0}}\n"
    )
    env = {**os.environ, "MLZOO_CONFIG_DIR": str(config), "MLZOO_STORE": str(HOME / "store")}
    subprocess.run([sys.executable, "-m", "mlzoo", "models", "pull", NAME], check=True, env=env, cwd=BENCH.parent)
    return env


class Prompts:
    """Prompts of equally many tokens, no two of them alike."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def next(self) -> list[int]:
        draw = np.random.default_rng(next(self._numbers))
        return [int(word) for word in draw.integers(0, len(WORDS), PROMPT_WORDS)]


def ours(host: Host, prompts: Prompts) -> float:
    prompt = " ".join(WORDS[token] for token in prompts.next())
    params = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS, "stream": True}
    start = time.perf_counter()
    chat = host.send("complete", params)
    while (message := host.receive()).get("id") != chat:
        pass
    result = result_of(message)
    return result["usage"]["completion_tokens"] / (time.perf_counter() - start)


def theirs(rival: Rival | None, prompts: Prompts) -> float:
    if rival is None:
        raise PeerMissing
    return rival.rate([{"ids": prompts.next()}], TOKENS)


def bandwidth() -> float:
    """Return the bytes per second at which all cores together read memory, in GB/s."""
    script = f"""
import sys, time, torch
torch.set_num_threads({process.usable_processors()})
data = torch.ones({READ_BYTES // 4}, dtype=torch.float32)
best = 0.0
for _ in range(5):
    start = time.perf_counter()
    float(data.sum())
    best = max(best, {READ_BYTES} / (time.perf_counter() - start))
print(best / 1e9)
"""
    return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def weights_gb(file: Path) -> float:
    """Return what a token needs of the file: all but the embeddings, of which it reads one line."""
    from gguf import GGUFReader

    return sum(int(t.n_bytes) for t in GGUFReader(file).tensors if t.name != "token_embd.weight") / 1e9


def measure(rounds: int) -> list[Row]:
    file, directory = make()
    env = configured(directory)
    threads = str(process.usable_processors())
    prompts = Prompts()
    with ExitStack() as stack:
        rival = None
        try:
            llama = [environment("llama", LLAMA), str(BENCH / "peers" / "llama_batch.py"), str(file), threads]
            rival = stack.enter_context(Rival(llama))
            rival.suspend()
        except PeerMissing:
            print("llama.cpp cannot run here.")
        log = stack.enter_context(tempfile.TemporaryDirectory())
        host = stack.enter_context(Host([sys.executable, "-m", "mlzoo", "serve", "--log", log], env))
        print(f"Compiled steps: {warm(host, NAME, streams=(1, 4))}", flush=True)
        found = interleave(
            rounds,
            {"ours": partial(ours, host, prompts), "llama": partial(theirs, rival, prompts), "memory": bandwidth},
        )
        host.leave()
    return rows(found, weights_gb(file))


def rows(found: dict[str, list[float]], per_token_gb: float) -> list[Row]:
    bound = [value / per_token_gb for value in found["memory"]]
    shown = [compare("one stream, 1.2B", "tokens/s", found["ours"], "llama.cpp", found["llama"], ">= 0.9")]
    allows = "what memory allows who reads the 4-bit file"
    shown.append(compare("one stream, 1.2B", "tokens/s", found["ours"], allows, bound))
    if found["llama"]:
        shown.append(compare("llama.cpp, 1.2B", "tokens/s", found["llama"], allows, bound))
    shown.append(Row(what="memory read by all cores", value=median(found["memory"]), unit="GB/s"))
    shown.append(Row(what="weights that a token needs, in the 4-bit file", value=per_token_gb, unit="GB"))
    return shown


if __name__ == "__main__":
    main("A model of 1.2 billion parameters", measure)
