"""Bugs that one could make, planted: each a small change of the real code, under a name that says what is wrong."""

from mlzoo.actors import ledger
from mlzoo.actors.ledger import STATES, Ledger
from mlzoo.core.state import State
from mlzoo.events import framing, recovery
from mlzoo.events.durability import Durability
from mlzoo.events.writing import SegmentWriter
from mlzoo.simulation.disk import SimulatedDisk


def checksums_say_nothing(patch):
    patch.setattr(framing, "crc32", lambda _data: 0)


def called_synced_when_written(patch):
    def wrote(self, seq):
        self.written = self.synced = seq

    patch.setattr(Durability, "wrote", wrote)


def names_are_never_synced(patch):
    async def sync_dir(self, _path):
        return

    patch.setattr(SimulatedDisk, "sync_dir", sync_dir)


def full_segments_are_not_synced(patch):
    sync = SegmentWriter.sync

    async def only_the_last(self):
        self._sealed.clear()
        await sync(self)

    patch.setattr(SegmentWriter, "sync", only_the_last)


def the_torn_tail_stays(patch):
    async def cut(segments, first, found, *, keep):
        segments.sizes[first] = found.whole_bytes
        return "as good as cut"

    patch.setattr(recovery, "_cut", cut)


def the_last_segment_is_believed_alone(patch):
    patch.setattr(recovery, "_lost_before", lambda *_: False)


def a_segment_begins_with_an_empty_state(patch):
    patch.setattr(Ledger, "snapshot", lambda _self: STATES.data(State()))


def the_fold_forgets_streams(patch):
    class Forgetful(ledger.Folding):
        def add(self, group):
            if type(group.command).__name__ != "ReportStep":
                super().add(group)

    patch.setattr(ledger, "Folding", Forgetful)


RECOVERY_BUGS = {
    checksums_say_nothing: {"I7"},
    called_synced_when_written: {"I2"},
    names_are_never_synced: {"I2"},
    full_segments_are_not_synced: {"I2"},
    the_torn_tail_stays: {"I7"},
    the_last_segment_is_believed_alone: {"I7"},
    a_segment_begins_with_an_empty_state: {"I8"},
    the_fold_forgets_streams: {"I8"},
}
"""What is wrong -> the invariants of which at least one must say so."""
