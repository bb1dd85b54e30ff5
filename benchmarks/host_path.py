"""NCCL through the memory of the host: what it takes beside NCCL from peer to peer, on the same GPUs.

`python -m benchmarks.host_path DATA` fits the two constants of `plandsl.spec.hardware.HOST_PATH` to collectives.csv and
prints them, with the errors on each library when it is left out. The all_reduce of engines was timed on two hosts with
RTX PRO 6000. On one of them peers have no access to each other, so that every library calls NCCL, and NCCL goes through
shared memory. The constants of NCCL from peer to peer are those of the catalog.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from plandsl.backends.calibrate.kind import Floats
from plandsl.backends.calibrate.kinds.collective import COLLECTIVE
from plandsl.backends.calibrate.table import Table, read_table
from plandsl.backends.cost.forms.collective import collective_seconds
from plandsl.entries import catalog_calibration
from plandsl.spec.constants import CollectiveConstants
from plandsl.spec.hardware import HOST_PATH, HostPath, LinkSpec, usual_latency

GPU, PORT = "rtx_pro_6000", 64e9
"""The GPU, and the nominal bytes/s of its port, PCIe 5 x16."""

LIBRARIES = ("vllm_custom-0.19", "sglang_custom-0.5.10", "trtllm_custom-1.3.0rc10")
"""Releases that were timed on the host without access to peers; later ones were timed on the other host."""


def host_rows(table: Table) -> dict[str, Table]:
    """The rows of each library that went through the host, captured in graphs."""
    of = (table.texts("gpu") == GPU) & (table.numbers("n_ranks") == 2) & (table.numbers("cuda_graph", 0.0) > 0)
    return {name: table.where(of & np.char.startswith(table.texts("backend"), name)) for name in LIBRARIES}


def seconds(nccl: CollectiveConstants, host: HostPath, rows: Table) -> Floats:
    """What an all_reduce of two ranks takes through ``host``."""
    link = LinkSpec("pcie", PORT, usual_latency("pcie"), host=host)
    found: Floats = np.asarray(collective_seconds(nccl, link, "all_reduce", n=2, payload=rows.numbers("bytes")))
    return found


def fit(nccl: CollectiveConstants, rows: list[Table]) -> HostPath:
    """The rate and the latency with the least mean absolute logarithm of predicted / measured."""
    from scipy.optimize import minimize

    def loss(y: Floats) -> float:
        host = HostPath(*np.exp(y))
        return float(np.mean([np.abs(np.log(seconds(nccl, host, r) / r.numbers("time_s"))).mean() for r in rows]))

    return HostPath(*map(float, np.exp(minimize(loss, np.log(HostPath(2e10, 5e-6)), method="Nelder-Mead").x)))


def main(data: Path) -> None:
    """Print the constants, and the errors on what each fit did not see."""
    nccl = catalog_calibration(GPU).constants(CollectiveConstants, "collective.nccl")
    assert nccl is not None, f"the catalog has NCCL on {GPU}"
    rows = host_rows(read_table(data / COLLECTIVE.file, COLLECTIVE.columns, COLLECTIVE.blank))
    print(f"all: {fit(nccl, list(rows.values()))}, in use: {HOST_PATH}")
    for out, table in rows.items():
        found = fit(nccl, [other for name, other in rows.items() if name != out])
        off = np.abs(seconds(nccl, found, table) / table.numbers("time_s") - 1)
        print(f"without {out}: {found}, off on it by {np.median(off):.1%} (median) of {len(off)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
