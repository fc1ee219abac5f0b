"""A model is tried out once: what was found is remembered for as long as nothing of what it depends on has changed."""

from __future__ import annotations

import os

import attrs
import orjson
import pytest
import tokenizers
import torch
from tiny_models import ask, load, run

from mlzoo.inference import gate, kernels, selftest
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.selftest import Findings

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
SUBJECT = {"model": "d", "threads": 2, "machine": ["a", "b"]}


def found(directory, answer, subject=SUBJECT, question="q"):
    """Ask as a load does; return the answer, and whether it had to be found."""
    findings = Findings(directory, subject)
    given = findings.ask(question, lambda: answer)
    findings.keep()
    return given, findings.asked_anew


def test_what_was_found_of_other_kernels_is_not_taken_over(tmp_path):
    subjects = [
        selftest.subject(load(tmp_path, quantization=kind), CPU, torch.bfloat16) for kind in ("auto", "none", "int4")
    ]
    found(tmp_path, 0.0, subject=subjects[2])
    assert found(tmp_path, 0.5, subject=subjects[0]) == (0.5, True)
    assert found(tmp_path, 0.25, subject=subjects[1]) == (0.25, True)


@pytest.mark.parametrize("answer", [2, 0.25, True, False, None])
def test_an_answer_is_found_once_and_remembered(tmp_path, answer):
    assert found(tmp_path / "cache", answer) == (answer, True)
    assert found(tmp_path / "cache", "another") == (answer, False)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "nothing is left beside it"


def test_another_question_is_asked_and_the_first_answer_stays(tmp_path):
    found(tmp_path, 1)
    assert found(tmp_path, 2, question="other") == (2, True)
    assert found(tmp_path, 3) == (1, False)


@pytest.mark.parametrize("change", [{"model": "e"}, {"threads": 3}, {"machine": ["a", "c"]}, {"more": 1}])
def test_another_subject_is_asked_anew(tmp_path, change):
    found(tmp_path, 1)
    assert found(tmp_path, 2, subject=SUBJECT | change) == (2, True)
    assert found(tmp_path, 3) == (1, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b'{"subject":',
        orjson.dumps({"subject": {"model": "of another"}, "answers": {"q": 9}}),
        orjson.dumps({"subject": SUBJECT, "answers": [9]}),
        orjson.dumps({"subject": SUBJECT, "answers": {"q": ["nine"]}}),
    ],
)
def test_what_cannot_be_read_is_found_again_and_replaced(tmp_path, content):
    found(tmp_path, 1)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert found(tmp_path, 2) == (2, True)
    assert found(tmp_path, 3) == (2, False)


def test_a_directory_that_cannot_be_made_costs_time_only(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert found(tmp_path / "file" / "cache", 1) == (1, True)
    assert found(None, 1) == (1, True)


def test_the_machine_is_the_same_at_another_clock_rate_and_after_another_boot(tmp_path, monkeypatch):
    described, found = tmp_path / "cpuinfo", []
    for rate in ("2100.0", "2200.5"):
        described.write_text(f"model name\t: A\ncpu MHz\t\t: {rate}\nbogomips\t: {rate}\nBogoMIPS\t: {rate}\n\n")
        with monkeypatch.context() as patch:
            patch.setattr(selftest, "Path", lambda _: described)
            found.append(selftest._machine(CPU))
    assert found[0] == found[1]
    assert "model name\t: A" in found[0]


def test_the_subject_names_model_machine_and_program(tiny_directory, monkeypatch):
    order = load(tiny_directory, digest="d")
    before = selftest.subject(order, CPU, torch.float32)
    assert before == selftest.subject(order, CPU, torch.float32), "the same twice"
    assert orjson.loads(orjson.dumps(before)) == before
    changed = [
        selftest.subject(attrs.evolve(order, digest="e"), CPU, torch.float32),
        selftest.subject(order, CPU, torch.bfloat16),
    ]
    for module, name, value in (
        (torch, "__version__", "0"),
        (selftest.transformers, "__version__", "0"),
        (tokenizers, "__version__", "0"),
        (torch, "get_float32_matmul_precision", lambda: "medium"),
        (torch, "are_deterministic_algorithms_enabled", lambda: True),
        (selftest, "__version__", "0"),
        (torch, "get_num_threads", lambda: 99),
        (torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS"),
        (torch.__config__, "show", lambda: "other kernels"),
        (selftest, "_source", lambda: "changed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            changed.append(selftest.subject(order, CPU, torch.float32))
    enabled, *_ = torch.backends.mkldnn.set_flags(False)
    try:
        changed.append(selftest.subject(order, CPU, torch.float32))
    finally:
        torch.backends.mkldnn.set_flags(enabled)
    monkeypatch.setitem(os.environ, "ONEDNN_MAX_CPU_ISA", "SSE41")
    changed.append(selftest.subject(order, CPU, torch.float32))
    assert [place for place, subject in enumerate(changed) if subject == before] == []


def test_a_second_load_tries_nothing_out_and_computes_the_same(tiny_directory, tmp_path, monkeypatch):
    order = load(tiny_directory, digest="d")
    first = load_chat(order, CPU, cache=tmp_path)
    for module, name in ((gate, "disagreement"), (kernels, "row_grain"), (kernels, "joins_chunks")):
        monkeypatch.setattr(module, name, None)  # calling it fails
    second = load_chat(order, CPU, cache=tmp_path)
    assert second.chosen == (*first.chosen, "its self-test was passed at an earlier load")
    assert second.why[-1] == first.why[-1]
    assert second.joined_chunks == first.joined_chunks
    assert (second.decoder.grain, second.decoder.few_threads) == (first.decoder.grain, first.decoder.few_threads)
    assert run(BatchEngine(second), ask("r")).tokens("r") == run(BatchEngine(first), ask("r")).tokens("r")


def test_a_verdict_against_slots_is_remembered_as_well(tiny_directory, tmp_path, monkeypatch):
    order = load(tiny_directory, digest="d")
    monkeypatch.setattr(gate, "disagreement", lambda *_: gate.WORST)
    assert load_chat(order, CPU, cache=tmp_path).batching == "serial"
    monkeypatch.setattr(gate, "disagreement", None)
    assert load_chat(order, CPU, cache=tmp_path).batching == "serial"


def test_weights_without_a_digest_are_tried_out_each_time(tiny_directory, tmp_path):
    load_chat(load(tiny_directory), CPU, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_found_meanwhile_counts_for_both(tmp_path):
    first, second = Findings(tmp_path, SUBJECT), Findings(tmp_path, SUBJECT)
    assert first.ask("fastest", lambda: "a") == "a"
    assert second.ask("fastest", lambda: "b") == "b"
    assert first.keep()
    assert not second.keep(), "who comes second loads again"
    again = Findings(tmp_path, SUBJECT)
    assert again.ask("fastest", lambda: "c") == "a"
    assert again.keep()


def test_answers_to_other_questions_stay_beside_the_new_ones(tmp_path):
    first, second = Findings(tmp_path, SUBJECT), Findings(tmp_path, SUBJECT)
    first.ask("one", lambda: 1)
    second.ask("two", lambda: 2)
    assert first.keep()
    assert second.keep()
    again = Findings(tmp_path, SUBJECT)
    assert (again.knows("one"), again.knows("two")) == (True, True)
