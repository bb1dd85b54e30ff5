"""What a serving engine takes of a GPU besides weights and cache, which it measures before it cuts the cache.

vLLM runs one dummy step at its limits when it starts (`v1/worker/gpu_worker.py`, `determine_available_memory`), and the
peak counts, whatever load comes later:

    activations = workspace + max(forward + states * state,  sampling + state + experts) + 2 state between stages
    forward     = live values and buffers of collectives in a step of `step_tokens` tokens (or `chunked_prefill`)
    state       = bytes of the hidden states of that step
    sampling    = sampled rows * vocabulary * (bytes of a logit + `logit`),  where the stage has the head
    experts     = pairs * (max(inner, hidden) + max(2 inner, hidden)) * bytes,  of one layer with experts

Sampled rows are min(`max_requests`, `step_tokens`). The vocabulary counts whole, since every rank gathers it.
`benchmarks/engine_memory.py` fits ``workspace``, ``states`` and ``logit``. The workspace of experts is that of vLLM's
modular kernels (`fused_moe/fused_moe.py`, `TritonExperts.workspace_shapes`); it stays allocated while rows are sampled.
The kernels for mxfp4 keep none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plandsl.backends.cost.deployments.contents import Contents
from plandsl.backends.cost.deployments.rows import Rows, count_bytes, count_type
from plandsl.backends.cost.num import largest, maximum, minimum
from plandsl.ir.collectives import AllReduce
from plandsl.ir.experts import GroupedGemm
from plandsl.ir.names import HEAD
from plandsl.ir.program import Region
from plandsl.ir.types import Number, TensorType, makes_rows
from plandsl.spec.formats import item_bytes
from plandsl.spec.hardware import EngineSpec, GpuSpec
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

UNBUFFERED = ("mxfp4",)
"""Formats of experts' weights whose kernels keep no workspace between calls."""


class Parts(NamedTuple):
    """Bytes of the profiled step, each the most that a region of a stage has; ``head``: whether the stage samples."""

    live: Number
    buffers: Number
    state: Number
    experts: Number
    sampling: Number
    head: bool

    def join(self, other: Parts) -> Parts:
        """The parts of a stage that has the regions of both."""
        return Parts(
            live=maximum(self.live, other.live),
            buffers=maximum(self.buffers, other.buffers),
            state=maximum(self.state, other.state),
            experts=maximum(self.experts, other.experts),
            sampling=maximum(self.sampling, other.sampling),
            head=self.head or other.head,
        )


class Profile:
    """A full step of an engine on the programs of ``contents``, and what else the engine takes."""

    def __init__(self, contents: Contents, plan: PlanSpec) -> None:
        self.contents, self.plan, self.engine = contents, plan, plan.effective_engine

    @property
    def step(self) -> int:
        """Tokens of a full step on each rank that has requests of its own."""
        return self.plan.full_step

    def activations(self, stage: int) -> Number:
        """Bytes at the peak of the profiled step; 0 with `step_tokens` 0."""
        return self.add_up(self.parts(stage)) if self.step else 0.0

    def parts(self, stage: int) -> Parts:
        """What the peak of a stage is made of."""
        rows, extents = self._rows(stage), self.contents.extents
        regions = [region for region, _ in self.contents.regions(stage)]
        states = (x.type for region in regions for x in region.args if _is_state(x.type))
        live, buffers = (
            largest([0.0, *(count_bytes(s, rows, extents) for s in x[stage])]) for x in self.contents.steps[0]
        )
        return Parts(
            live,
            buffers,
            state=largest([0.0, *(count_type(type_, rows, extents) for type_ in states)]),
            experts=largest([0.0, *(self._expert_workspace(r, rows) for r in regions)]),
            sampling=largest([0.0, *(self._sampling(r, rows) for r in regions if r.name == HEAD)]),
            head=any(r.name == HEAD for r in regions),
        )

    def add_up(self, parts: Parts) -> Number:
        """Bytes at the peak of a stage with ``parts``."""
        peak = parts.live + parts.buffers + self.engine.states * parts.state
        if parts.head:
            peak = maximum(peak, parts.sampling + parts.state + parts.experts)
        hops = 2 * parts.state if len(self.contents.program.stages) > 1 else 0.0
        return self.engine.workspace + peak + hops

    def others(self, stage: int) -> Number:
        """Bytes inside the engine's share that are no part of the step: libraries, buffers, reserve, perhaps graphs."""
        engine, found = self.engine, self.engine.libraries + self.engine.reserve
        if engine.all_reduce and self._sums(stage) and self._fuses_sums():
            found += engine.all_reduce
        return found + (self.graphs(stage) if engine.graphs_in_budget else 0.0)

    def graphs(self, stage: int) -> Number:
        """Bytes of captured CUDA graphs."""
        layers = sum_up(repeats for region, repeats in self.contents.regions(stage) if region.layers is not None)
        return self.engine.graphs + self.engine.graph_layer * layers

    def _rows(self, stage: int) -> Rows:
        """The rows of a full step over all ranks."""
        ways, tokens = self.contents.ways(stage), self.step
        return Rows(tokens * ways, min(self.engine.max_requests, tokens) * ways, tokens * ways)

    def _sampling(self, head: Region, rows: Rows) -> Number:
        """Bytes of the logits, and of what sampling makes of them."""
        total: Number = 0.0
        for logits in head.results:
            whole: Number = item_bytes(logits.type.dtype) + self.engine.logit
            for dim in (d for d in logits.type.dims if not makes_rows(d.name)):
                whole = whole * self.contents.extents.sizes[dim.name]
            axes = (a for d in logits.type.dims if d.name == "batch" for a in d.axes)
            total = total + whole * -(-rows.requests // self.contents.extents.ways(axes))
        return total

    def _expert_workspace(self, region: Region, rows: Rows) -> Number:
        """Bytes of the workspace of a region's experts."""
        gemms = [op for op in region.ops if isinstance(op, GroupedGemm)]
        gemms = [op for op in gemms if op.weights[0].type.dtype not in UNBUFFERED]
        if not gemms:
            return 0.0
        extents = self.contents.extents
        read = [count_type(op.x.type, rows, extents) for op in gemms]
        written = [sum_up(count_type(x.type, rows, extents) for x in op.outs) for op in gemms]
        return largest(read) + largest(written)

    def _sums(self, stage: int) -> bool:
        """Whether ranks of a stage sum partial results."""
        ops = (op for region, _ in self.contents.regions(stage) for op in region.ops)
        return any(isinstance(op, AllReduce) and self.contents.extents.ways(op.axes) > 1 for op in ops)

    def _fuses_sums(self) -> bool:
        """Whether the ranks of a stage sum by fused all_reduce kernels, which keep buffers.

        FlashInfer has them for compute capability 9 and 10 (here: GPUs with fp8 arithmetic and other links than PCIe),
        inside a node.
        """
        node, sharding = self.plan.node, self.plan.sharding
        together = sharding.ranks // sharding.replicas // len(self.contents.program.stages)
        fast = all(gpu.peak("fp8") is not None for _, gpu in node.groups)
        return fast and node.link.topology != "pcie" and together <= node.count


def _is_state(type_: TensorType) -> bool:
    """Whether a value is the hidden states of tokens, rather than their ids."""
    return "position" in type_.names and len(type_.names) > 2


def taken_before(engine: EngineSpec, plan: PlanSpec) -> float:
    """Bytes that are gone before an engine measures free memory: the process itself, and communicators."""
    alone = plan.sharding.ranks == plan.sharding.replicas
    return engine.context + (0.0 if alone else engine.communicators)


def largest_fraction(plan: PlanSpec, gpus: Sequence[GpuSpec]) -> float:
    """The largest share that an engine can ask for: of the device, what is free when it starts."""
    if plan.effective_engine.fraction_of != "device":
        return 1.0
    return 1 - taken_before(plan.effective_engine, plan) / min(gpu.memory for gpu in gpus)


def share_of(gpu: GpuSpec, plan: PlanSpec, weights: Number, profiled: Number, others: Number) -> Number:
    """Bytes of ``gpu`` that weights, cache, the ``profiled`` step and ``others`` may take together.

    `spec.hardware.FRACTIONS` says of what the plan's `memory_fraction` is a share.
    """
    engine, share = plan.effective_engine, plan.memory_fraction
    if engine.fraction_of == "device":
        return gpu.memory * share
    free = gpu.memory - taken_before(engine, plan)
    if engine.fraction_of == "free_before":
        return minimum(free * share + profiled + others, free)
    held = weights + profiled + others
    return held + maximum(free - held, 0.0) * share
