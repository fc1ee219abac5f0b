"""The worker process, end to end over a real socketpair."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys

import pytest
from tiny_models import Heard, ask, load, save_encoder
from worker_process import ENDS_WITHIN_S, ROOT, WorkerProcess

from mlzoo.frames import (
    Abandon,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Forget,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Predict,
    Predicted,
    Prefilled,
    Stepped,
    Tokenize,
    Tokenized,
    Unload,
    Unloaded,
    WorkFailed,
)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(sys.platform == "win32", reason="a handle is passed to a child in another way on Windows"),
]


@pytest.fixture(scope="module")
def worker(tiny_directory):
    with WorkerProcess() as worker:
        worker.start()
        worker.send(load(tiny_directory))
        frames = worker.until(lambda frame: isinstance(frame, Loaded))
        assert all(isinstance(frame, LoadProgress) for frame in frames[:-1])
        worker.loaded = frames[-1]
        yield worker


def ended(request):
    def check(frame):
        if isinstance(frame, Stepped):
            return any(row.request == request and row.finish_reason for row in frame.rows)
        return getattr(frame, "request", None) == request and not isinstance(frame, Prefilled)

    return check


def test_up_comes_first_and_says_what_runs(worker):
    assert worker.up.pid == worker.process.pid
    assert worker.up.device == "cpu"
    assert worker.up.threads == 1
    assert worker.up.wait_policy == "passive"
    assert set(worker.up.versions) == {"torch", "transformers", "python"}


def test_loaded_says_what_was_chosen_and_why(worker):
    loaded = worker.loaded
    assert (loaded.batching, loaded.dtype, loaded.slots, loaded.context) == ("slots", "float32", 8, 512)
    assert loaded.architecture == "LlamaForCausalLM"
    assert any("asked for" in reason for reason in loaded.why)


def test_several_requests_stream_at_once(worker):
    worker.send(*(ask(f"r{i}", f"one {i}", 6 + i) for i in range(4)))
    heard = Heard()
    heard.take(worker.until(ended("r3")))
    assert [len(heard.tokens(f"r{i}")) for i in range(4)] == [6, 7, 8, 9]


def test_an_abandoned_request_falls_silent_also_in_the_middle_of_its_prompt(worker):
    worker.send(ask("long", "one two three " * 30, None), Abandon(request="long"))
    worker.send(ask("endless", "one", None))
    worker.until(lambda frame: isinstance(frame, Stepped))
    worker.send(Abandon(request="endless"), Abandon(request="nobody"), ask("next", "two", 3))
    frames = worker.until(ended("next"))
    worker.send(Tokenize(request="t", model="tiny", text="one"))
    frames += worker.until(ended("t"))
    rows = [row.request for frame in frames if isinstance(frame, Stepped) for row in frame.rows]
    assert "long" not in rows
    assert rows[-1] == "next"


def test_what_is_to_be_forgotten_serves_nobody_any_more(worker):
    heard = Heard()
    for request in ("first", "second", "after"):
        worker.send(*([Forget()] if request == "after" else []), ask(request, "one two three " * 10, 2))
        heard.take(worker.until(ended(request)))
    cached = [heard.rows[request][0].cached_tokens > 0 for request in ("first", "second", "after")]
    assert cached == [False, True, False]


def test_text_and_tokens_are_turned_into_each_other(worker):
    worker.send(Tokenize(request="t", model="tiny", text="größer als Köln"))
    tokens = worker.receive()
    assert isinstance(tokens, Tokenized)
    worker.send(Detokenize(request="d", model="tiny", tokens=tokens.tokens))
    assert worker.receive() == Detokenized(request="d", text="größer als Köln")
    messages = ({"role": "user", "content": "one"},)
    worker.send(Tokenize(request="m", model="tiny", messages=messages))
    assert len(worker.receive().tokens) > 3


def test_a_number_that_is_no_token_is_the_hosts_fault_and_named(worker):
    worker.send(Detokenize(request="d", model="tiny", tokens=(5, 320, 6)))
    failed = worker.receive()
    assert (failed.code, failed.data["path"]) == (-32602, "tokens[1]")
    assert "less than 320" in failed.data["expected"]
    worker.send(Detokenize(request="d", model="tiny", tokens=()))
    assert worker.receive() == Detokenized(request="d", text="")


def test_a_model_that_is_not_loaded_fails_the_request_and_names_those_that_are(worker):
    worker.send(Embed(request="e", model="nobody", texts=("x",)))
    failed = worker.receive()
    assert isinstance(failed, WorkFailed)
    assert (failed.request, failed.code, failed.data["available"]) == ("e", 1003, ["tiny"])


def test_a_model_of_another_kind_is_1010(worker):
    worker.send(Embed(request="e", model="tiny", texts=("x",)))
    failed = worker.receive()
    assert (failed.code, failed.data["feature"]) == (1010, "embeddings")


def test_a_broken_frame_fails_whom_it_names(worker):
    worker.sock.sendall(b'{"type":"Generate","request":"q"}\n{"type":"Load","model":"m"}\n')
    assert worker.receive().request == "q"
    assert isinstance(worker.receive(), LoadFailed)


def test_what_cannot_be_loaded_is_said_and_the_worker_lives_on(worker, tmp_path):
    worker.send(Load(model="gone", path=str(tmp_path / "gone"), kind="chat"))
    failed = worker.until(lambda frame: isinstance(frame, LoadFailed))[-1]
    assert (failed.model, failed.reason) == ("gone", "load")
    worker.send(ask("after", "one", 2))
    assert worker.until(ended("after"))


def test_a_custom_model_answers_many_requests_beside_a_chat_model_and_a_bad_one_alone(worker, tmp_path):
    encoder = save_encoder(tmp_path)
    zoo = {"backbone": "transformer", "head": "similarity", "pipeline": {"kind": "text", "takes": "pair"}}
    worker.send(Load(model="like", path=str(encoder), kind="predict", zoo=zoo))
    loaded = worker.until(lambda frame: isinstance(frame, Loaded))[-1]
    assert (loaded.architecture, loaded.context) == ("Transformer + Similarity", 64)
    pairs = [{"a": "one two", "b": text} for text in ("one two", "three", "the lazy dog")]
    asked = [Predict(request=f"p{number}", model="like", inputs=(pair,)) for number, pair in enumerate(pairs)]
    worker.send(ask("chat", "one", 5), *asked, Predict(request="bad", model="like", inputs=({"a": "one"},)))
    said = {}
    while not {"p0", "p1", "p2", "bad", "chat"} <= said.keys():
        frame = worker.receive()
        if ended("chat")(frame):
            said["chat"] = frame
        elif not isinstance(frame, Stepped | Prefilled):
            said[frame.request] = frame
    assert said["bad"].data["path"] == "inputs[0].b"
    assert all(isinstance(said[name], Predicted) for name in ("p0", "p1", "p2"))
    assert json.loads(said["p0"].outputs)[0]["score"] == pytest.approx(1, abs=1e-5)
    worker.send(Tokenize(request="t", model="like", text="x"))
    failed = worker.receive()
    assert (failed.code, failed.data["feature"]) == (1010, "tokens")
    worker.send(Unload(model="like"))
    assert isinstance(worker.receive(), Unloaded)


def test_a_pickle_in_the_place_of_an_artifact_is_refused_and_the_worker_lives_on(worker, tmp_path):
    (tmp_path / "zoo.json").write_text("{}")
    (tmp_path / "model.pt").write_bytes(b"\x80\x02")
    worker.send(Load(model="evil", path=str(tmp_path), kind="predict"))
    failed = worker.until(lambda frame: isinstance(frame, LoadFailed))[-1]
    assert "only pickled weights" in failed.message
    worker.send(ask("after", "one", 2))
    assert worker.until(ended("after"))


def test_an_embedding_model_beside_a_chat_model(worker, tmp_path):
    worker.send(load(save_encoder(tmp_path), model="enc", kind="embed"))
    worker.until(lambda frame: isinstance(frame, Loaded))
    worker.send(ask("chat", "one", 5), Embed(request="e", model="enc", texts=("one", "two three")))
    frames = worker.until(lambda frame: isinstance(frame, Embedded))
    embedded = frames[-1]
    if not any(ended("chat")(frame) for frame in frames):
        worker.until(ended("chat"))
    assert (embedded.count, embedded.dimensions) == (2, 32)
    assert [len(vector) for vector in json.loads(embedded.vectors)] == [32, 32]
    worker.send(Unload(model="enc"))
    unloaded = worker.receive()
    assert isinstance(unloaded, Unloaded)
    assert min(unloaded.held_bytes, worker.up.held_bytes) > 64 << 20, "torch alone takes more"
    worker.send(Embed(request="e", model="enc", texts=("one",)))
    assert worker.receive().code == 1003


def test_an_interrupt_is_the_sidecars_business(worker):
    os.kill(worker.process.pid, signal.SIGINT)
    worker.send(Tokenize(request="t", model="nobody", text="x"))
    assert worker.receive().code == 1003


def test_leave_ends_the_process_with_nothing_on_stdout(worker):
    # The last test of this worker.
    code, out, told = worker.leave()
    assert (code, out) == (0, b"")
    # What libraries say of themselves when they are imported concerns nobody.
    assert b"Failed to load" not in told
    assert b"_pytree" not in told


def test_the_process_ends_when_its_socket_closes_in_the_middle_of_a_generation(tiny_directory):
    with WorkerProcess() as worker:
        worker.start()
        worker.send(load(tiny_directory), ask("endless", "one", None))
        worker.until(lambda frame: isinstance(frame, Stepped))
        worker.sock.shutdown(2)
        assert worker.process.wait(ENDS_WITHIN_S) == 0


def test_garbage_ends_the_process_with_a_traceback():
    with WorkerProcess() as worker:
        worker.start()
        worker.sock.sendall(b"garbage\n")
        _, err = worker.process.communicate(timeout=ENDS_WITHIN_S)
        assert worker.process.returncode == 1
        assert b"BrokenFrame" in err


def test_the_process_does_not_start_for_a_parent_that_is_gone():
    with WorkerProcess(parent=2**22 - 1) as worker:
        assert worker.process.wait(ENDS_WITHIN_S) == 0
        assert worker.lines.read() == b""


PARENT = """
import os, subprocess, sys, socket, time
ours, theirs = socket.socketpair()
for sock in (ours, theirs):
    sock.set_inheritable(True)
child = subprocess.Popen([sys.executable, "-m", "mlzoo.inference", "--fd", str(theirs.fileno()),
    "--parent-pid", str(os.getpid()), "--threads", "1"], close_fds=False, stdout=subprocess.DEVNULL)
theirs.close()
ours.recv(10)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses pidfd to wait for a process that is no child")
def test_the_process_dies_with_a_parent_that_is_killed_even_if_its_socket_stays_open():
    # The child inherits the parent's end too, so that its socket does not end with the parent.
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    pidfd = os.pidfd_open(pid)
    parent.kill()
    parent.communicate(timeout=ENDS_WITHIN_S)
    ready, _, _ = select.select([pidfd], [], [], ENDS_WITHIN_S)
    os.close(pidfd)
    assert ready
