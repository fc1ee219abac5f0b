"""Stop strings, against a character-by-character oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlzoo.inference.stop import StopStrings


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if matches:
            return text[: end - max(map(len, matches))], True
    return text, False


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", max_size=4), max_size=3))
def test_however_text_is_cut_the_first_complete_stop_string_ends_it(pieces, stops):
    watch, said = StopStrings(stops), ""
    for piece in pieces:
        said += watch.feed(piece)
    said += watch.finish()
    assert (said, watch.found) == expected("".join(pieces), stops)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_given_out_is_never_taken_back_and_no_more_is_held_than_may_matter(text, stops):
    watch, said = StopStrings(stops), ""
    for end, piece in enumerate(text, 1):
        said += watch.feed(piece)
        whole, found = expected(text[:end], stops)
        assert whole.startswith(said)
        if not found:
            assert len(whole) - len(said) < max(map(len, stops))


def test_text_after_a_stop_string_is_dropped():
    watch = StopStrings(["END"])
    assert watch.feed("one EN") == "one "
    assert watch.feed("D two") == ""
    assert watch.found
    assert watch.feed(" three") == ""
    assert watch.finish() == ""
