"""What would change a plan's speed: slopes by figure, the next bottleneck, and room for batch and context.

The cost model is evaluated again with one figure changed, under the same schedules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from math import ceil, floor, inf, isfinite, log
from typing import NamedTuple

from plandsl import limits
from plandsl.answers.explanation import Bottleneck, Breakdown, Headroom, Sensitivity, Slope
from plandsl.backends.cost.answers.figures import FIGURES, Figure, larger_memory, without_tables
from plandsl.backends.cost.answers.terms import Terms, terms
from plandsl.backends.cost.deployments.batch import resident_tokens
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.num import find_least
from plandsl.backends.cost.work.work import Binding
from plandsl.ir.extents import Extents
from plandsl.ir.names import RegionName
from plandsl.ir.types import Number

NUDGE = 0.01
"""The relative change of a figure, up and down: so small that few kernels change their tiling."""

WIDE = 0.1
"""The relative change of batch and lengths, at least 1: it is wide, as tiles and padding make steps."""

CLOSE = 2 ** (1 / 128)
"""The precision of the factor at which another figure bounds more."""

BEST = 1e6
"""The factor of an infinitely good figure."""

SPECK = 1e-3
"""A smaller share of a metric is left out."""

MOST = 2**17
"""The most requests in the search for a crossover."""

ASKED = {"ttft": "ttft_s", "tpot": "tpot_s", "throughput": "throughput_tokens_per_s"}
"""Metrics with slopes."""


Point = tuple[float, Metrics]
"""The value of a figure, and the metrics with it."""


class Variations:
    """A plan's cost model, and models of the same plan with other figures, each made once."""

    def __init__(self, model: Deployment) -> None:
        plan = model.plan
        bare = without_tables(plan)
        self.modelled = bare != plan
        self.model = model.on(bare)  # models made of this one share what their figures do not change
        self.metrics = self.model.evaluate()
        self._found: dict[tuple[str, float], tuple[Deployment, Metrics]] = {}
        self._terms: dict[tuple[str, float], Terms] = {}

    def at(self, figure: Figure, factor: float) -> tuple[Deployment, Metrics]:
        """The model with ``figure`` multiplied by ``factor``, and its metrics."""
        if (key := (figure.key, factor)) not in self._found:
            model = self.model.on(figure.scaled(self.model.plan, factor))
            self._found[key] = model, model.evaluate()
        return self._found[key]

    @cached_property
    def own(self) -> Terms:
        """The terms with the figures of the plan."""
        return terms(self.model, self.metrics)

    def terms(self, figure: Figure, factor: float) -> Terms:
        """The terms with ``figure`` ``factor`` times as good."""
        if factor == 1:
            return self.own
        if (key := (figure.key, factor)) not in self._terms:
            self._terms[key] = terms(*self.at(figure, factor**figure.better))
        return self._terms[key]

    def bounds(self, figure: Figure, factor: float, metric: str) -> dict[str, float]:
        """Seconds of ``metric`` by the figure that bounds them, with ``figure`` ``factor`` times as good."""
        return seconds_by_bound(self.terms(figure, factor), metric)


# ---- slopes


def sensitivities(variations: Variations) -> tuple[Sensitivity, ...]:
    """Slopes of TTFT, TPOT and throughput by every figure that changes one, by memory, and by the load."""
    base, found = variations.metrics, []
    for figure in FIGURES.values():
        low, high = (variations.at(figure, 1 + step)[1] for step in (-NUDGE, NUDGE))
        slopes = {name: _slope(name, (1 - NUDGE, low), (1, base), (1 + NUDGE, high)) for name in ASKED}
        if any(any(slope) for slope in slopes.values()):
            found.append(Sensitivity(figure.key, figure.name, low=1 - NUDGE, at=1.0, high=1 + NUDGE, slopes=slopes))
    found.append(_memory_slopes(variations))
    return (*found, *_load_slopes(variations))


def unmoved_shares(variations: Variations) -> dict[str, float]:
    """The share of each metric that follows no figure of the hardware or the engine.

    Times are homogeneous: with every figure f times as good a plan is f times as fast (Euler). The share

        1 + ln(T(f) / T) / ln(f),   f = 1 + NUDGE

    of a time T follows constants of the calibration that no figure scales. All figures change at once, since slopes by
    single figures need not add up where two branches of a maximum nearly tie.
    """
    plan = variations.model.plan
    for figure in FIGURES.values():
        plan = figure.improved(plan, 1 + NUDGE)
    at, better = (1.0, variations.metrics), (1 + NUDGE, variations.model.on(plan).evaluate())
    speeds = {"ttft": -1, "tpot": -1, "throughput": 1}
    return {name: 1 - sign * _elasticity(name, at, better) for name, sign in speeds.items()}


def _elasticity(name: str, a: Point, b: Point) -> float:
    before, after = float(getattr(a[1], name)), float(getattr(b[1], name))
    return log(after / before) / log(b[0] / a[0]) if before > 0 and after > 0 else 0.0


def _slope(name: str, low: Point | None, at: Point, high: Point) -> Slope:
    return Slope(None if low is None else _elasticity(name, low, at), _elasticity(name, at, high))


def _memory_slopes(variations: Variations) -> Sensitivity:
    """Slopes by GPU memory: of the largest batch, and of throughput at that batch or load."""

    def point(factor: float) -> Point:
        plan = larger_memory(variations.model.plan, factor)
        model = variations.model.on(plan)
        metrics = model.evaluate()
        if metrics.served is None and metrics.max_batch > 0:  # a fixed batch does not depend on room
            metrics = metrics._replace(
                throughput=model.evaluate(batch=min(metrics.max_batch, limits.MAX_LOAD)).throughput
            )
        return factor, metrics

    low, at, high = point(1 - WIDE), point(1.0), point(1 + WIDE)
    names = [*ASKED, "max_batch"] if at[1].served is not None else ["max_batch", "throughput"]
    slopes = {name: _slope(name, low, at, high) for name in names}
    word = "GPU memory" if at[1].served is not None else "GPU memory, with the largest batch"
    return Sensitivity("capacity", word, low=low[0], at=1.0, high=high[0], slopes=slopes)


def _load_slopes(variations: Variations) -> list[Sensitivity]:
    """Slopes by the number of requests, and by the tokens of each."""
    load, out = variations.model.plan.workload, []
    counts = {"batch": load.batch} if load.concurrency is None else {"concurrency": load.concurrency}
    for name, at in (counts | {"input": load.input} | ({} if load.encodes else {"output": load.output})).items():
        step = max(1, round(WIDE * at))

        def point(value: int, name: str = name) -> Point:
            return value, variations.model.evaluate(**{name: value})

        low = point(at - step) if at > step else None
        slopes = {m: _slope(m, low, (at, variations.metrics), point(at + step)) for m in ASKED}
        out.append(Sensitivity(name, name, low=low and low[0], at=at, high=at + step, slopes=slopes))
    return out


# ---- the next bottleneck


def seconds_by_bound(times: Terms, metric: str) -> dict[str, float]:
    """Seconds of ``metric`` by the figure that they follow, the largest first; a wait for a stage follows none."""
    sums: dict[str, float] = {}
    for (*_, bound), value in _terms_by_bound(times, metric).items():
        if bound in FIGURES:
            sums[bound] = sums.get(bound, 0.0) + value
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _terms_by_bound(times: Terms, metric: str) -> dict[tuple[str, ...], float]:
    """Seconds of a metric by the key of a term and its bound.

    Waits for other requests, and prefills of others, are split between all figures that lengthen them.
    """
    whole: Breakdown = getattr(times, metric)
    parts: dict[tuple[str, ...], float] = {}
    for term in whole.terms:
        waited = times.waits.get(term.name, {}) if term.bound in ("wait", "mixed") else {}
        for bound, share in (waited or {term.bound: 1.0}).items():  # a draft may prefill by two programs
            part = (*term.key, bound)
            parts[part] = parts.get(part, 0.0) + term.value * share
    return parts


def bottlenecks(variations: Variations) -> tuple[Bottleneck, ...]:
    """The figures that bound most of TTFT and of TPOT, and the factor at which another figure bounds more."""
    found = (_bottleneck(variations, variations.own, metric) for metric in ("ttft", "tpot"))
    return tuple(b for b in found if b is not None)


def _bottleneck(variations: Variations, own: Terms, metric: str) -> Bottleneck | None:
    bounds = seconds_by_bound(own, metric)
    bound = next(iter(bounds), None)
    if bound is None:
        return None
    whole: Breakdown = getattr(own, metric)
    figure = FIGURES[bound]

    def seconds(factor: float) -> dict[str, float]:
        return variations.bounds(figure, factor, metric)

    factor = _turning_factor(lambda factor: _lead(seconds(factor), bound))
    then = gained = None
    if factor is not None:
        then = next(iter(seconds(factor)))
        gained = whole.total / float(getattr(variations.at(figure, factor**figure.better)[1], metric))
    best = perfect_figure(variations, own, metric, bound)
    return Bottleneck(
        metric,
        bound,
        figure.name,
        share=bounds[bound] / whole.total,
        factor=factor,
        then=then,
        gain=gained,
        limit=best.limit,
        hidden=best.hidden,
        behind=best.behind,
    )


class Perfect(NamedTuple):
    """The gain of an infinitely good figure, the share of the metric that was hidden behind it, and its bound."""

    limit: float
    hidden: float
    behind: str | None


def perfect_figure(variations: Variations, own: Terms, metric: str, bound: str) -> Perfect:
    """The gain of an infinitely good figure, and how much of its share remains bound by something else.

    ``hidden = share - (1 - 1 / limit)``; 0 where terms of other figures gain too.
    """
    best = variations.terms(FIGURES[bound], BEST)
    before, after = (getattr(times, metric).total for times in (own, best))
    hidden = max((seconds_by_bound(own, metric).get(bound, 0.0) + after) / before - 1, 0.0)
    rest = remaining_seconds(own, best, metric, bound) if hidden > SPECK else {}
    return Perfect(before / after, hidden, max(rest, key=lambda key: rest[key], default=None))


def remaining_seconds(own: Terms, best: Terms, metric: str, bound: str) -> dict[str, float]:
    """Seconds of ``metric`` by which terms of other bounds are longer with the ``best`` of a figure, by bound.

    Most of these seconds followed ``bound`` before. The rest are messages that longer kernels hid.
    """
    before, rest = _terms_by_bound(own, metric), dict[str, float]()
    for (*names, other), value in _terms_by_bound(best, metric).items():
        more = value - before.get((*names, other), 0.0)
        if other != bound and more > 0:
            rest[other] = rest.get(other, 0.0) + more
    return rest


def _lead(seconds: dict[str, float], bound: str) -> float:
    """The logarithm of how many times as long as any other figure ``bound`` bounds; at most 0 where it is not first.

    Where steps mixed with prompts are shorter than full decode steps, the seconds that a figure bounds may be negative.
    """
    own, other = seconds.get(bound, 0.0), max((t for key, t in seconds.items() if key != bound), default=0.0)
    if other <= 0:
        return inf
    return log(own / other) if own > 0 else -inf


def _turning_factor(lead: Callable[[float], float]) -> float | None:
    """The least factor above 1 at which ``lead`` is not positive, to within `CLOSE`; None up to `BEST`.

    The factors are ``CLOSE**n``. The next guess is where a line meets 0: at first the line through the last two leads,
    which falls by ``log(CLOSE)`` with each n while nothing but the figure itself changes; then the line between the
    last factor with a lead and the first one without. Further guesses on one side of 0 go twice as far each time. Where
    a lead ends in a jump to nothing, the guess is halfway.
    """
    if lead(BEST) > 0:
        return None
    slope = log(CLOSE)
    low, high, ahead, behind, beyond = 0, ceil(log(BEST) / slope), lead(1.0), inf, 0
    while high - low > 1:
        if behind < 0 and isfinite(ahead - behind):
            slope = (ahead - behind) / (high - low)
        halfway = behind == -inf or not isfinite(ahead) or slope <= 0
        meets = (low + high) / 2 if halfway else low + ahead / slope
        guess = ceil(meets) + beyond if beyond > 0 else floor(meets) + beyond
        guess = min(max(guess, low + 1), high - 1)
        found = lead(CLOSE**guess)
        if found > 0:
            if behind > 0:
                slope = (ahead - found) / (guess - low)
            low, ahead, beyond = guess, found, 0 if halfway else max(2 * beyond, 1)
        else:
            high, behind, beyond = guess, found, 0 if halfway else min(2 * beyond, -1)
    return CLOSE**high


# ---- batch and context


def headroom(model: Deployment, metrics: Metrics) -> Headroom:
    """How many and how long requests fit, and the batch from which decode is compute-bound."""
    load, batch = model.plan.workload, metrics.batch
    return Headroom(
        float(batch),
        int(metrics.max_batch),
        gemm_batch=_crossover(metrics, gemms=True),
        compute_batch=_crossover(metrics, gemms=False),
        context=load.input + load.output,
        max_context=_max_context(model, metrics, float(batch)),
    )


def _crossover(metrics: Metrics, gemms: bool) -> int | None:
    """The batch from which arithmetic of all kernels of a step, or of its GEMMs, takes longer than their bytes.

    At the rates that kernels reach, without launches: ``sum of flops / rate >= sum of bytes / bandwidth``.
    """
    run = metrics.decode.main
    phase, context = run.phase, float(run.context)
    program = phase.schedule.program
    runs: Counter[RegionName] = Counter()
    for part in (part for stage in program.stages for part in stage):
        runs[part.region] += part.repeats
    works = [(n, w) for name, n in runs.items() for w in phase.work[name] if not gemms or "gemm" in w.op.keyword]

    def busy(batch: int) -> bool:
        at = Binding(Extents(program, {**run.bind, "batch": batch}, phase.extents.mesh), context)
        arithmetic = memory = 0.0
        for count, work in works:
            demand = work.demand(at)
            arithmetic += float(count * demand.arithmetic)
            memory += float(count * demand.memory)
        return arithmetic >= memory

    return find_least(busy, MOST)


def _max_context(model: Deployment, metrics: Metrics, batch: float) -> int:
    """The most tokens of a request, input and output, with which ``batch`` requests fit; the output stays."""
    load, one = model.plan.workload, model.pools[-1].one
    memory = one.memory

    def full(total: int) -> bool:
        input_: Number = max(total - load.output, 1)
        kept, rounds = resident_tokens(one, input_, min(load.output, total), ongoing=metrics.served is not None)
        return not memory.fit(memory.totals(batch, kept, input_, rounds))

    first = find_least(full, limits.MAX_DIMENSION)
    return limits.MAX_DIMENSION if first is None else first - 1
