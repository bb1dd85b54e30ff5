"""Checks that shards do not cut groups of weights that share a scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple, TypeAlias

from attrs import evolve

from plandsl.diagnostics import Diagnostic, Label
from plandsl.ir.compute import Gemm
from plandsl.ir.experts import GroupedGemm
from plandsl.ir.names import ENDS
from plandsl.ir.program import PREFILL
from plandsl.ir.types import REPLICATED, Dim, TensorType, Value
from plandsl.passes.build import build_model
from plandsl.passes.layout import Layout
from plandsl.spec.formats import Format, read_format
from plandsl.spec.hardware import EngineSpec
from plandsl.spec.model import EXPERTS, ModelSpec
from plandsl.spec.plan import AxisSpec, PlanSpec

REFUSING = ("vllm", "sglang")
"""Engines that refuse shards of blocks, of groups of integers, and of nvfp4. Other engines are not known to.

vLLM: `quantization/utils/fp8_utils.py`, `marlin_utils.py`, `modelopt.py`; SGLang: `layers/quantization/fp8.py`.
"""

PADDED = ("mxfp8", "mxfp6", "mxfp4")
"""Formats whose shards those engines pad to whole groups instead."""

MOST = 3
"""Most kinds of cuts that a message lists."""

MARLIN = {"inputs": 128, "outputs": 64}
"""Of a rank's part of a weight in groups of integers, vLLM's and SGLang's Marlin kernels take multiples of these."""


class Matrix(NamedTuple):
    """A weight of a GEMM: its dimensions that the GEMM sums over (inputs) and keeps (outputs), and its region."""

    weight: Value
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    region: str


class Cut(NamedTuple):
    """A weight whose shard has ``part`` of the ``whole`` elements of one side, no multiple of the ``unit`` asked for.

    ``axes`` are the mesh axes that split the dimensions ``dims`` of this side. ``kernel``: a kernel asks, not a scale.
    ``expert``: it is a weight of experts.
    """

    weight: str
    stored: str
    side: str
    dims: tuple[str, ...]
    axes: tuple[str, ...]
    whole: int
    part: int
    unit: int
    kernel: bool
    expert: bool


Check: TypeAlias = Callable[[PlanSpec], bool]


def check_groups(plan: PlanSpec, sizes_fit: Check) -> Iterator[Diagnostic]:
    """An error (E345) for each axis that cuts groups where the engine refuses that, else a note (N345).

    A hint names only degrees for which ``sizes_fit`` holds.
    """
    refused: dict[str, list[Cut]] = {}
    shared: dict[str, list[Cut]] = {}
    for cut in find_cuts(plan):
        refuses = refuses_cuts(plan.engine) and cut.stored not in PADDED
        if refuses or not cut.kernel:
            (refused if refuses else shared).setdefault(cut.axes[-1], []).append(cut)
    for axis, cuts in refused.items():
        yield _refusal(plan, next(a for a in plan.sharding.axes if a.name == axis), cuts, sizes_fit)
    for axis, cuts in shared.items():
        pads = refuses_cuts(plan.engine)
        what = "the engine pads them, which is not counted" if pads else "ranks hold the same scales"
        hint = "" if pads else f"{' and '.join(REFUSING)} refuse to start such a model (E345)"
        place = next(a for a in plan.sharding.axes if a.name == axis)
        yield Diagnostic("N345", f"{_degree(place)} cuts {_shown(cuts)}: {what}", place.span, hint=hint)


def refuses_cuts(engine: EngineSpec | None) -> bool:
    """Whether the engine is one of `REFUSING`, by its kernels or its scheduler."""
    return engine is not None and not {engine.kernels.removesuffix("_rocm"), engine.scheduler.name}.isdisjoint(REFUSING)


def find_cuts(plan: PlanSpec) -> list[Cut]:
    """Every weight of the plan's model whose shards do not consist of whole groups, by the side that is cut."""
    if not any(map(_has_groups, plan.model.formats)):
        return []
    ways = {axis.name: axis.size for axis in plan.sharding.axes}
    matrices, experts = _matrices(plan.model)
    layout = Layout(plan.sharding, PREFILL, experts)
    return [
        cut
        for matrix in matrices
        for cut in _cuts(matrix, layout.weight(matrix.weight.type, matrix.region), plan.model, ways)
    ]


def _has_groups(word: str) -> bool:
    format_ = read_format(word)
    return format_ is not None and format_.inputs * format_.outputs > 1


def _cuts(matrix: Matrix, type_: TensorType, model: ModelSpec, ways: dict[str, int]) -> Iterator[Cut]:
    stored = matrix.weight.type.dtype
    format_ = read_format(stored)
    assert format_ is not None, "the model has only known formats"
    for side, names in (("inputs", matrix.inputs), ("outputs", matrix.outputs)):
        dims = [type_.dim(name) for name in names]
        axes = tuple(a for d in dims for a in d.axes if ways[a] > 1)
        whole = prod(model.size(d.name) for d in dims)
        part = prod(_local(d, model.size(d.name), ways) for d in dims)
        if not axes or part == whole:
            continue
        group = 1 if format_.channel else getattr(format_, side)
        kernel = MARLIN[side] if _is_marlin(format_) and whole % MARLIN[side] == 0 else 1
        for unit, asked in ((group, False), (kernel, True)):
            if part % unit:
                split = tuple(d.name for d in dims if d.axes)
                yield Cut(
                    weight=matrix.weight.name,
                    stored=stored,
                    side=side,
                    dims=split,
                    axes=axes,
                    whole=whole,
                    part=part,
                    unit=unit,
                    kernel=asked,
                    expert=matrix.region == EXPERTS,
                )
                break


def _is_marlin(format_: Format) -> bool:
    """Whether engines run the weights with Marlin: integers in groups of inputs."""
    return format_.name.startswith("int") and format_.outputs == 1 and format_.inputs > 1 and not format_.channel


def _local(dim: Dim, size: int, ways: dict[str, int]) -> int:
    """A rank's part of a dimension. Where it does not divide (E301), the whole, which is then the only finding."""
    split = prod(ways[a] for a in dim.axes)
    if size % split == 0:
        return size // split
    return 1 if dim.name in REPLICATED and split % size == 0 else size


@lru_cache(maxsize=16)
def _matrices(model: ModelSpec) -> tuple[tuple[Matrix, ...], frozenset[str]]:
    """The weights of a model's GEMMs, and its dimensions of experts."""
    program = build_model(model, PREFILL, model.activations)
    found = []
    for region in program.regions:
        for op in (op for op in region.ops if isinstance(op, Gemm)):
            own = EXPERTS if isinstance(op, GroupedGemm) else region.name if region.name in ENDS else ""
            for i, w in enumerate(op.weights):
                inputs, each = op.contracted(i), op.each
                outputs = [n for n in w.type.names if n not in inputs and not (each and n == each[1])]
                found.append(Matrix(w, inputs, tuple(outputs), own))
    return tuple(dict.fromkeys(found)), frozenset(place.experts for place, _ in program.imbalance)


# ---- messages


def _degree(axis: AxisSpec) -> str:
    return f"`{axis.sugar} = {axis.size}`" if axis.sugar else f"`{axis.name}` of {axis.size} ranks"


def _shown(cuts: list[Cut]) -> str:
    """The weights that are cut, and the size of a shard: ``w_down (192 of 1,536 inputs, in groups of 128)``."""
    by_size: dict[tuple[str, int, int, int], list[str]] = {}
    for cut in cuts:
        by_size.setdefault((cut.side, cut.part, cut.whole, cut.unit), []).append(f"`{cut.weight}`")
    texts = [
        f"{', '.join(dict.fromkeys(names))} ({part:,} of {whole:,} {side}, in groups of {unit})"
        for (side, part, whole, unit), names in by_size.items()
    ]
    return ", ".join(texts[:MOST]) + (", ..." if len(texts) > MOST else "")


def _refusal(plan: PlanSpec, axis: AxisSpec, cuts: list[Cut], sizes_fit: Check) -> Diagnostic:
    assert plan.engine is not None, "an engine refuses"
    first = cuts[0]
    dims = ", ".join(dict.fromkeys(dim for cut in cuts for dim in cut.dims))
    why = f"{plan.engine.name} refuses {_degree(axis)}: it cuts {_shown(cuts)}"
    needs = f"{first.part:,} is no multiple of {first.unit}"
    good = _degrees(plan, axis, sizes_fit)
    hint = (
        f"nearest degrees that cut no group: {', '.join(map(str, good))}" if good else f"split {dims} over fewer ranks"
    )
    if any(cut.expert for cut in cuts):
        hint += "; or spread whole experts: `experts -> ...`, or `ep`"
    rule = next((r for r in plan.sharding.rules if axis.name in r.axes and first.dims[-1] in r.dims), None)
    labels = (
        (Label(rule.span, f"{first.dims[-1]} is split here"),) if rule and rule.span and axis.span != rule.span else ()
    )
    return Diagnostic("E345", why, axis.span or plan.sharding.span, needs, hint, labels=labels)


def with_size(plan: PlanSpec, axis: AxisSpec, size: int) -> PlanSpec:
    """The plan with another size of one axis."""
    axes = tuple(a._replace(size=size) if a.name == axis.name else a for a in plan.sharding.axes)
    return evolve(plan, sharding=evolve(plan.sharding, axes=axes))


def _degrees(plan: PlanSpec, axis: AxisSpec, sizes_fit: Check) -> list[int]:
    """The nearest sizes of ``axis``, below and above, with which the plan cuts no group and is legal otherwise."""

    def fits(size: int) -> bool:
        trial = with_size(plan, axis, size)
        if trial.sharding.ranks > plan.gpus or not sizes_fit(trial):
            return False
        return all(cut.stored in PADDED for cut in find_cuts(trial))

    return nearest_degrees(axis, plan.gpus * axis.size // plan.sharding.ranks, fits)


def nearest_degrees(axis: AxisSpec, most: int, fits: Callable[[int], bool]) -> list[int]:
    """The nearest size below that of ``axis`` that ``fits``, and the nearest one above, which is at most ``most``."""
    below = next((n for n in range(axis.size - 1, 0, -1) if fits(n)), None)
    above = next((n for n in range(axis.size + 1, min(most, TRIED) + 1) if fits(n)), None)
    return [n for n in (below, above) if n is not None]


TRIED = 4096
"""The largest degree that a hint looks for."""
