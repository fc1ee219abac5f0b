"""``mlzoo chat`` as a user runs it, with real weights."""

import pytest
from real_process import is_whole, mlzoo

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("weights")]


def test_a_prompt_gets_a_sensible_answer(log):
    done = mlzoo("chat", "What is the capital of France?", "--log", log, "--verbose")
    assert done.returncode == 0, done.stderr
    assert b"Paris" in done.stdout
    assert b"tokens/s" in done.stderr
    assert is_whole(log)


def test_a_model_that_does_not_exist_is_one_line_and_status_2(log):
    done = mlzoo("chat", "hello", "--log", log, "--model", "nobody")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"smollm2" in done.stderr
    assert b"Traceback" not in done.stderr
