"""`planc measure --with torch` on a CPU: every kind of kernel runs, and a small plan is measured and calibrated."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
]

KERNELS = """
from plandsl.backends.measure import cases, find_device
from plandsl.backends.measure.devices import Refused
device = find_device(None, "torch")
assert device.about.library.startswith("torch ") and device.about.units >= 1 and device.about.memory > 1e8
shape = cases.Shape(4, 2, 16, "fp32", "fp32")
some = [cases.gemm("fp32", 4, 64, 32), cases.gemm("bf16", 4, 64, 32), cases.gemm("w8a16", 4, 64, 32),
        cases.prefill(shape, 2, 8), cases.decode(shape, 2, 8),
        cases.prefill(shape._replace(window=4, causal=False), 1, 8), cases.decode(shape._replace(window=4), 2, 8),
        cases.peak(cases.LAUNCH, 1), cases.peak(cases.COPY, 2**16), cases.peak(cases.READ, 2**16),
        cases.peak(cases.MATRIX, 64, "fp32")]
words = ("rmsnorm", "layernorm", "residual_add", "embedding", "gelu", "silu", "relu", "tanh", "sigmoid", "exp")
some += [cases.elementwise(op, "fp32", 4, 128) for op in words]
for case in some:
    assert device.prepare(case, 3)() > 0, case
for case in (cases.gemm("fp6", 4, 64, 32), cases.elementwise("rope", "fp32", 4, 128),
             cases.elementwise("no_such", "fp32", 4, 8), cases.collective("p2p", 2, 64),
             cases.decode(shape._replace(kv_dtype="fp8"), 2, 8)):
    try:
        device.prepare(case, 2)
    except Refused as error:
        print(error)
    else:
        raise AssertionError(case)
"""

EQUAL = """
import torch
from plandsl.backends.measure import cases, find_device
device = find_device(None, "torch")
shape = cases.Shape(4, 2, 16, "fp32", "fp32", window=3)
made, fill = [], device._filled
device._filled = lambda shape, dtype: made.append(100 * fill(shape, dtype)) or made[-1]
step = device._attention(cases.prefill(shape, 2, 8), 1)
q, (k, v) = made[0], (x.repeat_interleave(2, 1) for x in made[1])
scores = q @ k.transpose(-1, -2) / 4
far = torch.arange(8)[:, None] - torch.arange(8)
scores[..., (far < 0) | (far >= 3)] = float("-inf")
assert torch.allclose(step(0), scores.softmax(-1) @ v, atol=1e-4), (step(0), scores.softmax(-1) @ v)
"""

PLAN = """
model small = llama_3_1_8b with {
  layers = 2, hidden = 64, ffn = 128, heads = 4, kv_heads = 2, head_dim = 16, vocab = 96
  weights = fp32, kv_cache = fp32, activations = fp32
}
plan p {
  model = small, node = h100_1 with { gpu { compute { fp32 = 1 TFLOP/s } } }
  workload { input = 16, output = 2, batch = 2 }, sharding { tp = 1 }
}
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_every_kind_of_kernel_runs_and_others_are_refused_with_a_reason() -> None:
    done = run("-c", KERNELS)
    assert done.returncode == 0, done.stderr
    for said, words in zip(
        done.stdout.splitlines(), ("no `fp6`", "several kernels", "no kernel `no_such`", "for each rank", "in `fp8`"),
        strict=True,
    ):  # fmt: skip
        assert words in said


def test_attention_sees_the_keys_of_its_window_alone() -> None:
    done = run("-c", EQUAL)
    assert done.returncode == 0, done.stderr


MEASURE = """
import sys
from pathlib import Path
from plandsl.backends.measure import Rows, cases, find_device, measure, plan_cases
from plandsl.driver import compile_file
device = find_device(None, "torch")
asked = plan_cases(plan.cost.evaluate() for plan in compile_file(sys.argv[1]))
gemms = [case for case in asked.cases if case.file == "gemm.csv"]
peaks = [cases.peak(cases.MATRIX, 512, "fp32"), cases.peak(cases.COPY, 2**24), cases.peak(cases.READ, 2**24)]
rows = Rows(Path(sys.argv[2]), "here", device.about.name, device.about.library)
done = measure(device, [*peaks, *gemms], rows, 1e6)
assert done.measured >= len(gemms) >= 12, done
"""


def test_a_plan_is_measured_and_calibrated(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    plan, out, made = (tmp_path / name for name in ("p.plan", "mine.csv", "mine.plan"))
    plan.write_text(PLAN)
    measured = run("-c", MEASURE, str(plan), str(out))
    assert measured.returncode == 0, measured.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["kernel"] for row in rows if row["time_s"]} == {"eager"}
    assert all(float(r["time_s"]) <= float(r["median_s"]) <= float(r["p90_s"]) for r in rows if r["time_s"])
    fitted = run("-m", "plandsl", "calibrate", str(out), "-o", str(made))
    assert fitted.returncode == 0, fitted.stderr
    assert "gpu here" in made.read_text()
