"""What the simulator takes for forgotten on purpose: what somebody wanted gone, and nothing else."""

import orjson
import pytest

from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.evidence import Evidence
from mlzoo.simulation.histories import GROUPS
from mlzoo.simulation.invariants import violated
from mlzoo.simulation.mirror import Mirror
from mlzoo.simulation.steps import Rewritten

CALL, REQUEST = 7, "req-1"
GONE = {"gone": "forgotten"}


def line(seq, kind, data, **more):
    """A record that is a group of its own."""
    type_ = {"kind": "event" if kind == "RequestAccepted" else "command", "type": kind}
    return (
        orjson.dumps({"crc": "0", "log_seq": seq, "group": [seq, 1], "at_ms": 0, **type_, "data": data, **more}) + b"\n"
    )


ACCEPTED = line(
    1, "RequestAccepted", {"request": REQUEST, "kind": "chat", "conversation": "talk-0", "caller": {"rpc": CALL}}
)
ROWS = [{"request": REQUEST}]


def told(text):
    return line(2, "ReportStep", {"rows": ROWS}, text=[text])


def copied(text, conversation):
    return line(3, "ForkConversation", {"conversation": conversation, "rows": ROWS}, text=[text])


def read(evidence, *lines):
    disk = SimulatedDisk()
    disk.put(f"{GROUPS}/{orjson.loads(lines[0])['log_seq']:020}.ndjson", b"".join(lines))
    Mirror(disk, evidence).read_all()


@pytest.fixture
def evidence():
    """Of a life in which a turn of a conversation was asked for, and of the next one, which finds no more of that."""
    found = Evidence("disk")
    found.say("say-7", CALL, ephemeral=False)
    said = told({"content": "say-7/0"}), copied({"content": "say-7/0"}, "talk-1")
    read(found, ACCEPTED, *said)
    found.log = found.log.begin_again()
    read(found, *said)
    return found


def broken(evidence, was, now):
    return [name for name, _ in violated(Rewritten(was, now), evidence)]


STEP = told({"content": "say-7/0"}), told(GONE)
COPY = copied({"content": "say-7/0"}, "talk-1"), copied(GONE, "talk-1")


@pytest.mark.parametrize("rewritten", [STEP, COPY])
def test_who_deletes_a_conversation_wants_a_turn_gone_whose_acceptance_was_dropped(evidence, rewritten):
    evidence.deleted = {"talk-0"}
    assert broken(evidence, *rewritten) == []


@pytest.mark.parametrize("rewritten", [STEP, COPY])
def test_who_forgets_a_call_wants_its_words_gone_though_its_acceptance_was_dropped(evidence, rewritten):
    evidence.about_to_forget("say-7")
    assert broken(evidence, *rewritten) == []


@pytest.mark.parametrize("rewritten", [STEP, COPY])
def test_nobody_wants_words_gone_of_which_nobody_has_said_so(evidence, rewritten):
    evidence.deleted = {"talk-2"}
    evidence.about_to_forget("say-8")
    assert broken(evidence, *rewritten) == ["I2"]
