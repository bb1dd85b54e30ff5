"""`make loop`: measure this machine, calibrate, predict the steps of small models, run them, and print the errors.

The first model is the one whose kernels are measured. Of the others nothing is measured: other widths, other batches.
Needs the extras `run` and `fit`. Work is kept in a folder, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from plandsl.backends.jax import time_program
from plandsl.cli import main as planc
from plandsl.driver import CompiledPlan, compile_text

MEASURED = "measured"

MODELS = {
    MEASURED: "layers = 8, hidden = 1024, ffn = 2816, heads = 16, kv_heads = 8, head_dim = 64, vocab = 8192",
    "wider": "layers = 6, hidden = 1536, ffn = 4096, heads = 24, kv_heads = 8, head_dim = 64, vocab = 8192",
    "narrower": "layers = 16, hidden = 768, ffn = 2048, heads = 12, kv_heads = 4, head_dim = 64, vocab = 8192",
}
"""Llama-shaped models of 300 to 500 MB, more than the last-level cache of most CPUs."""

LOADS = {
    MEASURED: "input = 128, output = 16, batch = 4",
    "wider": "input = 96, output = 16, batch = 6",
    "narrower": "input = 192, output = 16, batch = 2",
}

FORMATS = "weights = fp32, kv_cache = fp32, activations = fp32"
"""CPUs without instructions for 16 bits unpack them first."""

GPU = "loop_cpu"


def plan_text(name: str, machine: str) -> str:
    """One plan, with ``machine`` as its node and further fields."""
    model = f"model {name}_model = llama_3_1_8b with {{ {MODELS[name]}, {FORMATS} }}"
    load = f"workload {{ {LOADS[name]} }}, sharding {{ tp = 1 }}"
    return f"{model}\nplan {name} {{ model = {name}_model, {machine}, {load} }}\n"


SHAPES = "node = h100_1 with { gpu { compute { fp32 = 1 TFLOP/s } } }"
"""A machine for the shapes of the plan, which do not depend on it."""


def compiled(name: str, folder: Path, tables: bool) -> CompiledPlan:
    """A plan on the measured machine; with ``tables``, measured kernels count before fitted ones."""
    machine = f"node = {GPU}_1" + (', measured = "mine.csv"' if tables else "")
    text = f'use "mine.plan"\n{plan_text(name, machine)}'
    return next(plan for plan in compile_text(text, str(folder / "loop.plan")) if plan.name == name)


SPIN = 0.5
"""Seconds that each core is kept busy to see how much of it there is."""


def spin(seconds: float) -> float:
    """Seconds of a core that this process gets in ``seconds``."""
    end, begun = time.perf_counter() + seconds, time.process_time()
    while time.perf_counter() < end:
        pass
    return time.process_time() - begun


def share_of_cores() -> float:
    """The share of all cores that programs get which want all of them: what others leave."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        return sum(pool.map(spin, [SPIN] * cores)) / (SPIN * cores)


def main() -> None:
    """Run the loop."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--folder", default="build/loop", help="where the files are (default: build/loop)")
    made.add_argument("--seconds", default="600", help="seconds for measuring (default: 600)")
    arguments = made.parse_args()
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    shapes, rows, calibration = folder / "shapes.plan", folder / "mine.csv", folder / "mine.plan"
    shapes.write_text(plan_text(MEASURED, SHAPES))
    asked = ["--for", str(shapes), "--gpu", GPU, "--seconds", arguments.seconds]
    if planc(["measure", "-o", str(rows), *asked]) or planc(["calibrate", str(rows), "-o", str(calibration)]):
        raise SystemExit(1)
    print(f"\nload of the machine: {', '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()} cores, "
          f"of which a program on all of them gets {100 * share_of_cores():.0f} %")  # fmt: skip
    print(f"{'model':<10}{'step':<9}{'measured':>12}{'fitted':>12}{'off':>8}{'tables':>12}{'off':>8}")
    for name in MODELS:
        fitted, tables = (compiled(name, folder, own).estimate() for own in (False, True))
        for row in time_program(compiled(name, folder, False).jax_program()):
            predicted = [getattr(found, row.phase).time_s for found in (fitted, tables)]
            cells = "".join(f"{1e3 * p:>9.1f} ms{100 * (p / row.seconds - 1):>+7.0f}%" for p in predicted)
            print(f"{name:<10}{row.phase:<9}{1e3 * row.seconds:>9.1f} ms{cells}")
    print(f"after this a program on all cores gets {100 * share_of_cores():.0f} % of them")


if __name__ == "__main__":
    main()
