"""What was read before is not read again: the same bits where they are asked for, else the same text."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.frames import Prefilled, WorkFailed
from mlzoo.inference import sampler as sampler_module
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import CHUNK, load_chat
from mlzoo.inference.prefixes import BLOCK

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
WIDE = {"hidden_size": 96, "intermediate_size": 1536, "num_attention_heads": 6, "head_dim": 16, "num_hidden_layers": 3}
PERSONA = "größer " * 46  # longer than two chunks


@pytest.fixture(scope="module", params=["llama float32", "llama bfloat16", "gemma3_text bfloat16"])
def model(request, tmp_path_factory):
    kind, dtype = request.param.split()
    directory = save_causal(tmp_path_factory.mktemp("prefix"), kind, dtype=getattr(torch, dtype), **WIDE)
    return load_chat(load(directory, dtype=dtype), CPU)


def exact(request, prompt, max_tokens=12, **fields):
    sampled = {"temperature": 1.0, "top_k": 50, "seed": 3, "logprobs": True, **fields}
    return attrs.evolve(ask(request, prompt, max_tokens, **sampled), exact=True)


def said(heard, request):
    """What a request was told, but for what did not have to be read."""
    return [attrs.evolve(row, request="", cached_tokens=0) for row in heard.rows[request]]


def cached(heard, request):
    return heard.rows[request][0].cached_tokens


def size(model, prompt):
    return len(model.text.encode(prompt))


def test_an_exact_request_gets_the_same_bits_from_what_was_read_before(model):
    assert size(model, PERSONA) > 256
    engine = BatchEngine(model)
    cold = run(engine, exact("cold", PERSONA + "one two"))
    assert cached(cold, "cold") == 0
    warm = run(engine, exact("warm", PERSONA + "one two"))
    assert cached(warm, "warm") == 256
    assert said(warm, "warm") == said(cold, "cold")
    question = exact("other", PERSONA + "three four five", seed=8)
    fresh = run(BatchEngine(model), question)
    assert said(run(engine, question), "other") == said(fresh, "other")


def test_in_another_slot_beside_others_and_after_an_eviction_the_bits_are_the_same(model):
    engine = BatchEngine(attrs.evolve(model, prefix_bytes=16 * BLOCK * model.decoder.cache.line_bytes()))
    frame = exact("r", PERSONA + "one two")
    cold = said(run(engine, frame), "r")
    heard = Heard()
    for i in range(3):
        heard.take(engine.submit(ask(f"other{i}", f"dog {i}", 30)))
    for _ in range(5):
        heard.take(engine.step())
    heard.take(engine.submit(frame))
    while not engine.idle:
        heard.take(engine.step())
    assert (cached(heard, "r"), said(heard, "r")) == (256, cold)
    flood = run(engine, *(ask(f"flood{i}", f"{i} lazy dogs jump " * 20, 2) for i in range(3)))
    assert not flood.others or all(isinstance(told, Prefilled) for told in flood.others)
    after = run(engine, frame)
    assert (cached(after, "r"), said(after, "r")) == (0, cold)


def test_an_exact_request_does_not_use_what_was_decoded_or_read_in_part(model):
    engine = BatchEngine(model)
    first = run(engine, ask("first", PERSONA, 120))
    history = PERSONA + first.text("first")
    frame = exact("exact", history + " and")
    fresh = run(BatchEngine(model), frame)
    after = run(engine, frame)
    assert cached(after, "exact") == 256
    assert said(after, "exact") == said(fresh, "exact")


def test_what_was_read_after_something_inexact_is_not_exact_either(model):
    engine = BatchEngine(model)
    begun = tuple(model.text.encode(PERSONA)[: 128 + BLOCK])
    text = model.text.decode(begun)
    assert tuple(model.text.encode(text)) == begun
    run(engine, ask("part", text, 1))
    fast = run(engine, ask("fast", PERSONA + "größer " * 20, 1))
    assert cached(fast, "fast") == 128 + BLOCK
    frame = exact("exact", PERSONA + "größer " * 20)
    after = run(engine, frame)
    assert cached(after, "exact") == 128
    assert said(after, "exact") == said(run(BatchEngine(model), frame), "exact")


def test_a_resumed_exact_request_reads_its_prompt_from_what_is_kept(model):
    engine = BatchEngine(model)
    frame = exact("r", PERSONA + "one two")
    whole = run(engine, frame).rows["r"]
    tokens = tuple(token for row in whole[:5] for token in row.tokens)
    resumed = attrs.evolve(frame, resume="exact", tokens=tokens, said="".join(row.content for row in whole[:5]))
    heard = run(engine, resumed)
    assert heard.rows["r"] == whole[5:]
    assert [told.done for told in heard.others if isinstance(told, Prefilled)] == []


def test_the_last_token_of_a_prompt_is_always_read(tiny):
    tokens = tiny.text.encode("one two " * 200)
    prompt = tiny.text.decode(tokens[:256])
    assert size(tiny, prompt) == 256
    engine = BatchEngine(tiny)
    cold = run(engine, ask("cold", prompt))
    fast = run(engine, ask("fast", prompt), exact("exact", prompt))
    assert (cached(fast, "fast"), cached(fast, "exact")) == (256 - BLOCK, 256 - CHUNK)
    assert fast.tokens("fast") == cold.tokens("cold")


def test_the_next_turn_of_a_conversation_uses_what_was_decoded(tiny):
    engine = BatchEngine(tiny)
    question = "one two three"
    first = run(engine, ask("first", question, 80))
    history = question + first.text("first")
    again = tuple(tiny.text.encode(history))
    spoken = (*tiny.text.encode(question), *first.tokens("first"))
    shared = next((at for at, (a, b) in enumerate(zip(again, spoken, strict=False)) if a != b), len(spoken))
    second = run(engine, ask("second", history + " and"))
    assert cached(second, "second") == min(shared, len(spoken) - 1) // BLOCK * BLOCK
    fresh = run(BatchEngine(tiny), ask("second", history + " and"))
    assert second.tokens("second") == fresh.tokens("second")


def test_requests_that_come_together_share_their_beginning(tiny):
    heard = run(BatchEngine(tiny), *(ask(f"r{i}", PERSONA + f"number {i}", 3) for i in range(3)))
    assert cached(heard, "r0") == 0
    assert cached(heard, "r1") == cached(heard, "r2") >= 256


def test_copies_stay_within_their_bytes(tiny):
    block_bytes = BLOCK * tiny.decoder.cache.line_bytes()
    engine = BatchEngine(attrs.evolve(tiny, prefix_bytes=5 * block_bytes + 1))
    for i in range(6):
        run(engine, ask("r", f"{i} lazy dogs " * 20, 40))
        assert 0 < engine._seats.prefixes.size_bytes() <= 5 * block_bytes + 1
    assert len(engine._seats.prefixes) == 5


def test_a_model_without_room_for_copies_reads_everything(tiny):
    for room in (0, 1):
        engine = BatchEngine(attrs.evolve(tiny, prefix_bytes=room))
        heard = [run(engine, ask("r", PERSONA, 2)) for _ in range(2)]
        assert [cached(one, "r") for one in heard] == [0, 0]


def test_abandoned_requests_leave_no_more_than_what_they_have_shown_to_be_good(tiny):
    engine = BatchEngine(tiny)
    engine.submit(ask("half", PERSONA))
    engine.step()
    engine.abandon("half")
    assert len(engine._seats.prefixes) == 0
    heard = Heard()
    engine.submit(ask("decodes", PERSONA, 100))
    while len(heard.rows.get("decodes", ())) < 60:
        heard.take(engine.step())
    engine.abandon("decodes")
    assert len(engine._seats.prefixes) == size(tiny, PERSONA) // BLOCK


def test_a_row_whose_numbers_are_none_leaves_nothing(tiny, monkeypatch):
    expected = run(BatchEngine(tiny), ask("r", PERSONA))
    engine = BatchEngine(tiny)
    decoder = type(tiny.decoder)
    prefill = decoder.prefill

    def poisoned(self, slot, tokens, start, _images, **_adapter):
        logits = prefill(self, slot, tokens, start)
        with torch.inference_mode():
            self.cache.layers[0].keys[slot * self.context] = math.nan
        return logits * math.nan

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "prefill", poisoned)
        (failed,) = [told for told in run(engine, ask("r", PERSONA)).others if isinstance(told, WorkFailed)]
    assert failed.code == -32603
    assert len(engine._seats.prefixes) == 0
    assert run(engine, ask("r", PERSONA)).tokens("r") == expected.tokens("r")


def test_nothing_is_kept_of_an_ephemeral_request_which_may_use_what_others_left(tiny):
    engine = BatchEngine(tiny)
    secret = PERSONA + "lazy dog"
    fresh = run(engine, ask("secret", secret, 80, ephemeral=True))
    assert len(engine._seats.prefixes) == 0
    assert all(not layer.keys[: tiny.decoder.context].any() for layer in tiny.decoder.cache.layers)
    run(engine, ask("open", PERSONA, 3))
    kept = len(engine._seats.prefixes)
    again = run(engine, ask("secret", secret, 80, ephemeral=True))
    assert cached(again, "secret") == kept * BLOCK > 0
    assert again.tokens("secret") == fresh.tokens("secret")
    assert len(engine._seats.prefixes) == kept
    engine.submit(ask("cancelled", secret, 80, ephemeral=True))
    for _ in range(6):
        engine.step()
    engine.abandon("cancelled")
    assert len(engine._seats.prefixes) == kept
    assert all(not layer.keys[: tiny.decoder.context].any() for layer in tiny.decoder.cache.layers)


def test_once_something_is_to_be_forgotten_nothing_is_kept_of_what_was_before_or_ran_meanwhile(tiny):
    engine = BatchEngine(tiny)
    run(engine, ask("forgotten", PERSONA, 3))
    heard = Heard()
    engine.submit(ask("running", "one two three four five six seven " * 3, 60))
    for _ in range(20):
        heard.take(engine.step())
    assert len(engine._seats.prefixes) > 0
    engine.forget()
    assert len(engine._seats.prefixes) == 0
    while not engine.idle:
        heard.take(engine.step())
    again = run(engine, ask("again", PERSONA, 3), ask("turn", "one two three four five six seven " * 3, 3))
    assert cached(again, "again") == 0
    assert cached(again, "turn") == 0, "what was forgotten may have been a part of what ran"
    assert len(heard.tokens("running")) == 60


def test_where_memory_is_short_copies_go_before_a_request_fails(tiny, monkeypatch):
    engine = BatchEngine(tiny)
    run(engine, ask("before", PERSONA))
    expected = run(BatchEngine(tiny), ask("r", "one two"))
    decoder = type(tiny.decoder)
    prefill, decode = decoder.prefill, decoder.decode

    def short(real, few):
        def forward(*args, **kwargs):
            if len(engine._seats.prefixes) > few:
                raise torch.OutOfMemoryError("out of memory")
            return real(*args, **kwargs)

        return forward

    monkeypatch.setattr(decoder, "prefill", short(prefill, 2))
    monkeypatch.setattr(decoder, "decode", short(decode, 0))
    heard = run(engine, ask("r", "one two"))
    assert heard.others == []
    assert heard.tokens("r") == expected.tokens("r")
    assert len(engine._seats.prefixes) == 0


def test_a_copy_for_which_there_is_no_memory_fails_nobody(tiny, monkeypatch):
    def fail(*_args):
        raise torch.OutOfMemoryError("out of memory")

    engine = BatchEngine(tiny)
    monkeypatch.setattr(type(tiny.decoder.cache), "copy_out", fail)
    heard = run(engine, ask("r", PERSONA, 3))
    assert len(heard.tokens("r")) == 3
    assert len(engine._seats.prefixes) == 0


def test_a_request_that_its_sampler_fails_keeps_nothing(tiny, monkeypatch):
    def fail(_logits, _draws):
        raise RuntimeError("no token")

    engine = BatchEngine(tiny)
    monkeypatch.setattr(sampler_module, "choose", fail)
    run(engine, ask("r", PERSONA))
    assert len(engine._seats.prefixes) == 0


def test_what_is_kept_and_how_much_of_it_is_said(tiny, tmp_path):
    (line,) = [reason for reason in tiny.why if reason.startswith("prefix cache")]
    assert str(tiny.prefix_bytes) in line
    serial = load_chat(load(save_causal(tmp_path, "bloom")), CPU)
    assert any(reason.startswith("no prefix cache") for reason in serial.why)
    heard = [run(engine, ask("r", "one two " * 40, 2)) for engine in [BatchEngine(serial)] * 2]
    assert [cached(one, "r") for one in heard] == [0, 0]
