"""Framing: what is a line, whatever the chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.transport.ndjson import LineReader, TooLong

LIMIT = 16


def read_all(chunks, limit_bytes=LIMIT):
    reader = LineReader(limit_bytes)
    return [line for chunk in chunks for line in reader.feed(chunk)] + reader.end()


def test_a_chunk_with_two_lines_gives_both_in_order():
    assert LineReader(LIMIT).feed(b"one\ntwo\n") == [b"one", b"two"]


def test_a_line_over_several_chunks_comes_out_with_its_newline():
    reader = LineReader(LIMIT)
    assert reader.feed(b"on") == []
    assert reader.feed(b"e") == []
    assert reader.feed(b"\ntw") == [b"one"]
    assert reader.feed(b"o\n") == [b"two"]


def test_crlf_ends_a_line_also_when_it_is_split_between_chunks():
    assert read_all([b"one\r", b"\ntwo\r\n"]) == [b"one", b"two"]


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \n", b"\t\r\n", b"\n\n\n"])
def test_blank_lines_are_ignored(blank):
    assert read_all([blank + b"one\n" + blank + b"two\n" + blank]) == [b"one", b"two"]


def test_an_unterminated_last_line_counts_at_the_end_of_input():
    reader = LineReader(LIMIT)
    assert reader.feed(b"one\ntwo") == [b"one"]
    assert reader.end() == [b"two"]
    assert reader.end() == []


def test_a_line_of_exactly_the_limit_is_taken():
    assert read_all([b"x" * LIMIT + b"\n"]) == [b"x" * LIMIT]


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_line_over_the_limit_is_reported_once_with_its_size_and_the_next_one_is_whole(size):
    data = b"before\n" + b"x" * 50 + b"\nafter\n"
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert read_all(chunks) == [b"before", TooLong(50), b"after"]


def test_a_line_over_the_limit_that_input_ends_in_is_reported():
    assert read_all([b"x" * 10, b"x" * 10]) == [TooLong(20)]


def test_a_line_over_the_limit_is_not_held():
    reader = LineReader(LIMIT)
    for _ in range(1000):
        reader.feed(b"x" * 1000)
    assert len(reader._open) <= LIMIT
    assert reader.feed(b"\n") == [TooLong(1_000_000)]


def test_a_line_of_64_mib_in_small_chunks_is_put_together_in_linear_time():
    # Quadratic copying takes minutes for this.
    chunk = b"x" * 4096
    reader = LineReader(1 << 27)
    for _ in range(1 << 14):
        assert reader.feed(chunk) == []
    (line,) = reader.feed(b"\n")
    assert line == chunk * (1 << 14)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_lines_do_not_depend_on_where_chunks_are_cut(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert read_all(chunks) == read_all([data])


@given(st.lists(st.binary(min_size=1, max_size=40).filter(lambda line: not {10, 13} & set(line)), max_size=20))
def test_every_line_comes_out_as_it_went_in_or_is_blank_or_reported(lines):
    expected = [
        TooLong(len(line)) if len(line) > LIMIT else line for line in lines if len(line) > LIMIT or line.strip()
    ]
    assert read_all([b"\n".join(lines)]) == expected
