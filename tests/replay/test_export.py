"""A recording says what went over the wire, in order, and what the log had; and less where a rule takes it out."""

import hashlib
from random import Random

import attrs
import orjson
import pytest

from mlzoo import frames
from mlzoo.errors import ConfigError, NotFound
from mlzoo.replay.export import Part, part_of
from mlzoo.replay.redaction import BUILT_IN, Rule, rule_of


def heard(found, connection="con-1"):
    """What a host hears, by the id of its call: its pieces, then its answer."""
    ids = {line["n"]: line.get("id") for line in found.wire(connection) if "host" in line}
    said = {}
    for line in found.wire(connection):
        if "sidecar" in line and line.keys() & {"stream", "result", "error"}:
            kind = next(iter(line.keys() & {"stream", "result", "error"}))
            said.setdefault(ids[line["for"]], []).append((kind, line[kind]))
    return said


def taken(host):
    """The same, as the host itself took it."""
    said = {}
    for message in host.messages:
        if message.get("method") == "stream":
            params = dict(message["params"])
            said.setdefault(params.pop("request"), []).append(("stream", params))
        elif "method" not in message:
            kind = "result" if "result" in message else "error"
            said.setdefault(message["id"], []).append((kind, message[kind]))
    return said


def steady(said):
    """Without the ids that a recording makes small."""
    text = orjson.dumps({str(key): value for key, value in said.items()}).decode()
    parts = text.split('"req-')
    return '"req-'.join([parts[0], *(part[part.index('"') :] for part in parts[1:])])


async def test_it_holds_what_each_call_heard(lives, recorded):
    async with lives.begin() as sidecar:
        host = sidecar.host
        chat = sidecar.chat("one two", stream=True)
        silent = sidecar.chat("three")
        await host.response(chat)
        await host.response(silent)
        await host.call("embed", {"input": "x"})
        await host.call("tokenize", {"text": "ab"})
        await host.refused("chat", {"model": "none", "messages": [{"role": "user", "content": "x"}]})
        await host.refused("nonsense", {"a": 1})
        host.feed(b"no json\n")
        await host.call("models.unload", {"model": "toy"})
        await host.until(lambda: host.responses(None))
    found = recorded()
    assert steady(heard(found)) == steady(taken(host))
    methods = [line.get("method") for line in found.wire("con-1") if "host" in line]
    assert methods == ["chat", "chat", "embed", "tokenize", "chat", "nonsense", None, "models.unload", None]


async def test_params_stand_there_as_they_were_sent(lives, recorded):
    params = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "stop": ["x"]}
    async with lives.begin() as sidecar:
        await sidecar.host.call("chat", {**params, "_meta": {"mine": 1}})
    [line] = [line for line in recorded().wire("con-1") if line.get("method") == "chat"]
    assert line["params"] == params


async def test_the_params_of_a_refused_call_are_a_digest(lives, recorded):
    async with lives.begin() as sidecar:
        await sidecar.host.refused("chat", {"model": "none", "messages": [{"role": "user", "content": "hush"}]})
    found = recorded()
    [line] = [line for line in found.wire("con-1") if "digest" in line]
    assert len(line["digest"]) == 64
    assert b"hush" not in orjson.dumps(found.lines)


async def test_calls_stand_in_the_order_in_which_they_came(lives, recorded):
    """A ping is recorded at once, a chat when its turn comes."""
    async with lives.begin() as sidecar:
        host = sidecar.host
        await host.call("ping")
        message = {"role": "user", "content": "x"}
        host.feed(
            b"".join(
                orjson.dumps(host.request(method, params, id=number)) + b"\n"
                for number, (method, params) in enumerate(
                    [("chat", {"messages": [message]}), ("ping", None), ("tokenize", {"text": "a"}), ("ping", None)],
                    start=50,
                )
            )
        )
        for number in range(50, 54):
            await host.response(number)
    ids = [line["id"] for line in recorded().wire("con-1") if "id" in line]
    assert ids == [1, 50, 51, 52, 53]


async def test_the_same_session_twice_makes_the_same_recording_but_for_the_logs_own_name(lives, recorded, tmp_path):
    async with lives.begin() as sidecar:
        await sidecar.host.response(sidecar.chat("hello", stream=True, seed=1))
    found, again = recorded("a.ndjson"), recorded("b.ndjson")
    assert found == again
    assert "req-1" in orjson.dumps(found.lines).decode()


async def test_the_header_says_what_answers_depend_on(lives, recorded):
    async with lives.begin() as sidecar:
        await sidecar.host.response(sidecar.chat("hello", seed=7))
    header = recorded().header
    assert (header["recording"], header["core_version"] >= 1, header["part"]) == (1, True, "all")
    facts = header["models"]["toy"]
    assert (facts["digest"], facts["device"], facts["dtype"]) == ("d" * 64, "cpu", "float32")
    assert header["seeds"] == {"req-1": 7}
    assert header["workers"]["cpu"]["versions"]["torch"] == "0"


async def two_chats(lives):
    async with lives.begin() as sidecar:
        first, second = sidecar.chat("alpha", stream=True), sidecar.chat("beta", stream=True)
        await sidecar.host.response(first)
        await sidecar.host.response(second)
        client = sidecar.connect()
        await client.call("ping")
        return [line["request"] for line in requests(sidecar)]


def requests(sidecar):
    groups = sidecar.watch.groups(durable=False)
    return [record["data"] for record in groups if record["type"] == "Submit"]


async def test_one_request_can_be_recorded_alone(lives, recorded):
    _, second = await two_chats(lives)
    found = recorded(part=Part(request=second))
    assert [line["params"]["messages"][0]["content"] for line in found.wire("con-1") if "params" in line] == ["beta"]
    assert (found.header["folds"], found.header["part"]) == (False, "request")
    assert [line["n"] for line in found.lines if "host" in line] == [1]
    assert not [word for word in ("alpha", '"al"', '"pha"') if word in orjson.dumps(found.lines).decode()]


async def test_one_connection_can_be_recorded_alone(lives, recorded):
    await two_chats(lives)
    whole = recorded()
    assert whole.connections() == ["con-1", "con-2"]
    [ping] = [line for line in whole.wire("con-2") if line.get("method") == "ping"]
    assert ping["n"] == 1
    alone = recorded(part=Part(connection="con-1"))  # As a recording calls it, not the log.
    assert alone.connections() == ["con-1"]
    assert alone.wire("con-1") == whole.wire("con-1")


async def test_a_span_begins_with_the_state_before_it(lives, recorded):
    await two_chats(lives)
    last = max(line["group"] for line in recorded().lines if "group" in line)
    found = recorded(part=Part(span=(5, last)))
    assert found.header["state"]["requests"]
    assert min(line["group"] for line in found.groups()) >= 5


async def test_a_part_that_is_not_there_is_said(lives, recorded):
    await two_chats(lives)
    with pytest.raises(NotFound):
        recorded(part=Part(request="req-nobody"))


@pytest.mark.parametrize("words", [("r", "c", None), (None, None, "x"), (None, None, "5:1")])
def test_wishes_that_make_no_sense_are_refused(words):
    with pytest.raises(ConfigError):
        part_of(*words)


def test_a_span_is_two_numbers():
    assert part_of(None, None, "5:9") == Part(span=(5, 9))


# ------------------------------------------------------------------------------------------------ redaction


async def say(lives, prompt, *pieces, **params):
    """Have a chat whose answer comes in these pieces."""
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat(prompt, stream=True, **params)
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, *pieces)
        await sidecar.host.response(chat)


def pieces_of(found):
    return [line["stream"]["delta"]["content"] for line in found.wire("con-1") if "stream" in line]


async def test_text_is_taken_out_everywhere(lives, recorded):
    await say(lives, "I am bob@example.com", "Hi ", "bob@example.com", "!")
    assert "bob@example.com" in str(recorded().lines)
    found = recorded(rules=BUILT_IN)
    assert "bob@" not in str(found.lines)
    assert found.header["redacted"] == [rule.name for rule in BUILT_IN]
    assert pieces_of(found) == ["Hi ", "[redacted:email]", "!"]


async def test_what_is_found_across_a_border_of_pieces_is_taken_out_and_the_borders_stay(lives, recorded):
    await say(lives, "x", "write to bo", "b@exam", "ple.com now")
    assert pieces_of(recorded(rules=BUILT_IN)) == ["write to [redacted:email]", "", " now"]


async def test_tokens_and_digests_of_what_was_taken_out_say_nothing(lives, recorded):
    await say(lives, "x", "bob@", "example.com")
    found = recorded(rules=BUILT_IN)
    whole = str(found.lines)
    assert hashlib.sha256(b"bob@example.com").hexdigest() not in whole
    assert hashlib.sha256("".join(pieces_of(found)).encode()).hexdigest() in whole
    tokens = [row["tokens"] for line in found.groups() if isinstance(line.get("text"), list) for row in line["text"]]
    assert tokens == [[0], [0]]


async def test_a_redacted_recording_has_no_digest_of_a_refused_calls_params(lives, recorded):
    async with lives.begin() as sidecar:
        await sidecar.host.refused("chat", {"model": "none", "messages": [{"role": "user", "content": "hush"}]})
    [line] = [line for line in recorded(rules=BUILT_IN).wire("con-1") if line.get("method") == "chat"]
    assert line["withheld"]
    assert "digest" not in line


async def test_reasoning_and_arguments_of_calls_are_text_as_well(lives, recorded):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("Mail him.", stream=True)
        worker = await sidecar.worker()
        request = await worker.asked("Mail him.")
        for number, part in enumerate(('{"to": "bob@exam', 'ple.com"}')):
            call = frames.ToolCallDelta(index=0, arguments=part)
            said = frames.Row(request=request, content="", tokens=(7,), reasoning="bob@", tool_calls=(call,))
            worker.say(frames.Stepped(rows=(attrs.evolve(said, finish_reason="tool_calls" if number else None),)))
        await sidecar.host.result(chat)
    found = recorded(rules=BUILT_IN)
    assert "bob@exam" not in str(found.lines)
    deltas = [line["stream"]["delta"] for line in found.wire("con-1") if "stream" in line]
    arguments = [call["arguments"] for delta in deltas for call in delta["tool_calls"]]
    assert arguments == ['{"to": "[redacted:email]', '"}']
    assert "".join(delta["reasoning"] for delta in deltas) == "bob@bob@"


async def test_structure_is_not_text(lives, recorded):
    await say(lives, "anything", "any", "thing")
    found = recorded(rules=[rule_of("all=(?s).+")])
    [line] = [line for line in found.wire("con-1") if "params" in line]
    assert line["params"]["messages"] == [{"role": "user", "content": "[redacted:all]"}]
    assert line["params"]["model"] == "toy"
    assert pieces_of(found) == ["[redacted:all]", ""]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail a.b+c@d-e.co.uk.", "mail [redacted:email]."),
        pytest.param("7" * 500_000, "7" * 500_000, id="half a million digits, which are no number and no address"),
        ("key sk-abcdefghijklmnop1234", "key [redacted:secret]"),
        ("call +49 170 1234567", "call [redacted:number]"),
        ("in 2024 there were 1024 cats", "in 2024 there were 1024 cats"),
        ("see /home/bob/notes.txt", "see [redacted:home]/notes.txt"),
        ("see /root/notes.txt, not a/root or /roots", "see [redacted:home]/notes.txt, not a/root or /roots"),
    ],
)
def test_the_built_in_rules_find_what_they_are_named_for(text, left):
    for rule in BUILT_IN:
        text = rule.applied(text)
    assert text == left


@pytest.mark.parametrize("words", ["", "name", "two words=x", "name=("])
def test_a_rule_is_a_name_and_a_regular_expression(words):
    with pytest.raises(ConfigError):
        rule_of(words)


def test_a_rule_is_read():
    assert isinstance(rule_of("a=b+"), Rule)
    assert rule_of("a=b+").applied("abba") == "a[redacted:a]a"


# ------------------------------------------------------------------------------------------------ keys


async def test_calls_that_hear_the_story_of_another_are_recorded_as_they_heard_it(lives, recorded):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first = sidecar.chat("hello", stream=True, key="mine")
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "a", "b", finish=None)
        await sidecar.host.streamed(first, 2)
        client = sidecar.connect()
        resumed = client.send("resume", {"key": "mine", "after": 0})
        attached = sidecar.chat("hello", stream=True, key="mine")
        await sidecar.host.streamed(attached, 2)
        worker.generate(request, "c")
        for host, call in ((sidecar.host, first), (sidecar.host, attached), (client, resumed)):
            await host.response(call)
        late = sidecar.chat("hello", key="mine")
        await sidecar.host.response(late)
    found = recorded()
    assert steady(heard(found)) == steady(taken(sidecar.host))
    assert steady(heard(found, "con-2")) == steady(taken(client))
    [line] = [line for line in found.wire("con-2") if line.get("method") == "resume"]
    assert line["params"] == {"key": "mine", "after": 0}


async def test_what_is_resumed_in_the_next_life_is_recorded_there(lives, recorded):
    async with lives.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        first = sidecar.chat("hello", stream=True, key="mine")
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "a", "b")
        await sidecar.host.response(first)
        before = sidecar.host
    lives.disk = lives.disk.crashed(Random(1))
    async with lives.begin() as sidecar:
        resumed = sidecar.host.send("resume", {"key": "mine", "after": 0})
        await sidecar.host.response(resumed)
    found = recorded()
    assert steady(heard(found)) == steady(taken(before))
    assert steady(heard(found, "con-2")) == steady(taken(sidecar.host))
