"""How answers about plans show themselves: a line, and the report that `planc` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from plandsl.answers.text.autoscale import print_autoscale
from plandsl.answers.text.comparison import print_comparison
from plandsl.answers.text.difference import print_difference
from plandsl.answers.text.estimate import print_estimate
from plandsl.answers.text.explanation import print_explanation
from plandsl.answers.text.rate import print_rate
from plandsl.answers.text.seeds import print_seeds
from plandsl.answers.text.simulation import print_simulation
from plandsl.shown import Print, Printed, plain_rich, report_html, text_html
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted, show_count, show_time

if TYPE_CHECKING:
    from plandsl.answers.autoscale import Autoscale
    from plandsl.answers.comparison import Comparison
    from plandsl.answers.difference import Difference
    from plandsl.answers.estimate import Estimate
    from plandsl.answers.explanation import Explanation
    from plandsl.answers.rate import FoundRate
    from plandsl.answers.seeds import OverSeeds
    from plandsl.answers.simulation import Simulation


def rich_of(answer: Any) -> Any:
    """The report of an answer for rich."""
    found = report_of(answer)
    return plain_rich(repr(answer)) if found is None else Printed(found)


def html_of(answer: Any) -> str:
    """The report of an answer as HTML."""
    found = report_of(answer)
    return text_html(repr(answer)) if found is None else report_html(found)


def report_of(answer: Any) -> Print | None:
    """What prints the report of an answer; None where the answer does not know its plan."""
    kind = type(answer).__name__
    if kind == "Difference":
        return lambda console: print_difference(answer, console)
    told = {"Explanation": "estimate", "OverSeeds": "mean"}.get(kind)
    plan = (getattr(answer, told) if told else answer).about.spec
    return None if plan is None else lambda console: PRINTERS[kind](plan, answer, console)


PRINTERS: dict[str, Callable[[PlanSpec, Any, Console], None]] = {
    "Autoscale": print_autoscale,
    "Comparison": print_comparison,
    "Estimate": print_estimate,
    "Explanation": print_explanation,
    "FoundRate": print_rate,
    "OverSeeds": print_seeds,
    "Simulation": print_simulation,
}
"""What prints the report of each kind of answer."""


# ---- a line each


def estimate_line(e: Estimate) -> str:
    """``<Estimate hybrid: fits, TTFT 36.0 s, TPOT 25.5 ms, 644 tok/s on 8 GPUs>``."""
    verdict = "does not fit" if not e.fits else "fits" if e.ok else "fits, misses a requirement"
    times = f"TTFT {show_time(e.ttft_s)}" + ("" if e.tpot_s is None else f", TPOT {show_time(e.tpot_s)}")
    return f"<Estimate {e.plan}: {verdict}, {times}, {_rate(e.throughput_tokens_per_s)} on {counted(e.gpus, 'GPU')}>"


def explanation_line(found: Explanation) -> str:
    """The bottleneck of each metric."""
    told = (f"{b.metric.upper()} bound by {b.name}, {b.share:.0%}" for b in found.bottlenecks)
    return f"<Explanation {found.estimate.plan}: {'; '.join(told) or 'nothing takes time'}>"


def comparison_line(found: Comparison) -> str:
    """``<Comparison chat: 4 runs, TPOT 1.36x the predicted, decode_kernels>``."""
    verdict = found.verdict
    if verdict is None:
        return f"<Comparison {found.plan}: {counted(len(found.runs), 'run')}, no cause named>"
    causes = " or ".join(s.name for s in verdict.suspects[: verdict.likely]) or "no single cause"
    gap = f"{verdict.gap.name} {verdict.gap.ratio:.3g}x the predicted"
    return f"<Comparison {found.plan}: {counted(len(found.runs), 'run')}, {gap}, {causes}>"


def difference_line(found: Difference) -> str:
    """The ratio of each metric."""
    told = (f"{s.metric} {s.after / s.before:.3g}x" for s in found.splits if s.before)
    return f"<Difference {found.a.plan} -> {found.b.plan}: {', '.join(told)}>"


def simulation_line(found: Simulation) -> str:
    """What was served, and how long it took."""
    s = found.summary
    if not s.served:
        return f"<Simulation {found.plan}: none of {s.requests:,} requests served>"
    times = f"TTFT p50 {show_time(s.ttft.p50.value)}, p99 {show_time(s.ttft.p99.value)}"
    rate = f"{_rate(s.output_rate)} on {counted(found.gpus, 'GPU')}"
    return f"<Simulation {found.plan}: {s.served:,} requests, {times}, {rate}>"


def rate_line(found: FoundRate) -> str:
    """The largest rate, or that there is none."""
    at = f"{found.value:.4g} {found.unit}" if found.ok else "no rate meets the requirements"
    return f"<FoundRate {found.plan}: {at}>"


def seeds_line(found: OverSeeds) -> str:
    """How many runs there were, and whether their means meet the requirements."""
    return f"<OverSeeds {found.mean.plan}: {len(found.seeds)} seeds, {'ok' if found.ok else 'misses a requirement'}>"


def autoscale_line(found: Autoscale) -> str:
    """The replicas of the busiest interval, and the GPU hours."""
    hours = f"{found.gpu_hours:.4g} GPU hours, {found.fixed_gpu_hours:.4g} with a fixed number"
    return f"<Autoscale {found.plan}: {len(found.intervals)} intervals, at most {found.peak} replicas, {hours}>"


def _rate(rate: float) -> str:
    return f"{show_count(rate)} tok/s"
