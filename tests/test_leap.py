"""Servers that leap over steps say what servers say that take each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.clock import Cost
from plandsl.backends.cost.serving.leaping import leap
from plandsl.backends.cost.serving.records import Records, Steps
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Closed, Requests
from plandsl.backends.cost.serving.scheduler import Batch
from plandsl.backends.cost.serving.simulate import simulate, simulate_steps
from plandsl.backends.cost.serving.stream import stream
from plandsl.backends.cost.serving.table import Pieces
from plandsl.backends.cost.serving.unroll import Path, Paths
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.driver import compile_text
from tests.draws import draws


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
        every = [*batch.decodes, *batch.spent]
        n, total = len(every), sum(live.computed for live in every)
        if not batch.prompts:
            return Cost((self.decode_pieces(n).at(total / n),))
        parts = [(piece.tokens, piece.before) for piece in batch.prompts]
        whole = len(parts) == len(batch.admitted) and all(piece.last for piece in batch.prompts)
        return Cost((self.prompt_seconds(parts, whole, len(batch.admitted), n, total),))

    def cost_of_ranks(self, batches: Sequence[Batch]) -> Cost:
        return max((self.cost(batch) for batch in batches if batch.rows), key=lambda cost: cost.stages[0])

    def foresee(self, batches: Sequence[Batch], steps: int) -> np.ndarray:
        found = []
        for n, total in ((len(b.decodes), sum(live.computed for live in b.decodes)) for b in batches if b.decodes):
            found.append(self.decode_pieces(n).at_all((total + n * np.arange(1, steps + 1)) / n))
        return np.max(found, axis=0)[:, None]

    def delay(self, running: int) -> float:
        return self.first + 0.013 * running


class Even(Bent):
    """A clock whose steps take one or two seconds, so that requests come just when steps start and end."""

    def __init__(self, first: float) -> None:
        super().__init__(24.0, 0.0, first)

    def decode_pieces(self, n: int) -> Pieces:
        return Pieces([0.0, self.bend], [1.0, 2.0], [0.0, 0.0])

    def prompt_seconds(self, parts: Sequence[tuple[int, int]], whole: bool, admitted: int, n: int, total: int) -> float:
        return 2.0

    def delay(self, running: int) -> float:
        return self.first


class Rising(Bent):
    """A clock whose decode steps become longer by a quarter of a second with each token of context."""

    def decode_pieces(self, n: int) -> Pieces:
        return Pieces([0.0], [1.0], [0.25])


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
    np.testing.assert_allclose(pooled(fast), pooled(plain), rtol=1e-9, atol=1e-12)


AT_ONCE = np.zeros(13)


@example(  # preempted while nobody could join: then somebody can
    chosen=[Vllm(3, 2, whole_prompt=False, ahead=False)],
    load=Requests(AT_ONCE[:9], np.array([8, 3, 8, 3, 11, 24, 4, 10, 10]), np.array([10, 11, 16, 20, 1, 3, 17, 19, 5])),
    tokens=20, block=1, caching=False, closed=None, bend=4.0, steep=0.0, timed=False,
)  # fmt: skip
@example(  # of one step, requests with one token end before those that decode
    chosen=[Vllm(4, 3, whole_prompt=False, ahead=False)],
    load=Requests(AT_ONCE, np.array([5, 8, 9, 14, 13, 17, 22, 22, 19, 24, 8, 22, 23]),
             np.array([3, 1, 1, 1, 2, 3, 2, 1, 2, 2, 3, 3, 3])),
    tokens=60, block=1, caching=False, closed=5, bend=4.0, steep=0.0, timed=False,
)  # fmt: skip
@example(  # a prompt that comes back lacks one token after a part: it decodes
    chosen=[Vllm(3, 2, whole_prompt=False, ahead=False)],
    load=Requests(AT_ONCE[:2], np.array([2, 1]), np.array([18, 13])),
    tokens=20, block=1, caching=False, closed=None, bend=4.0, steep=0.0, timed=False,
)  # fmt: skip
@example(  # a first token is delayed by those that run after the next step, which preempts
    chosen=[Vllm(7, 2)],
    load=Requests(np.zeros(19), np.array([23, 17, 10, 22, 4, 14, 18, 21, 13, 10, 8, 11, 12, 18, 22, 2, 23, 13, 9]),
             np.array([3, 2, 2, 1, 1, 1, 1, 1, 1, 3, 2, 3, 2, 2, 3, 3, 2, 2, 2])),
    tokens=20, block=1, caching=False, closed=None, bend=4.0, steep=0.0, timed=False,
)  # fmt: skip
@example(  # nobody is in a step, until a request comes: then the one that was sent back begins anew
    chosen=[Vllm(3, 2, whole_prompt=False)],
    load=Requests(np.array([4.205584, 5.701587, 7.673596]), np.array([13, 14, 13]), np.array([1, 3, 3])),
    tokens=18, block=2, caching=False, closed=None, bend=15.5, steep=0.02, timed=False,
)  # fmt: skip
@example(  # one that decodes again is preempted at once, and nobody is in a step until another gives its blocks back
    chosen=[Vllm(9, 3, whole_prompt=False)],
    load=Requests(np.array([1.961194, 2.461607, 4.612029]), np.array([5, 1, 5]), np.array([12, 10, 19])),
    tokens=23, block=2, caching=False, closed=None, bend=15.5, steep=0.02, timed=False,
)  # fmt: skip
@example(  # a request that does not fit gives its place in the loop on when it comes, amid the ends of others
    chosen=[Vllm(21, 3, whole_prompt=False, ahead=False)],
    load=Requests(np.zeros(22),
             np.array([5, 18, 17, 24, 1, 15, 19, 12, 5, 6, 9, 17, 22, 17, 11, 23, 9, 23, 13, 12, 22, 21]),
             np.array([16, 8, 14, 4, 19, 2, 6, 14, 1, 10, 3, 20, 7, 18, 7, 17, 2, 2, 6, 12, 4, 13])),
    tokens=21, block=1, caching=False, closed=5, bend=4.0, steep=0.0, timed=False,
)  # fmt: skip
@example(  # more servers than requests, of which one does not fit
    chosen=[Vllm(9, 3), Vllm(9, 3), Vllm(9, 3), Vllm(9, 3)],
    load=Requests(np.array([1.5, 0.5, 2.5]), np.array([5, 30, 7]), np.array([12, 10, 19])),
    tokens=30, block=4, caching=True, closed=None, bend=4.0, steep=0.02, timed=False,
)  # fmt: skip
@given(
    st.lists(schedulers(), min_size=1, max_size=2), loads(), st.integers(20, 60), st.sampled_from((1, 3, 4, 16)),
    st.booleans(), st.sampled_from((None, None, 1, 5)), st.sampled_from((4.0, 15.5, 40.0)),
    st.sampled_from((0.0, 0.02)), st.booleans(),
)  # fmt: skip
def test_servers_that_leap_equal_servers_that_step(
    chosen: list[Vllm], load: Requests, tokens: int, block: int, caching: bool, closed: int | None, bend: float,
    steep: float, timed: bool,
) -> None:  # fmt: skip
    workers = [Worker(one, Bent(bend, steep), -(-tokens // block), block, caching) for one in chosen]
    thinks = np.where(load.input % 2, 3.7, 0.0)
    loop = Closed(closed, timed) if closed else None
    fast = leap(workers, load, loop, "round_robin", thinks)
    assume(fast is not None)
    assert_same(fast, simulate_steps(workers, load, loop, think_s=thinks))


Row: TypeAlias = tuple[int, int, int, int]
"""When a request comes, its tokens of input and of output, and its session, or -1."""


@example(  # one request ends, and the other one decodes on with nobody waiting
    one=Vllm(3, 2), clock=Even(0.0), rows=[(0, 1, 1, -1), (0, 1, 3, -1)], tokens=30, block=1, caching=False, closed=None
)
@example(  # a request comes just when a step starts that was composed before it
    one=Vllm(3, 2), clock=Even(0.0), rows=[(0, 1, 9, -1), (4, 1, 3, -1)], tokens=30, block=1, caching=False, closed=None
)
@example(  # the blocks that stay free are a share of all, of which the engine itself has one more
    one=Vllm(3, 2, whole_prompt=False, watermark=0.2), clock=Even(0.0), rows=[(0, 3, 21, -1), (0, 1, 14, -1)],
    tokens=30, block=4, caching=False, closed=None,
)  # fmt: skip
@example(  # the first request of a trace comes last, and its prompt is cut while another one decodes
    one=Vllm(3, 2, whole_prompt=False, ahead=False), clock=Even(0.0), rows=[(1, 3, 1, 1), (0, 1, 3, 0)],
    tokens=30, block=1, caching=False, closed=None,
)  # fmt: skip
@example(  # a request that decodes is preempted, and finds its full blocks again
    one=Vllm(4, 2, whole_prompt=False, ahead=False), clock=Even(0.0), rows=[(0, 1, 17, -1), (13, 12, 2, -1)],
    tokens=30, block=4, caching=True, closed=None,
)  # fmt: skip
@draws(3)
@given(
    schedulers(), st.sampled_from((Even(0.0), Even(0.5), Bent(40.0, 0.02), Rising(0.0, 0.0))),
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(1, 24), st.integers(1, 30), st.integers(-1, 2)),
        min_size=1, max_size=12,
    ),
    st.sampled_from((30, 60, 400)), st.sampled_from((1, 4)), st.booleans(), st.sampled_from((None, None, 1, 3)),
)  # fmt: skip
def test_so_they_do_with_room_and_where_requests_come_as_steps_end(
    one: Vllm, clock: Bent, rows: list[Row], tokens: int, block: int, caching: bool, closed: int | None
) -> None:
    """Requests come in any order, many of them alone, and with `Even` at the very time of another event."""
    times, inputs, outputs, session = np.array(rows).T
    load = Requests(times * (1.0 if isinstance(clock, Even) else 0.731058), inputs, outputs, session=session)
    worker, loop = Worker(one, clock, -(-tokens // block), block, caching), Closed(closed) if closed else None
    fast = leap([worker], load, loop, "round_robin")
    assume(fast is not None)
    assert_same(fast, simulate_steps([worker], load, loop))


@pytest.mark.parametrize("ahead", [False, True])
def test_steps_up_to_one_that_a_request_can_join_are_taken_at_once(ahead: bool) -> None:
    """The second request comes amid the first one's 21st decode step; composed ahead, the 22nd is on its way too.

    Behind a prompt of 1.09 s, 20 steps take 20 * 2.25 s + (0 + 1 + ... + 19) * 0.25 s = 92.5 s, the next one 7.25 s.
    """
    load = Requests(np.array([0.0, 94.0]), np.array([4, 3]), np.array([60, 5]))
    found = leap([Worker(Vllm(9, 2, ahead=ahead), Rising(0.0, 0.0), 200, 1, False)], load, None, "round_robin")
    assert found is not None
    assert isinstance(found.trail, Paths)
    assert found.trail.paths[0].counts.tolist() == [1, 21 + ahead, 1, 4, 33 - ahead]


@pytest.mark.parametrize("most", [1, 5])
def test_servers_that_leap_tell_how_many_are_over_as_servers_that_step(most: int) -> None:
    """Once for every 64 requests that are over, which end one after the other; also of those with one token."""
    load = Requests(np.arange(300) * 7.31, np.full(300, 2), np.arange(300) % most + 1)
    one = Worker(Vllm(8, 4), Bent(4.0, 0.02), 100)
    fast, plain = list[tuple[int, int]](), list[tuple[int, int]]()
    leap([one], load, None, "round_robin", tick=lambda over, of: fast.append((over, of)))
    simulate_steps([one], load, tick=lambda over, of: plain.append((over, of)))
    assert fast == plain == [(64, 300), (128, 300), (192, 300), (256, 300)]


def test_servers_that_leap_one_after_the_other_tell_how_many_are_over_of_all() -> None:
    load = Requests(np.arange(300) * 7.31, np.full(300, 2), np.full(300, 3))
    heard: list[tuple[int, int]] = []
    leap(
        [Worker(Vllm(8, 4), Bent(4.0, 0.02), 100)] * 2, load, None, "round_robin", tick=lambda *told: heard.append(told)
    )
    assert heard == [(64, 300), (128, 300), (150 + 64, 300), (150 + 128, 300)]


def test_steps_are_unrolled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be fifty times as many steps as requests."""
    asked: list[int] = []
    unroll = Path.steps

    def counted(path: Path) -> tuple[Steps, np.ndarray]:
        asked.append(path.number)
        return unroll(path)

    monkeypatch.setattr(Path, "steps", counted)
    text = "plan p { model = llama_3_2_1b, node = h100_8, engine = vllm, sharding { dp = 8 }, workload { LOAD } }"
    load = "input = 100, output = 9, rate = 2 req/s, requests = 3"
    compile_text(text.replace("LOAD", load))[0].simulate()
    assert asked == [0, 1, 2]


def test_servers_with_stages_or_guesses_say_that_they_step() -> None:
    load = Requests(np.zeros(3), np.full(3, 4), np.full(3, 9))
    one = Worker(Vllm(8, 4), Bent(4.0, 0.02), 100)
    assert simulate([one], load).leaps
    assert not simulate([one._replace(in_flight=2)], load).leaps
    assert not simulate([one._replace(acceptance=(0.5,))], load).leaps


@given(schedulers(), loads(60), st.integers(20, 60), st.sampled_from((1, 4, 16)), st.booleans(), st.integers(1, 30))
def test_requests_in_parts_are_served_as_all_at_once(
    one: Vllm, load: Requests, tokens: int, block: int, caching: bool, part: int
) -> None:
    workers = [Worker(one, Bent(15.5, 0.02), -(-tokens // block), block, caching)] * 2
    load = load._replace(session=None)
    whole = leap(workers, load, None, "round_robin")
    assume(whole is not None)
    parts: list[dict[str, np.ndarray]] = []
    refused = stream(workers, load, parts.append, part)
    rows = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    order = np.argsort(rows["request"])
    assert rows["request"][order].tolist() == np.flatnonzero(whole.replica >= 0).tolist()
    assert refused == (whole.replica < 0).sum()
    for name, values in rows.items():
        if name != "request":
            np.testing.assert_array_equal(values[order], getattr(whole, name)[whole.replica >= 0], err_msg=name)
