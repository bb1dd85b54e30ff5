"""Reads the text of an HLO module, as XLA dumps it after the pass `spmd-partitioning`, and counts its collectives.

What the body of a `while` holds counts as often as the loop runs. An all_reduce whose only use is a dynamic-slice that
leaves each device its own part of the group is a reduce_scatter: the passes that would merge the two run later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[Any]

WIDTHS = {"pred": 1, "bf16": 2}
"""Bytes of the element types whose name does not end in a number of bits."""

KINDS = {
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-to-all": "all_to_all",
    "collective-permute": "permute",
}
"""Opcode -> name of the collective in plandsl; a permute has no name there but `ring` and hops."""

OTHER = re.compile(
    r"(ragged-all-to-all|collective-broadcast|(all|reduce|collective)-[a-z-]+-(start|done)|conditional)$"
)
"""Opcodes that may communicate, and that this reader does not count."""


class HloError(ValueError):
    """A text that this reader does not understand."""


class Instruction(NamedTuple):
    """One line: its shapes (several for a tuple) as (element type, sizes), opcode, operands and what follows."""

    name: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def bytes(self) -> float:
        """The bytes of its result."""
        return sum(_width(kind) * prod(sizes) for kind, sizes in self.shapes)

    def called(self, word: str) -> str:
        """The computation that attribute ``word`` names."""
        if (found := re.search(rf"\b(?:{word})=%?([\w.-]+)", self.rest)) is None:
            raise HloError(f"%{self.name} has no {word}")
        return found[1]


class Exchange(NamedTuple):
    """Calls of one collective in a pass over the module.

    ``payload`` is bytes of one call on one device as nccl-tests count them (the total output of an all_gather, the
    total input of a reduce_scatter), ``ranks`` the size of a group, ``moving`` the share of the devices that send. A
    reduce_scatter that is ``sliced`` stands in the text as an all_reduce and a dynamic-slice.
    """

    kind: str
    ranks: int
    payload: float
    calls: int
    moving: float = 1.0
    sliced: bool = False

    @property
    def wire(self) -> float:
        """The bytes that a device sends in all calls, by `sent`."""
        return self.calls * self.moving * sent(self.kind, self.ranks, self.payload)


def sent(kind: str, ranks: int, payload: float) -> float:
    """The bytes that each of ``ranks`` devices sends in a collective of ``payload`` bytes, at least.

    ``2 (n - 1) / n`` of the payload for an all_reduce and ``(n - 1) / n`` for the other three: the factors between
    algorithm and bus bandwidth of nccl-tests (doc/PERFORMANCE.md there). A permute sends its payload once.
    """
    if kind == "permute":
        return payload
    return (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks * payload


def _width(kind: str) -> float:
    if kind in WIDTHS:
        return WIDTHS[kind]
    if kind == "token":
        return 0.0
    if (bits := re.search(r"(?<=[a-z])\d+", kind)) is None:
        raise HloError(f"unknown element type {kind}")
    return int(bits[0]) / 8


# ---- text


def _balanced(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at ``start``."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at + 1
    raise HloError(f"a parenthesis is not closed: {text[:80]}")


def _instruction(line: str) -> Instruction | None:
    line = re.sub(r"/\*.*?\*/", "", line)
    head = re.match(r"\s*(ROOT )?%?([\w.-]+) = ", line)
    if head is None:
        return None
    at = head.end()
    end = _balanced(line, at) if line[at] == "(" else line.index(" ", at)
    shapes = tuple(
        (kind, tuple(int(n) for n in sizes.replace("<=", "").split(",") if n))
        for kind, sizes in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", line[at:end])
    )
    opening = line.index("(", end)
    closing = _balanced(line, opening)
    inside = line[opening + 1 : closing - 1]
    return Instruction(
        name=head[2],
        shapes=shapes,
        opcode=line[end:opening].strip(),
        operands=tuple(re.findall(r"%([\w.-]+)", inside)),
        inside=inside,
        rest=line[closing:].split(", metadata={")[0],
        root=head[1] is not None,
    )


class Computation:
    """The instructions of one computation by name."""

    def __init__(self, instructions: list[Instruction]) -> None:
        self.by_name = {one.name: one for one in instructions}

    @cached_property
    def root(self) -> Instruction:
        """The instruction that is its result."""
        return next(one for one in self.by_name.values() if one.root)

    @cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """The instructions that read each value."""
        found: dict[str, list[Instruction]] = {}
        for one in self.by_name.values():
            for name in dict.fromkeys(one.operands):
                found.setdefault(name, []).append(one)
        return found


class HloModule:
    """A module with its computations, for ``devices`` partitions."""

    def __init__(self, text: str) -> None:
        partitions = re.search(r"num_partitions=(\d+)", text)
        self.devices = int(partitions[1]) if partitions else 1
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        name, lines = "", list[Instruction]()
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%?([\w.-]+)\s*\(.*->.*\{\s*$", line):
                name, lines = head[2], []
                self.entry = name if head[1] else self.entry
            elif line.startswith("}") and name:
                self.computations[name] = Computation(lines)
                name = ""
            elif name and (made := _instruction(line)):
                lines.append(made)
        if not self.entry:
            raise HloError("the text has no ENTRY computation")

    def exchanges(self) -> list[Exchange]:
        """Every collective of the module, with the calls of one run. Collectives inside one group move nothing."""
        return list(self._of(self.entry, 1))

    def _of(self, name: str, times: int) -> Iterator[Exchange]:
        computation = self.computations[name]
        for one in computation.by_name.values():
            if OTHER.match(one.opcode):
                raise HloError(f"%{one.name} is a {one.opcode}, which is not counted")
            if one.opcode == "while":
                yield from self._of(one.called("body"), times * self._trips(computation, one))
            elif one.opcode in ("call", "fusion"):
                yield from self._of(one.called("to_apply|calls"), times)
            elif one.opcode == "collective-permute":
                if (moving := _moving(one.rest) / self.devices) > 0:
                    yield Exchange("permute", self.devices, one.bytes, times, moving)
            elif one.opcode in KINDS:
                yield from self._collective(computation, one, times)

    def _collective(self, computation: Computation, one: Instruction, times: int) -> Iterator[Exchange]:
        groups = replica_groups(one.rest, self.devices)
        ranks = len(groups[0])
        if ranks > 1:
            kind = KINDS[one.opcode]
            scatters = kind == "all_reduce" and self._scatters(computation, one, groups)
            payload = one.bytes * (ranks if kind == "reduce_scatter" else 1)
            yield Exchange("reduce_scatter" if scatters else kind, ranks, payload, times, sliced=scatters)

    # ---- trip counts

    def _trips(self, computation: Computation, loop: Instruction) -> int:
        """How often a loop runs: as it says, or as its counter, start and bound say."""
        if known := re.search(r"known_trip_count\D+(\d+)", loop.rest):
            return int(known[1])
        condition, body = (self.computations[loop.called(word)] for word in ("condition", "body"))
        test = condition.root
        counter, bound = (_through_copies(condition, name) for name in test.operands)
        if test.opcode != "compare" or "direction=LT" not in test.rest or counter.opcode != "get-tuple-element":
            raise HloError(f"the trip count of %{loop.name} is not read from its condition")
        at = _index(counter)
        start = _through_copies(computation, _through_copies(computation, loop.operands[0]).operands[at])
        step = _through_copies(body, body.root.operands[at])
        ends = [_through_copies(body, name) for name in step.operands]
        if step.opcode != "add" or [one.opcode for one in ends if one.opcode != "constant"] != ["get-tuple-element"]:
            raise HloError(f"the counter of %{loop.name} does not grow by a constant")
        by = next(int(one.inside) for one in ends if one.opcode == "constant")
        return max(-(-(_whole(bound) - _whole(start)) // by), 0)

    # ---- reduce_scatter

    def _scatters(self, computation: Computation, one: Instruction, groups: list[list[int]]) -> bool:
        """Whether the only use of an all_reduce leaves each device of a group a part of its own."""
        users = computation.users.get(one.name, [])
        while len(users) == 1 and users[0].opcode in ("copy", "bitcast", "reshape"):
            if users[0].opcode == "reshape" and users[0].shapes != one.shapes:
                return False
            users = computation.users.get(users[0].name, [])
        if len(users) != 1 or users[0].opcode != "dynamic-slice" or len(one.shapes) != 1:
            return False
        (_, whole), (_, part), ranks = one.shapes[0], users[0].shapes[0], len(groups[0])
        cut = [i for i, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b]
        if len(cut) != 1 or whole[cut[0]] != ranks * part[cut[0]]:
            return False
        places = [_on_device(computation, users[0].operands[1 + cut[0]], device) for device in range(self.devices)]
        return all(None not in (own := [places[d] for d in group]) and len({*own}) == ranks for group in groups)


def _through_copies(computation: Computation, name: str) -> Instruction:
    one = computation.by_name[name]
    while one.opcode in ("copy", "bitcast"):
        one = computation.by_name[one.operands[0]]
    return one


def _index(one: Instruction) -> int:
    found = re.search(r"index=(\d+)", one.rest)
    assert found is not None, one
    return int(found[1])


def _whole(one: Instruction) -> int:
    if one.opcode != "constant":
        raise HloError(f"%{one.name} is no constant")
    return int(one.inside)


def _on_device(computation: Computation, name: str, device: int) -> int | None:
    """The value of a scalar that depends on the device alone; None where it depends on something else."""
    one = computation.by_name[name]
    if one.opcode == "partition-id":
        return device
    if one.opcode == "constant" and re.fullmatch(r"-?\d+", one.inside):
        return int(one.inside)
    if one.opcode == "dynamic-slice" and prod(one.shapes[0][1]) == 1:
        table, *at = one.operands
        held = computation.by_name[table]
        place = _on_device(computation, at[0], device) if len(at) == 1 else None
        numbers = re.findall(r"-?\d+", held.inside)
        return int(numbers[place]) if held.opcode == "constant" and place is not None else None
    values = [_on_device(computation, x, device) for x in one.operands]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not values:
        return None
    match one.opcode:
        case "reshape" | "copy" | "convert" | "bitcast":
            return known[0]
        case "multiply":
            return prod(known)
        case "add":
            return sum(known)
        case "divide":
            return known[0] // known[1]
        case "remainder":
            return known[0] % known[1]
        case _:
            return None


# ---- groups


def replica_groups(text: str, devices: int) -> list[list[int]]:
    """The groups of devices of a collective, from the attributes of its instruction.

    There are three ways to write them: ``{{0,1},{2,3}}``; ``[2,2]<=[2,2]T(1,0)``, an iota that is reshaped, transposed
    and cut; ``mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}``, axes of a mesh, with its devices unless they are in
    order. ``'b':(2)4`` is the part of size 4 of an axis, behind a part of size 2.
    """
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        groups = [_numbers(one) for one in re.findall(r"\{([\d,]*)\}", listed[1])]
        return groups or [list(range(devices))]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+?\])(T\([\d,]+\))?", text):
        shape = _numbers(iota[1])
        return _rows(_iota(iota[2] + (iota[3] or "")).reshape(shape))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"([\w.'-]+)=(\d+)", mesh[1])}
        found = re.findall(r"([\w.'-]+)(?::\((\d+)\)(\d+))?", mesh[3])
        parts = [(name, int(before or 1), int(size or sizes[name])) for name, before, size in found]
        ids = np.arange(prod(sizes.values())) if mesh[2] is None else _iota(mesh[2])
        return _mesh_groups(sizes, parts, ids)
    raise HloError(f"no replica groups in {text[:120]}")


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _rows(ids: Ids) -> list[list[int]]:
    rows: list[list[int]] = ids.reshape(ids.shape[0], -1).tolist()
    return rows


def _iota(text: str) -> Ids:
    """``[2,4]T(1,0)``: the numbers from 0 on, in shape 2 x 4, transposed and flat. Other lists stand as they are."""
    if not text.startswith("["):
        return np.array(_numbers(text))
    dims, _, order = text.partition("T")
    ids = np.arange(prod(_numbers(dims))).reshape(_numbers(dims))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _mesh_groups(sizes: Mapping[str, int], parts: Sequence[tuple[str, int, int]], ids: Ids) -> list[list[int]]:
    """The groups along ``parts`` of axes: the axis, the size before the part, and the size of the part."""
    cuts: list[tuple[str, int, int]] = []
    for name, whole in sizes.items():
        ends = {1, whole}
        for own, before, size in parts:
            ends |= {before, before * size} if own == name else set()
        cuts += [(name, a, b // a) for a, b in pairwise(sorted(ends))] or [(name, 1, 1)]
    inner = [
        i for own, first, size in parts for i, (name, at, _) in enumerate(cuts)
        if name == own and first <= at < first * size
    ]  # fmt: skip
    order = [*(i for i in range(len(cuts)) if i not in inner), *inner]
    array = ids.reshape([size for _, _, size in cuts]).transpose(order)
    return _rows(array.reshape(-1, prod(cuts[i][2] for i in inner)))


def _moving(text: str) -> int:
    """How many devices send in a collective-permute."""
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", text)
    if pairs is None:
        raise HloError("a collective-permute without source_target_pairs")
    return sum(a != b for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1]))
