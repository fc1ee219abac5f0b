"""The pure core of a player: what is sent against what was recorded, and what goes out when."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.api.wire import digest
from mlzoo.replay.matching import Awaits, Due, Over, Playback
from mlzoo.transport.jsonrpc import parse


def host(n, method, params=None, ms=0, **more):
    line = {"host": "con-1", "n": n, "ms": ms, "id": n, "method": method, **more}
    return line if params is None else {**line, "params": params}


def said(n, ms=0, **what):
    return {"sidecar": "con-1", "for": n, "ms": ms, **what}


def ping(n, ms=0):
    return [host(n, "ping", ms=ms), said(n, ms, result={"n": n})]


def chat(n, text, *pieces, ms=0):
    params = {"messages": [{"role": "user", "content": text}], "stream": True}
    streamed = [said(n, ms, stream={"seq": seq, "delta": {"content": piece}}) for seq, piece in enumerate(pieces)]
    return [host(n, "chat", params, ms), *streamed, said(n, ms, result={"text": "".join(pieces)})]


def call(method, params=None, id_=1):
    message = {"jsonrpc": "2.0", "id": id_, "method": method}
    return parse(orjson.dumps(message if params is None else {**message, "params": params}))


def note(method, params):
    return parse(orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


def send(playback, *messages):
    """Send messages; return what was answered at once."""
    return [orjson.loads(line) for message in messages for line in playback.hear(message)]


def out(playback):
    """Return all that is due by now."""
    lines = []
    while isinstance(due := playback.next(), Due):
        if due.line:
            lines.append(orjson.loads(due.line))
    return lines


def hello(text="hi", **params):
    return {"messages": [{"role": "user", "content": text}], "stream": True, **params}


def test_a_call_gets_its_recorded_answer_under_its_own_id():
    playback = Playback(ping(1))
    assert playback.next() == Awaits("ping")
    assert send(playback, call("ping", id_="mine")) == []
    assert out(playback) == [{"jsonrpc": "2.0", "id": "mine", "result": {"n": 1}}]
    assert isinstance(playback.next(), Over)
    assert playback.report().holds


def test_pieces_come_as_they_were_recorded_with_the_hosts_own_id():
    playback = Playback(chat(1, "hi", "He", "llo"))
    send(playback, call("chat", hello(), id_=77))
    *pieces, answer = out(playback)
    assert [piece["params"] for piece in pieces] == [
        {"request": 77, "seq": 0, "delta": {"content": "He"}},
        {"request": 77, "seq": 1, "delta": {"content": "llo"}},
    ]
    assert answer == {"jsonrpc": "2.0", "id": 77, "result": {"text": "Hello"}}


def test_each_answer_is_used_once():
    playback = Playback(ping(1))
    send(playback, call("ping", id_=1))
    [refused] = send(playback, call("ping", id_=2))
    assert refused["error"]["code"] == 1018
    assert "ping (id 2) was sent where nothing more is recorded" in refused["error"]["message"]
    assert len(out(playback)) == 1
    report = playback.report()
    assert (report.used, len(report.mismatched), report.holds) == (1, 1, False)


def test_a_changed_call_is_answered_with_its_differences_and_none_of_the_recorded_answers():
    playback = Playback([*chat(1, "hi", "Hello"), *ping(2)])
    [refused] = send(playback, call("chat", hello("ho", max_tokens=3), id_=5))
    assert (refused["id"], refused["error"]["code"]) == (5, 1018)
    assert refused["error"]["data"] == {
        "type": "replay_mismatch",
        "retryable": False,
        "expected": {"line": 1, "method": "chat"},
        "differences": [
            {"path": "params.messages[0].content", "recorded": '"hi"', "got": '"ho"'},
            {"path": "params.max_tokens", "recorded": None, "got": "3"},
        ],
    }
    assert out(playback) == []
    send(playback, call("ping", id_=6))
    assert [line["id"] for line in out(playback)] == [6]
    assert not playback.report().holds


def test_a_call_too_many_takes_nobodys_place():
    playback = Playback([*chat(1, "hi", "Hello")])
    [refused] = send(playback, call("embed", {"input": "x"}))
    assert refused["error"]["data"]["expected"] == {"line": 1, "method": "chat"}
    send(playback, call("chat", hello(), id_=2))
    assert len(out(playback)) == 2
    assert playback.report().used == 1


def test_calls_are_matched_in_order():
    playback = Playback([*chat(1, "one", "1"), *chat(2, "two", "2")])
    [first, second] = send(playback, call("chat", hello("two"), id_=1), call("chat", hello("one"), id_=2))
    assert {first["error"]["code"], second["error"]["code"]} == {1018}


def test_what_was_not_sent_is_reported():
    playback = Playback([*ping(1), *chat(2, "x", "y")])
    send(playback, call("ping"))
    out(playback)
    playback.end()
    assert isinstance(playback.next(), Over)
    assert playback.report().unused == ("line 2, chat",)


def test_what_was_not_said_is_reported():
    playback = Playback(ping(1))
    send(playback, call("ping"))
    assert (playback.report().unsaid, playback.report().holds) == (1, False)


def test_nothing_goes_out_before_what_the_host_had_sent_by_then():
    """An answer that was cancelled ends when it is cancelled, not before."""
    script = [
        *chat(1, "x", "a", "b")[:-1],
        host(2, "cancel", {"request": 1}),
        said(1, error={"code": -32800, "message": "cancelled", "data": {"partial": "ab"}}),
        said(2, result={"cancelled": True}),
    ]
    playback = Playback(script)
    send(playback, call("chat", hello("x"), id_=10))
    assert len(out(playback)) == 2
    assert playback.next() == Awaits("cancel")
    send(playback, call("cancel", {"request": 10}, id_=11))
    assert [line["id"] for line in out(playback)] == [10, 11]
    assert playback.report().holds


def test_a_cancel_of_another_call_is_not_the_recorded_one():
    script = [*chat(1, "x", "a")[:-1], *chat(2, "y", "b")[:-1], host(3, "cancel", {"request": 1})]
    playback = Playback(script)
    send(playback, call("chat", hello("x"), id_=10), call("chat", hello("y"), id_=11))
    [refused] = send(playback, call("cancel", {"request": 11}, id_=12))
    assert refused["error"]["data"]["differences"] == [{"path": "params.request", "recorded": "1", "got": "2"}]


def test_a_cancel_of_what_had_ended_may_name_anything():
    playback = Playback([host(1, "cancel", {"request": None}), said(1, result={"cancelled": False})])
    send(playback, call("cancel", {"request": "whatever"}))
    assert out(playback)[0]["result"] == {"cancelled": False}


def test_a_cancel_as_a_notification_is_matched_and_not_answered():
    cancel = {"host": "con-1", "n": 2, "ms": 0, "method": "cancel", "params": {"request": 1}, "early": True}
    script = [*chat(1, "x", "a")[:-1], cancel, said(1, error={"code": -32800, "message": "cancelled"})]
    playback = Playback(script)
    send(playback, call("chat", hello("x"), id_=10))
    assert (len(out(playback)), playback.next()) == (1, Awaits("cancel"))
    assert send(playback, note("cancel", {"request": 10})) == []
    assert out(playback)[0]["error"]["code"] == -32800
    assert playback.report().holds


def test_a_cancel_of_what_runs_where_none_is_recorded_is_reported():
    playback = Playback(chat(1, "x", "a"))
    send(playback, call("chat", hello("x"), id_=10), note("cancel", {"request": 10}))
    assert not playback.report().holds


def test_notifications_that_mean_nothing_are_not_compared():
    playback = Playback(ping(1))
    assert send(playback, note("notifications/initialized", {}), note("cancel", {"request": 9}), call("ping")) == []
    assert len(out(playback)) == 1
    assert playback.report().holds


def test_a_call_that_was_recorded_with_its_answer_may_come_before_its_place_and_not_after():
    script = [*ping(1), host(2, "devices.list", {}, early=True), said(2, result={"devices": []}), *ping(3)]
    early = Playback(script)
    send(early, call("devices.list", id_=20), call("ping", id_=21), call("ping", id_=22))
    assert [line["id"] for line in out(early)] == [21, 20, 22]
    assert early.report().holds
    late = Playback(script)
    [refused] = send(late, call("ping", id_=20), call("ping", id_=21))
    assert refused["error"]["data"]["expected"]["method"] == "devices.list"


def test_a_line_that_was_no_request_must_be_the_same_kind_of_nonsense():
    bad = parse(b"no json")
    refused = {"code": bad.failure.code, "message": bad.failure.message}
    script = [{"host": "con-1", "n": 1, "ms": 0, "id": None, "refused": refused}, said(1, error=refused)]
    same = Playback(script)
    same.hear(bad)
    assert out(same) == [{"jsonrpc": "2.0", "id": None, "error": refused}]
    other = Playback(script)
    assert send(other, parse(b"[]"))[0]["error"]["code"] == 1018


def test_a_call_of_which_only_a_digest_is_kept_must_have_the_same_params():
    params = {"model": "none", "messages": [{"role": "user", "content": "x"}], "_meta": 1}
    script = [host(1, "chat", digest=digest(params)), said(1, error={"code": 1003, "message": "no such model"})]
    same, other = Playback(script), Playback(script)
    assert send(same, call("chat", {**params, "_meta": 2})) == []
    assert out(same)[0]["error"]["code"] == 1003
    [refused] = send(other, call("chat", {**params, "model": "nope"}))
    assert refused["error"]["data"]["differences"][0]["path"] == "params (their SHA-256)"


def test_a_call_whose_params_were_redacted_is_matched_by_its_method_and_said_to_be():
    playback = Playback([host(1, "chat", withheld=True), said(1, error={"code": 1003, "message": "m"})])
    send(playback, call("chat", {"anything": 1}))
    out(playback)
    assert (playback.report().holds, playback.report().unproven) == (True, 1)


def test_a_batch_is_answered_as_one_line_once_its_last_member_is():
    playback = Playback([*ping(1), *chat(2, "x", "a"), *ping(3)])
    members = [
        {"jsonrpc": "2.0", "id": "p", "method": "ping"},
        {"jsonrpc": "2.0", "id": "c", "method": "chat", "params": hello("x")},
    ]
    assert send(playback, parse(orjson.dumps(members))) == []
    piece, answers = out(playback)
    assert piece["params"]["request"] == "c"
    assert [answer["id"] for answer in answers] == ["p", "c"]


def test_a_batch_with_a_changed_member_says_so_among_its_answers():
    playback = Playback(ping(1))
    members = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"jsonrpc": "2.0", "id": 2, "method": "ping"}]
    send(playback, parse(orjson.dumps(members)))
    [answers] = out(playback)
    assert [answer.get("error", {}).get("code") for answer in answers] == [1018, None]


def test_lines_are_due_as_long_after_each_other_as_they_were_recorded():
    playback = Playback([*ping(1, ms=5), *chat(2, "x", "a", ms=100)[:-1], said(2, ms=130, result={})])
    send(playback, call("ping"), call("chat", hello("x"), id_=2))
    dues = []
    while isinstance(due := playback.next(), Due):
        dues.append(due.after_ms)
    assert dues == [0, 0, 30]


def test_the_end_of_the_hosts_lines_has_its_place():
    script = [*chat(1, "x", "a")[:-1], {"host": "con-1", "n": 2, "ms": 0, "eof": True}]
    playback = Playback([*script, said(1, error={"code": 1008, "message": "the sidecar is leaving"})])
    send(playback, call("chat", hello("x")))
    assert len(out(playback)) == 1
    assert playback.next() == Awaits("the end of the host's lines")
    playback.end()
    assert out(playback)[0]["error"]["code"] == 1008
    assert playback.report().holds


def test_a_host_that_keeps_its_end_open_hears_what_one_that_had_closed_it_was_answered():
    script = chat(1, "x", "a", "b")
    script.insert(2, {"host": "con-1", "n": 2, "ms": 0, "eof": True})
    playback = Playback(script)
    send(playback, call("chat", hello("x")))
    assert [line.get("result") for line in out(playback)] == [None, None, {"text": "ab"}]
    assert isinstance(playback.next(), Over)
    assert playback.report().holds


# ------------------------------------------------------------------------------------------------ properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def scripts(draw):
    """Draw a session of some calls whose answers overlap."""
    script, open_calls, count = [], {}, draw(st.integers(1, 6))
    for n in range(1, count + 1):
        script.append(host(n, draw(st.sampled_from(("chat", "ping"))), {"p": draw(JSON), "n": n}))
        open_calls[n] = draw(st.integers(0, 3))
        for _ in range(draw(st.integers(0, 4))):
            if open_calls:
                _speak(script, open_calls, draw(st.sampled_from(sorted(open_calls))))
    for n in sorted(open_calls):
        while n in open_calls:
            _speak(script, open_calls, n)
    return script


def _speak(script, open_calls, n):
    if open_calls[n]:
        open_calls[n] -= 1
        script.append(said(n, stream={"seq": 9 - open_calls[n], "delta": {}}))
    else:
        del open_calls[n]
        script.append(said(n, result=n))


def replayed(script, chunks):
    """Send a script's own calls again, so many at a time; return what came out, as lines of the script."""
    playback, heard = Playback(script), []
    waiting = [line for line in script if "host" in line]
    while waiting:
        for line in waiting[: chunks[0]]:
            assert send(playback, call(line["method"], line["params"], id_=line["n"])) == []
        waiting, chunks = waiting[chunks[0] :], chunks[1:] + chunks[:1]
        heard += out(playback)
    return playback, heard


@given(scripts(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_session_sent_again_is_heard_again_in_the_recorded_order_however_it_is_split(script, chunks):
    playback, heard = replayed(script, chunks)
    expected = [(line["for"], "result" in line) for line in script if "sidecar" in line]
    assert [(line.get("id") or line["params"]["request"], "result" in line) for line in heard] == expected
    assert playback.report().holds


@given(scripts(), st.data())
def test_a_session_with_one_call_changed_left_out_or_doubled_does_not_hold(script, data):
    calls = [line for line in script if "host" in line]
    at = data.draw(st.integers(0, len(calls) - 1))
    change = data.draw(st.sampled_from(("params", "method", "left out", "doubled")))
    sent = [(line["method"], line["params"], line["n"]) for line in calls]
    method, params, n = sent[at]
    match change:
        case "params":
            sent[at] = (method, {**params, "q": 1}, n)
        case "method":
            sent[at] = ("embed", params, n)
        case "left out":
            del sent[at]
        case "doubled":
            sent.insert(at, (method, params, n + 100))
    playback, refused = Playback(script), 0
    for method, params, n in sent:
        refused += len(send(playback, call(method, params, id_=n)))
        out(playback)
    playback.end()
    out(playback)
    report = playback.report()
    assert not report.holds
    assert refused == len(report.mismatched)
    assert report.used + len(report.unused) <= len(calls)
