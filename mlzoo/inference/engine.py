"""The batching engine of one model: requests come and go, each step is one forward for all that run.

Knows requests as frames, and the parts that do the work (decoder, scheduler, sampler, detokenizer); nothing of sockets
or of how a model was loaded. A request that fails, ends alone; others go on.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch

from mlzoo.errors import ContextLengthExceeded
from mlzoo.frames import FromWorker, Generate, Prefilled, Replayed, Row, Stepped, TokenLogprob, WorkFailed
from mlzoo.inference import speculation, ways
from mlzoo.inference.constraint import grammar_of
from mlzoo.inference.decoder import SlotDecoder
from mlzoo.inference.failing import broken
from mlzoo.inference.history import read_prompt
from mlzoo.inference.memory import is_out_of_memory
from mlzoo.inference.pace import Pace
from mlzoo.inference.rows import Part, StepsLost
from mlzoo.inference.running import Running, begin
from mlzoo.inference.sampler import choose_each
from mlzoo.inference.scheduler import Scheduler
from mlzoo.inference.seats import Seats
from mlzoo.inference.tool_calls import is_forced
from mlzoo.inference.tool_forms import ToolForm, forced, tools_of
from mlzoo.inference.transfer import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from mlzoo.frames import FinishReason
    from mlzoo.inference.constraint import Constraint
    from mlzoo.inference.loader import ChatModel
    from mlzoo.inference.sampler import Choice
    from mlzoo.inference.scheduler import Chunk

COMPILING_S = 0.01  # for which a step waits at most where nothing is to be done until a form is compiled
REPLAYED_AT_ONCE = 16  # tokens that are decoded again before it is told how far that is


class BatchEngine:
    """Runs the requests of one model. ``submit``, then ``step`` until ``idle``.

    Args:
        model: whose requests they are.
        clock: seconds that pass.
        computed: Hears that a forward of rows is computed, before tokens are chosen: processors are free meanwhile.
    """

    def __init__(
        self,
        model: ChatModel,
        clock: Callable[[], float] = time.perf_counter,
        computed: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._clock, self._computed, self._pace = model, clock, computed, Pace()
        self._decoder, self._text, self._forms = model.decoder, model.text, model.constraints
        self._scheduler = Scheduler(
            model.decoder.slots, model.decoder.chunk, model.joined_chunks, self._seat, lambda: self._pace.tokens
        )
        self._seats = Seats(model)
        self._running: dict[str, Running] = {}
        self._compiling: dict[str, Future[Constraint]] = {}  # forms of requests that do not wait for a slot yet

    @property
    def any_threads(self) -> bool:
        """Whether no answer depends on how many threads compute it."""
        return isinstance(self._decoder, SlotDecoder) and self._decoder.any_threads

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._scheduler.idle and not self._compiling

    @property
    def only_decodes(self) -> bool:
        """Whether rows decode, and no prompt is to be read before their next step."""
        return not (self._scheduler.idle or self._scheduler.reads or self._compiling)

    def submit(self, frame: Generate) -> list[FromWorker]:
        """Take in a request; return what is to be said at once: its failure, or its end where it asks for nothing.

        Args:
            frame: What to generate; its request must not be running.
        """
        try:
            running = self._begin(frame)
        except StepsLost:
            raise
        except Exception as error:  # noqa: BLE001 - a text that breaks a tokenizer is one request's misfortune
            return [broken(frame.request, error)]
        if running.is_full:
            content, finish = running.finish("length")
            first = frame.resume is None
            row = Row(
                request=frame.request,
                content=content,
                tool_calls=running.calls(),
                tokens=(),
                prompt_tokens=len(running.prompt) if first else None,
                truncated=running.cut if first else 0,
                finish_reason=finish,
            )
            return [Stepped(rows=(row,))]
        self._running[frame.request] = running
        if running.grammar is None:
            self._scheduler.add(frame.request, running.read, batch=frame.batch, free=running.free)
        else:
            how = ways.of_form(self._model, running)
            self._compiling[frame.request] = self._forms.compiled(running.grammar, running.tokens, **how)
        return []

    def abandon(self, request: str) -> None:
        """Drop a request; an unknown one is no error."""
        running = self._running.get(request)
        # Until a token was chosen after all that it was given, nobody knows whether its keys and values are numbers.
        self._remove(request, dirty=running is not None and not (running.is_kept and running.is_caught_up))

    def forget(self) -> None:
        """Drop what is kept of earlier requests; those that run go on, and are not kept: a history may be in them."""
        self._forms.forget()
        self._seats.clear()
        for running in self._running.values():
            running.leaves_nothing = True

    def free(self) -> None:
        """Give back the memory of a model that nobody asks for any more."""
        self._decoder.free()

    def step(self) -> list[FromWorker]:
        """Read a chunk of a prompt (or some short prompts), or decode a token for every row; return what came of it."""
        refused = self._take_up()
        chunks = self._scheduler.next_chunks()
        if chunks:
            free = [chunk for chunk in chunks if chunk.free]
            apart = [[chunk] for chunk in chunks if not chunk.free]
            return [*refused, *(frame for group in (free, *apart) if group for frame in self._read(group))]
        rows = [self._running[place.request] for place in self._scheduler.rows()]
        return [*refused, *(frame for group in ways.apart(rows) for frame in self._decode(group))]

    def _take_up(self) -> list[FromWorker]:
        """Have those wait for a slot whose forms are compiled; those whose forms are none fail alone."""
        if self._compiling and self._scheduler.idle:
            wait(self._compiling.values(), timeout=COMPILING_S, return_when=FIRST_COMPLETED)
        refused: list[FromWorker] = []
        for request in [request for request, form in self._compiling.items() if form.done()]:
            running, form = self._running[request], self._compiling.pop(request)
            try:
                running.constraint = form.result()
            except Exception as error:  # noqa: BLE001 - a form that breaks its library is one request's misfortune
                refused.append(self._fail(request, error))
            else:
                self._scheduler.add(request, running.read, batch=running.frame.batch, free=running.free)
        return refused

    def _begin(self, frame: Generate) -> Running:
        self._model.adapters.expect(frame.adapter, frame.model)
        tools = tools_of(frame, self._model.tool_form)
        prompt, seen_images, cut = read_prompt(self._text, frame, self._decoder.context, tools)
        ways.expect_known(self._model, prompt, frame.tokens)
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
        form = self._model.tool_form if tools and isinstance(self._model.tool_form, ToolForm) else None
        running = begin(frame, prompt, limit, self._text, seen, form)
        running.images, running.cut = seen_images, cut
        running.free = ways.is_free(self._model, frame) and not seen_images
        if running.free:
            running.read_again()  # What is read has the bits of what was decoded.
        if form is not None and is_forced(frame):
            name = frame.tool_choice["function"]["name"] if isinstance(frame.tool_choice, dict) else None
            running.grammar = forced(form, tools, name)
        elif frame.response_format is not None:
            running.grammar = grammar_of(frame.response_format)
        return running

    def _read(self, chunks: Sequence[Chunk]) -> list[FromWorker]:
        """Read chunks of prompts in one forward; where one is its prompt's last, choose the token that follows it."""
        rows = [self._running[chunk.request] for chunk in chunks]
        for row, chunk in zip(rows, chunks, strict=True):
            if chunk.last and row.is_caught_up:
                row.look_ahead(0, 1)
        began_s = self._clock()
        try:
            logits = self._seats.compute(lambda: self._prefill(rows, chunks))
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: nothing that it computes can be trusted.
        except (MemoryError, RuntimeError, IndexError, ValueError) as error:
            if len(chunks) > 1:  # The one at fault fails alone.
                return [frame for chunk in chunks for frame in self._read([chunk])]
            return [self._fail(chunks[0].request, error)]
        self._pace.read(sum(chunk.stop - chunk.start for chunk in chunks), self._clock() - began_s)
        progress: list[FromWorker] = []
        ready: list[int] = []
        for place, (row, chunk) in enumerate(zip(rows, chunks, strict=True)):
            if not chunk.last:
                progress.append(Prefilled(request=chunk.request, done=chunk.stop, total=len(row.to_read)))
            elif not row.is_caught_up:
                progress.append(_replayed(row))
            else:
                ready.append(place)
        said = self._advance([rows[place] for place in ready], rows_of(logits, ready)) if ready else []
        return [*progress, *said]

    def _prefill(self, rows: Sequence[Running], chunks: Sequence[Chunk]) -> torch.Tensor:
        """Return the logits after chunks that are free, or after one; ``[chunks, vocabulary]``."""
        parts = [
            Part(chunk.slot, row.to_read[chunk.start : chunk.stop], chunk.start)
            for row, chunk in zip(rows, chunks, strict=True)
        ]
        if chunks[0].free:
            return self._decoder.read(parts)
        (part,) = parts
        images = rows[0].images if part.start == 0 else {}
        adapter = rows[0].frame.adapter
        return self._decoder.prefill(part.slot, part.tokens, part.start, images, adapter=adapter)[None]

    def _decode(self, rows: Sequence[Running]) -> list[FromWorker]:
        """Decode a token for every row: the one that was chosen last, or the next of those from before.

        Where it costs little, what follows it from before, or may follow it by a guess, is decoded in the same step.
        Either all rows have adapters, or none.
        """
        exact, adapted = any(map(ways.is_eager, rows)), bool(rows[0].frame.adapter)
        reads_ahead = self._decoder.reads_ahead(len(rows), exact=exact, adapted=adapted)
        spare = self._decoder.slots - len(rows) if reads_ahead else 0
        known = [_known(row, spare // len(rows)) for row in rows]
        self._guess(rows, known, spare)
        given = [(*tokens, *row.guessed) for row, tokens in zip(rows, known, strict=True)]
        slots = [row.slot for row, tokens in zip(rows, given, strict=True) for _ in tokens]
        positions = [row.next_place + n for row, tokens in zip(rows, given, strict=True) for n in range(len(tokens))]
        adapters = [row.frame.adapter for row, tokens in zip(rows, given, strict=True) for _ in tokens if adapted]
        tokens, began_s = list(chain.from_iterable(given)), self._clock()
        try:
            step = partial(self._decoder.decode, slots, tokens, positions, exact=exact, adapters=adapters)
            logits = self._seats.compute(step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if not self._decoder.takes_any_rows:
                ways.do_without_steps(rows)
            # The youngest that decodes makes room; the others' step is done again, and writes what it wrote already.
            decoding = {row.frame.request for row in rows}
            return [self._fail([request for request in self._running if request in decoding][-1], error)]
        if not self._decoder.takes_any_rows:
            ways.do_without_steps(rows)
        if len(tokens) == len(rows):  # Guesses make a step longer, not what a reader waits for a word.
            self._pace.stepped(self._clock() - began_s)
        self._computed()
        return self._go_on(rows, known, logits)

    def _guess(self, rows: Sequence[Running], known: Sequence[Sequence[int]], spare: int) -> None:
        """Guess what follows the last token of each row, as far as that is worth it."""
        spare -= sum(map(len, known)) - len(rows)
        share = spare // len(rows) if len(rows) <= speculation.SEQUENCES else 0
        price = speculation.price(len(rows))
        for row, tokens in zip(rows, known, strict=True):
            row.guessed = []
            if row.decoded + len(tokens) == len(row.tokens):
                row.look_ahead(share, price)

    def _go_on(self, rows: Sequence[Running], known: Sequence[Sequence[int]], logits: torch.Tensor) -> list[FromWorker]:
        """Choose what follows the tokens of rows that have all of theirs decoded; tell how far the others are."""
        progress: list[FromWorker] = []
        ready: list[Running] = []
        wanted: list[int] = []
        first = 0
        for row, tokens in zip(rows, known, strict=True):
            row.decoded += len(tokens)
            end = first + len(tokens) + len(row.guessed)
            if row.is_caught_up:
                ready.append(row)
                wanted += range(first + len(tokens) - 1, end)
            elif row.decoded % REPLAYED_AT_ONCE == 0:
                progress.append(_replayed(row))
            first = end
        if not ready:
            return progress
        return [*progress, *self._advance(ready, rows_of(logits, wanted))]

    def _seat(self, request: str, slot: int) -> int:
        """Give a request a slot; return how many tokens of its prompt are in it from the start."""
        return self._seats.take(self._running[request], slot)

    def _advance(self, rows: Sequence[Running], logits: torch.Tensor) -> list[FromWorker]:
        """Choose each row's tokens and say what they brought; rows that end, leave.

        Args:
            rows: The model has been given all their tokens, and what was guessed.
            logits: After each row's last token and after each of its guesses, ``[tokens, vocabulary]``.
        """
        draws = [row.draws() for row in rows]
        choices = iter(choose_each(logits, list(chain.from_iterable(draws))))
        said: list[Row] = []
        failed: list[FromWorker] = []
        for row, mine in zip(rows, draws, strict=True):
            try:
                for one in self._accept(row, list(islice(choices, len(mine)))):
                    said.append(one)  # noqa: PERF402 - what comes before a failure is said
            except Exception as error:  # noqa: BLE001 - one row's text must not end the others
                failed.append(self._fail(row.frame.request, error))
        return [Stepped(rows=tuple(said)), *failed] if said else failed

    def _accept(self, row: Running, choices: Sequence[Choice | Exception]) -> Iterator[Row]:
        """Yield what the chosen tokens bring, up to the first that was guessed otherwise.

        Raises:
            Exception: One of them could not be chosen.
        """
        guessed, row.guessed = row.guessed, []
        stop = row.next_place + len(guessed)
        for choice, guess in zip(choices, (*guessed, None), strict=True):
            if isinstance(choice, Exception):
                raise row.why_none(choice)
            said = self._say(row, choice)
            yield said
            if said.finish_reason is not None or choice.token != guess:
                break
            row.decoded += 1  # What was guessed is in its slot already.
        if any(isinstance(choice, Exception) for choice in choices):
            # What was guessed wrong is masked until it is written over; but 0 times NaN is NaN.
            self._decoder.forget(row.slot, row.next_place, stop)

    def _say(self, row: Running, choice: Choice) -> Row:
        """Add a token to a row; return the text that is certain now, and whether the row ends."""
        first = not row.tokens
        if not row.is_kept:  # Its logits are numbers, so its keys and values are.
            self._seats.keep(row)
            row.is_kept = True
        ended = choice.token in self._model.end_tokens
        if ended:
            row.add(choice.token)
        content = "" if ended else row.take(choice.token)
        finish: FinishReason | None = None
        if ended or row.stops.found:
            finish = "stop"
        elif row.constraint is not None and row.constraint.is_over:
            finish = "stop"  # Nothing may follow but the end, which need not be computed.
        elif row.is_full:
            finish = "length"
        if finish is not None:
            held_back, finish = row.finish(finish)
            content += held_back
            self._seats.keep(row)
            self._remove(row.frame.request, dirty=False)
        return Row(
            request=row.frame.request,
            content=content,
            tool_calls=row.calls(),
            tokens=(choice.token,),
            logprobs=() if choice.logprob is None else (self._logprob(choice, choice.logprob),),
            prompt_tokens=len(row.prompt) if first else None,
            cached_tokens=min(row.restored.tokens, len(row.prompt)) if first else 0,
            truncated=row.cut if first else 0,
            finish_reason=finish,
        )

    def _logprob(self, choice: Choice, logprob: float) -> TokenLogprob:
        top = tuple((self._text.name(token), value) for token, value in choice.top)
        return TokenLogprob(token=self._text.name(choice.token), logprob=logprob, top=top)

    def _fail(self, request: str, error: Exception) -> WorkFailed:
        self._remove(request, dirty=True)
        return broken(request, error)

    def _remove(self, request: str, *, dirty: bool) -> None:
        running = self._running.pop(request, None)
        self._compiling.pop(request, None)
        place = self._scheduler.remove(request)
        if running is not None and place is not None and place.slot >= 0:
            # Not the whole slot: to clear what was never written would take the memory that is lacking.
            most = max(place.read, running.next_place) + self._decoder.slots
            self._decoder.release(place.slot, min(most, self._decoder.context), dirty=dirty or running.frame.ephemeral)


def _known(row: Running, spare: int) -> list[int]:
    """Return what a row decodes next of the tokens that it has, no more than up to where that is told."""
    return row.known(1 + min(spare, REPLAYED_AT_ONCE - 1 - row.decoded % REPLAYED_AT_ONCE))


def _replayed(row: Running) -> Replayed:
    return Replayed(request=row.frame.request, done=row.decoded, total=len(row.tokens))
