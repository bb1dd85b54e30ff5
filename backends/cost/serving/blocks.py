"""KV memory in blocks, with a prefix cache: blocks of requests that left are found again until they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plandsl.backends.cost.serving.scheduler import Live

WIDE = 40
"""Bits of a key that hold a place in a prompt; the others hold what is there."""


def block_key(live: Live, end: int) -> int:
    """What the prefix of ``end`` tokens of a request is known by: an id of its prompt, or the request itself.

    An id stands for all tokens before it too, so that id and place name the prefix.
    """
    if live.ids and end <= live.input:
        at = (end - 1) // live.grain
        if at < len(live.ids):
            return live.ids[at] << WIDE | end
    return -(live.index << WIDE | end) - 1


class Pool:
    """``total`` blocks of ``size`` tokens. Full blocks keep their key when they are free, and are found by it.

    A free block is taken in this order: blocks without a key, then the one that has been free the longest. A request's
    blocks become free from the last to the first, so that the deepest block of the oldest request goes first. Of blocks
    with the same key all are kept, or if ``merging`` the first.
    Source: vLLM, "Automatic prefix caching" (docs.vllm.ai/en/latest/design/prefix_caching).
    """

    __slots__ = ("_found", "_idle", "_key", "_twins", "_uses", "caching", "free", "merging", "size", "total")

    def __init__(self, total: int, size: int, caching: bool = True) -> None:
        self.total, self.size, self.caching = total, size, caching
        self.free = total
        self.merging = False
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._uses: list[int] = []
        self._key: list[int | None] = []
        self._found: dict[int, int] = {}
        self._twins: dict[int, list[int]] = {}

    def count(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.size)

    def matched(self, live: Live, whole: bool = False) -> Sequence[int]:
        """The blocks that hold the longest known prefix of a request, whose last token is computed unless ``whole``."""
        found: list[int] = []
        if not self.caching or not self._found:
            return found
        for end in range(self.size, live.target + whole, self.size):
            block = self._found.get(block_key(live, end))
            if block is None:
                break
            found.append(block)
        return found

    def known(self, live: Live, hits: Sequence[int]) -> int:
        """Tokens of a request that need not be computed, its blocks ``hits`` being known."""
        return len(hits) * self.size

    def waits(self, live: Live, hits: Sequence[int]) -> bool:
        """Whether what is known of a request behind ``hits`` is on its way."""
        return False

    def missing(self, hits: Sequence[int], tokens: int) -> int:
        """Free blocks that a request of ``tokens`` tokens needs, ``hits`` of it being known.

        Those of them that nobody uses are free until it does.
        """
        return self.count(tokens) - sum(1 for block in hits if self._uses[block])

    def claim(self, live: Live, hits: Sequence[int]) -> None:
        """Give a request that holds nothing the blocks of its known prefix."""
        for block in hits:
            if not self._uses[block]:
                del self._idle[block]
                self.free -= 1
            self._uses[block] += 1
        live.blocks = list(hits)
        live.held = live.keyed = len(hits)
        live.computed = len(hits) * self.size

    def grow(self, live: Live, tokens: int) -> bool:
        """Give a request the blocks of ``tokens`` tokens; False, and nothing changes, where too few are free."""
        more = -(-tokens // self.size) - live.held
        if more <= 0:
            return True
        if more > self.free:
            return False
        self.free -= more
        live.held += more
        self._give(live, more)
        return True

    def _give(self, live: Live, blocks: int) -> None:
        """Let a request have so many free blocks."""
        if self.caching:  # else blocks are all alike, and counted
            self._take(live.blocks, blocks)

    def grow_each(self, lives: Sequence[Live], more: int) -> Sequence[Live]:
        """Give requests the blocks of ``more`` tokens, one after the other. Those that have them."""
        size = self.size
        return [x for x in lives if x.held * size >= x.computed + more or self.grow(x, x.computed + more)]

    def _take(self, blocks: list[int], more: int) -> None:
        """Add free blocks to those of a request."""
        uses, keys = self._uses, self._key
        there = len(uses)
        fresh = min(more, self.total - there)
        blocks.extend(range(there, there + fresh))
        uses.extend([1] * fresh)
        keys.extend([None] * fresh)
        for _ in range(more - fresh):
            block, _ = self._idle.popitem(last=False)
            key = keys[block]
            if key is not None:
                self._forget(key, block)
                keys[block] = None
            uses[block] = 1
            blocks.append(block)

    def clear(self, blocks: int) -> None:
        """Forget what free blocks hold, the first to go first, until so many hold nothing."""
        for block in islice(self._idle, max(blocks - self.total + len(self._uses), 0)):
            key = self._key[block]
            if key is not None:
                self._forget(key, block)
                self._key[block] = None

    def _forget(self, key: int, block: int) -> None:
        """A block is used for something else; of its equals the next one is found."""
        others = self._twins.get(key)
        if others is None:
            del self._found[key]
            return
        if self._found[key] == block:
            self._found[key] = others.pop(0)
        else:
            others.remove(block)
        if not others:
            del self._twins[key]

    def publish(self, live: Live, tokens: int | None = None) -> None:
        """Let others find the full blocks of what is computed and known of a request, or of ``tokens`` of that."""
        full = min(live.computed, live.input + live.shown if tokens is None else tokens) // self.size
        if not self.caching or full <= live.keyed:
            return
        found, keys, size = self._found, self._key, self.size
        for at in range(live.keyed, full):
            key = block_key(live, (at + 1) * size)
            block = live.blocks[at]
            first = found.setdefault(key, block)
            if first != block and self.merging:
                self._merge(live, at, first)
                continue
            keys[block] = key
            if first != block:
                self._twins.setdefault(key, []).append(block)
        live.keyed = full

    def _merge(self, live: Live, at: int, first: int) -> None:
        """A request gives its own copy of a block back, and uses the first one."""
        uses, own = self._uses, live.blocks[at]
        if uses[first]:
            self.free += 1
        else:
            del self._idle[first]
        uses[first] += 1
        uses[own] = 0
        self._idle[own] = None
        self._idle.move_to_end(own, last=False)
        live.blocks[at] = first

    def release(self, live: Live) -> None:
        """Take all blocks from a request."""
        if not self.caching:
            self.free += live.held
        uses, idle = self._uses, self._idle
        for block in reversed(live.blocks):
            left = uses[block] = uses[block] - 1
            if not left:
                idle[block] = None
                if self._key[block] is None:
                    idle.move_to_end(block, last=False)
                self.free += 1
        live.blocks = []
        live.held = live.keyed = live.computed = 0


class Freed:
    """Free blocks by number: first those without content are taken, then the one that has been free the longest.

    Those of a request that was preempted keep their content until they are taken: it finds what is left of them.
    Blocks with content have positions, in the order in which they became free.
    """

    def __init__(self, total: int) -> None:
        self.plain = total
        self._freed = self._front = 0
        self._holes: list[tuple[int, int]] = []
        self._kept: dict[int, tuple[int, int]] = {}

    def take(self, blocks: int) -> None:
        """So many blocks are used."""
        self.plain -= blocks
        if self.plain < 0:
            self._front -= self.plain
            self.plain = 0
            while self._holes and self._holes[0][0] < self._front:
                self._front += heappop(self._holes)[1]

    def put(self, held: int, full: int) -> None:
        """So many blocks are free, ``full`` of them with content."""
        self.plain += held - full
        self._freed += full

    def keep(self, place: int, held: int, full: int) -> None:
        """The same for a request that may come back."""
        self.put(held, full)
        self._kept[place] = self._freed, full

    def found(self, place: int) -> int:
        """Blocks that a request finds again."""
        end, full = self._kept.get(place, (0, 0))
        return max(min(full, end - self._front), 0)

    def claim(self, place: int, blocks: int) -> None:
        """A request uses the first ``blocks`` of its own again, which are the last ones by position."""
        end, _ = self._kept.pop(place, (0, 0))
        if blocks:
            heappush(self._holes, (end - blocks, blocks))

    def rename(self, names: Mapping[int, int]) -> None:
        """Requests have other places; those without one are gone."""
        self._kept = {names[place]: kept for place, kept in self._kept.items() if place in names}
