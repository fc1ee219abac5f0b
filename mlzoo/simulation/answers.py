"""What a host may be told: what the log has, as durably as it was promised, and what a model said. Parts of I4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.simulation.evidence import TERMINAL, TRANSIENT
from mlzoo.simulation.workers import is_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.evidence import Evidence, Heard, JsonObject, Record

SUSPENDED, EXPIRED = 1008, 1013
UNRECORDABLE = {1014, 1015}  # what the log itself cannot take


def is_shown_early(record: Record, evidence: Evidence) -> bool:
    """Whether a record is shown that had to be durable first, and is not."""
    waits = record.data["type"] in TERMINAL - TRANSIENT
    return waits and evidence.durability == "disk" and not record.is_durable(evidence.disk)


def is_answer_recorded(message: JsonObject, evidence: Evidence) -> bool:
    """Whether an answer is in the log, as the end of its request or beside it, durable where that was promised."""
    rpc, error = message["id"], message.get("error")
    if error is not None and error["code"] in UNRECORDABLE:
        return True
    request = evidence.log.by_rpc.get(rpc) if rpc is not None else None
    if request is not None and request.terminals:
        end = request.terminals[-1]
        fits = (error is None) == (end.data["type"] in {"RequestCompleted", "RequestReplied"})
        if fits and (evidence.durability == "process" or end.is_durable(evidence.disk)):
            return True
    if request is not None and error is not None and error["code"] == EXPIRED:
        return request.ephemeral or evidence.forgets > 0  # Its end is there, and its text is not.
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
    told = "".join(delta["delta"]["content"] for delta in host.deltas.get(message["id"], ()))
    if asked["stream"] and told != text:
        yield f"the pieces of {asked['prompt']} were {told!r}"
