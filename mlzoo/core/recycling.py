"""Which worker process has to make way for a new one: one that keeps the memory of models that are gone.

Judged is what a process holds when nothing is loaded on it any more, against what it held before anything was: as long
as a model is there, nobody can tell its growing caches from what an earlier one left. Knows nothing of how memory is
measured, nor of how a process is ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlzoo.core.state import State, WorkerState

# What libraries make when they are first used stays, and a fresh process would make it again: 40 to 100 MiB on a CPU
# for smollm2 and minilm, and one more for each further load. More than twice that is no library's any more, and worth
# the seconds that a process takes to start: two on an idle machine.
KEPT_BYTES = 256 << 20


def kept_bytes(worker: WorkerState) -> int:
    """Return what a process holds beyond what it held before it had loaded anything; 0 where that is not known."""
    return max(0, worker.held_bytes - worker.began_bytes) if worker.began_bytes else 0


def keeps_memory(worker: WorkerState) -> bool:
    """Whether a process that has dropped its models did not give their memory back."""
    return kept_bytes(worker) > KEPT_BYTES


def memory_comes_back(state: State) -> bool:
    """Whether a process leaves that keeps memory: soon there will be more of it than anybody can see now."""
    return any(worker.retiring and keeps_memory(worker) for worker in state.workers.values())
