"""Rows of mlperf.csv as plans and loads: submissions to MLPerf Inference."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from plandsl.backends.accuracy.names import PRECISION, Known, engine_of, find_gpu, find_model, precision_of
from plandsl.backends.accuracy.row import ENDLESS, NEVER, Cells, Limits, Row, degree, number, text
from plandsl.backends.accuracy.spread import Refused, Served, Spread, plan_text


class Bench(NamedTuple):
    """A benchmark: its model, mean lengths, and the most tokens of a prompt or an answer (0: all are equally long).

    ``server`` and ``interactive`` are the limits of the two scenarios with limits.
    """

    model: str
    input: float
    output: float
    longest: float
    server: Limits
    interactive: Limits


BENCHES = {
    "llama2-70b": Bench("llama_2_70b", 294, 294, longest=1024, server=Limits(2.0, 0.2), interactive=Limits(0.45, 0.04)),
    "llama3.1-405b": Bench(
        "llama_3_1_405b", 9428, 684, longest=0, server=Limits(6.0, 0.175), interactive=Limits(4.5, 0.08)
    ),
    "llama3.1-8b": Bench("llama_3_1_8b", 778, 128, longest=0, server=Limits(2.0, 0.1), interactive=Limits(0.5, 0.03)),
    "llama3_1-70b": Bench(
        "llama_3_1_70b", 294, 289, longest=1024, server=Limits(2.0, 0.2), interactive=Limits(0.45, 0.04)
    ),
    "mixtral-8x7b": Bench(
        "mixtral_8x7b", 294, 145, longest=1024, server=Limits(2.0, 0.2), interactive=Limits(2.0, 0.2)
    ),
    "deepseek-r1": Bench(
        "deepseek_r1", 1000, 3880, longest=20_000, server=Limits(2.0, 0.08), interactive=Limits(1.5, 0.015)
    ),
}
"""MLPerf Inference's benchmarks by the start of their name: models, datasets (OpenOrca, CNN-DailyMail, and others) and
limits of version 5.1, where a row does not state its own. Source: MLCommons, "MLPerf Inference: Datacenter", tables of
benchmarks and of latency constraints (99th percentiles of TTFT and TPOT)."""

DEGREES = (1, 2, 4, 8)
"""Of tensor parallelism, that a submission may have run where it does not state one."""


def mlperf_row(row: Cells, known: Known) -> Row:
    """The plan and the load of a row. Raises `Refused` where there is none."""
    name = text(row, "bench")
    bench = next((bench for start, bench in BENCHES.items() if name.lower().startswith(start)), None)
    if bench is None:
        raise Refused(f"no model is known for the benchmark {name or '(none)'}")
    gpu = find_gpu(text(row, "gpu"), known)
    if not gpu:
        raise Refused(f"the catalog has no GPU {text(row, 'gpu') or '(none)'}")
    if not find_model(bench.model, known):
        raise Refused(f"the catalog has no model {bench.model}")
    scenario = text(row, "scenario").lower()
    limits = _limits(row, bench, scenario)
    plans = _plans(row, bench, gpu, known)
    return Row(
        plans[0], "offline_all_at_once" if limits is None else "highest_rate",
        input=bench.input, output=number(row, "mean_osl_tokens", bench.output),
        clients=ENDLESS, requests=NEVER, others=tuple(plans[1:]), longest=bench.longest, limits=limits,
        gpus=degree(row, "n_gpu"),
    )  # fmt: skip


def _limits(row: Cells, bench: Bench, scenario: str) -> Limits | None:
    """What the scenario bounds; None where it bounds nothing."""
    if scenario == "offline":
        return None
    if scenario not in ("server", "interactive"):
        raise Refused(f"no load is known for the scenario {scenario or '(none)'}")
    own = bench.server if scenario == "server" else bench.interactive
    return Limits(number(row, "ttft_limit_s", own.ttft_s), number(row, "tpot_limit_s", own.tpot_s))


def _plans(row: Cells, bench: Bench, gpu: str, known: Known) -> list[str]:
    """Plans of one replica that may have been run. Every submission quantises: 16 bits are the checkpoint's."""
    said = f"{text(row, 'weight_dtype')} {text(row, 'precision_cfg')} {text(row, 'bench')}"
    dtype = precision_of(said)
    if dtype in ("", "fp16", "bf16"):
        dtype = "fp4" if gpu.startswith(("b", "gb", "rtx_pro")) else "fp8"
    weights, cache = PRECISION[dtype]
    served = Served(bench.model, gpu, weights=weights, cache=cache, engine=engine_of(text(row, "framework"), gpu))
    pp, gpus = degree(row, "pp"), degree(row, "n_gpu")
    stated = number(row, "tp")
    degrees = [n for n in (DEGREES if np.isnan(stated) else (degree(row, "tp"),)) if gpus % (n * pp) == 0]
    if not degrees:
        raise Refused(f"{gpus} GPUs do not make whole replicas")
    limit = number(row, "max_batch")
    found = [plan_text(served, Spread(1, pp, tp), known) for tp in degrees]
    return [_with_limit(text, limit) if served.engine else text for text in found]


def _with_limit(plan: str, most: float) -> str:
    """The same plan whose engine runs at most so many requests at once; NaN: as many as it does by default."""
    if not most >= 1:
        return plan
    return re.sub(r"(engine = \w+)", rf"\1 with {{ max_requests = {int(most)} }}", plan)
