"""Summaries in the place of turns that do not fit: asked of the same model, before the turn that they are too long for.

Where the history of a request is too long, and it is to be summarised, two requests are run, one after the other: the
model says in short what the oldest turns were, behind the same beginning, so that most of them need not be read again;
then it answers, with that in their place. The sidecar hears of the first as one row of the second. Where no summary can
be had, as not one turn fits beside it or the model says nothing, the oldest turns go without one; where the model
fails, so does the request. Knows nothing of what becomes of a summary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.frames import Generate, Prefilled, Replayed, Row, Sampling, Stepped, Summary, Truncation, WorkFailed
from mlzoo.inference.failing import broken
from mlzoo.inference.history import counts
from mlzoo.inference.tool_forms import tools_of
from mlzoo.pipelines.context import (
    room_for_prompt,
    summary_tokens,
    turns_to_summarise,
)

if TYPE_CHECKING:
    from mlzoo.frames import FromWorker
    from mlzoo.inference.engine import BatchEngine
    from mlzoo.inference.loader import ChatModel
    from mlzoo.inference.text import Text
    from mlzoo.inference.tool_forms import Tools

OF = "#summary"  # behind the name of the request that a summary is made for: no request's own name has a number sign
DROP = Truncation(policy="drop_oldest")


@attrs.define
class Plan:
    """A request that waits for a summary: of its oldest turns up to ``cut``, of which the first left_out do not fit."""

    frame: Generate
    cut: int
    left_out: int
    said: str = ""

    def question(self, context: int) -> Generate:
        """Return what is asked of the model first."""
        frame = self.frame
        first, last = sum(frame.turns[: self.left_out]), sum(frame.turns[: self.cut])
        messages, leading = frame.messages or (), frame.leading
        return attrs.evolve(
            frame,
            request=frame.request + OF,
            messages=(
                *messages[:leading],
                *messages[leading + first : leading + last],
                {"role": "user", "content": frame.asks},
            ),
            sampling=Sampling(),
            stop=(),
            max_tokens=summary_tokens(context),
            leading=0,
            turns=(),
            tools=(),
            tool_choice=None,
            response_format=None,
        )

    def summary(self) -> Summary | None:
        """Return the summary; None where the model had nothing to say."""
        text, frame = self.said.strip(), self.frame
        if not text:
            return None
        return Summary(
            text=text,
            turns=frame.numbers[self.cut - 1],
            left_out=frame.left_out + self.left_out,
            of=frame.names[self.left_out : self.cut],
        )

    def turn(self, summary: Summary) -> Generate:
        """Return the request itself, behind the summary."""
        frame = self.frame
        messages, begins = frame.messages or (), frame.leading - frame.summary
        made = ({"role": "user", "content": frame.asks}, {"role": "assistant", "content": summary.text})
        return attrs.evolve(
            frame,
            messages=(
                *messages[:begins],
                *made,
                *messages[frame.leading + sum(frame.turns[: self.cut]) :],
            ),
            leading=begins + len(made),
            summary=len(made),
            turns=frame.turns[self.cut :],
            truncation=DROP,
        )


def plan_of(text: Text, frame: Generate, context: int, tools: Tools = ()) -> Plan | None:
    """Return how a request's history is summarised; None where that need not be, or cannot.

    Raises:
        MlzooError: As ``Text.look`` does.
    """
    may_be = frame.truncation.policy == "summarise" and frame.resume is None and frame.messages is not None
    if not may_be or not frame.turns:
        return None
    tokens = len(text.look(None, frame.messages, tools)[0])
    each = counts(text, frame, tokens)
    cut = turns_to_summarise(each, tokens, room_for_prompt(context, frame.max_tokens))
    if cut == 0 or frame.numbers[cut - 1] == 0:
        return None
    room = context - summary_tokens(context)
    plan = Plan(frame, cut, 0)
    while plan.left_out < cut:
        question = len(text.look(None, plan.question(context).messages)[0])
        if question <= room:
            return plan
        surely = sum(each[plan.left_out : cut]) * (question - room) // max(1, question)
        gone = 0
        while gone <= surely // 2 and plan.left_out < cut:  # About half of what is too much: they are estimates.
            gone += max(1, each[plan.left_out])
            plan.left_out += 1
    return None


class Summarising:
    """Runs the requests of one model as its engine does, with summaries where histories are too long.

    Args:
        engine: the engine.
        model: whose it is.
    """

    def __init__(self, engine: BatchEngine, model: ChatModel) -> None:
        self._engine, self._model, self._said_why = engine, model, model.why
        self._text, self._context, self._tool_form = model.text, model.decoder.context, model.tool_form
        self._plans: dict[str, Plan] = {}  # by the name of what is asked first

    @property
    def any_threads(self) -> bool:
        """See ``BatchEngine``."""
        return self._engine.any_threads

    def free(self) -> None:
        """See ``BatchEngine``."""
        self._engine.free()

    @property
    def idle(self) -> bool:
        """See ``BatchEngine``."""
        return self._engine.idle

    @property
    def only_decodes(self) -> bool:
        """See ``BatchEngine``."""
        return self._engine.only_decodes

    @property
    def expects_news(self) -> bool:
        """Whether something is being made for the model, of which there will be news without any request."""
        return self._model.compiled is not None and self._model.compiled.making is not None

    def news(self) -> tuple[str, ...]:
        """Return what was chosen for the model and why, where that has changed since it was asked for; else nothing."""
        if self._model.compiled is not None:
            self._model.compiled.watch()
        before, self._said_why = self._said_why, self._model.why
        return self._said_why if self._said_why != before else ()

    def submit(self, frame: Generate) -> list[FromWorker]:
        """See ``BatchEngine``."""
        try:
            plan = plan_of(self._text, frame, self._context, tools_of(frame, self._tool_form))
        except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
            return [broken(frame.request, error)]
        if plan is None:
            return self._engine.submit(frame)
        question = plan.question(self._context)
        self._plans[question.request] = plan
        return self._heard(self._engine.submit(question))

    def abandon(self, request: str) -> None:
        """See ``BatchEngine``."""
        self._plans.pop(request + OF, None)
        self._engine.abandon(request + OF)
        self._engine.abandon(request)

    def forget(self) -> None:
        """See ``BatchEngine``; requests that wait for a summary begin later, and are not kept either."""
        self._engine.forget()
        for plan in self._plans.values():
            plan.frame = attrs.evolve(plan.frame, ephemeral=True)

    def step(self) -> list[FromWorker]:
        """See ``BatchEngine``."""
        return self._heard(self._engine.step())

    def _heard(self, said: list[FromWorker]) -> list[FromWorker]:
        """Return what is to be said, of summaries as well; where one is whole, its request begins."""
        if not self._plans:
            return said
        told: list[FromWorker] = []
        for frame in said:
            match frame:
                case Stepped():
                    others = tuple(row for row in frame.rows if row.request not in self._plans)
                    told += [Stepped(rows=others)] if others else []
                    for row in frame.rows:
                        told += self._piece(row) if row.request in self._plans else []
                case Prefilled() | Replayed() if frame.request in self._plans:
                    told.append(attrs.evolve(frame, request=frame.request.removesuffix(OF)))
                case WorkFailed() if frame.request in self._plans:
                    del self._plans[frame.request]
                    told.append(attrs.evolve(frame, request=frame.request.removesuffix(OF)))
                case _:
                    told.append(frame)
        return told

    def _piece(self, row: Row) -> list[FromWorker]:
        plan = self._plans[row.request]
        plan.said += row.content
        if row.finish_reason is None:
            return []
        del self._plans[row.request]
        summary = plan.summary()
        if summary is None:
            return self._engine.submit(plan.frame)
        made = Row(request=plan.frame.request, content="", tokens=(), summary=summary)
        return [Stepped(rows=(made,)), *self._engine.submit(plan.turn(summary))]
