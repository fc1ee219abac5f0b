"""Records as lines for people, and what a recording's connections did."""

import pytest

from mlzoo.cli.log import in_words
from mlzoo.errors import ConfigError
from mlzoo.events.recording import Recording
from mlzoo.replay.play import connection_of


def test_lines_for_people_are_no_wider_than_they_may_be_wide_characters_counted():
    record = {
        "aside_seq": 1,
        "time_ms": 0,
        "connection": "con-1",
        "method": "ping",
        "rpc": 1,
        "params": {"x": "日本" * 99},
    }
    line = in_words(record, 80)
    assert line.endswith("…")
    assert len(line) + line.count("日") + line.count("本") <= 80


def test_progress_shows_the_call_that_it_is_about():
    about = {"request": 7, "stage": "start"}
    record = {"aside_seq": 1, "time_ms": 0, "connection": "con-1", "method": "progress", "rpc": None, "params": about}
    assert "con-1 progress #7" in in_words(record, 160)
    assert "None" not in in_words({**record, "params": {}}, 160)


def test_where_a_connection_has_to_be_chosen_it_is_said_what_each_did():
    lines = [
        {"host": "con-1", "n": 1, "ms": 0, "id": 1, "method": "ping"},
        {"host": "con-1", "n": 2, "ms": 0, "id": 2, "method": "chat", "params": {"prompt": "x"}},
        {"host": "con-2", "n": 1, "ms": 0, "id": 1, "method": "status"},
    ]
    with pytest.raises(ConfigError) as caught:
        connection_of(Recording(header={}, lines=tuple(lines)), None)
    assert "  con-1: 2 lines (1 ping, 1 chat); first: ping" in caught.value.message
    assert "  con-2: 1 line (1 status); first: status" in caught.value.message
