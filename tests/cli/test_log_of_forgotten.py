"""What the commands make of a log from which a request was forgotten."""

import pytest
import trio

from mlzoo.cli import main
from mlzoo.config.schema import LogConfig
from mlzoo.events.commands import Caller, ModelFacts, ReportStep, RowFacts, Submit
from mlzoo.events.forgetting import Target
from mlzoo.events.log import Log
from mlzoo.events.types import RequestAccepted, RequestStreamed
from mlzoo.world import real_world

CALLER = Caller(connection="con-1", rpc=1)


@pytest.fixture
def path(tmp_path):
    """Return a log of two requests, of which one is forgotten."""
    trio.run(write, tmp_path / "log")
    return tmp_path / "log"


async def write(path):
    log = await Log.open(path, real_world(), LogConfig(durability="process"), version="0.0.0")
    log.bind_state(lambda: None, lambda: 1)
    requests = ("req-a", "req-b")
    for request in requests:
        model = ModelFacts(name="m", kind="chat")
        submit = Submit(request=request, caller=CALLER, method="chat", model=model)
        text = {"messages": [{"role": "user", "content": f"asked {request}"}], "params": {}}
        log.append(submit, [RequestAccepted(request=request, caller=CALLER, kind="chat", model=model)], text, at_ms=1)
    step = ReportStep(device="cpu", rows=tuple(RowFacts(request=name, tokens=1, size_bytes=3) for name in requests))
    streamed = [RequestStreamed(request=name, row=row, tokens=1, seq=0) for row, name in enumerate(requests)]
    log.append(step, streamed, [{"content": f"said {name}", "tokens": [7]} for name in requests], at_ms=2)
    assert await log.forgetter.forget(Target("req-a")) == 2
    await log.close()


def test_it_verifies_and_cat_shows_the_tombstones(path, capsys):
    assert main(["log", "verify", str(path)]) == 0
    capsys.readouterr()
    assert main(["log", "cat", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count('{"gone":"forgotten"}') == 2
    assert "said req-b" in shown
    assert "said req-a" not in shown
    assert "asked req-a" not in shown


@pytest.mark.parametrize("flags", [[], ["--redact"]], ids=["as it is", "redacted"])
def test_it_is_exported_without_the_text(path, tmp_path, capsys, flags):
    assert main(["log", "export", *flags, str(path), "-o", str(tmp_path / "x.ndjson")]) == 0
    made = (tmp_path / "x.ndjson").read_text()
    assert "said req-b" in made
    assert "said req-a" not in made
