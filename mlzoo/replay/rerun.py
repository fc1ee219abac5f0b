"""``mlzoo replay rerun``: the recorded lines of hosts go to the sidecar's own code again, and what it says is compared.

With recorded model output nothing but memory is touched, and what was another version's is only told: the model's part
does not depend on it. With real weights everything that answers depend on is compared first (``weights``).

What a recording does not have cannot be sent: lines whose params were not kept, or were no request, and what depends on
them (``leaving_out``). Each is told; where that is all of it, it is said before anything is run.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import orjson

import mlzoo
from mlzoo.config.schema import LOCAL, ModelEntry, ProviderEntry
from mlzoo.errors import ConfigError, ModelNotInstalled
from mlzoo.events.records import CORE_VERSION
from mlzoo.replay import weights
from mlzoo.replay.again import NOT_AGAIN, Again, Stage
from mlzoo.replay.comparing import Verdict, all_part, verdicts
from mlzoo.replay.differences import SHOWN_DIFFERENCES, differences
from mlzoo.replay.inputs import lives_of, taken_up, unheard
from mlzoo.replay.leaving_out import runnable
from mlzoo.replay.recorded_model import RecordedStore
from mlzoo.replay.telling import Told, line_of, tell
from mlzoo.simulation import schedule
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.weights import weights_in_memory
from mlzoo.simulation.world import simulated_world

if TYPE_CHECKING:
    from mlzoo.config import Config
    from mlzoo.config.schema import Capability
    from mlzoo.events.recording import Line, Recording
    from mlzoo.replay.inputs import Life
    from mlzoo.replay.leaving_out import Runnable

LOG = Path("/log")
EVERY: tuple[Capability, ...] = ("tools", "json", "vision")
TURNS_PER_LINE = 200  # of the scheduler, after which something goes round in a circle
LONGER_S = 3600.0  # of virtual time, that a session may take longer than it took


@attrs.frozen(kw_only=True)
class Rerun:
    """What became of a session that was run again.

    Attributes:
        verdicts: of each call that was sent.
        skipped: which lines were not sent, and why.
        faults: what else was not as recorded: answers of the model that nobody waited for, incidents.
        notes: what is otherwise than when it was recorded, and does not matter, or was allowed.
    """

    verdicts: tuple[Verdict, ...]
    skipped: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that had to be as recorded is."""
        return not self.faults and not any(verdict.found and not verdict.allowed for verdict in self.verdicts)

    def told(self) -> list[str]:
        """Return it in sentences."""
        lines = [*self.notes, *(f"not run again: {what}" for what in self.skipped)]
        for verdict in self.verdicts:
            if verdict.found:
                line = verdict.line
                lines.append(f"{verdict.connection} line {line['n']}, {line['method']} (id {line['id']!r}), differs:")
                lines += [f"  {found}" for found in verdict.found[:SHOWN_DIFFERENCES]]
                more = len(verdict.found) - SHOWN_DIFFERENCES
                lines += [f"  and {more} more"] if more > 0 else []
                lines += [f"  no fault: {verdict.allowed}"] if verdict.allowed else []
        lines += self.faults
        same = sum(not verdict.found for verdict in self.verdicts)
        allowed = sum(bool(verdict.allowed) for verdict in self.verdicts)
        figures = f"{len(self.verdicts)} calls run again, {same} the same"
        figures += f", {allowed} that may differ" if allowed else ""
        figures += f", {len(self.skipped)} lines not run" if self.skipped else ""
        holds = "as recorded, as far as that is promised" if allowed else "all as recorded"
        return [*lines, f"{figures}: {holds if self.holds else 'NOT as recorded'}"]


def rerun(found: Recording, config: Config) -> Rerun:
    """Run a recording again with its own model output.

    Raises:
        ConfigError: There is nothing in it that could be run; it says why.
    """
    part, lives = _lives(found, is_real=False)
    found = part.found
    stage = Stage(
        config=config_for(found, config),
        world=simulated_world(0, SimulatedDisk()),
        log=LOG,
        refuse=refusal,
        is_part=bool(part.reasons) or "state" in found.header,
    )
    again = Again(found, stage, part.reasons)
    digests = {facts["name"]: facts["digest"] for facts in _asked_for(found) if facts.get("digest")}
    digests |= {name: facts.get("digest", "") for name, facts in found.header.get("models", {}).items()}
    digests = {name: digest for name, digest in digests.items() if name not in _absent(found)}
    notes, faults = _versions(found.header), []
    with weights_in_memory(RecordedStore(Path("/store"), digests)):
        try:
            turns = TURNS_PER_LINE * (len(found.lines) + 100)
            took_s = sum(max(life.took_ms, *[item.at_ms for item in life.inputs[-1:]], 0) for life in lives) / 1000
            schedule.run(0, again.run, lives, turns=turns, watchdog_s=took_s + LONGER_S)
        except schedule.Deadlock as error:
            faults.append(f"the sidecar came to no end: {error}")
    faults += _taken_up_otherwise(found, again)
    return _rerun(again, verdicts(found, again.heard(), unheard=unheard(found, lives)), notes, faults)


def rerun_with_weights(found: Recording, config: Config, *, allow_other: bool, timeout_s: float) -> Rerun:
    """Run a recording again with the weights of this machine's store, in worker processes of its own.

    Args:
        found: what is run.
        config: of this machine; the recorded limits are put in.
        allow_other: whether another digest, dtype, device or version than recorded is told and no error.
        timeout_s: for what had been heard before a line of a host's to be heard again.

    Raises:
        WeightsDiffer: what answers depend on is not what was recorded.
        ConfigError: There is nothing in it that could be run; it says why.
    """
    part, lives = _lives(found, is_real=True)
    found, lives = part.found, tuple([attrs.evolve(life, crashed=False) for life in lives])  # Nothing ran any more.
    notes = weights.compared(weights.of_store(found.header, config), allow_other=allow_other)
    with tempfile.TemporaryDirectory(prefix="mlzoo-rerun-") as directory:
        log = Path(directory) / "log"
        checked = weights.Checked(found.header, log, allow_other=allow_other, timeout_s=timeout_s)
        stage = Stage(
            config=config,
            world=weights.world(),
            log=log,
            refuse=partial(_refusal_of_weights, _answered_elsewhere(found)),
            is_real=True,
            timeout_s=timeout_s,
            prepare=checked.prepare,
        )
        again = Again(found, stage, part.reasons)
        weights.run(again, lives)
        tokens = weights.tokens_of_recording(found), weights.tokens_of_log(log)
        judged = verdicts(found, again.heard(), tokens)
        parts = all_part(found, judged)
        return _rerun(again, judged, [*notes, *checked.notes], [] if parts is None else [parts])


def refusal(line: Line) -> str | None:
    """Return why a line of a host's cannot be sent again."""
    if line.get("withheld") or "digest" in line:
        return "its params are not in the recording"
    if "refused" in line:
        return "it was no request, and is not in the recording"
    if line.get("method") in NOT_AGAIN:
        return "it changes the store"
    params = line.get("params")
    if line.get("method") == "cancel" and isinstance(params, dict) and params.get("request", "") is None:
        return "what it named had ended, and is not in the recording"
    return None


def _absent(found: Recording) -> set[str]:
    """Return the models of routes whose weights were not there."""
    submits = [group["command"][2] for group in found.groups() if group["command"][0] == "Submit"]
    judged = [(submit["model"], submit.get("unfit")) for submit in submits]
    judged += [(each["model"], each.get("refused")) for submit in submits for each in submit.get("chain", ())]
    return {facts["name"] for facts, failure in judged if failure and failure["code"] == ModelNotInstalled.code}


def _answered_elsewhere(found: Recording) -> set[tuple[str, str | int]]:
    """Return the calls for which a provider was asked, by connection and id."""
    submits = [group["command"][2] for group in found.groups() if group["command"][0] == "Submit"]
    return {
        (submit["caller"]["connection"], submit["caller"]["rpc"])
        for submit in submits
        for facts in (submit["model"], *(candidate["model"] for candidate in submit.get("chain", ())))
        if facts.get("provider", LOCAL) != LOCAL
    }


def _refusal_of_weights(elsewhere: set[tuple[str, str | int]], line: Line) -> str | None:
    if (line.get("host"), line.get("id")) in elsewhere:
        return "a provider was to answer it, not these weights"
    if b"[redacted:" in orjson.dumps(line.get("params")):
        return "a part of its text was taken out of the recording"
    return refusal(line)


def _lives(found: Recording, *, is_real: bool) -> tuple[Runnable, tuple[Life, ...]]:
    if not found.connections():
        raise ConfigError("the recording holds no line of a host's: there is nothing to run again")
    part = runnable(found, is_real=is_real)
    return part, lives_of(part.found)


def _first_of(lost: list[str]) -> str:
    more = len(lost) - 1
    return f"{lost[0]}; and {more} more of the kind" if more else lost[0]


def _asked_for(found: Recording) -> list[Line]:
    """Return the facts of the models that were loaded or were to be, also of those that no worker got to load."""
    commands = [group["command"] for group in found.groups()]
    return [data["model"] for kind, _, data in commands if kind in ("Submit", "LoadModel")]


def _taken_up_otherwise(found: Recording, again: Again) -> list[str]:
    """Return what the lives after the first made otherwise of what they found in the log."""
    log = [line_of(told) for told in tell(again.world.disk, LOG) if isinstance(told, Told)]
    was, now = taken_up(found.groups(), again.requests), taken_up(log, again.requests)
    pairs = zip(was[::-1], now[::-1], strict=False)  # A recording may begin after the first start.
    return [
        f"life {len(now) - index}, {request}, taken up otherwise: {difference}"
        for index, (old, new) in enumerate(pairs)
        for request in {**old, **new}
        for difference in differences(old.get(request), new.get(request), "event")[:SHOWN_DIFFERENCES]
    ]


def _versions(header: Line) -> list[str]:
    notes = []
    if header.get("mlzoo") != mlzoo.__version__:
        notes.append(f"recorded by mlzoo {header.get('mlzoo')}, run again by {mlzoo.__version__}")
    if header.get("core_version") != CORE_VERSION:
        core = header.get("core_version")
        notes.append(f"core_version {core} decided when it was recorded, {CORE_VERSION} does now: expect differences")
    return notes


def _rerun(again: Again, found: list[Verdict], notes: list[str], faults: list[str]) -> Rerun:
    skipped = [f"{name} line {number}: {reason}" for (name, number), reason in again.skipped.items()]
    incidents = [f"an incident: {story.strip().splitlines()[-1]}" for story in again.stderr.incidents]
    return Rerun(
        verdicts=tuple(found),
        skipped=tuple(skipped),
        faults=(*faults, *incidents, *map(_first_of, again.unplaced.values())),
        notes=tuple(notes),
    )


# ------------------------------------------------------------------------------------------------ configuration


def config_for(found: Recording, config: Config) -> Config:
    """Return a configuration with the models of the recording in it."""
    submits = [group["command"][2] for group in found.groups() if group["command"][0] == "Submit"]
    models, defaults = dict(config.models), {"chat": config.defaults.chat, "embed": config.defaults.embed}
    own = {("host", line["host"], line.get("id")): line.get("params") for line in found.lines if "host" in line}
    providers, routes = dict(config.providers), dict(config.routes)
    loaded, adapters = found.header.get("models", {}), dict[str, dict[str, None]]()
    for submit in submits:
        facts = submit["model"]
        params = own.get(("host", submit["caller"]["connection"], submit["caller"]["rpc"]))
        named = params.get("model") if isinstance(params, dict) else None
        chain = [facts, *(candidate["model"] for candidate in submit.get("chain", ()))]
        for remote in (each for each in chain if each.get("provider", LOCAL) != LOCAL):
            providers[remote["provider"]] = ProviderEntry(
                name=remote["provider"], kind="scripted", max_concurrency=remote.get("slots", 1), retries=0
            )
            models[remote["name"]] = ModelEntry(
                name=remote["name"], kind=remote["kind"], provider=remote["provider"], capabilities=EVERY
            )
        if len(chain) > 1 and named is not None:
            routes[named] = tuple(each["name"] for each in chain)
        if facts.get("provider", LOCAL) != LOCAL:
            continue
        entry = models.get(facts["name"])
        if entry is None:
            entry = ModelEntry(name=facts["name"], kind=facts["kind"], source=f"path:/{facts['name']}")
        adapters.setdefault(facts["name"], dict.fromkeys(loaded.get(facts["name"], {}).get("adapters", ())))
        if submit.get("adapter") and not submit.get("refused"):
            adapters[facts["name"]][submit["adapter"]] = None
        models[facts["name"]] = attrs.evolve(
            entry,
            adapters={each: entry.adapters.get(each, f"path:/{each}") for each in adapters[facts["name"]]},
            kind=facts["kind"],
            slots=facts.get("slots", 1),
            replicas=facts.get("replicas", 1),
            memory_bytes=facts.get("memory_bytes", 0),
            keep_alive_s=facts.get("keep_alive_ms", 300_000) / 1000,
        )
        if isinstance(params, dict) and named is None and facts["kind"] != "predict":
            defaults["embed" if submit["method"] == "embed" else "chat"] = facts["name"]
    defaults_ = attrs.evolve(config.defaults, **defaults)
    return attrs.evolve(config, models=models, defaults=defaults_, providers=providers, routes=routes)
