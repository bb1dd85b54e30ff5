"""GPUs that were measured and stand in no catalog: their peaks, memory and links, from the rows of `planc measure`.

Kernels reach shares of these figures, which take the place of published ones: a peak is the highest rate of any GEMM of
its format, the bandwidth is the rate at which memory is read or copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, PlanError, clip, suggest
from plandsl.measurements import FILE, GPU_NAME, Unfit, read_number, read_rows
from plandsl.show_hardware import show_gpu, show_node
from plandsl.spec.formats import ARITHMETIC, BITS
from plandsl.spec.hardware import GpuSpec, LinkSpec, NodeSpec

PEAKS = "peaks.csv"
"""The table of rates of devices."""

COLUMNS = (
    "gpu", "metric", "dtype", "value", "device", "framework", "m", "n", "k", "time_s", "op", "n_ranks", "bytes",
)  # fmt: skip
"""Columns that are read here; a file may lack them."""

Row = dict[str, str]

NO_LINK = LinkSpec("switch", 1e9, 1e-6)
"""The link of a node of one GPU. Its numbers are assumed and without effect: nothing goes over it."""


class Declared(NamedTuple):
    """A measured GPU, the links between several of it, how many ranks were measured, and a line about the source."""

    gpu: GpuSpec
    link: LinkSpec | None
    devices: int
    source: str

    @property
    def text(self) -> str:
        """The GPU and its nodes as `.plan` text."""
        counts = sorted({1, self.devices}, reverse=True)
        nodes = [NodeSpec(f"{self.gpu.name}_{n}", self.gpu, n, self.link or NO_LINK) for n in counts]
        parts = [show_gpu(self.gpu, self.gpu.name), *map(show_node, nodes)]
        return "\n".join([f"# {self.source}", *parts])


def tables_of(path: Path) -> set[str] | None:
    """The tables that a file holds rows of, where it has a column for them; None for a file of one table.

    Raises `PlanError` (E450) on a file that cannot be read.
    """
    lines = _rows(path)
    header = next(lines, [])
    if FILE not in header:
        return None
    at = header.index(FILE)
    return {cells[at] for cells in lines}


def declared(data: Sequence[Path]) -> dict[str, Declared]:
    """The measured GPUs by name, of the files that hold several tables."""
    rows: dict[str, list[Row]] = {}
    for path in data:
        if os.path.isfile(path) and tables_of(path) is not None:
            lines = _rows(path)
            header = next(lines)
            for cells in lines:
                row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=True))
                rows.setdefault(row["gpu"], []).append(row)
    return {name: found for name, some in rows.items() if (found := _declare(name, some)) is not None}


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        yield from (cells for _, cells in read_rows(path))
    except OSError as error:
        raise PlanError([Diagnostic("E450", f"cannot read {path}: {error.strerror}")]) from error
    except Unfit as unfit:
        raise PlanError([Diagnostic("E450", f"{path} cannot be used: {unfit}", hint=unfit.hint)]) from unfit


def _declare(name: str, rows: Sequence[Row]) -> Declared | None:
    """The GPU that ``rows`` are of; None where they lack its memory, a peak or the bandwidth.

    Raises `PlanError` (E450) on a wrong number, and on a name that no GPU of a plan can have.
    """
    facts = [row for row in rows if row[FILE] == PEAKS]
    values = {row["metric"]: _value(row) for row in facts}
    bandwidth = max((_value(row) for row in facts if row["metric"].startswith("hbm_bandwidth")), default=0.0)
    peaks: dict[str, float] = {}
    for row in facts:
        if row["metric"] == "gemm_peak":
            if row["dtype"] not in BITS:
                why = f"a row of {clip(name)} has the peak of `{clip(row['dtype'])}`, which is no number format"
                raise PlanError([Diagnostic("E450", why, hint=suggest(row["dtype"], BITS))])
            peaks[row["dtype"]] = max(_value(row), peaks.get(row["dtype"], 0.0))
    for row in rows:
        if row[FILE] == "gemm.csv" and (dtype := ARITHMETIC.get(row["dtype"], row["dtype"])) in peaks:
            m, n, k, time = (_number(row, column) for column in ("m", "n", "k", "time_s"))
            peaks[dtype] = max(peaks[dtype], 2 * m * n * k / time)
    if not (peaks and bandwidth and values.get("memory")):
        return None
    if not GPU_NAME.fullmatch(name):
        why = f"`gpu` is `{clip(name)}` in rows of `planc measure`, which is no name of a GPU"
        raise PlanError([Diagnostic("E450", why, hint="a name has small letters, digits and `_`, such as `my_gpu`")])
    made = GpuSpec(
        name=name,
        memory=float(round(values["memory"])),
        bandwidth=_rounded(bandwidth),
        compute=tuple((dtype, _rounded(peak)) for dtype, peak in sorted(peaks.items(), key=lambda p: -p[1])),
        units=_units(name, values.get("units")),
        calibration=name,
    )
    ranks = [round(_number(row, "n_ranks")) for row in rows if row[FILE] == "collectives.csv"]
    by = " ".join(f"{facts[0]['device']} by `planc measure` with {facts[0]['framework']}".split())  # it is a comment
    return Declared(made, _link(rows), max(ranks, default=1), f"Measured on {by}.")


def _units(name: str, found: float | None) -> int | None:
    if found and found > (most := limits.MAX_COUNT):
        why = f"{name} has {found:,.0f} `units` in rows of `planc measure`, at most are {most:,}"
        raise PlanError([Diagnostic("E450", why, hint=most.hint("`units` counts multiprocessors or cores", found))])
    return round(found) if found else None


def _link(rows: Iterable[Row]) -> LinkSpec | None:
    """Latency and bandwidth of messages between two devices: of the shortest message, and the best of all."""
    found = [row for row in rows if row[FILE] == "collectives.csv" and row["op"] == "p2p"]
    messages = sorted((_number(row, "bytes"), _number(row, "time_s")) for row in found)
    if not messages:
        return None
    return LinkSpec("switch", _rounded(max(size / time for size, time in messages)), _rounded(messages[0][1]))


def _rounded(value: float) -> float:
    """Four digits, as constants have."""
    return float(f"{value:.4g}")


def _value(row: Row) -> float:
    return _number(row, "value")


def _number(row: Row, column: str) -> float:
    try:
        return read_number(column, row[column])
    except Unfit as unfit:
        raise PlanError(
            [Diagnostic("E450", f"a row of {row['gpu']} cannot be used: {unfit}", hint=unfit.hint)]
        ) from None
