"""A disk that is nothing but a dictionary of bytes, and never makes anybody wait.

Code that is async only because a real disk takes its time can be driven on it without an event loop (``at_once``),
which is a hundred times faster than starting one. Nothing fails here and everything is durable at once: what a crash
leaves is put in from outside (``crash_states``).
"""

from __future__ import annotations

import errno
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from mlzoo.world import AppendFile

Image = tuple[tuple[str, bytes], ...]
"""The files of a disk by path, sorted: equal images are equal disks."""

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an async function that never waits, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    message = "it waited for something, and nothing here ever comes"
    raise AssertionError(message)


class ByteFile:
    """An open file."""

    def __init__(self, disk: ByteDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def write(self, data: bytes) -> None:
        """Append data."""
        self._disk.put(self._path, self._disk.files[self._path] + data)

    def size_bytes(self) -> int:
        """Return the size."""
        return len(self._disk.files[self._path])

    def close(self) -> None:
        """Nothing is held."""


class ByteLock:
    """A lock that nobody else wants."""

    def release(self) -> None:
        """Give it back."""


class ByteDisk:
    """The files of an image. ``on_step`` is called after each change."""

    def __init__(self, image: Image = ()) -> None:
        self.files: dict[str, bytes] = dict(image)
        self.on_step: Callable[[Mapping[str, bytes]], None] | None = None

    def image(self) -> Image:
        """Return the files as they are now."""
        return tuple(sorted(self.files.items()))

    def bound(self, most_s: float) -> None:
        """Nothing is ever waited for."""

    def put(self, path: str, data: bytes) -> None:
        """Give a file other content."""
        self.files[path] = data
        if self.on_step is not None:
            self.on_step(self.files)

    async def make_dir(self, path: Path) -> None:
        """Directories are there as soon as something is in them."""

    def sizes(self, path: Path) -> dict[str, int]:
        """Return the sizes of the files in a directory by sorted name."""
        return {name: len(self.files[f"{path}/{name}"]) for name in self.names(path) if f"{path}/{name}" in self.files}

    def names(self, path: Path) -> list[str]:
        """Return the sorted names in a directory."""
        start = f"{path}/"
        return sorted({name[len(start) :].split("/", 1)[0] for name in self.files if name.startswith(start)})

    def open_append(self, path: Path) -> ByteFile:
        """Open for appending, creating it."""
        if str(path) not in self.files:
            self.put(str(path), b"")
        return ByteFile(self, str(path))

    async def sync(self, file: AppendFile) -> None:
        """All is durable."""

    async def sync_dir(self, path: Path) -> None:
        """All is durable."""

    def read(self, path: Path, offset: int = 0, size_bytes: int = -1) -> bytes:
        """Return up to size_bytes from offset, or all that follows."""
        try:
            data = self.files[str(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
        return data[offset:] if size_bytes < 0 else data[offset : offset + size_bytes]

    async def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file."""
        self.put(str(path), self.files[str(path)][:size_bytes])

    async def replace(self, path: Path, data: bytes) -> None:
        """Put data at path; before that, as a rename has it, they lie beside it."""
        temporary = str(PurePath(path).with_name(f"{path.name}.new"))
        self.put(temporary, data)
        del self.files[temporary]
        self.put(str(path), data)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        if self.files.pop(str(path), None) is not None and self.on_step is not None:
            self.on_step(self.files)

    def lock(self, path: Path) -> ByteLock:  # noqa: ARG002 - there is one user
        """Nobody else is there."""
        return ByteLock()

    def free_bytes(self, path: Path) -> int:  # noqa: ARG002 - it is never full
        """Memory is all there is."""
        return 1 << 40
