"""Real weights under a recorded session: whether they are those of then, and which tokens they gave.

What answers depend on stands in a recording's header. The digests are compared before anything is started; device,
dtype and versions once a worker has loaded the models, before the first recorded line is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

import mlzoo
import mlzoo.store
from mlzoo.errors import MlzooError
from mlzoo.replay.stand_ins import Host
from mlzoo.replay.telling import Told, tell, told_in
from mlzoo.world import real_world

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlzoo.app import Sidecar
    from mlzoo.config import Config
    from mlzoo.events.recording import Line, Recording
    from mlzoo.replay.again import Again
    from mlzoo.replay.comparing import Tokens
    from mlzoo.replay.inputs import Life
    from mlzoo.world import World

OF_A_MODEL = ("device", "dtype", "architecture", "batching", "fingerprint")


class WeightsDiffer(MlzooError):
    """The user's doing, or their machine's: what answers depend on is not what it was when the recording was made."""

    type = "weights_differ"


def world() -> World:
    """Return this machine."""
    return real_world()


def run(again: Again, lives: tuple[Life, ...]) -> None:
    """Run a session in real time.

    Raises:
        WeightsDiffer: as ``Checked.prepare`` has it.
    """
    try:
        trio.run(again.run, lives)
    except BaseExceptionGroup as group:
        told, rest = group.split(MlzooError)
        if told is None or rest is not None:
            raise
        raise _leaf(told) from None


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def compared(found: Iterable[str], *, allow_other: bool) -> list[str]:
    """Return what differs, as notes.

    Raises:
        WeightsDiffer: Something does, and it is not allowed.
    """
    notes = list(found)
    if notes and not allow_other:
        what = "; ".join(notes)
        raise WeightsDiffer(
            f"{what}. What answers depend on is not what was recorded: give --allow-other to compare all the same, or "
            "record it again.",
            differences=notes,
        )
    return notes


def of_store(header: Line, config: Config) -> list[str]:
    """Return what is known to differ before anything is started: versions of mlzoo, and digests of weights.

    Raises:
        ModelNotFound: No model of that name is configured.
        WeightsDiffer: Weights are not installed.
    """
    notes = []
    if header.get("mlzoo") != mlzoo.__version__:
        notes.append(f"mlzoo was {header.get('mlzoo')} and is {mlzoo.__version__}")
    store = mlzoo.store.open_store(config)
    for name, facts in header.get("models", {}).items():
        installed = store.find(config.model(name))
        if installed is None:
            message = f"model {name} is not installed; bring it with `mlzoo models pull {name}`"
            raise WeightsDiffer(message, model=name)
        if facts.get("digest") and installed.digest != facts["digest"]:
            notes.append(f"model {name} had weights {facts['digest'][:12]}… and has {installed.digest[:12]}…")
    return notes


class Checked:
    """Has the models loaded, and compares what they run as with what they ran as.

    Attributes:
        notes: what differs and was allowed.
    """

    def __init__(self, header: Line, log: Path, *, allow_other: bool, timeout_s: float) -> None:
        self.notes: list[str] = []
        self._header = header
        self._log = log
        self._allow_other = allow_other
        self._timeout_s = timeout_s

    async def prepare(self, app: Sidecar) -> None:
        """Load each model on a connection of our own, on the recorded device, and compare.

        Raises:
            WeightsDiffer: They do not run as they ran, and that is not allowed.
        """
        moved = trio.Event()

        def notify() -> None:
            nonlocal moved
            moved.set()
            moved = trio.Event()

        host = Host(notify)
        models = {name: facts for name, facts in self._header.get("models", {}).items() if "device" in facts}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app._serve_client, host.pipe)  # noqa: SLF001 - what the socket calls
            failed = []
            for number, (name, facts) in enumerate(models.items(), 1):
                params = {"model": name, "device": facts["device"]}
                host.say({"n": number, "id": number, "method": "models.load", "params": params})
                with trio.move_on_after(self._timeout_s):
                    while host.heard[number].answer is None:
                        await moved.wait()
                error = (host.heard[number].answer or {"error": {"message": "it did not load in time"}}).get("error")
                if error is not None:
                    failed.append(f"model {name} cannot be loaded on {facts['device']}: {error['message']}")
            host.pipe.end_input()
            self.notes += compared([*failed, *self._differing()], allow_other=self._allow_other)

    def _differing(self) -> list[str]:
        notes = []
        models, workers = _running(tell(real_world().disk, self._log))
        for name, was in self._header.get("models", {}).items():
            now = models.get(name)
            if now is None:
                continue
            had, has = was.get("adapters") or {}, {each["name"]: each["digest"] for each in now.get("adapters", ())}
            notes += [
                f"model {name} had the adapter {adapter} {_short(digest)} and has {_short(has.get(adapter))}"
                for adapter, digest in had.items()
                if has.get(adapter) != digest
            ]
            names = [field for field in OF_A_MODEL if field in was and was[field] != now.get(field, "")]
            if names != ["fingerprint"]:
                names = [field for field in names if field != "fingerprint"]  # It follows from the others.
            notes += [
                f"model {name} had {field} {_short(was[field])} and has {_short(now.get(field))}" for field in names
            ]
        for device, was in self._header.get("workers", {}).items():
            now = workers.get(device)
            if now is None:
                continue
            if was.get("threads") not in (None, now["threads"]):
                notes.append(f"the worker of {device} had {was['threads']} threads and has {now['threads']}")
            for package, version in (was.get("versions") or {}).items():
                if now["versions"].get(package) != version:
                    notes.append(f"{package} was {version} and is {now['versions'].get(package)}")
        return list(dict.fromkeys(notes))


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == SHA256_CHARACTERS else text


SHA256_CHARACTERS = 64


def _running(story: Iterable[Told | Line]) -> tuple[dict[str, Line], dict[str, Line]]:
    models: dict[str, Line] = {}
    workers: dict[str, Line] = {}
    for told in story:
        if isinstance(told, Told):
            kind, _, data = told.command
            if kind == "ReportLoaded":
                models[data["model"]] = data
            elif kind == "ReportWorkerUp":
                workers[data["device"]] = data
    return models, workers


# ------------------------------------------------------------------------------------------------ tokens


def tokens_of_recording(found: Recording) -> Tokens:
    """Return the token ids that each call of a recording brought."""
    return _tokens(map(told_in, found.groups()))


def tokens_of_log(log: Path) -> Tokens:
    """Return the token ids that each call of a log brought."""
    return _tokens(told for told in tell(real_world().disk, log) if isinstance(told, Told))


@attrs.frozen
class _Call:
    connection: str
    rpc: str | int


def _tokens(story: Iterable[Told]) -> Tokens:
    calls: dict[str, _Call] = {}
    found: Tokens = {}
    for told in story:
        kind, _, data = told.command
        if kind == "Submit":
            calls[data["request"]] = _Call(data["caller"]["connection"], data["caller"]["rpc"])
        elif kind == "ReportStep" and isinstance(told.text, list):
            for row, text in zip(data["rows"], told.text, strict=True):
                call = calls.get(row["request"])
                if call is not None and isinstance(text, dict):
                    found.setdefault((call.connection, call.rpc), []).extend(text.get("tokens", ()))
    return found
