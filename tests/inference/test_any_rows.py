"""Steps that take any rows: prompts are read in them beside each other, and exact requests keep to them."""

from __future__ import annotations

import attrs
import pytest
import torch
from tiny_models import Heard, ask, load, run

from mlzoo.frames import Prefilled
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.linears import InForce
from mlzoo.inference.loader import load_chat
from mlzoo.inference.pace import FIRST, STEPS, Pace
from mlzoo.inference.plan import Kernels, Plan
from mlzoo.inference.prefixes import BLOCK, Restored
from mlzoo.inference.rows import StepsLost
from mlzoo.inference.scheduler import FREE_BUDGET

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
LONG = "one two three four five six seven eight nine ten " * 10


class AnyRows:
    """Steps that take any rows: each row is computed alone, and is the same in every company."""

    def __init__(self, decoder):
        self.decoder, self.reads, self.decoded, self.there = decoder, [], [], True

    def takes_any_rows(self, _family):
        return self.there

    def digest(self, _family):
        return "steps"

    def keeps_apart(self, _family):
        return True

    def read(self, _family, rows, wanted):
        self.reads.append(len(rows.slots))
        found = self.computed(rows.slots, rows.tokens, rows.positions)
        return found[list(wanted)]

    def decode(self, _family, slots, tokens, positions, eager, *, exact):
        if exact:
            return eager()
        self.decoded.append(len(slots))
        return self.computed(slots, tokens, positions)

    def computed(self, *rows):
        return torch.cat([self.decoder._decode([slot], [token], [place], grain=1) for slot, token, place in zip(*rows)])  # noqa: B905 - they are equally long


@pytest.fixture
def model(tiny_directory):
    model = load_chat(load(tiny_directory), CPU)
    model.decoder.kernels = Kernels(Plan(many="plain", exact="plain", apart=("plain",)), InForce())
    model.decoder.graphs, model.decoder.own_products = AnyRows(model.decoder), True
    return attrs.evolve(model, fingerprint="eager", free_fingerprint="steps")


def eager(tiny_directory, *frames):
    return run(BatchEngine(load_chat(load(tiny_directory), CPU)), *frames)


def test_answers_are_those_of_eager_steps(model, tiny_directory):
    asked = ask("long", LONG), ask("short", "one"), ask("drawn", "two", seed=3)
    heard, expected = run(BatchEngine(model), *asked), eager(tiny_directory, *asked)
    assert all(isinstance(one, Prefilled) for one in heard.others)
    for frame in asked:
        assert heard.tokens(frame.request) == expected.tokens(frame.request)


def test_prompts_that_come_together_are_read_in_one_forward(model):
    run(BatchEngine(model), *(ask(str(number), "one two three") for number in range(4)))
    size = len(model.text.encode("one two three"))
    assert model.decoder.graphs.reads == [4 * size]


def test_a_long_prompt_is_read_in_small_chunks_while_rows_decode_and_in_large_ones_while_none_does(model):
    engine, steps = (
        BatchEngine(model, clock=lambda: 0.0),
        model.decoder.graphs,
    )  # Nothing is known of it then.
    run(engine, ask("alone", LONG, 1))
    size = len(model.text.encode(LONG))
    assert steps.reads == [FREE_BUDGET] * (size // FREE_BUDGET) + [size % FREE_BUDGET]
    engine.submit(ask("decodes", "one", 40))
    engine.step()
    steps.reads.clear()
    engine.submit(ask("beside", "two " + LONG, 1))
    heard = Heard()
    while not heard.rows.get("beside"):
        heard.take(engine.step())
    assert set(steps.reads[:-1]) == {FIRST}
    assert len(heard.rows["decodes"]) >= len(steps.reads) - 1  # They take turns.


def test_an_exact_request_keeps_to_the_way_in_which_it_has_begun(model):
    steps = model.decoder.graphs
    began = run(BatchEngine(model), ask("new", exact=True))
    assert (len(steps.reads), len(steps.decoded)) == (1, 11)
    told = {"exact": True, "resume": "exact", "tokens": tuple(began.tokens("new")[:5])}
    said = began.text("new", 5)
    again = run(BatchEngine(model), ask("again", **told, said=said, fingerprint="steps"))
    assert steps.reads[1:] == [steps.reads[0] + 5]  # It is read, which is fast, and has the same bits.
    assert began.tokens("new")[:5] + again.tokens("again") == began.tokens("new")
    steps.reads.clear()
    steps.decoded.clear()
    run(BatchEngine(model), ask("old", **told, said=said, fingerprint="eager"))
    assert (steps.reads, steps.decoded) == ([], [])


def test_rows_of_both_ways_decode_beside_each_other_each_in_its_own(model):
    steps, asked = model.decoder.graphs, ask("old", exact=True, fingerprint="eager")
    alone = run(BatchEngine(model), asked)
    heard = run(BatchEngine(model), asked, ask("new", exact=True), ask("fast"))
    assert heard.tokens("old") == alone.tokens("old")
    assert set(steps.decoded) == {2}


def test_what_was_decoded_is_as_exact_as_what_was_read(model):
    engine = BatchEngine(model)
    first = run(engine, ask("first", LONG, 70, exact=True))
    told = {"resume": "prefill", "tokens": tuple(first.tokens("first")[:69])}
    engine.submit(ask("second", LONG, 80, exact=True, said=first.text("first", 69), **told))
    engine.step()
    prompt = len(model.text.encode(LONG))
    assert engine._running["second"].restored == Restored((prompt + 69) // BLOCK * BLOCK, exact=True)


def test_a_prompt_that_fails_does_so_alone(model, monkeypatch):
    steps = model.decoder.graphs
    read, bad = steps.read, model.text.encode("zzz")[0]

    def fragile(family, rows, wanted):
        if bad in rows.tokens:
            raise MemoryError
        return read(family, rows, wanted)

    monkeypatch.setattr(steps, "read", fragile)
    heard = run(BatchEngine(model), ask("good"), ask("bad", "zzz"), ask("better"))
    assert [frame.request for frame in heard.others] == ["bad"]
    assert len(heard.tokens("good")) == len(heard.tokens("better")) == 12


def test_steps_that_are_lost_end_the_process_rather_than_change_a_bit(model):
    engine = BatchEngine(model)
    engine.submit(ask("r", exact=True))
    engine.step()
    model.decoder.graphs.there = False
    with pytest.raises(StepsLost):
        engine.step()
    with pytest.raises(StepsLost):
        BatchEngine(model).submit(ask("new", exact=True))


def test_fast_requests_go_on_without_them_and_leave_nothing_to_others(model):
    engine = BatchEngine(model)
    engine.submit(ask("r", LONG))
    while not engine.step():
        pass
    model.decoder.graphs.there = False
    heard = run(engine)
    assert heard.rows["r"][-1].finish_reason == "length"
    again = run(engine, ask("again", LONG, 1, exact=True, fingerprint="eager"))
    assert again.rows["again"][0].cached_tokens == 0


def test_a_token_that_the_model_does_not_know_is_that_request_s_fault_alone(model):
    lacking = attrs.evolve(model, known_tokens=model.text.encode("zzz")[0])
    heard = run(BatchEngine(lacking), ask("strange", "zzz"), ask("good", "a", 2))
    (refused,) = heard.others
    assert (refused.request, refused.code) == ("strange", -32602)
    assert "does not know" in refused.message
    assert len(heard.tokens("good")) == 2


def test_layers_that_are_not_ours_take_no_rows_of_prompts(model):
    model.decoder.own_products = False
    assert not model.decoder.takes_any_rows


def test_nothing_is_free_where_a_row_depends_on_its_company(model):
    model.decoder.kernels = Kernels(Plan(many="plain", exact="plain"), InForce())
    assert not model.decoder.takes_any_rows
    assert model.decoder.steps_digest == ""


def test_between_two_steps_is_read_what_takes_as_long_as_some_of_them():
    pace = Pace()
    pace.read(256, 0.256)
    assert pace.tokens == FIRST
    pace.stepped(0.010)
    assert pace.tokens == STEPS * 10
    pace.stepped(1.0)
    assert pace.tokens < STEPS * 12, "another program had the processor for once, and more was read than rows can wait"
    for _ in range(99):
        pace.stepped(0.020)
    assert pace.tokens in range(STEPS * 20 - 1, STEPS * 20 + 1)
    for _ in range(99):
        pace.stepped(1e-6)
    assert pace.tokens == 8
