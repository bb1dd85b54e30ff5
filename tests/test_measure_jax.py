"""`planc measure` with jax, on devices of the host: every kind of kernel runs, and a small model's loop closes."""

import csv
import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: plandsl[run]"),
]

KERNELS = """
import sys
from plandsl.backends.measure import cases, find_device
from plandsl.backends.measure.devices import Refused
device = find_device(2)
shape = cases.Shape(4, 2, 16, "fp32", "fp32")
some = [cases.gemm("fp32", 4, 64, 32), cases.gemm("bf16", 4, 64, 32), cases.prefill(shape, 2, 8),
        cases.decode(shape, 2, 8), cases.prefill(shape._replace(window=4, causal=False), 1, 8),
        cases.peak(cases.LAUNCH, 1),
        cases.peak(cases.COPY, 2**16), cases.peak(cases.READ, 2**16), cases.peak(cases.MATRIX, 64, "fp32")]
words = ("rmsnorm", "layernorm", "fused_add_rmsnorm", "rope", "silu_and_mul", "residual_add", "embedding", "gelu")
some += [cases.elementwise(op, "fp32", 4, 128) for op in words]
some += [cases.collective(op, 2, 1024) for op in cases.COLLECTIVES]
for case in some:
    assert device.prepare(case, 3)() > 0, case
for case in (cases.gemm("fp6", 4, 64, 32), cases.elementwise("no_such", "fp32", 4, 8), cases.collective("p2p", 4, 64)):
    try:
        device.prepare(case, 2)
    except Refused as error:
        print(error)
"""

MODEL = "layers = 2, hidden = 64, ffn = 128, heads = 4, kv_heads = 2, head_dim = 16, vocab = 96"
PLAN = f"""
model small = llama_3_1_8b with {{ {MODEL}, weights = fp32, kv_cache = fp32, activations = fp32 }}
plan p {{
  model = small, node = h100_1 with {{ gpu {{ compute {{ fp32 = 1 TFLOP/s }} }} }}
  workload {{ input = 16, output = 2, batch = 2 }}, sharding {{ tp = 1 }}
}}
"""


def run(*arguments):
    """A process of its own: jax hears of devices only before it starts."""
    return subprocess.run([sys.executable, *arguments], env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True,
                          text=True, check=False)  # fmt: skip


def test_every_kind_of_kernel_runs_and_others_are_refused_with_a_reason():
    done = run("-c", KERNELS)
    assert done.returncode == 0, done.stderr
    formats, kernel, devices = done.stdout.splitlines()
    assert "fp6" in formats
    assert "no kernel `no_such`" in kernel
    assert "4 devices are needed, and jax has 2" in devices


MEASURE = """
import sys
from pathlib import Path
from plandsl.backends.measure import Rows, device_cases, find_device, measure, plan_cases
from plandsl.driver import compile_file
device = find_device(1)
asked = plan_cases(plan.cost.evaluate() for plan in compile_file(sys.argv[1]))
gemms = [case for case in asked.cases if case.file == "gemm.csv"]
rows = Rows(Path(sys.argv[2]), "here", device.about.name)
done = measure(device, [*device_cases(["fp32"], 2**28), *gemms], rows, 1e6)
assert done.measured >= len(gemms) >= 12, done
"""


def test_a_plan_is_measured_calibrated_and_predicted(tmp_path):
    pytest.importorskip("scipy")
    plan, out, made = (tmp_path / name for name in ("p.plan", "mine.csv", "mine.plan"))
    plan.write_text(PLAN)
    measured = run("-c", MEASURE, str(plan), str(out))
    assert measured.returncode == 0, measured.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(r["time_s"]) <= float(r["median_s"]) <= float(r["p90_s"]) for r in rows if r["time_s"])
    fitted = run("-m", "plandsl", "calibrate", str(out), "-o", str(made))
    assert fitted.returncode == 0, fitted.stderr
    text = PLAN.partition("plan p")[0] + 'plan p { model = small, node = here_1, measured = "mine.csv"\n'
    load = "workload { input = 16, output = 2, batch = 2 }, sharding { tp = 1 }"
    plan.write_text(f'use "mine.plan"\n{text} {load} }}\n')
    answer = run("-m", "plandsl", "compile", str(plan), "--plan", "p", "--json")
    assert answer.returncode == 0, answer.stderr
    assert '"measured"' in answer.stdout
