"""Who is next: pure bookkeeping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.inference.scheduler import PATIENCE, Chunk, Scheduler


def read_all(scheduler: Scheduler) -> list[Chunk]:
    chunks = []
    while new := scheduler.next_chunks():
        chunks += new
    return chunks


def test_requests_get_the_lowest_slots_in_the_order_of_their_arrival():
    scheduler = Scheduler(slots=2, chunk=128)
    for name in "abc":
        scheduler.add(name, 10)
    scheduler.next_chunks()
    assert [(row.request, row.slot) for row in scheduler.rows()] == [("a", 0), ("b", 1)]
    scheduler.remove("a")
    while not any(chunk.request == "c" for chunk in scheduler.next_chunks()):
        pass
    assert [(row.request, row.slot) for row in scheduler.rows()] == [("c", 0), ("b", 1)]


def test_a_long_prompt_takes_turns_with_decoding():
    scheduler = Scheduler(slots=2, chunk=128, joined=2)
    scheduler.add("a", 10)
    scheduler.next_chunks()
    scheduler.add("long", 300)
    turns = [bool(scheduler.next_chunks()) for _ in range(6)]
    assert turns == [False, True, False, True, False, True]
    assert len(scheduler.rows()) == 2


def test_it_is_known_whether_a_prompt_is_to_be_read():
    scheduler = Scheduler(slots=2, chunk=128)
    said = []
    for happens in (
        lambda: scheduler.add("long", 130),
        scheduler.next_chunks,
        scheduler.next_chunks,
        lambda: scheduler.add("b", 5),
        scheduler.next_chunks,
        scheduler.next_chunks,
        lambda: scheduler.add("c", 5),
        lambda: scheduler.remove("b"),
    ):
        happens()
        said.append(scheduler.reads)
    assert said == [True, True, False, True, True, False, False, True]


def test_chunks_are_joined_while_nothing_decodes_and_only_whole_ones():
    idle = Scheduler(slots=2, chunk=128, joined=2)
    idle.add("long", 700)
    assert [(chunk.start, chunk.stop) for chunk in read_all(idle)] == [(0, 256), (256, 512), (512, 640), (640, 700)]
    busy = Scheduler(slots=2, chunk=128, joined=2)
    busy.add("a", 5)
    busy.next_chunks()
    busy.add("long", 700)
    chunks = [chunk for _ in range(20) for chunk in busy.next_chunks()]
    assert [chunk.stop for chunk in chunks] == [128, 256, 384, 512, 640, 700]
    assert [chunk.last for chunk in chunks] == [False] * 5 + [True]


def test_joined_chunks_begin_at_their_multiples_whatever_was_read_one_by_one_before():
    scheduler = Scheduler(slots=2, chunk=128, joined=2)
    scheduler.add("a", 5)
    scheduler.next_chunks()
    scheduler.add("long", 900)
    stops = [chunk.stop for _ in range(2) for chunk in scheduler.next_chunks()]
    scheduler.remove("a")
    assert stops + [chunk.stop for chunk in read_all(scheduler)] == [128, 256, 512, 768, 896, 900]


def test_what_a_slot_has_from_the_start_is_not_read():
    seats = []

    def seat(request: str, slot: int) -> int:
        seats.append((request, slot))
        return 128 if request == "a" else 160

    scheduler = Scheduler(slots=2, chunk=128, joined=2, seat=seat)
    scheduler.add("a", 700)
    scheduler.add("b", 700)
    chunks = read_all(scheduler)
    scheduler.remove("a")
    chunks += read_all(scheduler)
    assert [(chunk.request, chunk.start, chunk.stop) for chunk in chunks] == [
        ("a", 128, 256),
        ("a", 256, 512),
        ("a", 512, 640),
        ("a", 640, 700),
        ("b", 160, 416),
        ("b", 416, 672),
        ("b", 672, 700),
    ]
    assert seats == [("a", 0), ("b", 0)]


def test_short_prompts_share_a_turn():
    scheduler = Scheduler(slots=8, chunk=128)
    for name in "abcdef":
        scheduler.add(name, 30)
    assert [chunk.request for chunk in scheduler.next_chunks()] == list("abcd")


def free(slots: int, pace: int, **decoding: bool) -> Scheduler:
    """A scheduler on which some requests decode, each of a batch or not, and whose next turn is one of reading."""
    scheduler = Scheduler(slots=slots, chunk=128, pace=lambda: pace)
    for name, batch in decoding.items():
        scheduler.add(name, 1, batch=batch, free=True)
    scheduler.next_chunks()
    assert scheduler.next_chunks() == []
    return scheduler


def tokens_read(scheduler: Scheduler) -> list[int]:
    return [chunk.stop - chunk.start for chunk in scheduler.next_chunks()]


def test_prompts_that_may_be_cut_are_read_in_small_parts_while_as_many_decode_as_wait_to_begin():
    scheduler = free(8, 32, a=False, b=False)
    for name in "xy":
        scheduler.add(name, 40, free=True)
    assert tokens_read(scheduler) == [32]


def test_they_are_read_in_full_forwards_while_more_wait_to_begin_than_decode():
    scheduler = free(16, 32, a=False)
    for number in range(10):
        scheduler.add(f"x{number}", 40, free=True)
    assert tokens_read(scheduler) == [40] * 6
    assert scheduler.next_chunks() == []  # Rows have their turn all the same.
    assert tokens_read(scheduler) == [32]


def test_who_finds_no_slot_does_not_count_as_waiting_to_begin():
    scheduler = free(3, 32, a=False, b=False)
    for number in range(10):
        scheduler.add(f"x{number}", 40, free=True)
    assert tokens_read(scheduler) == [32]


@pytest.mark.parametrize(("is_batch", "read"), [(False, [32]), (True, [40] * 3)])
def test_many_of_a_batch_hold_up_no_interactive_rows(is_batch, read):
    scheduler = free(8, 32, a=is_batch)
    for number in range(3):
        scheduler.add(f"x{number}", 40, batch=True, free=True)
    assert tokens_read(scheduler) == read


def test_interactive_prompts_are_read_before_those_of_a_batch_also_before_one_that_is_half_read():
    scheduler = Scheduler(slots=4, chunk=128)
    scheduler.add("batch", 500, batch=True)
    scheduler.add("next batch", 500, batch=True)
    assert [chunk.request for chunk in scheduler.next_chunks()] == ["batch"]
    scheduler.add("first", 200)
    scheduler.add("second", 100)
    read = [chunk.request for _ in range(30) for chunk in scheduler.next_chunks()]
    assert read == ["first", "first", "second", "batch", "batch", "batch", *["next batch"] * 4]


def test_a_batch_is_read_in_the_end_however_many_interactive_prompts_come():
    scheduler = Scheduler(slots=4, chunk=128)
    scheduler.add("batch", 300, batch=True)
    read = []
    for number in range(5 * PATIENCE):
        scheduler.add(f"r{number}", 128)
        chunks = scheduler.next_chunks() or scheduler.next_chunks()
        read += [chunk.request for chunk in chunks]
        for chunk in chunks:
            if chunk.last:
                scheduler.remove(chunk.request)
    assert [place for place, request in enumerate(read) if request == "batch"] == [8, 17, 26]


def test_a_prompt_is_read_whole_where_it_must_be():
    scheduler = Scheduler(slots=1, chunk=None)
    scheduler.add("long", 5000)
    assert scheduler.next_chunks() == [Chunk("long", 0, 0, 5000, last=True)]


def test_what_waits_or_is_half_read_can_be_removed():
    scheduler = Scheduler(slots=1, chunk=128)
    scheduler.add("half", 500)
    scheduler.add("waits", 5)
    scheduler.next_chunks()
    assert scheduler.remove("half") is not None
    assert scheduler.remove("waits") is not None
    assert scheduler.remove("unknown") is None
    assert scheduler.idle
    assert scheduler.next_chunks() == []


events = st.lists(st.one_of(st.integers(1, 600), st.just("step"), st.tuples(st.just("remove"), st.integers(0, 9))))


@given(events, st.integers(1, 4), st.sampled_from([None, 128]), st.integers(1, 2))
def test_no_slot_is_given_twice_and_each_prompt_is_read_once_in_order(story, slots, chunk, joined):
    read: dict[str, int] = {}
    lengths: dict[str, int] = {}

    def seat(request: str, _slot: int) -> int:
        read[request] = 0 if chunk is None else (lengths[request] - 1) // 96 * 32  # some of it was there before
        return read[request]

    scheduler = Scheduler(slots, chunk, joined, seat)
    live: set[str] = set()
    for number, event in enumerate(story):
        if isinstance(event, int):
            name = f"r{number}"
            scheduler.add(name, event, batch=event % 2 == 0)
            lengths[name], read[name] = event, 0
            live.add(name)
        elif event == "step":
            for piece in scheduler.next_chunks():
                assert piece.start == read[piece.request]
                assert piece.last == (piece.stop == lengths[piece.request])
                read[piece.request] = piece.stop
        else:
            name = sorted(live)[event[1] % len(live)] if live else "none"
            assert (scheduler.remove(name) is not None) == (name in live)
            live.discard(name)
        places = [place.slot for place in scheduler.rows()]
        assert len(set(places)) == len(places)
        assert all(0 <= slot < slots for slot in places)
        assert {place.request for place in scheduler.rows()} <= live
    assert scheduler.idle == (not live)
