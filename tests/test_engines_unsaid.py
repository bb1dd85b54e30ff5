"""What a plan says and an engine is not told: each field is an argument, or is told, or has no effect on a launch."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from plandsl.backends.engines.commands import CONNECTOR, write_settings
from plandsl.backends.engines.plans import deploy
from plandsl.backends.engines.server import Deployment, Draft, Server
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_file, compile_text
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.model import LoraSpec, ModelSpec
from plandsl.spec.plan import PlanSpec, ShardingSpec, ShiftSpec, SpeculateSpec, SplitSpec, WorkloadSpec
from plandsl.spec.scheduler import LIMITS, SCHEDULERS, Limit, SchedulerName, SchedulerSpec, TierSpec
from plandsl.spec.traffic import TrafficSpec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

MAPPED = {
    PlanSpec: "name model node sharding workload step_tokens memory_fraction engine cluster shift speculate split "
    "chunked_prefill tower",
    ShardingSpec: "axes rules replica_axes cut",
    WorkloadSpec: "input output batch in_flight concurrency requests reuse traffic encodes",
    ShiftSpec: "tensor threshold",
    SpeculateSpec: "draft own",
    SplitSpec: "prefill decode",
    ModelSpec: "name weights activations kv_cache state_cache max_context mtp",
    LoraSpec: "host_adapters targets",
    EngineSpec: "step_tokens max_requests memory_fraction fraction_of kv_block scheduler",
    SchedulerSpec: "name prefix_cache limits tiers write",
    TrafficSpec: "arrivals lengths trace",
}
"""Fields that become arguments of an engine, of its benchmark, or a comment about the checkpoint."""

TOLD = {
    PlanSpec: "overlap chunks micro_batches algorithm kv_residency hop_tensors fuse_norms router",
    ShardingSpec: "context_form placed",
    WorkloadSpec: "prefix demand images image_tokens drawn_images",
    SpeculateSpec: "sharding",
    SplitSpec: "bandwidth latency kv_transfer between",
    ModelSpec: "compute index_cache lora",
    SchedulerSpec: "graphs",
    TrafficSpec: "sessions classes duration adapters",
}
"""Fields that are told (W500), or refused (E503)."""

NO_EFFECT = {
    PlanSpec: "calibration requires measured pricing span calibrations",
    ShardingSpec: "name span hop_tensors",  # of which the plan has the number
    WorkloadSpec: "name chosen rate span",
    ShiftSpec: "span",
    SpeculateSpec: "acceptance span",
    SplitSpec: "span",
    # the checkpoint has them
    ModelSpec: "layers sizes embedding blocks head causal entry prelude stream tower source stored span",
    LoraSpec: "active mix host_bandwidth load_time disk_bandwidth",
    EngineSpec: "name prefill decode links step step_rank step_node request admit first first_request limits bands "
    "kept_output reserve context communicators libraries all_reduce workspace states logit graphs graph_layer "
    "graphs_in_budget kernels fusions fused_sizes ttft_low ttft_high tpot_low tpot_high throughput_low "
    "throughput_high kv_low kv_high source assumed span",
    TrafficSpec: "seed",
}
"""Fields about estimates, names of parts, and what a checkpoint says."""


def fields(spec: type) -> set[str]:
    return set(getattr(spec, "_fields", ())) or {a.name for a in attrs.fields(spec)}


@pytest.mark.parametrize("spec", MAPPED)
def test_each_field_is_mapped_or_told_or_has_no_effect(spec: type) -> None:
    tables = [set(table.get(spec, "").split()) for table in (MAPPED, TOLD, NO_EFFECT)]
    assert sum(map(len, tables)) == len(set.union(*tables)), "a field stands in two tables"
    assert set.union(*tables) == fields(spec)


def told(deployment: Deployment) -> str:
    assert all(remark.code == "W500" for remark in deployment.remarks)
    return "\n".join(remark.message for remark in deployment.remarks)


def export(text: str, engine: SchedulerName = "vllm") -> Deployment:
    plan = compile_text(text)[0]
    return deploy(plan.spec, engine, plan.closed_form(), plan.sources)


DECLARED = """
engine off = vllm with { kv_tiers = [[200 GB, 50 GB/s]], kv_write = back, graph_sizes = [1, 2, 4] }
model adapted = llama_3_1_8b with { compute = bf16, lora { adapters = 4, rank = 20, targets = [w_q] } }
model elsewhere = deepseek_v3 with { lora { adapters = 4, rank = 16, targets = [w_o, w_dkv] } }
"""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("model = adapted, engine = off, sharding { tp = 2, dp = 2 }, fuse_norms = false, "
         "kv_residency = one_batch, router = least_loaded, algorithm = ring, "
         "workload { input = 64, output = 8, concurrency = 4, reuse = 50 %, prefix = own, demand = 9 req/s }",
         ["fuse_norms = false", "kv_residency = one_batch", "router = least_loaded", "algorithm = ring",
          "compute = bf16", "room for adapters of w_k and w_v too", "reserves memory for rank 32",
          "the plan counts with 50 GB/s", "no argument says `kv_write = back`",
          "`graph_sizes`", "prefix = own", "demand of 9 req/s"]),
        ("model = llama_3_1_8b, sharding { cp = 2, context_form = gather, tp = 2, place tensor in node }, "
         "workload { input = 64, output = 8, batch = 4 }",
         ["context_form = gather", "place tensor in node"]),
        ("model = elsewhere, node = h200_8, sharding { ep = 8 }, workload { input = 64, output = 8 }",
         ["have adapters (w_o, w_dkv)"]),
    ],
)  # fmt: skip
def test_what_is_left_out_is_told(fields: str, words: list[str]) -> None:
    node = "" if "node =" in fields else "node = h100_8, "
    found = told(export(f"{DECLARED}plan p {{ {node}{fields} }}"))
    for word in words:
        assert word in found


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_unlike_gpus_transfers_and_images_are_told(engine: SchedulerName) -> None:
    for file, name, words in (
        ("unlike_gpus.plan", "by_hand", "has h100_sxm and h200_sxm"),
        ("split_llama_3_3_70b.plan", "split", "the plan counts with"),
        ("vision.plan", "whole_images", "how the tower `tower` lies on the ranks" if engine == "trtllm" else ""),
        ("vision.plan", "split", "2 in a prompt, of 576 tokens each"),
    ):
        plan = compile_file(EXAMPLES / file, name)[0]
        assert words in told(deploy(plan.spec, engine, plan.closed_form(), plan.sources))


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_a_tower_that_lies_as_no_engine_lays_it_is_told(engine: SchedulerName) -> None:
    text = (EXAMPLES / "vision.plan").read_text() + "plan odd = split with { tower { sharding { tp = 2 } } }\n"
    plan = next(one for one in compile_text(text) if one.spec.name == "odd")
    words = told(deploy(plan.spec, engine, plan.closed_form(), plan.sources))
    assert ("lies on the ranks" if engine == "trtllm" else "`tower` lies otherwise") in words


@pytest.mark.parametrize(
    ("fields", "engine", "why"),
    [
        ("model = llama_3_1_8b, workload { input = 64, output = 0, batch = 4 }", "trtllm", "has no encoders"),
        ("model = llama_3_3_70b, sharding { tp = 8 }, workload { input = 64, output = 8, batch = 4 }, "
         "speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 70 %, sharding { tp = 4 } }",
         "sglang", "lays a draft model over"),
    ],
)  # fmt: skip
def test_another_program_is_refused(fields: str, engine: SchedulerName, why: str) -> None:
    with pytest.raises(PlanError) as caught:
        export(f"{DECLARED}plan p {{ node = h100_8, {fields} }}", engine)
    assert caught.value.diagnostics[0].code == "E503"
    assert why in caught.value.diagnostics[0].message


@pytest.mark.parametrize("engine", SCHEDULERS)
def test_each_limit_of_a_scheduler_is_an_argument(engine: SchedulerName) -> None:
    plan = compile_text("plan p { model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, "
                        "workload { input = 64, output = 8, batch = 4 } }")[0].spec  # fmt: skip
    plain = Server("m", weights="bf16", kv_cache="bf16")
    usual = write_settings(engine, plain, plan, CONNECTOR[engine])
    for name, limit in LIMITS[engine].items():
        server = plain._replace(options=((name, other(name, limit)),))
        assert write_settings(engine, server, plan, CONNECTOR[engine]) != usual, name


def other(name: str, limit: Limit) -> bool | float | str:
    """A value that differs from the scheduler's own."""
    match limit.kind:
        case "flag":
            return name != "ahead"
        case "whole":
            return 7
        case "share" | "number":
            return 0.3
        case "word":
            return limit.words[-1]


def test_tiers_and_drafts_have_no_further_fields() -> None:
    assert TierSpec._fields == ("memory", "bandwidth", "latency")
    assert Draft._fields == ("kind", "tokens", "model", "tensor")
