"""`Server`: what every kind of server tells: how long a step takes, what its GPUs hold, which programs it runs."""

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
    """One copy of a model on GPUs of its own. Kinds nest: `Towered` may hold `Drafted`, which may hold `Shift`.

    ``in_flight`` batches are on their way through its stages. In a decode step each request has ``queries`` tokens, and
    gains ``gain`` tokens on average.
    """

    plan: PlanSpec
    in_flight: int
    queries: Number
    gain: Number

    def __hash__(self) -> int:
        """Of the server as an object: what is made of it can be kept."""
        ...

    @property
    def memory(self) -> MemoryModel:
        """What it holds on the GPUs of each stage."""
        ...

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step while ``in_flight`` such batches are under way; after ``period`` the next step may start."""
        ...

    def on(self, plan: PlanSpec) -> Server:
        """The same server with other figures of hardware, calibration or engine, from ``plan``."""
        ...

    def guessing(self, tokens: Number, acceptance: Number) -> Server:
        """The same server with ``tokens`` guesses of chance ``acceptance`` each; itself where nothing is guessed."""
        ...

    @property
    def main(self) -> Single:
        """The server of the model itself; with two shardings, the server of large steps."""
        ...

    @property
    def modes(self) -> Modes | None:
        """The two servers between which steps choose; None for one sharding."""
        ...

    @property
    def tower(self) -> Single | None:
        """The encoder of images; None without one."""
        ...

    @property
    def guesses(self) -> Guesses | None:
        """What guesses tokens ahead; None without guesses."""
        ...
