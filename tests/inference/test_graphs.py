"""Compiled graphs: one that is real, and all that may go wrong with one, which leaves the eager step."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import threading

import attrs
import orjson
import psutil
import pytest
import torch
from tiny_models import load, save_causal

from mlzoo import graph_notes
from mlzoo.config.loading import cache_directory
from mlzoo.errors import ModelLoadFailed
from mlzoo.inference import gate, graph_steps, graphs, native, native_options, plan, tracing
from mlzoo.inference.graph_making import Making
from mlzoo.inference.graphs import CHECKS, Graphs
from mlzoo.inference.loader import load_chat
from mlzoo.inference.plan import Plan
from mlzoo.inference.rows import Part
from mlzoo.inference.tracing import Step

pytestmark = pytest.mark.torch

PROMPT = (5, 6, 7, 8)
ENDS_WITHIN_S = 300
BROKEN = b"\x7fELF"
FAILS = (sys.executable, "-c", "import sys; sys.exit('no such header')")
DOES_NOTHING = (sys.executable, "-c", "")
HANGS = (sys.executable, "-c", "import signal; signal.sigwait([signal.SIGTERM])")


@pytest.fixture
def decoder(tiny_directory):
    model = load_chat(load(tiny_directory), torch.device("cpu"))
    for slot in range(3):
        model.decoder.prefill(slot, PROMPT[: slot + 2], 0)
    return model.decoder


@pytest.fixture
def loaded(tiny_directory):
    return attrs.evolve(load(tiny_directory), digest="d1g35t")


def in_few_bits(loaded):
    """Load it with layers of all kinds that this machine has kernels for."""
    loaded = attrs.evolve(loaded, digest="", dtype="bfloat16")
    try:
        model = load_chat(attrs.evolve(loaded, quantization="int4"), torch.device("cpu"))
    except ModelLoadFailed:
        model = load_chat(loaded, torch.device("cpu"))
    for slot in range(3):
        model.decoder.prefill(slot, PROMPT[: slot + 2], 0)
    return model.decoder


def with_own_kernels(directory, monkeypatch):
    """Load a model whose layers are all computed, and its slots attended to, by kernels of our own."""
    lacking = native.offer(cache_directory(None, os.environ))
    if lacking:
        pytest.skip(f"no kernels of our own: {lacking}")
    monkeypatch.setattr(plan, "able", lambda *_args, **_how: ["w4a16"])
    place = save_causal(directory / "model", hidden_size=64, head_dim=16, intermediate_size=96)
    loaded = attrs.evolve(load(place, dtype="bfloat16", quantization="int4"), digest="d1g35t")
    model = load_chat(attrs.evolve(loaded, digest=""), torch.device("cpu"), cache=cache_directory(None, os.environ))
    return model.decoder, loaded


def made(decoder, loaded, directory, **how):
    """Give a decoder graphs that are made as soon as it decodes; return its only one, and what is said."""
    said = []
    how = {"clock": lambda: 0.0, **how}  # Nothing is slower than anything.
    decoder.graphs = Graphs(decoder, loaded, directory, {}, after_tokens=1, say=said.append, **how)
    (graph,) = decoder.graphs.all.values()
    return graph, said


def decoded(decoder):
    return decoder.decode([2, 0], [9, 10], [4, 2])


def test_a_graph_is_compiled_while_steps_go_on_then_compared_then_used_and_taken_up_by_the_next_load(loaded, tmp_path):
    if native_options.compiler() is None:
        pytest.skip("this machine has no C++ compiler")
    decoder = in_few_bits(loaded)
    expected = decoded(decoder)
    rounding = gate.tolerance(expected.dtype)
    graph, said = made(decoder, loaded, tmp_path)
    assert torch.equal(decoded(decoder), expected)
    assert graph.state == "making"
    assert decoder.graphs.making.process.wait(ENDS_WITHIN_S) == 0
    for _ in range(CHECKS):
        assert torch.equal(decoded(decoder), expected)  # The eager step's, beside which it is tried.
    assert graph.state == "used"
    assert "used from now on" in said[-1]
    seen = decoded(decoder)
    assert gate.mean_difference(list(expected), list(seen)) < rounding
    one = decoder.decode([1], [9], [3])  # one row, of which the compiler saw no example
    decoder.graphs, whole = None, decoder.graphs
    assert gate.mean_difference(list(decoder.decode([1], [9], [3])), list(one)) < rounding
    assert not [path for path in tmp_path.iterdir() if path.suffix not in {".so", ".json", ".graph"}]
    assert whole.why().endswith("in use")
    again, _ = made(decoder, loaded, tmp_path)
    decoded(decoder)
    assert (again.state, again.checks) == ("checking", 1)


def test_steps_of_our_own_kernels_read_prompts_and_are_taken_up_by_the_next_load_at_once(tmp_path, monkeypatch):
    if native_options.compiler() is None:
        pytest.skip("this machine has no C++ compiler")
    decoder, loaded = with_own_kernels(tmp_path, monkeypatch)
    prompt = [5 + number % 11 for number in range(70)]
    whole = decoder.prefill(0, prompt, 0)
    graph, _ = made(decoder, loaded, tmp_path)
    decoder.decode([0], [9], [70])
    assert decoder.graphs.making.process.wait(ENDS_WITHIN_S) == 0
    for _ in range(CHECKS):
        assert not decoder.takes_any_rows
        decoder.decode([0], [9], [70])
    assert decoder.takes_any_rows, (graph.state, graph.why, graph.apart)
    alone = decoder.read([Part(0, prompt, 0)])[0]
    assert gate.mean_difference([whole], [alone]) < gate.tolerance(torch.bfloat16)
    decoder.read([Part(1, prompt[:33], 0)])
    together = decoder.read([Part(2, prompt[:5], 0), Part(1, prompt[33:], 33), Part(3, prompt, 0)])
    assert torch.equal(together[1], alone)
    assert torch.equal(together[2], alone)
    steps = [decoder.decode([1, 2, 3], [9, 9, 9], [70, 5, 70]), decoder.decode([0], [9], [70])]
    assert torch.equal(steps[0][0], steps[1][0])
    assert torch.equal(steps[0][2], steps[1][0])
    later, _ = made(decoder, loaded, tmp_path)
    assert not decoder.takes_any_rows
    decoder.graphs.take_up()
    assert (later.state, decoder.takes_any_rows) == ("used", True)
    assert torch.equal(decoder.read([Part(0, prompt, 0)])[0], alone)
    assert another_thread_runs_in(later.library.compiled, decoder.context)
    assert holds_what_it_reads_only_while_it_is_there(later, decoder)
    decoder.free()
    assert not decoder.cache.layers[0].keys.count_nonzero()


def holds_what_it_reads_only_while_it_is_there(graph, decoder):
    """Whether a library that is opened holds what it reads, and no longer once it is dropped."""

    def held():
        gc.collect()
        return [tensor._use_count() for tensor in read]

    read = list(graph.library.constants.values())
    before = held()
    library = graph_steps.opened(graph.path, decoder, graph.family)
    during = held()
    del library
    return held() == before and sum(during) > sum(before)


def another_thread_runs_in(compiled, extent):
    """Whether a thread that waits for Python's lock gets it while a step is computed: nothing else gives it up."""
    inputs = [torch.zeros(1, 1, dtype=torch.long)] * 2 + [torch.zeros(1, dtype=torch.long)]
    inputs += [torch.empty(extent, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)]
    assert compiled.run(inputs)._use_count() == 1  # Nobody keeps what comes out.
    usual, ran = sys.getswitchinterval(), threading.Event()
    goes = threading.Lock()
    goes.acquire()
    thread = threading.Thread(target=lambda: (goes.acquire(), ran.set()))
    thread.start()
    sys.setswitchinterval(ENDS_WITHIN_S)
    try:
        goes.release()
        return any(compiled.run(inputs) is None or ran.is_set() for _ in range(1000))
    finally:
        sys.setswitchinterval(usual)
        thread.join()


def test_a_compiler_that_fails_leaves_the_eager_step_and_three_times_in_a_row_it_is_not_asked_again(
    decoder, loaded, tmp_path
):
    expected = decoded(decoder)
    for _ in range(graph_notes.TRIES):
        graph, said = made(decoder, loaded, tmp_path, command=FAILS)
        decoded(decoder)
        assert graph.state == "making"
        decoder.graphs.making.process.wait()
        assert torch.equal(decoded(decoder), expected)
        assert graph.state == "refused"
        assert said == [f"tiny: no graph of a step in {graph.family}: its compiler failed (no such header)\n"]
    later, _ = made(decoder, loaded, tmp_path, command=FAILS)
    decoded(decoder)
    assert (later.state, decoder.graphs.making) == ("refused", None)
    assert "no such header" in decoder.graphs.why()
    assert "`mlzoo doctor`" in decoder.graphs.why()


def test_a_compiler_that_leaves_nothing_is_a_compiler_that_fails(decoder, loaded, tmp_path):
    graph, _ = made(decoder, loaded, tmp_path, command=DOES_NOTHING)
    decoded(decoder)
    decoder.graphs.making.process.wait()
    decoded(decoder)
    assert (graph.state, graph.why) == ("refused", "its compiler has left nothing")


def test_a_compiler_that_cannot_be_started_is_done_without(decoder, loaded, tmp_path):
    graph, _ = made(decoder, loaded, tmp_path, command=(str(tmp_path / "nowhere"),))
    decoded(decoder)
    assert graph.state == "refused"


def test_a_compiler_that_hangs_is_ended_when_its_time_is_over(decoder, loaded, tmp_path):
    now_s = 0.0
    step = Step(products=(), caches=(), slots=1, context=64, rows=1)
    library = tmp_path / "graph.so"
    making = Making.begin(HANGS, loaded, decoder.module, step, library, timeout_s=10, clock=lambda: now_s)
    assert making.ended() is None
    now_s = 10.0
    assert making.ended() == "its compiler took too long"
    assert making.process.poll() is not None
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_compiled_before_a_model_has_worked_a_while(decoder, loaded, tmp_path):
    decoder.graphs = Graphs(decoder, loaded, tmp_path, {}, command=HANGS, after_tokens=5)
    decoded(decoder)
    decoded(decoder)
    assert decoder.graphs.making is None
    assert "eager until then" in decoder.graphs.why()


def test_a_family_that_no_step_has_gets_no_graph(decoder, loaded, tmp_path):
    family = decoder.kernels.plan.many
    for few_rows, expected in ((decoder.slots, {family}), (0, {family})):
        chosen = Plan(many=family, few=family, few_rows=few_rows)
        decoder.kernels = attrs.evolve(decoder.kernels, plan=chosen)
        assert set(Graphs(decoder, loaded, tmp_path, {}).all) == expected
    for layer in tracing.layers_of(decoder.module):
        layer.make("packed")
        layer.products["int4"] = layer.products["packed"]
    decoder.kernels = attrs.evolve(decoder.kernels, plan=Plan(many=family, few="int4", few_rows=decoder.slots))
    assert set(Graphs(decoder, loaded, tmp_path, {}).all) == {"int4"}
    decoder.kernels = attrs.evolve(decoder.kernels, plan=Plan(many=family, few="int4", few_rows=decoder.slots - 1))
    assert set(Graphs(decoder, loaded, tmp_path, {}).all) == {"int4", family}


def test_exact_steps_have_a_graph_made_and_are_never_computed_by_one(decoder, loaded, tmp_path):
    expected = decoder.decode([0], [9], [2], exact=True)
    graph, _ = made(decoder, loaded, tmp_path, command=DOES_NOTHING)
    family = decoder.kernels.plan.exact
    decoder.kernels = attrs.evolve(decoder.kernels, plan=attrs.evolve(decoder.kernels.plan, exact=graph.family))
    assert torch.equal(decoder.decode([0], [9], [2], exact=True), expected) or graph.family != family
    assert graph.state == "making"
    decoder.graphs.making.process.wait()
    decoder.decode([0], [9], [2], exact=True)
    assert decoder.graphs.making is None  # What became of it was seen in an exact step.
    graph.state = "used"
    graph.library = lambda *_: pytest.fail("the graph computes")
    decoder.decode([0], [9], [2], exact=True)


def test_rows_that_see_far_are_computed_eagerly_and_nothing_is_read_ahead_across_that_border(decoder, loaded, tmp_path):
    graph, _ = made(decoder, loaded, tmp_path)
    graph.state = "used"  # It has no library: asked for anything, it is refused.
    decoder.graphs.decode(graph.family, [0], [9], [graphs.FARTHEST], lambda: torch.zeros(1))
    assert (graph.state, decoder.graphs.keeps_apart(graph.family)) == ("used", True)
    decoder.graphs.decode(graph.family, [0], [9], [graphs.FARTHEST - 2], lambda: torch.zeros(1))
    assert not decoder.graphs.keeps_apart(graph.family)


def left_by_an_earlier_load(decoder, loaded, directory, digest):
    """Leave a library that is none, under the name that this model's graph has."""
    graph, _ = made(decoder, loaded, directory)
    graph.path.write_bytes(BROKEN)
    graph.path.with_suffix(".graph").write_bytes(orjson.dumps({"sha256": digest, "constants": {}}))
    return graph.path


@pytest.mark.parametrize("digest", ["0" * 64, hashlib.sha256(BROKEN).hexdigest()])
def test_a_library_that_is_damaged_or_none_is_not_used(decoder, loaded, tmp_path, digest):
    expected = decoded(decoder)
    left_by_an_earlier_load(decoder, loaded, tmp_path, digest)
    graph, _ = made(decoder, loaded, tmp_path)
    assert graph.state == "there"
    assert torch.equal(decoded(decoder), expected)
    assert graph.state == "refused"
    assert "cannot be loaded" in graph.why
    assert made(decoder, loaded, tmp_path)[0].state == "refused"


def killed_while_it_tries(marker):
    """Have a process note that it tries a graph, and kill it."""
    begins = "import sys, signal; from mlzoo import graph_notes; from pathlib import Path"
    tries = f"{begins}; print(graph_notes.begin_trial(Path(sys.argv[1])), flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", tries, str(marker)], stdout=subprocess.PIPE) as process:
        deaths = int(process.stdout.readline())
        process.kill()
    return deaths


@pytest.mark.skipif(sys.platform == "win32", reason="the process waits for a signal")
def test_a_process_that_was_killed_while_it_tried_a_graph_is_not_held_against_it(loaded, tmp_path):
    if native_options.compiler() is None:
        pytest.skip("this machine has no C++ compiler")
    decoder = in_few_bits(loaded)
    graph, _ = made(decoder, loaded, tmp_path)
    decoded(decoder)
    assert decoder.graphs.making.process.wait(ENDS_WITHIN_S) == 0
    marker = graph.path.with_suffix(".loading")
    assert killed_while_it_tries(marker) == 0
    for _ in range(CHECKS):
        decoded(decoder)
    assert graph.state == "used"
    assert not marker.exists()
    assert killed_while_it_tries(marker) == 0  # Those before a trial that went well no longer count.


@pytest.mark.skipif(sys.platform == "win32", reason="the process waits for a signal")
def test_a_graph_that_three_processes_in_a_row_died_of_is_not_tried_again(decoder, loaded, tmp_path):
    library = left_by_an_earlier_load(decoder, loaded, tmp_path, "0" * 64)
    marker = library.with_suffix(".loading")
    assert [killed_while_it_tries(marker) for _ in range(graph_notes.TRIES)] == [0, 1, 2]
    graph, _ = made(decoder, loaded, tmp_path)
    decoded(decoder)
    assert (graph.state, graph.why) == ("refused", "3 processes in a row ended while they tried this graph")
    assert [(one.model, one.why) for one in graph_notes.refused(tmp_path)] == [("tiny", graph.why)]
    assert not marker.exists()
    library.with_suffix(".graph").unlink()  # what doctor says to do
    assert made(decoder, loaded, tmp_path)[0].state == "wanted"


def test_a_trial_is_over_also_where_memory_runs_out_in_it(decoder, loaded, tmp_path, monkeypatch):
    left_by_an_earlier_load(decoder, loaded, tmp_path, "0" * 64)
    graph, _ = made(decoder, loaded, tmp_path)
    monkeypatch.setattr(graph_steps, "opened", lambda *_: object())

    def run_out(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decoder.graphs, "_check", run_out)
    with pytest.raises(RuntimeError):
        decoded(decoder)
    assert not graph.path.with_suffix(".loading").exists()


def test_a_number_that_is_another_process_s_by_now_keeps_no_graph_waiting(tmp_path):
    """In a container the next worker often has the number of the last one, or something else has it."""
    for began in (psutil.Process(os.getppid()), psutil.Process()):
        marker = tmp_path / f"{began.pid}.loading"
        marker.write_bytes(orjson.dumps({"pid": began.pid, "began_s": began.create_time() - 60, "deaths": 1}))
        assert graph_notes.begin_trial(marker) == 2


def test_a_graph_that_another_process_loads_just_now_is_waited_for(decoder, loaded, tmp_path):
    library = left_by_an_earlier_load(decoder, loaded, tmp_path, "0" * 64)
    library.with_suffix(".loading").write_bytes(orjson.dumps({"pid": os.getppid()}))
    graph, _ = made(decoder, loaded, tmp_path)
    decoded(decoder)
    assert graph.state == "there"


def test_who_looks_for_graphs_removes_what_is_left_of_makings_whose_process_is_gone(decoder, loaded, tmp_path):
    gone = subprocess.Popen(DOES_NOTHING)
    gone.wait()
    name = "graph-" + "0" * 32 + "-int4"
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"graph-{pid}-x_y1").mkdir()
        (tmp_path / f"graph-{pid}-x_y1" / "step.cpp").touch()
        for ending in ("order-", "said-", ""):
            (tmp_path / f"{name}.{ending}{pid}").touch()
    kept = {f"{name}.graph", f"{name}.so", "config-068ff5ea.json", f"selftest-{gone.pid}.json"}
    for other in kept:
        (tmp_path / other).touch()
    graphs.offer(decoder, loaded, tmp_path, {})
    mine = {f"graph-{os.getpid()}-x_y1", *(f"{name}.{ending}{os.getpid()}" for ending in ("order-", "said-", ""))}
    assert {path.name for path in tmp_path.iterdir()} == kept | mine


def test_the_key_holds_machine_and_sizes(decoder, loaded, tmp_path):
    names = {
        next(iter(Graphs(decoder, loaded, tmp_path, subject).all.values())).path.name
        for subject in ({"machine": "one"}, {"machine": "another"})
    }
    decoder.context //= 2
    names |= {next(iter(Graphs(decoder, loaded, tmp_path, {"machine": "one"}).all.values())).path.name}
    assert len(names) == 3


def test_where_there_can_be_none_that_is_said(decoder, loaded, tmp_path, monkeypatch):
    off = attrs.evolve(loaded, compile="none")
    assert graphs.offer(decoder, off, tmp_path, {}) == "no compiled graphs: switched off"
    assert "digest" in graphs.offer(decoder, attrs.evolve(loaded, digest=""), tmp_path, {})
    assert "slots" in graphs.offer(object(), loaded, tmp_path, {})
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    assert graphs.offer(decoder, loaded, tmp_path, {}) == "no compiled graphs: this machine has no C++ compiler"
    assert decoder.graphs is None
