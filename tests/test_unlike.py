"""Unlike GPUs in a node or a cluster: what may be written, and that the slowest of a stage decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.deployments.stages import piece_memory
from plandsl.backends.graphviz import VIEWS
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.kinds import stage_kinds
from plandsl.ir.program import Part
from plandsl.passes import program_after, structure
from plandsl.show import show_plan
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.plan import PlanSpec
from plandsl.testing import compiled, laws_program, plans, same
from plandsl.testing.laws import LAWS, assert_law
from tests.draws import draws

MODEL = """
model m {
  layers = 8, hidden = 1024, heads = 16, kv_heads = 8, head_dim = 64, ffn = 4096, vocab = 4096
  weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    x = x + attention(h @ w_q[hidden, heads, head_dim], h @ w_k[hidden, kv_heads, head_dim],
                      h @ w_v[hidden, kv_heads, head_dim]) @ w_o[heads, head_dim, hidden]
    x = x + silu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head rms_norm(x) @ w_head[hidden, vocab]
}
gpu a { memory = 10 GB, bandwidth = 1 TB/s, compute { bf16 = 100 TFLOP/s, fp8 = 200 TFLOP/s }, calibration = good }
gpu b { memory = 20 GB, bandwidth = 3 TB/s, compute { bf16 = 80 TFLOP/s }, calibration = bad, price = 2 USD/h }
calibration good { gemm = 80 %, hbm = 90 %, link = 80 %, launch = 1 us }
calibration bad { gemm = 50 %, hbm = 60 %, link = 50 %, launch = 5 us }
node all_a { gpu = a, count = 8, link { topology = switch, bandwidth = 200 GB/s, latency = 2 us } }
node all_b = all_a with { gpu = b }
node twins { gpus = [4 * a, 4 * a], link { topology = switch, bandwidth = 200 GB/s, latency = 2 us } }
node mixed { gpus = [4 * a, 4 * b], link { topology = switch, bandwidth = 200 GB/s, latency = 2 us } }
node turned { gpus = [4 * b, 4 * a], link { topology = switch, bandwidth = 200 GB/s, latency = 2 us } }
"""
NETWORK = "network { topology = fat_tree, bandwidth = 25 GB/s, latency = 5 us }"


def text(sharding: str, machine: str = "node = mixed", model: str = "m", more: str = "") -> str:
    load = "workload { input = 2048, output = 32, batch = 16 }"
    return f"{MODEL}\nplan p {{\n  model = {model}, {machine}\n  sharding {{ {sharding} }}\n  {load}\n  {more}\n}}\n"


def plan(sharding: str, machine: str = "node = mixed", model: str = "m", more: str = "") -> CompiledPlan:
    (made,) = compile_text(text(sharding, machine, model, more))
    return made


def findings(source: str) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as caught:
        compile_text(source)
    return [(d.code, d.message) for d in caught.value.diagnostics if d.severity == "error"]


def spans(made: CompiledPlan, phase: str) -> list[float]:
    return [float(stage.span) for stage in getattr(made.cost.evaluate(), phase).stages]


# ---- what may be written


def test_equal_groups_are_one_kind() -> None:
    for sharding in ("tp = 8", "pp = 2, tp = 4", "dp = 2, pp = 4"):
        twins, alike = plan(sharding, "node = twins"), plan(sharding, "node = all_a")
        assert twins.cost.evaluate().numbers == alike.cost.evaluate().numbers
        ours, theirs = twins.estimate().as_json(), alike.estimate().as_json()
        assert ours == theirs


def test_ranks_take_gpus_in_the_order_of_the_list() -> None:
    made = plan("pp = 2, tp = 4")
    assert [str(gpus) for gpus in made.estimate().stage_gpus] == ["4 x a", "4 x b"]
    across = plan("dp = 2, tp = 4")
    assert [str(gpus) for gpus in across.estimate().stage_gpus] == ["4 x a, 4 x b"]
    assert stage_kinds(made.spec, made.prefill.program) == [{0: 4}, {1: 4}]


def test_gpus_that_no_rank_stands_on_do_not_count() -> None:
    few, alike = plan("tp = 4"), plan("tp = 4", "node = all_a")
    assert len(few.spec.kinds) == 1
    assert few.cost.evaluate().numbers == alike.cost.evaluate().numbers


def test_gpus_of_one_name_are_told_apart() -> None:
    node = "node two { gpus = [4 * a with { memory = 30 GB }, 4 * a], link { topology = switch, "
    node += "bandwidth = 200 GB/s, latency = 2 us } }\n"
    (made,) = compile_text(node + text("pp = 2, tp = 4", "node = two"))
    assert [str(gpus) for gpus in made.estimate().stage_gpus] == ["4 x a", "4 x a_2"]
    assert [m.capacity for m in made.estimate().stages] == [30e9, 10e9]


@pytest.mark.parametrize("machine", ["node = mixed", "cluster = pod"])
def test_a_plan_reads_back(machine: str) -> None:
    pod = "node two = all_b with { link { bandwidth = 90 GB/s } }\n"
    pod += f"cluster pod {{ nodes = [1 * mixed, 1 * two], {NETWORK} }}\n"
    (made,) = compile_text(pod + text("pp = 2, tp = 4\n cut = [3, 5]", machine))
    (again,) = compile_text(show_plan(made.spec))
    assert same(made.spec, again.spec)
    assert again.cost.evaluate().numbers == made.cost.evaluate().numbers


LINK = "link { topology = switch, bandwidth = 1 GB/s, latency = 1 us }"


@pytest.mark.parametrize(
    ("declared", "code", "says"),
    [
        (f"node n {{ gpus = [], {LINK} }}", "E210", "expected a list of GPUs"),
        (f"node n {{ gpus = 4, {LINK} }}", "E210", "expected a list of GPUs"),
        (f"node n {{ gpus = [a, 4 * b], {LINK} }}", "E210", "expected a number of GPUs"),
        (f"node n {{ gpus = [a * 4, 4 * b], {LINK} }}", "E210", "expected a number of GPUs"),
        (f"node n {{ gpus = [0 * a, 4 * b], {LINK} }}", "E214", "must be 1 or more, found 0"),
        (f"node n {{ gpus = [99_999 * a, 4 * b], {LINK} }}", "E214", "at most 100,000 GPUs"),
        (f"node n {{ gpus = [4 * a, 4 * c], {LINK} }}", "E201", "no gpu named `c`"),
        (f"node n {{ gpus = [4 * a, 4 * b], gpu = a, {LINK} }}", "E202", "`gpus` and `gpu` cannot both be given"),
        (f"node n {{ gpus = [4 * a, 4 * b], count = 8, {LINK} }}", "E202", "`gpus` and `count` cannot both be given"),
        ("node n { gpus = [4 * a, 4 * b] }", "E207", "has no `link`"),
        (f"cluster n {{ nodes = [], {NETWORK} }}", "E210", "expected a list of nodes"),
        (f"cluster n {{ nodes = [1 * mixed, 0 * all_a], {NETWORK} }}", "E214", "must be 1 or more"),
        (f"cluster n {{ nodes = [1 * mixed, 1 * h100_4], {NETWORK} }}", "E222", "`mixed` 8, `h100_4` 4"),
        (
            f"cluster n {{ nodes = [1 * mixed], node = all_a, {NETWORK} }}",
            "E202",
            "`nodes` and `node` cannot both be given",
        ),
    ],
)
def test_a_wrong_list_is_refused_once(declared: str, code: str, says: str) -> None:
    kind = declared.split()[0]
    ((found, message),) = findings(declared + "\n" + text("tp = 4", f"{kind} = n"))
    assert found == code
    assert says in message


def test_a_format_that_one_gpu_lacks() -> None:
    ((code, message),) = findings(text("tp = 8", model="m with { compute = fp8 }"))
    assert (code, message) == ("E304", "`b` lists no fp8 peak")
    made = plan("tp = 8", model="m with { weights = fp8 }")
    (note,) = (d for d in made.notes if d.code == "N312")
    assert "multiply in bf16" in note.message
    assert "`b` has no peak for fp8" in note.message
    assert any(
        op.keyword == "quantize"
        for op in plan("tp = 8", "node = all_a", "m with { weights = fp8 }").prefill.program.region("block").ops
    )
    assert not any(op.keyword == "quantize" for op in made.prefill.program.region("block").ops)


def test_a_price_is_that_of_all_gpus() -> None:
    ((code, message),) = findings(text("tp = 8", more="require cost <= 1 USD"))
    assert (code, message) == ("E309", "`a` has no price, so there is no cost")
    priced = "node n { gpus = [4 * a with { price = 1 USD/h }, 4 * b], link { topology = switch, "
    priced += "bandwidth = 200 GB/s, latency = 2 us } }\n"
    (made,) = compile_text(priced + text("tp = 8", "node = n"))
    e = made.estimate()
    assert e.cost_usd_per_mtok == pytest.approx((4 * 1 + 4 * 2) / 3600 / e.throughput_tokens_per_s * 1e6, rel=1e-12)


# ---- the slowest decides


@pytest.mark.parametrize("sharding", ["tp = 8", "sp = 4, tp = 2", "dp = 2, tp = 4", "ORDER"])
def test_an_op_takes_the_longer_of_both_kinds(sharding: str) -> None:
    sharding = sharding.replace("ORDER", "mesh t = 2, s = 4\n layers -> s\n heads, kv_heads, ffn, vocab -> t")
    mixed, a, b = (plan(sharding, f"node = {n}") for n in ("mixed", "all_a", "all_b"))
    for phase in ("prefill", "decode"):
        ours, one, two = (getattr(p.cost.pools[0].main, phase) for p in (mixed, a, b))
        bind = {"batch": 16, "input": 2048, "context": 2048}
        times, first, second = (model.seconds(bind)(2048.0) for model in (ours, one, two))
        for stage, parts in enumerate(mixed.prefill.stages):
            for part in parts:
                longer = list(map(max, first[part.region], second[part.region]))
                assert times[ours.run(stage, part.region)] == longer
        assert any(x > y for x, y in zip(first["block"], second["block"], strict=True))
        assert any(x < y for x, y in zip(first["block"], second["block"], strict=True))


def test_each_stage_takes_what_it_takes_on_gpus_of_its_own_kind() -> None:
    mixed, turned, a, b = (plan("pp = 2, tp = 4", f"node = {n}") for n in ("mixed", "turned", "all_a", "all_b"))
    for phase in ("prefill", "decode"):
        assert spans(mixed, phase) == [spans(a, phase)[0], spans(b, phase)[1]]
        assert spans(turned, phase) == [spans(b, phase)[0], spans(a, phase)[1]]
    hop = max(float(p.cost.evaluate().prefill.hop) for p in (a, b))
    through = sum(spans(mixed, "prefill")) + hop  # the hop waits for both ends
    assert float(mixed.cost.evaluate().ttft) == pytest.approx(through, rel=1e-12)
    period = max(
        2 * max(*spans(mixed, "decode"), 0), sum(spans(mixed, "decode")) + float(mixed.cost.evaluate().decode.hop)
    )
    assert float(mixed.cost.evaluate().tpot) == pytest.approx(period, rel=1e-3)


def test_the_smallest_gpu_of_a_stage_bounds_its_memory() -> None:
    e = plan("pp = 2, tp = 4").estimate()
    assert [m.capacity for m in e.stages] == [10e9, 20e9]
    assert e.memory == e.stages[0]  # fuller, as a share
    one, alike = plan("tp = 8"), plan("tp = 8", "node = all_a")
    assert one.estimate().memory.capacity == 10e9
    for name in ("max_batch", "kv_capacity", "memory", "fits"):
        assert getattr(one.cost.evaluate(), name) == getattr(alike.cost.evaluate(), name)
    share = plan("pp = 2, tp = 4", more="require memory <= 2 %").estimate().requires[0]
    assert share.value == max(m.total / m.capacity for m in e.stages)


def test_a_plan_fits_where_every_stage_does() -> None:
    made = plan("pp = 2, tp = 4")
    most = int(made.cost.evaluate().max_batch)
    fits = [made.cost.evaluate(batch=b).fits for b in (most, most + 1)]
    assert fits == [True, False]
    both = made.cost.evaluate(batch=np.array([most, most + 1]))
    assert list(both.fits) == fits


@draws(1 / 2)
@given(plans(), st.floats(1.0, 4.0), st.integers(0, 1))
def test_a_better_gpu_never_slows(spec: PlanSpec, factor: float, which: int) -> None:
    def better(gpu: GpuSpec) -> GpuSpec:
        peaks = tuple((dtype, peak * factor) for dtype, peak in gpu.compute)
        return evolve(gpu, bandwidth=gpu.bandwidth * factor, compute=peaks, memory=gpu.memory * factor)

    made = compiled(spec)
    node = made.spec.node
    gpus = [*node.groups]
    at = min(which, len(gpus) - 1)
    gpus[at] = gpus[at][0], better(gpus[at][1])
    unlike = evolve(node, gpu=gpus[0][1], gpus=tuple(gpus) if node.gpus else ())
    before = made.cost.evaluate()
    after = made.cost.on(evolve(made.spec, node=unlike)).evaluate()
    for name in ("ttft", "tpot"):
        assert getattr(after, name) <= getattr(before, name) * (1 + 1e-9)
    assert after.max_batch >= before.max_batch


@draws(1 / 3)
@given(plans().filter(lambda spec: bool(spec.node.gpus)))
def test_laws_of_times_hold_on_unlike_gpus(spec: PlanSpec) -> None:
    """The laws of programs, which name no figure of a GPU, are asked of any plan elsewhere."""
    made = compiled(spec)
    for law in LAWS:
        if law.__module__ != laws_program.__name__:
            assert_law(law, made)


def test_ranks_on_other_formats_share_no_program() -> None:
    """On `mixed`, four ranks multiply in fp8 and eight do not: neither takes the program that is known of the other."""
    few, all_ = (plan(f"tp = {n}", model="m with { weights = fp8 }") for n in (4, 8))
    assert structure(few.spec) != structure(all_.spec)
    for made in (few, all_):
        assert program_after(made.spec, "prefill", "place-memory") == made.prefill.program


# ---- clusters


def pod(nodes: str, sharding: str, more: str = "") -> CompiledPlan:
    (made,) = compile_text(
        f"{more}\ncluster pod {{ nodes = [{nodes}], {NETWORK} }}\n" + text(sharding, "cluster = pod")
    )
    return made


def test_equal_nodes_are_one_kind() -> None:
    twins = pod("1 * all_a, 1 * all_a", "pp = 2, tp = 8")
    like = f"\ncluster pod {{ node = all_a, count = 2, {NETWORK} }}\n" + text("pp = 2, tp = 8", "cluster = pod")
    assert twins.estimate().as_json() == compile_text(like)[0].estimate().as_json()


def test_nodes_differ_by_their_gpus_and_by_their_links() -> None:
    slow = "node slow = all_a with { link { bandwidth = 20 GB/s } }"
    made = pod("1 * all_a, 1 * slow, 2 * mixed", "pp = 4, tp = 8", slow)
    assert [str(g) for g in made.estimate().stage_gpus] == ["8 x a", "8 x a", "4 x a, 4 x b", "4 x a, 4 x b"]
    first, second, third, fourth = spans(made, "prefill")
    assert first < second
    assert third > first
    assert fourth > third  # the head
    assert made.spec.machine == "pod (1 x all_a, 1 x slow, 2 x mixed)"
    assert made.verify().ok


# ---- what is said


def test_the_report_names_gpus() -> None:
    made = plan("pp = 2, tp = 4")
    out: dict[str, Any] = made.estimate().as_json()
    assert [stage["gpus"] for stage in out["stages"]] == [{"a": 4}, {"b": 4}]
    assert [stage["smallest"] for stage in out["stages"]] == ["a", "b"]
    assert {op["gpu"] for op in out["prefill"]["ops"]} <= {"a", "b"}
    assert out["calibration"] == "good, bad"
    assert "gpu" not in plan("tp = 8", "node = all_a").estimate().as_json()["prefill"]["ops"][0]
    assert made.spec.machine == "mixed (4 x a, 4 x b)"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("sharding", ["pp = 2, tp = 4", "tp = 8", "dp = 2, tp = 2"])
def test_pictures_show_both_kinds(view: str, sharding: str) -> None:
    drawn = plan(sharding).draw(view)
    if view in ("devices", "memory"):
        assert "a" in drawn
        assert "20.0 GB" in drawn or view == "memory"


def test_pieces_of_stages_that_lie_on_no_gpu_yet_have_one_each() -> None:
    """Of a balanced cut there are the ends, hops and a layer of each block: more pieces than stages with GPUs."""
    server = plan("pp = 2, tp = 4").cost.pools[0].main
    program = server.prefill.schedule.program
    pieces = tuple((Part(region.name),) for region in program.regions)
    held = piece_memory(server, pieces)
    assert len(held.gpus) == len(held.kinds) == len(pieces) > len(program.stages)


@pytest.mark.parametrize("sharding", ["tp = 8", "pp = 2, tp = 4\n cut = balanced", "sp = 4, tp = 2", "pp = 4, dp = 2"])
def test_meaning_does_not_depend_on_the_gpus(sharding: str) -> None:
    assert plan(sharding).verify().ok
