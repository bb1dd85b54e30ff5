"""Servers that take turns: each serves its share of the requests, whatever the others do, here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plandsl.backends.cost.serving.leaping import can_leap, deal, leap, waits
from plandsl.backends.cost.serving.records import Kept, Records, merge_kept
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests, take
from plandsl.backends.cost.serving.simulate import simulate_steps
from plandsl.backends.cost.serving.unroll import Paths
from plandsl.spec.scheduler import RouterName

BY_REQUEST = (
    "arrival_s", "admitted_s", "first_s", "finish_s", "input", "output", "cached", "preemptions", "replica", "itl_max_s",
)  # fmt: skip
"""Fields of `Records` with a number for each request."""


def are_apart(many: int, requests: Requests, closed: Closed | None, by: RouterName) -> bool:
    """Whether ``many`` servers know nothing of one another: they take turns, and no request waits for another."""
    return many > 1 and by == "round_robin" and not waits(requests, closed)


def serve_share(worker: Worker, requests: Requests, number: int, many: int, seed: int = 0) -> Records:
    """What becomes of the requests of server ``number`` of ``many`` equal ones that are apart."""
    share = take(requests, deal(requests, many)[number])
    if can_leap([worker] * many, requests, None, "round_robin"):
        found = leap([worker], share, None, "round_robin", number=number)
        assert found is not None, "a server leaps that leaps beside others"
        return found
    return simulate_steps([worker], share, seed=seed, number=number)


def merge_shares(requests: Requests, shares: Sequence[Records]) -> Records:
    """What `simulate` says of all servers, from what `serve_share` says of each, in their order."""
    back = np.argsort(np.concatenate(deal(requests, len(shares))))
    columns = {name: np.concatenate([getattr(share, name) for share in shares])[back] for name in BY_REQUEST}
    loaded = [share.loaded for share in shares if share.loaded is not None]
    trails = [share.trail for share in shares]
    paths = [path for trail in trails if isinstance(trail, Paths) for path in trail.paths]
    return Records(
        **columns,
        kind=requests.kind,
        trail=Paths(tuple(paths)) if paths else merge_kept([trail for trail in trails if isinstance(trail, Kept)]),
        loaded=np.concatenate(loaded, axis=1)[:, back] if loaded else None,
    )
