"""The ratios that arXiv 2603.05692 prints for Llama-3.1-405B. The calibration is fitted to some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from attrs import evolve

from benchmarks.claim import Claim
from benchmarks.study_plans import plans
from plandsl.backends.cost import Metrics
from plandsl.driver import CompiledPlan
from plandsl.spec.hardware import CalibrationSpec

Answers = dict[str, Metrics]


class Ratio(NamedTuple):
    """A printed ratio: how it follows from metrics, its value, its absolute tolerance, and whether the fit uses it."""

    name: str
    what: str
    predicted: Callable[[Answers], float]
    printed: float
    tolerance: float
    fit: bool

    def claim(self) -> Claim:
        """The row of the table, with the catalog's calibration."""
        seen = "fitted" if self.fit else "unseen"
        return Claim(self.name, self.what, self.printed, lambda: self.predicted(known()), abs=self.tolerance, seen=seen)


def _ttft(a: str, b: str) -> Callable[[Answers], float]:
    return lambda m: float(m[a].ttft / m[b].ttft)


def _tpot(a: str, b: str) -> Callable[[Answers], float]:
    return lambda m: float(m[a].tpot / m[b].tpot)


def _throughput(a: str, b: str) -> Callable[[Answers], float]:
    return lambda m: float(m[a].throughput / m[b].throughput)


def _rel(value: float, share: float) -> tuple[float, float]:
    return value, value * share


RATIOS = (
    Ratio("C31", "TTFT of TP4 / TP8, batch 256", _ttft("tp4_b256", "tp8_b256"), *_rel(1.89, 0.03), fit=True),
    Ratio("C32", "TPOT of TP4 / TP8, batch 256", _tpot("tp4_b256", "tp8_b256"), *_rel(1.61, 0.03), fit=True),
    Ratio("C33", "TTFT of TP4 PP2 / TP8, batch 256", _ttft("tp4_pp2_b256", "tp8_b256"), *_rel(1.90, 0.03), fit=False),
    Ratio("C34", "TPOT of TP4 PP2 / TP8, batch 256", _tpot("tp4_pp2_b256", "tp8_b256"), *_rel(1.62, 0.03), fit=False),
    Ratio("C35", "TTFT of TP2 / TP8, batch 256", _ttft("tp2_b256", "tp8_b256"), *_rel(3.67, 0.03), fit=True),
    Ratio("C36", "TPOT of TP2 / TP8, batch 256", _tpot("tp2_b256", "tp8_b256"), *_rel(2.81, 0.04), fit=True),
    Ratio("C38", "TTFT of TP8 / one GPU, batch 32", _ttft("tp8_b32", "one_gpu_b32"), 0.32, 0.015, fit=True),
    Ratio("C39", "TTFT of TP4 / one GPU, batch 32", _ttft("tp4_b32", "one_gpu_b32"), 0.62, 0.015, fit=True),
    Ratio("C42", "TTFT of TP8, 512 / 256 GB/s links", _ttft("tp8_b32_512", "tp8_b32_256"), 0.66, 0.015, fit=False),
    Ratio("C57", "throughput of PP8 / 8 replicas", _throughput("pp8_b512", "dp8_b32"), *_rel(1.35, 0.04), fit=False),
    Ratio("C58", "prefill of PP8 / 8 replicas", _ttft("pp8_b512", "dp8_b32"), *_rel(16.03, 0.02), fit=True),
    Ratio("C59", "decode of PP8 / 8 replicas", _tpot("pp8_b512", "dp8_b32"), *_rel(4.24, 0.05), fit=True),
    Ratio(
        "C62",
        "throughput of PP8 / 8 replicas of batch 1",
        _throughput("pp8_b512", "dp8_b1"),
        *_rel(13.8, 0.05),
        fit=True,
    ),
    Ratio("C63", "the same, short prompts", _throughput("short_pp8_b512", "short_dp8_b1"), *_rel(44, 0.10), fit=False),
)


def compiled() -> dict[str, CompiledPlan]:
    """The plans of the ratios, by name."""
    return plans("latency_405b") | plans("throughput_405b")


def answers(plans: dict[str, CompiledPlan], values: dict[str, float] | None = None) -> Answers:
    """Metrics of every plan, with other calibration constants where given."""
    out = {}
    for name, plan in plans.items():
        if values is None:
            out[name] = plan.cost.evaluate()
        else:
            spec = evolve(plan.spec, calibration=CalibrationSpec("fit", tuple(values.items())))
            out[name] = plan.cost.on(spec).evaluate()
    return out


@cache
def known() -> Answers:
    """Metrics with the catalog's calibration."""
    return answers(compiled())
