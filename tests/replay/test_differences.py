"""Where two values differ, and what may differ between two runs that are the same."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlzoo.replay.differences import differences
from mlzoo.replay.volatile import canonical, steady

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_there_is_no_difference_exactly_where_values_are_written_alike(left, right):
    same = orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)
    assert (differences(left, right) == []) == same


@pytest.mark.parametrize(
    ("recorded", "got", "same"),
    [
        ("write to [redacted:email] now", "write to bob@x.org now", True),
        ("write to [redacted:email] now", "write to bob@x.org later", False),
        (True, 1, False),
        (1, 1.0, True),
    ],
)
def test_what_is_the_same(recorded, got, same):
    assert (differences(recorded, got) == []) == same


def test_a_long_text_is_shown_where_it_differs():
    [found] = differences("a" * 1000 + "x", "a" * 1000 + "y", "p")
    assert "from character 950" in str(found)
    assert found.recorded.endswith('x"')


@pytest.mark.parametrize(
    ("method", "one", "other"),
    [
        ("chat", {"stop": "x"}, {"stop": ["x"]}),
        ("chat", {"stop": []}, {}),
        ("chat", {"model": None, "_meta": {"a": 1}}, {}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
         {"messages": [{"role": "user", "content": "a"}]}),
        ("embed", {"input": "x"}, {"input": ["x"]}),
        ("models.load", {"model": "m", "device": "auto", "pin": False}, {"model": "m"}),
        ("ping", None, {}),
    ],
)  # fmt: skip
def test_two_ways_of_sending_the_same(method, one, other):
    assert canonical(method, one) == canonical(method, other)


def test_what_belongs_to_one_run_is_left_out_of_answers():
    answer = {"id": "req-9", "timing": {"total_ms": 3}, "usage": {"cached_tokens": 1, "total_tokens": 2}, "text": "t"}
    assert steady("complete", answer) == {"usage": {"total_tokens": 2}, "text": "t"}
    assert steady("status", answer) is None
    assert steady("tokenize", {"count": 1}) == {"count": 1}
