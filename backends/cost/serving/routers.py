"""Which of several servers gets a request, decided when it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

import numpy as np

from plandsl.backends.cost.serving.scheduler import Live, State
from plandsl.spec.scheduler import RouterName


class Router(Protocol):
    """Chooses servers, one request after another."""

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """The number of the server that gets a request."""
        ...


class RoundRobin:
    """Each server in turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """The next one."""
        found = self._next % len(states)
        self._next = found + 1
        return found


class LeastLoaded:
    """The server with the fewest requests that wait or run; of equals the next one in turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """The least loaded one."""
        n = len(states)
        found = min(range(n), key=lambda i: (states[i].load, (i - self._next) % n))
        self._next = (found + 1) % n
        return found


class TwoChoices:
    """The less loaded of two servers that are drawn.

    Source: Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12(10), 2001.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """One of two."""
        if len(states) == 1:
            return 0
        a, b = self._rng.choice(len(states), 2, replace=False).tolist()
        return int(a if states[a].load <= states[b].load else b)


class LongestPrefix:
    """The server that knows the longest prefix, where that is ``share`` of the prompt; else the least loaded.

    A server with ``most`` requests more than the least loaded is not asked, so that one prefix does not fill it.
    """

    def __init__(self, share: float = 0.5, most: int = 32) -> None:
        self.share, self.most = share, most
        self._others = LeastLoaded()

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """Who knows the most of it."""
        least = min(state.load for state in states)
        near = [i for i, state in enumerate(states) if state.load <= least + self.most]
        known = {i: len(states[i].pool.matched(live)) * states[i].pool.size for i in near}
        found = max(near, key=lambda i: (known[i], -states[i].load))
        return found if known[found] >= self.share * live.input else self._others.choose(live, states)


class AdapterAffinity:
    """A server whose GPUs have the adapter of the request, the least loaded of these; else the least loaded of all.

    A server with ``most`` requests more than the least loaded is not asked, so that one adapter does not fill it.
    Source: the `lora-affinity-scorer` of Kubernetes' Gateway API Inference Extension, which scores such a server best.
    """

    def __init__(self, most: int = 32) -> None:
        self.most = most
        self._others = LeastLoaded()

    def choose(self, live: Live, states: Sequence[State]) -> int:
        """Who has its adapter."""
        least = min(state.load for state in states)
        having = [i for i, s in enumerate(states) if s.has_adapter(live) and s.load <= least + self.most]
        return min(having, key=lambda i: states[i].load) if having else self._others.choose(live, states)


def router(name: RouterName, seed: int = 0) -> Router:
    """A router at its start."""
    match name:
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded()
        case "two_choices":
            return TwoChoices(seed)
        case "prefix":
            return LongestPrefix()
        case "adapter":
            return AdapterAffinity()
        case _:
            assert_never(name)
