"""``mlzoo chat``: spawns a sidecar and talks to it over the wire, on a terminal or for one answer.

The event loop runs in a thread of its own, so that the main thread can wait for a line, with the terminal's editing,
and for Ctrl-C, which Python delivers nowhere else.
"""

from __future__ import annotations

import concurrent.futures
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mlzoo.cli.progress import ProgressDisplay
from mlzoo.cli.talk import Talk
from mlzoo.client import ProtocolViolation, RemoteError, SidecarDied, serve_command, spawn

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Mapping
    from types import FrameType

    from anyio.from_thread import BlockingPortal

WRONG_USAGE = 2
# Codes of the protocol -> exit status; of every other error it is 1.
_STATUS = {-32602: 2, 1003: 2, 1010: 2, 1012: 2, 1014: 3, 1015: 3}
_WINDOWS_POLL_S = 0.2
_CLEANING_UP_S = 5.0
# A terminal obeys control characters, and a model may write any. It keeps tab and newline.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")
_HELP = """\
/model        what models there are; /model NAME goes on with another one
/clear        begin anew: the model forgets what was said
/help         this
/quit         leave, as Ctrl-D does
Ctrl-C ends an answer that is running, and clears a line; twice at an empty prompt, it leaves"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``chat`` to the commands of ``mlzoo``."""
    from pathlib import Path

    parser = subparsers.add_parser(
        "chat",
        help="talk to a model, on a terminal or for one answer",
        description="Talk to a model: a conversation on a terminal, one answer for PROMPT or what comes on stdin.",
        epilog="example: mlzoo chat 'Why is the sky blue?' --max-tokens 100",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="ask this, print the answer and leave")
    parser.add_argument("--model", metavar="M", help="the model's name; without it, the configured default")
    parser.add_argument("--persona", metavar="P", help="who it is to be: a persona of the configuration or of the log")
    parser.add_argument(
        "--conversation", metavar="ID", help='go on with a conversation that the log keeps; "new" begins one'
    )
    parser.add_argument("--log", metavar="DIR", type=Path, help="the event log of the sidecar")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="searched before the built-in configuration")
    parser.add_argument("--temperature", metavar="T", type=float, help="0 is the likeliest token every time")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer, in tokens")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed gives the same answer")
    parser.add_argument("--verbose", action="store_true", help="say on stderr how fast it was")


def run(args: argparse.Namespace) -> int:
    """Talk; return the exit status."""
    prompt = args.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        _note("the prompt is empty: give one, or run `mlzoo chat` on a terminal")
        return WRONG_USAGE
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A console that cannot show a character shows another.
    fields = ("model", "persona", "conversation", "temperature", "max_tokens", "seed")
    wishes = {name: value for name in fields if (value := getattr(args, name)) is not None}
    command = serve_command(log=args.log, config_dir=args.config_dir)
    try:
        with (
            _event_loop() as portal,
            portal.wrap_async_context_manager(spawn(command)) as client,
        ):
            talk = Talk(client, wishes, write=_write, note=_note, display=_display)
            asking = _Asking(portal, talk, verbose=args.verbose)
            return asking.once(prompt) if prompt is not None else asking.converse()
    except RemoteError as error:
        _note(error.message)
        locked = error.data.get("reason") == "locked"
        return 4 if locked else _STATUS.get(error.code, 1)
    except SidecarDied as error:
        _note(f"{error}\n`mlzoo doctor` looks for the reason")
        return error.status if error.status in {2, 3} else 1  # Of the sidecar they mean what they mean here.
    except ProtocolViolation as error:
        _note(f"{error}\n`mlzoo doctor` looks for the reason")
        return 1


@contextmanager
def _event_loop() -> Iterator[BlockingPortal]:
    """Run an event loop in a thread of its own, to which no Ctrl-C is delivered.

    The kernel hands a signal to any thread that takes it. One that another thread takes does not wake the main one from
    its wait for a key, and would be heard at the next key only.
    """
    from anyio.from_thread import start_blocking_portal

    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # A thread inherits what its maker blocks.
    with start_blocking_portal("trio") as portal:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield portal


class _Asking:
    """The main thread's side: hands turns to the event loop and waits for them."""

    def __init__(self, portal: BlockingPortal, talk: Talk, *, verbose: bool) -> None:
        self._portal = portal
        self._talk = talk
        self._verbose = verbose

    def once(self, prompt: str) -> int:
        """Ask one thing."""
        self._turn(prompt)
        return 0

    def converse(self) -> int:
        """Ask what the user types, until the user leaves."""
        with suppress(ImportError):  # On Windows, where the console edits lines by itself.
            import readline  # noqa: F401 (gives input() its editing, and the lines of this session)
        _note("/help says what there is besides talking; Ctrl-D leaves")
        prompt = "> " if sys.stdout.isatty() else ""
        with _interrupts_only_where_waited_for() as interruptible:
            warned = False  # whether the last thing that happened was a Ctrl-C at an empty prompt
            while True:
                try:
                    with interruptible():
                        line = input(prompt).strip()
                except EOFError:
                    print()
                    return 0
                except KeyboardInterrupt:
                    print()
                    empty = not _line_so_far()
                    if warned and empty:
                        return 0
                    warned = empty
                    if warned:
                        _note("Ctrl-C again leaves, as Ctrl-D does")
                    continue
                warned = False
                if line in {"/quit", "/exit"}:
                    return 0
                self._take(line, interruptible)

    def _take(self, line: str, interruptible: Interruptible) -> None:
        """Obey or pass on what was typed; neither its failure nor its cancellation ends the talk."""
        try:
            with interruptible():
                if line.startswith("/"):
                    self._obey(line)
                elif line:
                    self._turn(line)
        except RemoteError as error:
            _note(error.message)
        except KeyboardInterrupt:
            print()
            _note("cancelled")

    def _turn(self, text: str) -> None:
        result = self._call(self._talk.turn, text)
        print()
        self._tell_about(result)

    def _call(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Have the event loop do something, and wait for it."""
        ended = threading.Event()

        async def do() -> Any:
            try:
                return await call(*args)
            finally:
                ended.set()

        future: concurrent.futures.Future[Any] | None = None
        try:
            with _ctrl_c_held_back():  # Else it could begin and nobody would know it, to cancel it.
                future = self._portal.start_task_soon(do)
            return _wait(future)
        except KeyboardInterrupt:
            if future is not None:
                future.cancel()  # Here and thereby in the sidecar, which else would finish it before it leaves.
                ended.wait(_CLEANING_UP_S)  # What it shows goes before anything else is written.
            raise

    def _obey(self, line: str) -> None:
        match line.split():
            case ["/help"]:
                print(_HELP)
            case ["/clear"]:
                self._talk.clear()
                _note("cleared")
            case ["/model"]:
                for model in self._models():
                    if model["kind"] == "chat":
                        print(f"{model['name']}  {model['state']}")
            case ["/model", name]:
                kinds = {model["name"]: model["kind"] for model in self._models()}
                if kinds.get(name, "chat") != "chat":
                    _note(f"{name} is for {kinds[name]}, not for chat; /model shows those that chat")
                elif name not in kinds:
                    _note(f"there is no {name}; /model shows what there is")
                else:
                    self._talk.wishes["model"] = name
            case _:
                _note("there is no such command; /help shows what there is")

    def _models(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self._call(self._talk.client.call, "models.list")["models"]
        return models

    def _tell_about(self, result: Mapping[str, Any]) -> None:
        """Say what the user would not see in the text."""
        if result["finish_reason"] == "length":
            _note(f"the answer was cut: {self._why_cut(result['usage']['completion_tokens'])}")
        if result.get("truncated"):
            _note(_why_truncated(**result["truncated"]))
        if result.get("degraded"):
            _note(f"on {result['device']}: {result['degraded']}")
        if self._verbose:
            _note(stats(result))

    def _why_cut(self, tokens: int) -> str:
        most = self._talk.wishes.get("max_tokens")
        if most is not None and tokens >= most:
            return f"--max-tokens {most} allows no more"
        return "what was said fills the model's context; a new talk has room again"


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Have a Ctrl-C do what it does once this is done, and not in the middle of it."""
    pressed: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):  # It is not where the program was started to ignore it.
            before(*pressed[0])


Interruptible = Callable[[], AbstractContextManager[None]]


@contextmanager
def _interrupts_only_where_waited_for() -> Iterator[Interruptible]:
    """Have a Ctrl-C raise within what is marked as interruptible, once, and do nothing elsewhere.

    Else a second one, pressed while the first is still being answered, would end the program and the talk with it.
    """
    waited_for = False

    def interrupt(_signal: int, _frame: object) -> None:
        nonlocal waited_for
        if waited_for:
            waited_for = False
            raise KeyboardInterrupt

    @contextmanager
    def interruptible() -> Iterator[None]:
        nonlocal waited_for
        waited_for = True
        try:
            yield
        finally:
            waited_for = False

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interruptible
    finally:
        signal.signal(signal.SIGINT, before)


def _line_so_far() -> str:
    """Return what had been typed at the prompt when it was interrupted, where that can be known."""
    if sys.platform != "win32":
        with suppress(ImportError):
            import readline

            return readline.get_line_buffer().strip()
    return ""


def stats(result: Mapping[str, Any]) -> str:
    """Return how fast an answer was, in a line: tokens a second are those after the first."""
    usage, timing = result["usage"], result["timing"]
    tokens, decode_ms = usage["completion_tokens"], timing["total_ms"] - timing["ttft_ms"]
    speed = f", {(tokens - 1) * 1000 / decode_ms:.1f} tokens/s" if tokens > 1 and decode_ms > 0 else ""
    return (
        f"{result['model']} on {result['device']}: {usage['prompt_tokens']} + {tokens} tokens, "
        f"first after {timing['ttft_ms']} ms, all after {timing['total_ms']} ms{speed}"
    )


def _wait(future: concurrent.futures.Future[Any]) -> Any:
    """Return what comes of a turn."""
    # On Windows a Ctrl-C does not end a wait for a lock, it is handled after it; so this is a chain of short waits.
    if sys.platform == "win32":
        while not concurrent.futures.wait([future], timeout=_WINDOWS_POLL_S).done:
            continue
    return future.result()


def _write(text: str) -> None:
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _display(title: str, lines: bool) -> ProgressDisplay:
    return ProgressDisplay(title, lines=lines)


def _note(text: str) -> None:
    print(f"mlzoo: {text}", file=sys.stderr)


def _why_truncated(turns: int, summarised: int = 0) -> str:
    told = f"{turns} of the oldest turns did not fit into the model's context any more"
    return f"{told}; it has read a summary of {summarised} of them" if summarised else told
