"""What a key stands for outlives the records that it was made of, is as it was, and can be forgotten."""

from random import Random

import attrs
import pytest
import trio.testing
from sidecar_life import LOG

from mlzoo.config.schema import LogConfig

KIB = 1024
SECRET = "xyzzy"
SEGMENTS = LOG / "segments"
SMALL = LogConfig(segment_bytes=64 * KIB, asides_segment_bytes=64 * KIB, budget_bytes=1024 * KIB, tail_bytes=0)


@pytest.fixture
def small(lives):
    """Lives whose log keeps little, and nothing of it in memory."""
    lives.log = attrs.evolve(SMALL)
    return lives


def say(sidecar, prompt, **params):
    message = {"role": "user", "content": prompt}
    return sidecar.host.send("chat", {"model": "toy", "messages": [message], **params})


async def fill(sidecar, count=2):
    """Have so much be said that all records of before have to go."""
    answer, sidecar.workshop.answer = sidecar.workshop.answer, None
    sidecar.host.on_line = None  # It looks for all that is said in the log's records, which go.
    before = sidecar.services.log.last_seq
    worker = await sidecar.worker(len(sidecar.workshop.workers) - 1)
    for number in range(count):
        call = say(sidecar, f"fill {number}")
        worker.generate(await worker.asked(f"fill {number}"), *(f"{piece:0800}" for piece in range(900)))
        await sidecar.host.result(call)
        await trio.testing.wait_all_tasks_blocked()
    sidecar.workshop.answer = answer
    assert sidecar.services.log.oldest_seq > before


def pieces(sidecar, call):
    return [(p["seq"], p["delta"]["content"]) for p in sidecar.host.notifications("stream") if p["request"] == call]


def files_with(lives, word):
    files = [(name, file) for names in lives.disk.files.values() for name, file in names.items()]
    return [name for name, file in files if word.encode() in file.data]


async def test_a_key_stands_for_its_answer_after_its_records_have_gone(small, autojump_clock):
    embed = {"model": "vec", "input": ["a", "bcd"], "key": "e"}
    async with small.begin(leave=False) as sidecar:
        call = say(sidecar, "well hello there", key="k", logprobs=True, stream=True)
        first = await sidecar.host.result(call)
        told = pieces(sidecar, call)
        assert len(told) > 1
        vectors = await sidecar.host.call("embed", embed)
        await fill(sidecar)
        await sidecar.leave()
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        again = say(sidecar, "well hello there", key="k", logprobs=True, stream=True)
        assert await sidecar.host.result(again) == first
        assert pieces(sidecar, again) == told
        resumed = sidecar.host.send("resume", {"key": "k", "after": 0})
        assert await sidecar.host.result(resumed) == first
        assert pieces(sidecar, resumed) == told[1:]
        assert await sidecar.host.call("embed", embed) == vectors
        assert (await sidecar.host.error(say(sidecar, "other", key="k")))["code"] == -32602
        assert sidecar.workshop.workers == [], "nothing ran again"


async def test_an_end_without_an_answer_is_kept_as_well(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, "hello", key="k", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked("hello"), "so ", "far", finish=None)
        await sidecar.host.streamed(running, 2)
        await sidecar.host.call("cancel", {"key": "k"})
        error = await sidecar.host.error(running)
        await fill(sidecar)
        assert await sidecar.host.error(say(sidecar, "hello", key="k")) == error
        assert error["data"]["partial"] == "so far"


async def test_what_is_kept_can_be_forgotten_by_key_and_by_name(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        names = [
            (await sidecar.host.result(say(sidecar, f"{SECRET}{number}", key=f"k{number}")))["id"]
            for number in range(3)
        ]
        await fill(sidecar)
        assert files_with(small, SECRET) != []
        await sidecar.host.call("forget", {"key": "k0"})
        await sidecar.host.call("forget", {"request": names[1]})
        assert files_with(small, f"{SECRET}0") == files_with(small, f"{SECRET}1") == []
        for key in ("k0", "k1"):
            error = await sidecar.host.refused("resume", {"key": key})
            assert (error["code"], error["data"]["type"]) == (1013, "expired")
        resumed = await sidecar.host.call("resume", {"key": "k2"})
        assert resumed["message"]["content"] == f"{SECRET}2"


async def test_of_what_was_forgotten_before_its_first_word_nothing_comes_back_once_its_records_have_gone(
    small, autojump_clock
):
    async with small.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, SECRET, key="k")
        await (await sidecar.worker()).asked(SECRET)
        await sidecar.host.call("forget", {"key": "k"})
        assert (await sidecar.host.error(running))["code"] == -32800
        await fill(sidecar)
        error = await sidecar.host.error(say(sidecar, SECRET, key="k"))
        assert (error["code"], error["data"]["type"]) == (1013, "expired")
        assert files_with(small, SECRET) == []


@pytest.mark.parametrize("filed_at_once", [1, 64], ids=["filed", "in the state"])
@pytest.mark.parametrize("retention", ["keep", "ephemeral"], ids=["copied", "not copied"])
async def test_a_request_that_is_not_in_the_log_any_more_goes_with_the_calls_that_were_refused_under_its_key(
    small, autojump_clock, monkeypatch, retention, filed_at_once
):
    monkeypatch.setattr("mlzoo.actors.keys.FILED_AT_ONCE", filed_at_once)
    small.log = attrs.evolve(SMALL, tail_bytes=64 * KIB * KIB)
    async with small.begin(leave=False) as sidecar:
        name = (await sidecar.host.result(say(sidecar, "first", key="k", retention=retention)))["id"]
        await fill(sidecar)
        await sidecar.host.error(say(sidecar, f"other {SECRET}", key="k"))
        # Where neither records nor a copy are there, it may have been forgotten already: nothing comes to the disk.
        assert (files_with(small, SECRET) != []) == (retention == "keep")
        assert (await sidecar.host.call("forget", {"request": name}))["request"] == name
        assert files_with(small, SECRET) == []


async def test_what_was_forgotten_is_not_brought_back_by_a_power_cut(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.call("embed", {"model": "vec", "input": ["a", "bcd"], "key": "e"})
        await sidecar.host.result(say(sidecar, SECRET, key="k"))
        await fill(sidecar)
        for key in ("e", "k"):
            await sidecar.host.call("forget", {"key": key})
        disk = small.disk
        kept = {path: set(names) for path, names in disk.files.items() if path != str(LOG / "asides")}
        assert {path: set(names) for path, names in disk.durable_files.items() if path in kept} == kept
        assert not any(name.endswith(".bin") for names in disk.durable_files.values() for name in names)
        await sidecar.leave()


async def test_what_was_ephemeral_is_not_copied_though_memory_has_it(small, autojump_clock):
    small.log = attrs.evolve(SMALL, tail_bytes=64 * KIB * KIB)
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key="k", retention="ephemeral"))
        await fill(sidecar)
        assert files_with(small, SECRET) == []
        error = await sidecar.host.refused("resume", {"key": "k"})
        assert (error["code"], error["data"]["type"]) == (1013, "expired")


async def test_a_copy_goes_when_its_key_has_expired(small, autojump_clock):
    small.limit(key_days=0.5)
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key="k"))
        await fill(sidecar)
        assert files_with(small, SECRET) != []
        await sidecar.sleep_h(13)
        error = await sidecar.host.refused("resume", {"key": "k"})
        assert (error["code"], error["data"]["type"]) == (1013, "expired")
        await sidecar.leave()
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.call("cancel", {"key": "none"})
        assert files_with(small, SECRET) == []
        assert (await sidecar.host.refused("resume", {"key": "k"}))["code"] == 1013


async def test_where_keys_fill_their_part_of_the_budget_new_ones_are_refused_and_nothing_else(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        asked = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "key": "k"}
        first = await sidecar.host.call("chat", asked)
        sidecar.services.log.claims.keys_bytes = lambda: SMALL.budget_bytes
        error = await sidecar.host.refused("chat", {**asked, "key": "new"})
        assert (error["code"], error["data"]["reason"], error["data"]["retryable"]) == (1014, "keys_full", True)
        assert await sidecar.host.call("chat", asked) == first
        assert (await sidecar.host.refused("resume", {"key": "new"}))["code"] == 1012, "it was never bound"
        assert (await sidecar.host.result(say(sidecar, "hello")))["message"]["content"] == "hello"


async def test_where_keys_fill_their_part_of_the_budget_a_new_one_has_what_expired_go(small, autojump_clock):
    small.limit(key_days=0.5)
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, SECRET, key="k"))
        await fill(sidecar)
        kept_bytes = sidecar.services.log.answers.size_bytes()
        assert kept_bytes
        sidecar.services.log.claims.keys_bytes = lambda: (
            SMALL.budget_bytes * sidecar.services.log.answers.size_bytes() // kept_bytes
        )
        await sidecar.sleep_h(13)
        ask = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "key": "new"}
        assert (await sidecar.host.refused("chat", ask))["data"]["reason"] == "keys_full"
        await trio.testing.wait_all_tasks_blocked()
        assert (await sidecar.host.call("chat", ask))["message"]["content"] == "hello"
        assert files_with(small, SECRET) == []
        await sidecar.leave()


async def test_a_host_that_is_slow_to_hear_an_answer_again_hears_it_whole_though_its_records_go(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        call = say(sidecar, "long", key="k")
        worker = await sidecar.worker()
        words = [f"{number:0500}" for number in range(200)]
        worker.generate(await worker.asked("long"), *words)
        result = await sidecar.host.result(call)
        client = sidecar.connect()
        client.on_line = None
        client.stop_reading()
        heard = client.send("resume", {"key": "k"})
        await trio.testing.wait_all_tasks_blocked()
        await fill(sidecar)
        client.read_on()
        assert await client.result(heard) == result
        told = [(p["seq"], p["delta"]["content"]) for p in client.notifications("stream")]
        assert told == list(enumerate(words))
        client.close()


async def test_who_asks_with_a_key_whose_copy_is_damaged_hears_that_it_is(small, autojump_clock):
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, "hello", key="k"))
        await sidecar.host.result(say(sidecar, "well hello", key="other"))
        await fill(sidecar)
        [name] = filter(is_copy, small.disk.names(LOG / "keys"))
        small.disk.corrupt(LOG / "keys" / name, small.disk.read(LOG / "keys" / name).index(b"req-"))
        for error in (
            await sidecar.host.refused("resume", {"key": "k"}),
            await sidecar.host.error(say(sidecar, "hello", key="k")),
        ):
            assert (error["code"], error["data"]["reason"]) == (1015, "damaged")
        assert (await sidecar.host.call("resume", {"key": "other"}))["message"]["content"] == "well hello"


async def test_a_damaged_copy_of_what_is_still_in_the_log_is_made_anew_and_keeps_no_other_from_being_made(
    small, autojump_clock
):
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        first = [await sidecar.host.result(say(sidecar, f"hello {n}", key=f"k{n}")) for n in range(2)]
        log = sidecar.services.log
        log.claims.press(log.last_seq)
        await trio.testing.wait_all_tasks_blocked()
        [name] = filter(is_copy, small.disk.names(LOG / "keys"))
        small.disk.corrupt(LOG / "keys" / name, small.disk.read(LOG / "keys" / name).index(b"pieces"))
        await sidecar.leave()
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        first.append(await sidecar.host.result(say(sidecar, "hello 2", key="k2")))
        await fill(sidecar)
        assert [await sidecar.host.call("resume", {"key": f"k{n}"}) for n in range(3)] == first


async def test_no_power_cut_between_a_copy_and_the_end_of_its_records_loses_an_answer(small, autojump_clock):
    moments = []

    def note(step):
        if step in ("replace", "remove", "sync_dir"):
            moments.append(small.disk.copy())

    async with small.begin(leave=False) as sidecar:
        first = await sidecar.host.result(say(sidecar, "well hello there", key="k", stream=True))
        await sidecar.synced()
        small.disk.on_step = note
        await fill(sidecar)
        small.disk.on_step = None
    copied = next(n for n, disk in enumerate(moments) if any(map(is_copy, disk.names(LOG / "keys"))))
    gone = next(n for n, disk in enumerate(moments) if "00000000000000000001.ndjson" not in disk.names(SEGMENTS))
    assert copied < gone
    random = Random(5)
    for moment in {copied - 1, copied, copied + 1, (copied + gone) // 2, gone - 1, gone, gone + 1, len(moments) - 1}:
        small.disk = moments[moment].crashed(random)
        async with small.begin(leave=False) as sidecar:
            sidecar.host.on_line = None
            assert await sidecar.host.call("resume", {"key": "k"}) == first
            assert sidecar.services.log.answers.verify() == []


def is_copy(name):
    return name.endswith(".answers")
