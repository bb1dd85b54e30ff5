"""Cut stages: deal the layers to the stages of a pipeline, with send and recv between stages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from attrs import evolve

from plandsl.ir.collectives import Recv, Send
from plandsl.ir.earlier import Earlier
from plandsl.ir.names import EMBEDDING, HEAD, RECV, SEND
from plandsl.ir.program import Part, Program, Region
from plandsl.spec.earlier import group_starts
from plandsl.spec.plan import PlanSpec


def stage_axes(plan: PlanSpec) -> tuple[str, ...]:
    """The mesh axes that cut the layers into stages, major first."""
    found: dict[str, None] = {}
    for rule in plan.sharding.rules:
        if "layers" in rule.dims:
            found |= dict.fromkeys(rule.axes)
    return tuple(found)


def split_layers(layers: int, stages: int, starts: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Consecutive ranges of layers whose lengths differ by at most one, the longer ranges first.

    The last stage also runs the head, so it gets a shorter range: 126 layers on 8 stages are 16 six times, then 15, 15.
    Where stages may start at the layers ``starts`` alone (ascending, at least as many as stages), each starts at the
    nearest one.
    """
    each, more = divmod(layers, stages)
    ends = [0]
    for i in range(1, stages):
        wish = i * each + min(i, more)
        if starts is not None:
            first, stop = bisect_right(starts, ends[-1]), len(starts) - (stages - 1 - i)  # later stages need one too
            at = bisect_left(starts, wish, first, stop)
            wish = min(starts[max(at - 1, first) : min(at + 1, stop)], key=lambda n: abs(n - wish))
        ends.append(wish)
    return list(pairwise([*ends, layers]))


def stage_layers(plan: PlanSpec, stages: int) -> list[tuple[int, int]]:
    """The layers of each stage: as the plan's `cut` says, else evenly (`split_layers`)."""
    cut = plan.sharding.cut
    if cut is None or not cut.layers:
        return split_layers(plan.model.layers, stages, group_starts(plan.model))
    return list(pairwise(accumulate(cut.layers, initial=0)))


def cut_stages(program: Program, plan: PlanSpec) -> Program:
    """Deal the layers to stages; each stage sends the residual stream to the next, and what the embedding made.

    Before:  region embedding, block[0..80], head
    After:   stage 0 = embedding, block[0..40], send
             stage 1 = recv, block[40..80], head
    """
    axes = stage_axes(plan)
    cuts = stage_layers(plan, program.mesh.ways(axes))
    stages = []
    for i, (start, stop) in enumerate(cuts):
        parts = [Part(EMBEDDING)] if i == 0 else [Part(RECV)]
        for region in program.regions:
            if region.layers is not None:
                layers = region.every.clip(region.layers, (start, stop))
                if layers is not None:
                    parts.append(Part(region.name, layers, region.every))
        parts.append(Part(HEAD) if i == len(cuts) - 1 else Part(SEND))
        stages.append(tuple(parts))
    hops = _hops(program, plan.hop_tensors) if len(cuts) > 1 else ()
    return evolve(program, regions=(*program.regions, *hops), stage_axes=axes, stages=tuple(stages))


def _hops(program: Program, tensors: int) -> tuple[Region, Region]:
    x, embedding = program.region(HEAD).args[0], program.region(EMBEDDING)
    made = [evolve(value, name=f"{name}.sent") for name, value in embedding.handed]
    reads = tuple(Earlier(value, name) for name, value in zip(embedding.gives, made, strict=True))
    sends = (Send(x, tensors), *(Send(value, 1) for value in made))
    recvs = (Recv(x, tensors), *(Recv(value, 1) for value in made))
    send = Region(SEND, None, args=(x,), weights=(), ops=(*reads, *sends), results=())
    recv = Region(RECV, None, args=(), weights=(), ops=recvs, results=(x, *made), gives=embedding.gives)
    return send, recv
