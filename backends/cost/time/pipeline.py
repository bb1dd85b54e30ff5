"""Plays a pipeline out in time: when each stage works on each batch. Pictures and tests use it, estimates do not.

Estimates take the closed form of the steady state (`PhaseModel.play_stages` in `phase.py`). This is the recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Run(NamedTuple):
    """A stage's work on one batch in one round, in seconds from the start."""

    stage: int
    batch: int
    round: int
    start: float
    end: float


def play_pipeline(
    stage_seconds: Sequence[float], hop: float | Sequence[float], batches: int, rounds: int = 1, between: float = 0.0
) -> list[Run]:
    """Every turn of ``batches`` in-flight batches over ``rounds``, in the order batch by batch.

    A turn starts when the stage is free and the batch has arrived. A batch travels to the next stage in ``hop``
    seconds (one number, or one for each stage but the last), once the link between the two is free. The hop keeps the
    link busy, not the stage. The batch returns to the first stage as soon as the last stage is done with the round
    before, ``between`` seconds later; in decode a round is one token.
    """
    runs: list[Run] = []
    hops = _hops_behind(hop, len(stage_seconds))
    free = [0.0] * len(stage_seconds)
    link = [0.0] * len(stage_seconds)
    back = [0.0] * batches
    for turn in range(rounds):
        for batch in range(batches):
            ready = back[batch]
            for stage, seconds in enumerate(stage_seconds):
                start = max(free[stage], ready)
                end = free[stage] = start + seconds
                runs.append(Run(stage, batch, turn, start, end))
                ready = link[stage] = max(link[stage], end) + hops[stage]
            back[batch] = runs[-1].end + between
    return runs


def _hops_behind(hop: float | Sequence[float], stages: int) -> list[float]:
    """Seconds of the hop behind each stage; 0 behind the last."""
    return [*([hop] * (stages - 1) if isinstance(hop, float | int) else hop), 0.0]


def play_sends(runs: Sequence[Run], hop: float | Sequence[float]) -> list[Run]:
    """When the link behind each stage but the last is busy with the results of ``runs`` (from `play_pipeline`)."""
    last = max((r.stage for r in runs), default=0)
    hops = _hops_behind(hop, last + 1)
    free = [0.0] * (last + 1)
    sends = []
    for run in runs:
        if run.stage < last:
            start = max(free[run.stage], run.end)
            free[run.stage] = end = start + hops[run.stage]
            sends.append(Run(run.stage, run.batch, run.round, start, end))
    return sends
