"""Ctrl-C at the moments of a turn, each forced by hand."""

import signal
import sys

import pytest
import trio
from anyio.from_thread import start_blocking_portal

from mlzoo.cli.chat import _Asking, _interrupts_only_where_waited_for


class EndlessTalk:
    """A talk whose turns never end; tells which were cancelled."""

    def __init__(self):
        self.cancelled = []

    async def turn(self, text):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.append(text)
            raise


class PressesWhileItStarts:
    """A portal at which Ctrl-C is pressed once a task has been started, and before anybody has been told of it."""

    def __init__(self, portal):
        self._portal = portal

    def start_task_soon(self, function):
        future = self._portal.start_task_soon(function)
        signal.raise_signal(signal.SIGINT)
        return future


@pytest.fixture
def portal():
    with start_blocking_portal("trio") as portal:
        yield portal
        portal.call(portal.stop, True)  # What was not cancelled would be waited for.


def test_ctrl_c_exactly_while_an_answer_starts_cancels_it(portal):
    talk = EndlessTalk()
    with pytest.raises(KeyboardInterrupt):
        _Asking(PressesWhileItStarts(portal), talk, verbose=False).once("hello")
    assert talk.cancelled == ["hello"]


def test_ctrl_c_exactly_while_a_turn_of_a_talk_starts_cancels_it_and_is_told(portal, capsys):
    talk = EndlessTalk()
    with _interrupts_only_where_waited_for() as interruptible:
        _Asking(PressesWhileItStarts(portal), talk, verbose=False)._take("hello", interruptible)
    assert talk.cancelled == ["hello"]
    assert capsys.readouterr().err == "mlzoo: cancelled\n"


def test_ctrl_c_before_anything_was_started_is_what_it_is_anywhere(portal):
    class PressesBefore(PressesWhileItStarts):
        def start_task_soon(self, function):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _Asking(PressesBefore(portal), EndlessTalk(), verbose=False).once("hello")


@pytest.mark.skipif(sys.platform == "win32", reason="how a shell starts what runs in the background")
def test_a_chat_that_was_started_to_ignore_ctrl_c_goes_on_ignoring_it(portal):
    class AnswersAtOnce(EndlessTalk):
        async def turn(self, text):
            return {"finish_reason": "stop", "text": text}

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert _Asking(PressesWhileItStarts(portal), AnswersAtOnce(), verbose=False).once("hello") == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
