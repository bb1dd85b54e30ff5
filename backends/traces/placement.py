"""The ranks on which a program runs: the stage of each, its peers along an axis, and its neighbours over a hop."""

from __future__ import annotations

from collections.abc import Sequence

from plandsl.backends.cost.answers.ranks import stage_ranks
from plandsl.backends.cost.time.phase import ProgramRun
from plandsl.ir.names import axes_of


class Placement:
    """Where the ranks of ``run`` stand; ``main`` is the placement of the model itself where a draft runs on its ranks.

    A draft runs in whole copies on the ranks of every stage of the model.
    """

    def __init__(self, run: ProgramRun, main: Placement | None = None) -> None:
        self.mesh = run.phase.schedule.program.mesh
        self.stages: list[list[list[int]]] = (
            stage_ranks(run.plan, run.phase.schedule.program) if main is None else main.stages
        )
        self.drafts = main is not None
        self.at = {
            rank: (stage, replica, place)
            for stage, replicas in enumerate(self.stages)
            for replica, ranks in enumerate(replicas)
            for place, rank in enumerate(ranks)
        }

    def stage(self, rank: int) -> int:
        """The stage of a rank."""
        return self.at[rank][0]

    def replica(self, rank: int) -> int:
        """The replica of a rank."""
        return self.at[rank][1]

    def across(self, rank: int, stage: int) -> int:
        """The rank of another stage that has the same place as ``rank``."""
        _, replica, place = self.at[rank]
        return self.stages[stage][replica][place]

    def peers(self, rank: int, axis: str) -> tuple[int, ...]:
        """The group of a rank along an axis, or along neighbouring axes ``a*b``, in order."""
        if not self.drafts:
            return tuple(self._group(rank, axis))
        stage, replica, place = self.at[rank]
        own = place % self.mesh.ranks
        ranks = self.stages[stage][replica]
        return tuple(ranks[place - own + other] for other in self._group(own, axis))

    def _group(self, rank: int, axis: str) -> Sequence[int]:
        axes = axes_of(axis)
        n, step = self.mesh.ways(axes), self.mesh.stride(axes[-1]) if axes else 1
        first = rank - self.mesh.index(self.mesh.coordinates(rank), axes) * step
        return range(first, first + n * step, step)
