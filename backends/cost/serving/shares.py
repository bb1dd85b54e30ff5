"""Servers that take turns: each serves its share of the requests, whatever the others do, here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plandsl.backends.cost.serving.leaping import can_leap, deal, leap, waits
from plandsl.backends.cost.serving.records import Dropped, Kept, Records, Stages, Trail, merge_kept
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Ints, Requests, take
from plandsl.backends.cost.serving.simulate import simulate_steps
from plandsl.backends.cost.serving.stream import collect
from plandsl.backends.cost.serving.unroll import Paths
from plandsl.spec.scheduler import RouterName

BY_REQUEST = (
    "arrival_s", "admitted_s", "first_s", "finish_s", "input", "output", "cached", "preemptions", "replica",
    "itl_max_s",
)  # fmt: skip
"""Fields of `Records` with a number for each request."""


def are_apart(many: int, requests: Requests, closed: Closed | None, by: RouterName) -> bool:
    """Whether ``many`` servers know nothing of one another: they take turns, and no request waits for another."""
    return many > 1 and by == "round_robin" and not waits(requests, closed)


def serve_share(
    worker: Worker, requests: Requests, number: int, many: int, seed: int = 0, *, keep_steps: bool = True
) -> Records:
    """What becomes of the requests of server ``number`` of ``many`` equal ones that are apart.

    Without ``keep_steps``, servers must be such as can `stream`.
    """
    share = take(requests, deal(requests, many)[number])
    if not keep_steps:
        return collect([worker], share, number=number)
    if can_leap([worker] * many, requests, None, "round_robin"):
        found = leap([worker], share, None, "round_robin", number=number)
        assert found is not None, "a server leaps that leaps beside others"
        return found
    return simulate_steps([worker], share, seed=seed, number=number, stretches=True)


def merge_shares(requests: Requests, shares: Sequence[Records]) -> Records:
    """What `simulate` says of all servers, from what `serve_share` says of each, in their order."""
    back = np.argsort(np.concatenate(deal(requests, len(shares))))
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(share, name) for share in shares])[back] for name in BY_REQUEST
    }
    if requests.adapter is not None:
        columns["slot_wait_s"] = _join(shares, "slot_wait_s", back)
    trails = [share.trail for share in shares]
    if all(isinstance(trail, Dropped) for trail in trails):
        trail: Trail = Dropped()
    elif all(isinstance(trail, Paths) for trail in trails):
        trail = Paths(tuple(path for one in trails if isinstance(one, Paths) for path in one.paths))
    else:
        trail = merge_kept([one for one in trails if isinstance(one, Kept)])
    return Records(
        **columns,
        kind=requests.kind,
        trail=trail,
        loaded=_join(shares, "loaded", back),
        fetched=_join(shares, "fetched", back),
        adapter=requests.adapter,
        stages=_join_stages(shares),
    )


def _join_stages(shares: Sequence[Records]) -> Stages | None:
    """The stages of all servers; each counts its own steps."""
    own = [share.stages for share in shares if share.stages is not None]
    return Stages(*map(np.concatenate, zip(*own, strict=True))) if own else None


def _join(shares: Sequence[Records], name: str, back: Ints) -> Any:
    """A field that records may lack, put together."""
    own = [getattr(share, name) for share in shares]
    return None if own[0] is None else np.concatenate(own, axis=-1)[..., back]
