"""The figures on which a plan's speed depends, and plans with one figure changed.

Fitted forms use the figures of the GPU and its links, so a changed figure changes them too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from attrs import evolve

from plandsl.answers.explanation import BOUNDS
from plandsl.spec.hardware import (
    ENGINE_TIMES,
    OF_LINKS,
    RANK_TIMES,
    CalibrationSpec,
    GpuSpec,
    LinkSpec,
    NodeSpec,
    constant_dimension,
)
from plandsl.spec.plan import PlanSpec, SplitSpec
from plandsl.units import TIME

Scaled = Callable[[PlanSpec, float], PlanSpec]
"""Returns a plan with one figure multiplied by the factor."""


class Figure(NamedTuple):
    """A figure of the hardware or the engine: ``better`` is 1 where a larger value is better, else -1.

    ``key`` is the ``bound`` of terms that follow it.
    """

    key: str
    name: str
    better: int
    scaled: Scaled

    def improved(self, plan: PlanSpec, factor: float) -> PlanSpec:
        """``plan`` with this figure ``factor`` times as good."""
        return self.scaled(plan, factor**self.better)


def _change_nodes(plan: PlanSpec, change: Callable[[NodeSpec], NodeSpec]) -> PlanSpec:
    cluster = plan.cluster
    if cluster is not None:
        nodes = tuple((count, change(node)) for count, node in cluster.nodes)
        cluster = evolve(cluster, node=change(cluster.node), nodes=nodes)
    return evolve(plan, node=change(plan.node), cluster=cluster)


def change_gpus(plan: PlanSpec, change: Callable[[GpuSpec], GpuSpec]) -> PlanSpec:
    """``plan`` with each kind of GPU of its nodes changed."""

    def changed(node: NodeSpec) -> NodeSpec:
        return evolve(node, gpu=change(node.gpu), gpus=tuple((count, change(gpu)) for count, gpu in node.gpus))

    return _change_nodes(plan, changed)


def _scale_memory(plan: PlanSpec, f: float) -> PlanSpec:
    return change_gpus(plan, lambda gpu: evolve(gpu, bandwidth=gpu.bandwidth * f))


def _scale_compute(plan: PlanSpec, f: float) -> PlanSpec:
    return change_gpus(plan, lambda gpu: evolve(gpu, compute=tuple((dtype, peak * f) for dtype, peak in gpu.compute)))


def _scale_link(plan: PlanSpec, f: float) -> PlanSpec:
    def faster(link: LinkSpec) -> LinkSpec:
        host = link.host and link.host._replace(rate=link.host.rate * f)
        return evolve(link, bandwidth=link.bandwidth * f, bridge=link.bridge * f, host=host)

    return _change_nodes(plan, lambda node: evolve(node, link=faster(node.link)))


def _scale_network(plan: PlanSpec, f: float) -> PlanSpec:
    if plan.cluster is None:
        return plan
    network = evolve(plan.cluster.network, bandwidth=plan.cluster.network.bandwidth * f)
    plan = evolve(plan, cluster=evolve(plan.cluster, network=network))
    split = plan.split
    return plan if split is None or not split.between else evolve(plan, split=_scale_split(split, f))


def _scale_messages(plan: PlanSpec, f: float) -> PlanSpec:
    def later(link: LinkSpec) -> LinkSpec:
        host = link.host and link.host._replace(latency=link.host.latency * f)
        return evolve(link, latency=link.latency * f, usual=link.usual * f, host=host)

    plan = _change_nodes(plan, lambda node: evolve(node, link=later(node.link)))
    if plan.cluster is not None:
        plan = evolve(plan, cluster=evolve(plan.cluster, network=later(plan.cluster.network)))
    if plan.split is not None:
        plan = evolve(plan, split=evolve(plan.split, latency=plan.split.latency * f))
    return change_calibrations(plan, lambda calibration: _scale_times(calibration, f, links=True))


def _scale_launches(plan: PlanSpec, f: float) -> PlanSpec:
    return change_calibrations(plan, lambda calibration: _scale_times(calibration, f, links=False))


def change_calibrations(plan: PlanSpec, change: Callable[[CalibrationSpec], CalibrationSpec]) -> PlanSpec:
    """``plan`` with the calibration of each kind of GPU changed."""
    others = tuple((name, change(calibration)) for name, calibration in plan.calibrations)
    return evolve(plan, calibration=change(plan.calibration), calibrations=others)


def _scale_times(calibration: CalibrationSpec, f: float, links: bool) -> CalibrationSpec:
    """A calibration whose times, of links or of kernels, are ``f`` times as long."""
    values = dict(calibration.values)
    if "launch" in values:  # launches of collectives, by default as of kernels
        values.setdefault("launch_collective", values["launch"])

    times = _times_among(tuple(values), links)
    return evolve(calibration, values=tuple([(n, v * f if n in times else v) for n, v in values.items()]))


@lru_cache(maxsize=64)
def _times_among(names: tuple[str, ...], links: bool) -> frozenset[str]:
    """The constants that are times, of links or of kernels: an explanation scales them dozens of times."""
    return frozenset(n for n in names if constant_dimension(n) == TIME and (n.partition(".")[0] in OF_LINKS) == links)


def _scale_unit(plan: PlanSpec, f: float) -> PlanSpec:
    def faster(calibration: CalibrationSpec) -> CalibrationSpec:
        values = ((n, v * f if n.endswith(".unit") else v) for n, v in calibration.values)
        return evolve(calibration, values=tuple(values))

    return change_calibrations(plan, faster)


def _scale_engine(plan: PlanSpec, f: float) -> PlanSpec:
    return _scale_times_of_engine(plan, f, ENGINE_TIMES)


def _scale_ranks(plan: PlanSpec, f: float) -> PlanSpec:
    return _scale_times_of_engine(plan, f, RANK_TIMES)


def _scale_times_of_engine(plan: PlanSpec, f: float, names: tuple[str, ...]) -> PlanSpec:
    if plan.engine is None:
        return plan
    return evolve(plan, engine=evolve(plan.engine, **{name: getattr(plan.engine, name) * f for name in names}))


def larger_memory(plan: PlanSpec, f: float) -> PlanSpec:
    """``plan`` on GPUs with ``f`` times the memory."""

    def larger(gpu: GpuSpec) -> GpuSpec:
        total = None if gpu.memory_total is None else gpu.memory_total * f
        return evolve(gpu, memory=gpu.memory * f, memory_total=total)

    return _in_both_pools(lambda one, _: change_gpus(one, larger))(plan, f)


def without_tables(plan: PlanSpec) -> PlanSpec:
    """``plan`` without tables of measurements, which are valid for the measured hardware only."""
    bare = _in_both_pools(lambda one, _: evolve(change_gpus(one, lambda gpu: evolve(gpu, measured=())), measured=()))
    return bare(plan, 1.0)


def _scale_transfer(plan: PlanSpec, f: float) -> PlanSpec:
    split = plan.split
    return plan if split is None or split.between else evolve(plan, split=_scale_split(split, f))


def _scale_split(split: SplitSpec, f: float) -> SplitSpec:
    return evolve(split, bandwidth=split.bandwidth * f)


def change_pools(plan: PlanSpec, change: Callable[[PlanSpec], PlanSpec]) -> PlanSpec:
    """``change`` of a plan and, where it has two pools, of each pool."""
    made = change(plan)
    if made.split is None:
        return made
    prefill, decode = map(change, plan.pools)
    return evolve(made, split=evolve(made.split, prefill=prefill, decode=decode))


def _in_both_pools(change: Scaled) -> Scaled:
    return lambda plan, f: change_pools(plan, lambda one: change(one, f))


FIGURES = {
    key: Figure(key, BOUNDS[key], better, _in_both_pools(scaled))
    for key, better, scaled in (
        ("memory", 1, _scale_memory),
        ("compute", 1, _scale_compute),
        ("link", 1, _scale_link),
        ("network", 1, _scale_network),
        ("transfer", 1, _scale_transfer),
        ("message", -1, _scale_messages),
        ("launch", -1, _scale_launches),
        ("unit", 1, _scale_unit),
        ("engine", -1, _scale_engine),
        ("ranks", -1, _scale_ranks),
    )
}
"""All figures, by key."""
