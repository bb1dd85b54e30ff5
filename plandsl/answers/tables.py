"""The tables of answers. Units stand in the names of columns: seconds, bytes, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from plandsl.columns import Table, pick_table
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.answers.communication import Communication
    from plandsl.answers.comparison import Comparison
    from plandsl.answers.difference import Difference, Part
    from plandsl.answers.estimate import Estimate, Requirement
    from plandsl.answers.explanation import Breakdown, Explanation
    from plandsl.answers.flows import Flows
    from plandsl.answers.occupancy import Memory
    from plandsl.answers.phases import PhaseEstimate
    from plandsl.answers.simulation import Simulation

PARTS = ("weights", "kv_cache", "activations", "buffers")
TIMES = ("ttft", "tpot", "itl", "latency")

ESTIMATE = ("prefill", "decode", "memory", "stages", "communication", "requires", "money", "notes")
"""The tables of an estimate."""

EXPLANATION = ("ttft", "tpot", "per_token", "memory", "sensitivities", "bottlenecks")
DIFFERENCE = ("metrics", "fields", "ttft", "tpot", "throughput", "memory")
SIMULATION = ("percentiles", "requires")
COMPARISON = ("runs", "suspects")


def estimate_table(e: Estimate, name: str) -> Table:
    """A table of `ESTIMATE`: ops of a phase, memory of the fullest stage and of all, what is sent, requirements."""
    return pick_table(
        name,
        {
            **{phase: partial(ops_table, times, phase) for phase, times in e.timed.items()},
            "memory": partial(memory_table, e.memory),
            "stages": partial(_stages, e),
            "communication": partial(communication_table, e.communication),
            "requires": partial(requires_table, e.requires),
            "money": partial(_money, e),
            "notes": partial(_notes, e),
        },
    )


def ops_table(phase: PhaseEstimate, name: str) -> Table:
    """The ops of a phase on the busiest stage; ``share`` is the part of the time of its ops and of nothing else."""
    whole = sum_up(op.time_s for op in phase.ops) or 1.0
    columns = ("op", "name", "count", "time_s", "share")
    rows = [
        {
            "op": op.op, "name": op.name, "count": op.count, "time_s": op.time_s, "share": op.time_s / whole,
            "bound": op.bound, "flops": float(op.flops), "bytes": float(op.bytes), "wire_bytes": float(op.wire),
            "axis": op.axis, "algorithm": op.algorithm, "nodes": op.nodes, "gpu": op.gpu, "layer": op.layer,
            "origin": op.origin, "shape": ", ".join(f"{dim} {size}" for dim, size in op.shape),
            "communicates": op.communicates, "fused": op.fused,
            "band_low": None if op.band is None else op.band[0], "band_high": None if op.band is None else op.band[1],
        }
        for op in phase.ops
    ]  # fmt: skip
    return Table.of_rows(name, rows, columns)


def memory_table(memory: Memory) -> Table:
    """What fills a GPU, and what is free."""
    parts = {**{part: getattr(memory, part) for part in PARTS}, "free": memory.capacity - memory.total}
    rows = ({"part": p, "bytes": float(size), "share": size / memory.capacity} for p, size in parts.items())
    return Table.of_rows("memory", rows)


def _stages(e: Estimate) -> Table:
    rows = []
    for stage, (held, (first, last)) in enumerate(zip(e.stages, e.layers, strict=False)):
        parts = {f"{part}_bytes": float(getattr(held, part)) for part in PARTS}
        whole = {"total_bytes": float(held.total), "capacity_bytes": float(held.capacity)}
        rows.append({"stage": stage, "first_layer": first, "end_layer": last, **parts, **whole})
    return Table.of_rows("stages", rows, ("stage", "total_bytes", "capacity_bytes"))


def communication_table(communication: Communication) -> Table:
    """The calls of each kind, over all stages."""
    columns = ("phase", "op", "axis", "algorithm")
    rows = (
        {**{name: getattr(c, name) for name in (*columns, "nodes", "part")}, **c.traffic.as_json()}
        for c in communication.rows
    )
    return Table.of_rows("communication", rows, columns)


def flows_table(flows: Flows) -> Table:
    """Who sends how many bytes to whom, by axis."""
    columns = ("phase", "sender", "receiver", "axis", "bytes")
    rows = (
        {
            "phase": flows.phase, "sender": flows.senders[cell.sender][0],
            "receiver": flows.receivers[cell.receiver][0], "axis": cell.axis, "bytes": float(cell.bytes),
        }
        for cell in flows.cells
    )  # fmt: skip
    return Table.of_rows("flows", rows, columns)


def requires_table(requires: Iterable[Requirement]) -> Table:
    """Requirements, the values that they are about, and whether they are met."""
    return Table.of_rows("requires", (r._asdict() for r in requires), ("text", "value", "ok"))


def _money(e: Estimate) -> Table:
    """What the plan costs and draws, and the copies that a demand takes: a row for each number that is known."""
    rows = []
    for of, part in (("money", e.money), ("energy", e.energy), ("fleet", e.fleet)):
        numbers = {} if part is None else part.as_json()
        rows += [
            {"of": of, "figure": name, "value": float(value)}
            for name, value in numbers.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
    return Table.of_rows("money", rows, ("of", "figure", "value"))


def _notes(e: Estimate) -> Table:
    rows = ({"code": n.code, "severity": n.severity, "message": n.message, "hint": n.hint} for n in e.notes)
    return Table.of_rows("notes", rows, ("code", "severity", "message", "hint"))


# ---- explanations and differences


def explanation_table(found: Explanation, name: str) -> Table:
    """A table of `EXPLANATION`: the terms of a metric, slopes, bottlenecks."""
    wholes = {"ttft": found.ttft, "tpot": found.tpot, "per_token": found.per_token, "memory": found.memory}
    return pick_table(
        name,
        {
            **{key: partial(terms_table, whole, key) for key, whole in wholes.items()},
            "sensitivities": partial(_sensitivities, found),
            "bottlenecks": partial(_bottlenecks, found),
        },
    )


def terms_table(whole: Breakdown, name: str) -> Table:
    """The terms that add up to a metric; ``value`` is in the unit of the metric."""
    rows = []
    for t in whole.terms:
        row = t._asdict() | {"share": t.value / whole.total if whole.total else None}
        band = row.pop("band")
        rows.append({**row, "band_low": band and band[0], "band_high": band and band[1]})
    return Table.of_rows(name, rows, ("phase", "group", "op", "name", "value"))


def _sensitivities(found: Explanation) -> Table:
    rows: list[dict[str, Any]] = [
        {"figure": s.key, "name": s.name, "metric": metric, "down": slope.down, "up": slope.up, "mean": slope.mean}
        for s in found.sensitivities
        for metric, slope in s.slopes.items()
    ]
    return Table.of_rows("sensitivities", rows, ("figure", "name", "metric", "down", "up", "mean"))


def _bottlenecks(found: Explanation) -> Table:
    return Table.of_rows("bottlenecks", ({"metric": b.metric, **b.as_json()} for b in found.bottlenecks))


def difference_table(found: Difference, name: str) -> Table:
    """A table of `DIFFERENCE`: all metrics, the fields that differ, the terms of a metric."""
    terms = {split.metric: partial(_parts, split.parts, split.metric) for split in found.splits}
    return pick_table(name, {"metrics": partial(_metrics, found), "fields": partial(_changes, found), **terms})


def _metrics(found: Difference) -> Table:
    rows = (
        {"metric": s.metric, "before": s.before, "after": s.after, "change": s.change,
         "ratio": s.after / s.before if s.before else None}
        for s in found.splits
    )  # fmt: skip
    return Table.of_rows("metrics", rows)


def _changes(found: Difference) -> Table:
    return Table.of_rows("fields", (c._asdict() for c in found.changes), ("path", "before", "after"))


def _parts(parts: Sequence[Part], name: str) -> Table:
    return Table.of_rows(name, (p._asdict() for p in parts), ("phase", "group", "op", "name", "change"))


# ---- simulations


def comparison_table(found: Comparison, name: str) -> Table:
    """A table of `COMPARISON`: a row for each statistic of each run; the suspects."""
    return pick_table(name, {"runs": partial(_compared_runs, found), "suspects": partial(_suspects, found)})


def _compared_runs(found: Comparison) -> Table:
    columns = ("file", "at", "metric", "statistic", "measured", "predicted")
    rows = (
        {
            "file": run.file, "at": run.at, "tool": run.tool, "label": run.label, "load": run.load,
            "concurrency": float(run.clients) or None, "requests_per_s": run.rate or None, "requests": run.requests,
            "input": run.input, "output": run.output, "metric": m.metric, "statistic": m.statistic,
            "measured": m.measured, "predicted": m.predicted, "ratio": m.ratio, "low": m.low, "high": m.high,
            "inside": "" if m.inside is None else "yes" if m.inside else "no",
        }
        for run in found.runs
        for m in run.measures
    )  # fmt: skip
    return Table.of_rows("runs", rows, columns)


def _suspects(found: Comparison) -> Table:
    verdict = found.verdict
    columns = ("name", "likely", "change", "share", "explained", "error")
    rows = (
        {
            "name": s.name, "likely": at < (verdict.likely if verdict else 0), "change": s.change, "share": s.share,
            "explained": s.explained, "error": s.error,
        }
        for at, s in enumerate(verdict.suspects if verdict else ())
    )  # fmt: skip
    return Table.of_rows("suspects", rows, columns)


def simulation_table(found: Simulation, name: str) -> Table:
    """A table of `SIMULATION`: percentiles of times with half widths of their 95 % intervals; requirements."""
    return pick_table(
        name, {"percentiles": partial(_percentiles, found), "requires": partial(requires_table, found.requires)}
    )


def _percentiles(found: Simulation) -> Table:
    rows = []
    for metric in TIMES:
        spread = getattr(found.summary, metric)
        row: dict[str, Any] = {"metric": f"{metric}_s", "number": spread.number}
        for name in spread._fields[:-1]:
            figure = getattr(spread, name)
            row |= {name: float(figure.value), f"{name}_half_width": float(figure.half)}
        rows.append(row)
    return Table.of_rows("percentiles", rows)
