"""Regions and stages of one program as the text of functions."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import groupby

from plandsl.backends.jax.layouts import Layouts, Slots, spec
from plandsl.backends.jax.ops import LAYER, Writer
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.collectives import Send
from plandsl.ir.compute import CacheWrite
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.names import EMBEDDING, SEND, RegionName
from plandsl.ir.program import Part, Program, Region, in_order
from plandsl.ir.states import States
from plandsl.ir.types import TensorType, Value

TAKEN = ("w", "cache", "x", "ids", "past", "total", "adapters", "new", "made")
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
    program: Program,
    region: Region,
    layouts: Layouts,
    prefix: str,
    taken: Set[str],
    handed: Slots,
    kind: type[Writer] = Writer,
) -> str:
    """The function of a region: weights, cache and input of one layer to output and cache.

    ``handed`` says where the keys lie that regions before this one handed on, and learns of those of this one.
    ``kind`` writes the ops.
    """
    names = namer(region, taken)
    writer = kind(layouts, names, prefix, handed, {value.name: name for name, value in region.handed})
    lines = ["x, made = x", "new = {}"] if hands_on(program) else ["new = {}"]
    for arg in region.args:
        if arg.type.pending:
            lines.append(f"x = x[{', '.join('0' for _ in arg.type.pending)}]")
    for op in region.ops:
        lines += writer.write(op)
    out = value_out(region)
    text = names(out)
    if out.type.pending:
        text = f"jnp.expand_dims({text}, {tuple(range(len(out.type.pending)))})"
    for name, value in region.handed:
        handed.follow(name, writer.slots, value.name)
    if hands_on(program):
        text = f"({text}, {_made(region, names)})"
    layers = "" if region.layers is None else ", once for each layer"
    doc = f'"""`{region.name}` in {program.phase}{layers}: gives {out.type}."""'
    head = f"def {function_name(prefix, program.phase, region.name)}(w, cache, x, {step_arguments(program)}):"
    return "\n".join([head, f"    {doc}", *(f"    {line}" for line in lines), f"    return {text}, new"])


def hands_on(program: Program) -> bool:
    """Whether layers take values of earlier layers: then a program passes ``(x, made)`` on, with these by name."""
    return any(region.gives for region in program.regions)


def sent(region: Region) -> dict[str, Value]:
    """What a stage sends to the next beside the hidden state, by name."""
    return {op.made: op.out for op in region.ops if isinstance(op, Earlier)}


def _made(region: Region, names: Callable[[Value], str]) -> str:
    """The text of what later regions can take after ``region``; after a send, what is sent."""
    sends = any(isinstance(op, Send) for op in region.ops)
    given = [f'"{name}": {names(value)}' for name, value in (sent(region).items() if sends else region.handed)]
    given = given if sends else ["**made", *given]
    return "made" if given == ["**made"] else f"{{{', '.join(given)}}}"


def counts_layers(region: Region) -> bool:
    """Whether a loop over the layers of a region runs over their numbers: an op takes them, or it has nothing else."""
    alone = not region.weights and not any(caches_of(region))
    return alone or any(isinstance(op, Item) and op.at is None for op in region.ops)


def _numbers(layers: tuple[int | None, ...]) -> str:
    """The numbers of layers, as the text of an array."""
    numbers = [n for n in layers if n is not None]
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = range(numbers[0], numbers[-1] + 1, step)
    if list(even) != numbers:
        return f"jnp.array({numbers})"
    return f"jnp.arange({even.start}, {even.stop}{f', {step}' if step > 1 else ''})"


def spec_in(program: Program, region: Region) -> str:
    """The layouts of what a stage takes that begins with ``region``."""
    receives = hands_on(program) and not region.args
    return _with_handed(value_in(region), dict(region.handed) if receives else None)


def spec_out(program: Program, region: Region) -> str:
    """The layouts of what a stage gives that ends with ``region``."""
    sends = not region.results and hands_on(program)
    return _with_handed(value_out(region).type, sent(region) if sends else None)


def _with_handed(x: TensorType, handed: Mapping[str, Value] | None) -> str:
    if handed is None:
        return spec(x)
    made = ", ".join(f'"{name}": {spec(value.type)}' for name, value in handed.items())
    return f"({spec(x)}, {{{made}}})"


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
    hands, known = hands_on(program), set[str]()
    if hands and parts[0].region == EMBEDDING:
        lines.append("    x = x, {}")
    seen = dict.fromkeys(layers, 0)
    for region, group in groupby(in_order(parts), key=lambda run: run[0]):
        count = len(list(group))
        name, key, gives = function_name(prefix, program.phase, region), f'"{region}"', program.region(region).gives
        if layers[region] == (None,):
            lines.append(f"    x, _ = {name}(w[{key}], {{}}, x, {step})")
            known.update(gives)
            continue
        first, seen[region] = seen[region], seen[region] + count
        at = "" if count == len(layers[region]) else f", at=({first}, {first + count})"
        weights = f"w[{key}]"
        if counts_layers(program.region(region)):
            weights = f'{{**{weights}, "{LAYER}": {_numbers(layers[region])}}}'
        given = f"{name}, {weights}, cache[{key}], x, {step}"
        if not known.issuperset(gives):
            lines.append(f"    x = with_room({given})")
            known.update(gives)
        lines.append(f"    x, cache[{key}] = layers({given}{at})")
    out = "x[0]" if hands and parts[-1].region != SEND else "x"
    return "\n".join([*lines, f"    return {out}, cache"])
