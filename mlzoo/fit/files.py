"""CSV, JSON lines and Parquet -> columns; what cannot be read is told with its line.

Text is read line by line, by the standard library and orjson, since they know in which line a fault is, which Arrow's
readers do not; Parquet has no lines, and is read by Arrow, whose format it is. Knows nothing of what columns are for.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

import attrs
import orjson

from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlzoo.fit.settings import DataSettings

FileFormat = Literal["csv", "jsonl", "parquet"]
_BY_SUFFIX: dict[str, FileFormat] = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FIELD_BYTES = 1 << 24  # of one value of CSV: the library's own limit is 128 KiB


@attrs.frozen
class DataFile:
    """What a file holds: its columns, as long as it has rows.

    Values are what the format has: strings in CSV; strings, numbers, truth values, lists and None elsewhere.
    """

    path: str
    format: FileFormat
    sha256: str
    columns: dict[str, list[Any]]
    lines: tuple[int, ...] = ()
    """In which line each row ends, of text."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.columns.values()), []))

    def place(self, row: int, column: str) -> str:
        """Return where a value stands, for a message: lines and rows are counted from 1."""
        where = f"line {self.lines[row]}" if self.lines else f"row {row + 1}"
        return f"{self.path}, {where}, column {column!r}"

    def column(self, name: str, setting: str) -> list[Any]:
        """Return a column.

        Args:
            name: what it is called.
            setting: where that was said, for the message.

        Raises:
            ConfigError: There is no such column.
        """
        if name not in self.columns:
            there = ", ".join(map(repr, self.columns))
            told = f"{setting}: {self.path} has no column {name!r}{nearest(name, self.columns)} (there are {there})"
            raise ConfigError(told, path=setting, expected=list(self.columns))
        return self.columns[name]


def read(settings: DataSettings) -> DataFile:
    """Return what a data file holds.

    Raises:
        ConfigError: It is not there, holds nothing, or is not what it is called; with the line at which that shows.
    """
    path = Path(settings.path).expanduser()
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise ConfigError(f"data.path: {path} {what}", path="data.path")
    form = _format(settings, path)
    try:
        if path.stat().st_size == 0:
            raise ConfigError(f"data.path: {path} is empty", path="data.path")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        match form:
            case "csv":
                is_tsv = path.suffix.lower() == ".tsv" and settings.delimiter == ","
                columns, lines = _csv(path, "\t" if is_tsv else settings.delimiter)
            case "jsonl":
                columns, lines = _jsonl(path)
            case "parquet":
                columns, lines = _parquet(path), []
            case _:
                assert_never(form)
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}", path="data.path") from error
    found = DataFile(str(path), form, sha256, columns, tuple(lines))
    if not found.rows:
        raise ConfigError(f"data.path: {path} has no rows", path="data.path")
    return found


def _format(settings: DataSettings, path: Path) -> FileFormat:
    if settings.format != "auto":
        return settings.format
    if path.suffix.lower() not in _BY_SUFFIX:
        told = f"data.format: the name {path.name} does not tell what it is; say csv, jsonl or parquet"
        raise ConfigError(told, path="data.format")
    return _BY_SUFFIX[path.suffix.lower()]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, with their ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(_UTF16):
                raise _fault(path, " is UTF-16: write it as UTF-8")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x}"
                told = f", line {number}: no UTF-8 (byte {byte} at column {error.start + 1}): write the file as UTF-8"
                raise _fault(path, told) from error


def _csv(path: Path, delimiter: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Read CSV as strings: what is a number is not for a reader to guess."""
    csv.field_size_limit(_FIELD_BYTES)
    lines: list[int] = []
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _fault(path, f", line 1: two columns are called {twice[0]!r}: give one another name")
        columns: list[list[Any]] = [[] for _ in names]
        for row in reader:
            if not row:  # a blank line
                continue
            if len(row) != len(names):
                told = f"expected {len(names)} columns as in the header, got {len(row)}"
                raise _fault(path, f", line {reader.line_num}: {told}")
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise _fault(path, f", line {reader.line_num}: {error}") from error
    return dict(zip(names, columns, strict=True)), lines


def _jsonl(path: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Read JSON lines, an object each; what one leaves out is None."""
    columns: dict[str, list[Any]] = {}
    kinds: dict[str, tuple[str, int]] = {}
    lines: list[int] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _fault(path, f", line {number}: no JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(said, dict):
            raise _fault(path, f", line {number}: expected an object, {{column: value, ...}}")
        for name, value in said.items():
            kind = _kind(value)
            before = kinds.setdefault(name, (kind, number)) if kind else (kind, number)
            if before[0] != kind:
                told = f"{kind}, but {before[0]} in line {before[1]}: a column holds values of one kind"
                raise _fault(path, f", line {number}, column {name!r}: {told}")
            column = columns.setdefault(name, [])
            column.extend([None] * (len(lines) - len(column)))
            column.append(value)
        lines.append(number)
    for column in columns.values():
        column.extend([None] * (len(lines) - len(column)))
    return columns, lines


def _kind(value: Any) -> str:
    """Return what kind of value it is, in words; of none, nothing."""
    names: Sequence[tuple[Any, str]] = (
        (type(None), ""), (bool, "a truth value"), ((int, float), "a number"), (str, "a text"), (list, "a list")
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "an object")


def _parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("reading Parquet needs the extra `fit`: pip install 'mlzoo[fit]'", path="data") from error
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, ValueError) as error:
        raise _fault(path, f" is no Parquet file: {str(error).splitlines()[0]}") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _fault(path: Path, told: str) -> ConfigError:
    return ConfigError(f"data.path: {path}{told}", path="data.path")
