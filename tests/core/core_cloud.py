"""A provider around the core, beside the workers of devices: it has no process and loads nothing, and fails often."""

from __future__ import annotations

import attrs
from core_shell import Shell, Worker

from mlzoo import errors
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

PLACES = 2
FAR = cmd.ModelFacts(name="far", kind="chat", provider="sky", slots=PLACES)
HIGH = cmd.ModelFacts(name="high", kind="chat", provider="sky", slots=PLACES)
ABSENT = errors.ModelNotInstalled("It is not here.").failure()
FAILURES = (
    errors.ProviderError("It answered 500.", provider="sky", status=500).failure(),
    errors.ProviderError("It answered 429.", provider="sky", status=429, retry_after_ms=900).failure(),
    errors.ProviderError("It answered 400.", provider="sky", status=400, retryable=False).failure(),
    errors.ContextLengthExceeded("It is too long.").failure(),
)
BROKEN_OFF = errors.Interrupted("It broke off.", provider="sky", resumable=False).failure()


class Cloud(Worker):
    """The actor of a provider: a crash takes all that is with it."""

    @property
    def alive(self):
        return bool(self.inbox or self.rows)

    @alive.setter
    def alive(self, _value):
        """Ignore what a process would be: there is none."""

    def _begin(self):
        super()._begin()
        self.up = True  # There is nothing to start.
        self.spoken = set()

    def _obey(self, event, facts_of):
        match event:
            case ev.RequestDispatched():
                assert facts_of[event.request].provider == "sky", "work for another provider's model"
                assert event.model in {"", facts_of[event.request].name}
                self.rows[event.request] = facts_of[event.request]
                assert len(self.rows) <= PLACES, "more requests than places"
            case ev.WorkAbandoned():
                self.rows.pop(event.request, None)
            case _:
                raise AssertionError(event)

    def _step(self, kinds):
        request = self.random.choice(list(self.rows))
        if self.random.random() < 0.4:
            del self.rows[request]
            failure = BROKEN_OFF if request in self.spoken else self.random.choice(FAILURES)
            self.outbox.append(cmd.ReportFailure(request=request, failure=failure))
            return
        self.spoken.add(request)
        ends = self.random.random() < 0.3
        said = cmd.RowFacts(request=request, tokens=0, size_bytes=3, finish_reason="stop" if ends else None)
        if ends:
            del self.rows[request]
        self.outbox.append(cmd.ReportStep(device=self.name, rows=(said,)))


class CloudyShell(Shell):
    """A shell with a provider, whose hosts name routes as well."""

    def reset(self):
        super().reset()
        self.workers["api:sky"] = Cloud("api:sky", self.random)

    def _carry_out(self, event):
        if isinstance(event, ev.RequestRerouted):
            self.facts_of[event.request] = event.model
        super()._carry_out(event)

    def tell(self, command):
        if isinstance(command, cmd.Submit) and command.model.kind == "chat" and self.random.random() < 0.6:
            command = self._routed(command)
        super().tell(command)

    def _routed(self, command):
        """Return the same call for a model of the provider, or for a route."""
        local = [model for model in self.models if model.kind == "chat"]
        chain = self.random.sample([FAR, HIGH, self.random.choice(local)], self.random.choice((1, 2, 3)))
        first, *others = chain
        judged = [
            cmd.Candidate(model=other, refused=ABSENT if self.random.random() < 0.2 else None) for other in others
        ]
        unfit = ABSENT if others and self.random.random() < 0.2 else None
        return attrs.evolve(command, model=first, chain=tuple(judged), unfit=unfit, max_tokens=None, prefixes=())
