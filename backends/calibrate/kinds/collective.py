"""collectives.csv: collectives inside one node and across nodes, by library.

Sets of `COLLECTIVE`, inside a node:

- ``collective.nccl``: all_reduce, all_gather, reduce_scatter of NCCL and RCCL, timed on the GPU back to back, and
  of XLA on a CPU, which has no other library;
- ``collective.nccl_exchange``: all_to_all and p2p of the same;
- ``collective.torch``, ``collective.torch_exchange``: NCCL as torch.distributed calls it;
- ``collective.vllm``, ``sglang``, ``trtllm``, ``aiter``, ``quickreduce``: all_reduce of these, in a graph or timed as
  a kernel; above a size of their own they call NCCL;
- ``collective.vllm_eager``, ``collective.sglang_eager``: the same, launched from the host.

Sets of `COLLECTIVE_NODES`, across nodes: ``collective_nodes.nccl``, ``torch`` and the ``_exchange`` of each.

The links come with the rows: `linked` adds them as columns.
"""

from __future__ import annotations

import zlib
from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.collective import EXCHANGES, OPS, collective_seconds, nodes_seconds
from plandsl.spec.constants import CollectiveConstants, NodesConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec, usual_latency

CUSTOM = ("vllm", "sglang", "trtllm", "aiter", "quickreduce")
"""Libraries whose all_reduce goes through peers' memory."""

EAGER = ("vllm_eager", "sglang_eager")
"""Those that were also timed as launched from the host."""

WIRE = {"quickreduce_int4": 4.5 / 16}
"""Bytes on the wire per byte of payload where a library compresses: 4 bits, and a 16-bit scale for 32 of them."""


Either: TypeAlias = CollectiveConstants | NodesConstants
"""Constants inside a node or across: where a GPU was measured in one way only, they answer for the other."""

RACKS = ("gb200", "gb300")
"""GPUs whose NVLink spans a rack, so that what the data call a node, a tray, is no border."""


def linked(rows: Table, link: LinkSpec) -> Table:
    """``rows``, all of one GPU, with the links of its node; two ranks take the bridge that joins a pair."""
    pair = (rows.numbers("n_ranks") == 2) & (link.bridge > 0)
    return Table(
        rows.columns
        | {
            "topology": np.where(pair, "mesh", link.topology),
            "link_bandwidth": np.where(pair, link.bridge, link.bandwidth),
            "link_latency": np.full(len(rows), link.latency),
        }
    )


def links_of(rows: Table) -> LinkSpec:
    """The links that `linked` added; one link for all rows."""
    topology = str(rows.texts("topology")[0])
    return LinkSpec(topology, float(rows.numbers("link_bandwidth")[0]), usual_latency(topology))


def _ops(rows: Table) -> NDArray[np.str_]:
    ops = rows.texts("op")
    return np.where(ops == "p2p_send_recv", "p2p", ops)


def _library(backend: str, graph: bool) -> str:
    """The class of a backend such as ``vllm_custom-0.19.0``, empty where it is unknown."""
    if backend.startswith("nccl (torch"):
        return "torch"
    if backend.startswith(("nccl", "rccl", "xla")):  # on a CPU, XLA's own take NCCL's place
        return "nccl"
    for name in CUSTOM:
        if backend.startswith(name):
            kernel = graph or f"{name}_eager" not in EAGER or backend.endswith("_ar")
            return name if kernel else f"{name}_eager"
    return ""


def near(rows: Table) -> NDArray[np.bool_]:
    """Rows whose ranks all reach each other over the links of a node."""
    one = (rows.numbers("n_nodes", 1.0) <= 1) | np.isin(rows.texts("gpu"), RACKS)
    return np.asarray(one, dtype=np.bool_)


def far(rows: Table) -> NDArray[np.bool_]:
    """The other rows."""
    return ~near(rows)


def _sets(rows: Table) -> NDArray[np.str_]:
    graphs, backends = rows.numbers("cuda_graph", 0.0) > 0, rows.texts("backend")
    out = []
    for op, backend, graph, one in zip(_ops(rows), backends, graphs, near(rows), strict=True):
        library = _library(str(backend), bool(graph))
        if not library or op not in OPS:
            out.append("")
        elif one:
            out.append(f"collective.{library}" + ("_exchange" if op in EXCHANGES else ""))
        else:
            # other libraries' own kernels stay inside a node
            plain = library if library == "torch" else "nccl"
            out.append(f"collective_nodes.{plain}" + ("_exchange" if op in EXCHANGES else ""))
    return np.array(out, dtype=np.str_)


def _reason(rows: Table) -> NDArray[np.str_]:
    out = np.full(len(rows), "no constants of this library are fitted for the GPU", dtype="<U80")
    out[~np.isin(_ops(rows), OPS)] = "no form of this operation"
    unknown = [not _library(str(b), True) for b in rows.texts("backend")]
    out[np.array(unknown, dtype=bool)] = "a library without a form"
    return out


def _instead(path: str) -> tuple[str, ...]:
    """Libraries that work alike first, then NCCL, then whatever there is; the other section last."""
    section, name = path.split(".")
    base, end = name.removesuffix("_exchange"), "_exchange" if name.endswith("_exchange") else ""
    alike = [f"collective.{c}" for c in (EAGER if base in EAGER else CUSTOM)]
    if base in EAGER:
        alike.append(f"collective.{base.removesuffix('_eager')}")
    other = "collective_nodes" if section == "collective" else "collective"
    ends = (end, "" if end else "_exchange")
    vendor = [f"{s}.{n}{e}" for s in (section, other) for e in ends for n in ("nccl", "torch")]
    if base not in ("nccl", "torch"):
        found = alike + vendor
    elif end or section == "collective_nodes":
        found = vendor
    else:
        found = vendor[:2] + alike + vendor[2:]
    return tuple(p for p in found if p != path)


def _leans(rows: Table) -> bool:
    """Two ranks have one peer each: they do not tell a read of all peers from one of a part of each."""
    return bool((rows.numbers("n_ranks") == 2).all())


def _shape(rows: Table) -> NDArray[np.int64]:
    op = np.array([zlib.crc32(str(o).encode()) % 9973 for o in _ops(rows)], dtype=np.int64)
    return op * 7_340_033 + rows.numbers("n_ranks").astype(np.int64) * 131_071 + rows.numbers("bytes").astype(np.int64)


def inside(c: Either) -> CollectiveConstants:
    """The constants inside a node; those across nodes stand for them, without reduction in the switch."""
    if isinstance(c, CollectiveConstants):
        return c
    return CollectiveConstants(c.fixed, c.latency, c.quick, c.step, bulk=c.bulk, half=c.half, own=0.4, switch=0.0)


def across(c: Either) -> NodesConstants:
    """The constants across nodes; those of a node stand for them, with RDMA over a port for each of eight GPUs."""
    if isinstance(c, NodesConstants):
        return c
    return NodesConstants(
        c.fixed, c.latency, c.quick, c.step, half=c.half, bulk=c.bulk, hop=8e-6, network=0.9, rails=8.0
    )


def _seconds(c: Either, gpu: GpuSpec, rows: Table) -> Floats:
    ops, backends, topologies = _ops(rows), rows.texts("backend"), rows.texts("topology")
    n, nodes, one = rows.numbers("n_ranks"), rows.numbers("n_nodes", 1.0), near(rows)
    payload = rows.numbers("bytes") * np.array([WIRE.get(str(b), 1.0) for b in backends])
    custom = np.char.startswith(backends, CUSTOM[0])
    for name in CUSTOM[1:]:
        custom |= np.char.startswith(backends, name)
    out = np.empty(len(rows))
    for op, topology, own, one_node in _groups(ops, topologies, custom, one):
        of = (ops == op) & (topologies == topology) & (custom == own) & (one == one_node)
        link = links_of(rows.where(of))
        if one_node:
            out[of] = collective_seconds(inside(c), link, op, n[of], payload[of], custom=own)
        else:
            constants = _on_own_network(across(c), rows)
            out[of] = nodes_seconds(constants, link, op, n[of], nodes=nodes[of], payload=payload[of])
    return out


FABRIC = ("network", "rails")
"""Constants across nodes that describe the network of the measurements, and not the library."""


def _settled(c: Either, rows: Table) -> Table:
    """``rows`` with the network that they were measured on, as the constants of their own GPU have it."""
    if not isinstance(c, NodesConstants):
        return rows
    return Table(rows.columns | {name: np.full(len(rows), getattr(c, name)) for name in FABRIC})


def _on_own_network(c: NodesConstants, rows: Table) -> NodesConstants:
    """``c`` with the network that `_settled` gave to the rows."""
    if not all(name in rows.columns for name in FABRIC):
        return c
    network, rails = (float(rows.numbers(name)[0]) for name in FABRIC)
    return c._replace(network=network, rails=rails)


def _groups(*columns: NDArray[np.str_] | NDArray[np.bool_]) -> list[tuple[str, str, bool, bool]]:
    return sorted({tuple(row) for row in zip(*(c.tolist() for c in columns), strict=True)})


COLLECTIVE: Kind[Either] = Kind(
    name="collective",
    file="collectives.csv",
    columns=("gpu", "op", "backend", "n_ranks", "n_nodes", "bytes", "cuda_graph", "time_s"),
    blank=("n_nodes", "cuda_graph"),
    sets=_sets,
    reason=_reason,
    seconds=_seconds,
    start=CollectiveConstants(
        fixed=6e-6, latency=1e-6, quick=0.2, step=8e-6, bulk=0.75, half=3e6, own=0.4,
        switch=0.4,
    ),
    loose={"latency": 1.0, "quick": 0.7, "step": 1.0, "bulk": 0.3, "half": 2.0, "own": 0.7, "switch": 0.3},
    shape=_shape,
    linked=linked,
    where=near,
    instead=_instead,
    leans=_leans,
)  # fmt: skip

COLLECTIVE_NODES = attrs.evolve(
    COLLECTIVE,
    name="collective_nodes",
    where=far,
    leans=lambda rows: False,
    pools=lambda path: "" if path.endswith("_exchange") else "collective_nodes.nccl",
    settled=_settled,
    start=NodesConstants(
        fixed=15e-6, latency=1e-6, quick=0.5, step=10e-6, half=4e5, bulk=0.75, hop=8e-6,
        network=0.9, rails=8.0,
    ),
    loose={"fixed": 0.7, "latency": 0.7, "quick": 0.7, "step": 1.0, "half": 1.0, "bulk": 0.1, "hop": 1.0,
           "network": 1.0, "rails": 0.7},
)  # fmt: skip
