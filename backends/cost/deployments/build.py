"""From a compiled plan to its deployment: which kinds stand inside one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.single import Single
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.ir.schedule import Schedule
from plandsl.spec.plan import PlanSpec


class Compiled(Protocol):
    """What is known of a compiled plan: its schedules, and those of the plans that it holds."""

    spec: PlanSpec
    prefill: Schedule
    decode: Schedule

    @property
    def modes(self) -> Sequence[Compiled]:
        """A plan for each sharding."""
        ...

    @property
    def pools(self) -> Sequence[Compiled]:
        """A plan for each pool."""
        ...

    @property
    def draft(self) -> Compiled | None:
        """The model that guesses tokens ahead."""
        ...

    @property
    def plain(self) -> Compiled:
        """The same without guesses."""
        ...


def deployment(made: Compiled) -> Deployment:
    """The deployment of a compiled plan. Raises `PlanError` (E290) where only a simulation has the answer."""
    _refuse_simulation(made.spec)
    split = made.spec.split
    if split is None:
        return replicas(made)
    from plandsl.backends.cost.deployments.pools import Pools

    prefill, decode = map(replicas, made.pools)
    return Pools(made.spec, split, prefill, decode)


def _refuse_simulation(plan: PlanSpec) -> None:
    """Refuse requests over time, and requirements on percentiles and goodput."""
    asked = [(f"`require {r.text}` is about single requests", r.span) for r in plan.requires if r.over_requests]
    if plan.workload.traffic is not None:
        asked.insert(0, (f"the load `{plan.workload.name}` has requests over time", plan.workload.span))
    if asked:
        hint = "`planc check` accepts the plan; an estimate needs a `batch`, or `concurrency` with fixed lengths"
        raise PlanError([Diagnostic("E290", f"{what}: there is no estimate", span, hint=hint) for what, span in asked])


def replicas(made: Compiled) -> Replicas:
    """The servers of a compiled plan that has one pool."""
    return Replicas(made.spec.sharding.replicas, _server(made))


def single(made: Compiled) -> Single:
    """A server of the programs of one sharding."""
    return Single(made.spec, made.prefill, made.decode)


def _server(made: Compiled) -> Server:
    speculate, draft = made.spec.speculate, made.draft
    if speculate is None:
        return _verifying(made)
    from plandsl.backends.cost.deployments.drafted import Drafted

    return Drafted(_verifying(made), speculate, None if draft is None else single(draft), _plain(made))


def _verifying(made: Compiled) -> Server:
    """The server of the model itself."""
    shift = made.spec.shift
    if shift is None:
        return single(made)
    from plandsl.backends.cost.deployments.shift import Shift

    base, tensor = map(single, made.modes)
    return Shift(made.spec, shift.threshold, base, tensor)


def _plain(made: Compiled) -> Callable[[], Deployment]:
    return lambda: deployment(made.plain)
