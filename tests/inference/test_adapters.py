"""Adapters by the row: what peft says with them, in any company; and nothing of one ever reaches another."""

from __future__ import annotations

import attrs
import pytest
import torch
from tiny_adapters import ATTENTION, EVERY, by_peft, save_adapter
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.frames import Prefilled, WorkFailed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
PROMPT = "the quick brown fox"
LONG = "größer " * 46  # longer than two chunks
WIDE = {"hidden_size": 96, "intermediate_size": 1536, "num_attention_heads": 6, "head_dim": 16, "num_hidden_layers": 3}
# Layers that read the same input and are one product in slots, or are one layer of their own; and a head.
TARGETS = {
    "llama": (EVERY, ("q_proj", "down_proj", "lm_head")),
    "qwen2": (EVERY, ("v_proj",)),
    "gemma2": (EVERY, ATTENTION),
    "phi3": (("qkv_proj", "gate_up_proj"), ("o_proj", "down_proj")),
    "gpt_neox": (("query_key_value", "dense"), ("dense_h_to_4h",)),
    "opt": (("q_proj", "fc1"), ("k_proj", "out_proj", "fc2")),
    "stablelm": (EVERY, ATTENTION),  # These two run one request at a time.
    "gptj": (("q_proj", "fc_in"), ("fc_out",)),
}


def with_two(directory, kind="llama", dtype="float32", targets=(EVERY, ATTENTION), **settings):
    """Load a model with the adapters one and two; return it and where the three lie."""
    base = save_causal(directory / "base", kind, **({"dtype": getattr(torch, dtype)} | settings))
    one = save_adapter(base, directory / "one", targets=targets[0])
    two = save_adapter(base, directory / "two", targets=targets[1], seed=2, r=7, lora_alpha=3, use_rslora=True)
    model = load_chat(load(base, dtype=dtype, adapters={"one": str(one), "two": str(two)}), CPU)
    return model, {"": base, "one": one, "two": two}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def wide(request, tmp_path_factory):
    return with_two(tmp_path_factory.mktemp("wide"), dtype=request.param, **WIDE)[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return with_two(tmp_path_factory.mktemp("small"))


def bits(request, adapter, prompt=PROMPT, max_tokens=20, **fields):
    sampled = {"temperature": 1.0, "top_k": 50, "seed": 3, "logprobs": True, "exact": True, **fields}
    return ask(request, prompt, max_tokens, adapter=adapter, **sampled)


def said(heard, request):
    """What a request was told, but for what did not have to be read."""
    return [attrs.evolve(row, request="", cached_tokens=0) for row in heard.rows[request]]


# --------------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("kind", TARGETS)
def test_each_row_of_a_mixed_batch_says_what_peft_says_with_its_adapter(kind, tmp_path):
    model, places = with_two(tmp_path, kind, targets=TARGETS[kind])
    engine, heard = BatchEngine(model), Heard()
    asked = {f"{name} {prompt}": (name, prompt) for prompt in (PROMPT, "one two three " * 40) for name in places}
    for request, (name, prompt) in asked.items():
        heard.take(engine.submit(ask(request, prompt, 16, adapter=name)))
        heard.take(engine.step())
    while not engine.idle:
        heard.take(engine.step())
    answers = {request: heard.tokens(request) for request in asked}
    for request, (name, prompt) in asked.items():
        if name:
            expected = by_peft(places[""], places[name], model.text.encode(prompt), 16)
            assert answers[request] == expected, (request, model.why)
    assert len({tuple(answers[f"{name} {PROMPT}"]) for name in places}) == 3
    alone = load_chat(load(places[""]), CPU)
    assert run(BatchEngine(alone), ask("r", PROMPT, 16)).tokens("r") == answers[f" {PROMPT}"]


def test_ranks_and_scales_of_a_layer_s_own_are_those_of_peft(tmp_path):
    base = save_causal(tmp_path / "base")
    one = save_adapter(
        base,
        tmp_path / "one",
        targets=r".*layers\.1\..*(q_proj|up_proj)",
        rank_pattern={"up_proj": 3},
        alpha_pattern={"layers.1.self_attn.q_proj": 32},
    )
    model = load_chat(load(base, adapters={"one": str(one)}), CPU)
    heard = run(BatchEngine(model), ask("r", PROMPT, 20, adapter="one"))
    assert heard.tokens("r") == by_peft(base, one, model.text.encode(PROMPT), 20)
    (facts,) = model.adapters.facts("")
    assert (facts.rank, facts.targets) == (4, ("q_proj", "up_proj"))


def test_in_16_bits_the_first_words_are_peft_s_as_well(tmp_path):
    model, places = with_two(tmp_path, dtype="bfloat16")
    expected = by_peft(places[""], places["one"], model.text.encode(PROMPT), 4, torch.bfloat16)
    assert run(BatchEngine(model), ask("r", PROMPT, 4, adapter="one")).tokens("r") == expected


def test_in_4_bits_an_adapter_is_computed_beside_the_base(tmp_path):
    base = save_causal(tmp_path / "base", dtype=torch.bfloat16)
    one = save_adapter(base, tmp_path / "one")
    fields = {"dtype": "bfloat16", "quantization": "int4"}
    model = load_chat(load(base, adapters={"one": str(one)}, **fields), CPU)
    heard = run(BatchEngine(model), ask("with", PROMPT, 12, adapter="one"), ask("without", PROMPT, 12))
    plain = run(BatchEngine(load_chat(load(base, **fields), CPU)), ask("without", PROMPT, 12))
    assert heard.tokens("with") != heard.tokens("without") == plain.tokens("without")


# --------------------------------------------------------------------------------------------- alone and in company


def test_exact_rows_have_the_same_bits_alone_and_in_any_company(wide):
    frames = [bits(f"r{i}", name, p, seed=i) for i, p in enumerate([PROMPT, LONG]) for name in ("", "one", "two")]
    frames = [attrs.evolve(frame, request=f"{i}") for i, frame in enumerate(frames)]
    together = run(BatchEngine(wide), *frames)
    for frame in frames:
        assert said(run(BatchEngine(wide), frame), frame.request) == said(together, frame.request), frame.request


def test_exact_rows_in_scattered_slots_have_the_same_bits(wide):
    engine, heard = BatchEngine(wide), Heard()
    frames = [bits(f"r{i}", ("one", "two", "")[i % 3], f"dog {i}", 24, seed=i) for i in range(8)]
    for frame in frames:
        heard.take(engine.submit(frame))
    for _ in range(12):
        heard.take(engine.step())
    for gone in ("r1", "r2", "r3"):
        engine.abandon(gone)
    while not engine.idle:
        heard.take(engine.step())
    for frame in (frames[0], frames[4], frames[7]):
        assert said(run(BatchEngine(wide), frame), frame.request) == said(heard, frame.request)


@pytest.mark.parametrize("exact", [False, True])
def test_reading_ahead_changes_no_answer(wide, exact, monkeypatch):
    assert wide.adapters.keeps_apart, wide.why
    frames = [
        ask(f"r{i}", "one two three " * 9, 60, adapter=name, exact=exact, logprobs=True, temperature=0.2, seed=i)
        for i, name in enumerate(("one", "two", ""))
    ]
    decoder, ahead = wide.decoder, []
    decode = decoder.decode

    def watched(slots, tokens, positions, *, exact, adapters):
        if adapters:
            ahead.append(len(slots) - len(set(slots)))
        return decode(slots, tokens, positions, exact=exact, adapters=adapters)

    monkeypatch.setattr(decoder, "decode", watched)
    heard = run(BatchEngine(wide), *frames)
    assert any(ahead) == decoder.reads_ahead(2, exact=exact, adapted=True)
    assert any(ahead) or not exact  # For a fast one it depends on the machine's kernels.
    ahead.clear()
    monkeypatch.setattr(decoder, "ahead", False)
    one_by_one = run(BatchEngine(wide), *frames)
    assert ahead
    assert not any(ahead)
    for frame in frames:
        assert said(heard, frame.request) == said(one_by_one, frame.request)


def test_what_was_interrupted_goes_on_to_the_bit_with_its_adapter(wide):
    frame = bits("r", "one", LONG)
    whole = run(BatchEngine(wide), frame).rows["r"]
    tokens = tuple(token for row in whole[:7] for token in row.tokens)
    resumed = attrs.evolve(frame, resume="exact", tokens=tokens, said="".join(row.content for row in whole[:7]))
    company = [ask("a", PROMPT, 40, adapter="two"), ask("b", PROMPT, 40)]
    assert run(BatchEngine(wide), *company, resumed).rows["r"] == whole[7:]


class Steps:
    """Steps that are compiled, as a decoder sees them: these are computed eagerly, and counted."""

    def __init__(self):
        self.rows = []

    def keeps_apart(self, _family):
        return True

    def decode(self, _family, slots, _tokens, _positions, eager, *, exact):
        self.rows.append(len(slots))
        return eager()


def test_rows_without_an_adapter_keep_their_compiled_steps_beside_those_that_have_one(small):
    model, _ = small
    steps = model.decoder.graphs = Steps()
    try:
        run(BatchEngine(model), *(ask(f"r{i}", f"dog {i}", 9, adapter=("", "one")[i % 2]) for i in range(4)))
        assert steps.rows == [2] * len(steps.rows)
        assert len(steps.rows) >= 8
        steps.rows.clear()
        run(BatchEngine(model), ask("r", PROMPT, 9, adapter="two"))
        assert steps.rows == []
    finally:
        model.decoder.graphs = None


def test_who_would_depend_on_company_is_not_called_exact_and_reads_nothing_ahead(tmp_path, monkeypatch):
    base = save_causal(tmp_path / "base")
    one = save_adapter(base, tmp_path / "one")
    found = {}

    def grain(module, rows):
        found[type(module).__name__] = rows
        return None if isinstance(module, torch.nn.ModuleList) else 1

    monkeypatch.setattr("mlzoo.inference.kernels.row_grain", grain)
    model = load_chat(load(base, adapters={"one": str(one)}), CPU)
    assert "ModuleList" in found
    assert [facts.fingerprint for facts in model.adapters.facts("of the model")] == [""]
    assert "may depend on their company" in " ".join(model.why)
    assert model.decoder.reads_ahead(1, exact=True)
    assert not model.decoder.reads_ahead(1, exact=True, adapted=True)


# --------------------------------------------------------------------------------------------- what is kept


def test_what_was_read_with_one_adapter_is_never_used_with_another_or_none(wide):
    engine = BatchEngine(wide)
    for name in ("one", "two", ""):
        fresh = run(BatchEngine(wide), bits("r", name, LONG + "one two"))
        cold = run(engine, bits("r", name, LONG + "one two"))
        assert cold.rows["r"][0].cached_tokens == 0
        assert said(cold, "r") == said(fresh, "r")
    for name in ("one", "two", ""):
        warm = run(engine, bits("r", name, LONG + "one two"))
        assert warm.rows["r"][0].cached_tokens == 256
        assert said(warm, "r") == said(run(BatchEngine(wide), bits("r", name, LONG + "one two")), "r")


def test_forgetting_and_lack_of_room_reach_what_was_kept_with_adapters(small):
    model, _ = small
    engine = BatchEngine(model)
    run(engine, ask("r", LONG, 2, adapter="one"), ask("s", LONG, 2))
    engine.forget()
    heard = run(engine, ask("r", LONG, 2, adapter="one"))
    assert heard.rows["r"][0].cached_tokens == 0
    assert any(isinstance(told, Prefilled) for told in heard.others)


# --------------------------------------------------------------------------------------------- who has which


def test_an_adapter_that_is_not_there_is_refused_with_those_that_are(small, tiny):
    (refused,) = BatchEngine(small[0]).submit(ask("r", adapter="three"))
    assert isinstance(refused, WorkFailed)
    assert (refused.code, refused.data["path"], refused.data["expected"]) == (-32602, "adapter", "one of one, two")
    (refused,) = BatchEngine(tiny).submit(ask("r", adapter="one"))
    assert (refused.code, refused.data["expected"]) == (-32602, "none")


def test_what_is_told_of_an_adapter_is_what_it_is(small):
    model, places = small
    one, two = model.adapters.facts("of the model")
    assert (one.name, one.rank, two.name, two.rank) == ("one", 4, "two", 7)
    assert (set(one.targets), set(two.targets)) == (set(EVERY), set(ATTENTION))
    assert one.size_bytes == sum(4 * 4 * (a + b) for a, b in SHAPES)
    assert len({one.digest, two.digest, one.fingerprint, two.fingerprint}) == 4
    again = load_chat(load(places[""], adapters={"other": str(places["one"])}), CPU).adapters.facts("of the model")
    assert [(facts.name, facts.digest, facts.fingerprint) for facts in again] == [
        ("other", one.digest, one.fingerprint)
    ]


SHAPES = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)] * 2  # inputs, outputs of each layer
