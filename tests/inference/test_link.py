"""The thread that reads a worker's socket: it answers beats, whatever the main thread does. Over real processes."""

from __future__ import annotations

import os
import sys

import pytest
from worker_process import ENDS_WITHIN_S, WorkerProcess

from mlzoo.frames import Beat, Beating, Load, LoadFailed, Tokenize, Up


def is_beating(frame):
    return isinstance(frame, Beating)


def test_beats_are_answered_while_torch_is_imported():
    with WorkerProcess() as worker:
        worker.send(Beat())
        assert worker.receive() == Beating(turn=0, doing="start")
        assert isinstance(worker.receive(), Up)


def test_one_that_has_nothing_to_do_says_so_and_each_piece_of_work_is_another_turn():
    with WorkerProcess() as worker:
        worker.start()
        turns = []
        for _ in range(2):
            worker.send(Tokenize(request="t", model="nobody", text="x"))
            worker.receive()
            worker.send(Beat(), Beat())
            answers = [worker.receive(), worker.receive()]
            turns.append(answers[-1].turn)
        assert answers[-1].doing in {"work", "idle"}  # The main thread may not have come to rest yet.
        assert turns[0] < turns[1]


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe in the file system")
def test_beats_are_answered_while_a_load_is_stuck_and_tell_the_same_turn(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")  # Whoever opens it to read waits for a writer: here, for ever.
    with WorkerProcess() as worker:
        worker.start()
        worker.send(Load(model="m", path=str(tmp_path), kind="chat"))
        answer = Beating(turn=0, doing="idle")
        while answer.doing != "load":
            worker.send(Beat())
            answer = worker.until(is_beating)[-1]
        for _ in range(3):
            worker.send(Beat())
            assert worker.until(is_beating)[-1] == answer
        with (tmp_path / "model.safetensors").open("wb"):
            pass  # It reads an empty file now, and goes on.
        assert isinstance(worker.until(lambda frame: not is_beating(frame))[-1], LoadFailed)
        worker.sock.shutdown(2)
        assert worker.process.wait(ENDS_WITHIN_S) == 0
