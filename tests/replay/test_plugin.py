"""The pytest plugin, in runs of pytest of its own."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

REPLAY = Path(__file__).parent.parent.parent / "replay"
SYNC = """
import pytest

@pytest.mark.mlzoo_recording("embed.ndjson")
def test_it(replayed_sidecar):
    with replayed_sidecar.connect() as sidecar:
        assert len(sidecar.call("embed", {"input": ["a cat", "a kitten", "tax law"]})["embeddings"]) == 3
        tokens = sidecar.call("tokenize", {"text": "a cat"})["tokens"]
        assert sidecar.call("detokenize", {"tokens": tokens}) == {"text": "a cat"}
"""


@pytest.fixture
def run(pytester):
    """Return a function that runs a test file beside the project's own recordings."""
    for path in REPLAY.glob("*.ndjson"):
        shutil.copy(path, pytester.path)

    def run(source, *arguments):
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "mlzoo.replay.plugin", "-p", "no:cacheprovider", *arguments)

    return run


def test_a_test_without_coroutines_plays_a_recording(run):
    run(SYNC).assert_outcomes(passed=1)


def test_a_test_under_asyncio_and_under_trio_plays_a_recording(run):
    source = """
    import anyio, pytest

    async def talk(sidecar):
        async with sidecar.spawn() as client:
            await client.call("embed", {"input": ["a cat", "a kitten", "tax law"]})
            tokens = (await client.call("tokenize", {"text": "a cat"}))["tokens"]
            assert await client.call("detokenize", {"tokens": tokens}) == {"text": "a cat"}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.mlzoo_recording("embed.ndjson")
    def test_it(replayed_sidecar, backend):
        anyio.run(talk, replayed_sidecar, backend=backend)
    """
    run(source).assert_outcomes(passed=2)


def test_an_application_spawns_the_command_line_itself(run):
    source = """
    import json, pytest, subprocess

    @pytest.mark.mlzoo_recording("errors.ndjson")
    def test_it(replayed_sidecar):
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
        done = subprocess.run(replayed_sidecar.command, input=line, capture_output=True)
        assert b"1018" in done.stdout
    """
    result = run(source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ping (id 1) was sent where chat is recorded*"])


def test_a_test_that_does_not_use_all_of_it_fails_at_its_end(run):
    result = run("\n".join(SYNC.splitlines()[:-2]) + "\n")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*line 2, tokenize, was not sent*", "*used 1, unused 2, mismatched 0: NOT as recorded*"]
    )


def test_a_test_that_catches_the_mismatch_fails_all_the_same(run):
    source = SYNC.replace('{"text": "a cat"})["tokens"]', '{"text": "a dog"})["tokens"]')
    result = run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*params.text: recorded*a cat*got*a dog*"])


def test_a_test_that_spawns_nothing_fails(run):
    result = run("import pytest\n\n@pytest.mark.mlzoo_recording('chat.ndjson')\ndef test_it(replayed_sidecar): pass\n")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*was not played to its end*"])


def test_a_recording_that_is_not_there_is_said_with_what_makes_it(run):
    result = run(SYNC.replace("embed.ndjson", "none.ndjson"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no *none.ndjson: pytest --mlzoo-record makes it*"])


def test_a_marker_without_a_path_is_said(run):
    result = run("def test_it(replayed_sidecar): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*say which recording*"])


RECORDED = """
import pytest

@pytest.mark.mlzoo_recording("sub/new.ndjson", overrides=["limits.max_running=3"], redact=True)
def test_it(replayed_sidecar):
    with replayed_sidecar.connect() as sidecar:
        assert sidecar.call("ping") == {}
        assert sidecar.call("models.estimate", {"model": "minilm"})["memory_bytes"] > 0
        assert {PASSES}
"""


def test_when_asked_it_records_against_the_real_sidecar_and_plays_that_from_then_on(run, pytester):
    passes = RECORDED.replace("{PASSES}", "True")
    run(passes, "--mlzoo-record").assert_outcomes(passed=1)
    made = (pytester.path / "sub" / "new.ndjson").read_bytes()
    assert b'"max_running":3' in made
    run(passes).assert_outcomes(passed=1)
    run(passes.replace("minilm", "smollm2")).assert_outcomes(failed=1)
    assert (pytester.path / "sub" / "new.ndjson").read_bytes() == made


def test_a_failed_test_records_nothing(run, pytester):
    run(RECORDED.replace("{PASSES}", "False"), "--mlzoo-record").assert_outcomes(failed=1)
    assert not (pytester.path / "sub").exists()


TWICE = """
import pytest

@pytest.mark.mlzoo_recording("twice.ndjson"{MORE})
def test_it(replayed_sidecar):
    for _ in range({TIMES}):
        with replayed_sidecar.connect() as sidecar:
            assert sidecar.call("ping") == {}
"""


def twice(times, more=""):
    return TWICE.replace("{TIMES}", str(times)).replace("{MORE}", more)


def test_a_test_that_starts_its_sidecar_twice_plays_one_connection_after_the_other(run):
    run(twice(2), "--mlzoo-record").assert_outcomes(passed=1)
    run(twice(2)).assert_outcomes(passed=1)
    run(twice(1, ', connection="con-2"')).assert_outcomes(passed=1)
    result = run(twice(1))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ['*con-2 of *started a sidecar 1 times, and the recording holds 2 conn*connection="con-1"*']
    )
    result = run(twice(3))
    result.assert_outcomes(failed=1)
    result = run(twice(1, ', connection="con-9"'))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no connection con-9 in *, only con-1, con-2*"])


def test_of_two_tests_that_name_one_file_the_first_records_it_and_another_session_fails(run):
    source = """
    import pytest

    @pytest.mark.parametrize("backend", ["trio", "asyncio"])
    @pytest.mark.mlzoo_recording("one.ndjson")
    def test_first(replayed_sidecar, backend):
        with replayed_sidecar.connect() as sidecar:
            sidecar.call("ping")

    @pytest.mark.mlzoo_recording("one.ndjson")
    def test_second(replayed_sidecar):
        with replayed_sidecar.connect() as sidecar:
            sidecar.call("ping")
            assert sidecar.call("models.estimate", {"model": "minilm"})
    """
    result = run(source, "--mlzoo-record")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*models.estimate * was sent where nothing more is recorded*"])
    run(source, "-k", "test_first").assert_outcomes(passed=2)


def test_what_leaves_out_a_part_of_what_this_run_has_recorded_is_told_who_recorded_it(run):
    source = """
    import pytest

    @pytest.mark.mlzoo_recording("one.ndjson")
    def test_first(replayed_sidecar):
        with replayed_sidecar.connect() as sidecar:
            sidecar.call("ping")
            sidecar.call("ping")

    @pytest.mark.mlzoo_recording("one.ndjson")
    def test_second(replayed_sidecar):
        with replayed_sidecar.connect() as sidecar:
            sidecar.call("ping")
    """
    result = run(source, "--mlzoo-record")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*::test_first recorded it in this run: a test of another session needs its own file*"]
    )


def test_nothing_recorded_and_a_word_that_the_marker_does_not_know_are_said(run):
    source = "import pytest\n\n@pytest.mark.mlzoo_recording('new.ndjson')\ndef test_it(replayed_sidecar): pass\n"
    result = run(source, "--mlzoo-record")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*new.ndjson was not recorded: the test started no sidecar, or sent it nothing*"])
    result = run(source.replace("'new.ndjson'", "'new.ndjson', redacted=True"))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*knows no 'redacted': it takes connection, overrides, redact*"])


def test_options_that_contradict_each_other_are_refused(run):
    result = run(SYNC, "--mlzoo-record", "--mlzoo-recording", "embed.ndjson")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


SIDE_BY_SIDE = pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed")


@SIDE_BY_SIDE
def test_recording_side_by_side_is_refused(run):
    result = run(SYNC, "--mlzoo-record", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*runs tests one after the other: leave out -n*"])


@pytest.mark.parametrize("more", [(), pytest.param(("-n", "1"), marks=SIDE_BY_SIDE)], ids=" ".join)
def test_with_one_recording_for_all_the_exit_status_tells_a_failure_from_another_session(run, more):
    instead = ("--mlzoo-recording", "embed.ndjson", *more)
    source = SYNC.replace('recording("embed.ndjson")', 'recording("none.ndjson")')
    assert run(source, *instead).ret == 0
    assert run(source.replace("== 3", "== 4"), *instead).ret == 1
    assert run(source.replace("a kitten", "a dog"), *instead).ret == 18
    assert run(source, "--mlzoo-recording", "none.ndjson", *more).ret == 18
