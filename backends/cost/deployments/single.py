"""A server that runs one program of each phase: prefill, decode, or both mixed in a step."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.memory import ProgramMemory
from plandsl.backends.cost.deployments.step import Decode, Prompt, Step
from plandsl.backends.cost.machine.machine import Machine
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes, ProgramRun
from plandsl.ir.names import RunKey
from plandsl.ir.schedule import Schedule
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.time.mixed import Mix, Mixer, Places


class Single:
    """A `Server` with the programs of one plan and one sharding, on the plan's GPUs."""

    queries: Number = 1
    gain: Number = 1
    modes: None = None
    guesses: None = None
    tower: None = None

    def __init__(self, plan: PlanSpec, prefill: Schedule, decode: Schedule) -> None:
        self.plan = plan
        self.prefill, self.decode = _phases(plan, prefill, decode)
        contents = Contents(prefill.program, decode.program, self.prefill.extents)
        self.memory = ProgramMemory(contents, plan, plan.queries)
        self.in_flight = prefill.in_flight

    def on(self, plan: PlanSpec) -> Single:
        """The same server with the figures of ``plan``."""
        other, machines = copy(self), [Machine.of(kind) for kind in plan.kinds]
        other.plan, other.memory = plan, self.memory.on(plan)
        other.prefill, other.decode = self.prefill.on(machines), self.decode.on(machines)
        other.__dict__.pop("mixer", None)
        return other

    def under(self, plan: PlanSpec) -> Single:
        """The same server with the load of ``plan``, which has the figures of its own plan."""
        other = copy(self)
        other.plan, other.memory = plan, self.memory.on(plan)
        return other

    def guessing(self, tokens: Number, acceptance: Number) -> Single:
        """Itself: it has no guesses."""
        return self

    @property
    def main(self) -> Single:
        """Itself."""
        return self

    @property
    def ways(self) -> Number:
        """Ranks, or groups of them, that share the requests of a batch."""
        return self.mixer.ways

    @cached_property
    def mixer(self) -> Mixer:
        """Times of steps that mix both phases."""
        from plandsl.backends.cost.time.mixed import Mixer

        return Mixer(self.prefill, self.decode, self.aligned)

    @cached_property
    def aligned(self) -> Mapping[RunKey, Places]:
        """Which ops of both phases go together, by run."""
        from plandsl.backends.cost.time.mixed import align_phases

        return align_phases(self.prefill.kinds[0], self.decode.kinds[0])

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step."""
        prompt, decode = step
        if prompt is None:
            assert decode is not None, "a step has prompts, or requests that decode"
            return self._decode(decode, in_flight)
        if decode is None and not prompt.chunk:
            return self._prefill(prompt, in_flight)
        times = self.mixer.step(self.mix(prompt, decode), in_flight)
        bind = {"batch": prompt.requests, "input": prompt.new, "context": prompt.context}
        return times._replace(
            runs=(ProgramRun("", self.plan, phase=self.prefill, times=times, bind=bind, context=prompt.context),)
        )

    def mix(self, prompt: Prompt, decode: Decode | None) -> Mix:
        """The part of a mixed step on one of the ranks that share requests."""
        from plandsl.backends.cost.time.mixed import Mix

        count = prompt.requests / self.ways
        if decode is None:
            return Mix(prompt.new * count, prompt.cached, count, None, prompt.context)
        decodes = decode.requests / self.ways
        new, context, queries = prompt.new * count, decode.context, decode.queries
        return Mix(new, prompt.cached, prompts=count, decodes=decodes, context=context, queries=queries)

    def _prefill(self, prompt: Prompt, in_flight: Number) -> PhaseTimes:
        """Times of prompts alone: new tokens, which see cached and new tokens."""
        context = prompt.context
        bind = {"batch": prompt.requests, "input": prompt.new, "context": context}
        times = self.prefill.at(bind, in_flight, [(1.0, context)])
        return times._replace(
            runs=(ProgramRun("", self.plan, phase=self.prefill, times=times, bind=bind, context=context),)
        )

    def _decode(self, decode: Decode, in_flight: Number) -> PhaseTimes:
        """Times of requests that decode alone, averaged over the growing context.

        The mean over steps is taken over the interval ``context - 1/2 .. context + steps - 1/2``, which is exact where
        the time is linear in the context.
        """
        requests, context, steps, queries = decode
        bind = {"batch": requests, "context": decode.cached, "queries": queries}
        nodes = [(1.0, context)] if steps is None else self.decode.contexts(context - 0.5, context + steps - 0.5)
        times = self.decode.at(bind, in_flight, nodes)
        return times._replace(
            runs=(ProgramRun("", self.plan, phase=self.decode, times=times, bind=bind, context=decode.middle),)
        )


def _phases(plan: PlanSpec, prefill: Schedule, decode: Schedule) -> list[PhaseModel]:
    """Prefill and decode on the plan's GPUs."""
    if len(plan.kinds) > 1:
        from plandsl.backends.cost.time.unlike import unlike_phases

        return unlike_phases(plan, (prefill, decode))
    machine = Machine.of(plan)
    return [PhaseModel(prefill, machine), PhaseModel(decode, machine)]
