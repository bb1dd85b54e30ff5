"""KV memory of requests that share nothing: blocks are counted, and a request finds its own again."""

from __future__ import annotations

from collections.abc import Sequence
from operator import lt

from plandsl.backends.cost.serving.blocks import Freed, Pool
from plandsl.backends.cost.serving.scheduler import Live


class OwnPool(Pool):
    """A prefix cache in which only a request that was sent back finds blocks: those of its own that are left.

    It says what `Pool` says of such requests, and takes as long for a request of many blocks as for one of few.
    """

    __slots__ = ("_freed",)

    def __init__(self, total: int, size: int) -> None:
        super().__init__(total, size, caching=False)
        self._freed = Freed(total)

    def matched(self, live: Live, whole: bool = False) -> Sequence[int]:
        """As many numbers as a request finds blocks."""
        return range(min(self._freed.found(live.index), (live.target - (not whole)) // self.size))

    def missing(self, hits: Sequence[int], tokens: int) -> int:
        """Free blocks that a request of ``tokens`` tokens needs; nobody else uses those that it finds."""
        return self.count(tokens)

    def claim(self, live: Live, hits: Sequence[int]) -> None:
        """Give a request that holds nothing the blocks of its known prefix."""
        found = len(hits)
        self.free -= found
        self._freed.claim(live.index, found)
        live.held = live.keyed = found
        live.computed = found * self.size

    def _give(self, live: Live, blocks: int) -> None:
        self._freed.take(blocks)

    def grow_each(self, lives: Sequence[Live], more: int) -> Sequence[Live]:
        """Give requests the blocks of ``more`` tokens, one after the other. Those that have them."""
        size = self.size
        needed = [-(-(live.computed + more) // size) for live in lives]
        held = [live.held for live in lives]
        lacking = sum(needed) - sum(held)
        if lacking > self.free or any(map(lt, needed, held)):
            return super().grow_each(lives, more)
        for live, blocks in zip(lives, needed, strict=True):
            live.held = blocks
        self.free -= lacking
        self._freed.take(lacking)
        return lives

    def clear(self, blocks: int) -> None:
        """Forget what free blocks hold, the first to go first, until so many hold nothing."""
        empty = min(blocks, self.free)
        self._freed.take(empty)
        self._freed.put(empty, 0)

    def publish(self, live: Live, tokens: int | None = None) -> None:
        """Keep the content of the full blocks of what is computed and known of a request."""
        full = min(live.computed, live.input + live.shown if tokens is None else tokens) // self.size
        live.keyed = max(full, live.keyed)

    def release(self, live: Live) -> None:
        """Take all blocks from a request."""
        self.free += live.held
        self._freed.keep(live.index, live.held, live.keyed)
        live.held = live.keyed = live.computed = 0
