"""Log lines that never make anybody wait."""

import fcntl
import json
import logging
import os
import pty

import pytest

from mlzoo.transport.stderr import StderrHandler, StderrLog


@pytest.fixture
def pipe():
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def read_lines(fd):
    return [json.loads(line) for line in os.read(fd, 1 << 20).splitlines()]


def test_a_line_is_one_json_object(pipe):
    log = StderrLog(pipe[1], wall_ms=lambda: 1234)
    log.log("info", "worker up", pid=7, device="cpu")
    assert log.close()
    assert os.read(pipe[0], 1000) == b'{"time_ms":1234,"level":"info","event":"worker up","pid":7,"device":"cpu"}\n'


def test_what_is_below_the_threshold_is_left_out(pipe):
    log = StderrLog(pipe[1], threshold="warning")
    for level in ("debug", "info", "warning", "error"):
        log.log(level, level)
    assert log.close()
    assert [line["event"] for line in read_lines(pipe[0])] == ["warning", "error"]


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {1: {2}}, b"\xff", float("nan")])
def test_any_field_can_be_logged(pipe, value):
    log = StderrLog(pipe[1])
    log.log("info", "odd", value=value)
    assert log.close()
    (line,) = read_lines(pipe[0])
    assert line["event"].strip("'") == "odd"


def test_a_host_that_does_not_drain_stalls_nobody_and_hears_how_much_it_missed(pipe):
    read_fd, write_fd = pipe
    log = StderrLog(write_fd, queue_bytes=10_000)
    for number in range(10_000):
        log.log("info", "x" * 100, number=number)
    held = fcntl.fcntl(read_fd, fcntl.F_GETPIPE_SZ)
    numbers, dropped = [], 0
    while len(numbers) + dropped < 10_000:
        for line in read_whole_lines(read_fd):
            if line["event"] == "log lines dropped":
                dropped += line["count"]
            else:
                numbers.append(line["number"])
    assert numbers == sorted(numbers)
    assert len(numbers) * 100 < held + 2 * 10_000
    log.log("info", "again")
    assert log.close()
    assert [line["event"] for line in read_lines(read_fd)] == ["again"]


def read_whole_lines(fd):
    data = os.read(fd, 1 << 16)
    while not data.endswith(b"\n"):
        data += os.read(fd, 1 << 16)
    return [json.loads(line) for line in data.splitlines()]


def test_closing_does_not_wait_for_a_host_that_does_not_drain():
    read_fd, write_fd = os.pipe()
    log = StderrLog(write_fd)
    log.log("info", "x" * 200_000)  # More than the pipe holds.
    assert not log.close(timeout_s=0)
    os.close(read_fd)
    assert log.close()
    os.close(write_fd)


def test_a_host_that_closed_its_end_is_no_reason_to_fail():
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    log = StderrLog(write_fd)
    log.log("info", "one")
    log.log("info", "two")
    assert log.close()
    os.close(write_fd)


def test_a_terminal_gets_lines_for_people_without_control_characters_from_fields():
    controller, terminal = pty.openpty()
    log = StderrLog(terminal, wall_ms=lambda: 1234)
    log.log("warning", "slow", path="a\x1b[2Jb", ms=5)
    assert log.close()
    line = os.read(controller, 1000).decode()
    assert line.endswith(".234 warning slow path='a\\x1b[2Jb' ms=5\r\n")
    os.close(controller)
    os.close(terminal)


def test_the_standard_librarys_logging_can_be_brought_here(pipe):
    log = StderrLog(pipe[1], threshold="debug")
    logger = logging.Logger("library")  # noqa: LOG001 (one of its own, not the process's)
    logger.addHandler(StderrHandler(log))
    logger.debug("fine %d", 1)
    logger.info("known")
    logger.warning("odd")
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        logger.exception("bad")
    assert log.close()
    lines = read_lines(pipe[0])
    assert [(line["level"], line["event"]) for line in lines] == [
        ("debug", "fine 1"),
        ("info", "known"),
        ("warning", "odd"),
        ("error", "bad"),
    ]
    assert {line["logger"] for line in lines} == {"library"}
    assert "ZeroDivisionError" in lines[-1]["traceback"]
