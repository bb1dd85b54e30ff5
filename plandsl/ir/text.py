"""The textual form of programs, printed and read back; `--dump`, tests and bug reports show it.

Every op has the form ``%out : type = keyword operands {attributes}``, taken from its fields, so a new op prints and
reads without further code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from attrs import fields

from plandsl.ir.base import BaseOp
from plandsl.ir.names import Places, axes_of, read_dim_name, read_places, read_region_name
from plandsl.ir.ops import OPS, Op
from plandsl.ir.program import PHASES, Part, Program, Region, show_layers
from plandsl.ir.skew import Skew, read_skew
from plandsl.ir.types import Chunk, Dim, Mesh, TensorType, Value
from plandsl.spec.model import EVERY, Every

_CLASSES = {op.keyword: op for op in OPS}


def _attrs(cls: type[BaseOp]) -> Any:
    """``cls``, typed so that `attrs.fields` accepts it: every op class is made by attrs, but `BaseOp` is not."""
    return cls


MISSING = "-"
"""Stands for an optional operand that an op lacks."""


def _attributes(cls: type[BaseOp]) -> list[str]:
    held = {*cls.RESULTS, *cls.OPERANDS, "span"}
    return [f.name for f in fields(_attrs(cls)) if f.name not in held]


# ---- printing


def show_op(op: Op) -> str:
    """One line for one op."""
    outs = ", ".join(map(str, op.results))
    types = ", ".join(str(v.type) for v in op.results)
    line = f"{outs} : {types} = " if op.results else ""
    line += f"{op.keyword} {', '.join(_show_operands(op))}".rstrip()
    attributes = [f"{name} = {_show_attribute(value)}" for name, value in _printed_attributes(op)]
    return line + (f" {{{', '.join(attributes)}}}" if attributes else "")


def _show_operands(op: Op) -> list[str]:
    """The operands of an op; ``-`` stands for a missing one that others follow."""
    shown: list[str] = []
    for name in op.OPERANDS:
        held = getattr(op, name)
        shown += [MISSING] if held is None else map(str, held if type(held) is tuple else (held,))
    while shown and shown[-1] == MISSING:
        shown.pop()
    return shown


def _printed_attributes(op: Op) -> Iterator[tuple[str, object]]:
    """The attributes of an op by name. An attribute that is None, or False by default and in fact, is left out."""
    defaults = {f.name: f.default for f in fields(_attrs(type(op)))}
    for name in _attributes(type(op)):
        value = getattr(op, name)
        if value is not None and (value is not False or defaults[name] is not False):
            yield name, value


def _show_attribute(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def show_region(region: Region) -> str:
    """A region with its arguments, weights and ops."""
    span = "" if region.layers is None else f"[{show_layers(region.layers, region.every)}]"
    args = ", ".join(f"{v} : {v.type}" for v in region.args)
    out = [f"region {region.name}{span}({args}) -> {', '.join(map(str, region.results))} {{".replace("->  {", "-> {")]
    out += [f"  weight {v} : {v.type}" for v in region.weights]
    out += [f"  {show_op(op)}" for op in region.ops]
    out += [f"  live {', '.join(names)}" for names in region.live]
    if region.gives:
        out.append(f"  gives {', '.join(region.gives)}")
    out += [f"  through {v} : {v.type}" for v in region.through]
    if region.buffers:
        out.append(f"  buffers {', '.join(region.buffers)}")
    return "\n".join([*out, "}"])


def show(program: Program) -> str:
    """The whole program; `read` gives an equal one back."""
    out = [f"program {program.model} {program.phase}", f"mesh {program.mesh}".rstrip()]
    out += [f"dim {name} = {size}" for name, size in program.sizes]
    out += [f"imbalance {name} = {ratio}" for name, ratio in program.imbalance]
    if program.stage_axes:
        out.append(f"layers -> {', '.join(program.stage_axes)}")
    out += [show_region(region) for region in program.regions]
    out += [f"stage {i} = {', '.join(map(str, parts))}" for i, parts in enumerate(program.stages)]
    return "\n".join(out) + "\n"


# ---- reading

_TYPE = r"\w+\[[^\]]*\](?:\{[^}]*\})?"
_OP = re.compile(
    rf"(?:(?P<outs>%[^:]*) : (?P<types>{_TYPE}(?:, {_TYPE})*) = )?(?P<key>\w+)(?P<xs>[^{{]*)(?P<at>\{{.*\}})?$"
)
_LAYERS = r"(?:\[(\d+)\.\.(\d+)(?: by (\d+)(?: at ([\d ]+))?)?\])?"
_REGION = re.compile(rf"region ([\w.]+){_LAYERS}\((?P<args>.*)\) -> ?(?P<outs>.*?) ?\{{$")
_PART = re.compile(rf"([\w.]+){_LAYERS}")


def read_type(text: str) -> TensorType:
    """Read what ``str(TensorType)`` prints."""
    dtype, _, rest = text.partition("[")
    inner, _, partial = rest.partition("]")
    dims = []
    for part in filter(None, inner.split(", ")):
        named, _, axes = part.partition("@")
        name, _, chunk = named.partition(" ")
        dims.append(Dim(read_dim_name(name), axes_of(axes), _read_chunk(chunk) if chunk else None))
    marks = (frozenset(re.findall(rf"{mark}(\w+)", partial)) for mark in (r"\+", "~"))
    return TensorType(dtype, tuple(dims), *marks)


def _read_chunk(text: str) -> Chunk:
    numbers, _, over = text.partition("|")
    part, _, of = numbers.partition("/")
    return Chunk(int(part), int(of), axes_of(over))


def _typed(text: str) -> list[Value]:
    return [Value(n, read_type(t)) for n, t in re.findall(rf"%([\w.]+) : ({_TYPE})", text)]


def _names(text: str) -> list[str]:
    return re.findall(r"%([\w.]+)", text)


def read_op(line: str, known: dict[str, Value]) -> Op:
    """Read one line; its operands come from ``known``. Raises ValueError on anything that `show_op` does not print.

    Attributes that are as by default may be left out.
    """
    m = _OP.match(line.strip())
    if m is None or m["key"] not in _CLASSES:
        raise ValueError(f"not an op: {line.strip()}")
    with _refusing(line):
        op = _build_op(_CLASSES[m["key"]], m, known)
    if not _says(line.strip(), show_op(op)):
        raise ValueError(f"not an op: {line.strip()} (it reads as {show_op(op)})")
    return op


def _says(line: str, printed: str) -> bool:
    """Whether a line has what the op that was read of it prints, and no attribute that this does not have."""
    (head, _, given), (expected, _, every) = line.partition(_OPEN), printed.partition(_OPEN)
    return head == expected and {*_items(given)} <= {*_items(every)}


def _items(attributes: str) -> list[str]:
    return re.split(r", (?=\w+ = )", attributes.removesuffix("}")) if attributes else []


_OPEN = " {"
"""What attributes stand behind; partial sums of a type have no space before their brace."""


@contextmanager
def _refusing(text: str) -> Iterator[None]:
    """Whatever fails to be made of ``text`` is told as a ValueError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"cannot be read: {text.strip()} ({type(error).__name__}: {error})") from error


def _build_op(cls: type[BaseOp], m: re.Match[str], known: dict[str, Value]) -> Op:
    types = re.findall(_TYPE, m["types"] or "")
    results = [Value(n, read_type(t)) for n, t in zip(_names(m["outs"] or ""), types, strict=True)]
    operands = [None if n == MISSING else known[n[1:]] for n in re.findall(r"%[\w.]+|-", m["xs"])]
    arguments: dict[str, Any] = _deal(cls, cls.RESULTS, results) | _deal(cls, cls.OPERANDS, operands)
    kinds = {f.name: str(f.type).removesuffix(" | None") for f in fields(_attrs(cls))}
    for name, text in re.findall(r'(\w+) = ("[^"]*"|[\w.+-]+)', m["at"] or ""):
        arguments[name] = value = _read_attribute(text)
        if name not in _attributes(cls) or not isinstance(value, _PYTHON[kinds[name]]):
            raise ValueError(f"no {name} of {cls.keyword}: {text}")
    op: Op = cls(**arguments)  # type: ignore[assignment]  # cls comes from OPS, which lists the union
    return op


_PYTHON: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}
"""The values of an attribute by its type."""


def _deal(cls: type[BaseOp], names: tuple[str, ...], values: Sequence[Value | None]) -> dict[str, Any]:
    """Assign ``values`` to the fields ``names`` in order; a tuple field takes all values that are left.

    A field without a value is None where it may be, and else missing. Raises ValueError for values that are left.
    """
    left, out = list(values), dict[str, Any]()
    kinds = {f.name: str(f.type) for f in fields(_attrs(cls))}
    for name in names:
        if kinds[name].startswith("tuple"):
            out[name], left = tuple(left), []
        elif left:
            out[name] = left.pop(0)
            if out[name] is None and not kinds[name].endswith("| None"):
                raise ValueError(f"{cls.keyword} lacks its {name}")
    if left:
        raise ValueError(f"{cls.keyword} has no place for {left[0]}")
    return out


def _read_attribute(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return read_dim_name(text[1:-1])
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _read_region(header: str, lines: list[str]) -> Region:
    m = _REGION.match(header)
    if m is None:
        raise ValueError(f"not a region: {header}")
    args = _typed(m["args"])
    known = {v.name: v for v in args}
    weights: list[Value] = []
    ops: list[Op] = []
    live: list[tuple[str, ...]] = []
    buffers: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    through: list[Value] = []
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "weight":
            weights += (found := _typed(rest))
            known |= {v.name: v for v in found}
        elif word == "live":
            live.append(tuple(rest.split(", ")))
        elif word == "buffers":
            buffers = tuple(rest.split(", "))
        elif word == "gives":
            gives = tuple(rest.split(", "))
        elif word == "through":
            through += _typed(rest)
        else:
            ops.append(op := read_op(line, known))
            known |= {v.name: v for v in op.results}
    name, *which = m.groups()[:5]
    layers, every = _read_layers(which)
    results = tuple(known[n] for n in _names(m["outs"]))
    return Region(
        read_region_name(name),
        layers,
        args=tuple(args),
        weights=tuple(weights),
        ops=tuple(ops),
        results=results,
        live=tuple(live),
        buffers=buffers,
        every=every,
        gives=gives,
        through=tuple(through),
    )


def _read_layers(found: Sequence[str | None]) -> tuple[tuple[int, int] | None, Every]:
    """Read what `show_layers` prints: first, stop, period and remainders."""
    first, stop, period, at = found
    if not first or not stop:
        return None, EVERY
    if not period:
        return (int(first), int(stop)), EVERY
    remainders = tuple(map(int, at.split())) if at else (int(first) % int(period),)
    return (int(first), int(stop)), Every(int(period), remainders)


def _pairs(text: str) -> list[tuple[str, str]]:
    return re.findall(r"([\w:.]+) = ([\w.+-]+)", text)


def read(text: str) -> Program:
    """Read what `show` prints, however it is indented, and without what `read_op` lets an op leave out.

    Raises ValueError on anything else.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    with _refusing("a program starts with `program NAME PHASE`"):
        program = _read_program(list(lines))
    printed = show(program).splitlines()
    for found, line in zip_longest(lines, printed, fillvalue=""):
        if not _says(found.strip(), line.strip()):
            raise ValueError(f"not part of a program: `{found}`, which reads as `{line}`")
    return program


def _read_program(lines: list[str]) -> Program:
    """The program of ``lines``, which it uses up. What is left of a line that it understands is not looked at."""
    word, model, phase = lines.pop(0).split()
    if word != "program" or phase not in PHASES:
        raise ValueError("a program starts with `program NAME PHASE`")
    mesh, sizes, regions, stages = Mesh(), [], [], []
    imbalance: list[tuple[Places, Skew]] = []
    stage_axes: tuple[str, ...] = ()
    while lines:
        line = lines.pop(0)
        if line.startswith("mesh"):
            mesh = Mesh(tuple((n, int(s)) for n, s in _pairs(line)))
            if any(size < 1 for _, size in mesh.axes):
                raise ValueError(f"not a mesh: {line}")
        elif line.startswith("dim"):
            name, size = _pairs(line)[0]
            sizes.append((read_dim_name(name), int(size) if size.isdigit() else size))
        elif line.startswith("imbalance"):
            place, _, skew = line.removeprefix("imbalance ").partition(" = ")
            imbalance.append((read_places(place), read_skew(skew)))
        elif line.startswith("layers ->"):
            stage_axes = tuple(line.partition("-> ")[2].split(", "))
        elif line.startswith("region"):
            end = lines.index("}")
            regions.append(_read_region(line, lines[:end]))
            del lines[: end + 1]
        elif line.startswith("stage"):
            parts = _PART.findall(line.partition(" = ")[2])
            stages.append(tuple(Part(read_region_name(name), *_read_layers(which)) for name, *which in parts))
        else:
            raise ValueError(f"not part of a program: {line}")
    return Program(
        model,
        phase,
        mesh,
        sizes=tuple(sizes),
        regions=tuple(regions),
        stage_axes=stage_axes,
        stages=tuple(stages),
        imbalance=tuple(imbalance),
    )
