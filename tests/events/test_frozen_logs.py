"""Logs of every schema version, frozen in replay/logs, are read for ever; and what is stored changes compatibly."""

import shutil
from pathlib import Path

import orjson
import pytest
from schema_shapes import FROZEN, reads, shapes

from mlzoo.actors.ledger import recover
from mlzoo.config.schema import LogConfig
from mlzoo.core.apply import Folding
from mlzoo.core.state import State
from mlzoo.events.codec import UPCASTERS, groups_in
from mlzoo.events.log import Log
from mlzoo.events.segments import Segments
from mlzoo.events.story import LineReader, story, verify
from mlzoo.state_codec import decode_state
from mlzoo.world import real_world

LOGS = sorted(path for path in FROZEN.parent.iterdir() if path.is_dir())


@pytest.fixture(params=LOGS, ids=lambda path: f"version {path.name}")
def frozen(request, tmp_path):
    """Return a copy of a frozen log."""
    return Path(shutil.copytree(request.param, tmp_path / "log"))


def test_there_is_a_frozen_log_of_the_first_version():
    assert LOGS[0].name == "1"


def test_every_record_of_a_frozen_log_is_whole_and_known(frozen):
    world = real_world()
    found = verify(world, frozen)
    assert found.faults == ()
    records = list(story(*(LineReader(world.disk, frozen / kind) for kind in ("segments", "asides"))))
    assert len(records) == found.records + found.asides
    assert len({record.get("type") for _, record in records}) > 20


def test_a_frozen_log_folds_to_the_states_that_its_own_headers_hold(frozen):
    segments = Segments(real_world().disk, frozen / "segments")
    assert len(segments.firsts) > 10
    folding = None
    for first in segments.firsts:
        state = decode_state(segments.header(first).state)
        assert folding is None or folding.state == state
        folding = Folding(state)
        for group in groups_in(segments.load(first)[1]):
            folding.add(group)
    assert folding.state != State()


async def test_a_sidecar_goes_on_with_a_frozen_log(frozen):
    last_seq = verify(real_world(), frozen).last_seq
    log = await Log.open(frozen, real_world(), LogConfig(), version="0.0.0")
    assert (log.last_seq, log.repaired) == (last_seq, ())
    assert recover(log).requests.keys() <= {
        str(record["data"]["request"])
        for _, record in story(*(LineReader(real_world().disk, frozen / kind) for kind in ("segments", "asides")))
        if record.get("type") == "RequestAccepted"
    }
    await log.close()


def test_what_is_stored_changes_compatibly_or_under_a_new_version_with_an_upcaster():
    now, then = shapes(), orjson.loads(FROZEN.read_bytes())
    for name, shape in then.items():
        assert name in now, f"{name} is in logs that exist"
        if now[name]["version"] != shape["version"]:
            assert (name, shape["version"]) in UPCASTERS
            continue
        fields = now[name]["fields"]
        for field, old in shape["fields"].items():
            assert field in fields, f"{name}.{field} is in logs that exist"
            assert reads(fields[field]["type"], old["type"]), f"{name}.{field} was stored as {old['type']}"
            assert fields[field]["default"] == old["default"], f"{name}.{field} is not stored at its default"
        for field in fields.keys() - shape["fields"].keys():
            assert "required" not in fields[field]["default"], f"{name}.{field} is not in logs that exist"


def test_everything_that_is_stored_is_frozen():
    assert shapes() == orjson.loads(FROZEN.read_bytes()), "run tests/events/schema_shapes.py, once the test above holds"


@pytest.mark.parametrize(
    ("new", "old", "is_read"),
    [
        ("int", "int", True),
        ("str", "int", False),
        ("Any", "int", True),
        ({"any of": ["None", "int"]}, "int", True),
        ("int", {"any of": ["None", "int"]}, False),
        ({"one of": ["'a'", "'b'"]}, {"one of": ["'a'"]}, True),
        ({"one of": ["'a'"]}, {"one of": ["'a'", "'b'"]}, False),
        ({"tuple": ["int", "..."]}, {"tuple": ["int", "..."]}, True),
        ({"tuple": ["str", "..."]}, {"tuple": ["int", "..."]}, False),
        ({"dict": ["str", "int"]}, {"tuple": ["str", "int"]}, False),
    ],
)
def test_a_type_reads_what_an_older_one_stored_where_it_has_only_grown(new, old, is_read):
    assert reads(new, old) is is_read
