"""Requests over time: read from plans, printed, drawn, and replayed from traces."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given

from plandsl.backends.cost.serving.arrivals import draw_arrivals, rates_of
from plandsl.backends.cost.serving.distributions import draw, draw_whole
from plandsl.backends.cost.serving.draws import Purpose, Stream, exp, log, normal_quantile
from plandsl.backends.cost.serving.requests import Closed
from plandsl.backends.cost.serving.workloads import Load, draw_requests
from plandsl.diagnostics import PlanError
from plandsl.driver import check_module, compile_file, compile_text, open_file, open_text
from plandsl.grammar.fmt import format_text
from plandsl.limits import MAX_ERRORS, override
from plandsl.show import show_plan, show_workload
from plandsl.spec.plan import WorkloadSpec
from plandsl.spec.traffic import (
    QUANTILES,
    Empirical,
    Exponential,
    FileSpec,
    Fixed,
    Lognormal,
    Normal,
    OnOff,
    Steady,
    Traced,
    Uniform,
    Varying,
    Zipf,
    solve_lognormal,
)
from plandsl.testing import bare, same, traffic
from plandsl.traces import read_column, read_trace
from tests.draws import draws

PLAN = "plan p {{ model = llama_3_1_8b, node = h100_1, workload = w }}\nworkload w {{ {load} }}\n"


def workload(load: str) -> WorkloadSpec:
    """A load as a plan has it."""
    module = open_text(PLAN.format(load=load))
    spec = module.plan("p")
    assert spec is not None, module.diagnostics
    return spec.workload


def drawn(load: str) -> Load:
    return draw_requests(workload(load))


# ---- the language


LOADS = [
    "input = lognormal(mean = 900, p95 = 3200), output = 180, rate = 12 req/s, requests = 20_000",
    "input = 1000, output = 200, rate = gamma(mean = 8 req/s, cv = 2.5), requests = 10_000, seed = 9",
    "input = 1000, output = 200, rate = gamma(mean = 8 req/s, burstiness = 0.3)",
    "input = normal(900, 100, min = 10), output = exponential(200, max = 900), rate = constant(3 req/s)",
    "input = uniform(10, 20), output = zipf(1.1, max = 300), rate = vllm_rate(3 req/s)",
    "input = vllm_range(1024, ratio = 0.2), output = sglang_range(128), concurrency = 64, requests = 640",
    "input = 9, output = 9, rate = on_off(20 req/s, on = 30 s, off = 90 s, low = 1 req/s, fixed = true)",
    "input = 9, output = 9, rate = [[0 h, 2 req/s], [8 h, 20 req/s]], duration = 1 h",
    "input = 9, output = 9, rate = varying([[0 h, 2 req/s], [8 h, 0 req/s]], every = 24 h)",
    "input = 9, output = 9, rate = at_once, requests = 30",
    "input = 9, output = 9, rate = 1 req/s, sessions { turns = 4, think = lognormal(p50 = 9 s, sigma = 1) }",
    "rate = 2 req/s\n class a { share = 25 %, input = 9, output = 9, require p99(ttft) <= 1 s and goodput > 1 req/s }\n"
    " class b { share = 75 %, input = 9, output = 9, sessions { turns = uniform(1, 3), think = 2 s, system = 7 } }",
    "class a { rate = 3 req/s, input = 9, output = 9 }\n class b { rate = constant(1 req/s), input = 8, output = 7 }",
]


@pytest.mark.parametrize("load", LOADS)
def test_a_load_is_checked_printed_formatted_and_drawn(load: str) -> None:
    text = PLAN.format(load=load)
    module = open_text(text)
    assert [d for d in check_module(module) if d.severity == "error"] == []
    (plan,) = compile_text(text)
    (again,) = compile_text(show_plan(plan.spec))
    assert same(plan.spec, again.spec)
    assert same(compile_text(format_text(text, "x.plan"))[0].spec, plan.spec)
    requests = draw_requests(plan.spec.workload, 50).requests
    assert 1 <= len(requests.input) <= 50


@given(traffic(adapters=True))
@draws(10 / 3)
def test_any_load_reads_back_as_printed(load: WorkloadSpec) -> None:
    text = show_workload(load) + "plan p { model = llama_3_1_8b, node = h100_1, workload = w }\n"
    module = open_text(text)
    spec = module.plan("p")
    assert spec is not None, module.diagnostics
    ours = compile_text("plan p { model = llama_3_1_8b, node = h100_1, workload { input = 1, output = 1 } }")[0].spec
    assert bare(evolve(ours, workload=load)).workload == bare(spec).workload


def test_another_field_and_another_class_come_by_with_and_set() -> None:
    text = PLAN.format(load="rate = 2 req/s, class a { share = 100 %, input = 9, output = 9 }")
    text += "workload v = w with { rate = 3 req/s, class a { share = 100 %, input = 8, output = 9 } }\n"
    module = open_text(text, overrides=[("workload", "v"), ("workload.rate", "gamma(mean = 5 req/s, cv = 2)")])
    spec = module.plan("p")
    assert spec is not None, module.diagnostics
    found = spec.workload.traffic
    assert found is not None
    assert found.arrivals == Steady(5.0, 0.25)
    assert [c.lengths.input for c in found.classes] == [Fixed(8)]


def test_means_stand_in_where_one_length_is_asked_for() -> None:
    load = workload("input = lognormal(mean = 900, p95 = 3200), output = uniform(10, 20), rate = 2 req/s")
    assert (load.input, load.output) == (900, 15)
    two = "class a {{ {} input = 4, output = 8 }}\n class b {{ {} input = 8, output = 4 }}"
    load = workload("rate = 1 req/s\n" + two.format("share = 25 %,", "share = 75 %,"))
    assert (load.input, load.output) == (7, 5)
    load = workload(two.format("rate = 3 req/s,", "rate = 1 req/s,"))
    assert (load.input, load.output) == (5, 7)


def test_requirements_on_percentiles_and_goodput_are_values() -> None:
    text = PLAN.format(load="input = 9, output = 9, concurrency = 8").replace(
        "workload = w", "workload = w, require p99_9(ttft) <= 2 s and 50 ms >= p50(tpot), require goodput >= 3 req/s"
    )
    spec = open_text(text).plan("p")
    assert spec is not None
    found = [(r.metric, r.percentile, r.op, r.bound) for r in spec.requires]
    assert found == [("ttft", 99.9, "<=", 2.0), ("tpot", 50.0, "<=", 0.05), ("goodput", None, ">=", 3.0)]
    assert same(compile_text(show_plan(spec))[0].spec, spec)


def test_a_balanced_cut_counts_mean_lengths() -> None:
    text = PLAN.format(load="{}").replace("h100_1", "h100_2, sharding { pp = 2, cut = balanced }")
    (plan,) = compile_text(text.replace("{}", "input = uniform(100, 300), output = 50, rate = 3 req/s"))
    (equal,) = compile_text(text.replace("{}", "input = 200, output = 50"))
    assert plan.spec.sharding.cut == equal.spec.sharding.cut


def test_plans_with_requests_over_time_run_on_small_dimensions() -> None:
    (plan,) = compile_text(PLAN.format(load="input = uniform(100, 300), output = 50, rate = 3 req/s"))
    assert plan.verify(steps=1).ok


# ---- random numbers


def test_functions_are_right_to_the_last_bits() -> None:
    x = np.linspace(-700, 700, 30_011)
    assert np.allclose(exp(x), [math.exp(v) for v in x], rtol=3e-16, atol=0)
    y = np.concatenate([np.geomspace(1e-300, 1e300, 20_011), 1 + np.linspace(-0.3, 0.4, 10_001)])
    assert np.allclose(log(y), [math.log(v) for v in y], rtol=3e-16, atol=1e-300)
    p = np.concatenate([np.linspace(1e-6, 1 - 1e-6, 2001), [1e-16, 1e-300, 0.075, 0.925]])
    assert np.allclose(normal_quantile(p), [NormalDist().inv_cdf(v) for v in p], rtol=1e-14, atol=1e-15)


BYTES = {
    LOADS[0]: "6b082fdb46be",
    LOADS[1]: "9e927c555274",
    LOADS[3]: "1712f24201bb",
    LOADS[4]: "3106dee26c27",
    LOADS[6].replace(", fixed = true", ""): "e35c45be5a1c",
    LOADS[10]: "535dfa97df5f",
    LOADS[11]: "e502419a3ed1",
}
"""The start of the SHA-256 of the columns of the first 500 requests."""


@pytest.mark.parametrize("load", BYTES)
def test_the_same_seed_gives_these_bytes(load: str) -> None:
    found = draw_requests(workload(load), 500)
    digest = hashlib.sha256()
    for column in (*found.requests[:3], *(found.requests.blocks or ())[:2], found.think_s):
        digest.update(b"" if column is None else np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")))
    assert digest.hexdigest()[:12] == BYTES[load]


def test_another_seed_gives_others_and_another_rate_keeps_the_lengths() -> None:
    load = "input = uniform(1, 999), output = uniform(1, 999), requests = 100, rate = {} req/s, seed = {}"
    one, two, faster = (drawn(load.format(*x)).requests for x in ((2, 1), (2, 2), (4, 1)))
    assert not np.array_equal(one.input, two.input)
    assert not np.array_equal(one.input, one.output)
    assert np.array_equal(one.input, faster.input)
    assert np.allclose(one.arrival_s, 2 * faster.arrival_s)


N = 40_000
NEAR = 4.5
"""Draws, and the standard errors by which a moment of fixed draws may differ from that of its distribution."""


def near(values: np.ndarray, mean: float, variance: float) -> bool:
    return abs(values.mean() - mean) < NEAR * math.sqrt(variance / len(values)) + 1e-9


def share_below(values: np.ndarray, bound: float, share: float) -> bool:
    return abs(np.mean(values <= bound) - share) < NEAR * math.sqrt(share * (1 - share) / len(values))


@pytest.mark.parametrize("shape", [0.16, 0.5, 1.0, 1.5, 4.0, 100.0])
def test_gaps_have_the_rate_and_the_burstiness_that_they_should(shape: float) -> None:
    rate = 8.0
    gaps = np.diff(draw_arrivals(Steady(rate, shape), N, seed=5), prepend=0.0)
    assert (gaps > 0).mean() > 0.98
    assert (gaps >= 0).all()
    variance = 1 / shape / rate**2
    assert near(gaps, 1 / rate, variance)
    fourth = (3 + 6 / shape) * variance**2  # of a gamma distribution
    assert near((gaps - 1 / rate) ** 2, variance, fourth - variance**2)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_gamma_numbers_have_the_moments_of_their_shape(shape: float) -> None:
    values = Stream(5, Purpose.GAPS).gamma(N, shape)
    assert near(values, 1.0, 1 / shape)
    assert near((values - 1) ** 2, 1 / shape, (3 + 6 / shape - 1) / shape**2)


def test_constant_and_scaled_arrivals() -> None:
    assert draw_arrivals(Steady(8.0, None), 4, seed=0).tolist() == [0.0, 0.125, 0.25, 0.375]
    times = draw_arrivals(Steady(8.0, 0.25, scaled=True), 1000, seed=0)
    assert times[-1] == pytest.approx(125)  # as `vllm bench serve` scales them: n / rate
    plain = draw_arrivals(Steady(8.0, 0.25), 1000, seed=0)
    assert np.allclose(times / times[-1], plain / plain[-1])


def test_a_changing_rate_holds_at_each_time() -> None:
    steps = ((0.0, 4.0), (100.0, 0.0), (150.0, 20.0))
    times = draw_arrivals(Varying(steps), 4000, seed=2)
    assert (np.diff(times) >= 0).all()
    early = times[times < 100]
    assert abs(len(early) - 400) < NEAR * 20
    assert not ((times >= 100) & (times < 150)).any()
    late = np.diff(times[times >= 150])
    assert near(late, 1 / 20, 1 / 400)


def test_a_rate_that_starts_again() -> None:
    times = draw_arrivals(Varying(((0.0, 4.0), (100.0, 0.0)), 150.0), 4000, seed=2)
    within = times % 150
    assert (within <= 100).all()
    counts = np.bincount((times // 150).astype(int))
    assert abs(counts[:-1].mean() - 400) < NEAR * 20 / math.sqrt(len(counts) - 1)


@pytest.mark.parametrize("fixed", [True, False])
def test_on_and_off(fixed: bool) -> None:
    times = draw_arrivals(OnOff(20.0, 3.0, 9.0, low=2.0, fixed=fixed), N, seed=3)
    mean = (20 * 3 + 2 * 9) / 12
    assert N / times[-1] == pytest.approx(mean, rel=0.2 if not fixed else 0.03)  # some 500 periods, whose length varies
    if fixed:
        on = times % 12 < 3
        assert abs(on.mean() - 60 / 78) < NEAR * math.sqrt(60 * 18 / 78**2 / N)
    counts = np.bincount((times / 3).astype(int))
    assert counts.var() > 3 * counts.mean()  # of a Poisson process they are equal


DISTRIBUTIONS = {
    "uniform": (Uniform(10, 19), 14.5, (10**2 - 1) / 12),
    "normal": (Normal(9000.0, 700.0), 9000.0, 700.0**2),
    "exponential": (Exponential(5000.0), 5000.0, 5000.0**2),
    "fixed": (Fixed(7), 7.0, 0.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_lengths_have_the_mean_and_the_variance_that_they_should(name: str) -> None:
    distribution, mean, variance = DISTRIBUTIONS[name]
    found = draw_whole(distribution, Stream(4, Purpose.INPUT), N)
    assert found.dtype == np.int64
    assert near(found, mean, variance + 1 / 12)
    assert found.var() == pytest.approx(variance, rel=0.06)


@pytest.mark.parametrize("pair", ["mean p50", "mean p95", "mean p99", "mean sigma", "p50 p95", "p95 p99", "p99 sigma"])
def test_a_lognormal_distribution_by_any_two_numbers(pair: str) -> None:
    mu, sigma = 7.0, 0.8
    quantiles = {name: math.exp(mu + z * sigma) for name, z in QUANTILES.items()}
    every = {"mean": math.exp(mu + sigma**2 / 2), "sigma": sigma, **quantiles}
    given_ = {name: every[name] for name in pair.split()}
    found = solve_lognormal(given_)
    assert found == pytest.approx((mu, sigma))
    values = draw_whole(Lognormal(tuple(given_.items()), *found), Stream(1, Purpose.OUTPUT), N)
    assert near(np.log(values), mu, sigma**2)
    assert near(values, every["mean"], (math.exp(sigma**2) - 1) * every["mean"] ** 2)
    for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        assert share_below(values, every[name], share)


def test_zipf_draws_each_number_as_often_as_it_should() -> None:
    values = draw_whole(Zipf(1.2, 3, 50), Stream(1, Purpose.OUTPUT), N)
    weights = np.arange(3, 51) ** -1.2
    expected = N * weights / weights.sum()
    counts = np.bincount(values, minlength=51)[3:]
    assert counts.sum() == N
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 47 + NEAR * math.sqrt(2 * 47)


def test_bounds_cut_off() -> None:
    load = drawn("input = normal(900, 400, min = 500, max = 1000), output = exponential(3), rate = 2 req/s").requests
    assert (load.input.min(), load.input.max()) == (500, 1000)
    assert load.output.min() == 1


def test_the_two_range_ratios_mean_what_their_tools_mean() -> None:
    both = "input = {0}(1000, ratio = 0.2), output = {0}(7, ratio = {1}), concurrency = 4, requests = 5000"
    vllm, sglang = (drawn(both.format(n, r)).requests for n, r in (("vllm_range", 0.5), ("sglang_range", 1)))
    assert (vllm.input.min(), vllm.input.max(), vllm.output.min(), vllm.output.max()) == (800, 1200, 3, 11)
    assert (sglang.input.min(), sglang.input.max(), sglang.output.min(), sglang.output.max()) == (200, 1000, 7, 7)
    plain = workload("input = vllm_range(1000), output = sglang_range(1000), concurrency = 4").traffic
    assert plain is not None
    assert plain.lengths == (Uniform(1000, 1000), Uniform(1, 1000))


def test_times_are_drawn_without_rounding() -> None:
    values = draw(Exponential(0.01), Stream(1, Purpose.THINK), N)
    assert near(values, 0.01, 1e-4)


# ---- conversations and classes

TALK = """input = 100, output = uniform(1, 50), rate = 5 req/s, requests = 4000
sessions { turns = uniform(2, 6), think = exponential(30 s), system = 500 }"""


def test_a_prompt_has_all_earlier_turns_in_it() -> None:
    load = drawn(TALK)
    found, think = load.requests, load.think_s
    assert found.session is not None
    assert found.blocks is not None
    assert think is not None
    assert (np.diff(found.arrival_s) >= 0).all()
    sizes = []
    for talk in range(60):
        (at,) = np.nonzero(found.session == talk)
        sizes.append(len(at))
        assert found.input[at[0]] == 600
        assert (np.diff(found.input[at]) == found.output[at[:-1]] + 100).all()
        assert np.allclose(np.diff(found.arrival_s[at]), think[at[1:]])
        assert think[at[0]] == 0
    assert set(sizes) == {2, 3, 4, 5, 6}


def test_blocks_are_shared_within_a_conversation_and_by_the_system_prompt() -> None:
    found = drawn(TALK).requests
    assert found.blocks is not None
    assert found.session is not None
    starts, ids, size = found.blocks
    assert np.array_equal(np.diff(starts), found.input // size)
    of = [ids[a:b].tolist() for a, b in pairwise(starts)]
    first, later = (np.nonzero(found.session == 7)[0])[:2]
    other = np.nonzero(found.session == 8)[0][0]
    assert of[later][: len(of[first])] == of[first]
    common = 500 // size
    assert of[first][:common] == of[other][:common]
    assert not set(of[later][common:]) & set(of[other][common:])


def test_classes_share_no_blocks() -> None:
    talk = "class {} {{ share = 50 %, input = 40, output = 9, sessions {{ turns = 3, think = 1 s, system = {} }} }}\n"
    load = drawn("rate = 1 req/s, requests = 300\n" + talk.format("a", 0) + talk.format("b", 64))
    blocks, kind = load.requests.blocks, load.requests.kind
    assert blocks is not None
    assert kind is not None
    of_kind = np.repeat(kind, np.diff(blocks.starts))
    assert not set(blocks.ids[of_kind == 0]) & set(blocks.ids[of_kind == 1])


def test_classes_have_their_share() -> None:
    load = drawn(
        "rate = 10 req/s, requests = 20_000\n class a { share = 20 %, input = 3, output = 1 }\n"
        "class b { share = 80 %, input = uniform(10, 20), output = 2 }"
    )
    assert load.kinds == ("a", "b")
    kind = load.requests.kind
    assert kind is not None
    assert share_below(kind, 0, 0.2)
    assert set(load.requests.input[kind == 0]) == {3}
    assert load.requests.input[kind == 1].min() == 10
    assert near(np.diff(load.requests.arrival_s), 0.1, 0.01)


def test_classes_with_rates_of_their_own_are_put_together() -> None:
    load = drawn(
        "duration = 1000 s\n class a { rate = 3 req/s, input = 3, output = 1 }\n"
        "class b { rate = constant(1 req/s), input = 4, output = 2, sessions { turns = 2, think = 1 s } }"
    )
    kind = load.requests.kind
    assert kind is not None
    assert (np.diff(load.requests.arrival_s) >= 0).all()
    assert load.requests.arrival_s[-1] < 1000
    assert abs((kind == 0).sum() - 3000) < NEAR * math.sqrt(3000)
    assert (kind == 1).sum() == 2 * 1000 - 1  # the last conversation's second turn is too late


@given(traffic(adapters=True))
@draws(10 / 3)
def test_any_load_is_in_order_and_of_the_size_asked_for(load: WorkloadSpec) -> None:
    assert load.traffic is not None
    try:
        found = draw_requests(load)
    except PlanError:  # no request arrives within it
        assert load.traffic.duration is not None
        return
    requests, n = found.requests, len(found.requests.input)
    assert n <= (load.requests or 0)
    assert n == load.requests or load.traffic.duration is not None
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert (requests.input >= 1).all()
    assert (requests.output >= 1).all()
    assert (found.closed is None) == (load.concurrency is None)
    again = draw_requests(load).requests
    assert requests.arrival_s.tobytes() == again.arrival_s.tobytes()


def test_too_many_requests_are_refused() -> None:
    with pytest.raises(PlanError, match="E214"):
        drawn("input = 1, output = 1, rate = 1_000_000 req/s, duration = 1 h")


def test_a_load_without_a_request_is_refused() -> None:
    with pytest.raises(PlanError, match="E214"):
        drawn("input = 1, output = 1, rate = 0.001 req/s, duration = 2 s")


# ---- traces

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951691,396,109
2023-11-16 18:15:50.9951691,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 23:59:59.5+00:00,100,10
2024-05-11 02:00:00+02:00,200,20
"""
BURST = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,a,1,ChatGPT,472,18,490,Conversation log
45,,1,GPT-4,1087,0,1087,API log
118.5,b,1,GPT-4,417,276,693,API log
120,a,1,GPT-4,9,8,17,API log
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 600, "output_length": 6, "hash_ids": [0, 7]}
{"timestamp": 3000, "input_length": 8, "output_length": 7, "hash_ids": [9]}
"""
BAILIAN = "".join(
    f'{{"chat_id": {chat}, "parent_chat_id": {parent}, "timestamp": {at}, "input_length": {size}, '
    f'"output_length": {out}, "type": "text", "turn": 1, "hash_ids": {ids}}}\n'
    for chat, parent, at, size, out, ids in (
        (5, -1, 0.25, 20, 5, [3, 4]),
        (6, -1, 1.5, 6, 6, [8]),
        (9, 5, 2.75, 40, 7, [3, 4, 5]),
    )
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,1\n2,20,2\n"
SHAREGPT = "input_length,output_length\n12,30\n400,5\n"


def trace_of(folder: Path, text: str, name: str, load: str = "") -> Load:
    (folder / name).write_text(text)
    (folder / "p.plan").write_text(PLAN.format(load=f'trace = "{name}"{load}'))
    module = open_file(folder / "p.plan")
    found = [d for d in check_module(module) if d.severity == "error"]
    assert found == []
    spec = module.plan("p")
    assert spec is not None
    return draw_requests(spec.workload)


TRACES = {
    "azure.csv": (AZURE, "azure", [0.0, 4.3145791, 4.3145791], [374, 396, 879], [44, 109, 55]),
    "azure24.csv": (AZURE_2024, "azure", [0.0, 0.5], [100, 200], [10, 20]),
    "burst.csv": (BURST, "burstgpt", [0.0, 113.5, 115.0], [472, 417, 9], [18, 276, 8]),
    "mooncake.jsonl": (MOONCAKE, "mooncake", [0.0, 3.0, 3.0], [600, 1030, 8], [6, 5, 7]),
    "bailian.jsonl": (BAILIAN, "bailian", [0.0, 1.25, 2.5], [20, 6, 40], [5, 6, 7]),
    "vidur.csv": (VIDUR, "vidur", [0.0, 1.5], [10, 20], [1, 2]),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("named", [True, False])
def test_traces_read_back_exactly(name: str, named: bool, tmp_path: Path) -> None:
    text, kind, seconds, sizes, outputs = TRACES[name]
    found = trace_of(tmp_path, text, name, f", format = {kind}, speed = 0.5" if named else "").requests
    assert found.arrival_s.tolist() == [(2 if named else 1) * s for s in seconds]
    assert (found.input.tolist(), found.output.tolist()) == (sizes, outputs)
    assert read_trace(FileSpec(name, str(tmp_path / name)))[0].format == kind


def test_traces_keep_their_blocks_and_conversations(tmp_path: Path) -> None:
    found = trace_of(tmp_path, MOONCAKE, "m.jsonl").requests
    assert found.blocks is not None
    starts, ids, size = found.blocks
    assert (starts.tolist(), ids.tolist(), size) == ([0, 2, 5, 6], [0, 7, 0, 1, 2, 9], 512)
    found = trace_of(tmp_path, BAILIAN, "b.jsonl").requests
    assert found.blocks is not None
    assert found.blocks.size == 16
    assert found.session is not None
    assert found.session.tolist() == [0, 1, 0]
    found = trace_of(tmp_path, BURST, "b.csv").requests
    assert found.session is not None
    assert found.session.tolist() == [0, 1, 0]


def test_a_trace_without_times_needs_a_rate(tmp_path: Path) -> None:
    found = trace_of(tmp_path, SHAREGPT, "s.csv", ", rate = constant(2 req/s)")
    assert found.requests.arrival_s.tolist() == [0.0, 0.5]
    assert found.requests.input.tolist() == [12, 400]
    assert trace_of(tmp_path, SHAREGPT, "s.csv", ", concurrency = 3").closed == Closed(3)
    (tmp_path / "p.plan").write_text(PLAN.format(load='trace = "s.csv"'))
    (wrong,) = check_module(open_file(tmp_path / "p.plan"))
    assert (wrong.code, wrong.span and wrong.span.line) == ("E452", 2)


def test_a_trace_is_cut_by_requests_and_by_duration(tmp_path: Path) -> None:
    assert trace_of(tmp_path, AZURE, "a.csv", ", requests = 2").requests.input.tolist() == [374, 396]
    assert trace_of(tmp_path, AZURE, "a.csv", ", duration = 4 s").requests.input.tolist() == [374]
    (tmp_path / "p.plan").write_text(PLAN.format(load='trace = "a.csv", requests = 4'))
    (wrong,) = check_module(open_file(tmp_path / "p.plan"))
    assert "has 3" in wrong.message


def test_failed_requests_are_counted(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(BURST)
    (tmp_path / "p.plan").write_text(PLAN.format(load='trace = "b.csv"'))
    (note,) = check_module(open_file(tmp_path / "p.plan"))
    assert note.code == "N452"
    assert note.message.startswith("1 row of b.csv")
    (plan,) = compile_file(tmp_path / "p.plan")
    assert note in plan.notes


WRONG = {
    "letters": (AZURE.replace(",396", ",3x6"), "a.csv", 3, 29, 32),
    "a negative length": (AZURE.replace(",109", ",-1"), "a.csv", 3, 33, 35),
    "half a token": (AZURE.replace(",109", ",1.5"), "a.csv", 3, 33, 36),
    "no prompt": (AZURE.replace(",396", ",0"), "a.csv", 3, 29, 30),
    "too few cells": (AZURE.replace(",396", ""), "a.csv", 3, 1, 32),
    "no date": (AZURE.replace("16 18:15:50.9951691,396", "33 18:15:50,396"), "a.csv", 3, 1, 20),
    "an empty cell": (AZURE.replace(",396", ","), "a.csv", 3, 29, 30),
    "infinite": (VIDUR.replace("\n2,", "\ninf,"), "v.csv", 3, 1, 4),
    "no number": (VIDUR.replace("\n2,", "\nnan,"), "v.csv", 3, 1, 4),
    "no JSON": (MOONCAKE.replace('"timestamp": 0,', '"timestamp": ,'), "m.jsonl", 2, 15, 16),
    "no object": (MOONCAKE + "[1, 2]\n", "m.jsonl", 4, 1, 2),
    "a text": (MOONCAKE.replace(": 600", ': "long"'), "m.jsonl", 2, 18, 32),
    "true": (MOONCAKE.replace(": 600", ": true"), "m.jsonl", 2, 18, 32),
    "no key": (MOONCAKE.replace("input_length", "inputs", 2).replace("inputs", "input_length", 1), "m.jsonl", 2, 1, 2),
    "ids that are none": (MOONCAKE.replace("[0, 7]", '[0, "7"]'), "m.jsonl", 2, 59, 69),
    "unknown columns": ("a,b\n1,2\n", "a.csv", 1, 1, 2),
    "nothing": ("", "a.csv", 1, 1, 2),
    "a header alone": (AZURE.split("\n")[0], "a.csv", 1, 1, 2),
    "ShareGPT's texts": ('[{"id": "a", "conversations": [{"from": "human", "value": "hi"}]}]', "s.json", 1, 1, 2),
    "bytes": ("TIMESTAMP,ContextTokens,GeneratedTokens\n\udcff,1,1\n", "a.csv", 2, 1, 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_found_at_its_place(name: str, tmp_path: Path) -> None:
    text, file, line, start, end = WRONG[name]
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "p.plan").write_text(PLAN.format(load=f'trace = "{file}"'))
    module = open_file(tmp_path / "p.plan")
    (found,) = check_module(module)
    assert found.code == "E452"
    assert found.span == (file, line, start, line, end), found.message
    assert found.labels[0].span.line == 2
    spec = module.plan("p")
    assert spec is not None
    with pytest.raises(PlanError, match="E452"):
        draw_requests(spec.workload)


def test_every_wrong_row_is_counted(tmp_path: Path) -> None:
    rows = "".join(f"{n},x,1\n" for n in range(MAX_ERRORS + 7))
    (tmp_path / "v.csv").write_text(VIDUR + rows)
    trace, found = read_trace(FileSpec("v.csv", str(tmp_path / "v.csv")))
    assert trace is None
    assert [d.span.line for d in found[:-1] if d.span] == list(range(4, 4 + MAX_ERRORS))
    assert found[-1].message == "7 further rows of v.csv are wrong"


def test_a_trace_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(AZURE)
    (tmp_path / "m.jsonl").write_text(MOONCAKE)
    file = FileSpec("a.csv", str(tmp_path / "a.csv"))
    with override({"trace_bytes": 90, "trace_line": 60}):
        assert "larger than 90 bytes" in read_trace(file)[1][0].message
        trace, wrong = read_trace(file, rows=1)
        assert (trace and len(trace.input), wrong) == (1, ())
        assert "longer than 60 bytes" in read_trace(FileSpec("m.jsonl", str(tmp_path / "m.jsonl")))[1][0].message


@pytest.mark.parametrize("path", ["../a.csv", "/etc/passwd.csv", "no.csv", "a.txt"])
def test_a_trace_lies_in_the_folder_of_the_root_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.csv").write_text(AZURE)
    (tmp_path / "in" / "p.plan").write_text(PLAN.format(load=f'trace = "{path}"'))
    assert [d.code for d in check_module(open_file(tmp_path / "in" / "p.plan"))] == ["E209"]


def test_a_file_of_lengths_is_drawn_from(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("input,other\n10,1\n20,2\n20,3\n40,4\n")
    (tmp_path / "one.csv").write_text("n\n5\n6\n")
    load = 'input = empirical("l.csv"), output = empirical("one.csv"), rate = 2 req/s, requests = 8000'
    (tmp_path / "p.plan").write_text(PLAN.format(load=load))
    module = open_file(tmp_path / "p.plan")
    spec = module.plan("p")
    assert check_module(module) == []
    assert spec is not None
    found = draw_requests(spec.workload).requests
    assert set(found.input) == {10, 20, 40}
    assert share_below(found.input, 10, 0.25)
    assert share_below(found.input, 20, 0.75)
    assert set(found.output) == {5, 6}
    for text, line in (("a,b\n1,2\n", 1), ("input,b\n1,2\nx,2\n", 3), ("input,b\n1.5,2\n", 2)):
        (tmp_path / "l.csv").write_text(text)
        (wrong,) = check_module(open_file(tmp_path / "p.plan"))
        assert (wrong.code, wrong.span and wrong.span.line) == ("E452", line)


def test_the_rate_of_a_trace(tmp_path: Path) -> None:
    rows = "".join(f"{t},5,5\n" for t in [*np.arange(0, 100, 0.25), *np.arange(200, 300, 1.0)])
    (tmp_path / "v.csv").write_text(VIDUR.split("\n")[0] + "\n" + rows)
    traced = Traced(FileSpec("v.csv", str(tmp_path / "v.csv")), 100.0, 2.0)
    assert rates_of(traced) == Varying(((0.0, 8.0), (100.0, 0.0), (200.0, 2.0)), 300.0)
    times = draw_arrivals(traced, 3000, seed=1)
    assert not ((times % 300 > 100) & (times % 300 < 200)).any()


def test_empirical_draws_each_row_equally_often(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("n\n1\n2\n3\n4\n5\n")
    file = FileSpec("x.csv", str(tmp_path / "x.csv"))
    values = draw_whole(Empirical(file, "n"), Stream(1, Purpose.INPUT), N)
    counts = np.bincount(values)[1:]
    assert abs(counts - N / 5).max() < NEAR * math.sqrt(N * 0.2 * 0.8)
    assert json.dumps(list(read_column(file, "n")[0] or ())) == "[1.0, 2.0, 3.0, 4.0, 5.0]"
