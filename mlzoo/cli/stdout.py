"""What a command prints, and whether it arrived: a result that nobody got must not end with status 0.

Knows no command. Whatever an error on stdout was taken for on its way up, the end of the program tells what it was.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

UNWRITTEN = 3
PIPE_CLOSED = 141  # As shells have it: 128 and the number of SIGPIPE.


class _Watched(io.FileIO):
    """A file that remembers that it could not be written."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class Stdout:
    """Puts a watched stdout in the place of the plain one, until ``settle``. A console of Windows is left alone."""

    def __init__(self) -> None:
        self._plain = sys.stdout
        self._raw: _Watched | None = None
        buffer = self._plain.buffer if isinstance(self._plain, io.TextIOWrapper) else None
        raw = getattr(buffer, "raw", buffer)  # With PYTHONUNBUFFERED there is no buffer between.
        if isinstance(self._plain, io.TextIOWrapper) and type(raw) is io.FileIO:
            self._raw = _Watched(raw.fileno(), "w", closefd=False)
            sys.stdout = io.TextIOWrapper(
                self._raw if raw is buffer else io.BufferedWriter(self._raw),
                encoding=self._plain.encoding,
                errors=self._plain.errors,
                line_buffering=self._plain.line_buffering,
                write_through=self._plain.write_through,
            )

    def settle(self) -> int | None:
        """Write out what is left; return the exit status where something could not be written, else None."""
        failure: OSError | None = None
        try:
            sys.stdout.flush()
        except OSError as error:
            failure = error
        if self._raw is not None:
            failure = self._raw.failure or failure
        if failure is not None:
            self._drop()
        sys.stdout = self._plain
        if failure is None:
            return None
        if isinstance(failure, BrokenPipeError):
            return PIPE_CLOSED  # Who read it has had enough, and knows.
        print(f"mlzoo: stdout cannot be written: {failure.strerror or failure}", file=sys.stderr)
        return UNWRITTEN

    def _drop(self) -> None:
        """Point stdout nowhere, or Python would complain when it flushes the rest at exit."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        sys.stdout.flush()


def open_the_closed() -> bool:
    """Put the null device in the place of a closed stdin or stderr; return whether stdout is open.

    Else the next file opened would become one of them.
    """
    if sys.stdin is None:
        sys.stdin = _null("r")
    if sys.stdout is None:
        return False
    if sys.stderr is None:
        sys.stderr = _null("w")
    return True


def _null(mode: Literal["r", "w"]) -> TextIO:
    return Path(os.devnull).open(mode, encoding="utf-8")
