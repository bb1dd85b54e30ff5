"""The assumptions of an estimate: figures that nobody published or measured, and constants that are not set."""

from __future__ import annotations

from plandsl.spec.hardware import CLOS, CONSTANTS, CalibrationSpec, ClusterSpec, GpuSpec, NodeSpec
from plandsl.spec.plan import PlanSpec
from plandsl.units import TIME


def assumptions(plan: PlanSpec) -> tuple[tuple[str, str, str], ...]:
    """Entries of (what, which figure, how it is assumed), for the hardware and the calibration of ``plan``."""
    counts = plan.effective_engine.scheduler_name == "sglang"  # which alone reads what the driver reports
    figures = ((e.name, path, text) for e in _parts(plan) for path, text in e.assumed)
    hardware = tuple(entry for entry in figures if counts or entry[1] != "memory_total")
    fitted = plan.calibration
    if plan.speculate is not None and plan.speculate.draft is None:
        hardware = (*hardware, ("speculate", "draft", "none, at no cost"))
    stated = hardware + tuple((fitted.name, path, text) for path, text in fitted.assumed if fitted.needs(path))
    unset = _unset(plan.calibration)
    if _network_unknown(plan) and not any(name == "link" for name, _ in unset):
        unset.append(("link", "100 % of the network, not set"))
    return stated + tuple((plan.calibration.name, name, text) for name, text in unset)


def _network_unknown(plan: PlanSpec) -> bool:
    """Whether ranks stand on several nodes and the calibration has no constants for the network."""
    if plan.cluster is None or plan.sharding.ranks <= plan.node.count:
        return False
    return plan.calibration.given.isdisjoint(
        ("link", "collective_nodes") if plan.cluster.network.topology in CLOS else ("link",)
    )


def _parts(plan: PlanSpec) -> list[GpuSpec | NodeSpec | ClusterSpec]:
    """The hardware whose figures may be assumed."""
    return [plan.node.gpu, plan.node, *([] if plan.cluster is None or plan.cluster.count == 1 else [plan.cluster])]


def _unset(calibration: CalibrationSpec) -> list[tuple[str, str]]:
    """Constants that a calibration leaves out, and the values that replace them."""
    have = calibration.given
    instead = {"attention_decode": "attention_prefill", "launch_elementwise": "launch", "launch_collective": "launch"}
    missing = [
        n for n in CONSTANTS if n not in (*have, "low", "high") and instead.get(n) not in have and calibration.needs(n)
    ]
    return [(n, "0 s, not set" if CONSTANTS[n] == TIME else "100 %, not set") for n in missing]
