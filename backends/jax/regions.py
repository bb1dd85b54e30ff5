"""Regions and stages of one program as the text of functions."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Set
from itertools import groupby

from plandsl.backends.jax.layouts import Layouts
from plandsl.backends.jax.ops import Writer
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.collectives import Send
from plandsl.ir.compute import CacheWrite
from plandsl.ir.names import RegionName
from plandsl.ir.program import Part, Program, Region, in_order
from plandsl.ir.states import States
from plandsl.ir.types import TensorType, Value

TAKEN = ("w", "cache", "x", "ids", "past", "total", "adapters", "new")
"""Names of arguments of functions, and of what they make beside values."""


def step_arguments(program: Program) -> str:
    """What the functions of ``program`` take beside weights, cache and input: the tokens of the step."""
    adapters = any(isinstance(op, AdapterGemm) for region in program.regions for op in region.ops)
    return "ids, past, total, adapters" if adapters else "ids, past, total"


def function_name(prefix: str, phase: str, region: str) -> str:
    """The name of the function of a region in a phase."""
    return f"{prefix}{phase}_{region.replace('.', '_')}"


def stage_name(prefix: str, phase: str, index: int) -> str:
    """The name of the function of a stage in a phase."""
    return function_name(prefix, phase, f"stage_{index}")


def namer(region: Region, taken: Set[str]) -> Callable[[Value], str]:
    """What gives each value of a region its name in the text. Weights are looked up by their own names."""
    weights = {w.name for w in region.weights}
    found: dict[str, str] = {}

    def name(value: Value) -> str:
        if value.name in weights:
            return f'w["{value.name}"]'
        if value.name not in found:
            made = value.name.replace(".", "_")
            while made in taken or keyword.iskeyword(made) or made in TAKEN or made in found.values():
                made += "_"
            found[value.name] = made
        return found[value.name]

    for arg in region.args:
        found[arg.name] = "x"
    return name


def write_region(
    program: Program, region: Region, layouts: Layouts, prefix: str, taken: Set[str], kind: type[Writer] = Writer
) -> str:
    """The function of a region: weights, cache and input of one layer to output and cache. ``kind`` writes its ops."""
    names = namer(region, taken)
    writer = kind(layouts, names, prefix)
    lines = ["new = {}"]
    for arg in region.args:
        if arg.type.pending:
            lines.append(f"x = x[{', '.join('0' for _ in arg.type.pending)}]")
    for op in region.ops:
        lines += writer.write(op)
    out = value_out(region)
    text = names(out)
    if out.type.pending:
        text = f"jnp.expand_dims({text}, {tuple(range(len(out.type.pending)))})"
    layers = "" if region.layers is None else ", once for each layer"
    doc = f'"""`{region.name}` in {program.phase}{layers}: gives {out.type}."""'
    head = f"def {function_name(prefix, program.phase, region.name)}(w, cache, x, {step_arguments(program)}):"
    return "\n".join([head, f"    {doc}", *(f"    {line}" for line in lines), f"    return {text}, new"])


def value_out(region: Region) -> Value:
    """The value that a region hands on: its result, or what it sends."""
    if region.results:
        return region.results[0]
    return next(op.x for op in region.ops if isinstance(op, Send))


def value_in(region: Region) -> TensorType:
    """The type of what a region takes: of its argument, or of what it receives."""
    if region.args:
        return region.args[0].type
    return region.ops[0].results[0].type


def layers_of(parts: tuple[Part, ...]) -> dict[RegionName, tuple[int | None, ...]]:
    """The layers of each region that a stage runs, in order; (None,) for a region that runs once."""
    found: dict[RegionName, tuple[int | None, ...]] = {}
    for region, layer in in_order(parts):
        found[region] = (*found.get(region, ()), layer)
    return found


def caches_of(region: Region) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """What a region keeps of each request: the name and the tensors of each KV cache, and of each op with a state."""
    for op in region.ops:
        if isinstance(op, CacheWrite) and op.kept:
            yield op.cache, op.kept
        elif isinstance(op, States):
            yield op.state, op.kept


def write_stage(program: Program, index: int, parts: tuple[Part, ...], prefix: str) -> str:
    """The function of a stage: its regions one after the other, and layers of one region in one loop."""
    layers, step = layers_of(parts), step_arguments(program)
    lines = [
        f"def {stage_name(prefix, program.phase, index)}(w, cache, x, {step}):",
        f'    """Stage {index} in {program.phase}: {", ".join(map(str, parts))}."""',
        "    cache = dict(cache)",
    ]
    seen = dict.fromkeys(layers, 0)
    for region, group in groupby(in_order(parts), key=lambda run: run[0]):
        count = len(list(group))
        name, key = function_name(prefix, program.phase, region), f'"{region}"'
        if layers[region] == (None,):
            lines.append(f"    x, _ = {name}(w[{key}], {{}}, x, {step})")
            continue
        first, seen[region] = seen[region], seen[region] + count
        at = "" if count == len(layers[region]) else f", at=({first}, {first + count})"
        call = f"layers({name}, w[{key}], cache[{key}], x, {step}{at})"
        lines.append(f"    x, cache[{key}] = {call}")
    return "\n".join([*lines, "    return x, cache"])
