"""Blocks by their tokens: what is found, what goes first, and that there is never too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlzoo.inference.prefixes import BLOCK, Block, Prefixes


def text(*letters: int) -> list[int]:
    """Tokens of one block for each number."""
    return [letter for letter in letters for _ in range(BLOCK)]


def keep(prefixes: Prefixes, tokens: list[int], exact: int = 0) -> list[tuple[int, int]]:
    """Keep tokens, with themselves as lines; return what was copied."""
    copied = []

    def copy(start: int, stop: int) -> list[int]:
        copied.append((start, stop))
        return tokens[:stop]

    prefixes.put(tokens, exact, copy)
    return copied


def found(prefixes: Prefixes, tokens: list[int]) -> int:
    return len(prefixes.find(tokens))


def test_the_longest_beginning_of_whole_blocks_is_found():
    prefixes = Prefixes(room=10)
    keep(prefixes, text(1, 2, 3))
    assert [block.lines for block in prefixes.find(text(1, 2, 4))] == [text(1), text(1, 2)]
    assert found(prefixes, text(1, 2)[:-1]) == 1
    assert found(prefixes, text(2, 3)) == 0
    assert found(prefixes, []) == 0


def test_what_is_kept_already_is_not_copied_again_and_the_rest_of_a_block_is_not_kept():
    prefixes = Prefixes(room=10)
    assert keep(prefixes, text(1, 2)) == [(0, BLOCK), (BLOCK, 2 * BLOCK)]
    assert keep(prefixes, [*text(1, 2, 3), 4]) == [(2 * BLOCK, 3 * BLOCK)]
    assert len(prefixes) == 3


def test_tokens_after_different_beginnings_are_different_blocks():
    prefixes = Prefixes(room=10)
    keep(prefixes, text(1, 3))
    keep(prefixes, text(2, 3))
    assert prefixes.find(text(1, 3))[1].lines == text(1, 3)
    assert prefixes.find(text(2, 3))[1].lines == text(2, 3)


def test_an_exact_copy_takes_the_place_of_another_and_not_the_other_way_round():
    prefixes = Prefixes(room=10)
    keep(prefixes, text(1, 2, 3))
    assert keep(prefixes, text(1, 2, 3), exact=2 * BLOCK) == [(0, BLOCK), (BLOCK, 2 * BLOCK)]
    assert keep(prefixes, text(1, 2, 3)) == []
    assert [block.exact for block in prefixes.find(text(1, 2, 3))] == [True, True, False]


def test_the_least_recently_used_goes_first_and_an_end_before_its_beginning():
    prefixes = Prefixes(room=4)
    keep(prefixes, text(1, 2))
    keep(prefixes, text(3, 4))
    prefixes.find(text(1))
    keep(prefixes, text(5))
    assert found(prefixes, text(1, 2)) == 1, "its end was used least recently"
    keep(prefixes, text(6))
    assert [found(prefixes, text(*letters)) for letters in ((1,), (3, 4), (5,), (6,))] == [1, 1, 1, 1]
    keep(prefixes, text(1, 7))
    assert found(prefixes, text(3)) == 0, "it was looked for before the others"
    assert found(prefixes, text(1, 7)) == 2


def test_of_what_is_longer_than_the_room_the_beginning_is_kept():
    prefixes = Prefixes(room=3)
    keep(prefixes, text(9))
    keep(prefixes, text(1, 2, 3, 4, 5))
    assert found(prefixes, text(1, 2, 3, 4, 5)) == 3
    assert keep(Prefixes(room=0), text(1)) == []


def test_half_is_given_up_at_a_time_until_nothing_is_left():
    prefixes = Prefixes(room=9)
    keep(prefixes, text(1, 2, 3, 4, 5))
    keep(prefixes, text(6, 7))
    sizes = []
    while prefixes.drop_half():
        sizes.append(len(prefixes))
    assert sizes == [3, 1, 0]
    assert found(prefixes, text(1)) == 0


def test_a_copy_that_fails_leaves_what_was_there():
    prefixes = Prefixes(room=2)
    keep(prefixes, text(1))

    def fail(_start: int, _stop: int) -> list[int]:
        raise MemoryError

    try:
        prefixes.put(text(1, 2), 0, fail)
    except MemoryError:
        pass
    else:
        raise AssertionError("it was not copied")
    assert found(prefixes, text(1, 2)) == 1
    check(prefixes)


def check(prefixes: Prefixes) -> None:
    """No block is without those before it, or used later than they are, and all say what they stand for."""
    seen: list[Block] = []
    for block in prefixes:
        assert block.parent not in seen
        seen.append(block)
        above, tokens = block, []
        while above is not None:
            tokens = [*above.tokens, *tokens]
            assert above.exact or not block.exact
            above = above.parent
        assert block.lines == tokens
        assert prefixes._below(block.parent, block.owner)[block.tokens] is block
    assert all(block.parent is None or block.parent in seen for block in seen)


letters = st.lists(st.integers(1, 3), max_size=5)
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("put"), letters, st.integers(0, 5)),
        st.tuples(st.just("find"), letters),
        st.just(("drop",)),
    ),
    max_size=30,
)


@given(deeds, st.integers(0, 6))
def test_there_is_never_more_than_the_room_and_nothing_is_taken_for_something_else(story, room):
    prefixes = Prefixes(room)
    for deed in story:
        match deed:
            case ("put", numbers, exact):
                keep(prefixes, text(*numbers), exact * BLOCK)
                assert found(prefixes, text(*numbers)) == min(len(numbers), room)
            case ("find", numbers):
                path = prefixes.find(text(*numbers))
                assert [block.lines for block in path] == [text(*numbers[: at + 1]) for at in range(len(path))]
            case _:
                prefixes.drop_half()
        assert len(prefixes) <= room
        check(prefixes)
