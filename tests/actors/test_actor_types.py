"""What mypy promises to users of the actors: it knows answers, and refuses messages that an actor does not take."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import attrs
from typing import assert_type
from mlzoo.actors import ChildSpec, Down, Inbox, Mailbox, Ref, Refuse, Reply

@attrs.frozen
class Add:
    amount: int

@attrs.frozen
class Scaled:
    reply: Reply[float]
    factor: int

@attrs.frozen
class Foreign:
    reply: Reply[str]

async def use(ref: Ref[Add | Scaled]) -> None:
    assert_type(await ref.ask(Scaled, 2), float)
    assert_type(await ref.ask_by(1.0, Scaled, factor=2), float)
    narrower: Ref[Add] = ref
    await narrower.tell(Add(1))
    await ref.ask(Scaled, "two")  # refused: arg-type
    await ref.ask(Scaled)  # refused: call-arg
    await ref.ask(Foreign)  # refused: arg-type
    await ref.tell(Foreign(Reply()))  # refused: arg-type
    ref.watch(ref)  # refused: arg-type
    wider: Ref[Add | Foreign] = ref  # refused: assignment

async def actor(inbox: Inbox[Add | Scaled]) -> None:
    async for message in inbox:
        match message:
            case Add():
                pass
            case Scaled(reply, factor):
                reply.send(2.0 * factor)
                reply.send("two")  # refused: arg-type

async def watcher(inbox: Inbox[Down]) -> None:
    pass

ChildSpec(Mailbox[Add | Scaled]("right", Refuse(1)), actor)
ChildSpec(Mailbox[Add | Scaled]("wrong", Refuse(1)), watcher)  # refused: arg-type
"""


def test_mypy_knows_each_answer_and_refuses_each_wrong_message(tmp_path, monkeypatch):
    mypy = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    output, _, _ = mypy.run(["--strict", "--no-error-summary", "--hide-error-context", str(program)])
    found = {
        (int(line), code)
        for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]$", output, re.MULTILINE)
    }
    expected = {
        (number, line.split("# refused: ")[1])
        for number, line in enumerate(PROGRAM.splitlines(), start=1)
        if "# refused: " in line
    }
    assert found == expected, output
