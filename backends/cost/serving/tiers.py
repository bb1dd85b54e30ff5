"""KV memory behind that of the GPUs, such as host memory and disks: blocks that GPUs have lost are loaded from there.

What the engines do:

- vLLM's `OffloadingConnector` (`docs/features/kv_offloading_usage.md` at 0078e9d2,
  `kv_connector/v1/offloading/scheduler.py` at 0072b0b7) copies blocks of prompts to host memory as they fill, at once.
  The tier evicts the least recently used block. A request whose prefix is there gets blocks and waits for its load,
  while others step; so does one whose blocks another request is loading. Further tiers are read through host memory.
- SGLang's HiCache (`docs/advanced_features/hicache_design.md` at 2232873a) copies blocks when they are computed
  (`write_through`, the default of its server), or with `write_back` when the GPU evicts them. A step of prompts loads
  the layer behind the one that it computes: it takes as long as the slower of the two.
- TensorRT-LLM (`docs/source/features/kvcache.md` at 0076e939; `getFreeBlock` in `kvCacheManager.cpp`) moves a block to
  host memory when the GPU evicts it, and back when it is used again, before the step that needs it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, assert_never

from plandsl.backends.cost.serving.blocks import Pool, block_key
from plandsl.backends.cost.serving.scheduler import Live, State
from plandsl.spec.scheduler import SchedulerName, WriteName

Loading: TypeAlias = Literal["beside", "within", "before"]
"""Where loads stand to steps: a request waits beside them, a step lasts as long as its loads, or starts behind them."""

LOADING: dict[SchedulerName, Loading] = {"vllm": "beside", "sglang": "within", "trtllm": "before"}

OWN_WRITE: dict[SchedulerName, WriteName] = {"vllm": "through", "sglang": "through", "trtllm": "back"}
"""What each engine does unless it is told."""


HERE = -1
"""In place of the number of a tier: on the GPU, behind a block that is not. Its copy takes no time."""


class Tier(NamedTuple):
    """``blocks`` of KV memory; the link above it takes ``block_s`` seconds for a block, after ``latency``."""

    blocks: int
    block_s: float
    latency: float = 0.0


class Tiers(NamedTuple):
    """The tiers behind each rank that has requests of its own, the fastest first.

    ``write`` `through`: a block is copied to all tiers when it is full, with ``prompts`` only if it is of a prompt.
    `back`: it moves to the next tier when it is evicted, and to the GPU when it is loaded. ``loading`` is that of the
    policy.
    """

    tiers: tuple[Tier, ...]
    write: WriteName = "through"
    loading: Loading = "beside"
    prompts: bool = False


class Load(NamedTuple):
    """Blocks on their way to the GPU: ``counts`` from each tier, with these ``keys``."""

    live: Live
    counts: list[int]
    keys: frozenset[int]


class Shelf:
    """The blocks of a tier by their keys, the least recently used first."""

    __slots__ = ("keys", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.keys: OrderedDict[int, None] = OrderedDict()

    def put(self, key: int) -> int | None:
        """Keep a block, which is now the most recently used. Returns the block that finds no room."""
        return next(iter(self.put_each([key])), None)

    def put_each(self, keys: Sequence[int]) -> list[int]:
        """Keep blocks, the last of which is now the most recently used. Returns the blocks that find no room."""
        there = self.keys
        for key in keys:
            there[key] = None
            there.move_to_end(key)
        return [there.popitem(last=False)[0] for _ in range(len(there) - self.room)]


class TieredPool(Pool):
    """KV memory of a GPU with tiers behind it.

    ``begun`` loads have their blocks and have not been sent yet. Blocks that are ``fetching`` are found when they are
    there, where loads stand beside steps; else at once.
    """

    __slots__ = ("begun", "fetching", "links", "shelves", "tiers")

    def __init__(self, total: int, size: int, tiers: Tiers) -> None:
        super().__init__(total, size)
        self.tiers = tiers
        self.shelves = [Shelf(tier.blocks) for tier in tiers.tiers]
        self.links = [0.0] * len(self.shelves)
        self.begun: list[Load] = []
        self.fetching: set[int] = set()

    def known(self, live: Live, hits: Sequence[int]) -> int:
        """Tokens of a request that need not be computed: those of its blocks ``hits``, and those behind in tiers."""
        return (len(hits) + len(self._away(live, len(hits)))) * self.size

    def waits(self, live: Live, hits: Sequence[int]) -> bool:
        """Whether another request loads what this one would load."""
        return bool(self.fetching) and any(key in self.fetching for key, _ in self._away(live, len(hits)))

    def _away(self, live: Live, hits: int) -> list[tuple[int, int]]:
        """Blocks behind the first ``hits`` that are in a tier, and in which; `HERE`: a copy is on the GPU itself."""
        found: list[tuple[int, int]] = []
        for end in range((hits + 1) * self.size, live.target, self.size):
            key = block_key(live, end)
            tier = next((number for number, shelf in enumerate(self.shelves) if key in shelf.keys), HERE)
            if tier == HERE and key not in self._found:
                break
            found.append((key, tier))
        return found

    def claim(self, live: Live, hits: Sequence[int]) -> None:
        """Give a request that holds nothing the blocks of its known prefix, some of which are loaded."""
        found = self._away(live, len(hits))
        super().claim(live, hits)
        if not found:
            return
        counts = [0] * len(self.shelves)
        away = [(key, tier) for key, tier in reversed(found) if tier != HERE]
        for key, tier in away:
            counts[tier] += 1
            if self.tiers.write == "back":
                del self.shelves[tier].keys[key]
        if self.tiers.write == "through":
            self._store([key for key, _ in away])
        given = self.grow(live, (len(hits) + len(found)) * self.size)
        assert given, "the policy has seen that they have room"
        live.computed = live.held * self.size
        keys = frozenset(key for key, _ in found)
        self.begun.append(Load(live, counts, keys))
        if self.tiers.loading == "beside":
            self.fetching |= keys
        else:
            self.publish(live)

    def land(self, load: Load) -> None:
        """What a request waited for is there."""
        self.fetching -= load.keys
        self.publish(load.live, load.live.computed)

    def send(self, now: float) -> list[tuple[float, Load]]:
        """Send the loads that have begun. When each ends: a block passes the links of all tiers above its own.

        A link carries one load after the other, in the order in which they are sent.
        """
        sent = []
        for load in self.begun:
            time, blocks = now, 0
            for number in reversed(range(len(self.links))):
                blocks += load.counts[number]
                if blocks:
                    tier = self.tiers.tiers[number]
                    time = max(time, self.links[number]) + tier.latency + blocks * tier.block_s
                    self.links[number] = time
            sent.append((time, load))
        self.begun = []
        return sent

    def publish(self, live: Live, tokens: int | None = None) -> None:
        """Let others find full blocks, and copy them to the tiers."""
        before = live.keyed
        super().publish(live, tokens)
        self._copy(live, before)

    def release(self, live: Live) -> None:
        """Take all blocks from a request, whose first block is then the most recently used."""
        self._copy(live, 0)
        super().release(live)

    def _copy(self, live: Live, first: int) -> None:
        """Copy the blocks from ``first`` on that are known; the deepest is the first that is evicted."""
        if self.tiers.write == "back":
            return
        last = min(live.keyed, live.input // self.size) if self.tiers.prompts else live.keyed
        if first < last:
            self._store([block_key(live, end) for end in range(last * self.size, first * self.size, -self.size)])

    def _store(self, keys: Sequence[int]) -> None:
        for shelf in self.shelves:
            shelf.put_each(keys)

    def _forget(self, key: int, block: int) -> None:
        """A block is used for something else: unless the GPU has another copy, it moves down."""
        super()._forget(key, block)
        if self.tiers.write == "through" or key in self._found:
            return
        for shelf in self.shelves:  # an old copy, if the block was computed again
            shelf.keys.pop(key, None)
        moving: int | None = key
        for shelf in self.shelves:
            moving = shelf.put(moving) if moving is not None else None


class Landings:
    """Loads of one server that are on their way, and when steps of theirs may start or end."""

    def __init__(self, states: Sequence[State]) -> None:
        self.states = states
        self.coming: list[tuple[float, int, Load]] = []
        self.start = self.end = 0.0

    def due(self, now: float) -> bool:
        """Whether a load is over that has not landed."""
        return any(time <= now for time, _, _ in self.coming)

    def land(self, now: float) -> bool:
        """Requests whose loads are over are first in the queue, then those that waited for the same blocks.

        Whether there are such requests.
        """
        here = sorted((one for one in self.coming if one[0] <= now), key=lambda one: one[0])
        for one in here:
            self.coming.remove(one)
            _, rank, load = one
            state = self.states[rank]
            _pool(state).land(load)
            followers = [live for live in state.parked if not live.held]
            for live in (load.live, *followers):
                state.parked.remove(live)
            state.loaded.append(load.live)
            state.waiting.extendleft(reversed(followers))  # behind all that hold blocks, so that these can go on
        return bool(here)

    def send(self, now: float) -> Iterator[tuple[Load, float | None]]:
        """Send the loads of the step that was composed, each with the time when its request may be admitted."""
        for rank, state in enumerate(self.states):
            pool = _pool(state)
            for time, load in pool.send(now):
                match pool.tiers.loading:
                    case "beside":
                        self.coming.append((time, rank, load))
                    case "within":
                        self.end = max(self.end, time)
                    case "before":
                        self.start = max(self.start, time)
                    case _:
                        assert_never(pool.tiers.loading)
                yield load, time if pool.tiers.loading == "beside" else None


def _pool(state: State) -> TieredPool:
    assert isinstance(state.pool, TieredPool), "servers have tiers behind all ranks or none"
    return state.pool
