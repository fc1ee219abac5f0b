"""What a worker is told about a request that goes on, read from the log; and what is said where its text is gone."""

from pathlib import Path

import pytest

from mlzoo.actors.messages import GoOn
from mlzoo.actors.work import frame_from
from mlzoo.config.schema import LogConfig
from mlzoo.errors import OutOfRange
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.log import Log
from mlzoo.events.records import tombstone
from mlzoo.simulation.world import simulated_world

MODEL = cmd.ModelFacts(name="toy", kind="chat")
CALLER = cmd.Caller(connection="c", rpc=1)
PROMPT = {"prompt": "hello"}
ROW = [{"content": "so ", "tokens": [7]}]


async def going_on(text, row):
    """Log a request with one piece, and return what a worker is told when it goes on."""
    log = await Log.open(Path("/log"), simulated_world(1), LogConfig(), version="0")
    submit = cmd.Submit(request="r", caller=CALLER, method="complete", model=MODEL, params_digest="")
    accepted = ev.RequestAccepted(request="r", caller=CALLER, kind="complete", model=MODEL)
    log.append(submit, [accepted], text, at_ms=0)
    step = cmd.ReportStep(device="cpu", rows=(cmd.RowFacts(request="r", tokens=1, size_bytes=3),))
    log.append(step, [ev.RequestStreamed(request="r", row=0, tokens=1, seq=0)], row, at_ms=1)
    log.commit()
    try:
        return await frame_from(log, GoOn(0, "r", accepted_seq=2, resume="exact"))
    finally:
        await log.close()


async def test_a_request_goes_on_from_what_was_asked_and_said():
    frame = await going_on(PROMPT, ROW)
    assert (frame.prompt, frame.tokens, frame.said, frame.resume) == ("hello", (7,), "so ", "exact")


async def test_it_goes_on_in_the_form_that_was_asked_for():
    form = {"type": "regex", "pattern": "so+"}
    frame = await going_on({**PROMPT, "params": {"model": "toy", "response_format": form}}, ROW)
    assert frame.response_format == form


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (tombstone("ephemeral"), "was ephemeral"),
        (tombstone("forgotten"), "was forgotten"),
        ({}, "is not kept any more"),
    ],
)
@pytest.mark.parametrize("part", ["prompt", "piece"])
async def test_where_the_text_is_gone_it_is_said_why(gone, why, part):
    with pytest.raises(OutOfRange) as refused:
        await (going_on(gone, ROW) if part == "prompt" else going_on(PROMPT, [gone]))
    assert f"the text of r {why}" in refused.value.message
    assert "it cannot go on" in refused.value.message
