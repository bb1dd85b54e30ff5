"""A plan as the text of one Python program: its shardings, and what runs them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from plandsl.backends.jax import host_texts, texts
from plandsl.backends.jax.formats import type_name
from plandsl.backends.jax.layouts import Layouts, Slots, multiple, spec
from plandsl.backends.jax.regions import (
    caches_of,
    layers_of,
    spec_in,
    spec_out,
    stage_name,
    value_out,
    write_region,
    write_stage,
)
from plandsl.backends.jax.sources import functions_of_one, meanings
from plandsl.ir.compute import Map
from plandsl.ir.names import HEAD
from plandsl.ir.program import Program
from plandsl.ir.states import ShortConv
from plandsl.ir.types import Mesh, Value
from plandsl.spec.model import ADAPTERS
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

ONLY = "plan"
"""The name of the only sharding of a plan."""


class Sharding(NamedTuple):
    """One sharding of a plan with its two programs: a pool, or a mode of a pool.

    ``first`` is the number of devices before its own. ``part`` is the model that it shards: `draft`, `tower`, or empty
    for the plan's own.
    """

    name: str
    spec: PlanSpec
    prefill: Program
    decode: Program
    first: int = 0
    part: str = ""

    @property
    def prefix(self) -> str:
        """How the names of its functions begin; empty for the only sharding of a plan."""
        return "" if self.name == ONLY else f"{self.name}_"

    @property
    def programs(self) -> tuple[Program, ...]:
        """Both phases; of an encoder, prefill alone."""
        return (self.prefill,) if self.spec.workload.encodes else (self.prefill, self.decode)


def export(title: str, shardings: Sequence[Sharding], room: int = 0, *, exact: bool = False) -> str:
    """The program of a plan. Its cache has room for ``room`` steps after the prompt, at least for the plan's output.

    With ``exact``, all formats are float64, for a comparison. Raises `PlanError` (E516) for formats.
    """
    ops = [op for s in shardings for p in s.programs for r in p.regions for op in r.ops]
    words = {op.fn for op in ops if isinstance(op, Map | ShortConv) and op.fn}
    fixed = [meanings(), functions_of_one(words), texts.ON_A_DEVICE, host_texts.SETTINGS]
    taken = names_in("\n".join([texts.HEAD, *fixed]))
    about = "Written by plandsl; needs jax and numpy. Run it for the time of its steps."
    parts = [f'"""{title}\n\n{about}\n"""', texts.HEAD]
    parts += [formats_text([p for s in shardings for p in s.programs], exact=exact), *fixed[:3]]
    for sharding in shardings:
        parts += _functions(sharding, taken)
    parts.append(host_texts.SETTINGS)
    parts += [_setting(s, shardings, room) for s in shardings]
    names = ", ".join(f'"{s.name}": {s.prefix.upper()}SETTING' for s in shardings)
    parts += [f"SETTINGS = {{{names}}}", host_texts.MAIN]
    return "\n\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def names_in(text: str) -> set[str]:
    """The names that a text binds at its top, and those that it imports."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {one.asname or one.name for one in names}
            case ast.Assign(targets=[ast.Name(id=name)]):
                found.add(name)
    return found


def formats_text(programs: Iterable[Program], *, exact: bool) -> str:
    """The number formats of programs by their names; ``exact``: float64 for all of them."""
    words = {"bf16"}
    for program in programs:
        for region in program.regions:
            words |= {v.type.dtype for v in region.values().values()}
            words |= {op.compute for op in region.ops if hasattr(op, "compute")}
    lines = []
    for word in sorted(words):
        if word == "int32":
            lines.append("int32 = jnp.int32")
        elif exact:
            lines.append(f"{word} = jnp.float64")
        else:
            lines.append(f"{word} = jnp.float64 if EXACT else jnp.{type_name(word)}")
    named = ", ".join(f'"{word}": {word}' for word in sorted(words) if word != "int32")
    return "\n".join([*lines, f"FORMATS = {{{named}}}"])


def _functions(sharding: Sharding, taken: set[str]) -> Iterator[str]:
    for program in sharding.programs:
        layouts, handed = layouts_of(program), Slots.none()
        yield f"# ---- {sharding.name}: {program.phase}, on a mesh of {program.mesh or 'one device'}"
        for region in program.regions:
            yield write_region(program, region, layouts, sharding.prefix, taken=taken, handed=handed)
        for index, parts in enumerate(program.stage_parts):
            yield write_stage(program, index, parts, sharding.prefix)


def layouts_of(program: Program) -> Layouts:
    """The sizes of a program that are numbers."""
    return Layouts({n: s for n, s in program.sizes if isinstance(s, int)}, program.mesh)


class _Room(NamedTuple):
    """The requests and positions of a setting, as `Setting` in the printed program has them."""

    batch: int
    pad_batch: int
    parts: tuple[int, ...]
    groups: int
    queries: int
    pad: int
    decoded: int
    adapters: int
    merged: int
    patch: int
    width: int

    def context(self, ways: int) -> int:
        """Positions of a cached context that ``ways`` ranks share."""
        if ways == 1:
            return sum_up(self.parts) + self.decoded + self.pad
        own = sum_up(-(-tokens // self.pad) * self.pad // ways for tokens in self.parts)
        return (own - (-self.decoded // ways)) * ways


def prompt_parts(plan: PlanSpec) -> tuple[int, ...]:
    """The numbers of tokens of the parts in which a prompt is computed: reused tokens first, then chunks."""
    load, chunk = plan.workload, plan.chunked_prefill
    step = None if chunk is None else max(chunk // load.batch, 1)
    cuts = [0, *plan.cut_prompt(step), load.input]
    return tuple(b - a for a, b in pairwise(cuts))


def _room(sharding: Sharding, shardings: Sequence[Sharding], room: int) -> _Room:
    plan, model = sharding.spec, sharding.spec.model
    same = [p for s in shardings for p in s.programs if (s.part, s.first) == (sharding.part, sharding.first)]
    return _Room(
        batch=plan.workload.batch,
        pad_batch=multiple(same, "batch"),
        parts=prompt_parts(plan),
        groups=plan.micro_batches,
        queries=plan.queries,
        pad=multiple(same, "position") * multiple(same, "context"),
        decoded=0 if plan.workload.encodes else max(plan.workload.output, room) * plan.queries,
        adapters=0 if model.lora is None else model.size(ADAPTERS),
        merged=model.merged,
        patch=model.size(model.embedding.dims[0]) if model.reads_patches else 0,
        width=model.size(value_out(sharding.prefill.region(HEAD)).type.names[-1]),
    )


def _setting(sharding: Sharding, shardings: Sequence[Sharding], room: int) -> str:
    room_ = _room(sharding, shardings, room)
    mesh = sharding.prefill.mesh if sharding.prefill.mesh.axes else Mesh((("device", 1),))
    lines = [f"{sharding.prefix.upper()}SETTING = Setting("]
    facts = {
        "first": sharding.first,
        "axes": tuple(n for n, _ in mesh.axes),
        "shape": tuple(s for _, s in mesh.axes),
        **room_._asdict(),
    }
    lines += [f"    {name}={value!r}," for name, value in facts.items()]
    lines.append("    stages=(")
    for index in range(len(sharding.prefill.stage_parts)):
        lines += [f"        {line}" for line in _stage(sharding, index, mesh, room_)]
    return "\n".join([*lines, "    ),", ")"])


def _stage(sharding: Sharding, index: int, mesh: Mesh, room: _Room) -> Iterator[str]:
    program = sharding.prefill
    parts = program.stage_parts[index]
    layouts, layers = layouts_of(program), layers_of(parts)
    yield "Stage("
    yield f"    place=({', '.join(_place(program, index, mesh))},),"
    yield f"    layers={ {str(r): n for r, n in layers.items()}!r},"
    yield "    weights={"
    for name, some in layers.items():
        yield f'        "{name}": {{'
        for weight in program.region(name).weights:
            yield f'            "{weight.name}": {_weight(weight, some, layouts)},'
        yield "        },"
    yield "    },"
    yield "    caches={"
    for name, some in layers.items():
        if some == (None,):
            continue
        yield f'        "{name}": {{'
        for cache, held in caches_of(program.region(name)):
            tensors = ", ".join(_cached(one, len(some), layouts, room) for one in held)
            yield f'            "{cache}": ({tensors},),'
        yield "        },"
    yield "    },"
    yield "    steps={"
    for phase in sharding.programs:
        own = phase.stage_parts[index]
        takes, gives = spec_in(phase, phase.region(own[0].region)), spec_out(phase, phase.region(own[-1].region))
        step = stage_name(sharding.prefix, phase.phase, index)
        yield f'        "{phase.phase}": Step({step}, {takes}, {gives}),'
    yield "    },"
    yield "),"


def _place(program: Program, index: int, mesh: Mesh) -> Iterator[str]:
    """The index, along each axis, of the devices of a stage."""
    stages = Mesh(tuple((axis, mesh.size(axis)) for axis in program.stage_axes if program.stages))
    at = stages.coordinates(index)
    for axis, _ in mesh.axes:
        yield f"slice({at[axis]}, {at[axis] + 1})" if axis in at else "slice(None)"


def _weight(weight: Value, layers: tuple[int | None, ...], layouts: Layouts) -> str:
    dims = weight.type.dims
    shape = tuple(layouts.extent(d) for d in dims)
    stacked = layers != (None,)
    shape = (len(layers), *shape) if stacked else shape
    text = f"Tensor({shape}, {weight.type.dtype}, {spec(weight.type, stacked=stacked)}"
    for i, dim in enumerate(dims):
        if (times := layouts.repeats(dim)) > 1:
            text += f", {i + stacked}, {times}"
    return text + ")"


def _cached(out: Value, layers: int, layouts: Layouts, room: _Room) -> str:
    shape, more = [layers], ""
    for i, dim in enumerate(out.type.dims):
        if dim.name == "batch":
            unit = room.pad_batch * room.groups
            shape.append(-(-room.batch // unit) * unit)
        elif dim.name == "context":
            shape.append(room.context(layouts.mesh.ways(dim.axes)))
        else:
            shape.append(layouts.extent(dim))
            if (times := layouts.repeats(dim)) > 1:
                more = f", {i + 1}, {times}"
    if "context" not in out.type.names:
        more = (more or ", 0, 1") + ", False"
    return f"Tensor({tuple(shape)}, {out.type.dtype}, {spec(out.type, stacked=True)}{more})"
