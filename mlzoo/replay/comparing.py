"""What was heard again against what was heard then, call by call: the pure part of ``mlzoo replay rerun``.

With recorded model output every piece of a stream and every answer must be the same, but for what ``volatile`` names.
With real weights token ids are compared instead of the borders of pieces: what asked for ``exact`` must have the same
ones. Of what did not (``fast``) nothing is promised, since company changes the last bits of a step; but those decide
between two tokens rarely. So a greedy answer that parts in its first ``EARLY`` tokens is a fault, and so is it where of
``SEVERAL`` fast answers or more each one parts: then something else has changed. Any other difference of theirs is told
and is no fault. Notifications of progress and subscribed events are not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.events.recording import Line
from mlzoo.replay.differences import Difference, differences
from mlzoo.replay.volatile import UNCOMPARED, steady

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlzoo.events.recording import Recording
    from mlzoo.replay.stand_ins import Heard

Tokens = dict[tuple[str, str | int], list[int]]
"""(connection, the host's id) -> the ids of what was generated for that call."""
GENERATES = frozenset({"chat", "complete"})
EARLY = 4
"""So many tokens of a greedy answer must be the recorded ones."""
SEVERAL = 3
FAST = "determinism fast promises no equal tokens"
ALL_PART = "each of the {count} answers with determinism fast parts from the recorded one: that is not rounding"
INTERRUPTED = frozenset({-32800, 1002, 1008, 1009})
"""Errors after which a text is as long as there was time for it."""
BY_THE_CLOCK = frozenset({1002, 1008})
"""Errors whose moment is the clock's: a deadline has passed, or the time to drain."""
CLOCK = "the recorded end depended on the clock, and what was said up to there is the same"


@attrs.frozen(kw_only=True)
class Verdict:
    """What became of one call.

    Attributes:
        allowed: why a difference is no fault; empty where it is one.
    """

    connection: str
    line: Line
    found: tuple[Difference, ...]
    allowed: str = ""


def verdicts(
    recorded: Recording,
    heard: Mapping[tuple[str, int], Heard],
    tokens: tuple[Tokens, Tokens] | None = None,
    unheard: Mapping[tuple[str, int], int] | None = None,
) -> list[Verdict]:
    """Compare every line that was sent again.

    Args:
        recorded: what was heard then.
        heard: what was heard again; lines that are missing here were not sent.
        tokens: with real weights: the token ids of then and of now.
        unheard: calls whose host was gone when they came to their end, and when the life began that ended them.
    """
    pieces, answers = _recorded(recorded, unheard or {})
    greedy = _greedy(recorded)
    result = []
    for line in recorded.lines:
        key = (line.get("host", ""), line.get("n", 0))
        again = heard.get(key)
        if again is None or "id" not in line:
            continue
        before = (pieces.get(key, []), answers.get(key))
        if tokens is not None and line.get("method") in GENERATES:
            is_greedy = (key[0], line["id"]) in greedy
            ids = [known.get((key[0], line["id"])) for known in tokens]
            found, allowed = _of_weights(line, before, again, ids, is_greedy=is_greedy)
        else:
            found, allowed = _of_bytes(line, before, again, is_real=tokens is not None)
        result.append(Verdict(connection=key[0], line=line, found=tuple(found), allowed=allowed))
    return result


def all_part(recorded: Recording, found: Iterable[Verdict]) -> str | None:
    """Return that all of several answers which may part do so; None where they do not."""
    answered = {(line["sidecar"], line.get("for")) for line in recorded.lines if "sidecar" in line and "result" in line}
    answers = [verdict for verdict in found if (verdict.connection, verdict.line["n"]) in answered]
    fast = [verdict for verdict in answers if verdict.line["method"] in GENERATES and not _is_exact(verdict.line)]
    if len(fast) < SEVERAL or not all(verdict.found for verdict in fast):
        return None
    return ALL_PART.format(count=len(fast))


def _is_exact(line: Line) -> bool:
    params = line.get("params")
    return isinstance(params, dict) and params.get("determinism") == "exact"


def _greedy(recorded: Recording) -> set[tuple[str, str | int]]:
    """Return the calls, by connection and the host's id, whose tokens are not drawn: only the best one is taken."""
    submits = [group["command"][2] for group in recorded.groups() if group["command"][0] == "Submit"]
    return {
        (data["caller"]["connection"], data["caller"]["rpc"])
        for data in submits
        if (data.get("sampling") or {}).get("temperature", 0) == 0
    }


def _recorded(
    recorded: Recording, unheard: Mapping[tuple[str, int], int]
) -> tuple[dict[tuple[str, int], list[Line]], dict[tuple[str, int], Line]]:
    pieces: dict[tuple[str, int], list[Line]] = {}
    answers: dict[tuple[str, int], Line] = {}
    for line in recorded.lines:
        key = (line.get("sidecar", ""), line.get("for", 0))
        if key in unheard and line["ms"] >= unheard[key]:
            continue
        if "stream" in line:
            pieces.setdefault(key, []).append(line["stream"])
        elif "result" in line or "error" in line:
            answers[key] = {name: line[name] for name in ("result", "error") if name in line}
    return pieces, answers


def _of_bytes(
    line: Line, before: tuple[list[Line], Line | None], again: Heard, *, is_real: bool
) -> tuple[list[Difference], str]:
    pieces, answer = before
    heard = again.pieces if answer is not None else again.pieces[: len(pieces)]
    if line["method"] == "resume" and is_real:
        old, new = _text(pieces), _text(heard)
        if again.answer is not None and _is_by_the_clock(answer):
            old, new = old[: len(new)], new[: len(old)]
        pieces, heard = [{"content": old}], [{"content": new}]
    if is_real and again.answer is not None and _is_by_the_clock(answer):
        heard = again.pieces[: len(pieces)] if line["method"] != "resume" else heard
        return _ended_by_the_clock(answer, again, differences(pieces, heard, "stream"))
    found = differences(pieces, heard, "stream")
    if answer is None:
        return found, ""  # The recording ends before it: what came afterwards nobody can say.
    if is_real and line["method"] == "embed" and "result" in answer and "result" in (again.answer or {}):
        return _of_vectors(answer["result"], (again.answer or {})["result"])
    if is_real and line["method"] == "predict" and "result" in answer and "result" in (again.answer or {}):
        return _of_outputs(answer["result"], (again.answer or {})["result"])
    return found + _of_answers(line["method"], answer, again.answer), ""


def _of_answers(method: str, answer: Line, again: Line | None) -> list[Difference]:
    if again is None:
        return differences(answer, None, "answer")
    if "result" in answer and "result" in again:
        if method in UNCOMPARED:
            return []
        return differences(steady(method, answer["result"]), steady(method, again["result"]), "result")
    return differences(answer, {"error": _plain(again["error"])} if "error" in again else again)


def _plain(error: Line) -> Line:
    return {name: value for name, value in error.items() if name != "data" or value}


def _of_weights(
    line: Line,
    before: tuple[list[Line], Line | None],
    again: Heard,
    tokens: list[list[int] | None],
    *,
    is_greedy: bool,
) -> tuple[list[Difference], str]:
    """Compare what was generated: by its tokens where both are known, else by its text."""
    pieces, answer = before
    was, now = tokens
    ends = [end for end in (answer, again.answer) if end is not None]
    is_cut = answer is None or any(end.get("error", {}).get("code") in INTERRUPTED for end in ends)
    if was is not None and now is not None:
        if is_cut:  # How far it came in its time is nobody's promise.
            was, now = was[: len(now)], now[: len(was)]
        found = _first(was, now)
        is_early = was[:EARLY] != now[:EARLY]
    else:
        old, new = _said(pieces, answer), _said(again.pieces, again.answer)
        if is_cut:
            old, new = old[: len(new)], new[: len(old)]
        found = differences(old, new, "text")
        is_early = old[:EARLY] != new[:EARLY]  # Characters, of which no token has fewer than one.
    if not found and answer is not None and not is_cut:
        found = _of_answers(line["method"], answer, again.answer)
    what = "" if _is_exact(line) or (is_early and is_greedy) else FAST
    if again.answer is not None and _is_by_the_clock(answer):
        return (found, what) if found else _ended_by_the_clock(answer, again, [])
    if not found and is_cut and answer is not None and (again.answer is None or _is_other(ends)):
        found = differences(_ending(answer), _ending(again.answer), "its end")
    return found, "" if not found or _is_other(ends) else what


def _is_by_the_clock(answer: Line | None) -> bool:
    return answer is not None and answer.get("error", {}).get("code") in BY_THE_CLOCK


def _ended_by_the_clock(answer: Line | None, again: Heard, found: list[Difference]) -> tuple[list[Difference], str]:
    """Tell another end as what it is, no fault, where nothing that was said before it differs."""
    if found:
        return found, ""
    found = differences(_ending(answer), _ending(again.answer), "its end")
    return found, CLOCK if found else ""


def _ending(answer: Line | None) -> Line | None:
    """Return how an answer ended, without what it said."""
    if answer is None or "error" not in answer:
        return None if answer is None else {"result": answer["result"].get("finish_reason")}
    return {"code": answer["error"].get("code"), "message": answer["error"].get("message")}


def _is_other(ends: list[Line]) -> bool:
    """Whether one answer is a result and the other an error, or the errors are not the same."""
    return len({end.get("error", {}).get("code") for end in ends}) > 1


def _first(was: list[int], now: list[int]) -> list[Difference]:
    """Return the first place where token ids differ: what follows it follows from it."""
    for place, (old, new) in enumerate(zip(was, now, strict=False)):
        if old != new:
            path = f"token {place + 1} of {len(was)} (the {place} before it are equal)"
            return [Difference(path, str(old), str(new))]
    if len(was) == len(now):
        return []
    return [Difference("number of tokens", str(len(was)), str(len(now)))]


def _of_vectors(was: Line, now: Line) -> tuple[list[Difference], str]:
    """Compare embeddings; of their last bits nothing is promised, so their largest deviation is told."""
    old, new = was.get("embeddings"), now.get("embeddings")
    rest = differences(_without(was), _without(now), "result")
    if old == new or rest or old is None or new is None or not _have_one_shape(old, new):
        return rest + ([] if rest else differences(old, new, "embeddings")), ""
    pairs = [(a, b) for left, right in zip(old, new, strict=True) for a, b in zip(left, right, strict=True)]
    most = max(abs(a - b) for a, b in pairs)
    changed = sum(a != b for a, b in pairs)
    found = Difference(f"embeddings ({changed} of {len(pairs)} numbers)", "the same", f"up to {most:.3g} apart")
    allowed = "the last bits of an embedding are not promised" if most < CLOSE else ""
    return [found], allowed


CLOSE = 1e-3  # Components of a unit vector: far below what changes a ranking, far above rounding.


def _of_outputs(was: Line, now: Line) -> tuple[list[Difference], str]:
    """Compare predictions; of the last bits of their numbers nothing is promised, so the largest deviation is told."""
    pairs = _numbers(was.get("outputs"), now.get("outputs"))
    if pairs is None or all(a == b for a, b in pairs):
        return differences(steady("predict", was), steady("predict", now), "result"), ""
    rest = [{**steady("predict", said), "outputs": None} for said in (was, now)]
    if found := differences(rest[0], rest[1], "result"):
        return found, ""
    most = max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)
    changed = sum(a != b for a, b in pairs)
    told = Difference(f"outputs ({changed} of {len(pairs)} numbers)", "the same", f"up to {most:.3g} apart")
    return [told], "the last bits of a prediction are not promised" if most < CLOSE else ""


def _numbers(old: Any, new: Any) -> list[tuple[float, float]] | None:
    """Return the numbers of two values, side by side; None where they differ in anything else."""
    if isinstance(old, list) and isinstance(new, list):
        parts = [_numbers(*pair) for pair in zip(old, new, strict=True)] if len(old) == len(new) else [None]
    elif isinstance(old, dict) and isinstance(new, dict):
        parts = [_numbers(old[name], new[name]) for name in old] if list(old) == list(new) else [None]
    elif isinstance(old, float) and isinstance(new, float):
        return [(old, new)]
    else:
        return [] if old == new else None
    return None if None in parts else [pair for part in parts if part is not None for pair in part]


def _have_one_shape(old: Any, new: Any) -> bool:
    if not isinstance(old, list) or not isinstance(new, list):
        return False
    return [len(vector) for vector in old] == [len(vector) for vector in new]


def _without(result: Line) -> Line:
    return {name: value for name, value in steady("embed", result).items() if name != "embeddings"}


def _text(pieces: Iterable[Line]) -> str:
    return "".join([piece.get("delta", {}).get("content", "") for piece in pieces])


def _said(pieces: list[Line], answer: Line | None) -> str:
    if answer is not None and isinstance(result := answer.get("result"), dict):
        return str(result.get("message", {}).get("content", result.get("text", "")))
    if answer is not None:
        partial = answer.get("error", {}).get("data", {}).get("partial")
        if isinstance(partial, str):
            return partial
    return _text(pieces)
