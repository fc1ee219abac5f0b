"""Guessed tokens: what is guessed, when nothing is, and that no answer is another one by it."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Heard, ask, load, run, save_causal

from mlzoo.inference.engine import REPLAYED_AT_ONCE, BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.speculation import LONGEST, SEQUENCES, Speculation, price

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
ALONE = price(1)
SAMPLED = {"temperature": 0.2, "top_p": 0.9, "seed": 5, "logprobs": True, "top_logprobs": 3}
WAYS = {
    "greedy": {"logprobs": True, "top_logprobs": 3},
    "sampled": SAMPLED,
    "with a repetition penalty": {**SAMPLED, "repetition_penalty": 0.95},
}


def fed(tokens, then):
    """A speculation over tokens, to which others came one by one, each after a guess; and how many were guessed."""
    speculation, counts = Speculation(tokens), []
    for token in then:
        counts.append(len(speculation.guess(LONGEST, ALONE)))
        speculation.add(token)
    return speculation, counts


# ------------------------------------------------------------------------------------------------------ what is guessed


def test_what_followed_the_last_tokens_when_they_stood_last_is_guessed():
    assert Speculation([1, 2, 3, 4, 5, 6, 1, 2, 3, 7, 8, 9, 1, 2, 3]).guess(1, ALONE) == [7]


def test_three_tokens_that_stood_before_count_more_than_two_that_stood_later():
    assert Speculation([1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3]).guess(1, ALONE) == [4]


def test_where_nothing_repeats_nothing_is_guessed():
    assert Speculation(range(100)).guess(LONGEST, 0.0) == []


@pytest.mark.parametrize("count", range(3))
def test_of_too_few_tokens_nothing_is_guessed(count):
    assert Speculation([5] * count).guess(LONGEST, 0.0) == []


def test_a_repetition_is_guessed_to_go_on_beyond_its_end():
    assert Speculation([1, 2, 3] * 2).guess(LONGEST, 0.0) == [1, 2, 3, 1, 2, 3, 1]


def test_who_copies_goes_on_at_the_same_place_though_the_words_stood_elsewhere_later():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 6, 0]
    speculation, _ = fed(text, [1, 2, 3, 4, 5, 6])
    assert speculation.guess(2, 0.0) == [7, 8]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=20))
def test_what_is_guessed_is_what_a_search_from_the_end_finds_or_goes_on_with_what_was_right(before, after):
    text, source = list(before), None
    for token in [*after, None]:
        source = _found(text) if source is None else source
        if token is not None:
            source = source + 1 if source is not None and text[source] == token else None
            text.append(token)
    speculation, _ = fed(before, after)
    assert speculation.guess(1, 0.0) == ([] if source is None else [text[source]])


def _found(text):
    """Return the place after where the last three tokens, or two, stood last before the end."""
    for size in (3, 2):
        suffix = text[len(text) - size :]
        starts = [at for at in range(len(text) - size) if text[at : at + size] == suffix]
        if starts and len(text) >= size:
            return starts[-1] + size
    return None


# --------------------------------------------------------------------------------------------- when it is worth a row


def test_who_copies_is_soon_given_as_many_tokens_as_there_may_be():
    text = list(range(100))
    _, counts = fed(text, text[:20])
    assert counts[:2] == [0, 0]  # Nothing is known of where it goes.
    assert counts[-5:] == [LONGEST] * 5
    assert sum(counts) > 15 * 4


def test_who_goes_another_way_each_time_is_guessed_at_a_few_times_and_then_no_more():
    text = [token for number in range(200) for token in (1, 2, 1000 + number)]
    _, counts = fed(text[:30], text[30:])
    assert 0 < sum(counts) < 10
    assert not any(counts[30:])


def test_who_begins_to_copy_after_a_long_while_is_guessed_at_within_a_few_tokens():
    text = list(range(1000, 1100))
    free = [token for number in range(100) for token in (1, 2, 5000 + number)]
    _, counts = fed(text, free + text)
    assert sum(map(bool, counts[len(free) : len(free) + 10])) >= 3
    assert counts[-1] == LONGEST


def test_the_more_decode_the_surer_a_guess_must_be():
    prices = [price(sequences) for sequences in range(1, SEQUENCES + 1)]
    assert prices == sorted(prices)
    assert prices[-1] < 1
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 2
    guesses = [len(Speculation(text).guess(LONGEST, price(sequences))) for sequences in range(1, SEQUENCES + 1)]
    assert guesses == sorted(guesses, reverse=True)


# ------------------------------------------------------------------------------------------------- the same answers


# A small spread and one matrix for both ends: the likeliest token is often the one before.
REPEATING = {"initializer_range": 0.15, "tie_word_embeddings": True, "intermediate_size": 1024}


def loaded(directory, **fields):
    """A model without end tokens."""
    model = attrs.evolve(load_chat(load(directory, **fields), CPU), end_tokens=frozenset())
    if model.decoder.ahead and not model.decoder.reads_ahead(1, exact=True):
        pytest.skip("on this machine a row's bits depend on the number of rows: nothing is read ahead")
    return model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("repeating"), dtype=torch.bfloat16, **REPEATING)


@pytest.fixture(scope="module")
def llama(directory):
    return loaded(directory, dtype="bfloat16")


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory):
    return loaded(save_causal(tmp_path_factory.mktemp("windows"), "gemma2", **REPEATING))


@pytest.fixture(params=["llama", "gemma2"])
def model(request):
    return request.getfixturevalue(request.param)


def exact(request, prompt="one two one two one", max_tokens=60, **fields):
    return ask(request, prompt, max_tokens, exact=True, **fields)


def plain(model, *frames):
    """What is heard where nothing is read ahead."""
    model.decoder.ahead = False
    try:
        return run(BatchEngine(model), *frames)
    finally:
        model.decoder.ahead = True


def counted(model, *frames):
    """What is heard, and in how many steps."""
    engine, heard, steps = BatchEngine(model), Heard(), 0
    for frame in frames:
        heard.take(engine.submit(frame))
    while not engine.idle:
        heard.take(engine.step())
        steps += 1
    return heard, steps


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_the_same_to_the_bit_in_fewer_steps(model, way):
    frame = exact("r", **WAYS[way])
    heard, steps = counted(model, frame)
    assert heard.rows == plain(model, frame).rows
    assert steps < len(heard.tokens("r"))


def test_in_company_each_answer_is_the_one_it_is_alone(model):
    frames = [exact(f"r{i}", f"{i} two three {i} two", 40, **(SAMPLED if i % 2 else {})) for i in range(4)]
    heard, steps = counted(model, *frames)
    assert steps < len(frames) + 40
    for frame in frames:
        assert heard.rows[frame.request] == plain(model, frame).rows[frame.request]


def test_more_than_a_few_together_read_nothing_ahead(llama):
    frames = [exact(f"r{i}", max_tokens=30) for i in range(SEQUENCES + 1)]
    heard, steps = counted(llama, *frames)
    assert steps >= 30
    assert heard.rows == plain(llama, *frames).rows


def test_at_the_end_of_the_context_nothing_is_read_beyond_it(directory):
    model = loaded(directory, dtype="bfloat16", context=64)
    frame = exact("r", max_tokens=None)
    heard, steps = counted(model, frame)
    assert heard.rows == plain(model, frame).rows
    assert len(heard.tokens("r")) + heard.rows["r"][0].prompt_tokens == 64
    assert steps < len(heard.tokens("r"))


def test_no_more_tokens_come_than_are_wanted(llama):
    tokens = plain(llama, exact("r")).tokens("r")
    for count in range(1, 40, 6):
        heard = run(BatchEngine(llama), exact("r", max_tokens=count))
        assert heard.tokens("r") == tokens[:count]
        assert heard.rows["r"][-1].finish_reason == "length"


@given(st.integers(0, 50), st.integers(1, 7))
@settings(max_examples=6, deadline=None)
def test_a_stop_string_ends_an_answer_wherever_it_lies(llama, start, length):
    stop = run(BatchEngine(llama), exact("r")).text("r")[start : start + length]
    frame = exact("r", stop=(stop,) if stop else ())
    assert counted(llama, frame)[0].rows == plain(llama, frame).rows


def test_an_end_token_among_the_guessed_ends_an_answer(llama):
    tokens = run(BatchEngine(llama), exact("r")).tokens("r")
    for at, token in enumerate(tokens[:40:3]):
        if token not in tokens[: 3 * at]:
            model = attrs.evolve(llama, end_tokens=frozenset({token}))
            assert counted(model, exact("r"))[0].rows == plain(model, exact("r")).rows


def test_what_was_guessed_wrong_is_in_no_prefix_that_is_kept(llama):
    first, rest = exact("a", "one two three one two " * 8, **SAMPLED), " and then"
    answers = []
    for ahead in (True, False):
        llama.decoder.ahead = ahead
        try:
            engine = BatchEngine(llama)
            said = run(engine, first).text("a")
            heard = run(engine, ask("b", first.prompt + said + rest, 20, logprobs=True))
        finally:
            llama.decoder.ahead = True
        assert heard.rows["b"][0].cached_tokens > 0
        answers.append(heard.rows)
    assert answers[0] == answers[1]


def test_what_was_decoded_before_an_interruption_is_decoded_again_many_tokens_at_once(model):
    frame = exact("r", **SAMPLED)
    whole = plain(model, frame).rows["r"]
    at = 2 * REPLAYED_AT_ONCE + 3
    tokens, said = tuple(row.tokens[0] for row in whole[:at]), "".join(row.content for row in whole[:at])
    engine, heard, steps = BatchEngine(model), Heard(), 0
    heard.take(engine.submit(attrs.evolve(frame, resume="exact", tokens=tokens, said=said)))
    while "r" not in heard.rows:
        heard.take(engine.step())
        steps += 1
    assert steps <= 1 + -(-at // model.decoder.slots) + 2
    while not engine.idle:
        heard.take(engine.step())
    assert heard.rows["r"] == whole[at:]


def test_a_guess_whose_numbers_overflow_leaves_nothing_behind(llama, monkeypatch):
    frame = exact("r", **SAMPLED)
    expected = plain(llama, frame).rows
    prompt, answer = len(llama.text.encode(frame.prompt)), plain(llama, frame).tokens("r")
    decoder = llama.decoder
    decode, wrong = decoder.decode, []

    def overflowing(slots, tokens, positions, *, exact, adapters):
        logits = decode(slots, tokens, positions, exact=exact, adapters=adapters)
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            if answer[position - prompt] != token:
                wrong.append(row)
                logits[row] = torch.nan
                for layer in decoder.cache.layers:
                    layer.keys[slots[row] * decoder.context + position] = torch.nan
                    layer.values[slots[row] * decoder.context + position] = torch.nan
        return logits

    monkeypatch.setattr(decoder, "decode", torch.inference_mode()(overflowing))
    assert run(BatchEngine(llama), frame).rows == expected
    assert wrong


def test_speculation_can_be_switched_off_and_the_model_says_so(directory):
    model = loaded(directory, dtype="bfloat16", speculation=False)
    assert "no speculation: switched off" in model.why
    heard, steps = counted(model, exact("r"))
    assert steps == len(heard.tokens("r"))
