"""Reads Chakra execution traces without what wrote them: the wire format of protobuf, by the numbers of the schema.

The numbers are those of `schema/protobuf/et_def.proto` of mlcommons/chakra 1.0.0. `replay` runs the graphs of all ranks
together, as a simulator does that waits for every member of a collective and for the sender of a message.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

ATTRIBUTE = {1: "name", 7: "int32_val", 9: "int64_val", 13: "uint64_val", 27: "bool_val", 29: "string_val"}
METADATA = {1: "version", 2: "attr"}
NODE = {1: "id", 2: "name", 3: "type", 4: "ctrl_deps", 5: "data_deps", 6: "start", 7: "micros", 10: "attr"}
COMPUTE, SEND, RECEIVE, COLLECTIVE = 4, 5, 6, 7
READ_AS = {
    "is_cpu_op": "bool_val", "num_ops": "int64_val", "tensor_size": "uint64_val", "comm_type": "int64_val",
    "comm_size": "int64_val", "pg_name": "string_val", "comm_src": "int32_val", "comm_dst": "int32_val",
    "comm_tag": "int32_val",
}  # fmt: skip
"""The value field from which the feeder takes each attribute: from another one it reads 0."""


class Node(NamedTuple):
    id: int
    name: str
    type: int
    deps: tuple[int, ...]
    start: int
    micros: int
    attributes: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.attributes["duration_nanos"] / 1e9

    @property
    def size(self) -> int:
        return self.attributes["comm_size"]


def varint(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[at]
        found |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return found, at


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            assert key & 7 == 2, "only varints and lengths"
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value
    assert at == len(data)


def messages(data: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(data):
        size, at = varint(data, at)
        found.append(data[at : at + size])
        at += size
    assert at == len(data)
    return found


def attribute(data: bytes) -> tuple[str, Any]:
    (_, name), (field, value) = fields(data)
    name, kind = name.decode(), ATTRIBUTE[field]
    assert READ_AS.get(name, kind) == kind, (name, kind)
    return name, value.decode() if kind == "string_val" else value


def read_node(data: bytes) -> Node:
    found: dict[str, Any] = defaultdict(list)
    for field, value in fields(data):
        found[NODE[field]].append(value)
    deps = []
    for kind in ("ctrl_deps", "data_deps"):
        for packed in found[kind]:
            at = 0
            while at < len(packed):
                number, at = varint(packed, at)
                deps.append(number)
    (id_,), (name,), (type_,), (start,), (micros,) = (found[k] for k in ("id", "name", "type", "start", "micros"))
    attributes = dict(map(attribute, found["attr"]))
    assert attributes["is_cpu_op"] == 0
    return Node(id_, name.decode(), type_, tuple(deps), start, micros=micros, attributes=attributes)


def read_file(data: bytes) -> tuple[dict[str, Any], list[Node]]:
    """The metadata and the nodes of a rank."""
    first, *rest = messages(data)
    metadata = [(METADATA[field], value) for field, value in fields(first)]
    assert metadata[0] == ("version", b"1.0.0")
    return dict(attribute(value) for name, value in metadata if name == "attr"), [read_node(one) for one in rest]


def read_phase(files: dict[str, Any], phase: str) -> tuple[dict[int, list[Node]], dict[str, list[int]]]:
    """The nodes of each rank of a phase, and the ranks of each group."""
    ranks = {}
    for name, data in files.items():
        if name.startswith(f"{phase}.") and name.endswith(".et"):
            about, nodes = read_file(data)
            assert about["rank"] == int(name.split(".")[1])
            assert about["phase"] == phase
            ranks[about["rank"]] = nodes
    return dict(sorted(ranks.items())), json.loads(files[f"{phase}.groups.json"])


def check_phase(ranks: dict[int, list[Node]], groups: dict[str, list[int]]) -> None:
    """Whether nodes wait for earlier ones, groups agree on what they run, and each message is sent and received."""
    sent, got = defaultdict(list), defaultdict(list)
    ran: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for rank, nodes in ranks.items():
        assert [node.id for node in nodes] == list(range(len(nodes)))
        for node in nodes:
            given = node.attributes
            assert all(other < node.id for other in node.deps)
            assert len(set(node.deps)) == len(node.deps)
            match node.type:
                case 4:
                    assert min(given["num_ops"], given["tensor_size"]) > 0
                case 5:
                    assert given["comm_src"] == rank
                    sent[rank, given["comm_dst"], given["comm_tag"]].append(node.size)
                case 6:
                    assert given["comm_dst"] == rank
                    got[given["comm_src"], rank, given["comm_tag"]].append(node.size)
                case 7:
                    assert rank in groups[given["pg_name"]]
                    ran[given["pg_name"]][rank].append((given["comm_type"], node.size))
                case _:
                    raise AssertionError(node)
    assert sent == got
    assert all(len(sizes) == 1 for sizes in sent.values())
    for name, calls in ran.items():
        assert sorted(calls) == sorted(groups[name]), "every rank of the group runs them"
        assert len(set(map(tuple, calls.values()))) == 1, "all ranks agree in what they run"


def replay(ranks: dict[int, list[Node]], groups: dict[str, list[int]]) -> float:
    """Seconds until all ranks are done; AssertionError where they wait for one another without end."""
    done: dict[tuple[int, int], float] = {}
    calls: dict[tuple[str, int], list[tuple[int, Node, float]]] = defaultdict(list)
    counts: dict[tuple[str, int], int] = defaultdict(int)
    sends: dict[tuple[int, int, int], float] = {}
    more = True
    waiting = {rank: list(nodes) for rank, nodes in ranks.items()}
    issued: set[tuple[int, int]] = set()
    while more:
        more = False
        for rank, nodes in waiting.items():
            left = []
            for node in nodes:
                if (rank, node.id) in issued or any((rank, d) not in done for d in node.deps):
                    if (rank, node.id) not in done:
                        left.append(node)
                    continue
                ready, given = max((done[rank, d] for d in node.deps), default=0.0), node.attributes
                if node.type == COLLECTIVE:
                    name = given["pg_name"]
                    call = calls[name, counts[name, rank]]
                    counts[name, rank] += 1
                    call.append((rank, node, ready))
                    issued.add((rank, node.id))
                    if len(call) == len(groups[name]):
                        end = max(time for _, _, time in call) + node.seconds
                        done |= {(other, one.id): end for other, one, _ in call}
                elif node.type == RECEIVE:
                    key = given["comm_src"], rank, given["comm_tag"]
                    if key not in sends:
                        left.append(node)
                        continue
                    done[rank, node.id] = max(ready, sends[key])
                else:
                    done[rank, node.id] = ready + node.seconds
                    if node.type == SEND:
                        sends[rank, given["comm_dst"], given["comm_tag"]] = done[rank, node.id]
                more = True
            waiting[rank] = left
    assert len(done) == sum(map(len, ranks.values())), "some ranks wait for one another without end"
    return max(done.values())


def message_fields() -> tuple[type, type]:
    """The classes of a node and of the metadata, made by the protobuf library from the numbers of the schema."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")

    def add(name: str, fields: list[tuple[str, int, int, bool, str]], one_of: bool = False) -> None:
        made = file.message_type.add(name=name)
        if one_of:
            made.oneof_decl.add(name="value")
        for field, number, type_, repeated, of in fields:
            label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
            found = made.field.add(name=field, number=number, type=type_, label=label)
            if of:
                found.type_name = f".ChakraProtoMsg.{of}"
            if one_of and number > 2:
                found.oneof_index = 0

    text, number, message = kind.TYPE_STRING, kind.TYPE_UINT64, kind.TYPE_MESSAGE
    values = {"int32_val": kind.TYPE_INT32, "int64_val": kind.TYPE_INT64, "uint64_val": number,
              "bool_val": kind.TYPE_BOOL, "string_val": text, "name": text}  # fmt: skip
    add("AttributeProto", [(name, field, values[name], False, "") for field, name in ATTRIBUTE.items()], one_of=True)
    add("GlobalMetadata", [("version", 1, text, False, ""), ("attr", 2, message, True, "AttributeProto")])
    fields = [("id", 1, number, False, ""), ("name", 2, text, False, ""), ("type", 3, kind.TYPE_INT32, False, "")]
    fields += [("ctrl_deps", 4, number, True, ""), ("data_deps", 5, number, True, "")]
    fields += [("start_time_micros", 6, number, False, ""), ("duration_micros", 7, number, False, "")]
    add("Node", [*fields, ("attr", 10, message, True, "AttributeProto")])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("ChakraProtoMsg.Node", "ChakraProtoMsg.GlobalMetadata")
    return tuple(message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)  # type: ignore[return-value]
