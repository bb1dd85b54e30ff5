"""Cut stages: layers are dealt to the stages of a pipeline, with send and recv between them."""

from __future__ import annotations

from itertools import accumulate, pairwise

from attrs import evolve

from plandsl.ir.collectives import Recv, Send
from plandsl.ir.program import Part, Program, Region
from plandsl.ir.types import Value
from plandsl.spec.plan import PlanSpec


def stage_axes(plan: PlanSpec) -> tuple[str, ...]:
    """The mesh axes that `layers` are cut over, major first."""
    found: dict[str, None] = {}
    for rule in plan.sharding.rules:
        if "layers" in rule.dims:
            found |= dict.fromkeys(rule.axes)
    return tuple(found)


def split_layers(layers: int, stages: int) -> list[tuple[int, int]]:
    """Consecutive ranges that differ by at most one layer, the longer ones first.

    The last stage also runs the head, so it is one of the shorter ones: 126 over 8 is 16 six times, then 15, 15.
    """
    each, more = divmod(layers, stages)
    ends = [0]
    for i in range(stages):
        ends.append(ends[-1] + each + (i < more))
    return list(pairwise(ends))


def stage_layers(plan: PlanSpec, stages: int) -> list[tuple[int, int]]:
    """The layers of each stage: as the sharding cuts them, else in parts that differ by at most one."""
    cut = plan.sharding.cut
    if cut is None or not cut.layers:
        return split_layers(plan.model.layers, stages)
    return list(pairwise(accumulate(cut.layers, initial=0)))


def cut_stages(program: Program, plan: PlanSpec) -> Program:
    """Deal the layers to stages; a boundary hands on the residual stream.

    Before:  region embedding, block[0..80], head
    After:   stage 0 = embedding, block[0..40], send
             stage 1 = recv, block[40..80], head
    """
    axes = stage_axes(plan)
    cuts = stage_layers(plan, program.mesh.ways(axes))
    stages = []
    for i, (start, stop) in enumerate(cuts):
        parts = [Part("embedding")] if i == 0 else [Part("recv")]
        for region in program.regions:
            if region.layers is not None:
                layers = region.every.within(region.layers, (start, stop))
                if layers is not None:
                    parts.append(Part(region.name, layers, region.every))
        parts.append(Part("head") if i == len(cuts) - 1 else Part("send"))
        stages.append(tuple(parts))
    hops = _hops(program.region("head").args[0], plan.hop_tensors) if len(cuts) > 1 else ()
    return evolve(program, regions=(*program.regions, *hops), stage_axes=axes, stages=tuple(stages))


def _hops(x: Value, tensors: int) -> tuple[Region, Region]:
    send = Region("send", None, (x,), (), (Send(x, tensors),), ())
    recv = Region("recv", None, (), (), (Recv(x, tensors),), (x,))
    return send, recv
