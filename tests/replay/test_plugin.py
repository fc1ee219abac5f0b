"""The pytest plugin, in runs of pytest of its own."""

import shutil
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
