"""Calls of tools and reasoning: told piece by piece, and whole in the message, exactly the same."""

from mlzoo import frames

PIECES = (
    {"reasoning": "Paris? "},
    {"reasoning": "Ask."},
    {"content": "Let me see."},
    {"tool_calls": (frames.ToolCallDelta(index=0, id="call-1", name="weather"),)},
    {"tool_calls": (frames.ToolCallDelta(index=0, arguments='{"city": '),)},
    {"tool_calls": (frames.ToolCallDelta(index=1, id="call-2", name="time", arguments="{}"),)},
    {"tool_calls": (frames.ToolCallDelta(index=0, arguments='"Paris"}'),)},
)


def row(request, piece, finish=None):
    return frames.Row(**{"request": request, "content": "", "tokens": (7,), "finish_reason": finish, **piece})


async def test_calls_and_reasoning_are_told_as_deltas_that_add_up_to_the_message(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("How is Paris?", stream=True, key="paris")
        worker = await sidecar.worker()
        request = await worker.asked("How is Paris?")
        for number, piece in enumerate(PIECES):
            finish = "tool_calls" if number == len(PIECES) - 1 else None
            worker.say(frames.Stepped(rows=(row(request, piece, finish),)))
        result = await sidecar.host.result(chat)
        assert result["finish_reason"] == "tool_calls"
        assert result["message"] == {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning": "Paris? Ask.",
            "tool_calls": [
                {"id": "call-1", "name": "weather", "arguments": '{"city": "Paris"}'},
                {"id": "call-2", "name": "time", "arguments": "{}"},
            ],
        }
        deltas = sidecar.host.stream(chat)
        assert deltas[0] == {"reasoning": "Paris? "}
        assert deltas[3] == {"tool_calls": [{"index": 0, "id": "call-1", "name": "weather"}]}
        assert "".join(d.get("content", "") for d in deltas) == "Let me see."
        again = await sidecar.host.result(sidecar.chat("How is Paris?", stream=True, key="paris"))
        assert again == result
