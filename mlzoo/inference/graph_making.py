"""The child process that makes a graph, as the worker sees it: begun, looked at between steps, ended when it is late.

Knows processes; nothing of what a graph is. The worker never waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import cattrs
import orjson

from mlzoo.inference.graph_compiler import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Load
    from mlzoo.inference.tracing import Step

COMMAND = (sys.executable, "-m", "mlzoo.inference.graph_compiler")
TIMEOUT_S = 1800.0  # for one graph, beside whatever else the machine does
SAID_BYTES = 4096  # of what a compiler says, that are looked through for its last words


@attrs.frozen(eq=False)
class Making:
    """A compiler that runs."""

    process: subprocess.Popen[bytes]
    files: tuple[Path, Path]  # its order, and what it says
    ends_s: float
    clock: Callable[[], float]

    @classmethod
    def begin(
        cls,
        command: Sequence[str],
        load: Load,
        module: Any,
        step: Step,
        library: Path,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> Making:
        """Start it.

        Raises:
            OSError: It cannot be started.
        """
        order = Order(
            model=load.path,
            dtype=str(module.dtype).removeprefix("torch."),
            trust_remote_code=load.trust_remote_code,
            step=cattrs.unstructure(step),
            library=str(library),
            parent=os.getpid(),
            timeout_s=timeout_s,
        )
        ordered, said = (library.with_suffix(f".{ending}-{os.getpid()}") for ending in ("order", "said"))
        library.parent.mkdir(parents=True, exist_ok=True)
        ordered.write_bytes(orjson.dumps(cattrs.unstructure(order)))
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, str(ordered)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # What it starts ends with it.
            )
        return cls(process, (ordered, said), clock() + timeout_s, clock)

    def ended(self) -> str | None:
        """Return how it ended: why in vain, nothing where it has done its work; None: it runs."""
        status = self.process.poll()
        if status is None and self.clock() < self.ends_s:
            return None
        if status is None:
            _end(self.process)
        said = self._last_words()
        for file in self.files:
            file.unlink(missing_ok=True)
        if status is None:
            return "its compiler took too long"
        return f"its compiler failed ({said or f'status {status}'})" if status else ""

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.files[1].read_bytes()[-SAID_BYTES:].decode(errors="replace").strip().splitlines()
            return lines[-1][:200] if lines else ""
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
