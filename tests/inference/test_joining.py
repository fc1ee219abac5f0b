"""What goes into the next forward: fair between requests, of like length, within bounds; nothing waits for company."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlzoo.inference.joining import Joiner


def taken(joiner):
    """Return the forwards until nothing is left."""
    forwards = []
    while joiner:
        forwards.append(joiner.take())
    return forwards


def requests_of(places):
    return {place.request for place in places}


def test_what_has_arrived_goes_at_once_all_of_it_where_it_fits():
    joiner = Joiner(tokens=100, rows=32, padding=40)
    for name in "abc":
        joiner.add(name, [5, 4])
    (forward,) = taken(joiner)
    assert len(forward) == 6
    assert [place.length for place in forward] == [5, 5, 5, 4, 4, 4]


def test_nothing_is_taken_where_nothing_waits():
    assert Joiner(tokens=10, rows=4, padding=40).take() == []


def test_rows_of_like_length_go_together_whosever_they_are():
    joiner = Joiner(tokens=40, rows=4, padding=40)
    for name in "abcd":
        joiner.add(name, [10, 1])
    assert [{place.length for place in forward} for forward in taken(joiner)] == [{10}, {1}]


def test_one_long_text_does_not_make_all_others_as_long():
    joiner = Joiner(tokens=1000, rows=32, padding=20)
    joiner.add("long", [30])
    for number in range(8):
        joiner.add(str(number), [5])
    assert [[place.length for place in forward] for forward in taken(joiner)] == [[30], [5] * 8]


def test_a_forward_more_is_not_begun_for_less_padding_than_it_costs():
    joiner = Joiner(tokens=1000, rows=32, padding=20)
    joiner.add("a", [10, 5, 5])
    assert [[place.length for place in forward] for forward in taken(joiner)] == [[10, 5, 5]]


def test_a_row_that_is_longer_than_a_forward_goes_alone():
    joiner = Joiner(tokens=10, rows=4, padding=40)
    joiner.add("a", [50, 3])
    assert [[place.length for place in forward] for forward in taken(joiner)] == [[50], [3]]


def test_who_comes_later_with_little_does_not_wait_for_who_came_before_with_much():
    joiner = Joiner(tokens=64, rows=8, padding=40)
    joiner.add("much", [8] * 800)
    for _ in range(5):
        joiner.take()
    joiner.add("little", [8])
    assert "little" in requests_of(joiner.take())


def test_nor_does_who_came_before_wait_for_a_stream_of_those_who_come_later():
    joiner = Joiner(tokens=32, rows=4, padding=40)
    joiner.add("patient", [8] * 8)
    served = 0
    for number in range(40):
        for name in range(4):  # as much as a whole forward holds, again and again
            joiner.add(f"{number}-{name}", [8])
        served += sum(place.request == "patient" for place in joiner.take())
    assert served == 8


def test_requests_of_like_size_are_given_alike():
    joiner = Joiner(tokens=80, rows=8, padding=40)
    for name in "abcd":
        joiner.add(name, [10] * 100)
    for _ in range(10):
        joiner.take()
    left = {name: len(waiting.left) for name, waiting in joiner._waiting.items()}
    assert max(left.values()) - min(left.values()) <= 4


def test_others_go_before_a_batch():
    joiner = Joiner(tokens=40, rows=4, padding=40)
    joiner.add("batch", [10] * 4, batch=True)
    joiner.add("interactive", [10] * 8)
    assert [requests_of(forward) for forward in taken(joiner)] == [{"interactive"}, {"interactive"}, {"batch"}]


def test_rows_of_a_request_that_is_dropped_are_never_taken():
    joiner = Joiner(tokens=20, rows=2, padding=40)
    joiner.add("gone", [10] * 10)
    joiner.add("stays", [10] * 3)
    joiner.take()
    joiner.drop("gone")
    joiner.drop("unknown")
    assert requests_of(place for forward in taken(joiner) for place in forward) == {"stays"}


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=12), st.integers(1, 9))
def test_every_row_is_taken_once_within_the_bounds(lengths, rows):
    joiner = Joiner(tokens=50, rows=rows, padding=40)
    for number, of_one in enumerate(lengths):
        joiner.add(str(number), of_one)
    forwards = taken(joiner)
    for forward in forwards:
        assert 1 <= len(forward) <= rows
        assert len(forward) == 1 or forward[0].length * len(forward) <= 50
        assert sum(forward[0].length - place.length for place in forward) <= 40
        assert [place.length for place in forward] == sorted((place.length for place in forward), reverse=True)
    found = sorted((place.request, place.row, place.length) for forward in forwards for place in forward)
    assert found == sorted(
        (str(n), row, length) for n, of_one in enumerate(lengths) for row, length in enumerate(of_one)
    )


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=2, max_size=12))
def test_each_forward_has_a_row_of_whom_has_been_given_the_least(lengths):
    joiner = Joiner(tokens=50, rows=5, padding=40)
    for number, of_one in enumerate(lengths):
        joiner.add(str(number), of_one)
    while joiner:
        least = min(joiner._waiting.values(), key=lambda w: (w.served, not w.is_new, w.number)).request
        assert least in requests_of(joiner.take())
