"""From a compiled plan to its deployment: how kinds of deployment nest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from attrs import field, frozen

from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.single import Single
from plandsl.ir.schedule import Schedule
from plandsl.spec.plan import PlanSpec


class Compiled(Protocol):
    """A compiled plan: its schedules, and the compiled plans that it holds."""

    spec: PlanSpec
    prefill: Schedule
    decode: Schedule

    def __hash__(self) -> int:
        """Of the plan as an object: what is made of it can be kept."""
        ...

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
    def tower(self) -> Compiled | None:
        """The model that encodes images."""
        ...

    @property
    def plain(self) -> Compiled:
        """The same plan without guesses."""
        ...


def build_deployment(made: Compiled) -> Deployment:
    """The deployment of a compiled plan."""
    split = made.spec.split
    if split is None:
        return build_replicas(made)
    from plandsl.backends.cost.deployments.pools import Pools

    prefill, decode = map(build_replicas, made.pools)
    return Pools(made.spec, split, prefill, decode)


def build_replicas(made: Compiled) -> Replicas:
    """The servers of a compiled plan that has one pool."""
    return Replicas(made.spec.sharding.replicas, _build_server(made))


def build_single(made: Compiled) -> Single:
    """A server of the programs of one sharding. Plans that differ in the load alone share what their ops cost.

    Those with tables of measurements do not: the files are read again, as they may have changed.
    """
    if any(kind.measured or kind.node.gpu.measured for kind in made.spec.kinds):
        return Single(made.spec, made.prefill, made.decode)
    return _single(_Parts(made.spec.unloaded, made.prefill, made.decode)).under(made.spec)


KEPT = 64
"""Servers that are kept."""


@frozen
class _Parts:
    """What a server is made of, which counts as objects: those of equal plans are the same."""

    plan: PlanSpec = field(eq=id)
    prefill: Schedule = field(eq=id)
    decode: Schedule = field(eq=id)


@lru_cache(KEPT)
def _single(parts: _Parts) -> Single:
    return Single(parts.plan, parts.prefill, parts.decode)


def _build_server(made: Compiled) -> Server:
    if made.tower is None:
        return _build_guessing(made)
    from plandsl.backends.cost.deployments.towered import Towered

    return Towered(_build_guessing(made), build_single(made.tower))


def _build_guessing(made: Compiled) -> Server:
    """The server of the language model, with what guesses its tokens."""
    speculate, draft = made.spec.speculate, made.draft
    if speculate is None:
        return _build_verifier(made)
    from plandsl.backends.cost.deployments.drafted import Drafted

    return Drafted(_build_verifier(made), speculate, None if draft is None else build_single(draft), _build_plain(made))


def _build_verifier(made: Compiled) -> Server:
    """The server of the model itself."""
    shift = made.spec.shift
    if shift is None:
        return build_single(made)
    from plandsl.backends.cost.deployments.shift import Shift

    base, tensor = map(build_single, made.modes)
    return Shift(made.spec, shift.threshold, base, tensor)


def _build_plain(made: Compiled) -> Callable[[], Deployment]:
    return lambda: build_deployment(made.plain)
