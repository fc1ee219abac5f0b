"""Which kernels are chosen, by what was measured."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_models import ask, load, run, save_causal
from torch import nn

from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import linears, plan
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.loader import load_chat
from mlzoo.inference.plan import PROMPT, Plan, fitting
from mlzoo.inference.selftest import Findings

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
HEIGHTS = (1, 2, 4, 8, 16)


def took(**by_family: tuple[float, ...]) -> plan.Took:
    """Milliseconds at each of HEIGHTS, then for a prompt."""
    heights = (*HEIGHTS, PROMPT)
    return {(family, height): ms for family, row in by_family.items() for height, ms in zip(heights, row, strict=True)}


MEASURED = took(plain=(6, 7, 8, 8, 8, 27), packed=(4, 4, 4, 4, 5, 25), int4=(1.5, 1.7, 2.3, 4.2, 8, 55))


def test_four_bits_decode_few_rows_where_they_are_faster():
    assert fitting(["plain", "packed", "int4"], MEASURED, HEIGHTS, "auto") == Plan(many="packed", few_rows=4)


def test_of_two_families_of_few_bits_the_faster_decodes_few_rows_and_either_may_do_everything():
    own = took(w4a16=(1, 1.1, 1.5, 3, 5, 30))
    families = ["plain", "packed", "int4", "w4a16"]
    quick = {**MEASURED, **own}
    assert fitting(families, quick, HEIGHTS, "auto") == Plan(many="w4a16"), "one step for all is worth a quarter"
    slow_to_read = {**quick, ("w4a16", PROMPT): 60}
    assert fitting(families, slow_to_read, HEIGHTS, "auto") == Plan(many="packed", few="w4a16", few_rows=8)
    asked = took(int4=(2, 2, 3, 5, 9, 20), w4a16=(1, 1.1, 1.5, 3, 5, 30))
    assert fitting(["int4", "w4a16"], asked, HEIGHTS, "int4") == Plan(many="w4a16")
    slow = {**MEASURED, **{key: 4 * ms for key, ms in own.items()}}
    assert fitting(families, slow, HEIGHTS, "auto") == Plan(many="packed", few="int4", few_rows=4)


def test_without_four_bits_the_faster_whole_family_does_everything():
    assert fitting(["plain", "packed"], MEASURED, HEIGHTS, "none") == Plan(many="packed")


def test_a_prompt_weighs_as_much_as_it_takes_of_a_request():
    slow_to_read = {**MEASURED, ("packed", PROMPT): 60.0}
    assert fitting(["plain", "packed"], slow_to_read, HEIGHTS, "none").many == "plain"


def test_a_second_family_that_gains_next_to_nothing_is_not_kept():
    close = {**MEASURED, **{("int4", height): 0.97 * MEASURED["packed", height] for height in HEIGHTS}}
    assert fitting(["plain", "packed", "int4"], close, HEIGHTS, "auto").few_rows == 0


def test_a_machine_with_plain_kernels_only_needs_no_clock():
    assert fitting(["plain"], {}, HEIGHTS, "auto") == Plan()


def test_four_bits_that_were_asked_for_are_all_there_is():
    assert fitting(["plain", "packed", "int4"], MEASURED, HEIGHTS, "int4").families() == ("int4",)


def test_exact_requests_have_one_family_and_others_go_by_how_many_decode():
    chosen = Plan(many="packed", few_rows=4, exact="int4")
    assert [chosen.decoding(sequences, exact=False) for sequences in (1, 4, 5, 16)] == [
        "int4",
        "int4",
        "packed",
        "packed",
    ]
    assert {chosen.decoding(sequences, exact=True) for sequences in range(1, 17)} == {"int4"}


def test_a_moment_in_which_others_kept_the_processor_decides_nothing():
    disturbed = took(plain=(60, 7, 8, 8, 8, 27), packed=(4, 90, 4, 4, 5, 25), int4=(1.5, 1.7, 20, 4.2, 8, 55))
    smoothed = plan.smoothed(disturbed)
    assert [smoothed["plain", 1], smoothed["packed", 2], smoothed["int4", 4]] == [7, 4, 4.2]
    assert {key for key, ms in smoothed.items() if ms != disturbed[key]} == {("plain", 1), ("packed", 2), ("int4", 4)}


def test_what_was_measured_at_an_earlier_load_is_not_measured_again(tmp_path):
    directory = save_causal(tmp_path / "model", "llama", dtype=torch.bfloat16)
    order = load(directory, dtype="bfloat16", digest="d" * 64)
    first = load_chat(order, CPU, cache=tmp_path)
    again = load_chat(order, CPU, cache=tmp_path)
    assert set(first.why) < set(again.why)
    assert first.fingerprint == again.fingerprint != ""


def test_four_bits_can_be_asked_for_and_are_told(tmp_path):
    wide = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}
    directory = save_causal(tmp_path, "llama", dtype=torch.bfloat16, **wide)
    model = load_chat(load(directory, dtype="bfloat16", quantization="int4"), CPU)
    assert "linear layers: int4 (4 bits were asked for)" in model.why
    assert len(run(BatchEngine(model), ask("r", exact=True)).tokens("r")) == tiny_models.ask("r").max_tokens


def test_four_bits_where_there_is_no_kernel_are_refused(monkeypatch):
    monkeypatch.setattr(plan, "able", lambda *_, **__: ["plain"])
    module = tiny_models.causal("llama")
    with pytest.raises(ModelLoadFailed, match=r"no kernel for 4-bit weights .* set quantization to none"):
        plan.choose(module, linears.replace(module), 4, "int4", Findings(None, {}))


def test_what_decodes_few_rows_is_read_ahead_in_where_it_keeps_them_apart():
    module = tiny_models.causal("llama", dtype=torch.bfloat16)
    layer = linears.Linear([module.lm_head], linears.InForce())
    if "packed" not in plan.able([layer], module.lm_head.weight, "none", Findings(None, {})):
        pytest.skip("this machine cannot pack weights in bfloat16")
    own = took(w4a16=(4, 4, 4, 4, 10, 50))
    measured = {**MEASURED, **own}
    replaced = linears.replace(module)
    findings = Findings(None, {})
    known = {f"computes {family}": True for family in ("packed", "int4", "w4a16")}
    known |= {f"ms of {family} at {rows} rows": ms for (family, rows), ms in measured.items()}
    known |= {f"grain of 16 rows in {family}": grain for family, grain in (("packed", 4), ("int4", 1), ("w4a16", None))}
    known["layers that 4 bits cost nothing"] = "4" * len(replaced.layers)
    for question, answer in known.items():
        findings.ask(question, lambda answer=answer: answer)
    chosen = plan.choose(module, replaced, 16, "auto", findings, own=True).plan
    assert (chosen.many, chosen.few, chosen.few_rows) == ("packed", "int4", 4)
    assert chosen.keeps_apart(4)
    assert not chosen.keeps_apart(5)


def test_layers_that_four_bits_would_harm_keep_all_of_theirs():
    torch.manual_seed(0)
    layers = [linears.Linear([nn.Linear(64, 32, bias=False)], linears.InForce()) for _ in range(3)]
    assert not plan.mark_int4(layers, "auto", Findings(None, {}))
    assert not any(layer.takes_int4 for layer in layers)
