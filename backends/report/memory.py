"""What fills the memory of a GPU, stage by stage: a bar for each, and a line at what it holds."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.answers.estimate import Estimate
from plandsl.answers.occupancy import Memory
from plandsl.answers.text.resources import equal_stages
from plandsl.backends.graphviz.palette import MEMORY, MEMORY_NAMES
from plandsl.backends.report.charts import LEGEND, Chart, Spec, colours, data, field, rounded
from plandsl.units import show_bytes, show_percent

MOST_STAGES = 48
"""Most bars; a note counts the others."""

GB = 1e9


def memory_chart(name: str, e: Estimate) -> Chart:
    """A bar for each stage of each pool."""
    bars = list(_bars(e))
    shown = bars[:MOST_STAGES]
    rows = [
        {"w": where, "p": MEMORY_NAMES[part], "o": order, "v": rounded(getattr(m, part) / GB),
         "t": f"{show_bytes(getattr(m, part))}, {show_percent(getattr(m, part) / m.capacity)}"}
        for where, m in shown for order, part in enumerate(MEMORY) if getattr(m, part)
    ]  # fmt: skip
    ends = [{"w": where, "c": rounded(m.capacity / GB), "t": show_bytes(m.capacity)} for where, m in shown]
    y = field("w", None, "nominal", sort=None, axis={"labelLimit": 220})
    bar: Spec = {
        **data(rows),
        "mark": {"type": "bar", "height": {"band": 0.7}},
        "encoding": {
            "y": y,
            "x": field("v", "GB of a GPU", stack="zero"),
            "color": field("p", None, "nominal", scale=colours({MEMORY_NAMES[p]: MEMORY[p] for p in MEMORY}),
                           legend=LEGEND),
            "order": {"field": "o"},
            "tooltip": [field("w", "where", "nominal"), field("p", "what", "nominal"), field("t", "bytes", "nominal")],
        },
    }  # fmt: skip
    tick: Spec = {
        **data(ends),
        "mark": {"type": "tick", "color": "var(--ink)", "thickness": 2.5, "bandSize": 26},
        "encoding": {"y": y, "x": field("c", "GB of a GPU"), "tooltip": [field("t", "there is", "nominal")]},
    }
    fullest = max(shown, key=lambda bar: bar[1].total / bar[1].capacity)
    share = show_percent(fullest[1].total / fullest[1].capacity)
    said = f"Memory of a GPU. The fullest is {fullest[0]}: {share} of {show_bytes(fullest[1].capacity)}."
    more = len(bars) - len(shown)
    note = "The line is what plans may use of a GPU." + (f" {more:,} more stages are not drawn." if more else "")
    spec = {"width": "container", "height": 30 * len(shown), "layer": [bar, tick]}
    return Chart(name, "What fills the memory of a GPU", said, spec, note)


def _bars(e: Estimate) -> Iterator[tuple[str, Memory]]:
    if e.pools is None:
        yield from _stages(e, "")
        return
    yield from _stages(e.pools.prefill.estimate, "prefill pool")
    yield from _stages(e.pools.decode.estimate, "decode pool")


def _stages(e: Estimate, pool: str) -> Iterator[tuple[str, Memory]]:
    """The stages of one pool; neighbours that hold the same have one bar."""
    found = list(equal_stages(e))
    if len(found) == 1:
        yield pool or "each GPU", e.memory
        return
    for first, last, (start, stop), m in found:
        name = f"stage {first}" if first == last else f"stages {first} to {last}"
        yield f"{pool} {name}, layers {start}..{stop}".strip(), m
