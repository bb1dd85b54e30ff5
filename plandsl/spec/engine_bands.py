"""The bands of an engine's times by the distance from the rows that it was fitted to."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from plandsl.spec.origins import FITTED_HERE, POOLED, borrowed_from

SERVED = ("ttft", "tpot", "throughput")
"""Metrics of servers that have bands."""

LOADS = ("dense_jittered", "dense_fixed", "moe_jittered", "moe_fixed")
"""Classes of rows: whether the model has experts, and whether requests have lengths of their own or move in step."""

DISTANCES = ("seen", "model", "gpu")
"""What the fit of the engine has not seen: neither the model nor the GPU is new, the model is, the GPU is."""

Factors = tuple[float, float]
"""Factors between which 80 % of measured / predicted lie."""


class Served(NamedTuple):
    """What a band of an engine depends on: the names of GPUs and model, whether it has experts, and the load.

    ``gpus`` has for each GPU its name and those of its bases. ``jittered``: requests differ in length.
    """

    gpus: tuple[tuple[str, ...], ...]
    model: str
    experts: bool
    jittered: bool
    nodes: int = 1

    @property
    def load(self) -> str:
        """The class in `LOADS`."""
        return f"{'moe' if self.experts else 'dense'}_{'jittered' if self.jittered else 'fixed'}"


class EngineBands(NamedTuple):
    """Bands by class, distance and metric (``dense_fixed.gpu.tpot``), and the GPUs and models that the fit has seen."""

    gpus: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    factors: tuple[tuple[str, Factors], ...] = ()

    def distances(self, served: Served) -> tuple[str, ...]:
        """What is new about a plan: ``seen`` where nothing is, else ``model``, ``gpu`` or both."""
        new = {
            "model": served.model not in self.models,
            "gpu": not all(_named(names, self.gpus) for names in served.gpus),
        }
        return tuple(name for name, is_new in new.items() if is_new) or ("seen",)

    def origin(self, served: Served) -> str:
        """Where the engine's constants come from, seen from what is served (`plandsl/spec/origins.py`)."""
        if not self.gpus:
            return POOLED
        new = self.distances(served)
        if "gpu" in new:
            return borrowed_from(self.gpus)
        return borrowed_from(self.models) if "model" in new else FITTED_HERE

    def find(self, metric: str, served: Served) -> Factors | None:
        """The band of a metric in `SERVED`, or None; of a plan that is new in two ways the wider ends."""
        known = dict(self.factors)
        paths = [f"{served.load}.{distance}.{metric}" for distance in self.distances(served)]
        found = [known[path] for path in paths if path in known]
        return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _named(names: Collection[str], among: tuple[str, ...]) -> bool:
    return any(name in among for name in names)
