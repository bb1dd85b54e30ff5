"""Adapters under traffic: requests name one, servers hold some, load the others, and let requests wait for a slot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.cost.serving.records import Records
from plandsl.backends.cost.serving.replica import Adapters, Worker
from plandsl.backends.cost.serving.requests import Requests, share_prefix, take
from plandsl.backends.cost.serving.scheduler import Batch, Live, Policy, State
from plandsl.backends.cost.serving.sglang import Sglang
from plandsl.backends.cost.serving.simulate import simulate, simulate_steps
from plandsl.backends.cost.serving.trtllm import Trtllm
from plandsl.backends.cost.serving.vllm import Vllm
from plandsl.backends.cost.serving.workloads import draw_requests
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_file, compile_text, open_text
from plandsl.show import show_plan
from tests.draws import draws
from tests.serving import Steady, Watched, read
from tests.test_serving import policies
from tests.test_stretch import loads

# ---- scenes worked out by hand: a step takes a second, a load half a second


def scene(policy: Policy, text: str, named: Sequence[int], spec: Adapters, **worker: object) -> tuple[str, Records]:
    names, requests = read(text, 4)
    watched = Watched(policy, names)
    worker_ = Worker(watched, Steady(1.0), 100, 4, adapters=spec, **worker)
    found = simulate([worker_], requests._replace(adapter=np.array(named)))
    assert found.served.all()
    return " | ".join(watched.steps), found


TWO = Adapters(2, 0.5)
FOUR = "a 4+2, b 4+4, c 4+2, d 4+2"


def test_vllm_passes_over_a_request_whose_adapter_has_no_slot() -> None:
    """The third adapter waits until one of two is free; a request behind it that needs none does not."""
    steps, found = scene(Vllm(ahead=False), FOUR, (1, 2, 3, 0), TWO)
    assert steps == "a4 b4 d4 | a b d | b c4 | b c"
    assert found.fetched.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert found.slot_wait_s.tolist() == [0.0, 0.0, 3.0, 0.0]
    # two loads before the first step, one before the third
    assert found.first_s.tolist() == [2.0, 2.0, 4.5, 2.0]
    assert found.finish_s.tolist() == [3.0, 5.5, 5.5, 3.0]


def test_requests_that_were_passed_over_keep_their_order() -> None:
    steps, _ = scene(Vllm(ahead=False), "a 4+3, b 4+1, c 4+1, d 4+1, e 4+1", (1, 2, 3, 2, 1), Adapters(1, 0.5))
    assert steps == "a4 e4 | a | a | b4 d4 | c4"


def test_sglang_counts_the_adapters_of_all_that_run_and_requests_without_one() -> None:
    policy = Sglang(conservativeness=0.0, ahead=False)
    steps, _ = scene(policy, FOUR, (1, 2, 3, 0), TWO)
    assert steps == "a4 b4 d4 | a b d | c4 | b c | b"
    steps, _ = scene(policy, FOUR, (1, 0, 3, 0), TWO._replace(base=True))
    assert steps == "a4 b4 d4 | a b d | c4 | b c | b"


@pytest.mark.parametrize(
    ("room", "steps"),
    [("no_evict", "a4 b4 d4 | a b d | b c4 | b c"), ("max_utilisation", "a4 b4 | a b | b c4 d4 | b c d")],
)
def test_trtllm_passes_over_it_or_ends_the_search(room: str, steps: str) -> None:
    assert scene(Trtllm(room=room, ahead=False), FOUR, (1, 2, 3, 0), TWO)[0] == steps


def test_the_least_recently_used_adapter_leaves_and_host_memory_is_filled_from_disk() -> None:
    """2 comes back from host memory, 1 from disk: host memory holds the last three."""
    spec = Adapters(2, 0.5, host=3, disk_s=8.0)
    text = ", ".join(f"{name} 4+1 @{20 * at}" for at, name in enumerate("abcdefg"))
    _, found = scene(Vllm(ahead=False), text, (1, 2, 1, 3, 4, 2, 1), spec)
    assert found.fetched.tolist() == [[0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1]]
    _, found = scene(Vllm(ahead=False), text, (1, 2, 1, 3, 1, 2, 1), spec)
    assert found.fetched.tolist() == [[0, 0, 0, 0, 0, 1, 0], [1, 1, 0, 1, 0, 0, 0]]
    assert found.ttft_s.tolist() == [9.5, 9.5, 1.0, 9.5, 1.0, 1.5, 1.0]


def test_ranks_have_slots_of_their_own_and_wait_for_the_slowest_load() -> None:
    _, found = scene(
        Vllm(ahead=False), "a 4+1, b 4+1, c 4+1", (1, 1, 2), Adapters(1, 0.5), ranks=2, spread="round_robin"
    )
    assert found.fetched[0].tolist() == [1, 1, 1]
    assert found.first_s.tolist() == [1.5, 1.5, 3.0]


def test_the_router_sends_a_request_to_the_server_that_has_its_adapter() -> None:
    _, load = read(", ".join(f"{name} 4+1 @{3 * at}" for at, name in enumerate("abcdefgh")), 4)
    load = load._replace(adapter=np.array([1, 2, 2, 1, 1, 2, 1, 2]))
    one = Worker(Vllm(ahead=False), Steady(1.0), 100, 4, adapters=Adapters(1, 0.5))
    near, turns = (simulate([one] * 2, load, by=by) for by in ("adapter", "round_robin"))
    assert near.replica.tolist() == [0, 1, 1, 0, 0, 1, 0, 1]
    assert near.fetched.sum() == 2 < turns.fetched.sum()
    assert simulate([one] * 2, load._replace(adapter=load.adapter * 0), by="adapter").fetched.sum() == 0


# ---- what holds of all


class Slotted:
    """A policy of which every step is checked: its adapters fit, and loads are those of a plain list by last use."""

    def __init__(self, policy: Policy, slots: int) -> None:
        self.policy, self.slots, self.ahead = policy, slots, policy.ahead
        self.there: list[int] = []
        self.loads = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.policy, name)

    def compose(self, state: State) -> Batch:
        batch = self.policy.compose(state)
        together: list[Live] = [*batch.decodes, *batch.spent, *(piece.live for piece in batch.prompts)]
        needed = list(dict.fromkeys(live.adapter for live in together if live.adapter))
        assert len(needed) <= self.slots
        known = [number for number in needed if number in self.there]
        kept = [number for number in self.there if number not in needed] + known
        fresh = [number for number in needed if number not in self.there]
        self.there = (kept + fresh)[-self.slots :]
        self.loads += len(fresh)
        return batch


@draws(3 / 2)
@given(policies(), loads(), st.integers(1, 3), st.sampled_from((1, 1, 2)))
def test_steps_have_adapters_that_fit_and_all_requests_are_served(
    policy: Policy, load: Requests, slots: int, stages: int
) -> None:
    rng = np.random.default_rng(slots)
    load = load._replace(adapter=rng.integers(0, 5, len(load.input)), input=np.minimum(load.input, 9))
    checked, spec = Slotted(policy, slots), Adapters(slots, 0.25)
    one = Worker(checked, Steady(*[1.0] * stages), 200, 4, in_flight=stages, adapters=spec)
    found = simulate_steps([one], load)
    assert (found.served | (found.replica < 0)).all()
    assert found.fetched.sum() == checked.loads
    assert (found.slot_wait_s <= np.nan_to_num(found.finish_s - found.arrival_s) + 1e-9).all()
    free = Worker(policy, Steady(*[1.0] * stages), 200, 4, in_flight=stages)
    if slots < 4:  # with room for all, and loads that take no time, adapters change nothing
        enough = simulate_steps([free._replace(adapters=Adapters(4, 0.0))], load)
        without = simulate_steps([free], load._replace(adapter=None))
        np.testing.assert_array_equal(enough.finish_s, without.finish_s)
        assert not enough.slot_wait_s.any()


# ---- loads


def drawn(text: str, folder: str = "") -> Requests:
    return draw_requests(open_text(f"workload w {{ {text} }}").spec("workload", "w")).requests


def test_requests_name_adapters_by_a_distribution_and_some_name_none() -> None:
    load = drawn(
        "input = 9, output = 2, rate = 1 req/s, requests = 4000, adapters = zipf(1.2, max = 50), adapted = 60 %"
    )
    assert abs((load.adapter > 0).mean() - 0.6) < 0.03
    counts = np.bincount(load.adapter[load.adapter > 0], minlength=51)
    assert counts[1] > counts[2] > counts[8] > 0 == counts[0]
    other = drawn(
        "input = 9, output = 2, rate = 7 req/s, requests = 4000, adapters = zipf(1.2, max = 50), adapted = 60 %"
    )
    assert (other.adapter == load.adapter).all(), "another rate leaves them as they are"
    assert drawn("input = 9, output = 2, rate = 1 req/s, requests = 9").adapter is None


def test_the_turns_of_a_conversation_name_one_adapter_and_share_blocks_with_no_other() -> None:
    talk = "input = 40, output = 20, rate = 1 req/s, requests = 400, adapters = uniform(1, 3)"
    load = drawn(f"{talk}, sessions {{ turns = 4, think = 1 s, system = 64 }}")
    for session in np.unique(load.session):
        assert len(set(load.adapter[load.session == session].tolist())) == 1
    first = load.blocks.ids[load.blocks.starts[:-1]]
    for number in (1, 2, 3):
        assert len(set(first[load.adapter == number].tolist())) == 1, "the system prompt, once for each adapter"
    assert len(set(first.tolist())) == 3
    plain = Requests(np.zeros(4), np.full(4, 8), np.full(4, 1), adapter=np.array([0, 1, 1, 2]))
    assert share_prefix(plain, 8, 4).blocks.ids.tolist() == [0, 3, 1, 4, 1, 4, 2, 5]
    assert take(plain, np.array([3, 0])).adapter.tolist() == [2, 0]


def test_classes_name_adapters_of_their_own() -> None:
    load = drawn(
        "rate = 2 req/s, requests = 300\n"
        "class chat { share = 50 %, input = 9, output = 3, adapters = 7 }\n"
        "class plain { share = 50 %, input = 9, output = 3 }"
    )
    assert set(load.adapter[load.kind == 0].tolist()) == {7}
    assert set(load.adapter[load.kind == 1].tolist()) == {0}


TRACE = """arrived_at,num_prefill_tokens,num_decode_tokens,lora
0,10,5,sql
2,10,5,
1,10,5,legal
3,10,5,sql
"""
MODEL = (
    "model adapted = llama_3_1_8b with { lora { adapters = 4, rank = 16, targets = all, host_bandwidth = 25 GB/s } }"
)
PLAN = """
plan p {
  model = adapted, node = h100_1, engine = vllm, sharding { tp = 1 }
  workload { %s }
}
"""


def compiled(load: str, folder: Path | None = None) -> CompiledPlan:
    text = MODEL + PLAN % load
    if folder is None:
        (plan,) = compile_text(text)
        return plan
    (folder / "p.plan").write_text(text)
    (plan,) = compile_file(folder / "p.plan")
    return plan


def test_a_column_of_a_trace_names_adapters(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TRACE)
    plan = compiled('trace = "t.csv", adapters = column("lora")', tmp_path)
    records = plan.simulate().records
    assert records.adapter.tolist() == [1, 2, 0, 1], "in the order of arrival; numbers in the order of the file"
    assert 'adapters = column("lora")' in show_plan(plan.spec)
    with pytest.raises(PlanError) as raised:
        compiled('trace = "t.csv", adapters = column("model")', tmp_path)
    (wrong,) = (d for d in raised.value.diagnostics if d.severity == "error")
    assert (wrong.code, wrong.message) == ("E452", "the file has no column `model`")
    (tmp_path / "t.csv").write_text(TRACE.replace("sql", "").replace("legal", ""))
    with pytest.raises(PlanError, match="no row names an adapter"):
        compiled('trace = "t.csv", adapters = column("lora")', tmp_path)


LOAD = "input = 600, output = 60, rate = 9 req/s, requests = 120, adapters = zipf(1.1, max = 40), adapted = 75 %"


def test_the_report_tells_hits_loads_and_waits() -> None:
    run = compiled(LOAD).simulate()
    records, use = run.records, run.simulation.adapters
    named = records.adapter > 0
    assert use.requests == named.sum()
    assert use.loaded == tuple(records.fetched.sum(1).tolist())
    assert use.resident + (records.fetched.sum(0) > 0).sum() == use.requests
    assert use.waited == (records.slot_wait_s > 0).sum() > 0
    # rank 16 of q, k, v, o, gate, up and down of all layers, in two bytes
    parameters = 32 * 16 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert use.load_s[0] == pytest.approx(2 * parameters / 25e9)
    told = run.simulation.as_json()["adapters"]
    assert told["resident"] == use.resident
    assert told["slots"] == 4
    assert {"adapter", "slot_wait_s", "fetched_host", "fetched_disk"} <= set(run.columns())
    assert (
        compiled(LOAD.replace(", adapters = zipf(1.1, max = 40), adapted = 75 %", "")).simulate().simulation.adapters
        is None
    )


def test_memory_has_a_line_for_adapters_and_the_closed_form_says_that_it_loads_none() -> None:
    estimate = compiled(LOAD).estimate()
    assert estimate.memory.adapters == 4 * 2 * 32 * 16 * (4 * 4096 + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert estimate.memory.as_json()["adapters"] == estimate.memory.adapters < estimate.memory.weights
    assert [d.code for d in estimate.notes].count("N515") == 1


POOLS = """
prefill { node = h100_1, sharding { tp = 1 } }
decode { node = h100_1, sharding { tp = 1 } }
transfer { bandwidth = 50 GB/s, latency = 10 us }
"""


@pytest.mark.parametrize(
    ("fields", "loads"),
    [
        (POOLS, 2),
        ("node = h100_8, sharding { tp = 2, dp = 2 }, router = adapter", 1),
        ("node = h100_8, shift { base { sp = 8 }, tensor { tp = 8 }, threshold = 4 }", 1),
        ("node = h100_2, sharding { tp = 2 }, speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 0.7 }", 1),
    ],
    ids=["pools", "replicas", "shift", "draft"],
)
def test_other_servers_load_adapters_too(fields: str, loads: int) -> None:
    """All named adapters fit, so each server loads each once; the decode pool has slots of its own."""
    load = "input = 600, output = 20, rate = 9 req/s, requests = 30, adapters = uniform(1, 2)"
    (plan,) = compile_text(f"{MODEL}\nplan p {{ model = adapted, engine = vllm\n{fields}\nworkload {{ {load} }} }}")
    records = plan.simulate().records
    assert records.served.all()
    assert records.fetched.sum() == 2 * loads
    assert not records.slot_wait_s.any()


def test_a_load_with_adapters_prints_and_reads_back() -> None:
    plan = compiled(LOAD)
    (again,) = compile_text(show_plan(plan.spec))
    assert again.spec.workload.traffic == plan.spec.workload.traffic
    assert again.spec.model.lora == plan.spec.model.lora


@pytest.mark.parametrize(
    ("load", "code", "what"),
    [
        ("input = 9, output = 9, batch = 4, adapters = 3", "E221", "`adapters` needs requests over time"),
        ("input = 9, output = 9, rate = 1 req/s, adapted = 50 %", "E221", "no meaning without `adapters`"),
        ("input = 9, output = 9, rate = 1 req/s, adapters = 3, adapted = 0 %", "E214", "above 0 %"),
        ("input = 9, output = 9, rate = 1 req/s, adapters = 0", "E214", "adapters"),
        ('input = 9, output = 9, rate = 1 req/s, adapters = column("x")', "E221", "a column of a trace"),
        ("rate = 1 req/s, adapters = 3, class a { share = 100 %, input = 9, output = 9 }", "E221", "no `adapters`"),
    ],
)
def test_wrong_loads_of_adapters_are_errors(load: str, code: str, what: str) -> None:
    with pytest.raises(PlanError) as raised:
        compiled(load)
    found = next(d for d in raised.value.diagnostics if d.severity == "error")
    assert found.code == code
    assert what in found.message


OWN = "lora { adapters = 4, rank = 8, targets = all"


@pytest.mark.parametrize(
    ("lora", "code", "what"),
    [
        ("", "E535", "has none"),
        (f"{OWN} }}", "E535", "how fast"),
        (f"{OWN}, host_adapters = 9, disk_bandwidth = 1 GB/s }}", "E536", "without `host_bandwidth`"),
        (f"{OWN}, host_bandwidth = 9 GB/s, host_adapters = 9 }}", "E536", "without `disk_bandwidth`"),
        (f"{OWN}, host_bandwidth = 9 GB/s, disk_bandwidth = 9 GB/s }}", "E536", "without `host_adapters`"),
        (f"{OWN}, load_time = 1 ms }}", "E536", "without `host_bandwidth`"),
        (f"{OWN}, host_bandwidth = 9 GB/s, host_adapters = 3, disk_bandwidth = 1 GB/s }}", "E536", "fewer than the 4"),
    ],
)
def test_a_model_says_how_adapters_are_loaded(lora: str, code: str, what: str) -> None:
    with pytest.raises(PlanError) as raised:
        compile_text(
            f"plan p {{ model = llama_3_1_8b with {{ {lora} }}, node = h100_1, sharding {{ tp = 1 }}\n"
            "workload { input = 9, output = 9, rate = 1 req/s, adapters = 3 } }"
        )
    found = next(d for d in raised.value.diagnostics if d.severity == "error")
    assert found.code == code
    assert what in found.message
