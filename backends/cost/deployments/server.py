"""What every server answers: how long a step takes, what it holds, and which programs it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.step import Step
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.drafted import Guesses
    from plandsl.backends.cost.deployments.shift import Modes
    from plandsl.backends.cost.deployments.single import Single


class Server(Protocol):
    """One copy of a model on GPUs of its own, which takes steps. Kinds nest: a draft before a choice of two programs.

    ``in_flight`` batches are on their way through its stages. In a decode step each request has ``queries`` tokens, of
    which the step brings it ``gain`` on average.
    """

    plan: PlanSpec
    in_flight: int
    queries: Number
    gain: Number

    @property
    def memory(self) -> MemoryModel:
        """What it holds on the GPUs of each stage."""
        ...

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """How long a step takes; its period, with ``in_flight`` such batches, is when the next one may start."""
        ...

    def on(self, plan: PlanSpec) -> Server:
        """The same schedules and memory under other figures of ``plan``'s hardware, calibration or engine."""
        ...

    def guessing(self, tokens: Number, acceptance: Number) -> Server:
        """The same with other guesses, each right with chance ``acceptance``; itself where nothing is guessed."""
        ...

    @property
    def main(self) -> Single:
        """The server of the model itself, and of two shardings that of large steps: what all kinds have in common."""
        ...

    @property
    def modes(self) -> Modes | None:
        """Two servers of which each step takes one; None where there is no choice."""
        ...

    @property
    def guesses(self) -> Guesses | None:
        """What guesses tokens ahead; None where nothing does."""
        ...
