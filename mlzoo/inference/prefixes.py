"""Keys and values of what was read or decoded before, found again by the tokens that they stand for.

``Prefixes`` keeps blocks in a tree: a block's place is all tokens before it, compared token by token, so that nothing
is ever taken for something else. ``PrefixCache`` copies blocks out of slots and into them. Knows tokens and slots;
nothing of requests, text or sampling.

A block is exact where its bits are those that everybody gets who reads these tokens: it was read as a part of a whole
chunk, and so was all before it. What was decoded, or read after something that is not exact, is close, and no more;
unless all of it was computed in steps in which that makes no difference.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import takewhile
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from mlzoo.inference import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from mlzoo.inference.cache import SlotCache

BLOCK = 32  # tokens

Lines = TypeVar("Lines")
Key = tuple[int, ...]


@attrs.define(eq=False)
class Block(Generic[Lines]):
    """A copy of the lines of some tokens, which follow those of all blocks above it."""

    tokens: Key
    lines: Lines
    exact: bool
    parent: Block[Lines] | None
    owner: str = ""
    children: dict[Key, Block[Lines]] = attrs.field(factory=dict)


class Prefixes(Generic[Lines]):
    """Blocks by their tokens, as many as there is room for; whichever was not used for longest goes first.

    Whoever uses a block uses all above it, and they count as used later than it: so the least recently used block of
    all has none below it, and no block outlives its parent.
    """

    def __init__(self, room: int) -> None:
        self.room = room  # blocks
        self._roots: dict[str, dict[Key, Block[Lines]]] = {}  # by their owners
        self._by_use: OrderedDict[int, Block[Lines]] = OrderedDict()  # the least recent first

    def __len__(self) -> int:
        return len(self._by_use)

    def __iter__(self) -> Iterator[Block[Lines]]:
        """Yield all blocks, the least recently used first."""
        return iter(self._by_use.values())

    def find(self, tokens: Sequence[int], owner: str = "") -> list[Block[Lines]]:
        """Return the blocks that some tokens begin with, from the first on; they are used by this.

        Those of one owner alone are looked at: what has been computed in another way is another text.
        """
        path: list[Block[Lines]] = []
        for key in _keys(tokens):
            block = self._below(path[-1] if path else None, owner).get(key)
            if block is None:
                break
            path.append(block)
        self._touch(path)
        return path

    def put(self, tokens: Sequence[int], exact: int, copy: Callable[[int, int], Lines], owner: str = "") -> None:
        """Keep the whole blocks of some tokens, those of them that are not kept already.

        Args:
            tokens: From the beginning of a text on.
            exact: How many of them are exact.
            copy: Returns the lines from one token to another.
            owner: Whose they are.
        """
        path = self.find(tokens, owner)
        try:
            for number, key in enumerate(_keys(tokens)):
                start, stop = number * BLOCK, (number + 1) * BLOCK
                if number == len(path) == self.room:
                    break  # It would push out its own beginning.
                if number == len(path):
                    self._make_room(self.room - 1)
                    block = Block(key, copy(start, stop), stop <= exact, path[-1] if path else None, owner)
                    path.append(self._add(block))
                elif stop <= exact and not path[number].exact:
                    path[number].lines, path[number].exact = copy(start, stop), True
        finally:
            self._touch(path)

    def drop_half(self) -> bool:
        """Forget half of all blocks; return whether there were any."""
        had = len(self)
        self._make_room(had // 2)
        return had > 0

    def clear(self) -> None:
        """Forget all blocks."""
        self._make_room(0)

    def _add(self, block: Block[Lines]) -> Block[Lines]:
        self._below(block.parent, block.owner)[block.tokens] = block
        self._by_use[id(block)] = block
        return block

    def _make_room(self, most: int) -> None:
        while len(self._by_use) > most:
            _, block = self._by_use.popitem(last=False)
            del self._below(block.parent, block.owner)[block.tokens]

    def _below(self, parent: Block[Lines] | None, owner: str) -> dict[Key, Block[Lines]]:
        return self._roots.setdefault(owner, {}) if parent is None else parent.children

    def _touch(self, path: Sequence[Block[Lines]]) -> None:
        for block in reversed(path):
            self._by_use.move_to_end(id(block))


@attrs.frozen
class Restored:
    """How many tokens a slot had from the start, and whether to the bit what reading them would have written."""

    tokens: int = 0
    exact: bool = True


class PrefixCache:
    """What slots held before, and may hold again.

    Args:
        cache: The slots.
        room_bytes: That copies may take.
        chunk: Tokens of a whole chunk.
        device: Of the slots.
    """

    def __init__(self, cache: SlotCache, room_bytes: int, chunk: int, device: torch.device) -> None:
        self._cache, self._room_bytes, self._chunk, self._device = cache, room_bytes, chunk, device
        self._prefixes: Prefixes[torch.Tensor] = Prefixes(0)

    def __len__(self) -> int:
        """How many blocks are kept."""
        return len(self._prefixes)

    def size_bytes(self) -> int:
        """Return what the copies take."""
        return sum(block.lines.nbytes for block in self._prefixes)

    def restore(
        self, slot: int, tokens: Sequence[int], *, exact: bool, owner: str = "", free: bool = False
    ) -> Restored:
        """Write into a slot what is kept of the beginning of some tokens; one of them at least is left to be read.

        With exact only what has the bits that reading would give, up to where a chunk would begin. The owner is what
        they are read with, beside the model: nothing of another's is taken. Where it does not matter how a prompt is
        cut, it is free, and all is exact.
        """
        found = self._prefixes.find(tokens[:-1], owner)
        if exact and not free:
            found = list(takewhile(lambda block: block.exact, found))
            found = found[: len(found) - len(found) % (self._chunk // BLOCK)]
        if not found:
            return Restored()
        count = len(found) * BLOCK
        try:
            self._cache.reserve(slot, count)
            self._cache.copy_in(slot, [block.lines for block in found])
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            return Restored()  # To be read, which fails alone where there is no memory for that either.
        return Restored(count, exact=free or (all(block.exact for block in found) and count % self._chunk == 0))

    def keep(
        self,
        slot: int,
        tokens: Sequence[int],
        read: int,
        restored: Restored,
        owner: str = "",
        *,
        free: bool = False,
    ) -> None:
        """Keep what a slot holds.

        Args:
            slot: It holds the lines of all the tokens.
            tokens: From the beginning of its text on.
            read: How many of them were read in chunks; the others were decoded.
            restored: What it had from the start.
            owner: As in ``restore``.
            free: As in ``restore``.
        """
        if self._cache.lacks(len(tokens) * self._cache.line_bytes()):
            self.give_way()  # Nobody waits for a copy.
            return
        if self._prefixes.room == 0:  # What a block takes is known since something was read.
            self._prefixes.room = self._room_bytes // (self._cache.line_bytes() * BLOCK)
        exact = read - read % self._chunk if restored.exact else 0
        exact = len(tokens) if free else exact
        try:
            self._prefixes.put(tokens, exact, lambda start, stop: self._cache.copy_out(slot, start, stop), owner)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            self.give_way()

    def clear(self) -> None:
        """Keep nothing of what was kept."""
        self._prefixes.clear()

    def give_way(self) -> bool:
        """Give half of the memory back, since somebody needs it more; return whether there was any."""
        had = self._prefixes.drop_half()
        if had:
            memory.give_back(self._device)
        return had


def _keys(tokens: Sequence[int]) -> Iterator[Key]:
    """Yield the tokens of each whole block."""
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        yield tuple(tokens[start : start + BLOCK])
