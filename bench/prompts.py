"""The prompts of the benchmarks of engines: 16 that all differ from their first words on, and longer ones by a seed.

A prompt that asks for a long answer is still being answered after 96 tokens, so that all engines say equally many.
"""

from __future__ import annotations

import random
from typing import Any

SUBJECTS = (
    "the keeper of a lighthouse who has not seen a ship for a year",
    "a clockmaker whose clocks all run backwards from the first snow on",
    "two sisters who cross a desert with one bottle of water",
    "a librarian who finds a book in which her own day is written",
    "the last train of the night and its only passenger",
    "a baker whose bread makes people tell the truth",
    "a village that moves one mile to the north every spring",
    "a diver who hears music from a wreck",
    "an astronomer who counts the stars and finds one too many",
    "a gardener who grows a forest in the yard of a prison",
    "a violin that has been lost in four wars",
    "a doctor on an island where nobody falls ill",
    "a painter who has run out of blue",
    "a bridge that two kings had built from both sides at once",
    "a postman who delivers one letter that has no address",
    "a fisherman who catches the same fish every morning",
)
FORMS = ("Write a long story about", "Tell me in great detail a tale about")
WORDS = [
    "river",
    "stone",
    "morning",
    "letter",
    "garden",
    "winter",
    "candle",
    "harbour",
    "mountain",
    "silver",
    "paper",
    "voice",
    "window",
    "bread",
    "journey",
    "forest",
    "shadow",
    "copper",
    "island",
    "lantern",
    "summer",
    "bridge",
    "thunder",
    "meadow",
    "castle",
    "pepper",
    "orchard",
    "feather",
    "anchor",
    "valley",
    "market",
]


def story(number: int, chapter: int = 0) -> list[dict[str, Any]]:
    """Return the messages of one of the short prompts, about 50 tokens; a chapter of one's own makes them new ones."""
    subject, form = SUBJECTS[number % len(SUBJECTS)], FORMS[number // len(SUBJECTS) % len(FORMS)]
    return [
        {
            "role": "user",
            "content": f"Chapter {chapter}. {form} {subject}. Begin with the weather, and do not stop early.",
        }
    ]


def long(words: int, seed: int) -> list[dict[str, Any]]:
    """Return messages that hold so many drawn words, of about a token each: no prefix of another seed's."""
    draw = random.Random(seed)
    said = " ".join(draw.choices(WORDS, k=words))
    return [{"role": "user", "content": f"{said}. Write a long story in which all of these occur."}]
