"""A request that was interrupted anywhere goes on as if nothing had happened, and says nothing twice."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.frames import Prefilled, Replayed, Stepped, WorkFailed
from mlzoo.inference import kernels, plan
from mlzoo.inference.engine import REPLAYED_AT_ONCE, BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
WIDE = {"hidden_size": 96, "intermediate_size": 1536, "num_attention_heads": 6, "head_dim": 16, "num_hidden_layers": 3}
PROMPT = "größer " * 40  # longer than a chunk
TOKENS = 24


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request, tmp_path_factory):
    directory = save_causal(tmp_path_factory.mktemp("resume"), dtype=getattr(torch, request.param), **WIDE)
    return load_chat(load(directory, dtype=request.param), CPU)


def cut(frame, rows, resume="exact"):
    """Return a frame that goes on after some rows, as the log has them."""
    tokens = tuple(token for row in rows for token in row.tokens)
    return attrs.evolve(frame, resume=resume, tokens=tokens, said="".join(row.content for row in rows))


def check_cut(model, frame, at, resume="exact"):
    """What a request says before and after a cut is what it says without one; return what it says after it."""
    whole = run(BatchEngine(model), frame).rows[frame.request]
    before, after = whole[:at], whole[at:]
    heard = run(BatchEngine(model), cut(frame, before, resume))
    assert heard.rows[frame.request] == after
    return heard


SAMPLED = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 5}
WAYS = {
    "greedy": {},
    "sampled": {**SAMPLED, "logprobs": True, "top_logprobs": 2},
    "with a repetition penalty": {**SAMPLED, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", [1, 7, 23])
def test_what_is_decoded_again_goes_on_to_the_bit(model, way, at):
    check_cut(model, ask("r", PROMPT, TOKENS, **WAYS[way]), at)


def test_it_goes_on_to_the_bit_in_another_company_and_another_slot(model):
    frames = [ask(f"r{i}", f"one {i} " * (i + 1), TOKENS, temperature=1.0, seed=i, exact=True) for i in range(5)]
    whole = {f.request: run(BatchEngine(model), f).rows[f.request] for f in frames}
    mixed = [cut(f, whole[f.request][: 3 * i]) if i else f for i, f in enumerate(frames)]
    heard = run(BatchEngine(model), ask("other", "dog", 9), *reversed(mixed))
    for i, frame in enumerate(frames):
        assert heard.rows[frame.request] == whole[frame.request][3 * i :]


def test_it_can_be_interrupted_again_and_again(model):
    frame = ask("r", PROMPT, TOKENS, **SAMPLED)
    whole = run(BatchEngine(model), frame).rows["r"]
    rows = []
    for _ in range(6):
        engine, heard = BatchEngine(model), Heard()
        heard.take(engine.submit(cut(frame, rows) if rows else frame))
        while len(heard.rows.get("r", ())) < 3:
            heard.take(engine.step())
        rows += heard.rows["r"]
    assert rows == whole[: len(rows)]


def test_read_as_a_prompt_it_goes_on_with_what_is_certain_and_repeats_nothing(model):
    frame = ask("r", PROMPT, TOKENS, **SAMPLED)
    whole = run(BatchEngine(model), frame)
    rows = whole.rows["r"][:9]
    heard = run(BatchEngine(model), cut(frame, rows, "prefill"))
    assert len(heard.tokens("r")) == TOKENS - 9
    assert heard.rows["r"][0].prompt_tokens is None
    tokens = [token for row in rows for token in row.tokens] + heard.tokens("r")
    assert "".join(row.content for row in rows) + heard.text("r") == model.text.decode(tokens)
    (read, *_) = [frame for frame in heard.others if isinstance(frame, Prefilled)]
    assert read.total == len(model.text.encode(PROMPT)) + 9
    if model.dtype == torch.float32:
        assert tokens == whole.tokens("r")


@given(
    at=st.integers(1, 19),
    start=st.integers(0, 25),
    length=st.integers(1, 6),
    resume=st.sampled_from(["exact", "prefill"]),
)
@settings(max_examples=20, deadline=None)
def test_a_stop_string_is_found_wherever_the_cut_is(tiny, at, start, length, resume):
    free = run(BatchEngine(tiny), ask("r", max_tokens=20)).text("r")
    stop = free[start : start + length]
    frame = ask("r", max_tokens=20, stop=(stop,) if stop else ())
    if at < len(run(BatchEngine(tiny), frame).rows["r"]):
        check_cut(tiny, frame, at, resume)


@pytest.mark.parametrize("resume", ["exact", "prefill"])
def test_a_character_whose_bytes_lie_on_both_sides_of_the_cut_comes_whole(tiny, resume):
    cuts = 0
    for seed in range(40):
        frame = ask("r", "日本語", 16, temperature=2.0, seed=seed)
        rows = run(BatchEngine(tiny), frame).rows["r"]
        held = [at for at in range(1, len(rows)) if not rows[at - 1].content and rows[at].content]
        for at in held[:1]:
            check_cut(tiny, frame, at, resume)
            cuts += 1
    assert cuts > 5


def test_what_is_decoded_again_is_told_as_progress_and_not_said(tiny):
    frame = ask("r", "one two", 3 * REPLAYED_AT_ONCE)
    heard = check_cut(tiny, frame, 2 * REPLAYED_AT_ONCE + 3)
    told = [(f.done, f.total) for f in heard.others if isinstance(f, Replayed)]
    total = 2 * REPLAYED_AT_ONCE + 3
    assert told == [(0, total), (REPLAYED_AT_ONCE, total), (2 * REPLAYED_AT_ONCE, total)]


def test_a_request_that_is_given_up_while_it_is_decoded_again_leaves_at_once(tiny):
    frame = ask("r", "one two", 40)
    rows = run(BatchEngine(tiny), frame).rows["r"]
    engine = BatchEngine(tiny)
    assert engine.submit(cut(frame, rows[:30])) == []
    for _ in range(3):
        assert not any(isinstance(said, Stepped) for said in engine.step())
    engine.abandon("r")
    assert engine.idle


def test_what_had_all_its_tokens_already_only_ends(tiny):
    frame = ask("r", "one two", 12)
    rows = run(BatchEngine(tiny), frame).rows["r"]
    shorter = attrs.evolve(cut(frame, rows[:8]), max_tokens=8)
    (said,) = BatchEngine(tiny).submit(shorter)
    assert isinstance(said, Stepped)
    assert (said.rows[0].tokens, said.rows[0].finish_reason, said.rows[0].prompt_tokens) == ((), "length", None)


@pytest.mark.parametrize("change", [{"said": "something else"}, {"tokens": (5, 10_000)}])
def test_tokens_that_no_longer_mean_what_was_said_are_1008(tiny, change):
    frame = attrs.evolve(ask("r", "one", 12), **{"resume": "prefill", "tokens": (5, 6), **change})
    (said,) = BatchEngine(tiny).submit(frame)
    assert isinstance(said, WorkFailed)
    assert (said.code, said.data["resumable"]) == (1008, False)


def test_a_model_that_runs_one_request_at_a_time_reads_on(tmp_path):
    model = load_chat(load(save_causal(tmp_path, "bloom"), digest="d" * 64), CPU)
    assert (model.batching, model.fingerprint) == ("serial", "")
    check_cut(model, ask("r", "one two", 12, temperature=1.0, seed=2), 5, "prefill")


def test_a_fingerprint_tells_apart_whatever_changes_bits_and_nothing_else(tiny_directory, tmp_path):
    def fingerprint(**fields):
        order = load(tiny_directory, **{"digest": "d" * 64, **fields})
        return load_chat(order, CPU, cache=tmp_path).fingerprint  # With a cache, since the fastest is found by a clock.

    plain = fingerprint()
    assert plain
    assert fingerprint(model="another name", answer_bytes=1) == plain
    others = [fingerprint(digest="e" * 64), fingerprint(dtype="bfloat16"), fingerprint(context=64)]
    assert len({plain, *others}) == 4
    assert fingerprint(digest="") == "", "of weights that nobody knows nothing is promised"
    number = torch.get_num_threads()
    torch.set_num_threads(number + 1)
    try:
        assert fingerprint() != plain
    finally:
        torch.set_num_threads(number)


def test_how_rows_are_computed_is_part_of_the_fingerprint(tiny_directory, monkeypatch):
    def fingerprint():
        return load_chat(load(tiny_directory, digest="d" * 64), CPU).fingerprint

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # Also where there is one processor.
    monkeypatch.setattr(plan, "able", lambda *_, **__: ["plain"])  # The fastest of several is found by a clock.
    monkeypatch.setattr(kernels, "row_grain", lambda *_: 2)
    monkeypatch.setattr(kernels, "query_grain", lambda *_: 2)
    monkeypatch.setattr(kernels, "joins_chunks", lambda *_: False)
    plain = fingerprint()
    assert fingerprint() == plain
    for module, name, value in (
        (kernels, "row_grain", 4),
        (kernels, "query_grain", 4),
        (kernels, "joins_chunks", True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, value=value: value)
            assert fingerprint() != plain, name
