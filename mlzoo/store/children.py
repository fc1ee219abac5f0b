"""Child processes of a pull: pip, the hub's client, the converter. Each dies with the pull (``leash.py``)."""

from __future__ import annotations

import collections
import queue
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TICK_S = 0.2
_KEPT_LINES = 200


@attrs.frozen
class Ended:
    """How a child ended, and the last lines that it said on stderr."""

    status: int
    errors: str


def run(
    module: str,
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    on_line: Callable[[bytes], None],
    on_tick: Callable[[], None],
) -> Ended:
    """Run a module as a child to its end.

    Args:
        module: Its name; it is run by this Python.
        arguments: Its command line.
        environ: Its whole environment.
        on_line: Called with each line of its stdout.
        on_tick: Called some times a second, to look at what has arrived on the disk.
    """
    command = [sys.executable, "-m", "mlzoo.store.leash", module, *arguments]
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
    errors: collections.deque[bytes] = collections.deque(maxlen=_KEPT_LINES)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ)) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        readers = (
            threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True),
            threading.Thread(target=errors.extend, args=(child.stderr,), daemon=True),
        )
        for reader in readers:
            reader.start()
        try:
            while True:
                try:
                    line = lines.get(timeout=_TICK_S)
                except queue.Empty:
                    on_tick()
                    continue
                if line is None:
                    break
                on_line(line)
            status = child.wait()
            readers[1].join()
        except BaseException:
            child.kill()
            raise
    return Ended(status, b"".join(errors).decode(errors="replace"))


def _read_lines(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)
