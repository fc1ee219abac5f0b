"""No answer of a key is lost where retention presses, drops and presses again while answers are copied."""

import errno

import trio.testing
from sidecar_life import LOG
from test_kept_answers import KIB, SEGMENTS, fill, is_copy, say, small

from mlzoo.actors.keys import KeyFiler
from mlzoo.app import EXIT_STORAGE_FAILED
from mlzoo.events.answers import KeptAnswers

__all__ = ["small"]  # a fixture
CALLS = 400
EVERY = 10  # one of so many has a key


async def talk(sidecar, first_key, look):
    """Have much be said without a key, and now and then something with one; return the keys."""
    sidecar.host.on_line = None
    keys = []
    for number in range(CALLS):
        keyed = number % EVERY == 0 and number >= first_key
        words = f"k{number}" if keyed else f"w{number} " + "x " * 2000
        await sidecar.host.result(say(sidecar, words, **({"key": words} if keyed else {})))
        keys += [words] * keyed
        if number % EVERY == 0:
            await trio.testing.wait_all_tasks_blocked()
        look(number)
    await trio.testing.wait_all_tasks_blocked()
    return keys


async def lost(sidecar, keys):
    """Return the keys that have no answer any more."""
    calls = {key: sidecar.host.send("resume", {"key": key}) for key in keys}
    await sidecar.host.until(lambda: all(sidecar.host.responses(call) for call in calls.values()))
    return [key for key, call in calls.items() if "result" not in sidecar.host.responses(call)[0]]


async def test_retention_that_presses_again_while_copies_are_written_has_nothing_dropped_before(
    small, autojump_clock, monkeypatch
):
    put, gate, began = KeptAnswers.put, trio.Event(), []

    async def slow(self, answers):
        if answers:
            began.append(len(answers))
        if len(began) == 1 and answers:
            await gate.wait()
        await put(self, answers)

    monkeypatch.setattr(KeptAnswers, "put", slow)
    opened = []

    def look(number):
        if began and not opened:
            opened.append(number)
        if opened and number > opened[0] + 12:
            gate.set()

    async with small.begin(leave=False) as sidecar:
        keys = await talk(sidecar, 0, look)
        assert gate.is_set()
        assert sidecar.services.log.oldest_seq > 1
        assert await lost(sidecar, keys) == []
        await sidecar.leave()


async def test_records_that_no_key_needs_may_go_while_those_behind_them_are_copied(small, autojump_clock, monkeypatch):
    copy_up_to, gate, began = KeyFiler._copy_up_to, trio.Event(), []

    async def slow(self, end_seq):
        log = self._ledger.log
        if end_seq and not began:
            began.append(log.oldest_seq)
            await gate.wait()
        return await copy_up_to(self, end_seq)

    monkeypatch.setattr(KeyFiler, "_copy_up_to", slow)

    async with small.begin(leave=False) as sidecar:

        def look(number):
            if (began and sidecar.services.log.oldest_seq > began[0]) or number == 300:
                gate.set()

        keys = await talk(sidecar, 24, look)
        assert await lost(sidecar, keys) == []
        await sidecar.leave()


async def test_a_damaged_answer_keeps_no_other_from_being_copied(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(say(sidecar, "a0", key="a0"))
        await sidecar.host.call("embed", {"model": "vec", "input": ["a", "bcd"], "key": "e"})
        await sidecar.host.result(say(sidecar, "a1", key="a1"))
        [blob] = [file for names in small.disk.files.values() for name, file in names.items() if name.endswith(".bin")]
        blob.data = bytearray((blob.data[0] ^ 1,)) + blob.data[1:]
        await fill(sidecar)
        assert await lost(sidecar, ["a0", "e", "a1"]) == ["e"]
        await sidecar.leave()


async def test_records_that_go_between_two_reads_since_their_key_has_expired_keep_no_other_from_being_copied(
    small, autojump_clock, monkeypatch
):
    monkeypatch.setattr("mlzoo.actors.keys.PART_BYTES", 1)
    put, gate, began = KeptAnswers.put, trio.Event(), trio.Event()

    async def slow(self, answers):
        if answers and not began.is_set():
            began.set()
            await gate.wait()
        await put(self, answers)

    monkeypatch.setattr(KeptAnswers, "put", slow)
    small.limit(key_days=0.5)
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(say(sidecar, "old", key="old"))
        await sidecar.host.result(say(sidecar, "word " * 100))
        services = sidecar.services
        log, copied = services.log, []

        async def copy():
            async with log.forgetter.lock:  # Nobody else copies meanwhile.
                copied.append(await KeyFiler(services.ledger, None)._copy_up_to(1 << 40))

        sidecar.nursery.start_soon(copy)
        await began.wait()
        await sidecar.sleep_h(13)
        await sidecar.host.result(say(sidecar, "hello"))  # The worker has gone meanwhile.
        await fill(sidecar)
        new = await sidecar.host.result(say(sidecar, "new", key="new"))
        assert copied == []
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert copied == [log.last_seq + 1]
        [facts] = [facts for facts in services.state.keys.values() if facts.request == new["id"]]
        assert log.answers.find(facts.request, facts.accepted_seq) is not None


async def test_damage_in_the_middle_of_a_segment_takes_no_answer_before_it_and_none_in_the_next_one(
    small, autojump_clock
):
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(say(sidecar, "before", key="before"))
        await sidecar.host.result(say(sidecar, "damaged", key="damaged"))
        await sidecar.host.result(say(sidecar, "x" * 80 * KIB))
        await sidecar.host.result(say(sidecar, "after", key="after"))
        log = sidecar.services.log
        first, *_ = small.disk.names(SEGMENTS)
        data = small.disk.read(SEGMENTS / first)
        assert b'"before"' in data
        assert b'"after"' not in data
        small.disk.corrupt(SEGMENTS / first, data.index(b'"damaged"') + 1)
        log.claims.press(log.last_seq)
        await trio.testing.wait_all_tasks_blocked()
        [name] = filter(is_copy, small.disk.names(LOG / "keys"))
        kept = small.disk.read(LOG / "keys" / name)
        assert [word in kept for word in (b"before", b"damaged", b"after")] == [True, False, True]
        await fill(sidecar)
        assert await lost(sidecar, ["before", "damaged", "after"]) == ["damaged"]


async def test_a_copy_that_has_expired_and_that_the_disk_does_not_let_go_ends_the_log_as_any_other_error_does(
    small, autojump_clock, monkeypatch
):
    small.limit(key_days=0.5)
    remove = small.disk.remove

    def denied(path):
        if is_copy(path.name):
            raise OSError(errno.EIO, "input/output error")
        remove(path)

    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, "hello", key="k"))
        await fill(sidecar)
        monkeypatch.setattr(small.disk, "remove", denied)
        await sidecar.sleep_h(13)
        sidecar.services.log.claims.press(0)
        await sidecar.ended.wait()
        assert "input/output error" in sidecar.services.log.failed.message
    assert sidecar.status == EXIT_STORAGE_FAILED
