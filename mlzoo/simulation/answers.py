"""What a host may be told: what the log has, as durably as it was promised, and what a model said.

Parts of I1, I4, I6, I18 and I19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.simulation.evidence import TERMINAL, TRANSIENT, is_of_key
from mlzoo.simulation.workers import is_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.evidence import Evidence, Heard, JsonObject, Record, Request

SUSPENDED, TOO_LARGE, UNKNOWN, EXPIRED = 1008, 1011, 1012, 1013
CANCELLED, OTHER_PARAMS = -32800, -32602
AT_THE_DOOR = {1001, 1009, 1014, 1015}  # refusals that say nothing of a key
UNRECORDABLE = {1014, 1015}  # what the log itself cannot take


def is_shown_early(record: Record, evidence: Evidence) -> bool:
    """Whether a record is shown that had to be durable first, and is not."""
    waits = record.data["type"] in TERMINAL - TRANSIENT
    return waits and evidence.durability == "disk" and not record.is_durable(evidence.disk)


def end_of(request: Request) -> Record | None:
    """Return how a request ended, in this life or an earlier one."""
    ends = request.terminals or (request.elder.terminals if request.elder is not None else [])
    return ends[-1] if ends else None


def is_piece_recorded(request: Request, said: tuple[int, str], evidence: Evidence) -> bool:
    """Whether a piece is one of a request's, in the log or in what an earlier life had there."""
    if said in request.pieces or (request.elder is not None and said in request.elder.pieces):
        return True
    return (said[0], None) in request.pieces and evidence.may_be_gone(request)


def not_the_first(host: Heard, message: JsonObject, evidence: Evidence) -> Iterator[str]:
    """Yield where a key answers otherwise than with what became of its request. I18."""
    words = evidence.calls.get(message["id"], "") if message["id"] is not None else ""
    if not is_of_key(words) or host.asked_often.get(message["id"]) != 1:
        return
    log, error = evidence.log, message.get("error")
    own = log.by_rpc.get(message["id"])
    decided = end_of(own) if own is not None else None
    for first in {**log.elders, **log.requests}.values():
        if evidence.calls.get(first.rpc or "") != words or not first.accepted or evidence.may_be_gone(first):
            continue
        end = end_of(first)
        if end is None or decided is None or decided.data["log_seq"] < end.data["log_seq"]:
            continue  # It was decided before that, and is told late.
        data = error.get("data", {}) if error is not None else {}
        is_expired = error is not None and error["code"] == EXPIRED and data.get("type") != "ahead"
        if is_expired or (error is not None and error["code"] == UNKNOWN and data.get("what") == "key"):
            yield f"{first.id} has ended under a key, and nothing is known of it: {error}"
        elif error is None and message["result"].get("id", first.id) != first.id:
            yield f"{first.id} has ended under a key, and {message['result']['id']} is told"


def not_forgotten(host: Heard, message: JsonObject, evidence: Evidence) -> Iterator[str]:
    """Yield where who comes with a forgotten key hears else than that, or how its request had failed. I19."""
    asked = host.asked.get(message["id"], {}) if message["id"] is not None else {}
    if not asked.get("comes_again") or host.asked_often.get(message["id"]) != 1:
        return
    error, words = message.get("error"), evidence.calls[message["id"]]
    if error is None or error.get("data", {}).get("partial") or host.deltas.get(message["id"]):
        yield f"{words} was forgotten, and is told: {message}"
    elif error["code"] not in {EXPIRED, *AT_THE_DOOR}:
        firsts = [
            request
            for request in {**evidence.log.elders, **evidence.log.requests}.values()
            if (request.accepted or request.elder) and evidence.calls.get(request.rpc or "") == words
        ]
        ends = {code_of(end) for first in firsts if (end := end_of(first)) is not None}
        if error["code"] == OTHER_PARAMS:
            ends |= {OTHER_PARAMS for first in firsts if evidence.keyed.get(first.rpc or "") != asked["params"]}
        if error["code"] not in ends:
            yield f"{words} was forgotten, and who comes again hears {error}"


def code_of(end: Record) -> int | None:
    """Return the error that the end of a request is told as; None where it is none."""
    if end.data["type"] == "RequestCancelled":
        return CANCELLED
    failure = end.data["data"].get("failure")
    return None if failure is None else int(failure["code"])


def runs_twice(record: Record, evidence: Evidence) -> Iterator[str]:
    """Yield where a key runs again, or leads to what was asked with other params. I6."""
    data, log = record.data, evidence.log
    fields = data["data"]
    if data["type"] == "RequestAccepted" and fields.get("key"):
        ran = [r.id for r in {**log.elders, **log.requests}.values() if r.key == fields["key"]]
        if len(ran) > 1:
            yield f"{fields['key']} runs as {ran}"
    if data["type"] == "RequestAttached":
        command = log.by_seq[data["group"][0]].data
        target = log.requests.get(fields["target"])
        if target is None or target.key != command["data"].get("key"):
            yield f"{command['data'].get('key')} leads to a request of another key"
        elif command["type"] == "Submit" and command["data"]["params_digest"] != target.params_digest:
            yield f"{target.key} was taken with other params"


def is_answer_recorded(message: JsonObject, evidence: Evidence) -> bool:
    """Whether an answer is in the log, as the end of its request or beside it, durable where that was promised."""
    rpc, error = message["id"], message.get("error")
    if error is not None and error["code"] in UNRECORDABLE:
        return True
    request = evidence.log.by_rpc.get(rpc) if rpc is not None else None
    end = end_of(request) if request is not None else None
    if request is not None and end is not None:
        fits = (error is None) == (end.data["type"] in {"RequestCompleted", "RequestReplied"})
        if fits and (evidence.durability == "process" or end.is_durable(evidence.disk) or evidence.is_copied(request)):
            return True
        if fits and evidence.may_be_gone(request) and not end.is_named(evidence.disk):
            return True  # It was copied and dropped, and the copy was forgotten, while this was on its way.
    if error is not None and error["code"] == TOO_LARGE and (end is not None or evidence.log.asides.get(rpc)):
        return True  # The log has the answer, which does not fit into a line, or into that of its batch.
    if request is not None and error is not None and error["code"] == EXPIRED:
        return evidence.may_be_gone(request)  # Its end is there, and its text is not.
    if request is not None and error is not None and error["code"] == SUSPENDED:
        return any(evidence.durability == "process" or s.is_durable(evidence.disk) for s in request.suspensions)
    asides = [aside.data for aside in evidence.log.asides.get(rpc, ())]
    if error is None:
        return any("failure" not in a and a.get("result", message["result"]) == message["result"] for a in asides)
    shown = {"code": error["code"], "message": error["message"], "data": error.get("data", {})}
    return any(aside.get("failure") == shown for aside in asides)


def wrong_text(host: Heard, message: JsonObject, evidence: Evidence) -> Iterator[str]:
    """Yield where an answer is not what the model said, or not what the pieces said."""
    asked = host.asked.get(message["id"]) if message["id"] is not None else None
    result = message.get("result")
    if asked is None or "prompt" not in asked or not result:  # A ping under the id of a chat has an empty one.
        return
    text = result["text"] if "text" in result else result["message"]["content"]
    resumed = result.get("resumed")
    if not is_answer(asked["prompt"], text, goes_on_otherwise=resumed == "prefill"):
        yield f"the answer to {asked['prompt']}, resumed: {resumed}, is {text!r}"
    if resumed == "prefill" and asked.get("determinism") == "exact" and not evidence.build:
        yield f"{asked['prompt']} was to be exact, nothing has changed, and it went on by prefill"
    told = "".join(delta["delta"].get("content", "") for delta in host.deltas.get(message["id"], ()))
    if asked["stream"] and told != text:
        yield f"the pieces of {asked['prompt']} were {told!r}"


def unanswered(host: Heard, evidence: Evidence) -> Iterator[str]:
    """Yield what was not answered once.

    What others than the first asked when the sidecar was leaving need not have been let in, nor what anybody asked
    after a shutdown; and it waits for a while only for them to read, but for the first, which closed its end, as long
    as that takes.
    """
    log, is_patient = evidence.log, host.first and not evidence.shut_down
    for rpc, times in host.asked_often.items():
        answers = len(host.answers.get(rpc, ()))
        let_in = is_patient or (rpc in log.by_rpc and log.by_rpc[rpc].accepted)
        is_owed = let_in and not host.deaf and (is_patient or not host.late)
        if answers > times or (answers < times and is_owed):
            yield f"{host.name} asked {rpc} {times} times and was answered {answers} times"
