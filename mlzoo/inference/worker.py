"""The worker's loop: take frames from the socket, step every model that has work, send what came of it.

Knows the frames and the models' engines; nothing of how tokens come about. The socket is read by a thread of its own
(``link``); everything else happens in the main thread, in turns.
What is unexpected ends the process with a traceback: its supervisor starts a new one.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn, assert_never

import attrs
import torch
import transformers

from mlzoo.config.loading import cache_directory
from mlzoo.errors import InvalidParams, MlzooError, ModelNotFound, OutOfMemory, Unsupported
from mlzoo.frames import (
    Abandon,
    Beat,
    Detokenize,
    Detokenized,
    Embed,
    Forget,
    FromWorker,
    Generate,
    Leave,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Predict,
    Tokenize,
    Tokenized,
    ToWorker,
    Unload,
    Unloaded,
    Up,
    WorkFailed,
)
from mlzoo.frames_codec import BrokenFrame, decode
from mlzoo.inference import memory, process, threads
from mlzoo.inference.embedder import Embedder, load_embed
from mlzoo.inference.engine import BatchEngine
from mlzoo.inference.failing import broken, failed
from mlzoo.inference.joined import REQUESTS
from mlzoo.inference.loader import load_chat
from mlzoo.inference.neighbours import Neighbours
from mlzoo.inference.predictor import Predictor, load_predict
from mlzoo.inference.saying import Saying
from mlzoo.inference.summaries import Summarising

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlzoo.inference.link import Link
    from mlzoo.inference.loader import OnProgress
    from mlzoo.inference.text import Text

Serving = Summarising | Embedder | Predictor
Work = Generate | Embed | Predict | Tokenize | Detokenize
WATCH_S = 1.0  # after which an idle worker looks what became of steps that are being compiled
DRAIN_S = 0.01  # in which frames are taken in while something runs: turning texts into tokens takes time, too


def run(link: Link, device: str, most_threads: int, wait_policy: str) -> None:
    """Serve the socket until it ends or a Leave arrives."""
    torch.set_num_threads(most_threads or process.usable_processors())
    transformers.logging.disable_progress_bar()
    where = torch.device(device)
    torch.zeros(1, device=where)  # The device answers, or this is where the process ends.
    neighbours = Neighbours() if where.type == "cpu" and wait_policy == "adaptive" else None
    server = ModelServer(link, where, cache_directory(None, os.environ), neighbours)
    link.send([_up(where, wait_policy)])
    while True:
        server.drain()
        server.step()


def _up(device: torch.device, wait_policy: str) -> Up:
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return Up(
        pid=os.getpid(),
        device=str(device),
        versions=versions,
        threads=torch.get_num_threads(),
        wait_policy=wait_policy,
        held_bytes=memory.held_bytes(device),
    )


class ModelServer:
    """The models of one process, and what each frame means to them."""

    def __init__(
        self,
        link: Link,
        device: torch.device,
        cache: Path | None = None,
        neighbours: Neighbours | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._clock = clock
        self._cache = cache
        self._device = device
        self._neighbours = neighbours  # to whom processors are left; None: nobody is looked at
        self._threads = torch.get_num_threads()
        self._models: dict[str, Serving] = {}
        self._texts: dict[str, Text] = {}
        self._loaded_as: dict[str, Loaded] = {}
        self._saying = Saying(clock)

    def drain(self) -> None:
        """Take the frames that have arrived, as far as what runs can wait; wait for one where nothing runs."""
        began_s = self._clock()
        while self._idle() or self._clock() - began_s < DRAIN_S:
            waits = self._idle()
            line = self._next_line() if waits else self._link.take(wait=False)
            if line is None:
                return
            if waits:
                began_s = self._clock()
            self._link.begin("work")
            self._take(line)

    def _next_line(self) -> bytes | None:
        """Wait for a frame while there is nothing to do."""
        if self._neighbours is not None:
            self._neighbours.rest()
        makes = any(isinstance(model, Summarising) and model.expects_news for model in self._models.values())
        line = self._link.take(wait=True, most_s=WATCH_S if makes else None)
        if self._neighbours is not None:
            self._neighbours.wake()
        return line

    def step(self) -> None:
        """Give each model that has work one step."""
        for model in [model for model in self._models.values() if not model.idle]:
            self._link.begin("work")
            with threads.using(self._threads_for(model)):
                said = model.step()
            if memory.thread_is_spoilt():
                _end_spoilt()
            self._link.send(self._saying.after(said, may_wait=self._steps_on(model)))
        for name, model in self._models.items():
            if isinstance(model, Summarising) and (why := model.news()):
                self._loaded_as[name] = attrs.evolve(self._loaded_as[name], why=why)
                self._link.send([*self._saying.held(), self._loaded_as[name]])

    def _say_what_is_due(self) -> None:
        self._link.send(self._saying.due())

    def _steps_on(self, model: Serving) -> bool:
        """Whether nothing but a step of rows comes next."""
        if not isinstance(model, Summarising) or not model.only_decodes:
            return False
        return all(other is model or other.idle for other in self._models.values())

    def _threads_for(self, model: Serving) -> int:
        """Return how many threads a step is computed with: fewer beside a busy neighbour, where that changes no bit."""
        if self._neighbours is None or model.idle or not (isinstance(model, Embedder | Predictor) or model.any_threads):
            return self._threads
        return self._neighbours.threads(self._threads)

    def _idle(self) -> bool:
        return all(model.idle for model in self._models.values())

    def _take(self, line: bytes) -> None:
        try:
            frame = decode(line)
        except BrokenFrame as error:
            self._refuse(error)
            return
        self._obey(frame)  # type: ignore[arg-type]  # a frame of the other direction ends in assert_never

    def _refuse(self, error: BrokenFrame) -> None:
        """Answer a frame that cannot be read, where it says whom it concerns; else let it crash."""
        request, model = error.fields.get("request"), error.fields.get("model")
        if isinstance(request, str):
            self._link.send([broken(request, error)])
        elif isinstance(model, str):
            self._link.send([LoadFailed(model=model, message=str(error))])
        else:
            raise error

    def _obey(self, frame: ToWorker) -> None:
        match frame:
            case Load():
                self._link.send(self._saying.held())
                self._load(frame)
            case Unload():
                self._unload(frame)
            case Generate() | Embed() | Predict() | Tokenize() | Detokenize():
                self._link.send(self._saying.held())
                self._link.send(self._work(frame))
            case Abandon():
                self._saying.forget(frame.request)
                self._link.send(self._saying.held())  # A slot may be free now, and a prompt be read into it.
                for model in self._models.values():
                    model.abandon(frame.request)
            case Forget():
                for model in self._models.values():
                    model.forget()
            case Leave():
                os._exit(0)
            case Beat():
                raise AssertionError("the thread that reads the socket answers beats")
            case _:
                assert_never(frame)

    def _unload(self, frame: Unload) -> None:
        self._link.send(self._saying.held())
        self._drop(frame.model)
        self._link.send([Unloaded(model=frame.model, held_bytes=memory.held_bytes(self._device))])

    def _work(self, frame: Work) -> list[FromWorker]:
        model = self._models.get(frame.model)
        if model is None:
            return [_not_loaded(frame, list(self._models))]
        text = self._texts.get(frame.model)
        match frame, model:
            case Generate(), Summarising():
                return model.submit(frame)
            case Embed(), Embedder():
                return model.submit(frame)
            case Predict(), Predictor():
                return model.submit(frame)
            case Tokenize(), _ if text is not None:
                return [_tokenize(frame, text)]
            case Detokenize(), _ if text is not None:
                return [_detokenize(frame, text)]
            case _:
                return [_cannot(frame)]

    def _load(self, frame: Load) -> None:
        if frame.model in self._models:
            self._drop(frame.model)

        def progress(stage: str, done: int, total: int, unit: str) -> None:
            self._link.begin("load")
            self._link.send([LoadProgress(model=frame.model, stage=stage, done=done, total=total, unit=unit)])

        self._link.begin("load")
        before = memory.used_bytes(self._device)
        memory.watch_peak(self._device)
        try:
            loaded = self._loaded(frame, progress)
        except MlzooError as error:
            failed = _load_failed(frame.model, error)
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except Exception as error:  # noqa: BLE001 - strangers' files raise what they like; the other models live on
            traceback.print_exc()
            failed = _load_failed(frame.model, error)
        else:
            peak_bytes = max(memory.peak_bytes(self._device) - before, loaded.memory_bytes)
            self._loaded_as[frame.model] = attrs.evolve(loaded, peak_bytes=peak_bytes)
            self._link.send([self._loaded_as[frame.model]])
            return
        memory.give_back(self._device)  # Here, as until now the error held what was loaded.
        self._link.send([failed])

    def _loaded(self, frame: Load, progress: OnProgress) -> Loaded:
        match frame.kind:
            case "chat":
                return self._load_chat(frame, progress)
            case "embed":
                return self._load_embed(frame, progress)
            case "predict":
                return self._load_predict(frame, progress)
            case _:
                assert_never(frame.kind)

    def _load_chat(self, frame: Load, progress: OnProgress) -> Loaded:
        model = load_chat(frame, self._device, progress, cache=self._cache)
        engine = BatchEngine(model, computed=self._say_what_is_due)
        self._models[frame.model], self._texts[frame.model] = Summarising(engine, model), model.text
        return Loaded(
            model=frame.model,
            memory_bytes=model.memory_bytes,
            context=model.decoder.context,
            slots=model.decoder.slots,
            dtype=str(model.dtype).removeprefix("torch."),
            architecture=model.architecture,
            batching=model.batching,
            fingerprint=next(iter(model.fingerprints), ""),
            fingerprints=model.fingerprints[1:],
            why=model.why,
            adapters=model.adapters.facts(model.fingerprint),
        )

    def _load_embed(self, frame: Load, progress: OnProgress) -> Loaded:
        model = load_embed(frame, self._device, progress)
        self._models[frame.model], self._texts[frame.model] = Embedder(model), model.text
        return Loaded(
            model=frame.model,
            memory_bytes=model.memory_bytes,
            context=model.max_tokens,
            slots=REQUESTS,
            dtype=str(model.dtype).removeprefix("torch."),
            architecture=model.architecture,
            batching="slots",
            why=model.why,
        )

    def _load_predict(self, frame: Load, progress: OnProgress) -> Loaded:
        model = load_predict(frame, self._device, progress)
        self._models[frame.model] = Predictor(model)
        return Loaded(
            model=frame.model,
            memory_bytes=model.memory_bytes,
            context=model.context,
            slots=REQUESTS,
            dtype=str(model.dtype).removeprefix("torch."),
            architecture=model.architecture,
            batching="slots",
            why=model.why,
            labels=model.labels,
        )

    def _drop(self, model: str) -> None:
        gone = self._models.pop(model, None)
        if gone is not None:
            gone.free()
        del gone  # Else the memory would be given back while it is still held.
        self._texts.pop(model, None)
        self._loaded_as.pop(model, None)
        memory.give_back(self._device)


def _end_spoilt() -> NoReturn:
    """End the process, in which no model can compute any more: what runs is lost as in a crash.

    Whose failure it was is not said: its host might ask for the next thing before anybody knows that this process ends.
    """
    sys.stderr.write("memory was short, and no kernels can be made in this process any more: it ends\n")
    sys.stderr.flush()
    os._exit(1)


def _load_failed(model: str, error: Exception) -> LoadFailed:
    if isinstance(error, OutOfMemory) or memory.is_out_of_memory(error):
        needed, free = (getattr(error, "data", {}).get(key, 0) for key in ("needed", "free"))
        return LoadFailed(model=model, message=str(error), reason="memory", needed_bytes=needed, free_bytes=free)
    return LoadFailed(model=model, message=str(error) or repr(error))


def _not_loaded(frame: Work, loaded: list[str]) -> WorkFailed:
    message = f"{frame.model} is not loaded in this worker"
    return failed(frame.request, ModelNotFound(message, model=frame.model, available=loaded))


def _cannot(frame: Work) -> WorkFailed:
    feature = {Generate: "generation", Embed: "embeddings", Predict: "predictions"}.get(type(frame), "tokens")
    return failed(frame.request, Unsupported(f"{frame.model} does no {feature}", feature=feature, model=frame.model))


def _tokenize(frame: Tokenize, text: Text) -> FromWorker:
    try:
        tokens = text.encode(frame.text or "") if frame.messages is None else text.read(None, frame.messages)
    except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
        return broken(frame.request, error)
    return Tokenized(request=frame.request, tokens=tokens)


def _detokenize(frame: Detokenize, text: Text) -> FromWorker:
    wrong = next((place for place, token in enumerate(frame.tokens) if token >= text.size), None)
    if wrong is not None:
        expected = f"a token of {frame.model}, less than {text.size}"
        return failed(frame.request, InvalidParams(f"expected {expected}", path=f"tokens[{wrong}]", expected=expected))
    try:
        return Detokenized(request=frame.request, text=text.decode(frame.tokens))
    except Exception as error:  # noqa: BLE001 - tokens that break a tokenizer are one request's misfortune
        return broken(frame.request, error)
