"""No answer of a key is lost where retention presses, drops and presses again while answers are copied."""

import trio.testing
from test_kept_answers import fill, say, small

from mlzoo.actors.keys import KeyFiler
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
