"""How tokens fall on experts of unlike popularity, and on ranks whose load varies."""

from __future__ import annotations

from math import exp, isclose, log

import numpy as np
import pytest

from plandsl.backends.cost.work.experts import Experts, crowd_loads
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.extents import Extents
from plandsl.ir.names import Places
from plandsl.ir.program import Program
from plandsl.ir.skew import WIDEST, Z95, Varying, Zipf, busiest_experts, chances, factor, read_skew
from plandsl.ir.types import Dim, Mesh, Number
from plandsl.show import show_plan
from plandsl.testing import assert_laws, same

BLOCK = """\
block x[tokens, hidden] {
  h = rms_norm(x)
  y = experts(h, w_router[hidden, experts], top_k = 8, imbalance = IMBALANCE) {
    silu(h @ w_gate[hidden, expert_ffn]) * (h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]
  }
  x = x + y
}
"""
ATTENDS = """\
block x[tokens, hidden] {
  h = rms_norm(x)
  k = rope(h @ w_k[hidden, kv_heads, head_dim])
  a = attention(rope(h @ w_q[hidden, heads, head_dim]), k, h @ w_v[hidden, kv_heads, head_dim])
  x = x + a @ w_o[heads, head_dim, hidden]
"""
BARE = "calibration bare { hbm = 0.8, gemm = 0.5, link = 0.75, launch = 3 us }\n"
PLACES = Places("experts", 8)


def moe(imbalance: str, sharding: str = "ep = 8", load: str = "batch = 64", fields: str = "") -> CompiledPlan:
    """128 experts, 8 for a token."""
    model = f"model m = qwen3_30b_a3b with {{ {BLOCK.replace('IMBALANCE', imbalance)} }}\n"
    plan = f"model = m, node = h200_8, sharding {{ {sharding} }}, workload {{ input = 500, output = 100, {load} }}"
    (made,) = compile_text(f"{BARE}{model}plan p {{ {plan} {fields} }}")
    return made


# ---- popularity


@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0, 2.0, 6.0])
@pytest.mark.parametrize(("experts", "chosen"), [(8, 2), (128, 8), (256, 8), (4, 4), (16, 1)])
def test_chances_add_up_to_the_experts_of_a_token(exponent: float, experts: int, chosen: int) -> None:
    found = chances(exponent, experts, chosen)
    assert isclose(sum(found), chosen, rel_tol=1e-12)
    assert list(found) == sorted(found, reverse=True)
    assert found[-1] > 0
    assert found[0] <= 1
    free = [p for p in found if p < 1]
    first = len(found) - len(free)
    for r, p in enumerate(free):  # those below 1 fall as the law says
        assert isclose(p / free[-1], ((first + r + 1) / experts) ** -exponent, rel_tol=1e-9)


@pytest.mark.parametrize("ways", [1, 4, 32])
def test_the_fullest_rank_has_the_most_that_experts_dealt_in_turn_come_to(ways: int) -> None:
    """Closed form: every rank's sum of r^-s over the experts that it was dealt."""
    weights = np.arange(1, 129) ** -0.6
    shares = [weights[rank::ways].sum() / weights.sum() for rank in range(ways)]
    extents = Extents(Program("m", "decode", Mesh((("e", ways),)), ((PLACES, 128),), (),
                              imbalance=((PLACES, Zipf(0.6)),)), {})  # fmt: skip
    assert isclose(extents.local(Dim(PLACES, ("e",))), 8 * max(shares), rel_tol=1e-12)


@pytest.mark.parametrize("skew", [Zipf(0.6), 1.5, 9.0])
def test_arrays_of_ranks_equal_numbers(skew: float | Zipf) -> None:
    program = Program("m", "decode", Mesh(), ((PLACES, 128),), (), imbalance=((PLACES, skew),))
    many = np.array([1, 2, 8, 64])
    found = Extents(program, {}, {"e": many}).local(Dim(PLACES, ("e",)))
    alone = [Extents(program, {}, {"e": int(n)}).local(Dim(PLACES, ("e",))) for n in many]
    assert np.allclose(found, alone, rtol=1e-12)


@pytest.mark.parametrize("ways", [1, 8])
@pytest.mark.parametrize("tokens", [1, 16, 300])
def test_experts_hit_are_those_that_drawn_tokens_hit(tokens: int, ways: int) -> None:
    """Four thousand steps: each token takes expert i or not by its chance; on average so many get any."""
    every = chances(0.6, 128, 8)
    mine = np.array([p for _, p in busiest_experts(every, ways)])
    draws = np.random.default_rng(7).random((4000, len(mine))) < 1 - (1 - mine) ** tokens
    hit = draws.sum(axis=1)
    found = crowd_loads(busiest_experts(every, ways), tokens)
    assert abs(max(hit.mean(), 1.0) - sum(load.touched for load in found)) < 4 * hit.std() / 4000**0.5
    pairs = sum(load.experts * load.tokens for load in found)
    assert isclose(pairs, max(tokens * mine.sum(), 1.0), rel_tol=1e-12)


@pytest.mark.parametrize(
    "crowd", [[(1, 0.619)], [(1, 0.05)], [(1, 0.6), (1, 0.1)], busiest_experts(chances(0.6, 128, 8), 64)], ids=len
)
def test_more_tokens_touch_no_fewer_experts(crowd: list[tuple[Number, float]]) -> None:
    """Also where less than a pair of one token is expected, and an expert is touched all the same."""
    found = [crowd_loads(crowd, n) for n in range(1, 40)]
    for counts in ([sum(load.touched for load in loads) for loads in found],
                   [sum(load.experts * load.tokens for load in loads) for loads in found],
                   [sum(load.tiles(16) for load in loads) for loads in found]):  # fmt: skip
        assert np.all(np.diff(counts) >= -1e-12)  # 1 in floats, or nearly
        assert counts[0] >= 1 - 1e-12


def test_pairs_of_drawn_tokens_lie_where_the_estimate_has_them() -> None:
    """The busiest_experts rank of sixteen, where each token draws 8 different experts so that each has its chance.

    By systematic sampling (Madow 1949): equally spaced points along the chances in random order, laid end to end.
    """
    rng, every = np.random.default_rng(3), np.array(chances(0.6, 128, 8))
    mine = []
    for _ in range(20_000):
        order = rng.permutation(128)
        chosen = order[np.searchsorted(np.cumsum(every[order]), rng.random() + np.arange(8)).clip(max=127)]
        assert len(set(chosen)) == 8
        mine.append((chosen % 16 == 0).sum())
    wanted = sum(p for _, p in busiest_experts(tuple(every), 16))
    assert abs(np.mean(mine) - wanted) < 4 * np.std(mine) / 20_000**0.5


def grouped(made: CompiledPlan) -> Experts:
    region = made.decode.program.regions[1].name
    return next(w for w in made.cost.main.decode.work[region] if isinstance(w, Experts))


def test_weights_of_the_experts_hit_are_read() -> None:
    """The bytes of a step: those of experts hit, and of inputs and outputs of the pairs of the fullest rank."""
    work = grouped(moe("zipf(0.6)", fields=", calibration = bare"))
    mine = [p for _, p in busiest_experts(chances(0.6, 128, 8), 8)]
    hit = sum(1 - (1 - p) ** 64 for p in mine)
    each = work.bytes_weights / 16
    moved = each * hit + work.bytes_per_pair * 64 * sum(mine)
    assert isclose(work.tokens(64).moved, moved, rel_tol=1e-12)
    even = grouped(moe("zipf(0)", fields=", calibration = bare"))
    assert moved < even.tokens(64).moved  # few are hit again and again
    assert work.tokens(64).flops > even.tokens(64).flops  # and the fullest rank has more to do


def test_one_popularity_for_all_loads_all_ranks_alike() -> None:
    """Bytes between ranks are those of an imbalance of 1; only the experts that are hit differ."""
    for sharding in ("ep = 8", "tp = 8", "ep = 4, tp = 2"):
        same_, even = (moe(imbalance, sharding).estimate().as_json() for imbalance in ("zipf(0)", "1"))
        sent = [found["communication"]["totals"]["decode"]["payload_bytes"] for found in (same_, even)]
        assert isclose(*sent, rel_tol=1e-12)
        assert same_["tpot_s"] > even["tpot_s"], "experts that are alike are hit by fewer tokens each, and more are hit"


def test_almost_one_popularity_is_almost_none() -> None:
    work, even = (
        grouped(moe("zipf(0.000001)", fields=", calibration = bare")),
        grouped(moe("zipf(0)", fields=", calibration = bare")),
    )
    for tokens in (1, 8, 64, 4096):
        assert isclose(work.modelled_seconds(tokens), even.modelled_seconds(tokens), rel_tol=1e-4)


@pytest.mark.parametrize("fields", ["", ", calibration = bare"])
def test_more_uneven_experts_never_shorten_a_prefill(fields: str) -> None:
    times = [moe(f"zipf({s})", fields=fields).estimate().ttft_s for s in (0, 0.2, 0.4, 0.8)]
    assert times == sorted(times)
    assert times[0] < times[-1]


@pytest.mark.parametrize("fields", ["", ", calibration = bare"])
@pytest.mark.parametrize("imbalance", ["zipf(0.7)", "lognormal(mean = 1.3, p95 = 1.9)"])
def test_arrays_of_batches_equal_numbers(imbalance: str, fields: str) -> None:
    cost = moe(imbalance, fields=fields).cost
    batches = np.array([1, 7, 64, 500])
    many = cost.evaluate(batch=batches)
    for at, batch in enumerate(batches):
        one = cost.evaluate(batch=int(batch))
        for name in ("ttft", "tpot", "throughput", "memory"):
            value = np.broadcast_to(getattr(many, name), batches.shape)[at]
            assert isclose(value, getattr(one, name), rel_tol=1e-12), (name, batch)


# ---- loads that vary


@pytest.mark.parametrize(("mean", "p95"), [(1.2, 1.6), (1.05, 1.3), (1.5, 4.0), (2.0, 2.1)])
def test_nodes_average_as_drawn_loads_do(mean: float, p95: float) -> None:
    sigma = Z95 - (Z95**2 - 2 * log(p95 / mean)) ** 0.5
    drawn = np.maximum(np.exp(log(mean) - sigma**2 / 2 + sigma * np.random.default_rng(5).standard_normal(10**6)), 1)
    nodes = Varying(mean, p95).nodes()
    assert isclose(sum(weight for weight, _ in nodes), 1, rel_tol=1e-12)
    for of in (lambda x: x, lambda x: x**2, lambda x: np.maximum(x, 1.25), np.sqrt):
        values = of(drawn)
        found = sum(weight * of(load) for weight, load in nodes)
        assert abs(found - values.mean()) < 4 * values.std() / 1000 + 2e-3 * values.mean()


def test_mean_and_percentile_are_those_asked_for() -> None:
    """Where nothing would lie below 1, the mean is the mean; and 5 % of drawn loads exceed the percentile."""
    nodes = Varying(3.0, 3.6).nodes()
    assert isclose(sum(weight * load for weight, load in nodes), 3.0, rel_tol=1e-6)
    sigma = Z95 - (Z95**2 - 2 * log(1.2)) ** 0.5
    drawn = np.exp(log(3.0) - sigma**2 / 2 + sigma * np.random.default_rng(2).standard_normal(200_000))
    assert np.mean(drawn > 3.6) == pytest.approx(0.05, abs=0.003)


def test_a_load_that_does_not_vary_is_the_factor() -> None:
    wide, same_ = moe("lognormal(mean = 1.2, p95 = 1.2)").estimate(), moe("1.2").estimate()
    assert isclose(wide.tpot_s, same_.tpot_s, rel_tol=1e-12)
    assert isclose(wide.ttft_s, same_.ttft_s, rel_tol=1e-12)


def test_time_is_the_mean_over_the_loads() -> None:
    """By the roofline, against the plan with each load as a factor."""
    nodes = Varying(1.4, 2.2).nodes()
    bare = ", calibration = bare"
    each = [moe(f"{load!r}", fields=bare).estimate().ttft_s for _, load in nodes]
    found = moe("lognormal(mean = 1.4, p95 = 2.2)", fields=bare).estimate().ttft_s
    assert isclose(found, sum(weight * t for (weight, _), t in zip(nodes, each, strict=True)), rel_tol=1e-9)


@pytest.mark.parametrize("imbalance", ["zipf(0.7)", "lognormal(mean = 1.2, p95 = 1.6)"])
@pytest.mark.parametrize("sharding", ["ep = 4", "tp = 2"])
def test_laws_hold_of_uneven_experts(imbalance: str, sharding: str) -> None:
    experts = BLOCK.partition("\n")[2].replace("IMBALANCE", imbalance).replace("top_k = 8", "top_k = 2")
    load = "workload { input = 50, output = 9, batch = 4 }"
    (drawn,) = compile_text(
        f"model m = mixtral_8x7b with {{ {ATTENDS}{experts} }}\n"
        f"plan p {{ model = m, node = h200_8, sharding {{ {sharding} }}, {load} }}"
    )
    assert_laws(drawn)


# ---- the language


@pytest.mark.parametrize("skew", [1.0, 1.25, Zipf(0.6), Zipf(1e-06), Varying(1.2, 1.6)])
def test_a_skew_reads_back(skew: float | Zipf | Varying) -> None:
    assert read_skew(str(skew)) == skew


def test_skews_are_compared_by_one_number() -> None:
    assert [factor(s) for s in (1.2, Zipf(0.6), Varying(1.3, 1.9))] == [1.2, 1.6, 1.3]


@pytest.mark.parametrize("imbalance", ["zipf(0.6)", "lognormal(mean = 1.2, p95 = 1.6)", "zipf(60 %)"])
def test_plans_verify_and_read_back(imbalance: str) -> None:
    made = moe(imbalance)
    (again,) = compile_text(show_plan(made.spec))
    assert same(again.spec, made.spec)
    assert made.verify().ok
    assert dict(made.decode.program.imbalance)["experts:8"] in (Zipf(0.6), Varying(1.2, 1.6))


@pytest.mark.parametrize(
    ("imbalance", "code", "words"),
    [
        ("zipf(-1)", "E226", "from 0"),
        ("zipf(11)", "E226", "to 10"),
        ("zipf()", "E226", "needs a number"),
        ("zipf(s = 1)", "E226", "needs a number"),
        ("zipf(1 s)", "E204", "found a time"),
        ("lognormal(mean = 1.2)", "E226", "two options"),
        ("lognormal(mean = 1.2, p99 = 1.6)", "E226", "two options"),
        ("lognormal(mean = 0.9, p95 = 1.6)", "E226", "1 or more"),
        ("lognormal(mean = 1.2, p95 = 1.1)", "E226", "must be from 1 to"),
        (f"lognormal(mean = 1.2, p95 = {1.21 * WIDEST})", "E226", "no lognormal is wider"),
        ("zipff(1)", "E201", "no distribution `zipff`"),
    ],
)
def test_mistakes_are_named(imbalance: str, code: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        moe(imbalance)
    found = next(d for d in caught.value.diagnostics if d.severity == "error")
    assert (found.code, words in found.message) == (code, True), found
    assert found.hint
    assert found.span is not None


@pytest.mark.parametrize(
    ("imbalance", "words"),
    [
        ("zipf(0.6)", "experts dealt in turn, the r-th most popular used as r^-0.6"),
        ("lognormal(mean = 1.2, p95 = 1.6)", "1.2 times the mean on the fullest, more than 1.6 times 5 % of the time"),
    ],
)
def test_the_note_says_what_was_taken(imbalance: str, words: str) -> None:
    assert words in next(d.message for d in moe(imbalance).notes if d.code == "N305")


def test_the_widest_lognormal_is_known() -> None:
    assert isclose(WIDEST, exp(Z95**2 / 2))
    assert len(Varying(1.0, WIDEST).nodes()) == 17
