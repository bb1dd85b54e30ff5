"""Tables of step times beside the cost model that they are made of."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.compare.predict import with_engine
from plandsl.backends.compare.suspects import KINDS as KINDS_OF_SUSPECTS
from plandsl.backends.compare.suspects import moved
from plandsl.backends.cost import Replicas
from plandsl.backends.cost.serving.clock import ServerClock, TableClock, step_clock, table_clock
from plandsl.backends.cost.serving.scheduler import Batch, Live, Piece
from plandsl.backends.cost.serving.table import EXACT, Contexts, split_sum, write_sum
from plandsl.backends.cost.time.tape import Tape
from plandsl.driver import compile_text

KINDS = {
    "llama": "model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }",
    "chunked": "model = llama_3_1_8b, node = h100_1, sharding { tp = 1 }, chunked_prefill = 2048",
    "window": "model = gpt_oss_20b, node = h100_1, sharding { tp = 1 }",
    "latent": "model = deepseek_v3, node = h200_8, sharding { tp = 8 }",
    "shift": "model = llama_3_1_8b, node = h100_8, shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 256 }",
}


@cache
def clocks(kind: str) -> tuple[ServerClock, ServerClock]:
    text = f"plan p {{ {KINDS[kind]}, engine = vllm, workload {{ input = 1000, output = 41, batch = 1 }} }}"
    found = compile_text(text)[0].cost
    assert isinstance(found, Replicas)
    return ServerClock(found.one), step_clock(found.one)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A step as schedulers compose it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from((0, 1, 2, 7, 100)))
    pieces = draw(st.integers(0 if n else 1, 3))
    decodes, prompts = [], []
    for i in range(n):
        decodes.append(Live(i, 1, 1))
        decodes[-1].computed = int(rng.integers(2, draw(st.sampled_from((50, 3000, 30_000)))))
    for i in range(pieces):
        before, last = int(rng.integers(0, 3000)) * draw(st.integers(0, 1)), draw(st.booleans())
        prompts.append(Piece(Live(n + i, 1, 1), int(rng.integers(1, 3000)), before, last))
    joined = [piece.live for piece in prompts if not piece.before]
    return Batch(prompts, decodes, [1] * n, [], admitted=joined, preempted=[])


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_near_the_cost_model(kind: str) -> None:
    exact, table = clocks(kind)
    assert isinstance(table, TableClock)

    @given(batches())
    def law(batch: Batch) -> None:
        a, b = exact.cost(batch), table.cost(batch)
        assert len(a.stages) == len(b.stages) == 1
        assert b.stages[0] == pytest.approx(a.stages[0], rel=5e-3)
        assert a.host == b.host

    law()


@pytest.mark.parametrize("kind", ["llama", "window", "shift"])
def test_many_steps_and_one_step_are_of_one_table(kind: str) -> None:
    _, table = clocks(kind)
    assert isinstance(table, TableClock)

    @given(batches())
    def law(batch: Batch) -> None:
        n, total = len(batch.decodes), sum(live.computed for live in batch.decodes)
        cost = table.cost(batch)
        if not batch.prompts:
            assert table.decode_pieces(n).at(total / n) == pytest.approx(cost.stages[0] + cost.host, rel=1e-12)
            return
        parts = [(piece.tokens, piece.before) for piece in batch.prompts]
        whole = len(parts) == len(batch.admitted) and all(piece.last for piece in batch.prompts)
        found = table.prompt_seconds(parts, whole, len(batch.admitted), n=n, total=total)
        assert found == pytest.approx(cost.stages[0] + cost.host, rel=1e-12)

    law()


def test_a_table_of_what_is_linear_is_exact() -> None:
    found = Contexts(lambda n, c: 3e-3 + 1e-5 * n + 2e-9 * n * c).of(40)
    for context in (1.5, 77.25, 5000.0, 3e6):
        assert found.at(context) == pytest.approx(3e-3 + 4e-4 + 8e-8 * context, rel=1e-12)


def test_a_table_is_finer_where_times_are_curved() -> None:
    straight = Contexts(lambda n, c: 1.0 + c + 0 * n).of(1)
    curved = Contexts(lambda n, c: 1.0 + 1e-3 * np.maximum(c - 777.3, 0) + 0 * n).of(1)
    assert len(curved.cuts) > len(straight.cuts)
    for context in np.linspace(1.0, 5000.0, 4001).tolist():
        assert curved.at(context) == pytest.approx(1.0 + 1e-3 * max(context - 777.3, 0), rel=5 * EXACT)


def test_tables_do_not_depend_on_what_was_asked_first() -> None:
    def seconds(n: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.hypot(1e-3 * n, 1e-5 * n * c)

    one, other = Contexts(seconds), Contexts(seconds)
    for n in (5, 70, 31):
        one.of(n)
    for n in (70, 31, 5):
        other.of(n)
    assert all(one.of(n) == other.of(n) for n in (5, 31, 32, 70))


def test_engines_under_which_kernels_take_as_long_share_their_tables() -> None:
    """Each suspect of `planc compare` moves one constant of an engine: most of them leave kernels alone."""
    clock = clocks("llama")[1]
    assert isinstance(clock, TableClock)
    plan, engine = clock.server.plan, clock.server.plan.effective_engine
    for kind in KINDS_OF_SUSPECTS:
        other = clock.on(clock.server.on(with_engine(plan, moved(kind, 0.5))))
        assert (other.kernels is clock.kernels) == (not kind.rate), kind.name
        own = table_clock(other.server)
        batch = Batch([], [_decoding(500)], [1], [], admitted=[], preempted=[])
        assert other.cost(batch) == own.cost(batch)
        assert other.delay(3) == own.delay(3)
        told = {name: getattr(other.engine, name) != getattr(engine, name) for name in kind.fields}
        assert all(told.values()), "the engine was moved"


def _decoding(computed: int) -> Live:
    live = Live(0, 1, 1)
    live.computed = computed
    return live


def test_servers_with_ranks_stages_or_guesses_have_no_table() -> None:
    for more in (
        "node = h100_8, sharding { mesh own = 4, tensor = 2\n heads, ffn, vocab -> tensor\n batch -> own }",
        "node = h100_8, sharding { tp = 2, pp = 4 }",
        "node = h100_1, sharding { tp = 1 }, speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 70 % }",
    ):
        load = "input = 1000, output = 41, batch = 1, in_flight = 4"
        text = f"plan p {{ model = llama_3_1_8b, {more}, workload {{ {load} }} }}"
        found = compile_text(text)[0].cost
        assert isinstance(found, Replicas)
        assert not isinstance(step_clock(found.one), TableClock)


def test_a_sum_falls_apart_by_what_its_terms_depend_on() -> None:
    tape = Tape()
    x, y, z = (tape.node("input", name) for name in "xyz")
    rows = x * y
    constant, terms = split_sum(5.0 + (x * x - y) / 4.0 + (rows * rows + x * z) * 2.0 + 1.0 / z, {"rows": rows})
    assert constant == 5.0
    at = {"x": 3.0, "y": 7.0, "z": 0.5, "rows": 21.0}
    nodes = {"x": x, "y": y, "z": z, "rows": rows}
    found = {
        "".join(sorted(names)): write_sum(part, {name: nodes[name] for name in names})(*(at[name] for name in names))
        for names, part in terms.items()
    }
    assert found == {"x": 9.0 / 4.0, "y": -7.0 / 4.0, "rows": 2.0 * 21.0**2, "xz": 2.0 * 3.0 * 0.5, "z": 1.0 / 0.5}
