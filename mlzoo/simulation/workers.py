"""Worker processes in memory: they speak real frames, at their own pace, and misbehave on request.

A model's answer is a function of what it was asked (``pieces_of``), so that a host can tell a right one from a wrong
one. What may go wrong with a worker is one flag each, set by the fault menu.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from mlzoo import frames
from mlzoo.simulation.memory_worker import MemoryWorker

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

RAISED = "the step raised an error"
NEEDS_BYTES = {"toy": 100, "vec": 512 << 20, "guess": 100}  # of memory, by each model
BEGAN_BYTES = 200 << 20  # are held by a process that has loaded nothing
EXPLAINS_EVERY = 16  # turns
SIGSEGV = -11


def pieces_of(prompt: str) -> list[str]:
    """Return what a model answers to a prompt: the number after its colon says in how many pieces."""
    name, _, count = prompt.rpartition(":")
    return [f"{name}/{number}é " for number in range(int(count) if count.isdigit() else 1)]


def other_pieces_of(prompt: str) -> list[str]:
    """Return what it answers where it rounds in another way: as many pieces, and other words."""
    return [piece.replace("/", "+") for piece in pieces_of(prompt)]


def is_answer(prompt: str, text: str, *, goes_on_otherwise: bool, count: int | None = None) -> bool:
    """Whether a text is what a model answers, or the first pieces of it; from some piece on perhaps in other words."""
    pieces, others = pieces_of(prompt)[:count], other_pieces_of(prompt)[:count]
    alike = range(len(pieces) + 1) if goes_on_otherwise else [len(pieces)]
    return any(text == "".join(pieces[:same] + others[same:]) for same in alike)


@attrs.define
class Mood:
    """What is wrong with workers from now on."""

    step_s: float = 0.01
    refuses: bool = False  # no process can be started
    dies_loading: bool = False
    out_of_memory: bool = False
    hangs: bool = False  # says nothing any more
    deaf: bool = False  # reads nothing any more
    stays: bool = False  # does not leave when it is told to
    heedless: bool = False  # goes on with what was abandoned
    fails_work: bool = False  # an exception for each request
    leaks_bytes: int = 0  # that are not given back when a model is unloaded


class SimulatedWorker(MemoryWorker):
    """One process, as its actor sees it."""

    def __init__(self, shop: WorkerShop, device: str, pid: int) -> None:
        super().__init__(pid)
        self.device = device
        self._shop = shop
        self._build = shop.builds.build
        self._work = trio.Event()
        self._rows: dict[str, list[str]] = {}  # request -> the pieces that are still to come
        self._whole: list[frames.FromWorker] = []  # answers that come in one frame, with the next step
        self._begun: set[str] = set()
        self._abandoned: set[str] = set()  # which end with the next step: it was being computed already
        self._turn = 0
        self._loaded: dict[str, frames.Loaded] = {}
        self._leaked_bytes = 0
        versions = {"torch": "0", "transformers": "0", "python": "3"}
        self.say(
            frames.Up(
                pid=pid,
                device=device,
                versions=versions,
                threads=1,
                wait_policy="passive",
                held_bytes=BEGAN_BYTES,
            )
        )

    @property
    def taken_bytes(self) -> int:
        """Of the memory that models may take, what is loaded here, and what was and did not come back."""
        return sum(NEEDS_BYTES[model] for model in self._loaded) + self._leaked_bytes

    # ------------------------------------------------------------------------------------------ as a WorkerProcess

    async def send_all(self, data: bytes) -> None:
        """See ``WorkerProcess``."""
        if self._shop.mood.deaf:
            await self._ended.wait()
        await super().send_all(data)

    # ------------------------------------------------------------------------------------------ as a process

    def end(self, status: int) -> None:
        """End, if it has not ended."""
        super().end(status)
        self._work.set()

    def say(self, frame: frames.FromWorker) -> None:
        """Send a frame, unless it hangs."""
        if not self._shop.mood.hangs:
            super().say(frame)

    async def run(self) -> None:
        """Work, a step at a time, until the end."""
        while self.status is None:
            await self._work.wait()
            await trio.sleep(self._shop.mood.step_s)
            self._turn += 1
            if self._turn % EXPLAINS_EVERY == 0:
                self._explain()
            whole, self._whole = self._whole, []
            for answer in whole:
                self.say(answer)
            rows = tuple(self._row(request, pieces) for request, pieces in tuple(self._rows.items()))
            self._rows = {name: pieces for name, pieces in self._rows.items() if name not in self._abandoned}
            self._abandoned.clear()
            if rows:
                self.say(frames.Stepped(rows=rows))
            elif not self._whole and not self._ended.is_set():
                self._work = trio.Event()

    def _explain(self) -> None:
        """Say anew what was chosen for what is loaded, as a worker does once steps are compiled."""
        for model, loaded in self._loaded.items():
            self._loaded[model] = attrs.evolve(loaded, why=(f"as in step {self._turn}",))
            self.say(self._loaded[model])

    def _row(self, request: str, pieces: list[str]) -> frames.Row:
        first = request not in self._begun
        self._begun.add(request)
        content = pieces.pop(0) if pieces else ""
        finish: frames.FinishReason | None = None if pieces else "stop"
        if finish:
            del self._rows[request]
        prompt_tokens = 3 if first else None
        return frames.Row(
            request=request, content=content, tokens=(7,), prompt_tokens=prompt_tokens, finish_reason=finish
        )

    def hear(self, frame: object) -> None:
        """Do as a frame says, as far as the mood lets it."""
        match frame:
            case frames.Beat():
                self._turn += 1
                self.say(frames.Beating(turn=self._turn, doing="work" if self._rows else "idle"))
            case frames.Load():
                self._load(frame)
            case frames.Unload():
                self._loaded.pop(frame.model, None)
                self._leaked_bytes += self._shop.mood.leaks_bytes
                self.say(frames.Unloaded(model=frame.model, held_bytes=BEGAN_BYTES + self.taken_bytes))
            case frames.Leave():
                if not self._shop.mood.stays:
                    self.end(0)
            case frames.Abandon():
                if not self._shop.mood.heedless:
                    self._abandoned.add(frame.request)
            case frames.Generate() | frames.Embed() | frames.Predict() | frames.Tokenize() | frames.Detokenize():
                self._answer(frame)
            case _:
                return

    def _load(self, frame: frames.Load) -> None:
        mood = self._shop.mood
        if mood.dies_loading:
            self.end(SIGSEGV)
        elif mood.out_of_memory:
            full = "the device has no memory left"
            self.say(frames.LoadFailed(model=frame.model, message=full, reason="memory", needed_bytes=9, free_bytes=1))
        else:
            self._loaded[frame.model] = frames.Loaded(
                model=frame.model,
                memory_bytes=NEEDS_BYTES[frame.model],
                context=64,
                slots=frame.slots,
                dtype="float32",
                architecture="toy",
                batching="slots",
                fingerprint=f"build {self._build}",
            )
            self.say(self._loaded[frame.model])

    def _words(self, frame: frames.Generate, prompt: str) -> list[str]:
        """Return the pieces that are still to be said; one token is one piece."""
        said = len(frame.tokens)
        if not is_answer(prompt, frame.said, goes_on_otherwise=True, count=said):
            return ["not what was said: "]
        began_on = self._shop.builds.began_on
        if frame.resume is None:
            began_on[frame.request] = self._build
        is_same = frame.resume != "prefill" and began_on[frame.request] == self._build
        return (pieces_of(prompt) if is_same else other_pieces_of(prompt))[said:]

    def _answer(
        self, frame: frames.Generate | frames.Embed | frames.Predict | frames.Tokenize | frames.Detokenize
    ) -> None:
        if self._shop.mood.fails_work:
            self.say(frames.WorkFailed(request=frame.request, code=-32603, message=RAISED))
            return
        match frame:
            case frames.Generate():
                prompt = (
                    frame.prompt if frame.prompt is not None else (frame.messages or ({"content": ""},))[-1]["content"]
                )
                self._rows[frame.request] = self._words(frame, prompt)
            case frames.Embed():
                vectors = json.dumps([[float(len(text)), 0.5] for text in frame.texts])
                count = len(frame.texts)
                answer = frames.Embedded(
                    request=frame.request, vectors=vectors, count=count, dimensions=2, prompt_tokens=5
                )
                self._whole.append(answer)
            case frames.Predict():
                outputs = json.dumps([{"value": len(json.dumps(value))} for value in frame.inputs])
                self._whole.append(
                    frames.Predicted(request=frame.request, outputs=outputs, count=len(frame.inputs), prompt_tokens=2)
                )
            case frames.Tokenize():
                self._whole.append(frames.Tokenized(request=frame.request, tokens=tuple(map(ord, frame.text or "m"))))
            case frames.Detokenize():
                self._whole.append(frames.Detokenized(request=frame.request, text="".join(map(chr, frame.tokens))))
        self._work.set()


class Builds(Protocol):
    """Which build of the workers' code is there, and which one computed the first words of a request.

    Builds round in different ways. Those that run already stay what they are.
    """

    build: int
    began_on: dict[str, int]


class WorkerShop:
    """Where workers are started: a ``Spawn``.

    Args:
        random: draws the pace of each.
        nursery: where they run.
        on_spawn: called with the device of each that was started.
        builds: of the workers that are started.
    """

    def __init__(self, random: Random, nursery: trio.Nursery, on_spawn: Callable[[str], None], builds: Builds) -> None:
        self.mood = Mood(step_s=random.choice((0.0, 0.01, 0.1, 0.4)))
        self.workers: list[SimulatedWorker] = []
        self._nursery = nursery
        self._on_spawn = on_spawn
        self.builds = builds

    async def __call__(self, device: str) -> SimulatedWorker:
        """See ``Spawn``."""
        await trio.lowlevel.checkpoint()
        if self.mood.refuses:
            raise OSError("no more processes")
        worker = SimulatedWorker(self, device, 1000 + len(self.workers))
        self.workers.append(worker)
        self._on_spawn(device)
        self._nursery.start_soon(worker.run)
        return worker

    def living(self) -> list[SimulatedWorker]:
        """Return those that have not ended."""
        return [worker for worker in self.workers if worker.status is None]
