"""Servers that leap over steps say what servers say that take each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.clock import Cost
from plandsl.backends.cost.serving.leaping import leap
from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.scheduler import Batch
from plandsl.backends.cost.serving.simulate import simulate_steps
from plandsl.backends.cost.serving.table import Pieces
from plandsl.backends.cost.serving.vllm import Vllm


class Bent:
    """A clock whose decode steps bend at two contexts; every number of a step counts in its own way."""

    def __init__(self, bend: float, steep: float, first: float = 0.3) -> None:
        self.bend, self.steep, self.first = bend, steep, first

    def decode_pieces(self, n: int) -> Pieces:
        cuts, slopes = [0.0, self.bend, self.bend + 6.5], [0.01 * n, self.steep * n, 0.0]
        base = [1.0 + 0.1 * n]
        for cut, before, after in zip(cuts[1:], slopes, slopes[1:], strict=False):
            base.append(base[-1] + (before - after) * cut)
        return Pieces(cuts, base, slopes)

    def prompt_seconds(self, parts: Sequence[tuple[int, int]], whole: bool, admitted: int, n: int, total: int) -> float:
        own = sum(0.07 * tokens + 0.003 * tokens * before for tokens, before in parts)
        return 0.5 + own + 0.2 * whole + 0.11 * admitted + 0.05 * n + 0.001 * total

    def cost(self, batch: Batch) -> Cost:
        n, total = len(batch.decodes), sum(live.computed for live in batch.decodes)
        if not batch.prompts:
            return Cost((self.decode_pieces(n).at(total / n),))
        parts = [(piece.tokens, piece.before) for piece in batch.prompts]
        whole = len(parts) == len(batch.admitted) and all(piece.last for piece in batch.prompts)
        return Cost((self.prompt_seconds(parts, whole, len(batch.admitted), n, total),))

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        raise AssertionError("no ranks share requests here")

    def delay(self, running: int) -> float:
        return self.first + 0.013 * running


@st.composite
def schedulers(draw: st.DrawFn) -> Vllm:
    most = draw(st.integers(1, 8))
    return Vllm(
        most + draw(st.integers(1, 30)),
        most,
        whole_prompt=draw(st.booleans()),
        watermark=draw(st.sampled_from((0.0, 0.2))),
        ahead=draw(st.booleans()),
    )


@st.composite
def loads(draw: st.DrawFn, most: int = 30) -> Requests:
    """Arrivals as a server has them: no two steps of another length end at the same time."""
    n, rng = draw(st.integers(1, most)), np.random.default_rng(draw(st.integers(0, 2**32)))
    gap = draw(st.sampled_from((0.0, 1.0, 10.0, 60.0)))
    longest = draw(st.sampled_from((3, 20, 60)))
    fixed = draw(st.booleans())
    outputs = np.full(n, longest) if fixed else rng.integers(1, longest + 1, n)
    session = rng.integers(-1, 4, n) if draw(st.booleans()) else None
    return Requests(np.cumsum(rng.exponential(1.0, n)) * gap, rng.integers(1, 25, n), outputs, session=session)


def pooled(records: Records) -> np.ndarray:
    return np.sort(np.repeat(*records.gaps))


def assert_same(fast: Records, plain: Records) -> None:
    for name in ("arrival_s", "admitted_s", "first_s", "finish_s", "itl_max_s"):
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-9, err_msg=name)
    for name in ("cached", "preemptions", "replica"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name), err_msg=name)
    one, other = (np.argsort(records.steps.replica, kind="stable") for records in (fast, plain))
    for name, a, b in zip(plain.steps._fields, fast.steps, plain.steps, strict=True):
        np.testing.assert_allclose(a[one], b[other], rtol=1e-9 if name.endswith("_s") else 0, err_msg=name)
    np.testing.assert_allclose(pooled(fast), pooled(plain), rtol=1e-9)


@given(
    st.lists(schedulers(), min_size=1, max_size=2), loads(), st.integers(20, 60), st.sampled_from((1, 3, 4, 16)),
    st.booleans(), st.sampled_from((None, None, 1, 5)), st.sampled_from((4.0, 15.5, 40.0)),
    st.sampled_from((0.0, 0.02)),
)  # fmt: skip
def test_servers_that_leap_equal_servers_that_step(
    chosen: list[Vllm], load: Requests, tokens: int, block: int, caching: bool, closed: int | None, bend: float,
    steep: float,
) -> None:  # fmt: skip
    workers = [Worker(one, Bent(bend, steep), -(-tokens // block), block, caching) for one in chosen]
    thinks = np.where(load.input % 2, 3.7, 0.0)
    fast = leap(workers, load, closed and Closed(closed), "round_robin", thinks)
    assume(fast is not None)
    assert_same(fast, simulate_steps(workers, load, closed and Closed(closed), think_s=thinks))
