"""Keys: a request under a key runs once, and whoever comes with the key again hears what became of it.

A key is bound when its request is accepted, and for ever. The state holds those whose request lives or has ended not
long ago; of all others the shell stamps into the command what the log's index of keys says (``KeyFacts``). Age is that
of the log's own clock, so that no jump of the wall clock ends a key early or brings one back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors
from mlzoo.core.state import under_key
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import RequestState, State
    from mlzoo.errors import Failure


def reuse(draft: Draft, command: cmd.Submit) -> bool:
    """Answer a request whose key is bound already, without running it again; False where it is free."""
    bound = _bound(draft, command)
    if bound is None:
        return False
    if bound.params_digest != command.params_digest:
        other = errors.InvalidParams(
            "The key was used before with other params: take another key, or send the same params.",
            path="key",
            expected="the params of the request that this key was first used for",
        ).failure()
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=other))
    else:
        _attach(draft, command, bound, after=-1, stream=command.stream)
    return True


def resume(draft: Draft, command: cmd.Resume) -> None:
    """Show the request under a key from a piece on."""
    bound = _bound(draft, command)
    if bound is None:
        unknown = errors.NotFound(
            "No request was accepted under this key; send the request itself, with the key.", what="key", id=command.key
        ).failure()
        failure = command.refused or unknown
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=failure))
        return
    _attach(draft, command, bound, after=command.after, stream=True)


def live_under(state: State, command: cmd.Cancel) -> RequestState | None:
    """Return the request that lives under the key of a cancel, if that is the one which is meant."""
    live = under_key(state, command.key)
    is_meant = live is not None and command.params_digest in {"", live.params_digest}
    return live if is_meant else None


def _bound(draft: Draft, command: cmd.Submit | cmd.Resume) -> RequestState | cmd.KeyFacts | None:
    live = under_key(draft.state, command.key)
    return live if live is not None else draft.state.keys.get(command.key, command.known)


def _attach(
    draft: Draft,
    command: cmd.Submit | cmd.Resume,
    bound: RequestState | cmd.KeyFacts,
    *,
    after: int,
    stream: bool,
) -> None:
    refusal = _nothing_comes(draft.state, bound) or _out_of_range(draft, command, bound, after)
    if refusal is not None:
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=refusal))
        return
    draft.say(
        ev.RequestAttached(
            request=command.request,
            caller=command.caller,
            target=bound.request if isinstance(bound, cmd.KeyFacts) else bound.id,
            from_seq=bound.accepted_seq,
            upto_seq=bound.ended_seq if isinstance(bound, cmd.KeyFacts) else None,
            after=after,
            stream=stream,
        )
    )


def _nothing_comes(state: State, bound: RequestState | cmd.KeyFacts) -> Failure | None:
    """Return why a call cannot wait for what becomes of a request in this life, or None."""
    if isinstance(bound, cmd.KeyFacts) or not state.stopped:
        return None
    message = "The sidecar has stopped; the next one goes on with the request under this key: resume it there."
    return errors.ShuttingDown(message).failure()


def _out_of_range(
    draft: Draft, command: cmd.Submit | cmd.Resume, bound: RequestState | cmd.KeyFacts, after: int
) -> Failure | None:
    """Return why nothing can be shown from there on, or None."""
    if isinstance(bound, cmd.KeyFacts):
        is_old = draft.at_ms - bound.ended_at_ms >= draft.state.bounds.key_ms
        is_kept = bound.accepted_seq >= command.kept_from
        refused = command.refused
        if not is_old and not is_kept and refused is not None and refused.code == errors.LogUnusable.code:
            return refused  # It may be there, and is damaged; no other reason to refuse keeps what a key stands for.
        if is_old or not is_kept:
            return errors.OutOfRange(
                "The result under this key is not kept any more, and a key never runs twice: take another key.",
                oldest=bound.next_seq,
            ).failure()
    if after >= bound.next_seq:
        return errors.OutOfRange(
            f"The stream under this key has pieces up to {bound.next_seq - 1}, and none after {after}: resume there.",
            type="ahead",
            durable=bound.next_seq - 1,
        ).failure()
    return None


def filed(draft: Draft, command: cmd.ReportKeysFiled) -> None:
    """Let go of the ended keys that the log's index holds from now on."""
    if any(facts.ended_seq <= command.upto_seq for facts in draft.state.keys.values()):
        draft.say(ev.KeysFiled(upto_seq=command.upto_seq))
