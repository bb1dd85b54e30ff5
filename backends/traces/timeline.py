"""When each stage works on which batch, in the order of a plan's steps: drafts, passes, hops and the engine's time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.time.phase import PhaseTimes, ProgramRun
from plandsl.backends.cost.time.pipeline import play_pipeline, play_sends
from plandsl.backends.traces.passes import Passes, Ran, StagePass, passes_of
from plandsl.backends.traces.placement import Placement
from plandsl.backends.traces.ranks import check_size
from plandsl.values import sum_up

HINT = "have fewer stages, fewer batches `in_flight`, or fewer steps"


class Turn(NamedTuple):
    """A pass of ``stage`` over one batch, from ``start`` seconds on; every stage runs a draft (``stage`` None)."""

    passes: Passes
    stage: int | None
    batch: int
    round: int
    start: float

    @property
    def work(self) -> StagePass:
        """What a rank does in it."""
        return self.passes.stages[self.stage or 0]

    @property
    def end(self) -> float:
        """When it ends."""
        return self.start + self.work.seconds

    @property
    def part(self) -> str:
        """``draft`` or ``tower`` for a pass of one, else empty."""
        return self.passes.run.part


class Hop(NamedTuple):
    """A result of a pass on its way from ``stage`` to the next one, which waits for it."""

    op: Ran
    stage: int
    batch: int
    round: int
    start: float
    end: float


class Host(NamedTuple):
    """The engine's own time behind a step of a batch."""

    batch: int
    start: float
    end: float


class Phase:
    """The passes of one phase on one server: ``batches`` in flight, in ``parts`` each, and ``rounds`` of steps.

    ``start``: seconds at which the phase begins. ``host``: seconds that the engine adds to each step. Raises
    `PlanError` (E511) for more than ``most`` passes.
    """

    def __init__(self, times: PhaseTimes, batches: int, rounds: int, start: float, host: float, most: int) -> None:
        self.times, self.batches, self.start, self.host = times, batches, start, host
        main, *drafts = times.ran
        self.parts, self.steps = int(main.times.parts), round(float(main.steps))
        self.rounds = rounds * self.steps
        self.main = passes_of(main)
        self.drafts = [(passes_of(run), self._draft_passes(run)) for run in drafts]
        each = len(self.main.stages) + sum_up(count for _, count in self.drafts)
        check_size("passes of batches through stages", self.rounds * batches * self.parts * each, most, HINT)
        self.placement = Placement(main)
        self.turns: list[Turn] = []
        self.hops: list[Hop] = []
        self.hosts: list[Host] = []
        self._play()

    def _draft_passes(self, run: ProgramRun) -> int:
        """How often a draft runs before each pass of the model."""
        return round(float(run.count)) if run.steps == self.steps else round(float(run.count) / self.steps)

    @property
    def name(self) -> str:
        """``prefill`` or ``decode``."""
        return self.main.program.phase

    @cached_property
    def end(self) -> float:
        """When the last pass ends, the engine's time behind it included."""
        return max([turn.end for turn in self.turns] + [host.end for host in self.hosts])

    @cached_property
    def placements(self) -> dict[str, Placement]:
        """Where the ranks of the model stand, and those of its draft."""
        found = {"": self.placement}
        return found | {p.run.part: Placement(p.run, self.placement) for p, _ in self.drafts}

    def _play(self) -> None:
        """Play all rounds: without a draft as one pipeline, with a draft one round after another."""
        if not self.drafts:
            self._play_rounds(self.start, 0, self.rounds)
            return
        at = self.start
        for number in range(self.rounds):
            at = self._play_drafts(at, number)
            at = self._play_rounds(at, number, 1)

    def _play_drafts(self, at: float, number: int) -> float:
        """The drafts of all batches, one after the other on the GPUs of every stage; when they end."""
        for batch in range(self.batches * self.parts):
            for passes, count in self.drafts:
                for _ in range(count):
                    self.turns.append(Turn(passes, None, batch, number, at))
                    at = self.turns[-1].end
        return at

    def _play_rounds(self, at: float, first: int, rounds: int) -> float:
        """So many rounds of all batches through all stages; when the last of them ends."""
        stages = [stage.seconds for stage in self.main.stages]
        last = len(stages) - 1
        runs = play_pipeline(stages, self.main.hop_seconds, self.batches * self.parts, rounds, self.host)
        end = at
        for run in runs:
            turn = Turn(self.main, run.stage, run.batch, first + run.round, at + run.start)
            self.turns.append(turn)
            if run.stage == last:
                end = max(end, turn.end + self.host)
                if self.host > 0 and run.batch % self.parts == self.parts - 1:
                    self.hosts.append(Host(run.batch // self.parts, turn.end, turn.end + self.host))
        for send in play_sends(runs, self.main.hop_seconds):
            begin = at + send.start
            self.hops += [
                Hop(ran, send.stage, send.batch, first + send.round, start=begin + ran.start, end=begin + ran.end)
                for ran in self.main.hops[send.stage]
            ]
        return end

    def turns_of(self, stage: int) -> Iterator[Turn]:
        """The passes on the ranks of a stage, drafts included."""
        return (turn for turn in self.turns if turn.stage in (None, stage))


class Steps(NamedTuple):
    """A prefill of all batches in flight, and decode steps behind it; ``pools`` are the servers of each.

    ``sent``: when the KV cache of the first batch travels between two pools, if there are two.
    """

    prefill: Phase
    decode: Phase
    pools: tuple[Replicas, Replicas]
    sent: tuple[float, float] | None = None

    @property
    def phases(self) -> tuple[Phase, Phase]:
        """Both phases."""
        return self.prefill, self.decode


def play_steps(model: Deployment, engine_s: float, rounds: int, most: int) -> Steps:
    """A prefill and ``rounds`` decode steps of the plan's own load, with the mean times that the estimate says.

    The engine adds ``engine_s`` seconds to a decode step for each token that comes of it. Requests that are always in
    flight join one batch at a time: their prefill is that of one batch. Raises `PlanError` (E511) where a phase has
    more than ``most`` passes.
    """
    metrics, load = model.own, model.plan.workload
    first, last = model.pools[0], model.pools[-1]
    together = metrics.served is None or model.transfer is not None
    prefill = Phase(metrics.prefill, first.in_flight if together else 1, 1, start=0.0, host=0.0, most=most)
    begin, sent = prefill.end, None
    if model.transfer is not None:
        moved = model.transfer.times(metrics.joined, load.input, metrics.prefill.through)
        begin = prefill.end + float(moved.exposed)
        sent = begin - float(moved.seconds), begin
    decode = Phase(metrics.decode, last.in_flight, rounds, start=begin, host=engine_s * float(last.one.gain), most=most)
    return Steps(prefill, decode, (first, last), sent)
