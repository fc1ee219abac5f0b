"""Models of a few thousand random weights, and tokenizers trained on a few sentences: real parts, made on the fly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from mlzoo.frames import Generate, Load, Row, Sampling, Stepped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.frames import FromWorker
    from mlzoo.inference.engine import BatchEngine
    from mlzoo.inference.loader import ChatModel

VOCABULARY = 320
CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "Fischers Fritz fischt frische Fische, größer als Köln",
    "日本語のテキスト と 😀 emoji 👩‍👩‍👧 and naïve café",
    "user assistant system one two three four five six seven",
)
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('roles are user, assistant, system') }}{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ["<|start|>", "<|end|>", "<|pad|>"]
END = 1  # the id of <|end|>

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "eos_token_id": END,
    "bos_token_id": 0,
    "pad_token_id": 2,
}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

# Architectures that run in slots.
SLOTTED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "mistral": {"sliding_window": 16},
    "mixtral": MOE,
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "ministral": {"sliding_window": 16},
    "gemma": {},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
    "olmo": {},
    "olmo2": {},
    "granite": {},
    "starcoder2": {},
    "cohere": {},
    "cohere2": {"sliding_window": 16},
    "glm4": {"partial_rotary_factor": 0.5},
    "phi": {},
    "smollm3": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "ernie4_5": {},
    "gpt_oss": {**MOE, "sliding_window": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
# Architectures that do not, and run one request at a time.
SERIAL: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8, "conv_kernel": 4},
    "falcon": {"alibi": False, "new_decoder_architecture": False, "multi_query": True},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "stablelm": {},
}


def tokenizer(*, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of VOCABULARY tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        chat_template=template,
    )


def causal(kind: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Any:
    """A causal language model with random weights, of any architecture of transformers."""
    torch.manual_seed(seed)
    special = SLOTTED.get(kind, SERIAL.get(kind, {}))
    settings = {**BASE, **special, **settings}
    if kind == "falcon":
        del settings["head_dim"]  # it computes its own
    config = AutoConfig.for_model(kind, **settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()


def save_causal(directory: Path, kind: str = "llama", *, template: str | None = TEMPLATE, **settings: Any) -> Path:
    """Save a causal language model with its tokenizer."""
    causal(kind, **settings).save_pretrained(directory)
    tokenizer(template=template).save_pretrained(directory)
    return directory


def save_encoder(directory: Path) -> Path:
    """Save an encoder with its tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def load(directory: Path, **fields: Any) -> Load:
    """A Load frame for a directory."""
    return Load(**{"model": "tiny", "path": str(directory), "kind": "chat", "dtype": "float32", "slots": 8, **fields})


def ask(request: str, prompt: str = "the quick", max_tokens: int | None = 12, **fields: Any) -> Generate:
    """A Generate frame; sampling fields and frame fields mixed."""
    of_frame = {"messages", "stop", "exact", "adapter", "batch", "ephemeral", "tools", "tool_choice", "response_format"}
    of_frame |= {"resume", "tokens", "said", "fingerprint"}
    frame = {key: fields.pop(key) for key in of_frame & fields.keys()}
    plain = None if "messages" in frame else prompt
    return Generate(
        request=request, model="tiny", prompt=plain, sampling=Sampling(**fields), max_tokens=max_tokens, **frame
    )


class Heard:
    """What an engine said, by request."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.others: list[FromWorker] = []

    def take(self, said: Sequence[FromWorker]) -> None:
        for frame in said:
            if isinstance(frame, Stepped):
                for row in frame.rows:
                    self.rows.setdefault(row.request, []).append(row)
            else:
                self.others.append(frame)

    def text(self, request: str, rows: int | None = None) -> str:
        return "".join(row.content for row in self.rows[request][:rows])

    def tokens(self, request: str) -> list[int]:
        return [token for row in self.rows[request] for token in row.tokens]


def run(engine: BatchEngine, *frames: Generate) -> Heard:
    """Submit frames together and step until all is done."""
    heard = Heard()
    for frame in frames:
        heard.take(engine.submit(frame))
    while not engine.idle:
        heard.take(engine.step())
    return heard


def reference(model: ChatModel, prompt: Sequence[int], count: int, module: Any) -> list[int]:
    """What transformers' own generate gives, greedily, from a module with its own attention."""
    ids = torch.tensor([list(prompt)])
    out = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()
