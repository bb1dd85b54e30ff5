"""The estimate of a plan: all that is known about it, in SI units, and its JSON (docs/language.md, "JSON")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.answers.about import NOBODY, About
from plandsl.answers.communication import NO_CALLS, Communication
from plandsl.answers.occupancy import ClusterUse, Load, Memory, Reuse, StageGpus, StateUse
from plandsl.answers.phases import PhaseEstimate
from plandsl.arguments import Arguments
from plandsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from plandsl.answers.modes import Shift, Speculated, Tower
    from plandsl.answers.money import Energy, Fleet, Money
    from plandsl.answers.pools import Pools
    from plandsl.answers.simulation import Short
    from plandsl.answers.start import Start
    from plandsl.columns import Table


Band = tuple[float, float]


MOST = 3
"""The most ops that are named where a band is missing."""

OUTPUT_FIELDS = ("tpot_s", "kv_capacity_tokens", "kv_bytes_per_token", "decode")
"""Fields of the JSON that a plan without output leaves out."""

BANDED = ("ttft_s", "tpot_s", "latency_s", "throughput_tokens_per_s")
"""Metrics that come with a band."""


class Requirement(NamedTuple):
    """A ``require``, the value of its metric, and whether it is met."""

    text: str
    value: float
    ok: bool


class Estimate(NamedTuple):
    """Everything that is known about one plan. ``stages`` has the memory of each stage, ``memory`` of the fullest.

    All numbers are in closed form, but for ``simulated``: where requests arrive over time, a short simulation stands
    beside them, and ``requires`` are checked by it where it has the metric. A plan that ``encodes`` texts of ``text``
    tokens makes no tokens: its throughput counts the tokens of texts, ``ttft_s`` and ``latency_s`` are the time of a
    text, and there is no ``tpot_s`` and no cache.
    """

    plan: str
    gpus: int
    replicas: int
    mesh: tuple[tuple[str, int], ...]
    batch: int
    in_flight: int
    ttft_s: float
    tpot_s: float | None
    latency_s: float
    throughput_tokens_per_s: float
    memory: Memory
    stages: tuple[Memory, ...]
    layers: tuple[tuple[int, int], ...]
    kv_capacity_tokens: int
    max_batch: int
    parameters: int
    kv_bytes_per_token: float
    prefill: PhaseEstimate
    decode: PhaseEstimate
    requires: tuple[Requirement, ...]
    notes: tuple[Diagnostic, ...]
    assumed: tuple[tuple[str, str, str], ...]
    calibration: str
    cost_usd_per_mtok: float | None = None
    engine: str | None = None
    load: Load | None = None
    kv_block: int = 1
    bands: tuple[tuple[str, Band], ...] = ()
    active_parameters: int | None = None
    cluster: ClusterUse | None = None
    shift: Shift | None = None
    stage_gpus: tuple[StageGpus, ...] = ()
    speculate: Speculated | None = None
    tower: Tower | None = None
    reuse: Reuse | None = None
    pools: Pools | None = None
    communication: Communication = NO_CALLS
    simulated: Short | None = None
    start: Start | None = None
    engine_origin: str = ""
    states: StateUse | None = None
    money: Money | None = None
    energy: Energy | None = None
    fleet: Fleet | None = None
    about: About = NOBODY
    text: int = 0

    @property
    def encodes(self) -> bool:
        """Whether nothing comes out."""
        return self.text > 0

    @property
    def texts_per_s(self) -> float | None:
        """Texts per second of an encoder; None of other plans."""
        return self.throughput_tokens_per_s / self.text if self.text else None

    @property
    def timed(self) -> dict[str, PhaseEstimate]:
        """The phases that take time, by name: where nothing comes out, no step decodes."""
        return {"prefill": self.prefill} if self.encodes else {"prefill": self.prefill, "decode": self.decode}

    @property
    def banded(self) -> tuple[str, ...]:
        """The metrics in `BANDED` that the plan has."""
        return tuple(metric for metric in BANDED if not self.encodes or metric != "tpot_s")

    @property
    def fits(self) -> bool:
        """Whether the engine starts, and the fullest GPU of every stage, and of every pool, holds its part."""
        if self.pools is not None:
            return self.pools.prefill.estimate.fits and self.pools.decode.estimate.fits
        if self.start is not None and self.start.refused:
            return False
        return all(held.total <= held.capacity for held in (*self.stages, self.memory))

    def band(self, metric: str) -> Band | None:
        """The band of a metric in `BANDED`: 80 % of measurements would lie in it. None where none is known.

        Raises `PlanError` (E445) for another metric.
        """
        Arguments("band", metric=metric).word("metric", BANDED)
        return dict(self.bands).get(metric)

    def no_band(self, metric: str) -> str:
        """Why a metric in `BANDED` has no band; empty where it has one."""
        if self.band(metric) is not None:
            return ""
        if self.encodes and metric == "tpot_s":
            return "nothing comes out"
        own = {"ttft_s": (self.prefill,), "tpot_s": (self.decode,)}
        phases = own.get(metric, tuple(self.timed.values()))
        ops = list(dict.fromkeys(name for phase in phases for name in phase.without_band))
        more = f" and {len(ops) - MOST} more" if len(ops) > MOST else ""
        return f"no errors are known of {', '.join(ops[:MOST])}{more}" if ops else "nothing takes time"

    @property
    def throughput_per_gpu_tokens_per_s(self) -> float:
        """Output tokens per second and GPU."""
        return self.throughput_tokens_per_s / self.gpus

    @property
    def ok(self) -> bool:
        """Whether the plan fits and meets every requirement."""
        return self.fits and all(r.ok for r in self.requires)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        from plandsl.answers.tables import ESTIMATE

        return tuple(name for name in ESTIMATE if name != "decode" or name in self.timed)

    def table(self, name: str) -> Table:
        """A table by its name. Raises `PlanError` (E445) for another name."""
        from plandsl.answers.tables import estimate_table

        return estimate_table(self, name)

    def __repr__(self) -> str:
        from plandsl.answers.shown import estimate_line

        return estimate_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def _gpus(self) -> list[dict[str, Any]]:
        return [gpus.as_json() for gpus in self.stage_gpus] or [{} for _ in self.stages]

    def as_json(self) -> dict[str, Any]:
        """One entry of ``plans``."""
        out: dict[str, Any] = {
            "plan": self.plan,
            "fits": self.fits,
            "gpus": self.gpus,
            "replicas": self.replicas,
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "in_flight": self.in_flight,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "latency_s": self.latency_s,
            "throughput_tokens_per_s": self.throughput_tokens_per_s,
            "throughput_per_gpu_tokens_per_s": self.throughput_per_gpu_tokens_per_s,
            "memory_per_gpu_bytes": self.memory.as_json(),
            "stages": [
                {"layers": list(layers), "memory_per_gpu_bytes": m.as_json()} | gpus
                for layers, m, gpus in zip(self.layers, self.stages, self._gpus(), strict=True)
            ],
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "max_batch": self.max_batch,
            "parameters": self.parameters,
            "active_parameters": self.parameters if self.active_parameters is None else self.active_parameters,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "prefill": self.prefill.as_json(),
            "decode": self.decode.as_json(),
            "communication": self.communication.as_json(),
            "requires": [{"text": r.text, "value": r.value, "ok": r.ok} for r in self.requires],
            "notes": [_note(d) for d in self.notes],
            "calibration": self.calibration,
            "assumed": [{"entry": e, "field": f, "value": v} for e, f, v in self.assumed],
        }
        if self.encodes:
            out = {name: value for name, value in out.items() if name not in OUTPUT_FIELDS}
            out |= {"output": 0, "counts": "input tokens", "texts_per_s": self.texts_per_s}
        for metric in self.banded:
            found = self.band(metric)
            out[f"{metric}_band"] = None if found is None else list(found)
        if missing := {metric: why for metric in self.banded if (why := self.no_band(metric))}:
            out["no_band"] = missing
        if self.engine is not None:
            out |= {"engine": self.engine, "kv_blocks": self.kv_capacity_tokens // self.kv_block}
            out |= {"engine_origin": self.engine_origin} if self.engine_origin else {}
        if self.start is not None:
            out["start"] = self.start.as_json()
        if self.states is not None:
            out["states"] = self.states.as_json()
        if self.cluster is not None:
            out["cluster"] = self.cluster.as_json()
        if self.shift is not None:
            out["shift"] = self.shift.as_json()
        if self.speculate is not None:
            out["speculate"] = self.speculate.as_json()
        if self.tower is not None:
            out["tower"] = self.tower.as_json()
        if self.pools is not None:
            out["pools"] = self.pools.as_json()
        if self.reuse is not None:
            out["reuse"] = self.reuse.as_json()
        if self.load is not None:
            out["load"] = self.load.as_json()
        if self.simulated is not None:
            told = self.simulated.as_json()
            left_out = ("tpot_s", "output_tokens_per_s") if self.encodes else ()
            out["simulated"] = {name: value for name, value in told.items() if name not in left_out}
        if self.cost_usd_per_mtok is not None:
            out["cost_usd_per_mtok"] = self.cost_usd_per_mtok
        for name, part in (("money", self.money), ("energy", self.energy), ("fleet", self.fleet)):
            if part is not None:
                out[name] = part.as_json()
        return out


def _note(diagnostic: Diagnostic) -> dict[str, Any]:
    out: dict[str, Any] = {"code": diagnostic.code, "message": diagnostic.message}
    if diagnostic.span is not None:
        out |= {"file": diagnostic.span.file, "line": diagnostic.span.line, "column": diagnostic.span.column}
    return out


def within_band(a: Estimate, b: Estimate, metric: str) -> bool:
    """Whether each of two estimates lies in the band of the other, so that this metric does not tell them apart."""
    ours, theirs = a.band(metric), b.band(metric)
    if ours is None or theirs is None:
        return False
    x, y = getattr(a, metric), getattr(b, metric)
    return bool(ours[0] <= y <= ours[1] and theirs[0] <= x <= theirs[1])


def comparisons(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Each pair of plans that lie within each other's band, with the metrics in which they do."""
    out = []
    for i, a in enumerate(estimates):
        for b in estimates[i + 1 :]:
            if same := [m for m in BANDED if within_band(a, b, m)]:
                out.append({"plans": [a.plan, b.plan], "within_band": same})
    return out
