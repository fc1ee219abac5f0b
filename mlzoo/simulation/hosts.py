"""A host, played from its plan: it asks, cancels, reads or does not, and leaves; what it heard goes into evidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, assert_never

import orjson
import trio

from mlzoo.simulation import actions, garbage, plans
from mlzoo.simulation.evidence import is_of_key, saying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.evidence import Evidence, Heard
    from mlzoo.simulation.pipe import Pipe

FREE = {"stream", "deadline_ms"}  # that may differ between calls with one key
PATIENCE_S = 60.0  # that a host waits for its answers before it leaves


class Host:
    """One host.

    Args:
        plan: what it does.
        pipe: to its sidecar.
        heard: what it is told, and what it is owed.
        ids: where it takes the ids of its calls from.
        evidence: what is known of the story, to which it adds what it says.
    """

    def __init__(self, plan: plans.HostPlan, pipe: Pipe, heard: Heard, ids: Iterator[int], evidence: Evidence) -> None:
        self._plan = plan
        self._pipe = pipe
        self._heard = heard
        self._ids = ids
        self._evidence = evidence
        self._last: list[int] = []  # the ids of its calls
        self._generations: list[int] = []  # those of them that take a while

    async def play(self) -> None:
        """Do everything that the plan says; then read on, wait for the answers, and leave."""
        for action in self._plan.actions:
            if isinstance(action, actions.EndInput):
                self._end(in_mid_line=action.in_mid_line)
                break
            await self._do(action)
        await self._settle()
        self._pipe.end_input()

    async def _settle(self) -> None:
        self._read_on()
        with trio.move_on_after(PATIENCE_S):
            await self._answered()

    async def _answered(self) -> None:
        while not self._heard.deaf and self._is_owed():
            await self._pipe.taken()

    def _is_owed(self) -> bool:
        heard = self._heard
        return any(len(heard.answers.get(id_, ())) < times for id_, times in heard.asked_often.items())

    def _end(self, *, in_mid_line: bool) -> None:
        if in_mid_line:
            self._pipe.feed(b'{"jsonrpc":"2.0","method":"pi')
            self._heard.garbage += 1  # What stands before the end of input is a line.
        self._pipe.end_input()

    async def _do(self, action: actions.Action) -> None:
        match action:
            case actions.Ask():
                self._send(self._call(action))
            case actions.Together():
                self._send([self._call(ask) for ask in action.asks])
            case actions.Cancel():
                calls = self._generations
                target = calls[-1 - action.back] if action.back < len(calls) else 999_999_999
                ask = actions.Ask("cancel", {"request": target})
                self._send(self._message(ask) if action.notify else self._call(ask))
            case actions.Forget():
                self._forget(action.back)
            case actions.Fork():
                self._fork(action)
            case actions.Say():
                self._heard.garbage += 1
                self._pipe.feed(garbage.MENU[action.garbage] + b"\n")
            case actions.Repeat():
                if action.back < len(self._last):
                    self._send(self._call(actions.Ask("ping"), self._last[-1 - action.back]))
            case actions.Pause():
                await trio.sleep(action.for_s)
            case actions.Settle():
                await self._settle()
            case actions.Turns():
                for _ in range(action.count):
                    await trio.lowlevel.checkpoint()
            case actions.Stop():
                self._stop_reading()
            case actions.Take():
                self._stop_reading()
                self._pipe.take(action.size_bytes)
            case actions.ReadOn():
                self._read_on()
            case actions.CloseOutput():
                self._heard.deaf = True
                self._pipe.break_off()
            case actions.EndInput():
                return
            case _:
                assert_never(action)

    def _forget(self, back: int) -> None:
        """Name a request as its answer did: a host that was not answered knows no name."""
        if back >= len(self._generations):
            return
        id_ = self._generations[-1 - back]
        for answer in self._heard.answers.get(id_, ()):
            if "id" in answer.get("result", {}):
                call = self._call(actions.Ask("forget", {"request": answer["result"]["id"]}))
                self._heard.asked[call["id"]] = self._evidence.about_to_forget(self._heard.asked[id_]["words"])
                self._send(call)
                return

    def _fork(self, action: actions.Fork) -> None:
        """Fork a conversation at a place of which it was told; a host that was told of none knows none."""
        for id_ in reversed(self._last):
            if self._heard.asked[id_].get("talks") != action.conversation:
                continue
            for answer in self._heard.answers.get(id_, ()):
                messages = answer.get("result", {}).get("messages", ())
                if action.back < len(messages):
                    at = messages[-1 - action.back]["log_seq"]
                    params = {"conversation": action.conversation, "at": at, "into": action.into}
                    self._send(self._call(actions.Ask("conversations.fork", params)))
                    return

    def _stop_reading(self) -> None:
        self._pipe.reads = False
        self._heard.reads_since_s = math.inf

    def _read_on(self) -> None:
        if not self._pipe.reads:
            self._heard.reads_since_s = trio.current_time()
        self._pipe.read_on()

    def _call(self, ask: actions.Ask, id_: int | None = None) -> dict[str, Any]:
        heard = self._heard
        if id_ is None:
            id_ = next(self._ids)
            self._last.append(id_)
            heard.asked[id_] = {}
        heard.asked_often[id_] = heard.asked_often.get(id_, 0) + 1
        message = {**self._message(ask), "id": id_}
        if ask.method in {"chat", "complete"}:
            self._generations.append(id_)
            words = saying(ask.key or id_)
            prompt = f"{words}:{ask.pieces}"
            heard.asked[id_] = {"prompt": prompt, "words": words, **ask.params, **self._comes_again(words)}
            self._evidence.say(words, id_, ephemeral=ask.params.get("retention") == "ephemeral")
            given = (
                {"prompt": prompt} if ask.method == "complete" else {"messages": [{"role": "user", "content": prompt}]}
            )
            message["params"] = {**ask.params, **given, **({"key": ask.key} if ask.key else {})}
            if ask.key:
                told = {name: value for name, value in ask.params.items() if name not in FREE}
                self._evidence.keyed[id_] = heard.asked[id_]["params"] = {**told, **given}
        elif ask.method == "resume":
            words = saying(ask.params["key"])
            heard.asked[id_] = {"after": ask.params["after"], "params": None, **self._comes_again(words)}
            self._evidence.calls[id_] = words
        elif ask.method == "forget" and "key" in ask.params:
            heard.asked[id_] = self._evidence.about_to_forget(saying(ask.params["key"]))
        elif ask.method == "conversations.get":
            heard.asked[id_] = {"talks": ask.params["conversation"]}
        elif ask.method in {"conversations.delete", "personas.delete"}:
            self._evidence.deleted |= set(ask.params.values())
        elif ask.method == "shutdown":
            self._evidence.shut_down = True
        elif ask.method == "events.subscribe":
            heard.asked[id_] = {"subscribes": ask.params.get("after")}
        return message

    def _comes_again(self, words: str) -> dict[str, Any]:
        """Return what is to be known of a call with a key: whether somebody had that forgotten before."""
        return {"comes_again": is_of_key(words) and words in self._evidence.forgotten}

    def _message(self, ask: actions.Ask) -> dict[str, Any]:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": ask.method}
        return {**message, "params": ask.params} if ask.params else message

    def _send(self, message: object) -> None:
        line = orjson.dumps(message) + self._plan.line_end
        half = len(line) // 2 if self._plan.splits else 0
        for part in (line[:half], line[half:]):
            if part:
                self._pipe.feed(part)


def stays_s(plan: plans.HostPlan) -> float:
    """Return how long a host stays at most: as long as it pauses, and waits for answers that do not come."""
    stays = 0.0
    for action in plan.actions:
        match action:
            case actions.Pause(for_s):
                stays += for_s
            case actions.Settle():
                stays += PATIENCE_S
            case actions.EndInput():
                return stays
            case _:
                pass
    return stays + PATIENCE_S
