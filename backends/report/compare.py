"""The plans of a file beside one another: a table that sorts, and bars of what counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plandsl.answers.estimate import Estimate
from plandsl.answers.text.estimate import compared_values, within_bands
from plandsl.answers.text.words import show_money, show_token_rate, show_verdicts
from plandsl.backends.report.charts import Chart, Spec, data, field, rounded, time_unit
from plandsl.backends.report.html import Cell, Html, join, sorting_table, tag
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_percent, show_time

MOST_BARS = 40
"""Most plans in a chart; the table has all of them."""


class Compared(NamedTuple):
    """A plan in the comparison: where its section is (empty: it has none), and its numbers."""

    anchor: str
    plan: PlanSpec
    e: Estimate

    @property
    def values(self) -> tuple[float, float | None, float]:
        """TTFT, TPOT and throughput, by simulation where there is one."""
        return compared_values(self.e)


def compare_section(rows: Sequence[Compared]) -> tuple[Html, list[Chart]]:
    """The section that compares all plans, and its charts."""
    charts = list(_bars(rows[:MOST_BARS]))
    simulated = any(row.e.simulated is not None for row in rows)
    said = "By simulation where requests arrive over time. " if simulated else ""
    body = [
        tag("h2", "All plans"),
        tag("p", f"{said}A click on a heading sorts.", class_="note noprint"),
        _table(rows),
        *(
            tag("p", f"{told[0].upper()}{told[1:]}. Their order may be wrong.", class_="note")
            for told in within_bands([row.e for row in rows[:MOST_BARS]])
        ),
        tag("div", *(chart.figure() for chart in charts), class_="grid"),
    ]
    return tag("section", join(body), id="compared"), charts


def _table(rows: Sequence[Compared]) -> Html:
    asked, paid = any(r.e.requires for r in rows), any(r.e.cost_usd_per_mtok is not None for r in rows)
    header = ["plan", "model", "machine", "GPUs", "TTFT", "TPOT", "throughput", "per GPU", "memory", "fits"]
    header += ["requirements"] * asked + ["USD per M tokens"] * paid
    return sorting_table("all plans", header, [_row(r, asked=asked, paid=paid) for r in rows])


def _row(r: Compared, *, asked: bool, paid: bool) -> list[Cell]:
    e, (ttft, tpot, rate) = r.e, r.values
    name = tag("a", e.plan, href=f"#{r.anchor}") if r.anchor else e.plan
    machine = " and ".join(dict.fromkeys(pool.machine for pool in r.plan.pools))
    share = e.memory.total / e.memory.capacity
    missed = sum(not req.ok for req in e.requires)
    cells = [
        Cell(name, e.plan),
        Cell(r.plan.model.name),
        Cell(machine),
        Cell(e.gpus, e.gpus),
        Cell(show_time(ttft), ttft),
        Cell("-" if tpot is None else show_time(tpot), -1.0 if tpot is None else tpot),
        Cell(show_token_rate(rate), rate),
        Cell(show_token_rate(rate / e.gpus), rate / e.gpus),
        Cell(show_percent(share), share),
        Cell("yes" if e.fits else "NO", "yes" if e.fits else "no", None if e.fits else "bad"),
    ]
    if asked:
        cells.append(Cell(show_verdicts(e.requires).plain, missed, "bad" if missed else None))
    if paid:
        cost = e.cost_usd_per_mtok
        cells.append(Cell("-" if cost is None else show_money(cost), -1.0 if cost is None else cost))
    return cells


def _bars(rows: Sequence[Compared]) -> Iterator[Chart]:
    ttft, tpot = ([r.values[i] for r in rows] for i in (0, 1))
    bands = [not r.e.simulated for r in rows]
    yield _bar(
        "ttft", "TTFT", rows, ttft, [r.e.band("ttft_s") if b else None for r, b in zip(rows, bands, strict=True)]
    )
    if any(value is not None for value in tpot):
        found = [r.e.band("tpot_s") if b and "tpot_s" in r.e.banded else None for r, b in zip(rows, bands, strict=True)]
        yield _bar("tpot", "TPOT", rows, tpot, found)
    rates = [r.values[2] / r.e.gpus for r in rows]
    shares = [r.e.band("throughput_tokens_per_s") if b else None for r, b in zip(rows, bands, strict=True)]
    each = [
        None if band is None else (band[0] / r.e.gpus, band[1] / r.e.gpus) for r, band in zip(rows, shares, strict=True)
    ]
    yield _bar("per_gpu", "throughput per GPU", rows, rates, each, unit="tok/s")
    memory = [100 * r.e.memory.total / r.e.memory.capacity for r in rows]
    yield _bar("memory", "memory of the fullest GPU", rows, memory, [None] * len(rows), unit="%")


def _bar(
    name: str,
    title: str,
    rows: Sequence[Compared],
    values: Sequence[float | None],
    bands: Sequence[tuple[float, float] | None],
    unit: str = "",
) -> Chart:
    there = [v for v in values if v is not None]
    factor, shown = (1.0, unit) if unit else time_unit(max(there))
    told = [
        {"p": r.e.plan, "v": rounded(v * factor), "t": f"{v * factor:.4g} {shown}", "z": 0}
        | ({} if band is None else {"a": rounded(band[0] * factor), "b": rounded(band[1] * factor)})
        for r, v, band in zip(rows, values, bands, strict=True)
        if v is not None
    ]
    y = field("p", None, "nominal", sort=None, axis={"labelLimit": 150})
    tips = [field("p", "plan", "nominal"), field("t", title, "nominal")]
    bar: Spec = {
        "mark": {"type": "bar", "color": "#3f73a8", "height": {"band": 0.62}},
        "encoding": {"y": y, "x": field("v", f"{title} ({shown})"), "tooltip": tips},
    }
    band: Spec = {
        "transform": [{"filter": "isValid(datum.a)"}],
        "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.6},
        "encoding": {"y": y, "x": field("a", f"{title} ({shown})"), "x2": {"field": "b"}},
    }
    banded = any(b is not None for b in bands)
    spec: Spec = {
        "width": "container",
        "height": 26 * len(told),
        **data(told),
        "layer": [bar, *([band] if banded else [])],
    }
    heading = title[0].upper() + title[1:]
    note = "A thin line is the band in which 80 % of measurements would lie." if banded else ""
    return Chart(f"compared-{name}", heading, f"{heading} of each plan; the table has the numbers.", spec, note)
