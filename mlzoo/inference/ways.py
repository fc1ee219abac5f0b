"""In which way a request is computed: in eager steps, or in compiled ones that take any rows.

An exact request keeps to the way in which it has begun, whatever happens. Knows models and requests; nothing of when
they run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.errors import Interrupted, InvalidParams
from mlzoo.inference.rows import StepsLost
from mlzoo.inference.sampler import is_only_held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Generate
    from mlzoo.inference.loader import ChatModel
    from mlzoo.inference.running import Running


def is_free(model: ChatModel, frame: Generate) -> bool:
    """Whether all forwards of a request are steps that take any rows; of an exact one, as from its start on.

    Raises:
        StepsLost: It is exact, its steps are compiled ones, and those do not run any more.
    """
    own, is_there = model.free_fingerprint, model.decoder.takes_any_rows
    if frame.adapter:
        return False
    if not frame.exact:
        return is_there
    begins_so = own != "" and frame.fingerprint in ("", own)
    if begins_so and not is_there:
        raise StepsLost("compiled steps that exact requests depend on do not run any more")
    return begins_so


def is_eager(row: Running) -> bool:
    """Whether the bits of a row must be those of eager steps."""
    return row.frame.exact and not row.free


def apart(rows: Sequence[Running]) -> list[list[Running]]:
    """Return rows as they share forwards.

    Those without an adapter keep their compiled steps; and those whose forwards are all compiled have no others.
    """
    adapted = [row for row in rows if row.frame.adapter]
    plain = [row for row in rows if not row.frame.adapter]
    eager: list[Running] = []
    if any(row.free for row in plain):
        eager = [row for row in plain if is_eager(row)]
        plain = [row for row in plain if not is_eager(row)]
    return [group for group in (plain, eager, adapted) if group]


def of_form(model: ChatModel, row: Running) -> dict[str, bool]:
    """Return how a row is held to its form: whether masks are computed where one is needed, and if the form is kept."""
    lazy = model.device.type == "cpu" and is_only_held(row.frame.sampling, row.seen)
    return {"lazy": lazy, "keep": not row.frame.ephemeral}


def do_without_steps(rows: Sequence[Running]) -> None:
    """Have rows go on eagerly, whose forwards were compiled steps that do not run any more.

    Raises:
        StepsLost: One of them is exact: its bits would be others.
    """
    if any(row.free and row.frame.exact for row in rows):
        raise StepsLost("compiled steps that exact requests depend on do not run any more")
    for row in rows:
        row.leaves_nothing = row.leaves_nothing or row.free  # What eager ones would take up has other bits.
        row.free = False


def expect_known(model: ChatModel, prompt: Sequence[int], said: Sequence[int]) -> None:
    """Refuse tokens that a tokenizer has and its model has not: a compiled step would end the process over one.

    Raises:
        InvalidParams: There is one in the prompt.
        Interrupted: There is one in what was said before an interruption.
    """
    if any(token >= model.known_tokens for token in said):
        raise Interrupted(
            f"{model.name} has not the tokens that it had when this began: it cannot be continued.", resumable=False
        )
    strange = next((token for token in prompt if token >= model.known_tokens), None)
    if strange is not None:
        raise InvalidParams(
            f"{model.text.name(strange)!r} is a token of the tokenizer that {model.name} does not know: leave it out",
            path="messages",
        )
