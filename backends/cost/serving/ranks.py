"""Ranks that share the requests of a server: each has a queue and blocks of its own, and all wait for one another.

As engines run attention on data-parallel ranks: vLLM's cores step together, and one without work runs a dummy step;
SGLang's ranks gather what each has, and one without work runs an idle batch. A step takes as long as the slowest rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.cost.serving.blocks import Pool
from plandsl.backends.cost.serving.clock import Cost
from plandsl.backends.cost.serving.log import Log
from plandsl.backends.cost.serving.replica import Replica, Worker, draw_gains
from plandsl.backends.cost.serving.routers import router
from plandsl.backends.cost.serving.scheduler import Batch, Live, State
from plandsl.backends.cost.serving.tiers import Landings


def replica(number: int, worker: Worker, log: Log, seed: int, stretches: bool) -> Replica:
    """A server that runs."""
    kind = Ranks if worker.ranks > 1 else Replica
    return kind(number, worker, log, seed, stretches)


class Ranks(Replica):
    """A server of several ranks. A request stays on its rank."""

    def __init__(self, number: int, worker: Worker, log: Log, seed: int, stretches: bool) -> None:
        super().__init__(number, worker, log, seed, stretches)
        gains = draw_gains(worker.acceptance, seed, number)
        self.ranks = [
            State(worker.pool(worker.blocks // worker.ranks), 1 + len(worker.acceptance), gains)
            for _ in range(worker.ranks)
        ]
        self.loads = Landings(self.ranks) if worker.tiered else None
        self._place_adapters(worker)
        self.state = _Together(self.ranks)
        self._spread = router(worker.spread, seed)
        self._homes: dict[int, int] = {}
        self._batches: list[Batch] = []

    def rank_of(self, live: Live) -> State:
        """The rank that has a request."""
        return self.ranks[self._homes[live.index]]

    def choose_rank(self, live: Live) -> int:
        """The rank that gets a request."""
        found = self._homes[live.index] = self._spread.choose(live, self.ranks)
        return found

    def arrive(self, live: Live) -> bool:
        """Put a request into the queue of a rank; False if it can never run."""
        if self.policy.refuses(live, self.ranks[0]):
            return False
        self.ranks[self.choose_rank(live)].waiting.append(live)
        self.log.replica[live.index] = self.number
        return True

    def _next(self, upto: int) -> Batch:
        """The steps of all ranks as one."""
        for rank in self.ranks:
            rank.number, rank.upto = self.state.number, upto
        self._batches = [self.policy.compose(rank) for rank in self.ranks]
        parts = zip(*self._batches, strict=True)
        return Batch(*([one for part in column for one in part] for column in parts))

    def _parts(self, batch: Batch) -> Sequence[Batch]:
        return self._batches

    def _cost(self, batch: Batch) -> Cost:
        return self.clock.cost_of_ranks(self._batches)


class _Together(State):
    """What a router sees of all ranks."""

    __slots__ = ("_ranks",)

    def __init__(self, ranks: Sequence[State]) -> None:
        super().__init__(_Known(ranks), ranks[0].queries)
        self._ranks = ranks

    def has_adapter(self, live: Live) -> bool:
        """Whether the adapter of a request is on the GPUs of some rank."""
        return any(rank.has_adapter(live) for rank in self._ranks)

    @property
    def load(self) -> int:
        """Requests of all ranks."""
        return sum(rank.load for rank in self._ranks)


class _Known(Pool):
    """What all ranks know of prompts."""

    __slots__ = ("_ranks",)

    def __init__(self, ranks: Sequence[State]) -> None:
        super().__init__(0, ranks[0].pool.size)
        self._ranks = ranks

    def matched(self, live: Live, whole: bool = False) -> Sequence[int]:
        """The longest known prefix."""
        return max((rank.pool.matched(live, whole) for rank in self._ranks), key=len)
