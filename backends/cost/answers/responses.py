"""Which figures each op, and each wait for other requests, follows: the model is asked again, each a hair worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from plandsl.backends.cost.answers.figures import FIGURES, without_tables
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.names import RunKey
from plandsl.ir.program import DECODE, PREFILL
from plandsl.ir.types import Number

HAIR = 1e-6
"""How much worse: so little that an op stays with its tiles and its algorithm."""

BUBBLE = "wait for a stage"
ROOM, LINE, CROWD = "room", "other prefills", "the crowd at the start"
"""What a first token waits for, under an ongoing load."""

OTHERS = "prefill of others"
"""What lengthens a decode step."""

PORT = "other transfers"
"""What a token waits for between two pools, under an ongoing load."""

ROUNDING = 1e-11
"""Waits are found by bisection: a wait that a hair lengthens by a smaller share of it is as long as before."""

Followed = dict[RunKey, list[str]]
"""The figure that each op of a run follows."""


class Responses(NamedTuple):
    """The figures that ops follow, by phase and by what ran in its step; shares of each wait that follow a figure."""

    ops: Mapping[str, Sequence[Followed]]
    waits: Mapping[str, Mapping[str, float]]


def responses(model: Deployment, metrics: Metrics) -> Responses:
    """An op follows the figure that, a hair worse, lengthens it the most; a wait follows all that do, by how much.

    A table of measurements holds for the figures that it was taken with: an op that is in one follows what it does by
    the formulas.
    """
    plan = without_tables(model.plan)
    if plan != model.plan:
        model = model.on(plan)
        metrics = model.evaluate()
    worse = {}
    for key, figure in FIGURES.items():
        other = figure.improved(plan, 1 / (1 + HAIR))
        if other != plan:
            worse[key] = model.on(other).evaluate()
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
    """What the ops of each program that ran follow."""
    found = []
    for at, program in enumerate(times.ran):
        longer = [other.ran[at].times.seconds for other in worse]
        found.append(
            {run: list(_worst_figures([other[run] for other in longer], keys)) for run in program.times.seconds}
        )
    return found


def _worst_figures(longer: Sequence[Sequence[Number]], keys: Sequence[str]) -> Iterator[str]:
    """Of each op of a run, the figure that lengthens it the most; of one without seconds, the first."""
    for each in zip(*longer, strict=True):
        yield max(zip(map(float, each), keys, strict=True), key=lambda pair: pair[0])[1]


def _shares(time: float, worse: Mapping[str, float]) -> dict[str, float]:
    """How much of a wait follows each figure that lengthens it."""
    more = {key: t - time for key, t in worse.items() if t - time > ROUNDING * time}
    return {key: t / sum(more.values()) for key, t in more.items()}
