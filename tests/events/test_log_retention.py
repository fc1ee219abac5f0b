"""Who is spared, and for how long, when a log has reached its byte budget."""

import pytest
from log_driver import append_end, append_tokens, bind, open_log, wait_synced

from mlzoo.errors import OutOfRange

HOUR_MS = 60 * 60 * 1000
BUDGET_BYTES = 12_000
SLACK_BYTES = 3000  # the two segments that are written are never dropped


@pytest.fixture
async def log(world, nursery):
    log = await open_log(world, segment_bytes=1500, asides_segment_bytes=1000, budget_bytes=BUDGET_BYTES)
    bind(log)
    await nursery.start(log.run_flusher)
    return log


async def work(log, count, request="req-other"):
    """Append ends of requests that nobody reads."""
    for number in range(count):
        group = append_end(log, number, request)
        log.commit()
        await wait_synced(log, group.last_seq)
        for ended in (request, "b"):
            log.forget_index(ended)


def pings(log, count, connection="con-1"):
    """Record pings and return the first one's number."""
    first = log.aside(connection, "ping", 0)
    for number in range(1, count):
        log.aside(connection, "ping", number)
        log.commit_asides()
    log.commit_asides()
    return first


async def test_asides_that_a_host_has_still_to_take_outlive_groups_that_nobody_needs(log, autojump_clock):
    first = pings(log, 30)
    log.keep_asides("con-1", first)
    await work(log, 60)
    assert log.oldest_seq > 1
    assert [aside.rpc for aside in log.read_asides("con-1", first)] == list(range(30))
    assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES


async def test_asides_that_have_been_taken_go_first(log, autojump_clock):
    first = pings(log, 30)
    log.keep_asides("con-1", first)
    log.keep_asides("con-1", None)
    await work(log, 20)
    assert log.oldest_seq == 1
    with pytest.raises(OutOfRange) as caught:
        list(log.read_asides("con-1", first))
    assert caught.value.data["oldest"] > first


async def test_a_flood_of_asides_takes_the_room_of_old_groups_before_that_of_a_slow_host(log, autojump_clock):
    await work(log, 20)
    log.keep_asides("con-1", 1)
    first = pings(log, 7)
    pings(log, 12, "con-2")
    assert log.oldest_seq > 1
    assert next(log.read_asides("con-1", first)).rpc == 0
    assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES


async def test_the_budget_is_a_bound_for_a_host_that_never_reads(log, autojump_clock):
    first = pings(log, 5)
    log.keep_asides("con-1", first)
    for _ in range(20):
        pings(log, 50, "con-2")
        assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES
    with pytest.raises(OutOfRange):
        list(log.read_asides("con-1", first))


async def test_a_flood_before_there_is_a_state_to_begin_a_segment_with_is_bounded_too(world, nursery, autojump_clock):
    log = await open_log(world, asides_segment_bytes=1000, budget_bytes=BUDGET_BYTES)
    await nursery.start(log.run_flusher)
    log.keep_asides("con-1", pings(log, 1))
    for _ in range(20):
        pings(log, 50)
        assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES


async def test_groups_that_a_reader_follows_outlive_asides_that_a_host_does_not_take(log, autojump_clock):
    answered = append_end(log, 0, "req-read")
    log.commit()
    first = pings(log, 60)
    log.keep_asides("con-1", first)
    await work(log, 60)
    with pytest.raises(OutOfRange):
        list(log.read_asides("con-1", first))
    assert next(log.groups_of("req-read", 0)) == answered


async def test_a_reader_that_was_robbed_hears_so(log, autojump_clock):
    append_end(log, 0, "req-read")
    token = append_tokens(log, 1, "req-read")
    log.commit()
    assert len(list(log.groups_of("req-read", 0))) == 2
    log.bind_state(dict, lambda: log.last_seq)
    for _ in range(30):
        await work(log, 10)
    log._tail._groups.clear()  # long gone from memory
    log._tail._size_bytes = 0
    for after in (0, token.first_seq - 1):
        with pytest.raises(OutOfRange) as caught:
            list(log.groups_of("req-read", after))
        assert caught.value.data["oldest"] == log.oldest_seq


async def test_what_was_read_of_a_request_does_not_go_on_after_a_gap(log, autojump_clock):
    append_end(log, 0, "req-read")
    append_tokens(log, 1, "req-read")
    log.commit()
    await work(log, 100)
    log.forget_index("req-read")
    with pytest.raises(OutOfRange):
        list(log.groups_of("req-read", 3))


def keeps_asides(log, first):
    try:
        return bool(list(log.read_asides("con-1", first)))
    except OutOfRange:
        return False


async def test_the_result_of_a_key_outlives_asides_and_the_budget_and_its_keeper_is_pressed_to_copy_it(
    log, autojump_clock
):
    pressed = []
    log.claims.press = pressed.append
    first = pings(log, 30)
    log.keep_asides("con-1", first)
    await work(log, 5)
    kept = append_end(log, 0, "req-keyed")
    log.commit()
    log.forget_index("req-keyed")
    kept_from = [kept.first_seq]
    log.bind_state(dict, lambda: log.last_seq, lambda: kept_from[0])
    while keeps_asides(log, first):
        await work(log, 1)
    assert 1 < log.oldest_seq <= kept.first_seq, "what lies before it went first"
    assert kept in log.read(kept.first_seq - 1, 1)
    await work(log, 40)
    assert log.oldest_seq <= kept.first_seq
    assert log.size_bytes() > BUDGET_BYTES + SLACK_BYTES
    assert kept.first_seq < pressed[-1] < log.last_seq
    log.claims.press = lambda seq: kept_from.insert(0, seq)  # what is asked for is copied
    await work(log, 40)
    assert log.oldest_seq > kept.first_seq
    assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES


async def test_what_is_kept_for_keys_counts_too_and_there_is_an_end_to_it(log, autojump_clock):
    await work(log, 20)
    oldest = log.oldest_seq
    assert not log.claims.keys_are_full()
    log.claims.keys_bytes = lambda: BUDGET_BYTES - 2000
    await work(log, 20)
    assert log.oldest_seq > oldest
    assert log.size_bytes() < BUDGET_BYTES + SLACK_BYTES
    assert log.claims.keys_are_full()


@pytest.fixture
async def aging(world, nursery):
    """Return a log that keeps what is a day old, and a function that lets days pass."""
    log = await open_log(world, segment_bytes=1500, asides_segment_bytes=1000, keep_days=1)
    bind(log)
    await nursery.start(log.run_flusher)
    return log


async def test_what_is_too_old_goes_though_there_is_room(world, aging, autojump_clock):
    pings(aging, 30)
    await work(aging, 20)
    assert aging.oldest_seq == 1
    world.clock.jump_wall(25 * HOUR_MS)
    await work(aging, 20)
    assert aging.oldest_seq > 20
    with pytest.raises(OutOfRange):
        list(aging.read_asides("con-1", 1))


async def test_a_segment_that_never_fills_is_sealed_by_its_age_and_goes(world, nursery, autojump_clock):
    log = await open_log(world, keep_days=1)
    bind(log)
    await nursery.start(log.run_flusher)
    for _ in range(12):
        await work(log, 1)
        world.clock.jump_wall(7 * HOUR_MS)
    assert log.oldest_seq > 1
    assert log.last_seq - log.oldest_seq < 20


async def test_age_spares_what_a_live_request_or_the_result_of_a_key_needs(world, aging, autojump_clock):
    await work(aging, 20)
    for needed_from, kept_from in ((5, 40), (40, 5)):
        aging.bind_state(dict, lambda from_seq=needed_from: from_seq, lambda from_seq=kept_from: from_seq)
        world.clock.jump_wall(50 * HOUR_MS)
        await work(aging, 20)
        assert aging.oldest_seq <= 5


async def test_age_has_what_keys_stand_for_copied_and_then_takes_the_records(world, aging, autojump_clock):
    kept_from = [5]
    aging.bind_state(dict, lambda: aging.last_seq, lambda: kept_from[0])
    aging.claims.press = lambda seq: kept_from.insert(0, seq)  # it is copied at once
    await work(aging, 20)
    assert kept_from == [5]
    world.clock.jump_wall(50 * HOUR_MS)
    await work(aging, 20)
    assert kept_from[0] > 20
    assert 20 < aging.oldest_seq <= kept_from[0]


async def test_age_goes_on_over_a_restart(world, aging, autojump_clock):
    await work(aging, 20)
    await aging.close()
    world.clock.jump_wall(30 * HOUR_MS)
    log = await open_log(world, segment_bytes=1500, asides_segment_bytes=1000, keep_days=1)
    bind(log)
    append_end(log, 1)
    log.commit()
    assert log.oldest_seq > 20
