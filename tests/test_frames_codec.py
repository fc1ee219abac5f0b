"""Frames as bytes and back, on either side."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlzoo import frames
from mlzoo.frames_codec import BrokenFrame, decode, encode

SAMPLING = frames.Sampling(temperature=0.5, seed=2**53, top_logprobs=2)
EXAMPLES = [
    frames.Load(model="m", path="/p", kind="chat"),
    frames.Unload(model="m"),
    frames.Generate(request="r", model="m", messages=({"role": "user", "content": [{"a": 1}]},), sampling=SAMPLING),
    frames.Generate(request="r", model="m", prompt="é\n", sampling=frames.Sampling(), stop=("a", "b"), max_tokens=3),
    frames.Generate(request="r", model="m", prompt="p", sampling=SAMPLING, tools=({"type": "function"},),
                    tool_choice={"type": "function"}, response_format={"type": "json_object"}),
    frames.Embed(request="r", model="m", texts=("a", "")),
    frames.Predict(request="r", model="m", inputs=("a", {"age": 3, "job": None}, [1.5, True])),
    frames.Tokenize(request="r", model="m", text="x"),
    frames.Detokenize(request="r", model="m", tokens=(1, 2)),
    frames.Abandon(request="r"),
    frames.Forget(),
    frames.Leave(),
    frames.Beat(),
    frames.Beating(turn=3, doing="load"),
    frames.Up(pid=1, device="cpu", versions={"torch": "2"}, threads=2, wait_policy="passive"),
    frames.LoadProgress(model="m", stage="weights", done=1, total=2),
    frames.Loaded(model="m", memory_bytes=1, context=2, slots=3, dtype="float32", architecture="A", batching="slots"),
    frames.LoadFailed(model="m", message="x", reason="memory", needed_bytes=1),
    frames.Unloaded(model="m", held_bytes=5),
    frames.Stepped(rows=(
        frames.Row(request="r", content=" héllo", tokens=(1,), prompt_tokens=3, finish_reason="stop",
                   logprobs=(frames.TokenLogprob(token="a", logprob=-1.5, top=(("a", -1.5), ("b", -2.0))),)),
        frames.Row(request="s", content="", tokens=(), reasoning="so", completion_tokens=4,
                   tool_calls=(frames.ToolCallDelta(index=0, id="c", arguments="{"),)),
    )),
    frames.Prefilled(request="r", done=1, total=2),
    frames.Replayed(request="r", done=1, total=2),
    frames.Embedded(request="r", vectors="AAAA", count=1, dimensions=1, prompt_tokens=2),
    frames.Predicted(request="r", outputs='[{"label":"a"}]', count=1, prompt_tokens=2),
    frames.Tokenized(request="r", tokens=(1,)),
    frames.Detokenized(request="r", text="x"),
    frames.WorkFailed(request="r", code=1006, message="long", data={"limit": 5, "got": 6}),
]  # fmt: skip


@pytest.mark.parametrize("frame", EXAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_comes_back_as_it_went_on_one_line(frame):
    line = encode(frame)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == frame


def test_there_is_an_example_of_every_frame():
    every = {*frames.ToWorker.__args__, *frames.FromWorker.__args__}
    assert {type(frame) for frame in EXAMPLES} == every


@pytest.mark.parametrize("line", [
    b"", b"\xff", b"[]", b"1", b"{}", b'{"type":["Load"]}', b'{"type":"Nobody"}', b'{"type":"Unload"}',
    b'{"type":"Unload","model":"m","more":1}', b'{"type":"Loaded","model":"m","memory_bytes":"x"}',
])  # fmt: skip
def test_what_is_no_frame_is_said_so(line):
    with pytest.raises(BrokenFrame):
        decode(line)


def test_a_broken_frame_keeps_the_fields_that_say_whom_it_concerns():
    with pytest.raises(BrokenFrame) as caught:
        decode(b'{"type":"Generate","request":"r1"}')
    assert caught.value.fields["request"] == "r1"


def test_importing_the_codec_imports_nothing_heavy():
    script = "import sys, mlzoo.frames_codec; print([m for m in ('cattrs', 'torch', 'trio') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
