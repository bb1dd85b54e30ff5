"""Which figures each op and each wait follows: the model is evaluated again with each figure slightly worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from plandsl.backends.cost.answers.figures import FIGURES, without_tables
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.names import RunKey
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Number
from plandsl.values import sum_up

HAIR = 1e-6
"""The relative change of a figure: so small that an op keeps its tiles and its algorithm."""

BUBBLE = "wait for a stage"
ROOM, LINE, CROWD = "room", "other prefills", "the crowd at the start"
"""The waits of a first token under an ongoing load."""

OTHERS = "prefill of others"
"""The term by which prompts of others lengthen a decode step."""

PORT = "other transfers"
"""What a token waits for between two pools, under an ongoing load."""

ROUNDING = 1e-11
"""Waits are found by bisection: a wait that a hair lengthens by a smaller share of it is as long as before."""

Followed = dict[RunKey, list[str]]
"""The figure that each op of a run follows."""


class Responses(NamedTuple):
    """The figure of each op, by phase and program; and for each wait the share that follows each figure."""

    ops: Mapping[str, Sequence[Followed]]
    waits: Mapping[str, Mapping[str, float]]


def responses(model: Deployment, metrics: Metrics) -> Responses:
    """The figure that each op follows: the one that lengthens it most when slightly worse.

    A wait follows all figures that lengthen it, in proportion. A table of measurements is valid for the measured
    hardware only, so a measured op follows the same figure as in the calibrated model.
    """
    plan = without_tables(model.plan)
    if plan != model.plan:
        model = model.on(plan)
        metrics = model.evaluate()
    worse = {}
    for key, figure in FIGURES.items():
        other = figure.improved(plan, 1 / (1 + HAIR))
        if other != plan:
            worse[key] = model.nudged(other, metrics)
    ops = {
        PREFILL: _followed_figures(metrics.prefill, [m.prefill for m in worse.values()], list(worse)),
        DECODE: _followed_figures(metrics.decode, [m.decode for m in worse.values()], list(worse)),
    }
    longer = {key: waits(m) for key, m in worse.items()}
    return Responses(ops, {w: _shares(t, {key: m[w] for key, m in longer.items()}) for w, t in waits(metrics).items()})


def waits(metrics: Metrics) -> dict[str, float]:
    """Seconds that a first token waits for other requests, and that these add to the others."""
    s = metrics.served
    if s is None:
        return {OTHERS: float(metrics.mixed)}
    return {
        ROOM: float(s.queue),
        LINE: float(s.line),
        CROWD: float(s.start),
        OTHERS: float(s.others),
        PORT: float(s.port),
    }


def _followed_figures(times: PhaseTimes, worse: Sequence[PhaseTimes], keys: Sequence[str]) -> list[Followed]:
    """The figures that the ops of each program follow."""
    found = []
    for at, program in enumerate(times.ran):
        longer = [other.ran[at].times.seconds for other in worse]
        found.append(
            {run: list(_worst_figures([other[run] for other in longer], keys)) for run in program.times.seconds}
        )
    return found


def _worst_figures(longer: Sequence[Sequence[Number]], keys: Sequence[str]) -> Iterator[str]:
    """For each op of a run, the figure that lengthens it most; for an op without seconds, the first figure."""
    for each in zip(*longer, strict=True):
        yield max(zip(map(float, each), keys, strict=True), key=lambda pair: pair[0])[1]


def _shares(time: float, worse: Mapping[str, float]) -> dict[str, float]:
    """How much of a wait follows each figure that lengthens it."""
    more = {key: t - time for key, t in worse.items() if t - time > ROUNDING * abs(time)}
    return {key: t / sum_up(more.values()) for key, t in more.items()}
