"""A figure that a plan states changes some answer: every number of hardware, engines and calibrations, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from attrs import evolve

from plandsl.driver import compile_text
from plandsl.grammar.engines import NUMBERS
from plandsl.grammar.hardware import CLUSTER, GPU, LINK, NETWORK, NODE
from plandsl.spec.constants import FORMS, names
from plandsl.spec.hardware import CONSTANTS, ENGINE_BYTES

BASE = """
calibration shares {
  gemm = 0.4, attention_prefill = 0.4, attention_decode = 1e-4, hbm = 0.7, link = 0.7, low = 0.8, high = 1.2
  launch = 4 us, launch_elementwise = 3 us, launch_collective = 9 us
}
gpu card = l40s with { price = 2 USD/h }
node box { gpu = card, count = 4, link { topology = pcie, bandwidth = 30 GB/s, latency = 6 us, bridge = 50 GB/s } }
node ports = box with { link { pcie = 4, lanes = 8 } }
engine e = vllm with { throughput_low = 0.9, throughput_high = 1.1, step_node = 1 ms, max_requests = 100 }
plan pair {
  model = llama_3_2_1b, node = box, engine = e, sharding { tp = 2 }
  workload { input = 900, output = 30, batch = 8 }
}
plan all = pair with { sharding { tp = 4 } }
plan limited = all with { node { gpu { power = 200 W } } }
plan kept = pair with { pricing = reserved, node { gpu { price_reserved = 1 USD/h } } }
plan beside = pair with { engine = sglang }
plan lanes = all with { node = ports }
plan loaded {
  model = llama_3_2_1b, node = box, engine = e, sharding { tp = 2 }
  workload { input = 900, output = 300, concurrency = 101, requests = 900 }
}
plan crowded {
  model = llama_3_1_8b, node = box, engine = vllm, sharding { tp = 2 }
  workload { input = 6000, output = 2000, concurrency = 400, requests = 900 }
}
plan again = pair with { workload { input = 905, output = 30, batch = 8, reuse = 50 % } }
plan spun {
  model = llama_3_2_1b, node = grid, calibration = shares, sharding { tp = 4 }
  workload { input = 900, output = 30, batch = 8 }
}
node grid { gpu = h100_sxm, count = 16, link { topology = torus(4, 4), bandwidth = 50 GB/s, latency = 1 us } }
plan wound {
  model = llama_3_2_1b, cluster = loop, sharding { tp = 4, dp = 2 }
  workload { input = 900, output = 30, batch = 8 }
}
cluster loop {
  node = h100_1, count = 16, network { topology = torus(4, 4), bandwidth = 50 GB/s, latency = 1 us }
}
cluster pods {
  node = h100_8, count = 4
  network { topology = rail, bandwidth = 50 GB/s, latency = 5 us }
}
plan far {
  model = llama_3_2_1b, cluster = pods, engine = e, sharding { dp = 2, tp = 8, pp = 2 }
  workload { input = 900, output = 30, batch = 8 }
}
plan flat {
  model = llama_3_2_1b, node = box, calibration = shares, sharding { tp = 4 }
  workload { input = 900, output = 30, batch = 8 }
}
"""

FIELDS = {
    "gpu.memory": ("pair", "node { gpu { memory = 40 GB } }"),
    "gpu.bandwidth": ("pair", "node { gpu { bandwidth = 500 GB/s } }"),
    "gpu.units": ("pair", "node { gpu { units = 100 } }"),
    "gpu.compute": ("pair", "node { gpu { compute { bf16 = 100 TFLOP/s } } }"),
    "gpu.price": ("pair", "node { gpu { price = 3 USD/h } }"),
    "gpu.power": ("all", "node { gpu { power = 200 W } }"),
    "gpu.power_max": ("limited", "node { gpu { power_max = 600 W } }"),
    "gpu.power_idle": ("pair", "node { gpu { power_idle = 90 W } }"),
    "gpu.price_reserved": ("kept", "node { gpu { price_reserved = 3 USD/h } }"),
    "node.price": ("pair", "node { price = 9 USD/h }"),
    "node.price_reserved": ("kept", "node { price_reserved = 7 USD/h }"),
    "node.overhead": ("pair", "node { overhead = 90 W }"),
    "node.pue": ("pair", "node { pue = 1.5 }"),
    "gpu.p2p": ("all", "node { gpu { p2p = off } }"),
    "link.bandwidth": ("all", "node { link { bandwidth = 20 GB/s } }"),
    "link.latency": ("all", "node { link { latency = 7 us } }"),
    "link.bridge": ("pair", "node { link { bridge = 40 GB/s } }"),
    "link.p2p": ("all", "node { link { p2p = off } }"),
    "link.pcie": ("lanes", "node { link { pcie = 3 } }"),
    "link.lanes": ("lanes", "node { link { lanes = 4 } }"),
    "link.wrap": ("spun", "node { link { wrap = off } }"),
    "network.wrap": ("wound", "cluster { network { wrap = off } }"),
    "node.count": ("far", "cluster { node { count = 4 }, count = 8 }"),
    "cluster.count": ("far", "cluster { count = 5 }, sharding { dp = 2, tp = 8, pp = 2 }"),
    "network.bandwidth": ("far", "cluster { network { bandwidth = 40 GB/s } }"),
    "network.latency": ("far", "cluster { network { latency = 9 us } }"),
    **{f"engine.{name}": ("pair", f"engine {{ {name} = 80 % }}") for name in ("prefill", "decode", "links")},
    **{f"engine.{name}": ("pair", f"engine {{ {name} = 7 ms }}") for name in ("step", "step_rank", "request", "first")},
    **{f"engine.{name}": ("loaded", f"engine {{ {name} = 9 ms }}") for name in ("admit", "first_request")},
    "engine.step_node": ("far", "engine { step_node = 9 ms }"),
    "engine.kept_output": ("crowded", "engine { kept_output = 90 % }"),
    "engine.memory_fraction": ("pair", "engine { memory_fraction = 70 % }"),
    **{f"engine.{name}": ("pair", f"engine {{ {name} = 3 GB }}") for name in ENGINE_BYTES},
    **{f"engine.{name}": ("beside", f"engine {{ {name} = 3 GB }}") for name in ("context", "communicators")},
    "engine.all_reduce": ("far", "engine { all_reduce = 3 GB }"),
    "engine.step_tokens": ("crowded", "engine { step_tokens = 80000 }"),
    "engine.max_requests": ("loaded", "engine { max_requests = 50 }"),
    "engine.kv_block": ("again", "engine { kv_block = 64 }"),
    **{
        f"engine.{metric}_{end}": ("pair", f"engine {{ {metric}_{end} = {0.5 if end == 'low' else 2} }}")
        for metric in ("ttft", "tpot", "throughput", "kv")
        for end in ("low", "high")
    },
    **{f"calibration.{name}": ("flat", f"calibration {{ {name} = 0.5 }}") for name in ("gemm", "hbm", "link", "low")},
    "calibration.attention_prefill": ("flat", "calibration { attention_prefill = 0.1 }"),
    "calibration.attention_decode": ("flat", "calibration { attention_decode = 5e-5 }"),
    "calibration.high": ("flat", "calibration { high = 1.5 }"),
    **{
        f"calibration.{name}": ("flat", f"calibration {{ {name} = 20 us }}")
        for name in ("launch", "launch_elementwise", "launch_collective")
    },
}
"""A field, the plan in which it counts, and another value of it."""

NOT_FIGURES = {
    "gpu.source", "gpu.measured", "gpu.calibration", "node.gpu", "node.gpus", "node.link", "node.network",
    "node.source", "node.measured", "cluster.node", "cluster.nodes", "cluster.network", "cluster.source",
    "cluster.measured", "link.topology", "network.topology", "gpu.price_source", "node.price_source",
}  # fmt: skip
"""Fields that hold no number."""

UNUSED = {
    "node.host_memory": "the catalog shows it",
    "gpu.memory_total": "SGLang picks its CUDA graphs by it, which a simulation shows",
}
"""Fields that change no estimate, and what they are for."""


def figures(made: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a report, by its place."""
    if isinstance(made, dict):
        for key, value in made.items():
            yield from figures(value, f"{path}/{key}")
    elif isinstance(made, list):
        for at, value in enumerate(made):
            yield from figures(value, f"{path}/{at}")
    elif isinstance(made, int | float) and not isinstance(made, bool):
        yield path, made


@lru_cache
def reports() -> dict[str, dict[str, float]]:
    """The numbers of the plans of `BASE`, and of each plan with one field changed."""
    changed = (f"plan {field.replace('.', '_')} = {plan} with {{ {said} }}" for field, (plan, said) in FIELDS.items())
    return {
        made.name: dict(figures(made.closed_form().as_json())) for made in compile_text("\n".join((BASE, *changed)))
    }


@pytest.mark.parametrize("field", FIELDS)
def test_a_stated_figure_changes_some_answer(field: str) -> None:
    plan, _ = FIELDS[field]
    assert reports()[field.replace(".", "_")] != reports()[plan]


def test_every_figure_that_can_be_stated_is_among_them() -> None:
    known = {
        "gpu": GPU, "node": NODE, "cluster": CLUSTER, "link": LINK, "network": NETWORK,
        "engine": NUMBERS, "calibration": tuple(CONSTANTS),
    }  # fmt: skip
    stated = {f"{kind}.{name}" for kind, fields in known.items() for name in fields}
    assert stated - NOT_FIGURES == FIELDS.keys() | UNUSED.keys()


# ---- constants of fitted forms

NETWORKED = "count = 2, network { topology = rail, bandwidth = 50 GB/s, latency = 5 us } }"
FORM_PLANS = (
    ("llama_3_1_8b", "node = h100_2, sharding { tp = 2 }", (2000, 32, 8)),
    ("llama_3_1_8b", "node = h100_8, sharding { tp = 8 }, engine = trtllm", (20000, 32, 200)),
    ("llama_3_1_8b with { weights = fp8 }", "node = h100_4, sharding { tp = 4 }", (100, 32, 1)),
    ("qwen3_30b_a3b", "node = rtx_pro_6000_2, sharding { tp = 2 }, chunked_prefill = 512", (1000, 300, 200)),
    ("deepseek_v3", "node = h200_8, sharding { tp = 8 }", (2000, 9, 8)),
    ("deepseek_v3", "node = h200_8, sharding { tp = 8 }", (100000, 9, 1)),
    ("deepseek_v3", "node = h200_8, sharding { ep = 8 }", (2000, 32, 64)),
    ("deepseek_v3", f"cluster {{ node = h200_8, {NETWORKED}\n sharding {{ ep = 16 }}", (2000, 32, 640)),
    ("mixtral_8x7b", "node = h100_2, sharding { tp = 2 }", (2000, 32, 8)),
    ("llama_3_1_8b", f"cluster {{ node = h100_8, {NETWORKED}\n sharding {{ tp = 16 }}", (9000, 9, 8)),
)
"""A model, where it runs, its input, output and batch: together their times use every constant."""

OF_MEASUREMENTS = {
    "gemm": ("cached",),
    "attention_prefill": ("write",), "attention_decode": ("cache", "cached"),
    "attention_mixed": ("split",), "grouped_gemm": names(FORMS["grouped_gemm"]),
}  # fmt: skip
"""Constants that say what was measured beside a kernel, or by itself: no estimate needs them (docs/calibration.md)."""


@lru_cache
def deployments() -> tuple[Any, ...]:
    """The cost model of each of the plans, and its first figures."""
    made = []
    for model, where, (input_, output, batch) in FORM_PLANS:
        load = f"workload {{ input = {input_}, output = {output}, batch = {batch} }}"
        made += compile_text(f"plan p {{\n model = {model}\n {where}\n {load}\n}}")
    models = [one.cost.on(one.spec) for one in made]  # models made of these share what a constant does not change
    return tuple((model, model.evaluate()[:4]) for model in models)


@pytest.mark.parametrize("form", FORMS)
def test_every_constant_of_a_form_changes_some_time(form: str) -> None:
    unused = []
    for name in names(FORMS[form]):
        times = 0.1 if name == "rails" else 1.3  # fewer ports than GPUs
        for model, before in deployments():
            known = model.plan.calibration
            ours = {path for path, _ in known.values if path.startswith(f"{form}.") and path.endswith(f".{name}")}
            values = tuple((path, value * times if path in ours else value) for path, value in known.values)
            if ours and model.on(evolve(model.plan, calibration=evolve(known, values=values))).evaluate()[:4] != before:
                break
        else:
            unused.append(name)
    assert tuple(unused) == OF_MEASUREMENTS.get(form, ())
