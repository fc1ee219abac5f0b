"""The batching engine of one model: requests come and go, each step is one forward for all that run.

Knows requests as frames, and the parts that do the work (decoder, scheduler, sampler, detokenizer); nothing of sockets
or of how a model was loaded. A request that fails, ends alone; others go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlzoo.errors import ContextLengthExceeded
from mlzoo.frames import FromWorker, Generate, Prefilled, Replayed, Row, Stepped, TokenLogprob, WorkFailed
from mlzoo.inference import threads
from mlzoo.inference.failing import broken
from mlzoo.inference.memory import is_out_of_memory
from mlzoo.inference.running import Running, begin
from mlzoo.inference.sampler import Choice, Draw, choose
from mlzoo.inference.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import FinishReason
    from mlzoo.inference.loader import ChatModel
    from mlzoo.inference.scheduler import Chunk, Place

REPLAYED_AT_ONCE = 16  # tokens that are decoded again before it is told how far that is


class BatchEngine:
    """Runs the requests of one model. ``submit``, then ``step`` until ``idle``."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._decoder, self._text = model.decoder, model.text
        self._scheduler = Scheduler(model.decoder.slots, model.decoder.chunk, model.joined_chunks)
        self._running: dict[str, Running] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._scheduler.idle

    def submit(self, frame: Generate) -> list[FromWorker]:
        """Take in a request; return what is to be said at once: its failure, or its end where it asks for nothing.

        Args:
            frame: What to generate; its request must not be running.
        """
        try:
            running = self._begin(frame)
        except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
            return [broken(frame.request, error)]
        if running.is_full:
            content, finish = running.finish("length")
            first = frame.resume is None
            row = Row(
                request=frame.request,
                content=content,
                tokens=(),
                prompt_tokens=len(running.prompt) if first else None,
                finish_reason=finish,
            )
            return [Stepped(rows=(row,))]
        self._running[frame.request] = running
        self._scheduler.add(frame.request, len(running.to_read))
        return []

    def abandon(self, request: str) -> None:
        """Drop a request; an unknown one is no error."""
        self._remove(request, dirty=False)

    def step(self) -> list[FromWorker]:
        """Read a chunk of a prompt (or some short prompts), or decode a token for every row; return what came of it."""
        chunks = self._scheduler.next_chunks()
        if chunks:
            return [frame for chunk in chunks for frame in self._read(chunk)]
        rows = self._scheduler.rows()
        return self._decode(rows) if rows else []

    def _begin(self, frame: Generate) -> Running:
        prompt = self._text.read(frame.prompt, frame.messages)
        room = self._decoder.context - len(prompt)
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; {frame.model} holds {self._decoder.context}, "
                "of which one at least must be left for the answer",
                limit=self._decoder.context,
                got=len(prompt),
            )
        seen = None
        if frame.sampling.repetition_penalty != 1:
            seen = torch.zeros(self._model.vocabulary, dtype=torch.bool, device=self._model.device)
            seen[list(prompt)] = True
        limit = room if frame.max_tokens is None else min(frame.max_tokens, room)
        return begin(frame, prompt, limit, self._text, seen)

    def _read(self, chunk: Chunk) -> list[FromWorker]:
        """Read a chunk of a prompt; where it is the last, choose the token that follows it."""
        running = self._running[chunk.request]
        to_read = running.to_read
        try:
            logits = self._decoder.prefill(chunk.slot, to_read[chunk.start : chunk.stop], chunk.start)
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except (RuntimeError, IndexError, ValueError) as error:
            return [self._fail(chunk.request, error)]
        if not chunk.last:
            return [Prefilled(request=chunk.request, done=chunk.stop, total=len(to_read))]
        return self._advance([running], logits[None])

    def _decode(self, places: Sequence[Place]) -> list[FromWorker]:
        """Decode one token for every row: the one that was chosen last, or the next of those from before."""
        rows = [self._running[place.request] for place in places]
        slots = [place.slot for place in places]
        try:
            logits = self._decoder.decode(slots, [row.next_token for row in rows], [row.next_place for row in rows])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # The youngest makes room; the others' step is done again, and writes what it wrote already.
            return [self._fail(next(reversed(self._running)), error)]
        for row in rows:
            row.decoded += 1
        return self._advance(rows, logits)

    def _advance(self, rows: Sequence[Running], logits: torch.Tensor) -> list[FromWorker]:
        """Choose each row's token and say what it brought; rows that end, leave. Those from before say nothing."""
        behind = [row for row in rows if not row.is_caught_up]
        if behind:
            logits = logits[[place for place, row in enumerate(rows) if row.is_caught_up]]
            rows = [row for row in rows if row.is_caught_up]
            told = [row for row in behind if row.decoded % REPLAYED_AT_ONCE == 0]
            progress = [Replayed(request=r.frame.request, done=r.decoded, total=len(r.tokens)) for r in told]
            return [*progress, *(self._advance(rows, logits) if rows else [])]
        draws = [Draw(row.frame.sampling, row.position, row.seen) for row in rows]
        said: list[Row] = []
        failed: list[FromWorker] = []
        for row, choice in zip(rows, _choose(logits, draws), strict=True):
            if isinstance(choice, Exception):
                failed.append(self._fail(row.frame.request, choice))
                continue
            try:
                said.append(self._say(row, choice))
            except Exception as error:  # noqa: BLE001 - one row's text must not end the others
                failed.append(self._fail(row.frame.request, error))
        return [Stepped(rows=tuple(said)), *failed] if said else failed

    def _say(self, row: Running, choice: Choice) -> Row:
        """Add a token to a row; return the text that is certain now, and whether the row ends."""
        first = not row.tokens
        ended = choice.token in self._model.end_tokens
        if ended:
            row.add(choice.token)
        content = "" if ended else row.take(choice.token)
        finish: FinishReason | None = None
        if ended or row.stops.found:
            finish = "stop"
        elif row.is_full:
            finish = "length"
        if finish is not None:
            held_back, finish = row.finish(finish)
            content += held_back
            self._remove(row.frame.request, dirty=False)
        return Row(
            request=row.frame.request,
            content=content,
            tokens=(choice.token,),
            logprobs=() if choice.logprob is None else (self._logprob(choice, choice.logprob),),
            prompt_tokens=len(row.prompt) if first else None,
            finish_reason=finish,
        )

    def _logprob(self, choice: Choice, logprob: float) -> TokenLogprob:
        top = tuple((self._text.name(token), value) for token, value in choice.top)
        return TokenLogprob(token=self._text.name(choice.token), logprob=logprob, top=top)

    def _fail(self, request: str, error: Exception) -> WorkFailed:
        self._remove(request, dirty=True)
        return broken(request, error)

    def _remove(self, request: str, *, dirty: bool) -> None:
        self._running.pop(request, None)
        place = self._scheduler.remove(request)
        if place is not None and place.slot >= 0:
            self._decoder.release(place.slot, self._decoder.context, dirty=dirty)


def _choose(logits: torch.Tensor, draws: Sequence[Draw]) -> Sequence[Choice | Exception]:
    """Choose for all rows at once; where that fails, for each alone, so that the one at fault fails alone."""
    try:
        # For few rows there is not work enough to wake other threads; their number changes no choice.
        with threads.using(1 if len(draws) <= threads.FEW_ROWS else torch.get_num_threads()):
            return choose(logits, draws)
    except (RuntimeError, ValueError, IndexError, OverflowError):
        return [_choose_one(logits[i : i + 1], draw) for i, draw in enumerate(draws)]


def _choose_one(logits: torch.Tensor, draw: Draw) -> Choice | Exception:
    try:
        return choose(logits, [draw])[0]
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        return error
