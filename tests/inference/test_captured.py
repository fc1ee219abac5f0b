"""Captured steps: what they compute, when one is recorded, compared, used and given up, and what may go wrong."""

from __future__ import annotations

import attrs
import pytest
import torch
from tape import TapeRecorder
from tiny_models import SLOTTED, ask, causal, load, run

from mlzoo.inference import captured, gate, sizing
from mlzoo.inference.captured import AFTER_STEPS, CHECKS, CapturedSteps, Shape
from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.recording import CannotRecord, breaks_off

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
PROMPTS = {0: range(40), 1: range(7), 2: range(100, 123), 3: range(5)}
ROOM_BYTES = 1000
UNRECORDABLE = ()
EXPERTS = {"mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"}


def decoder_of(kind="llama", slots=8, context=128, **settings):
    """A decoder with something in its first slots."""
    decoder = SlotDecoder(causal(kind, **settings).eval(), slots, context)
    for slot, prompt in PROMPTS.items():
        decoder.prefill(slot, list(prompt), 0)
    return decoder


def capturing(decoder, recorder=None, **how):
    """Give a decoder captured steps that are recorded when they are first wanted; return what is said as well."""
    said = []
    how = {"free_bytes": lambda: ROOM_BYTES, "after_steps": 0, "clock": lambda: 0.0, "say": said.append, **how}
    decoder.graphs = CapturedSteps(
        decoder, "tiny", recorder or TapeRecorder(), how.pop("room_bytes", ROOM_BYTES), **how
    )
    return decoder.graphs, said


def at(decoder, *places, exact=False):
    """Decode a token in each of some slots at some place."""
    slots, positions = zip(*places, strict=True)
    return decoder.decode(slots, [9 + position % 50 for position in positions], positions, exact=exact).clone()


def eagerly(decoder, *places):
    decoder.graphs, steps = None, decoder.graphs
    logits = at(decoder, *places)
    decoder.graphs = steps
    return logits


def used(decoder, *places):
    """Decode until the step is a captured one."""
    for _ in range(1 + CHECKS):
        at(decoder, *places)


def shapes(steps):
    return {(shape.width, shape.extent): one.state for shape, one in steps.all.items()}


# --------------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("kind", SLOTTED)
def test_a_captured_step_computes_what_the_eager_one_does_wherever_rows_are(kind):
    decoder = decoder_of(kind, **SLOTTED[kind])
    steps, said = capturing(decoder)
    used(decoder, (0, 40), (1, 7), (2, 23))
    recorder = steps._recorder
    # Three rows of four, elsewhere: two of them follow each other in one slot.
    places = [(2, 23), (0, 40), (0, 41)]
    expected = eagerly(decoder, *places)
    assert (recorder.recorded, recorder.replayed) == (1, CHECKS), said
    seen = at(decoder, *places)
    assert recorder.replayed == CHECKS + 1
    assert gate.mean_difference(list(expected), list(seen)) < gate.tolerance(torch.float32)
    # What it has written is what the next eager step reads.
    expected = eagerly(decoder, (0, 42))
    eagerly(decoder, *places)
    assert gate.mean_difference(list(eagerly(decoder, (0, 42))), list(expected)) < gate.tolerance(torch.float32)


def test_answers_are_those_of_eager_steps_with_copies_of_prefixes_and_exact_ones_among_them(tiny_directory):
    frames = [
        ask("copies", "one two three one two three one two", 40),
        ask("other", "the quick brown fox jumps over the lazy dog " * 8, 40),
        ask("sampled", "Fritz", 40, temperature=1.0, seed=3),
        ask("exact", "the quick brown fox jumps over the lazy dog " * 8, 30, exact=True),
    ]
    told = []
    for captures in (False, True):
        model = load_chat(load(tiny_directory), CPU)
        if captures:
            steps, _ = capturing(model.decoder, after_steps=1)
        engine = BatchEngine(model)
        told.append([run(engine, *some).text(some[0].request) for some in (frames[:1], frames[1:3], frames[3:])])
        told[-1] += [run(engine, frame).text(frame.request) for frame in frames]
    assert told[0] == told[1]
    assert steps._recorder.replayed > 40


# ------------------------------------------------------------------------------------------------------ which there are


def test_rows_and_extents_are_rounded_up_and_one_recording_serves_all_of_a_shape():
    decoder = decoder_of(slots=6, context=100)
    steps, _ = capturing(decoder)
    for rows in (1, 2, 3, 4, 5, 6):
        at(decoder, *[(slot, 5) for slot in range(rows)])
    at(decoder, (0, 63))
    at(decoder, (0, 64))
    at(decoder, (0, 99), (1, 1))
    assert set(shapes(steps)) == {(1, 64), (2, 64), (4, 64), (6, 64), (1, 100), (2, 100)}


def test_a_shape_is_recorded_once_it_was_wanted_as_often_as_a_recording_costs():
    decoder = decoder_of()
    steps, said = capturing(decoder, after_steps=AFTER_STEPS)
    for _ in range(AFTER_STEPS):
        at(decoder, (0, 40))
    assert steps._recorder.recorded == 0
    at(decoder, (0, 40))
    assert shapes(steps) == {(1, 64): "checking"}
    for _ in range(CHECKS):
        at(decoder, (0, 40))
    assert shapes(steps) == {(1, 64): "used"}
    assert said == ["tiny: a captured step of 1 rows of up to 64 tokens in plain is used from now on\n"]


def test_what_is_returned_is_not_overwritten_by_the_next_step():
    decoder = decoder_of()
    capturing(decoder)
    used(decoder, (0, 40))
    logits = decoder.decode([0], [9], [40])
    before = logits.clone()
    decoder.decode([0], [10], [41])
    assert torch.equal(logits, before)


def test_the_recording_that_was_not_wanted_for_longest_makes_room_for_another(monkeypatch):
    monkeypatch.setattr(captured, "MOST", 2)
    decoder = decoder_of()
    steps, _ = capturing(decoder)
    used(decoder, (0, 40))
    used(decoder, (0, 40), (1, 7))
    at(decoder, (0, 40))
    used(decoder, (0, 70))
    assert shapes(steps) == {(1, 64): "used", (2, 64): "wanted", (1, 128): "used"}
    used(decoder, (0, 40), (1, 7))
    assert shapes(steps)[2, 64] == "used"


def test_recordings_that_have_taken_their_room_are_all_given_up_since_they_share_it():
    free = iter((ROOM_BYTES, 600, 600, 0, 0, 0))
    decoder = decoder_of()
    steps, _ = capturing(decoder, free_bytes=lambda: next(free), room_bytes=900)
    used(decoder, (0, 40))
    used(decoder, (0, 40), (1, 7))
    assert shapes(steps) == {(1, 64): "used", (2, 64): "used"}
    used(decoder, (0, 70))
    assert shapes(steps) == {(1, 64): "wanted", (2, 64): "wanted", (1, 128): "used"}


def test_exact_steps_are_never_captured():
    decoder = decoder_of()
    steps, _ = capturing(decoder)
    for _ in range(3 + CHECKS):
        at(decoder, (0, 40), exact=True)
    assert shapes(steps) == {}


# ---------------------------------------------------------------------------------------------------- what may go wrong


class Wrong(TapeRecorder):
    """A recorder whose recordings give something else than what was recorded."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def record(self, compute):
        replay = super().record(compute)
        return lambda: self.change(replay())


class Failing(TapeRecorder):
    """A recorder that fails at first."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)

    def record(self, compute):
        if self.errors:
            compute()  # As far as it comes: it has written into the slots.
            raise self.errors.pop(0)
        return super().record(compute)


@pytest.mark.parametrize("change", [lambda out: out.flip(-1), lambda out: out * float("nan")])
def test_a_recording_that_computes_something_else_is_not_used_nor_is_any_other(change):
    decoder = decoder_of()
    steps, said = capturing(decoder, Wrong(change))
    expected = eagerly(decoder, (0, 40))
    for _ in range(3 + CHECKS):
        assert torch.equal(at(decoder, (0, 40)), expected)
    assert "differ by" in steps.refused
    assert said == [f"tiny: no captured steps: {steps.refused}\n"]
    assert steps.all == {}


def test_a_row_that_is_not_the_eager_one_s_to_the_bit_is_used_and_nothing_is_read_ahead_any_more():
    decoder = decoder_of()
    decoder.ahead = True
    steps, _ = capturing(decoder, Wrong(lambda out: out * (1 + 1e-6)))
    assert decoder.reads_ahead(1, exact=False)
    used(decoder, (0, 40))
    assert shapes(steps) == {(1, 64): "used"}
    assert not decoder.reads_ahead(1, exact=False)
    assert decoder.reads_ahead(1, exact=True)


def test_a_step_that_waits_for_the_device_cannot_be_recorded_and_that_is_said_once():
    decoder = decoder_of()
    steps, said = capturing(decoder)
    embed = decoder.module.get_input_embeddings()
    embed.register_forward_hook(lambda _module, _args, out: out * out.abs().max().item() ** 0)
    expected = eagerly(decoder, (0, 40))
    for _ in range(3):
        assert torch.equal(at(decoder, (0, 40)), expected)
    assert "waits for the device" in steps.refused
    assert len(said) == 1


@pytest.mark.parametrize("error", [CannotRecord("no"), TypeError("strange"), KeyError("model")])
def test_whatever_a_model_raises_when_it_is_recorded_leaves_the_eager_step(error):
    decoder = decoder_of()
    steps, _ = capturing(decoder, Failing(error))
    expected = eagerly(decoder, (0, 40))
    assert torch.equal(at(decoder, (0, 40)), expected)
    assert steps.refused.startswith("a step cannot be recorded")


def test_a_device_in_an_unknown_state_is_no_reason_to_go_on():
    decoder = decoder_of()
    capturing(decoder, Failing(torch.AcceleratorError("illegal memory access")))
    with pytest.raises(torch.AcceleratorError):
        at(decoder, (0, 40))


@pytest.mark.parametrize(("code", "text", "is_well"), [
    (900, "CUDA error: operation not permitted when stream is capturing", True),
    (901, "CUDA error: operation failed due to a previous error during capture", True),
    (None, "CUDA error: operation not permitted when stream is capturing", True),
    (700, "CUDA error: an illegal memory access was encountered", False),
    (None, "CUDA error: an illegal memory access was encountered", False),
])  # fmt: skip
def test_an_error_that_broke_a_recording_off_is_told_from_one_that_broke_the_device(code, text, is_well):
    error = torch.AcceleratorError(text)
    if code is not None:
        error.error_code = code
    assert breaks_off(error) == is_well


def test_a_shape_that_finds_no_memory_is_done_without_and_others_are_not():
    decoder = decoder_of()
    steps, said = capturing(decoder, Failing(torch.OutOfMemoryError("out of memory")))
    used(decoder, (0, 40), (1, 7))
    used(decoder, (0, 40))
    assert shapes(steps) == {(2, 64): "refused", (1, 64): "used"}
    assert said[0] == "tiny: no captured step of 2 rows of up to 64 tokens in plain: there is not memory enough\n"


def test_a_recording_that_is_slower_than_the_eager_step_is_not_used():
    decoder = decoder_of()
    now = iter(range(100))
    slower = iter((0, 5, 5, 6) * CHECKS)
    steps, said = capturing(decoder, clock=lambda: 10 * (next(now) // 4) + next(slower))
    used(decoder, (0, 40))
    assert shapes(steps) == {(1, 64): "refused"}
    assert "it is not faster" in said[-1]


# ------------------------------------------------------------------------------------------------------ where there are


def test_where_there_can_be_none_that_is_said(tiny_directory, monkeypatch):
    decoder = decoder_of()
    assert captured.offer(decoder, attrs.evolve(load(tiny_directory), compile="none")).endswith("switched off")
    assert captured.offer(object(), load(tiny_directory)).endswith("for slots")
    monkeypatch.setattr(captured.memory, "free_bytes", lambda _device: sizing.CAPTURED_BYTES)
    assert "left for them" in captured.offer(decoder, load(tiny_directory))
    assert decoder.graphs is None


def test_slots_copies_and_captured_steps_leave_a_quarter_of_the_memory_for_what_is_computed_on_the_way():
    assert sizing.CACHE_SHARE + sizing.PREFIX_SHARE + sizing.CAPTURED_SHARE <= 0.75
    room, why = sizing.choose_captured(10 << 30)
    assert room == 1 << 30
    assert str(room) in why


def test_a_shape_says_what_it_is_for():
    assert str(Shape("int4", 4, 512)) == "4 rows of up to 512 tokens in int4"
