"""Answers that must have a form: which tokens may come next, by a JSON Schema, a regular expression or a grammar.

Knows forms, tokens and masks; nothing of models, rows or sampling. The automata are llguidance's. A form is compiled,
and its masks are computed, in threads of their own, which do not hold the interpreter's lock: the former before its
request gets a place among the rows, the latter while the model computes the logits that they are for. Where only the
likeliest token is asked about, and mostly is allowed, no mask is computed at all until one is not.

Source: Koo et al. 2024, "Automata-based constraints for language model decoding"; Geng et al. 2025, "JSONSchemaBench".
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import orjson
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from

from mlzoo.errors import InternalError, Interrupted, InvalidParams, Unsupported
from mlzoo.inference.form_faults import place_of_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llguidance._lib import JsonCompileOptions

FORCED_RIGHT = 0.9  # how often a token comes that a form leaves no choice about, before any was seen
PATIENCE = 4  # tokens after which an average has forgotten about two thirds of what it was
NEEDED = 0.5  # of the last tokens, how many needed a mask where the next one is computed before it is asked for
KEPT_FORMS, KEPT_CHARS = 64, 65536  # forms that are kept compiled, of so long a text at most: programs repeat theirs
SEARCHED_CHARS = 8192  # of a schema at most, whose part at fault is looked for: others wait meanwhile
DETAIL_CHARS = 1000  # of what the library says: it may repeat the whole schema
NOTHING_FOLLOWS = "NoExtensionBias"  # what the library says where no token may come, and no end
OPTIONS_KEY = "x-guidance"  # under which the library keeps its options in a schema
# One space, or a new line and its indentation: whatever a model writes by itself, and no way to go on for ever.
WHITESPACE = r" |\n[ \t]{0,24}"
JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_pattern": WHITESPACE,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,  # What cannot be kept to is refused, not ignored.
    "coerce_one_of": False,
}


@attrs.frozen
class Grammar:
    """What an answer must be: text is as llguidance reads it, path is what in the params it was made from."""

    text: str
    path: str


class FormRefusal(InvalidParams):
    """The host's fault: the form that it wants cannot be kept to. ``detail`` is what the library says of it.

    That may repeat the form, which is a person's text.
    """

    def __init__(self, path: str, detail: str, what: str = "cannot be compiled") -> None:
        words = "; data.detail holds the words of the library that tried" if detail else ""
        super().__init__(f"this form {what}{words}", path=path)
        self.detail = detail.partition("\n<state>")[0][:DETAIL_CHARS]


class DeadEnd(InternalError):
    """The grammar's fault, or the library's: nothing may follow what was said, not even the end."""


def grammar_of(form: dict[str, Any]) -> Grammar | None:
    """Return the grammar of a ``response_format``; None where any text will do.

    Raises:
        FormRefusal: It is not even the text of a grammar.
    """
    match form:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return Grammar(json_grammar(schema), "response_format.json_schema.schema")
        case {"type": "json_object"}:
            return Grammar(json_grammar({"type": "object"}), "response_format")
        case {"type": "regex", "pattern": pattern}:
            return Grammar(LLMatcher.grammar_from_regex(pattern), "response_format.pattern")
        case {"type": "grammar", "grammar": text}:
            path = "response_format.grammar"
            try:
                return Grammar(grammar_from("grammar", text), path)
            except ValueError as error:
                raise FormRefusal(path, str(error)) from error
        case _:
            return None


def schema_of(grammar: Grammar) -> dict[str, Any] | None:
    """Return the JSON Schema that a grammar was made of; None for other grammars."""
    try:
        schema = orjson.loads(grammar.text)["grammars"][0]["json_schema"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return {key: value for key, value in schema.items() if key != OPTIONS_KEY} if isinstance(schema, dict) else None


def json_grammar(schema: dict[str, Any]) -> str:
    """Return the grammar of the JSON texts that a schema allows."""
    grammar: str = LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)
    return grammar


class Constraints:
    """What one model's tokenizer makes of forms.

    Args:
        tokenizer: Of transformers, a fast one.
        model: Its name, for messages.
        vocabulary: Width of the logits.
        end_tokens: Each of them ends an answer.
    """

    def __init__(self, tokenizer: Any, model: str, vocabulary: int, end_tokens: frozenset[int]) -> None:
        self._tokenizer, self._model = tokenizer, model
        self._vocabulary, self._end_tokens = vocabulary, end_tokens
        self._known: LLTokenizer | None = None
        self._forms: dict[Grammar, Future[LLMatcher]] = {}  # as none has begun yet; the latest that was asked for last
        # Two threads: what takes long to compile must not keep the masks of others waiting.
        self._compiles = ThreadPoolExecutor(1, thread_name_prefix="compiles forms")
        self._masks = ThreadPoolExecutor(1, thread_name_prefix="computes masks")

    def compiled(
        self, grammar: Grammar, tokens: Sequence[int], *, lazy: bool = False, keep: bool = True
    ) -> Future[Constraint]:
        """Return a constraint as it is after some tokens, once there is one.

        It is lazy where masks are needed for those tokens only that may not stand where they came. Where it is not to
        be kept, nothing of the form stays.

        It fails with FormRefusal where there is no such automaton, with Unsupported where the tokenizer is none that
        the library knows, with Interrupted where it does not allow the tokens.
        """
        is_known, path = grammar in self._forms, grammar.path
        form = self._forms.pop(grammar, None)
        if form is None or (form.done() and form.exception() is not None):
            form = self._compiles.submit(self._compile, grammar)
        if is_known or (keep and len(grammar.text) <= KEPT_CHARS):
            self._forms[grammar] = form
            if len(self._forms) > KEPT_FORMS:
                del self._forms[next(iter(self._forms))]
        if not form.done() or form.exception() is not None or tokens:
            return self._compiles.submit(self._begin, form, path, tuple(tokens), lazy=lazy)
        begun: Future[Constraint] = Future()
        begun.set_result(self._begin(form, path, (), lazy=lazy))
        return begun

    def forget(self) -> None:
        """Drop the forms that were asked for."""
        self._forms.clear()

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if not self._end_tokens:
            raise Unsupported(
                f"{self._model} has no token that ends an answer: it cannot be held to a form",
                feature="response_format",
                model=self._model,
            )
        if self._known is None:
            self._known = self._read_tokenizer()
        matcher = LLMatcher(self._known, grammar.text, log_level=0)
        if matcher.is_error():
            path = grammar.path + _place_of_fault(grammar, self._known)
            raise FormRefusal(path, matcher.get_error())
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error() and NOTHING_FOLLOWS in first.get_error():
            raise FormRefusal(grammar.path, "", "is one that no text has")
        if first.is_error():
            raise FormRefusal(grammar.path, first.get_error(), "cannot be followed")
        return matcher

    def _begin(self, form: Future[LLMatcher], path: str, tokens: tuple[int, ...], *, lazy: bool) -> Constraint:
        matcher = form.result().deep_copy()
        if not matcher.consume_tokens(list(tokens)):
            raise Interrupted(
                "what was said is not of the form that was asked for, as this version reads that: it cannot go on.",
                resumable=False,
            )
        return Constraint(matcher, self._vocabulary, self._masks.submit, lazy=lazy, path=path)

    def _read_tokenizer(self) -> LLTokenizer:
        size = max(self._vocabulary, len(self._tokenizer))
        try:
            backend = copy(self._tokenizer.backend_tokenizer)
            backend.no_padding()
            backend.no_truncation()
            return LLTokenizer(backend.to_str(), n_vocab=size, eos_token=sorted(self._end_tokens))
        except Exception as error:
            # The library raises what it likes about kinds of tokenizers that it does not know.
            raise Unsupported(
                f"the tokenizer of {self._model} is of a kind that answers cannot be held to a form with",
                feature="response_format",
                model=self._model,
            ) from error


def _place_of_fault(grammar: Grammar, tokenizer: LLTokenizer) -> str:
    """Return where in its schema a grammar is none, as far as that can be told; empty for other grammars."""

    def words(schema: dict[str, Any]) -> str:
        try:
            matcher = LLMatcher(tokenizer, json_grammar(schema), log_level=0)
        except ValueError as error:
            return str(error)
        return matcher.get_error() if matcher.is_error() else ""

    schema = schema_of(grammar) if len(grammar.text) <= SEARCHED_CHARS else None
    return "" if schema is None else place_of_fault(schema, words)


class Constraint:
    """The form of one answer: where it stands, and what may come next.

    What is read ahead is seen here too: tokens about which the form itself leaves no choice are the best guesses that
    there are.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: int,
        start: Callable[..., Future[list[torch.Tensor]]],
        *,
        lazy: bool = False,
        path: str = "response_format",
    ) -> None:
        self._path = path  # of the form in the params
        self._matcher, self._vocabulary, self._start, self._lazy = matcher, vocabulary, start, lazy
        self._guessed: tuple[int, ...] = ()
        self._masks: Future[list[torch.Tensor]] | None = None
        self._is_needed, self._needed = False, 0.0  # a mask: for this token, and how often of late
        self._forced: list[int] = []  # tokens that come next, as there is no choice; none: perhaps there is
        self._expected: list[int] = []  # those of them that were guessed, and are still to come
        self._right = FORCED_RIGHT  # how often such a token came of late: there may be other tokens for the same bytes

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow but the end.

        Raises:
            FormRefusal: It has grown beyond what can be followed, or has come to where no text goes on.
        """
        if not self._matcher.is_stopped():
            return False
        if self.fault is not None:
            raise self.fault
        return True

    @property
    def fault(self) -> FormRefusal | None:
        """Why the form cannot be followed any further; None: it can."""
        if not self._matcher.is_error():
            return None
        if NOTHING_FOLLOWS in self._matcher.get_error():
            return FormRefusal(self._path, "", "leads to where no text goes on")
        return FormRefusal(self._path, self._matcher.get_error(), "cannot be followed any further")

    def guess(self, guessed: Sequence[int], most: int, price: float) -> list[int]:
        """Return what the next tokens may be: those that are forced, else as many of those guessed as may come.

        Args:
            guessed: What the text so far suggests.
            most: How many there may be.
            price: How likely a token must be, together with all before it.
        """
        self._rest()
        self._expected = self._next_forced()[:most] if most > 0 else []
        if self._expected:
            count, likely = 0, self._right
            while likely >= price and count < len(self._expected):
                count, likely = count + 1, likely * self._right
            return self._expected[:count]
        return list(guessed[: self._matcher.validate_tokens(list(guessed))]) if guessed else []

    def look(self, guessed: Sequence[int] = ()) -> None:
        """Begin to compute what may come next, and what after each of the guessed tokens, if that will be needed."""
        self._rest()
        self._guessed, self._masks = tuple(guessed), None
        if not self._lazy or self._needed > NEEDED:
            self._masks = self._start(self._compute, self._guessed)

    def allowed(self) -> list[Allowed]:
        """Return what may stand at each of the places that ``look`` was given, until the next token is taken in."""
        return [Allowed(self, place) for place in range(len(self._guessed) + 1)]

    def permits(self, place: int, token: int) -> bool:
        """Whether a token may stand at a place."""
        if self._masks is not None:
            return bool(self._masks.result()[place][token])
        with self._at(place) as is_there:
            if not is_there or self._matcher.is_stopped():
                return False  # What may follow the end, a mask says.
            # Text about which there is no choice may be cut into tokens in one way only, as a mask has it, too.
            forced = self._matcher.compute_ff_tokens() if place else self._next_forced()
            return bool(forced[0] == token if forced else self._matcher.validate_tokens([token]) == 1)

    def mask(self, place: int) -> torch.Tensor:
        """Return the tokens that may stand at a place, ``[vocabulary]`` bool.

        Where nothing may follow, not even the end, none is allowed.
        """
        self._is_needed = True
        if self._masks is not None:
            return self._masks.result()[place]
        with self._at(place) as is_there:
            return torch.from_numpy(self._mask() if is_there else np.zeros(self._vocabulary, np.bool_))

    def _next_forced(self) -> list[int]:
        """Return the next tokens, as far as there is no choice about them."""
        if not self._forced:
            self._forced = self._matcher.compute_ff_tokens()
        return self._forced

    @contextlib.contextmanager
    def _at(self, place: int) -> Iterator[bool]:
        """Have the matcher stand at a place, if all that was guessed before it may stand there."""
        before = list(self._guessed[:place])
        taken = self._matcher.try_consume_tokens(before) if before else 0
        try:
            yield taken == len(before)
        finally:
            if taken:
                self._matcher.rollback(taken)

    def take(self, token: int) -> None:
        """Take in the token that came.

        Raises:
            FormRefusal: The form cannot be followed any further.
            DeadEnd: It may not stand there.
        """
        self._rest()
        self._guessed, self._masks = (), None
        self._needed += (self._is_needed - self._needed) / PATIENCE
        self._is_needed = False
        self._forced = self._forced[1:] if self._forced[:1] == [token] else []
        if self._expected:
            is_right = self._expected.pop(0) == token
            self._right += (is_right - self._right) / PATIENCE
            if not is_right:
                self._expected = []
        if not self._matcher.consume_token(token):
            raise self.fault or DeadEnd("the grammar of this answer does not allow the token that was chosen")

    def _rest(self) -> None:
        """Wait until nobody uses the matcher: a step that is done again has begun to compute already."""
        if self._masks is not None:
            self._masks.result()

    def _compute(self, guessed: tuple[int, ...]) -> list[torch.Tensor]:
        """Return the masks of all places; the matcher is as before then.

        It makes them with numpy: torch would start threads of its own in this one, and where there are more of them
        than processors, those of the forward sleep at each barrier from then on, which takes five times as long.
        """
        masks = []
        taken = 0
        for token in (*guessed, None):
            masks.append(torch.from_numpy(self._mask()))
            if token is None or not self._matcher.try_consume_tokens([token]):
                break
            taken += 1
        if taken:
            self._matcher.rollback(taken)
        nothing = torch.from_numpy(np.zeros(self._vocabulary, np.bool_))
        return [*masks, *[nothing] * (len(guessed) + 1 - len(masks))]

    def _mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self._matcher.is_error():  # It has grown beyond what can be followed.
            return np.zeros(self._vocabulary, np.bool_)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():  # Where nothing can follow, the library lets the end follow.
            return np.zeros(self._vocabulary, np.bool_)
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)


@attrs.frozen(eq=False)
class Allowed:
    """What may stand at one place of an answer, after those of the guessed tokens that are before it."""

    _constraint: Constraint
    _place: int

    def permits(self, token: int) -> bool:
        """Whether a token may stand there."""
        return self._constraint.permits(self._place, token)

    def mask(self) -> torch.Tensor:
        """Return the tokens that may stand there, ``[vocabulary]`` bool; where nothing may follow, none."""
        return self._constraint.mask(self._place)
