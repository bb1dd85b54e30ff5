"""What a plan says is shown as text that means the same, field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl.driver import open_text
from plandsl.show import show_plan
from plandsl.spec.plan import PlanSpec
from plandsl.testing.compare import same

LOAD = "workload { input = 64, output = 8, batch = 4 }"
LINK = "link { topology = pcie, bandwidth = 50 GB/s, latency = 5 us"
TIMES = "timestamp,input,output\n0,100,10\n1,200,20\n3,150,10\n"

FIELDS = {
    "disk_bandwidth": "model = llama_3_1_8b with { lora { adapters = 4, rank = 16, targets = [w_q], "
    f"host_bandwidth = 20 GB/s, load_time = 2 ms, host_adapters = 40, disk_bandwidth = 2 GB/s }} }}, {LOAD}",
    "load_time": "model = llama_3_1_8b with { lora { adapters = 4, rank = 16, targets = [w_q], "
    f"host_bandwidth = 20 GB/s, load_time = 2 ms }} }}, {LOAD}",
    "network": "model = llama_3_1_8b, node = h200_8 with { host_memory = 1 TB, "
    f"network {{ topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }} }}, {LOAD}",
    "host_memory": f"model = llama_3_1_8b, node = h200_8 with {{ host_memory = 1 TB }}, {LOAD}",
    "kv_tiers": "model = llama_3_1_8b, engine = vllm with { kv_tiers = [[80 GB, 50 GB/s], [1 TB, 5 GB/s, 90 us]] }, "
    "workload { input = 64, output = 8, concurrency = 4 }",
    "hop_tensors": f"model = llama_3_1_8b, sharding {{ pp = 2, hop_tensors = 2 }}, {LOAD}",
    "bands.gpus": f'model = llama_3_1_8b, engine = vllm with {{ bands {{ gpus = ["H100"] }} }}, {LOAD}',
    "_decode": "model = llama_3_1_8b, prefill { node = h100_8, batch = 2 }, "
    "decode { node = h100_8 with { gpu { bandwidth = 9 TB/s } } }, transfer { bandwidth = 50 GB/s, latency = 10 us }, "
    + LOAD,
    "zipf(": "model = llama_3_1_8b, engine = vllm, workload { input = zipf(1.5, min = 10, max = 90), output = 8, "
    "rate = at_once, requests = 30 }",
    "at_once": "model = llama_3_1_8b, engine = vllm, workload { input = 40, output = 8, rate = at_once, requests = 9 }",
    "empirical(": 'model = llama_3_1_8b, engine = vllm, workload { input = empirical("t.csv", column = "input"), '
    "output = 8, rate = 5 req/s, requests = 30 }",
    "trace_rate(": "model = llama_3_1_8b, engine = vllm, workload { input = 64, output = 8, "
    'rate = trace_rate("t.csv", bin = 2 s, scale = 0.5), requests = 30 }',
    "speed": 'model = llama_3_1_8b, engine = vllm, workload { trace = "t.csv", speed = 2.5, requests = 3 }',
    "seed": "model = llama_3_1_8b, engine = vllm, workload { input = 40, output = 8, rate = 5 req/s, duration = 9 s, "
    "seed = 4 }",
}


def spec_of(text: str, folder: Path) -> PlanSpec:
    module = open_text(text, str(folder / "p.plan"))
    spec = module.plan(module.plans[-1])
    assert spec is not None, module.diagnostics
    return spec


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_shown_reads_back(field: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TIMES)
    node = "" if "node = " in FIELDS[field] else "node = h200_8, "
    spec = spec_of(f"plan p {{ {node}{FIELDS[field]} }}", tmp_path)
    shown = show_plan(spec)
    assert field.split(".")[-1] in shown
    assert same(spec_of(shown, tmp_path), spec)
