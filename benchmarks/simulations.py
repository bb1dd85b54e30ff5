"""Speed and memory of simulations: requests a second of one core, each load in a process of its own.

``python -m benchmarks.simulations [REQUESTS]`` prints the table, with 100,000 requests a load unless told otherwise. Of
one load ten and a hundred times as many are written to Parquet as they end. Schedulers whose servers compose some of
their steps one by one have a fifth as many.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

LENGTHS = {(1024, 128): (50_000, 15_000), (8192, 208): (20_000, 4_500)}
"""Tokens in and out; requests/s that are the target, and that are the least."""

SHARES = (0.5, 0.8, 0.95, 1.2)
"""Rates, as shares of the largest one; the last is an overload, in which requests are preempted."""

MEMORY = 300
"""MiB that a process holds at most, its start included."""

STREAMED = 1024
"""MiB that a process holds at most that writes its requests to a file."""

OTHERS = ("sglang", "trtllm")
"""Engines whose servers take stretches of steps at once, and single steps around each event."""

FULL = 4_000
"""Requests that are there at once when the largest rate is measured."""

PLAN = """plan p {{
  model = llama_3_1_8b, node = h100_1, sharding {{ tp = 1 }}, engine = {2}
  workload {{ input = {0}, output = {1}, batch = 1 }}
}}
"""


def run(input_: int, output: int, share: float, count: int, engine: str = "vllm", file: str = "") -> dict[str, float]:
    """Simulate a load in this process, and write its requests to a ``file`` if there is one."""
    from plandsl.backends.cost.serving.requests import Requests
    from plandsl.backends.cost.serving.serve import worker
    from plandsl.backends.cost.serving.simulate import simulate
    from plandsl.backends.cost.serving.stream import stream
    from plandsl.driver import compile_text
    from plandsl.sheets import open_sheet

    [plan] = compile_text(PLAN.format(input_, output, engine))

    def load(times: np.ndarray) -> Requests:
        return Requests(times, np.full(len(times), input_), np.full(len(times), output))

    server = worker(plan.cost.one, load(np.zeros(1)), engine)
    full = simulate([server], load(np.zeros(FULL)))
    middle = np.quantile(full.finish_s, (0.25, 0.75))
    rate = 0.5 * FULL / float(middle[1] - middle[0])
    server = worker(plan.cost.one, load(np.zeros(1)), engine)  # with tables of its own
    requests = load(np.cumsum(np.random.default_rng(0).exponential(1 / (share * rate), count)))
    start = time.process_time()
    if file:
        with open_sheet(Path(file)) as sheet:
            stream([server], requests, sheet)
        speed = count / (time.process_time() - start)
        return {"rate": share * rate, "speed": speed, "held": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    found = simulate([server], requests)
    seconds = time.process_time() - start
    assert found.served.all()
    assert found.leaps, "servers took steps at once"
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps, preempted = len(found.steps.start_s), int(found.preemptions.sum())
    return {"rate": share * rate, "speed": count / seconds, "held": held, "steps": steps, "preempted": preempted}


def main(count: int = 100_000) -> None:
    """Print a line for each load."""
    print(f"simulations of {count:,} requests, llama_3_1_8b on an H100, vLLM's scheduler")
    for (input_, output), (target, least) in LENGTHS.items():
        for share in SHARES:
            r = apart(input_, output, share, count)
            what = f"{input_} in, {output} out, {100 * share:.0f} % ({r['rate']:.3g} req/s)"
            rest = f"{r['steps']:,} steps, {r['preempted']:,} preemptions"
            print(f"{what:<46}{r['speed']:>10,.0f} req/s{r['held']:>6.0f} MiB  target {target:,} (least {least:,}), "
                  f"{MEMORY} MiB  {rest}")  # fmt: skip
    for engine in OTHERS:
        r = apart(1024, 128, SHARES[1], count // 5, engine)
        what = f"1024 in, 128 out, {100 * SHARES[1]:.0f} %, {engine}"
        print(
            f"{what:<46}{r['speed']:>10,.0f} req/s{r['held']:>6.0f} MiB  {count // 5:,} requests, {r['steps']:,} steps"
        )
    lengths = 1024, 128
    with TemporaryDirectory() as folder:
        for more in (10 * count, 100 * count):
            r = apart(*lengths, SHARES[1], more, "vllm", str(Path(folder) / "rows.parquet"))
            what = f"{more:,} requests to Parquet, {100 * SHARES[1]:.0f} %"
            print(f"{what:<46}{r['speed']:>10,.0f} req/s{r['held']:>6.0f} MiB  target: as fast, {STREAMED} MiB")


def apart(*arguments: object) -> dict[str, float]:
    """`run` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.simulations", *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout)
    return found


if __name__ == "__main__":
    if len(sys.argv) > 2:
        lengths, rest = map(int, sys.argv[1:3]), sys.argv[5:]
        print(json.dumps(run(*lengths, float(sys.argv[3]), int(sys.argv[4]), *rest)))
    else:
        main(*map(int, sys.argv[1:]))
