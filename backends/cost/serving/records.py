"""What became of each request, and what the servers held meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.serving.requests import Floats, Ints


class Gaps(NamedTuple):
    """Times between the tokens that users see, pooled, in the order of steps: ``number`` of them last ``seconds``.

    Tokens that a step brings together are one chunk: the time between them is not counted, as in vLLM's benchmark.
    """

    seconds: Floats
    number: Ints


class Steps(NamedTuple):
    """All steps, in the order in which they were composed; an array each, a number for each step.

    ``waiting``, ``running`` and ``blocks`` (of KV memory in use) are those of the server behind the step's composition.
    """

    replica: Ints
    start_s: Floats
    end_s: Floats
    prompt_tokens: Ints
    decodes: Ints
    waiting: Ints
    running: Ints
    blocks: Ints


class Trail(Protocol):
    """What servers did, step by step; what is asked for may be made anew each time, since there are many steps."""

    @property
    def gaps(self) -> Gaps:
        """Times between tokens."""
        ...

    @property
    def steps(self) -> Steps:
        """All steps."""
        ...

    @property
    def leaps(self) -> bool:
        """Whether servers took steps at once where their requests stayed the same; else each step by itself."""
        ...


_NONE = np.empty(0, np.int64)
_NEVER = np.empty(0, np.float64)


class Kept(NamedTuple):
    """A `Trail` as it was written down; ``composed_s``: when steps were composed, ``shown_s``: when gaps ended."""

    gaps: Gaps
    steps: Steps
    leaps: bool = False
    composed_s: Floats = _NEVER
    shown_s: Floats = _NEVER


def merge_kept(trails: Sequence[Kept]) -> Kept:
    """What servers did that were written down apart, as if it had been written down together."""
    shown, composed = (np.concatenate([getattr(t, name) for t in trails]) for name in ("shown_s", "composed_s"))
    gaps = [np.concatenate(column) for column in zip(*(t.gaps for t in trails), strict=True)]
    steps = [np.concatenate(column) for column in zip(*(t.steps for t in trails), strict=True)]
    by_end, by_moment = np.argsort(shown, kind="stable"), np.lexsort((steps[0], composed))
    return Kept(
        Gaps(*(column[by_end] for column in gaps)),
        Steps(*(column[by_moment] for column in steps)),
        all(trail.leaps for trail in trails),
        composed_s=composed[by_moment],
        shown_s=shown[by_end],
    )


class Dropped(NamedTuple):
    """A `Trail` of servers that leap, where steps and gaps are not kept."""

    leaps: bool = True

    @property
    def gaps(self) -> Gaps:
        """None."""
        return Gaps(_NEVER, _NONE)

    @property
    def steps(self) -> Steps:
        """None."""
        return Steps(
            replica=_NONE, start_s=_NEVER, end_s=_NEVER, prompt_tokens=_NONE, decodes=_NONE, waiting=_NONE,
            running=_NONE, blocks=_NONE,
        )  # fmt: skip


class Stages(NamedTuple):
    """Steps on the stages of servers that have several, an array each: ``step`` counts the steps of a server from 0.

    A step with micro-batches has a row for each on each stage.
    """

    replica: Ints
    step: Ints
    stage: Ints
    start_s: Floats
    end_s: Floats


class Records(NamedTuple):
    """One number for each request and field, in the order of `Requests`; times in seconds, NaN where there is none.

    ``arrival_s`` is when the request was sent, ``admitted_s`` when it first left the queue, ``first_s`` when its user
    has the first token, ``finish_s`` the last. ``cached`` tokens of the prompt were known when it was admitted first;
    ``itl_max_s`` is the longest time between two of its tokens. A request that no server can hold has ``replica`` -1,
    and is not served.

    With two pools ``replica`` decodes, and ``prefill_replica`` made the first token; servers of decode are numbered
    behind those of prefill. ``transfer_s``: from the first token until the cache is where it is needed, NaN where it
    is not. A request of one token stays in the pool of prefill.

    ``loaded`` int64[tier, n]: tokens that were loaded from each tier of memory, whenever the request was admitted.

    ``adapter`` int64[n] is the adapter that a request names, 0 for none. ``fetched`` int64[2, n]: how often a step
    loaded it for this request, from host memory and from disk. ``slot_wait_s``: seconds from when the request was
    passed over, since its adapter had no slot, until it was admitted.

    ``stages``: when steps were on which stage, where servers have several and take their steps one by one.
    """

    arrival_s: Floats
    admitted_s: Floats
    first_s: Floats
    finish_s: Floats
    input: Ints
    output: Ints
    cached: Ints
    preemptions: Ints
    replica: Ints
    itl_max_s: Floats
    kind: Ints | None
    trail: Trail
    prefill_replica: Ints | None = None
    transfer_s: Floats | None = None
    loaded: Ints | None = None
    adapter: Ints | None = None
    fetched: Ints | None = None
    slot_wait_s: Floats | None = None
    stages: Stages | None = None

    @property
    def gaps(self) -> Gaps:
        """Times between the tokens that users see, pooled."""
        return self.trail.gaps

    @property
    def steps(self) -> Steps:
        """All steps of all servers."""
        return self.trail.steps

    @property
    def leaps(self) -> bool:
        """Whether servers took steps at once where their requests stayed the same; else each step by itself."""
        return self.trail.leaps

    @property
    def keeps_steps(self) -> bool:
        """Whether steps and gaps were kept."""
        return not isinstance(self.trail, Dropped)

    @property
    def served(self) -> NDArray[np.bool_]:
        """Whether a request has all its tokens."""
        return np.isfinite(self.finish_s)

    @property
    def order(self) -> Ints | slice:
        """The requests that were served, in the order of their arrival."""
        served, arrival = self.served, self.arrival_s
        if served.all() and (arrival[1:] >= arrival[:-1]).all():
            return slice(None)
        chosen = np.flatnonzero(served)
        return chosen[np.argsort(arrival[chosen], kind="stable")]

    @property
    def ttft_s(self) -> Floats:
        """Time to the first token."""
        return self.first_s - self.arrival_s

    @property
    def latency_s(self) -> Floats:
        """From the request to its last token."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time of each token behind the first, ``(latency - TTFT) / (output - 1)``; NaN of a lone token."""
        found = self.finish_s - self.first_s
        several = self.output > 1
        np.divide(found, self.output - 1, out=found, where=several)
        found[~several] = np.nan
        return found

    def columns(self) -> dict[str, NDArray[Any]]:
        """A column for each fact of a request, in the order of requests; NaN where there is none."""
        names: tuple[str, ...] = (
            "input", "output", "arrival_s", "admitted_s", "first_s", "finish_s", "ttft_s", "tpot_s", "latency_s",
            "itl_max_s", "cached", "preemptions", "replica",
        )  # fmt: skip
        if self.prefill_replica is not None:
            names = (*names, "prefill_replica", "transfer_s")
        if self.adapter is not None:
            names = (*names, "adapter", "slot_wait_s")
        found = {name: getattr(self, name) for name in names}
        if self.fetched is not None:
            found |= {f"fetched_{source}": own for source, own in zip(("host", "disk"), self.fetched, strict=True)}
        return found if self.loaded is None else found | {f"loaded_{i}": own for i, own in enumerate(self.loaded, 1)}

    def part(self, of: slice) -> Records:
        """Some of the requests."""
        fields: dict[str, Any] = {
            name: column[..., of] for name, column in self._asdict().items() if isinstance(column, np.ndarray)
        }
        return self._replace(**fields)
