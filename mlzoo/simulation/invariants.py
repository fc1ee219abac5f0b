"""What must hold at every moment of every story: I1 to I20, one function each.

Each is given what has just happened, and what is known so far (``evidence``), and yields what is wrong, one sentence
each. A function sees only the steps that it names, since there are many. What an invariant cannot see while a story is
told is checked where it can be: I7 also in ``recoveries``, I15 by telling a story twice (the tests do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from mlzoo.simulation.answers import (
    EXPIRED,
    UNRECORDABLE,
    is_answer_recorded,
    is_piece_recorded,
    is_shown_early,
    not_forgotten,
    not_the_first,
    runs_twice,
    unanswered,
    wrong_text,
)
from mlzoo.simulation.evidence import TERMINAL, TRANSIENT, is_same_but_forgotten
from mlzoo.simulation.steps import Emitted, Ended, Recorded, Recovered, Rewritten, Spawned, Step, Told
from mlzoo.simulation.talks import folded_otherwise, told_otherwise

if TYPE_CHECKING:
    from mlzoo.simulation.evidence import Evidence

LATE_MS = 1000  # after its deadline, at which a request has ended in any case
LEAVING_MS = 13 * 60 * 1000  # after its host left, at which a request has ended: a drain, and disks are slow
CHUNK_BYTES = 64 * 1024  # more than its room that a host's pipe may hold: what was sent last
HELD_BYTES = 64 * 1024  # of answers other than batches that may be held in memory for one host
EVEN_ON_DAMAGE = {"I12", "I13", "I14"}  # A disk that has lost what was durable is another story.
LATE_STEPS = {"RequestStreamed", "RequestDispatched"}


Check = Callable[[Any, "Evidence"], Iterator[str]]
CHECKS: dict[type | str | None, dict[str, Check]] = {
    kind: {} for kind in (Recorded, Rewritten, Told, Emitted, Spawned, Recovered, Ended)
}


def sees(*steps: type | str) -> Callable[[Check], Check]:
    """Have an invariant see these steps; text names a type of record, of which it sees those that are written.

    Most steps are records, and most invariants speak of few types of them: the others are not asked.
    """

    def register(check: Check) -> Check:
        for step in steps:
            CHECKS.setdefault(step, CHECKS[Recorded].copy())[check.__name__] = check
        if Recorded in steps:
            for kind in [kind for kind in CHECKS if isinstance(kind, str)]:
                CHECKS[kind][check.__name__] = check
        return check

    return register


def violated(step: Step, evidence: Evidence) -> list[tuple[str, str]]:
    """Return what a step violates: (invariant, what is wrong)."""
    checks = CHECKS[type(step)]
    if isinstance(step, Recorded):
        checks = CHECKS.get(step.record.data.get("type"), checks)
    if evidence.damaged:
        checks = {name: check for name, check in checks.items() if name in EVEN_ON_DAMAGE}
    return [(name, what) for name, check in checks.items() for what in check(step, evidence)]


@sees("RequestAccepted", *TERMINAL, Ended)
def I1(step: Recorded | Ended, evidence: Evidence) -> Iterator[str]:  # noqa: N802 - invariants are known by these names
    """Every accepted request has exactly one accepted record and one terminal event, in the log and at the host."""
    match step:
        case Recorded(record):
            request = evidence.log.request(record.data["data"]["request"])
            if request.accepted > 1 or len(request.terminals) > 1:
                yield f"{request.id} was accepted {request.accepted} and ended {len(request.terminals)} times"
        case Ended() if not evidence.storage_failed and not evidence.damaged:
            yield from (
                f"{r.id} was accepted and never ended"
                for r in evidence.log.requests.values()
                if r.accepted and not r.terminals and not (r.key and r.suspensions)  # Else it went, with its end.
            )
            for host in evidence.hosts:
                yield from unanswered(host, evidence)


@sees(Recovered, Rewritten)
def I2(step: Recovered | Rewritten, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """No acknowledged event is lost."""
    if isinstance(step, Rewritten):
        if not is_same_but_forgotten(step.was, step.now, evidence):
            yield f"nobody wanted that forgotten: {step.was!r}"
        return
    kept, groups = evidence.kept, evidence.log.groups
    found = [record.line for record in groups]
    if kept and groups:
        # A segment that was removed may come back, as long as that was not made durable.
        found = found[max(0, orjson.loads(kept[0])["log_seq"] - groups[0].data["log_seq"]) :]
    if found[: len(kept)] != kept:
        pairs = zip(kept, found, strict=False)
        if len(found) < len(kept) or not all(is_same_but_forgotten(*pair, evidence) for pair in pairs):
            yield f"a crash had to leave {len(kept)} records, not all of them are among the {len(found)} found"
    if step.state is not None and groups and groups[-1].data["log_seq"] != step.last_seq:
        yield f"the log ends at {step.last_seq} and its files at {groups[-1].data['log_seq']}"
    if step.state is not None and len(groups) < step.last_seq - step.oldest_seq + 1:
        yield f"the log has {step.oldest_seq} to {step.last_seq} and its files hold {len(groups)} records"


@sees("RequestStreamed", Told)
def I3(step: Recorded | Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Stream seqs are 0..n-1: no gap, duplicate or reorder."""
    match step:
        case Recorded(record):
            request = evidence.log.request(record.data["data"]["request"])
            seqs = [seq for seq, _ in request.pieces if seq is not None]
            if seqs and seqs[-1] != len(seqs) - 1:
                yield f"{request.id}: piece {len(seqs) - 1} is recorded as {seqs[-1]}"
        case Told(host, {"method": "stream", "params": params}):
            heard = len(host.deltas[params["request"]])
            wanted = host.asked.get(params["request"], {}).get("after", -1) + heard
            if params["seq"] != wanted:
                yield f"{host.name} heard {params['seq']} as piece {wanted} of {params['request']}"
        case Told(host, {"method": "event", "params": params}):
            wanted = host.read_upto[params["subscription"]] + 1
            if params["log_seq"] != wanted:
                yield f"{host.name} heard of {params['log_seq']} where {wanted} comes next"
        case _:
            return


@sees(Told)
def I4(step: Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """What the host saw equals what the log has; nothing was emitted that is absent from it."""
    message = step.message
    match message.get("method"):
        case "stream":
            params = message["params"]
            request = evidence.log.by_rpc.get(params["request"])
            said = params["seq"], params["delta"].get("content", "")
            if request is None or not is_piece_recorded(request, said, evidence):
                yield f"a piece is not in the log: {params}"
        case "event":
            params = message["params"]
            record = evidence.log.by_seq.get(params["log_seq"])
            if record is None or any(record.data[name] != params[name] for name in ("type", "data")):
                yield f"an event is not in the log: {params}"
            elif is_shown_early(record, evidence):
                yield f"an end was shown before it was durable: {params}"
        case "progress":
            if not any(aside.data.get("params") == message["params"] for aside in evidence.log.asides.get(None, ())):
                yield f"progress is not in the log: {message['params']}"
        case None if not evidence.unusable:
            if not is_answer_recorded(message, evidence):
                yield f"an answer is not in the log, or not as durably as promised: {message}"
            yield from wrong_text(step.host, message, evidence)
        case "subscription_ended":
            code = message["params"]["error"]["code"]
            if code not in UNRECORDABLE and not (code == EXPIRED and evidence.drops):
                yield f"a subscription ended otherwise than by what is kept: {message['params']}"
        case str(method):
            yield f"nobody asked for {method}"
        case _:
            return


@sees(Recorded, Told)
def I5(step: Recorded | Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Nothing follows a terminal."""
    match step:
        case Recorded(record) if record.data["kind"] == "event" and record.data["type"] not in TERMINAL:
            name = record.data["data"].get("request")
            if name is not None and record.data["type"] != "WorkAbandoned" and evidence.log.request(name).terminals:
                yield f"{record.data['type']} follows the end of {name}"
        case Told(host, {"method": "stream", "params": params}):
            rpc = params["request"]
            if len(host.answers.get(rpc, ())) >= host.asked_often.get(rpc, 1):
                yield f"{host.name} heard a piece of {rpc} after its answer"
        case _:
            return


@sees("RequestAccepted", "RequestAttached")
def I6(step: Recorded, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """A key never runs twice; other params under the same key are refused."""
    yield from runs_twice(step.record, evidence)


@sees(Recovered)
def I7(step: Recovered, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """After recovery the log parses whole; recovering twice equals once; a crash in recovery is safe."""
    if evidence.damaged:
        return
    yield from step.faults
    if not step.again:
        yield "a second recovery found something else than the first"


@sees(Recovered)
def I8(step: Recovered, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """The folded log equals the live state; snapshot + tail equals the full fold."""
    if step.state is None:
        return
    live = evidence.states.get(step.last_seq)
    if live is not None and step.state != live:
        yield f"the log folds to another state at {step.last_seq} than the sidecar had there"
    if step.whole is not None and step.whole != step.state:
        yield f"snapshot and tail fold to another state at {step.last_seq} than the whole log"


@sees(*TERMINAL, Ended)
def I9(step: Recorded | Ended, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Every request ends within a bounded virtual time.

    A load may take longer than most hosts stay, so that the bound counts from when the host leaves.
    """
    match step:
        case Recorded(record):
            request = evidence.log.request(record.data["data"]["request"])
            took_ms = record.data["at_ms"] - max(request.accepted_at_ms, evidence.began_at_ms)  # of this life
            if request.accepted and took_ms > evidence.stays_ms + LEAVING_MS + evidence.slept_ms:
                yield f"{request.id} took {took_ms} ms, and its host stays {evidence.stays_ms} ms"
        case Ended(open_requests=count) if count and not evidence.storage_failed:
            yield f"the sidecar left while {count} requests were open"


@sees(*LATE_STEPS, "RequestCancelled", "Cancel")
def I10(step: Recorded, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Cancel gives one terminal and no later token."""
    data = step.record.data
    if data["type"] in LATE_STEPS and evidence.log.request(data["data"]["request"]).cancelled:
        yield f"{data['type']} of {data['data']['request']}, which was cancelled"
    if data["type"] == "RequestCancelled":
        command = evidence.log.by_seq[data["group"][0]].data
        wanted = {command["data"].get("target"), command["data"].get("request")}
        key = evidence.log.request(data["data"]["request"]).key
        is_attached = key != "" and key == command["data"].get("key")  # what was named heard of this one
        if command["type"] == "Cancel" and data["data"]["request"] not in wanted and not is_attached:
            yield f"{data['data']['request']} was cancelled though {wanted} was to be"
    if data["type"] == "Cancel":
        target = data["data"].get("target")
        live = evidence.log.requests.get(target) if target is not None else None
        if live is not None and not live.terminals and data["group"][1] < 2:
            yield f"a cancel of {target}, which runs, led to nothing"


@sees("RequestFailed", "RequestSuspended", Spawned)
def I11(step: Recorded | Spawned, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """One worker's failure touches its own requests only; restarts are bounded."""
    match step:
        case Recorded(record):
            command = evidence.log.by_seq[record.data["group"][0]].data
            request = evidence.log.request(record.data["data"]["request"])
            if command["type"] == "ReportWorkerLost" and request.ran_on not in {None, command["data"]["device"]}:
                yield f"{request.id} ran on {request.ran_on} and died with the worker of {command['data']['device']}"
        case Spawned() if evidence.spawned > evidence.log.loads:
            yield f"{evidence.spawned} worker processes were started for {evidence.log.loads} loads"


@sees(Emitted)
def I12(step: Emitted, _evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Memory is bounded when the host stops reading."""
    if step.waiting_bytes > step.room_bytes:
        yield f"{len(step.data)} bytes were sent while {step.waiting_bytes} waited and {step.room_bytes} had room"
    if step.held_bytes > HELD_BYTES:
        yield f"{step.held_bytes} bytes are held in memory for {step.host.name}"


@sees(Told, Ended)
def I13(step: Told | Ended, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Malformed input gives one error, never kills the process or poisons the log."""
    if isinstance(step, Told):
        if step.message.get("id", "") is None and step.host.nameless > step.host.garbage:
            yield f"{step.host.name} heard {step.host.nameless} errors for {step.host.garbage} malformed lines"
        return
    yield from evidence.incidents
    for host in evidence.hosts:
        heard_out = host.first and not host.deaf and not evidence.shut_down
        if host.nameless < host.garbage and heard_out and not evidence.storage_failed:
            yield f"{host.name} sent {host.garbage} malformed lines and heard {host.nameless} errors"
    if step.status not in ({0, 3} if evidence.storage_failed else {0}):
        yield f"the sidecar left with status {step.status}"


@sees(Emitted, Told)
def I14(step: Emitted | Told, _evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Stdout holds only whole valid lines."""
    match step:
        case Emitted(data=data) if data and not data.endswith(b"\n"):
            yield f"half a line was sent: {data[-60:]!r}"
        case Told(_, message) if message.get("jsonrpc") != "2.0" or not (
            {"result", "error", "method"} & message.keys()
        ):
            yield f"a line is no message of JSON-RPC 2.0: {message}"
        case _:
            return


@sees(Recorded)
def I16(step: Recorded, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """Order and deadlines ignore jumps of the wall clock."""
    data, log = step.record.data, evidence.log
    at_ms = data["at_ms"]
    if at_ms < log.last_at_ms:
        yield f"the log's clock went back from {log.last_at_ms} to {at_ms}"
    log.last_at_ms = max(log.last_at_ms, at_ms)
    lived_ms = evidence.now_ms - evidence.began_ms
    if at_ms - evidence.began_at_ms > lived_ms + 1:
        yield f"the log's clock says {at_ms - evidence.began_at_ms} ms of a life that has lasted {lived_ms}"
    if data["type"] in TERMINAL:
        request = log.request(data["data"]["request"])
        late_ms = LATE_MS + evidence.slept_ms
        if request.deadline_at_ms is not None and at_ms > request.deadline_at_ms + late_ms:
            yield f"{request.id} ended {at_ms - request.deadline_at_ms} ms after its deadline"


@sees(Told, Ended, Recovered)
def I17(step: Told | Ended | Recovered, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """What was forgotten, and what was to be ephemeral, is nowhere on the disk; after a crash neither."""
    if isinstance(step, Told) and "forgets" not in step.host.asked.get(step.message.get("id", ""), {}):
        return
    yield from (f"though forgotten, there is {place}" for place in evidence.on_disk(evidence.forgotten))
    yield from (f"though ephemeral, there is {place}" for place in evidence.on_disk(evidence.ephemeral))


@sees(Told)
def I18(step: Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """What has ended under a key, and is neither forgotten nor ephemeral, is told whenever it is asked for."""
    if "method" not in step.message:
        yield from not_the_first(step.host, step.message, evidence)


@sees(Told)
def I19(step: Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """A key that was forgotten stays bound and says nothing: who comes with it again hears that, and no text."""
    if "method" not in step.message:
        yield from not_forgotten(step.host, step.message, evidence)


@sees(Recovered, Told)
def I20(step: Recovered | Told, evidence: Evidence) -> Iterator[str]:  # noqa: N802
    """A conversation is its turns that ended well, in their order: in every state, and whenever it is told."""
    if isinstance(step, Recovered):
        yield from () if step.state is None else folded_otherwise(evidence.log.talks, step.state)
    elif "talks" in step.host.asked.get(step.message.get("id", ""), {}) and step.message.get("result"):
        yield from told_otherwise(evidence.log.talks, step.message["result"])


assert {"RequestStreamed"} <= TRANSIENT, "tokens wait for no sync"
