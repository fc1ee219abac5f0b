"""What only a GPU can show: graphs that are recorded and replayed there, and steps for which nobody waits."""

from __future__ import annotations

import pytest
import torch
from tiny_models import SLOTTED, ask, causal, load, run, save_causal

from mlzoo.frames import Sampling
from mlzoo.inference import gate, sampler
from mlzoo.inference.captured import CHECKS, CapturedSteps
from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.recording import CannotRecord, CudaRecorder
from mlzoo.inference.sampler import Draw, choose

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]
GPU = torch.device("cuda:0")
PROMPTS = {0: range(40), 1: range(7), 2: range(100, 123)}


@pytest.fixture
def nobody_waits():
    """Within it, whatever waits for the device raises, as far as torch notices."""
    before = torch.cuda.get_sync_debug_mode()

    class Mode:
        def __enter__(self):
            torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            torch.cuda.set_sync_debug_mode(before)

    return Mode()


def decoder_of(kind="llama", dtype=torch.float32, **settings):
    decoder = SlotDecoder(causal(kind, dtype, **settings).eval().to(GPU), 8, 128)
    for slot, prompt in PROMPTS.items():
        decoder.prefill(slot, list(prompt), 0)
    return decoder


def capturing(decoder):
    said = []
    steps = CapturedSteps(
        decoder, "tiny", CudaRecorder(GPU), 1 << 30, free_bytes=lambda: 1 << 40, after_steps=0, say=said.append,
        clock=lambda: 0.0,
    )  # fmt: skip
    decoder.graphs = steps
    return steps, said


def test_a_recording_computes_again_from_what_its_tensors_hold_then():
    numbers = torch.ones(4, device=GPU)
    replay = CudaRecorder(GPU).record(lambda: numbers * 2 + 1)
    numbers.fill_(5)
    assert replay().tolist() == [11.0] * 4


def test_what_waits_for_the_device_cannot_be_recorded_and_leaves_the_device_well():
    numbers = torch.ones(4, device=GPU)
    recorder, before = CudaRecorder(GPU), torch.cuda.current_stream()
    with pytest.raises(CannotRecord):
        recorder.record(lambda: numbers * numbers.sum().item())
    assert torch.cuda.current_stream() == before
    assert recorder.record(lambda: numbers + 1)().tolist() == [2.0] * 4


@pytest.mark.parametrize("kind", SLOTTED)
def test_a_captured_step_computes_what_the_eager_one_does(kind):
    decoder = decoder_of(kind, **SLOTTED[kind])
    places = [2, 0, 0], [9, 10, 11], [23, 40, 41]
    expected = decoder.decode(*places).clone()
    steps, said = capturing(decoder)
    for _ in range(1 + CHECKS):
        decoder.decode(*places)
    if steps.refused:
        pytest.skip(f"{kind} has {said[-1]}")
    assert [one.state for one in steps.all.values()] == ["used"]
    seen = decoder.decode(*places)
    assert gate.mean_difference(list(expected), list(seen)) < gate.tolerance(torch.float32)


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1}]
)
def test_nobody_waits_for_the_device_between_two_readings(how, nobody_waits):
    decoder = decoder_of(dtype=torch.bfloat16)
    capturing(decoder)
    seen = torch.zeros(320, dtype=torch.bool, device=GPU) if "repetition_penalty" in how else None
    draws = [Draw(Sampling(seed=row, **how), 24, seen) for row in range(2)]
    places = [2, 0], [9, 10], [23, 40]
    for _ in range(2 + CHECKS):
        choose(decoder.decode(*places), draws)
    with nobody_waits:
        captured_step = choose(decoder.decode(*places), draws)
        decoder.graphs = None
        eager_step = choose(decoder.decode(*places), draws)
    assert [choice.token for choice in captured_step] == [choice.token for choice in eager_step]


def test_answers_are_those_of_the_processor(tmp_path):
    directory = save_causal(tmp_path)
    frames = [ask("copies", "one two three one two three", 40), ask("other", "the quick brown fox " * 8, 40)]
    told = []
    for device in ("cpu", "cuda:0"):
        model = load_chat(load(directory), torch.device(device))
        told.append([run(BatchEngine(model), frame).tokens(frame.request) for frame in frames])
    assert told[0] == told[1]


def test_a_model_that_is_loaded_gets_captured_steps_and_uses_them(tmp_path):
    model = load_chat(load(save_causal(tmp_path), dtype="bfloat16"), GPU)
    assert any(why.startswith("captured steps") for why in model.why)
    run(BatchEngine(model), ask("r", max_tokens=60))
    steps = model.decoder.graphs
    assert not steps.refused
    assert {one.state for one in steps.all.values()} <= {"used", "checking", "wanted", "refused"}
    assert any(one.checks for one in steps.all.values())


def test_rows_are_drawn_on_the_device_as_on_the_processor():
    logits = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(0))
    draws = [Draw(Sampling(temperature=1.0, seed=row), position=row) for row in range(8)]
    here = sampler.draw_in_integers(logits, range(8), draws).tolist()
    assert sampler.draw_in_integers(logits.to(GPU), range(8), draws).tolist() == here
    assert [choice.token for choice in choose(logits.to(GPU), draws)] == here


def test_the_best_tokens_are_those_of_the_processor_in_any_company():
    logits = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    draws = [Draw(Sampling(temperature=1.0, top_p=0.5, top_k=200, seed=row), position=row) for row in range(8)]
    together = choose(logits.to(GPU), draws)
    assert together == [choose(logits[row : row + 1].to(GPU), draws[row : row + 1])[0] for row in range(8)]
    ids = sampler.best_in_order(logits.float().to(GPU), 256)[1]
    assert torch.equal(ids.cpu(), sampler.best_in_order(logits.float(), 256)[1])


def test_4_bits_that_were_asked_for_are_multiplied_by_the_library_and_captured(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed: extra cuda")
    directory = save_causal(tmp_path, hidden_size=128, intermediate_size=256, head_dim=32)
    models = [load_chat(load(directory, dtype="bfloat16", quantization=kind), GPU) for kind in ("none", "int4")]
    assert models[1].decoder.kernels.plan.many == "int4"
    plain, packed = (model.decoder.prefill(0, [5, 6, 7], 0).float() for model in models)
    assert 0 < float((packed - plain).norm() / (plain - plain.mean()).norm()) < 0.5
    places = [0, 1], [9, 10], [3, 0]
    expected = models[1].decoder.decode(*places).clone()
    models[1].decoder.graphs = None
    steps, _ = capturing(models[1].decoder)
    for _ in range(2 + CHECKS):
        seen = models[1].decoder.decode(*places)
    assert {shape.family for shape in steps.all} == {"int4"}
    assert gate.mean_difference(list(expected), list(seen)) < gate.tolerance(torch.bfloat16)
