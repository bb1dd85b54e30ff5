"""Who sends how much to whom: a matrix of ranks for each phase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plandsl.answers.flows import Flows
from plandsl.backends.report.charts import Chart, Spec, data, field, rounded
from plandsl.units import show_bytes, show_percent

WORDS = {"prefill": "a prefill", "decode": "a decode step", "transfer": "the KV cache from pool to pool"}


def matrix_charts(name: str, flows: Sequence[Flows]) -> Iterator[Chart]:
    """A matrix for each phase in which something is sent."""
    for found in flows:
        if found.cells:
            yield _matrix(f"{name}-{found.phase}", found)


def _matrix(name: str, found: Flows) -> Chart:
    senders, receivers = ([_show(block) for block in blocks] for blocks in (found.senders, found.receivers))
    axes = found.by_axis()
    rows = [
        {"s": senders[c.sender], "r": receivers[c.receiver], "a": c.axis, "v": rounded(c.bytes)} for c in found.cells
    ]
    several = any(len(block) > 1 for block in (*found.senders, *found.receivers))
    what = "ranks" if several else "rank"
    side: Spec = {"sort": None, "axis": {"labelOverlap": True, "labelAngle": 0}}
    spec: Spec = {
        "width": "container",
        "height": max(160, min(420, 14 * len(senders) + 40)),
        **data(rows),
        "transform": [
            {"filter": "axis == 'all axes' || datum.a == axis"},
            {"aggregate": [{"op": "sum", "field": "v", "as": "v"}], "groupby": ["s", "r"]},
            {"calculate": "datum.v >= 1e9 ? format(datum.v / 1e9, '.3~f') + ' GB' : datum.v >= 1e6 ?"
                          " format(datum.v / 1e6, '.3~f') + ' MB' : format(datum.v / 1e3, '.3~f') + ' kB'", "as": "t"},
        ],
        "params": [
            {"name": "axis", "value": "all axes",
             "bind": {"input": "select", "options": ["all axes", *axes], "name": "bytes along "}}
        ] if len(axes) > 1 else [{"name": "axis", "value": "all axes"}],
        "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 0.5},
        "encoding": {
            "y": field("s", f"{what} that sends" if what == "rank" else f"{what} that send", "ordinal",
                       scale={"domain": senders}, **side),
            "x": field("r", f"{what} that receives" if what == "rank" else f"{what} that receive", "ordinal",
                       scale={"domain": receivers}, **side),
            "color": field("v", "bytes", scale={"scheme": "viridis", "domainMin": 0},
                           legend={"format": ".3~s", "orient": "top", "gradientLength": 180, "tickCount": 3}),
            "tooltip": [field("s", "from", "nominal"), field("r", "to", "nominal"), field("t", "bytes", "nominal")],
        },
    }  # fmt: skip
    total = found.total
    sums = ", ".join(f"{show_bytes(size)} along {axis}" for axis, size in axes.items())
    far = f"; {show_percent(found.between_nodes / total)} of all bytes go to other nodes" if found.between_nodes else ""
    note = f"All ranks together: {sums}{far}."
    note += f" A row stands for up to {max(map(len, found.senders)):,} ranks." if several else ""
    title = f"Who sends to whom in {WORDS[found.phase]}"
    return Chart(name, title, f"{title}. {note}", spec, note)


def _show(block: range) -> str:
    return str(block[0]) if len(block) == 1 else f"{block[0]}..{block[-1]}"
