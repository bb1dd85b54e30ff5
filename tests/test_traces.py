"""Exported traces, read back by readers that share no code with what writes them.

What the trace of a plan's steps says is laid beside the estimate: seconds by stream, bytes by axis. The graphs of a
Chakra trace are run together, and take as long as the steps of which they were made.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from plandsl.backends.cost.answers.flows import flows
from plandsl.backends.cost.answers.simulation import draw_load, time_servers
from plandsl.backends.cost.serving.serve import worker as serving_worker
from plandsl.backends.cost.serving.shares import merge_shares, serve_share
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.traces.graph import trace_ranks
from plandsl.backends.traces.perfetto import FIRST_DEVICE, FIRST_SERVER, trace_steps
from plandsl.backends.traces.requests import trace_simulation
from plandsl.backends.traces.timeline import play_steps
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.program import DECODE, PREFILL
from tests.chakra_reader import check_phase, message_fields, read_phase, replay
from tests.pairs import text, together
from tests.trace_reader import EVENT_SCHEMA, Slice, Trace, check_trace, read_trace

ROOT = Path(__file__).parents[1]
ROWS = [
    ("tp", "pp", "dp", "micro_batches", "reuse_own"),
    ("ring", "pp", "cluster", "draft"),
    ("shift", "pp", "mtp", "chunked_prefill", "engine", "concurrency"),
    ("ep", "own", "imbalance", "pools", "lookup"),
    ("tp", "unlike", "overlap", "chunks", "megatron", "pp"),
    ("gather", "latent", "balanced", "window", "reuse_shared"),
    ("two values in a hop",),
]
"""Plans of many features: each kind of parallelism and of deployment."""

HANDED = """plan p { model = gemma_4_e4b, node = h100_8, sharding { pp = 2, tp = 2 }
  workload { input = 100, output = 9, batch = 4 } }"""
"""Each layer reads a part of the embedding, so that a stage hands on two values."""


@lru_cache(maxsize=8)
def plan_of(*features: str) -> CompiledPlan:
    if features == ("two values in a hop",):
        return compile_text(HANDED)[0]
    said = together(*features)
    assert said is not None
    return compile_text(text(said), plan="p")[0]


def steps_of(plan: CompiledPlan, ranks: str = "all", rounds: int = 2) -> Trace:
    return read_trace(trace_steps(plan.cost, plan.closed_form(), ranks, rounds))


def device_slices(trace: Trace, track: str) -> Iterator[tuple[int, Slice]]:
    for (pid, tid), slices in trace.slices.items():
        if FIRST_DEVICE <= pid < FIRST_SERVER and trace.tracks[pid, tid] == track:
            yield from ((pid, one) for one in slices)


# ---- steps


@pytest.mark.parametrize("row", ROWS, ids="+".join)
def test_slices_add_up_to_the_estimate_and_bytes_to_its_table(row: tuple[str, ...]) -> None:
    plan = plan_of(*row)
    trace = steps_of(plan, "stages", 1)
    check_trace(trace)
    assert_seconds(plan, trace)
    assert_bytes(plan, trace)


def phase_at(trace: Trace) -> Callable[[int], str]:
    """The phase of a time of the trace: decode begins when the last prefill has ended."""
    begin = max(s.end for _, s in device_slices(trace, "passes") if s.name.startswith("prefill,"))
    return lambda time: DECODE if time >= begin else PREFILL


def assert_seconds(plan: CompiledPlan, trace: Trace) -> None:
    """Of all ranks of one replica, the kernels of a phase take as long as those of all passes in the estimate."""
    metrics, at = plan.cost.own, phase_at(trace)
    found: dict[str, float] = defaultdict(float)
    for _, one in device_slices(trace, "kernels"):
        found[at(one.start)] += one.args.get("busy_us", (one.end - one.start) / 1e3)
    steps = play_steps(plan.cost, 0.0, 1, most=10_000)
    for phase, times in zip(steps.phases, (metrics.prefill, metrics.decode), strict=True):
        stages = len(times.stages)
        compute = sum(float(s.compute) for s in times.main.times.stages) * phase.batches * phase.parts
        for run in times.ran[1:]:
            compute += stages * float(run.count) * float(run.times.stages[0].compute) * phase.batches * phase.parts
        assert found[phase.name] == pytest.approx(compute * 1e6, rel=1e-4)


def assert_bytes(plan: CompiledPlan, trace: Trace) -> None:
    """What one rank of each stage sends for one batch is what the table of communication says, by axis."""
    e, at = plan.closed_form(), phase_at(trace)
    found: dict[tuple[str, str, str], float] = defaultdict(float)
    for track in ("collectives", "hops"):
        for _, one in device_slices(trace, track):
            calls = one.args.get("calls", 1)
            key = at(one.start), one.args["axis"], one.args.get("part", "")
            found[key] += calls * one.args["wire_bytes"]
    steps = play_steps(plan.cost, 0.0, 1, most=10_000)
    for phase in steps.phases:
        table: dict[tuple[str, str, str], float] = defaultdict(float)
        for row in e.communication.of(phase.name):
            table[phase.name, row.axis, row.part] += row.wire * (len(phase.main.stages) if row.part else 1)
        parts = phase.batches
        told = {key: value / parts for key, value in found.items() if key[0] == phase.name}
        assert told == pytest.approx(table, rel=1e-9)


def test_a_first_token_comes_at_ttft_and_steps_take_their_period() -> None:
    """Of one batch the trace ends its prefill when the estimate says; a step begins a period after the one before."""
    plan = plan_of("tp", "ep")
    trace, own = steps_of(plan, "0", 3), plan.cost.own
    passes = [s for _, s in device_slices(trace, "passes") if s.kind == "pass"]
    assert passes[0].end / 1e9 == pytest.approx(float(own.prefill.through), abs=1e-9)
    starts = [s.start for s in passes if s.name.startswith("decode")]
    assert [b - a for a, b in pairwise(starts)] == pytest.approx([float(own.decode.period) * 1e9] * 2, abs=2)


def test_arrows_go_from_each_sender_to_its_receiver() -> None:
    plan = plan_of("tp", "pp", "dp", "micro_batches", "reuse_own")
    trace = steps_of(plan)
    check_trace(trace)
    hops = {tuple(e["pid"] - FIRST_DEVICE for e in ends) for ends in trace.flows.values() if ends[0]["cat"] == "hop"}
    groups = {
        tuple(e["pid"] - FIRST_DEVICE for e in ends) for ends in trace.flows.values() if ends[0]["cat"] == "group"
    }
    cells = flows(plan.cost, size=1)[0].cells
    assert hops == {(c.sender, c.receiver) for c in cells if c.axis == "stage"}
    assert groups == {(c.sender, c.receiver) for c in cells if c.axis == "tensor" and c.sender < c.receiver}


def test_two_pools_have_devices_of_their_own_and_send_the_cache_between_them() -> None:
    plan = plan_of("ep", "own", "imbalance", "pools", "lookup")
    trace = steps_of(plan)
    check_trace(trace)
    many = plan.spec.pools[0].sharding.ranks
    sent = {
        tuple(e["pid"] - FIRST_DEVICE for e in ends) for ends in trace.flows.values() if ends[0]["cat"] == "transfer"
    }
    assert sent == {(c.sender, many + c.receiver) for c in flows(plan.cost, size=1)[2].cells}
    (begin, end) = next((s.start, s.end) for _, s in device_slices(trace, "KV cache sent"))
    moved = plan.closed_form().pools.sent  # type: ignore[union-attr]
    assert (end - begin) / 1e9 == pytest.approx(moved.time_s, abs=2e-9)
    assert max(s.args["bytes_of_a_request"] for _, s in device_slices(trace, "KV cache sent")) == pytest.approx(
        max(moved.sent, moved.received)
    )


def test_counters_hold_the_memory_of_the_estimate() -> None:
    plan = plan_of("tp", "ep")
    trace, held = steps_of(plan, "0"), plan.closed_form().stages[0]
    levels = [values for (pid, name), found in trace.counters.items() if name == "memory (GB)" for _, values in found]
    assert all(level["weights"] * 1e9 == pytest.approx(held.weights) for level in levels)
    cache = [level["KV cache"] * 1e9 for level in levels]
    assert cache[0] == 0
    assert sorted(cache) == cache
    assert cache[-1] <= held.kv_cache * (1 + 1e-9)


# ---- graphs


@pytest.mark.parametrize("row", ROWS, ids="+".join)
def test_graphs_of_all_ranks_agree_and_run_as_long_as_the_steps(row: tuple[str, ...]) -> None:
    plan = plan_of(*row)
    files = trace_ranks(plan.cost, plan.closed_form(), rounds=2)
    for phase in play_steps(plan.cost, 0.0, 2, most=10_000).phases:
        ranks, groups = read_phase(files, phase.name)
        assert list(ranks) == list(range(phase.placement.mesh.ranks))
        check_phase(ranks, groups)
        nodes = max(map(len, ranks.values()))
        assert replay(ranks, groups) == pytest.approx(phase.end - phase.start, abs=nodes * 1e-9)


def test_whole_microseconds_add_up() -> None:
    """Kernels of a few microseconds are rounded, and their sum is not."""
    plan = plan_of("tp", "ep")
    ranks, _ = read_phase(trace_ranks(plan.cost, plan.closed_form()), "decode")
    rounded, exact = sum(n.micros for n in ranks[0]), sum(n.seconds for n in ranks[0])
    assert rounded / 1e6 == pytest.approx(exact, abs=2e-6)


def test_collectives_bring_the_bytes_of_the_table() -> None:
    """What ranks bring to collectives is the payload of the table; of a gathering, the payload is what all bring."""
    plan = plan_of(*ROWS[4])
    files = trace_ranks(plan.cost, plan.closed_form())
    placement = play_steps(plan.cost, 0.0, 1, most=10_000).prefill.placement
    for phase in (PREFILL, DECODE):
        ranks, groups = read_phase(files, phase)
        found: dict[str, float] = defaultdict(float)
        for rank in (stage[0][0] for stage in placement.stages):
            for node in ranks[rank]:
                if node.type == 7:
                    kind = {0: "all_reduce", 2: "all_gather", 6: "all_to_all", 7: "reduce_scatter"}
                    word = kind[node.attributes["comm_type"]]
                    found[word] += node.size * (len(groups[node.attributes["pg_name"]]) if word == "all_gather" else 1)
                if node.type == 5 and not node.name.startswith("tokens"):
                    found["send"] += node.size
        table: dict[str, float] = defaultdict(float)
        batches = 2
        for row in plan.closed_form().communication.of(phase):
            table[row.op] += row.payload * batches
        assert found == pytest.approx(table, rel=1e-6)


def test_the_cache_goes_from_pool_to_pool() -> None:
    plan = plan_of("ep", "own", "imbalance", "pools", "lookup")
    ranks, groups = read_phase(trace_ranks(plan.cost, plan.closed_form()), "transfer")
    check_phase(ranks, groups)
    sent = sum(node.size for nodes in ranks.values() for node in nodes if node.type == 5)
    assert sent == pytest.approx(flows(plan.cost, size=1)[2].total, rel=1e-6)


# ---- requests


SERVED = """
plan p {{
  model = llama_3_1_8b, node = h100_8, sharding {{ {sharding} }}, engine = vllm
  workload {{ rate = 40 req/s, input = lognormal(mean = 500, p95 = 1500), output = 20, requests = 40 }}
  {more}
}}"""


@pytest.mark.parametrize(
    ("sharding", "more"),
    [
        ("tp = 2, dp = 2", ""),
        ("pp = 2", ""),
        ("tp = 2", "prefill {}, decode {}, transfer { bandwidth = 50 GB/s, latency = 10 us }"),
    ],
)
def test_a_simulation_shows_every_request_and_every_step(sharding: str, more: str) -> None:
    (plan,) = compile_text(SERVED.format(sharding=sharding, more=more))
    run = plan.simulate()
    trace, records = read_trace(trace_simulation(plan.spec, run)), run.records
    check_trace(trace)
    slices = [s for found in trace.slices.values() for s in found if s.kind == "step"]
    assert len(slices) == len(records.steps.start_s)
    assert sum(s.end - s.start for s in slices) / 1e9 == pytest.approx(
        float((records.steps.end_s - records.steps.start_s).sum()), rel=1e-6
    )
    assert sum(s.args["prompt_tokens"] for s in slices) == records.steps.prompt_tokens.sum()
    for request in range(len(records.input)):
        own = [events for (_, _, id_), events in trace.spans.items() if id_ == request]
        edges = [event["ts"] / 1e6 for events in own for event in events]
        token = next(e["ts"] for events in own for e in events if (e["ph"], e["name"]) == ("e", "prefill")) / 1e6
        assert min(edges) == pytest.approx(records.arrival_s[request], abs=1e-8)
        assert max(edges) == pytest.approx(records.finish_s[request], abs=1e-8)
        assert token == pytest.approx(records.first_s[request], abs=1e-8)
    levels = [
        values["blocks"] for (_, name), found in trace.counters.items() if name == "KV blocks" for _, values in found
    ]
    assert max(levels) == records.steps.blocks.max()
    assert max(levels) <= run.blocks


def test_stages_of_servers_that_are_served_apart_are_put_together() -> None:
    (plan,) = compile_text(SERVED.format(sharding="pp = 2, dp = 2", more=""))
    made = time_servers(*plan.cost.pools)
    load = draw_load(plan.spec, 30)
    worker = serving_worker(made.deployment.one, load.requests, "vllm", clock=made.clock)
    whole = simulate([worker] * 2, load.requests)
    parts = merge_shares(load.requests, [serve_share(worker, load.requests, number, 2) for number in (0, 1)])
    assert whole.stages is not None
    assert parts.stages is not None
    for records in (whole, parts):
        assert set(records.stages.replica.tolist()) == {0, 1}
    for server in (0, 1):
        one, other = ([x[s.replica == server] for x in s] for s in (whole.stages, parts.stages))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("more", ["", "prefill {}, decode {}, transfer { bandwidth = 50 GB/s, latency = 10 us }"])
def test_stages_of_a_simulation_have_tracks_that_add_up_and_arrows_from_stage_to_stage(more: str) -> None:
    (plan,) = compile_text(SERVED.format(sharding="pp = 3, dp = 2", more=more))
    run = plan.simulate(requests=25)
    trace, steps, stages = read_trace(trace_simulation(plan.spec, run)), run.records.steps, run.records.stages
    assert stages is not None
    check_trace(trace)
    busy = {
        (pid, name): sum(s.end - s.start for s in trace.slices.get((pid, tid), [])) / 1e9
        for (pid, tid), name in trace.tracks.items()
        if name.startswith("stage ")
    }
    servers = len(set(steps.replica.tolist()))
    assert len(busy) == 3 * servers
    assert sum(busy.values()) == pytest.approx(float((stages.end_s - stages.start_s).sum()), rel=1e-6)
    for server in set(steps.replica.tolist()):
        own = np.flatnonzero(steps.replica == server)
        mine = stages.replica == server
        first, last = (np.flatnonzero(mine & (stages.stage == stage)) for stage in (0, 2))
        assert len(first) == len(last) == len(own)
        np.testing.assert_allclose(stages.start_s[first], steps.start_s[own], atol=1e-9)
        assert (stages.end_s[last] <= steps.end_s[own] + 1e-9).all()
        assert (stages.start_s[last] > stages.end_s[first]).all()
    hops = [found for found in trace.flows.values() if found[0]["name"] == "hop"]
    assert len(hops) == len(steps.start_s)
    assert all(len(found) == 3 and len({event["tid"] for event in found}) == 3 for found in hops)


# ---- the command


EXPORT = ["export", str(ROOT / "examples" / "own_model.plan"), "--plan", "own"]


def export(*arguments: object) -> int:
    return main([*EXPORT, *map(str, arguments)])


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json", "b.json.gz"):
        assert export("--to", "perfetto", "-o", tmp_path / name) == 0
    whole = (tmp_path / "a.json").read_bytes()
    assert gzip.decompress((tmp_path / "b.json.gz").read_bytes()) == whole
    plan = plan_of("tp", "pp", "dp", "micro_batches", "reuse_own")
    again = compile_text(text(together("tp", "pp", "dp", "micro_batches", "reuse_own") or {}), plan="p")[0]
    files = [trace_ranks(one.cost, one.closed_form()) for one in (plan, again)]
    assert files[0] == files[1]


def test_ranks_are_chosen_by_words_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def devices(*arguments: str) -> set[int]:
        assert export("--to", "perfetto", "-o", tmp_path / "x.json", *arguments) == 0
        trace = read_trace((tmp_path / "x.json").read_text())
        return {pid - FIRST_DEVICE for pid in trace.processes if pid < FIRST_SERVER}

    assert devices("--ranks", "stages") == {0, 4}
    assert devices("--ranks", "0..2, 7", "--steps", "1") == {0, 1, 2, 7}
    for wrong in ("first", "3..1", "8", "0..8", ","):
        assert main([*EXPORT, "--to", "chakra", "-o", str(tmp_path), "--ranks", wrong]) == 2
        assert "error[E510]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--to", "perfetto", "--steps", 0), ("--to", "perfetto", "--steps", 1001),
        ("--to", "perfetto", "--requests", 5), ("--to", "perfetto", "--simulate", "--ranks", "all"),
        ("--to", "perfetto", "--simulate", "--steps", 1), ("--to", "chakra", "--simulate"),
        ("--to", "perfetto", "--simulate", "--requests", 0),
    ],
)  # fmt: skip
def test_options_that_contradict_are_refused(wrong: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert export(*wrong) == 2
    assert "error[E400]" in capsys.readouterr().err


def test_a_trace_of_too_many_events_is_refused_with_a_way_out() -> None:
    (plan,) = compile_text(
        "plan p { model = llama_3_1_70b, node = h100_8 with { count = 4096 }, sharding { tp = 8, dp = 512 },"
        " workload { input = 100, output = 10, batch = 512 } }"
    )
    for trace in (trace_steps, trace_ranks):
        with pytest.raises(PlanError, match="E511"):
            trace(plan.cost, plan.closed_form())
        assert trace(plan.cost, plan.closed_form(), "stages", 1)


# ---- the schemas of others


@pytest.mark.extras
def test_a_trace_matches_the_schema_of_the_format() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is missing: `make test-all` installs it")
    plan = plan_of("ep", "own", "imbalance", "pools", "lookup")
    jsonschema.validate(json.loads(trace_steps(plan.cost, plan.closed_form(), "0", 1)), EVENT_SCHEMA)
    served = compile_text(SERVED.format(sharding="tp = 2", more=""))[0]
    jsonschema.validate(json.loads(trace_simulation(served.spec, served.simulate(5))), EVENT_SCHEMA)


@pytest.mark.extras
def test_protobuf_reads_what_the_small_reader_reads() -> None:
    pytest.importorskip("google.protobuf", reason="protobuf is missing: `make test-all` installs it")
    from google.protobuf.internal.decoder import _DecodeVarint32
    from google.protobuf.unknown_fields import UnknownFieldSet

    node, metadata = message_fields()
    plan = plan_of("tp", "pp", "dp", "micro_batches", "reuse_own")
    files = trace_ranks(plan.cost, plan.closed_form())
    ours, _ = read_phase(files, "prefill")
    data = files["prefill.0.et"]
    assert isinstance(data, bytes)
    at, found = 0, []
    while at < len(data):
        size, at = _DecodeVarint32(data, at)
        one = (node if found else metadata)()
        one.ParseFromString(data[at : at + size])
        assert not len(UnknownFieldSet(one))
        found.append(one)
        at += size
    assert found[0].version == "1.0.0"
    for theirs, own in zip(found[1:], ours[0], strict=True):
        assert (theirs.id, theirs.name, theirs.type) == (own.id, own.name, own.type)
        assert (*theirs.ctrl_deps, *theirs.data_deps) == own.deps
        assert (theirs.start_time_micros, theirs.duration_micros) == (own.start, own.micros)
        given = {a.name: getattr(a, a.WhichOneof("value")) for a in theirs.attr}
        assert given == own.attributes
