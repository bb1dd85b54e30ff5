"""Execution traces of MLCommons Chakra: for each rank a graph of kernels, collectives and messages, one file per rank.

Source of the schema: `schema/protobuf/et_def.proto` of mlcommons/chakra 1.0.0 (commit 21585d8). What its feeder and
ASTRA-sim read of a node, and the value field that they expect: `src/feeder/et_feeder_node.cpp` there, and
`astra-sim/workload/Workload.cc` of astra-sim/astra-sim (commit 518bd51).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from plandsl._version import __version__
from plandsl.backends.traces.wire import bytes_field, delimited, number_field, packed_field, text_field

COMPUTE, SEND, RECEIVE, COLLECTIVE = 4, 5, 6, 7
"""`NodeType`."""

ALL_REDUCE, ALL_GATHER, ALL_TO_ALL, REDUCE_SCATTER = 0, 2, 6, 7
"""`CollectiveCommType`: those that ASTRA-sim runs."""

INT32, INT64, UINT64, BOOL, TEXT = 7, 9, 13, 27, 29
"""Fields of `AttributeProto` that hold its value."""

Attribute = tuple[str, int, int | str]
"""Name, field of the value, value."""


class Node(NamedTuple):
    """A node that waits for the nodes ``data`` and ``control``. Times in seconds from the begin of the trace."""

    id: int
    name: str
    type: int
    data: Sequence[int]
    control: Sequence[int]
    start: float
    end: float
    attributes: Sequence[Attribute]

    def encode(self) -> bytes:
        """The node as a message of a stream.

        Chakra has whole microseconds. Start and end are rounded, and the duration is what lies between: so durations
        that are too short to count add up to the right sum. The exact one is in the attribute ``duration_nanos``.
        """
        first, last = round(self.start * 1e6), round(self.end * 1e6)
        exact: Attribute = ("duration_nanos", UINT64, round((self.end - self.start) * 1e9))
        parts = [
            number_field(1, self.id),
            _kind(self.name, self.type),
            packed_field(4, self.control),
            packed_field(5, self.data),
            number_field(6, first),
            number_field(7, last - first),
            _attributes(tuple(self.attributes)),
            _attribute(exact),
        ]
        return delimited(b"".join(parts))


# passes are alike: most of their nodes differ by number and time alone
@lru_cache(1 << 14)
def _kind(name: str, type_: int) -> bytes:
    return text_field(2, name) + number_field(3, type_)


@lru_cache(1 << 14)
def _attributes(attributes: tuple[Attribute, ...]) -> bytes:
    return b"".join(map(_attribute, (("is_cpu_op", BOOL, 0), *attributes)))


@lru_cache(1 << 14)
def _attribute(attribute: Attribute, field: int = 10) -> bytes:
    name, kind, value = attribute
    said = text_field(kind, value) if isinstance(value, str) else number_field(kind, value)
    return bytes_field(field, text_field(1, name) + said)


def compute(flops: float, moved: float) -> list[Attribute]:
    """Attributes of a kernel, for simulators that time it by a roofline: at least one of each, which they divide by."""
    return [("num_ops", INT64, max(round(flops), 1)), ("tensor_size", UINT64, max(round(moved), 1))]


def collective(kind: int, size: float, group: int) -> list[Attribute]:
    """Attributes of a collective: ``size`` is the bytes that a rank brings; groups have numbers from 1."""
    return [("comm_type", INT64, kind), ("comm_size", INT64, round(size)), ("pg_name", TEXT, str(group))]


def message(sender: int, receiver: int, tag: int, size: float) -> list[Attribute]:
    """Attributes of both ends of a message: they agree in all of them."""
    return [
        ("comm_size", INT64, round(size)),
        ("comm_src", INT32, sender),
        ("comm_dst", INT32, receiver),
        ("comm_tag", INT32, tag),
    ]


def encode_trace(about: Mapping[str, str | int], nodes: Iterable[Node]) -> bytes:
    """The file of one rank: `GlobalMetadata`, then its nodes."""
    attributes: list[Attribute] = [("generator", TEXT, f"plandsl {__version__}")]
    attributes += [(name, TEXT if isinstance(value, str) else INT64, value) for name, value in sorted(about.items())]
    metadata = text_field(1, "1.0.0") + b"".join(_attribute(a, field=2) for a in attributes)
    return delimited(metadata) + b"".join(node.encode() for node in nodes)


def encode_groups(groups: Mapping[tuple[int, ...], int]) -> str:
    """The ranks of each group by its number: ASTRA-sim takes the file as `--comm-group-configuration`."""
    return json.dumps({str(number): list(ranks) for ranks, number in groups.items()}) + "\n"
