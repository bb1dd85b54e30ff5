"""The roofline: each op by its FLOP per byte and the FLOP/s that it reaches, below what the GPU could give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plandsl.answers.estimate import Estimate
from plandsl.answers.phases import OpTime
from plandsl.backends.graphviz.palette import KIND_NAMES, KINDS, LOOKS
from plandsl.backends.report.charts import LEGEND, Chart, Spec, colours, data, field, rounded
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted, show_count, show_percent, show_time
from plandsl.values import sum_up

MOST_OPS = 400
"""Most points, the longest ops first; a note counts the others."""


TIPS = {"n": "op", "p": "phase", "i": "FLOP per byte", "a": "reached", "s": "time", "b": "bound by"}
"""What a point tells, by the field that has it."""


def roofline_chart(name: str, plan: PlanSpec, e: Estimate) -> Chart | None:
    """Every op that multiplies or adds, in each phase; None where no op does."""
    points = sorted(_points(e), key=lambda point: -point["w"])
    shown = points[:MOST_OPS]
    if not shown:
        return None
    low, high = min(p["x"] for p in shown) / 2, max(p["x"] for p in shown) * 10
    gpus = {gpu.name: gpu for pool in plan.pools for kind in pool.kinds for gpu in (kind.node.gpu,)}
    roofs = [roof for gpu in gpus.values() for roof in _roofs(gpu, low, high, several=len(gpus) > 1)]
    lowest, highest = min(p["y"] for p in shown), max(p["y"] for p in (*shown, *roofs))
    across, up = [low, high], [min(lowest, *(r["y"] for r in roofs)) / 1.6, highest * 1.7]
    x = field("x", "FLOP per byte", scale={"type": "log", "nice": False, "domain": across}, axis={"format": "~s"})
    y = field("y", "FLOP/s of a GPU", scale={"type": "log", "nice": False, "domain": up}, axis={"format": "~s"})
    used = {p["k"] for p in shown}
    roof: Spec = {
        **data(roofs),
        "mark": {"type": "line", "color": "var(--muted)", "strokeWidth": 1.2, "clip": True},
        "encoding": {"x": x, "y": y, "detail": {"field": "r"}, "order": {"field": "x"}},
    }
    label: Spec = {
        **data([r for r in roofs if r["t"]]),
        "mark": {"type": "text", "align": "right", "baseline": "bottom", "dy": -3, "color": "var(--muted)"},
        "encoding": {"x": x, "y": y, "text": {"field": "t"}},
    }
    point: Spec = {
        "name": "ops",
        **data(shown),
        "params": [
            {"name": "pan", "select": {"type": "interval", "zoom": "wheel![event.ctrlKey]"}, "bind": "scales"}
        ],
        "mark": {"type": "point", "clip": True, "filled": True, "opacity": 0.85, "stroke": "var(--paper)",
                 "strokeWidth": 0.7},
        "encoding": {
            "x": x,
            "y": y,
            "size": field("w", "share of the phase", scale={"range": [40, 900]}, legend=None),
            "shape": field("p", "phase", "nominal",
                           scale={"domain": ["prefill", "decode"], "range": ["circle", "diamond"]},
                           legend=LEGEND if not e.encodes else None),
            "color": field("k", "kind of op", "nominal",
                           scale=colours({KIND_NAMES[k]: KINDS[k] for k in KINDS if KIND_NAMES[k] in used}),
                           legend=LEGEND),
            "tooltip": [field(key, word, "nominal") for key, word in TIPS.items()],
        },
    }  # fmt: skip
    without = sum(1 for phase in e.timed.values() for op in phase.ops if not _has_point(op))
    said = f"Roofline of {', '.join(gpus)} with {counted(len(shown), 'op')}. The table of ops has all numbers."
    note = "Larger marks take more of their phase. Lines: what memory and arithmetic could give at most."
    if without:
        note += f" {counted(without, 'op')} without arithmetic or without time, such as collectives, have no point."
    note += f" {len(points) - len(shown):,} shorter ops are not drawn." if len(points) > len(shown) else ""
    spec = {"width": "container", "height": 380, "layer": [roof, label, point]}
    return Chart(name, "Roofline", said, spec, note)


def _has_point(op: OpTime) -> bool:
    return not op.communicates and op.flops > 0 and op.bytes > 0 and op.time_s > 0


def _points(e: Estimate) -> Iterator[dict[str, Any]]:
    for phase, found in e.timed.items():
        whole = sum_up(op.time_s for op in found.ops) or 1.0
        for op in found.ops:
            if _has_point(op):
                reached = op.flops * op.count / op.time_s
                yield {
                    "n": op.op if op.op == op.name else f"{op.op} {op.name}",
                    "p": phase,
                    "k": KIND_NAMES[LOOKS.get(op.op, "elementwise")],
                    "x": rounded(op.flops / op.bytes),
                    "y": rounded(reached),
                    "w": rounded(op.time_s / whole),
                    "i": show_count(op.flops / op.bytes),
                    "a": show_count(reached, "FLOP/s"),
                    "s": f"{show_time(op.time_s)}, {show_percent(op.time_s / whole)}",
                    "b": op.bound,
                }


def _roofs(gpu: GpuSpec, low: float, high: float, *, several: bool) -> Iterator[dict[str, Any]]:
    """The ends and the bend of each roof; the right end names the formats that have it."""
    peaks: dict[float, list[str]] = {}
    for dtype, peak in gpu.compute:
        peaks.setdefault(peak, []).append(dtype)
    for peak, dtypes in peaks.items():
        bend = peak / gpu.bandwidth
        of = f"{gpu.name}, " if several else ""
        told = f"{of}{', '.join(dtypes)} {show_count(peak, 'FLOP/s')}"
        inside = [low, *([bend] if low < bend < high else []), high]
        for at in inside:
            yield {"r": told, "x": rounded(at), "y": rounded(min(peak, at * gpu.bandwidth)),
                   "t": told if at == high else ""}  # fmt: skip
