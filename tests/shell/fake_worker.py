"""Worker processes without torch: they speak real frames, and do what a test tells them to, well or badly."""

import itertools
import json
import math

import attrs
import trio
from memory_host import Moves

from mlzoo import frames
from mlzoo.frames_codec import decode, encode
from mlzoo.transport.ndjson import LineReader


class FakeWorker:
    """One process, as its actor sees it, and as a test drives it."""

    def __init__(self, workshop, device, pid):
        self.pid = pid
        self.device = device
        self._workshop = workshop
        self._say, self._said = trio.open_memory_channel(math.inf)
        self._lines = LineReader(1 << 30)
        self._ended = trio.Event()
        self._moves = Moves()
        self._turns = itertools.count()
        self._loaded = {}  # what was said of each model
        self.status = None
        self.beats = 0
        self.told = []  # every frame but beats
        self.running = {}  # request -> the frame that asks for it
        self.say(
            frames.Up(
                pid=pid,
                device=device,
                versions={"torch": "0", "transformers": "0", "python": "3"},
                threads=1,
                wait_policy="passive",
            )
        )

    # ------------------------------------------------------------------------------------------ as a WorkerProcess

    async def receive_some(self):
        try:
            return await self._said.receive()
        except trio.EndOfChannel:
            return b""

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        if self._workshop.deaf:
            await trio.sleep_forever()
        if self._ended.is_set():
            raise trio.BrokenResourceError
        for line in self._lines.feed(data):
            self._hear(decode(line))
        self._moves.notify()

    async def wait(self):
        await self._ended.wait()
        return self.status

    def kill(self):
        self.end(-9)

    # ------------------------------------------------------------------------------------------ as a test drives it

    def end(self, status):
        if not self._ended.is_set():
            self.status = status
            self._say.close()
            self._ended.set()
            self._moves.notify()

    def say(self, *said):
        for frame in said:
            self._say.send_nowait(encode(frame))

    def babble(self, data):
        self._say.send_nowait(data)

    def _hear(self, frame):
        if isinstance(frame, frames.Beat):
            self.beats += 1
            if not self._workshop.silent:
                turn = 0 if self._workshop.stuck else next(self._turns)
                self.say(frames.Beating(turn=turn, doing=self._workshop.doing))
            return
        self.told.append(frame)
        match frame:
            case frames.Load():
                self._load(frame)
            case frames.Unload():
                self.say(frames.Unloaded(model=frame.model))
            case frames.Leave():
                if not self._workshop.stays:
                    self.end(0)
            case frames.Abandon():
                self.running.pop(frame.request, None)
            case frames.Forget():
                pass
            case _:
                self.running[frame.request] = frame
                if self._workshop.answer is not None:
                    self._workshop.answer(self, frame)

    def _load(self, frame):
        match self._workshop.loads:
            case "well":
                self.loaded(frame.model, frame.slots)
            case "badly":
                self.say(frames.LoadFailed(model=frame.model, message="the weights are torn"))
            case "to death":
                self.end(-11)
            case "later":
                pass

    def explained(self, model, *why):
        """Say again what was chosen for a model, as that has changed."""
        self.say(attrs.evolve(self._loaded[model], why=why))

    def loaded(self, model, slots=4):
        self._loaded[model] = frames.Loaded(
            model=model,
            memory_bytes=100,
            peak_bytes=self._workshop.peak_bytes,
            context=64,
            slots=slots,
            dtype="float32",
            architecture="toy",
            batching="slots",
            fingerprint=self._workshop.fingerprint,
            why=("it is a toy",),
            adapters=tuple(self._workshop.adapters),
        )
        self.say(self._loaded[model])

    async def until(self, predicate):
        return await self._moves.until(predicate)

    async def given(self, count=1):
        """Wait until so many requests are running."""
        await self.until(lambda: len(self.running) >= count)
        return list(self.running)

    async def ended(self):
        await self._ended.wait()

    def find(self, prompt):
        """The request that was asked with a prompt, also one that was abandoned meanwhile."""
        for frame in self.told:
            if isinstance(frame, frames.Generate) and frame.messages and frame.messages[-1]["content"] == prompt:
                return frame.request
        return None

    async def asked(self, prompt):
        return await self.until(lambda: self.find(prompt))

    def row(self, request, content, finish=None, first=False):
        if finish is not None:
            self.running.pop(request, None)
        prompt_tokens = 3 if first else None
        return frames.Row(
            request=request, content=content, tokens=(7,), finish_reason=finish, prompt_tokens=prompt_tokens
        )

    def generate(self, request, *pieces, finish="stop", begins=True):
        """Say the pieces, one a step, and then the end, unless finish is None."""
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            self.say(
                frames.Stepped(rows=(self.row(request, piece, finish if last else None, first=begins and index == 0),))
            )


def echo(worker, frame):
    """Answer as a well-behaved model does: what was asked comes back, in two pieces."""
    match frame:
        case frames.Generate():
            text = frame.prompt if frame.prompt is not None else frame.messages[-1]["content"]
            pieces = [text[: len(text) // 2], text[len(text) // 2 :]][len(frame.tokens) :]
            worker.generate(frame.request, *pieces, begins=frame.resume is None)
        case frames.Embed():
            rows = [[float(len(text)), 0.5] for text in frame.texts]
            worker.say(
                frames.Embedded(
                    request=frame.request,
                    vectors=json.dumps(rows),
                    count=len(frame.texts),
                    dimensions=2,
                    prompt_tokens=5,
                )
            )
        case frames.Predict():
            outputs = json.dumps([{"value": value} for value in frame.inputs])
            worker.say(frames.Predicted(request=frame.request, outputs=outputs, count=len(frame.inputs)))
        case frames.Tokenize():
            worker.say(frames.Tokenized(request=frame.request, tokens=tuple(map(ord, frame.text or "m"))))
        case frames.Detokenize():
            worker.say(frames.Detokenized(request=frame.request, text="".join(map(chr, frame.tokens))))


class Workshop:
    """Where workers are started: a ``Spawn``, with what each of them is to do."""

    def __init__(self):
        self.fingerprint = "toy"  # of all that the bits of an answer depend on
        self.peak_bytes = 0  # of a load; 0: not known
        self.adapters = []  # that each model is said to have
        self.loads = "well"  # badly | to death | later
        self.answer = echo  # called with each piece of work; None: the test answers by hand
        self.deaf = False  # workers read nothing
        self.silent = False  # workers answer no beats
        self.stuck = False  # workers answer beats, and get no further
        self.doing = "work"
        self.stays = False  # workers do not leave when they are told to
        self.refuses = False  # no process can be started
        self.workers = []
        self._moves = Moves()

    async def __call__(self, device):
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise OSError("no more processes")
        worker = FakeWorker(self, device, 1000 + len(self.workers))
        self.workers.append(worker)
        self._moves.notify()
        return worker

    async def worker(self, number=0):
        """The worker that was started as such, once it was."""
        await self._moves.until(lambda: len(self.workers) > number)
        return self.workers[number]
