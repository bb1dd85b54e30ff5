"""When a record of the cost model pays: `python -m benchmarks.records`, ratios of CPU time within one run.

`ASKED` of `cost/serving/kernels.py` says when the arithmetic of a step is recorded, `HOT` of `cost/time/trace.py` when
a record is compiled. A step is asked for that was not asked for before, since answers are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

from plandsl.backends.cost.deployments.build import build_deployment
from plandsl.backends.cost.deployments.step import Decode, Step
from plandsl.backends.cost.time.tape import Tape
from plandsl.backends.cost.time.trace import Player, Writer
from plandsl.driver import compile_text

PLANS = {
    "Llama 3.1 8B, pp 2": "model = llama_3_1_8b, node = h100_2, sharding { pp = 2 }",
    "Llama 3.3 70B, tp 8": "model = llama_3_3_70b, node = h200_8, sharding { tp = 8 }",
    "DeepSeek V3, ep 8": "model = deepseek_v3, node = h200_8, sharding { ep = 8 }",
}
"""Plans whose decode steps are recorded."""

CALLS = 40
"""Calls whose median counts."""


def ratios(fields: str) -> tuple[float, float]:
    """Steps that take as long as one record, and calls by which compiling the record is paid."""
    (plan,) = compile_text(
        f"plan p {{ {fields}, engine = vllm, workload {{ input = 1000, output = 100, batch = 8 }} }}"
    )
    server = build_deployment(plan).pools[0].one

    def step(count: Any, mean: Any) -> Any:
        return server.step(Step(decode=Decode(count, mean)), server.in_flight).stages

    usual = _seconds(step)
    _record(step)  # what a first record loads does not count
    start = process_time()
    record = _record(step)
    player = Player(*record)
    recorded = process_time() - start
    played = _seconds(player)
    start = process_time()
    code = Writer(*record).compiled()
    compiled = process_time() - start
    return recorded / usual, compiled / (played - _seconds(code))


def _record(step: Callable[..., Any]) -> tuple[Tape, dict[str, Any], Any, bool]:
    tape = Tape()
    inputs: dict[str, Any] = {name: tape.node("input", name) for name in ("count", "mean")}  # type: ignore[arg-type]
    return tape, inputs, step(*inputs.values()), False


def _seconds(function: Callable[..., Any]) -> float:
    """Median seconds of a call, each with another context."""
    found = []
    for n in range(CALLS):
        start = process_time()
        function(8.0, 1000.0 + 17 * n)
        found.append(process_time() - start)
    return median(found)


def main() -> None:
    """Print both ratios of each plan."""
    print(f"{'decode step of':24}{'a record is as long as':>26}{'compiling it is paid by':>26}")
    for name, fields in PLANS.items():
        steps, calls = ratios(fields)
        print(f"{name:24}{f'{steps:.0f} steps':>26}{f'{calls:.0f} calls':>26}")


if __name__ == "__main__":
    main()
