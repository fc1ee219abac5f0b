"""The engine with a tiny random model: what is said of a request, and that requests end alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.frames import Prefilled, Stepped, WorkFailed
from mlzoo.inference import sampler as sampler_module
from mlzoo.inference.cache import SPARED_BYTES
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


def test_text_is_what_the_tokens_decode_to_and_usage_comes_first(tiny):
    heard = run(BatchEngine(tiny), ask("r", "one two", 10))
    rows = heard.rows["r"]
    assert heard.text("r") == tiny.text.decode(heard.tokens("r"))
    assert rows[0].prompt_tokens == len(tiny.text.encode("one two"))
    assert all(row.prompt_tokens is None for row in rows[1:])
    assert [row.finish_reason for row in rows] == [None] * 9 + ["length"]


def test_messages_go_through_the_chat_template(tiny):
    messages = ({"role": "user", "content": "one"},)
    plain = run(BatchEngine(tiny), ask("r", "<|start|>user\none<|end|>\n<|start|>assistant\n"))
    assert run(BatchEngine(tiny), ask("r", messages=messages)).tokens("r") == plain.tokens("r")
    parts = ({"role": "user", "content": [{"type": "text", "text": "on"}, {"type": "text", "text": "e"}]},)
    assert run(BatchEngine(tiny), ask("r", messages=parts)).tokens("r") == plain.tokens("r")


def test_an_end_token_ends_an_answer_with_stop_and_leaves_no_text(tiny):
    free = run(BatchEngine(tiny), ask("r", max_tokens=10))
    ending = free.tokens("r")[4]
    model = attrs.evolve(tiny, end_tokens=frozenset({ending, -1}))
    heard = run(BatchEngine(model), ask("r", max_tokens=10))
    first = free.tokens("r").index(ending)
    assert heard.tokens("r") == free.tokens("r")[: first + 1]
    assert heard.rows["r"][-1].finish_reason == "stop"
    assert heard.text("r") == tiny.text.decode(free.tokens("r")[:first])


@given(st.integers(0, 30), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_stop_string_ends_the_text_before_it_wherever_tokens_begin(tiny, start, length):
    free = run(BatchEngine(tiny), ask("r", max_tokens=20)).text("r")
    stop = free[start : start + length]
    heard = run(BatchEngine(tiny), ask("r", max_tokens=20, stop=(stop,) if stop else ()))
    if stop:
        assert heard.text("r") == free[: free.index(stop)]
        assert heard.rows["r"][-1].finish_reason == "stop"
    else:
        assert heard.text("r") == free


def test_without_max_tokens_an_answer_may_fill_the_context(tiny_directory):
    model = load_chat(load(tiny_directory, context=64), CPU)
    heard = run(BatchEngine(model), ask("r", "one two three", None))
    prompt = len(model.text.encode("one two three"))
    assert len(heard.tokens("r")) + prompt == 64
    assert heard.rows["r"][-1].finish_reason == "length"


def test_no_tokens_asked_for_is_an_answer_of_none(tiny):
    engine = BatchEngine(tiny)
    (said,) = engine.submit(ask("r", "one two", 0))
    assert isinstance(said, Stepped)
    assert (said.rows[0].tokens, said.rows[0].finish_reason) == ((), "length")
    assert said.rows[0].prompt_tokens == len(tiny.text.encode("one two"))
    assert engine.idle


def test_an_empty_prompt_begins_with_the_models_first_token(tiny):
    heard = run(BatchEngine(tiny), ask("r", "", 3))
    assert heard.rows["r"][0].prompt_tokens == 1
    assert len(heard.tokens("r")) == 3


def test_a_prompt_longer_than_the_context_is_1006_with_limit_and_got(tiny):
    (said,) = BatchEngine(tiny).submit(ask("r", "one two " * 600))
    assert isinstance(said, WorkFailed)
    assert said.code == 1006
    assert said.data["limit"] == tiny.decoder.context
    assert said.data["got"] == len(tiny.text.encode("one two " * 600))


def test_messages_that_a_template_refuses_are_32602_with_its_words_as_detail(tiny):
    (said,) = BatchEngine(tiny).submit(ask("r", messages=({"role": "wizard", "content": "x"},)))
    assert isinstance(said, WorkFailed)
    assert said.code == -32602
    assert said.detail == "roles are user, assistant, system"


def test_a_model_without_a_template_cannot_chat_but_completes(tmp_path):
    model = load_chat(load(save_causal(tmp_path, template=None)), CPU)
    (said,) = BatchEngine(model).submit(ask("r", messages=({"role": "user", "content": "x"},)))
    assert isinstance(said, WorkFailed)
    assert said.code == 1010
    assert len(run(BatchEngine(model), ask("r", "x", 2)).tokens("r")) == 2


def test_an_image_is_not_read_by_a_model_of_text(tiny):
    content = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    (said,) = BatchEngine(tiny).submit(ask("r", messages=({"role": "user", "content": content},)))
    assert isinstance(said, WorkFailed)
    assert (said.code, said.data["feature"]) == (1010, "vision")


def test_more_requests_than_rows_wait_their_turn(tiny):
    frames = [ask(f"r{i}", f"one {i}", 3) for i in range(20)]
    heard = run(BatchEngine(tiny), *frames)
    assert all(len(heard.tokens(frame.request)) == 3 for frame in frames)


def test_what_is_interactive_is_told_before_a_batch_whose_prompt_was_half_read(tiny):
    alone = run(BatchEngine(tiny), ask("batch", "one two three " * 30, 3))
    engine, heard = BatchEngine(attrs.evolve(tiny, prefix_bytes=0)), Heard()
    heard.take(engine.submit(ask("batch", "one two three " * 30, 3, batch=True)))
    heard.take(engine.step())
    heard.take(engine.submit(ask("now", "two", 3)))
    while not engine.idle:
        heard.take(engine.step())
    assert list(heard.rows) == ["now", "batch"]
    assert heard.tokens("batch") == alone.tokens("batch")


def test_an_abandoned_row_is_silent_and_the_others_go_on(tiny):
    engine, heard = BatchEngine(tiny), Heard()
    for i in range(3):
        engine.submit(ask(f"r{i}", max_tokens=10))
    for _ in range(4):
        heard.take(engine.step())
    before = len(heard.rows["r1"])
    engine.abandon("r1")
    engine.abandon("unknown")
    while not engine.idle:
        heard.take(engine.step())
    assert len(heard.rows["r1"]) == before
    assert len(heard.rows["r0"]) == len(heard.rows["r2"]) == 10


def test_a_prompt_can_be_abandoned_between_its_chunks(tiny):
    engine = BatchEngine(tiny)
    engine.submit(ask("long", "one two three " * 30))
    (said,) = engine.step()
    assert isinstance(said, Prefilled)
    assert 0 < said.done < said.total
    engine.abandon("long")
    assert engine.idle
    assert engine.step() == []


def test_a_row_whose_logits_are_not_numbers_fails_alone_and_leaves_nothing_behind(tiny, monkeypatch):
    expected = run(BatchEngine(tiny), ask("good", "one"), ask("later", "two", seed=1))
    engine, heard = BatchEngine(tiny), Heard()
    engine.submit(ask("bad", "x y z " * 4))
    engine.submit(ask("good", "one"))
    written = len(tiny.text.encode("x y z " * 4))
    assert written > len(tiny.text.encode("two"))
    heard.take(engine.step())
    decode = tiny.decoder.decode

    def poisoned(slots, tokens, positions, **how):
        with torch.inference_mode():
            for layer in tiny.decoder.cache.layers:
                layer.values[:written] = math.nan  # slot 0
        return decode(slots, tokens, positions, **how)

    monkeypatch.setattr(tiny.decoder.__class__, "decode", lambda _self, *rest, **how: poisoned(*rest, **how))
    heard.take(engine.step())
    monkeypatch.undo()
    (failed,) = heard.others
    assert isinstance(failed, WorkFailed)
    assert (failed.request, failed.code) == ("bad", -32603)
    heard.take(engine.submit(ask("later", "two", seed=1)))  # It gets the slot of the row that failed.
    while not engine.idle:
        heard.take(engine.step())
    assert heard.tokens("good") == expected.tokens("good")
    assert heard.tokens("later") == expected.tokens("later")


def test_a_row_that_breaks_the_sampler_fails_alone(tiny, monkeypatch):
    choose = sampler_module.choose

    def fragile(logits, draws):
        if any(draw.sampling.seed == 666 for draw in draws):
            raise RuntimeError("seed 666")
        return choose(logits, draws)

    monkeypatch.setattr(sampler_module, "choose", fragile)
    heard = run(BatchEngine(tiny), ask("bad", seed=666), ask("good"))
    assert [(frame.request, frame.code) for frame in heard.others] == [("bad", -32603)]
    assert len(heard.tokens("good")) == 12


def test_want_of_memory_fails_the_request_that_wanted_it(tiny, monkeypatch):
    decoder = tiny.decoder.__class__
    prefill, decode = decoder.prefill, decoder.decode
    monkeypatch.setattr(decoder, "prefill", lambda *a, **how: fail() if a[2][0] == hungry else prefill(*a, **how))
    hungry = tiny.text.encode("zzz")[0]

    def fail():
        raise torch.OutOfMemoryError("out of memory")

    heard = run(BatchEngine(tiny), ask("hungry", "zzz"), ask("good"))
    assert [(frame.request, frame.code) for frame in heard.others] == [("hungry", 1005)]
    assert len(heard.tokens("good")) == 12
    wide = [2]
    monkeypatch.setattr(decoder, "decode", lambda *a, **how: fail() if len(a[1]) > wide[0] else decode(*a, **how))
    heard = run(BatchEngine(tiny), ask("a"), ask("b"), ask("youngest"))
    assert [(frame.request, frame.code) for frame in heard.others] == [("youngest", 1005)]
    assert len(heard.tokens("a")) == len(heard.tokens("b")) == 12


def test_a_broken_prompt_that_is_abandoned_half_read_leaves_nothing_behind(tiny, monkeypatch):
    expected = run(BatchEngine(tiny), ask("later", "two"))
    engine = BatchEngine(tiny)
    prefill = tiny.decoder.prefill

    def poisoned(slot, tokens, start, _images, **_adapter):
        logits = prefill(slot, tokens, start)
        with torch.inference_mode():
            for layer in tiny.decoder.cache.layers:
                layer.values[slot * tiny.decoder.context + start :][: len(tokens)] = math.nan
        return logits

    monkeypatch.setattr(tiny.decoder.__class__, "prefill", lambda _self, *rest, **how: poisoned(*rest, **how))
    engine.submit(ask("bad", "one two three " * 30))
    engine.step()
    monkeypatch.undo()
    engine.abandon("bad")
    heard = run(engine, ask("later", "two"))  # It gets the slot of the one that was abandoned.
    tiny.decoder.forget(0, 0, tiny.decoder.context)  # Other tests have these slots as well.
    assert heard.others == []
    assert heard.tokens("later") == expected.tokens("later")


def test_want_of_memory_in_a_step_ends_nobody_who_has_no_part_in_it(tiny, monkeypatch):
    decoder = tiny.decoder.__class__
    decode = decoder.decode
    engine, heard = BatchEngine(tiny), Heard()
    for request in ("elder", "younger"):
        heard.take(engine.submit(ask(request)))
    heard.take(engine.step())
    heard.take(engine.submit(ask("reads", "one two three " * 30, 2)))
    heard.take(engine.submit(ask("waits", "one two three", 2)))
    short = ["once"]

    def fail_once(*given, **how):
        if short:
            short.pop()
            raise MemoryError
        return decode(*given, **how)

    monkeypatch.setattr(decoder, "decode", fail_once)
    while not engine.idle:
        heard.take(engine.step())
    failed = [frame for frame in heard.others if isinstance(frame, WorkFailed)]
    assert [(frame.request, frame.code) for frame in failed] == [("younger", 1005)]
    assert {request: len(heard.tokens(request)) for request in ("elder", "reads", "waits")} == {
        "elder": 12,
        "reads": 2,
        "waits": 2,
    }


def test_want_of_memory_does_not_take_more_of_it(tiny, monkeypatch):
    cleared = []
    monkeypatch.setattr(tiny.decoder.__class__, "forget", lambda _self, *where: cleared.append(where))

    def fail(*_given, **_how):
        raise MemoryError

    monkeypatch.setattr(tiny.decoder.__class__, "prefill", fail)
    heard = run(BatchEngine(tiny), ask("r", "one"))
    assert [frame.code for frame in heard.others] == [1005]
    ((slot, start, stop),) = cleared
    assert (slot, start) == (0, 0)
    assert stop <= len(tiny.text.encode("one")) + tiny.decoder.slots


@pytest.fixture
def machine(tiny, monkeypatch):
    """The machine's free memory, as the slots see it, none of which were written so far."""
    cache = tiny.decoder.cache
    cache._reserved = [0] * cache.slots
    machine = SimpleNamespace(free_bytes=1 << 40)
    monkeypatch.setattr(cache, "free_bytes", lambda: machine.free_bytes)
    yield machine
    cache._reserved = [cache.size] * cache.slots
    for slot in range(cache.slots):
        tiny.decoder.forget(slot, 0, cache.size)  # Other tests have these slots as well.


def test_a_slot_that_would_take_the_machines_last_memory_fails_alone_and_before_it_is_touched(tiny, machine):
    engine, heard = BatchEngine(tiny), Heard()
    heard.take(engine.submit(ask("elder")))
    heard.take(engine.step())
    machine.free_bytes = SPARED_BYTES + 10
    written = [layer.keys[tiny.decoder.context :].count_nonzero() for layer in tiny.decoder.cache.layers]
    heard.take(engine.submit(ask("younger")))
    while not engine.idle:
        heard.take(engine.step())
    assert [(frame.request, frame.code) for frame in heard.others] == [("younger", 1005)]
    assert len(heard.tokens("elder")) == 12
    assert [layer.keys[tiny.decoder.context :].count_nonzero() for layer in tiny.decoder.cache.layers] == written
    machine.free_bytes = 1 << 40
    assert len(run(engine, ask("later")).tokens("later")) == 12


def test_where_memory_is_short_no_copies_are_made_and_those_there_give_way(tiny, machine):
    engine = BatchEngine(tiny)
    long = "one two three four " * 40
    expected = run(engine, ask("first", long)).tokens("first")
    assert len(engine._seats.prefixes) > 1
    machine.free_bytes = 0  # What was reserved may be used; nothing is copied any more.
    while len(engine._seats.prefixes):
        assert run(engine, ask("again", long)).tokens("again") == expected
    assert run(engine, ask("again", long)).tokens("again") == expected
    assert len(engine._seats.prefixes) == 0


def test_an_unexpected_failure_of_a_step_is_not_swallowed(tiny, monkeypatch):
    def fail(*_args, **_how):
        raise RuntimeError("kernel broke")

    monkeypatch.setattr(tiny.decoder.__class__, "decode", fail)
    with pytest.raises(RuntimeError, match="kernel broke"):
        run(BatchEngine(tiny), ask("r"))


def test_logprobs_come_with_each_token(tiny):
    heard = run(BatchEngine(tiny), ask("r", max_tokens=5, logprobs=True, top_logprobs=3))
    for row in heard.rows["r"]:
        (entry,) = row.logprobs
        assert entry.top[0] == (entry.token, entry.logprob)
        assert [value for _, value in entry.top] == sorted((value for _, value in entry.top), reverse=True)


def test_the_position_of_a_draw_counts_the_prompt_so_that_a_continued_text_goes_on_the_same(tiny):
    whole = run(BatchEngine(tiny), ask("r", "one two", 12, temperature=1.0, seed=5))
    begun = tiny.text.encode("one two") + tuple(whole.tokens("r")[:5])
    engine = BatchEngine(tiny)
    engine._text = type(
        "Given",
        (),
        {
            "look": lambda *_: (begun, {}),
            "decode": tiny.text.decode,
            "byte_tokens": frozenset(),
            "silent_tokens": frozenset(),
        },
    )()
    rest = run(engine, ask("r", "", 7, temperature=1.0, seed=5))
    assert rest.tokens("r") == whole.tokens("r")[5:]
