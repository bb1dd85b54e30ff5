"""ep_alltoall.csv: dispatch and combine of expert parallelism, by library and mode.

Sets:

- ``ep_alltoall.deepep_normal``, ``deepep_normal_combine``: DeepEP's kernels for throughput, inside a node;
- ``ep_alltoall.deepep_low_latency``, ``deepep_low_latency_combine``: those for latency;
- ``ep_alltoall.ports``: everything across nodes, and libraries of which a few figures each were published (MORI-EP,
  UCCL-EP, DeepEP 2): one set for both directions and modes.

Where only a bandwidth was published, `linked` adds the time: the bytes that the publisher divides by, which count
the own rank or node too, over that bandwidth. ``nvlink``, ``xgmi`` and ``total`` count a copy per rank that wants the
token, ``rdma`` one per node; in low-latency mode UCCL counts one per expert. Rows that have both agree within 7 %.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.calibrate.kind import Floats, Kind
from plandsl.backends.calibrate.kinds.collective import linked as with_links
from plandsl.backends.calibrate.kinds.collective import links_of, near
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.dispatch import (
    GROUPS,
    UNITS,
    Traffic,
    busy_units,
    direct_traffic,
    dispatch_seconds,
    occupied_places,
    packed_traffic,
    wire_bytes,
)
from plandsl.spec.constants import DispatchConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

Mask = NDArray[np.bool_]

PORTS = "ep_alltoall.ports"
OPS = ("dispatch", "combine")


def _library(rows: Table) -> NDArray[np.str_]:
    return np.array([next(iter(str(x or "").split()), "") for x in rows.texts("library")], dtype=np.str_)


def _latency(rows: Table) -> Mask:
    return np.asarray(rows.texts("mode") == "low_latency", dtype=np.bool_)


def _combine(rows: Table) -> Mask:
    return np.asarray(rows.texts("op") == "combine", dtype=np.bool_)


def _narrow(rows: Table) -> Mask:
    """Rows that send fp8: a dispatch does, even where the source leaves it open, unless it says bf16."""
    return np.asarray(~_combine(rows) & (rows.texts("dtype") != "bf16"), dtype=np.bool_)


def _nodes(rows: Table) -> Floats:
    """Nodes that no common links join: the trays of a rack count as one."""
    return np.where(near(rows), 1.0, rows.numbers("n_nodes", 1.0))


def _sets(rows: Table) -> NDArray[np.str_]:
    fitted = (_library(rows) == "deepep") & (_nodes(rows) == 1)
    names = np.where(_latency(rows), "ep_alltoall.deepep_low_latency", "ep_alltoall.deepep_normal")
    names = np.where(_combine(rows), np.char.add(names, "_combine"), names)
    return np.where(_known(rows), np.where(fitted, names, PORTS), "")


def _known(rows: Table) -> Mask:
    told = ~np.isnan(rows.numbers("time_s")) | (rows.numbers("reported_bw_gb_per_s", 0.0) > 0)
    modes = np.isin(rows.texts("mode"), ("normal", "low_latency"))
    return np.asarray(told & modes & np.isin(rows.texts("op"), OPS), dtype=np.bool_)


def _reason(rows: Table) -> NDArray[np.str_]:
    known = _known(rows)
    return np.where(known, "no constants of this library are fitted for the GPU", "no time, or no form of this mode")


def counted_bytes(rows: Table) -> Floats:
    """Bytes that the publisher of a row's bandwidth counts."""
    n, experts, topk = rows.numbers("n_ranks"), rows.numbers("n_experts"), rows.numbers("topk")
    copies = np.asarray(occupied_places(n, experts, topk))
    nodes = _nodes(rows)
    groups = np.minimum(nodes, GROUPS)
    reached = np.asarray(occupied_places(groups, experts * groups / nodes, topk))
    over_network = rows.texts("bw_kind") == "rdma"
    copies = np.where(over_network, np.where(_latency(rows), topk, reached), copies)
    return np.asarray(rows.numbers("tokens_per_rank") * copies * _copy(rows), dtype=np.float64)


def _copy(rows: Table) -> Floats:
    return np.asarray(wire_bytes(rows.numbers("hidden"), _narrow(rows)), dtype=np.float64)


def linked(rows: Table, link: LinkSpec) -> Table:
    """``rows`` with the links of the node, and with times where only a bandwidth was published."""
    bandwidth = rows.numbers("reported_bw_gb_per_s")
    times = rows.numbers("time_s")
    times = np.where(np.isnan(times), counted_bytes(rows) / (bandwidth * 1e9), times)
    return with_links(Table(rows.columns | {"time_s": times}), link)


def _traffic(rows: Table) -> Traffic:
    """What a rank sends: packed in normal mode, a message per expert in low latency, per rank where MORI packs."""
    tokens, copy, n, nodes = rows.numbers("tokens_per_rank"), _copy(rows), rows.numbers("n_ranks"), _nodes(rows)
    experts, topk = rows.numbers("n_experts"), rows.numbers("topk")
    copies = np.where(_library(rows) == "mori", np.asarray(occupied_places(n, experts, topk)), topk)
    whole = packed_traffic(tokens, copy, ranks=n, nodes=nodes, experts=experts, topk=topk)
    split = direct_traffic(tokens, copy, n, nodes, copies)
    fields = [np.where(_latency(rows), b, a) for a, b in zip(whole, split, strict=True)]
    return Traffic(*fields)


def _units(rows: Table) -> Floats:
    """Units in the sense of DeepEP's channels; other libraries move as much with other numbers of theirs."""
    return np.where(_library(rows) == "deepep", rows.numbers("n_sms", UNITS), UNITS)


def _seconds(c: DispatchConstants, gpu: GpuSpec, rows: Table) -> Floats:
    assert gpu.units is not None, "a GPU is measured with its number of units known"
    traffic, inside = _traffic(rows), rows.numbers("n_ranks") / _nodes(rows)
    experts, latency, hidden = rows.numbers("n_experts"), _latency(rows), rows.numbers("hidden")
    walked = np.where(latency & _combine(rows), traffic.copies, rows.numbers("tokens_per_rank")) * hidden
    units = np.where(latency, np.asarray(busy_units(experts, gpu.units)), _units(rows))
    waits = np.where(latency, experts, 0.0)
    out = dispatch_seconds(
        c, links_of(rows), inside, traffic, walked=walked, copy=_copy(rows), units=units, waits=waits
    )
    return np.asarray(out, dtype=np.float64)


def _shape(rows: Table) -> NDArray[np.int64]:
    """Of everything but the library's version: both directions and modes are shapes of their own."""
    names = ("n_ranks", "n_nodes", "tokens_per_rank", "hidden", "topk", "n_experts", "n_sms")
    keys = zip(rows.texts("op"), rows.texts("mode"), *(rows.numbers(n, 0.0) for n in names), strict=True)
    return np.array([zlib.crc32(repr([str(k) for k in key]).encode()) for key in keys], dtype=np.int64)


def _instead(path: str) -> tuple[str, ...]:
    """The same mode and direction first, then the same mode, then what is left."""
    combine = path.endswith("_combine")
    mode = "low_latency" if "low_latency" in path else "normal"
    other = "normal" if mode == "low_latency" else "low_latency"
    ends = ("_combine", "") if combine else ("", "_combine")
    found = [f"ep_alltoall.deepep_{m}{end}" for m in (mode, other) for end in ends]
    found.insert(2, PORTS)
    return tuple(p for p in found if p != path)


EP_ALLTOALL = Kind(
    name="ep_alltoall",
    file="ep_alltoall.csv",
    columns=("gpu", "n_ranks", "n_nodes", "library", "mode", "op", "dtype", "tokens_per_rank", "hidden", "topk",
             "n_experts", "time_s"),
    blank=("n_nodes", "time_s"),
    sets=_sets,
    reason=_reason,
    seconds=_seconds,
    start=DispatchConstants(
        fixed=25e-6, expert=20e-9, row=2e-6, each=0.1e-6, unit=30.0, port=0.6, ramp=20e-6,
        network=0.9, message=0.1e-6,
    ),
    loose={"fixed": 0.7, "expert": 1.0, "row": 1.0, "each": 1.0, "unit": 0.5, "port": 0.3, "ramp": 0.7,
           "network": 0.2, "message": 1.0},
    shape=_shape,
    linked=linked,
    instead=_instead,
)  # fmt: skip
