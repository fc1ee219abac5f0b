"""What the simulator reads of a log of which the disk has changed a bit."""

import orjson
import pytest

from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.evidence import Evidence
from mlzoo.simulation.histories import ASIDES, GROUPS
from mlzoo.simulation.mirror import ALWAYS, Mirror

ENDED = {"type": "RequestCancelled", "data": {"request": "req-1"}}


def group(seq):
    return orjson.dumps({"crc": "0", "log_seq": seq, "group": [seq, 1], "at_ms": seq, "kind": "event", **ENDED}) + b"\n"


def aside(seq, rpc):
    return orjson.dumps({"crc": "0", "aside_seq": seq, "rpc": rpc}) + b"\n"


def renamed(line, name):
    """What one bit makes of a field's name."""
    spelled = name.encode()
    return line.replace(b'"%b":' % spelled, b'"%b":' % bytes((spelled[0] ^ 1, *spelled[1:])), 1)


def mirror(directory, *lines, damaged):
    disk, evidence = SimulatedDisk(), Evidence("disk")
    evidence.damaged = damaged
    disk.put(f"{directory}/{1:020}.ndjson", b"".join(lines))
    return Mirror(disk, evidence), evidence


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_a_record_of_which_a_bit_has_changed_a_name_is_left_out_of_a_damaged_log(name):
    lines = group(1), renamed(group(2), name), group(3)
    found, evidence = mirror(GROUPS, *lines, damaged=True)
    assert [record.data["at_ms"] for record in found.new_groups()] == [1, 3]
    assert found.kept(power=False) == [lines[0], lines[2]]
    assert [record.line for record in evidence.log.groups] == [lines[0], lines[2]]


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_in_a_log_that_nobody_has_damaged_such_a_record_is_no_record(name):
    found, _ = mirror(GROUPS, renamed(group(1), name), damaged=False)
    with pytest.raises(KeyError):
        list(found.new_groups())


def test_an_aside_of_which_a_bit_has_changed_a_name_is_left_out_of_a_damaged_log_alone():
    lines = aside(1, 7), renamed(aside(2, 8), "rpc"), aside(3, 9)
    found, evidence = mirror(ASIDES, *lines, damaged=True)
    assert [record.data["rpc"] for record in found.new_asides()] == [7, 9]
    assert set(evidence.log.asides) == {7, 9}
    found, _ = mirror(ASIDES, *lines, damaged=False)
    with pytest.raises(KeyError):
        list(found.new_asides())
