"""Charts of a page: specifications in Vega-Lite, with what readers of screens hear instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plandsl.backends.report.html import Html, json_block, tag

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""Says which language a specification is in; nothing reads it from the network."""

Spec = dict[str, Any]

SCALED = ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (1e-6, 1e6, "us"), (0.0, 1e9, "ns"))

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
"""The font of the page by name: Vega measures texts, and cannot ask what a page inherits."""

CONFIG: Spec = {
    "background": None,
    "font": FONT,
    "view": {"stroke": "var(--line)"},
    "axis": {
        "labelColor": "var(--muted)", "titleColor": "var(--ink)", "gridColor": "var(--grid)",
        "domainColor": "var(--line)", "tickColor": "var(--line)", "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelOverlap": True, "labelSeparation": 6,
    },
    "axisX": {"tickCount": {"expr": "max(2, width / 90)"}},
    "legend": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelLimit": 260,
        "symbolBaseFillColor": "var(--ink)", "symbolBaseStrokeColor": "var(--ink)",
        "layout": {"top": {"direction": "vertical", "anchor": "start"}},
    },
    "title": {"color": "var(--ink)", "fontSize": 13, "fontWeight": "normal", "anchor": "start"},
    "text": {"color": "var(--ink)", "fontSize": 12},
}  # fmt: skip
"""The look of all charts. Colours are those of the page, so that charts turn dark and print light with it."""


class Packed(NamedTuple):
    """Rows of a chart in a third of the bytes: a column of words holds numbers of entries in ``words``."""

    fields: tuple[str, ...]
    worded: tuple[str, ...]
    words: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float | str]]) -> Packed:
        """Rows that all have the same fields, packed."""
        fields = tuple(rows[0])
        worded = tuple(name for name in fields if isinstance(rows[0][name], str))
        words: dict[str, int] = {}
        packed = [
            tuple(words.setdefault(value, len(words)) if isinstance(value, str) else value for value in row.values())
            for row in rows
        ]
        return cls(fields, worded, tuple(words), tuple(packed))


class Chart(NamedTuple):
    """A chart: ``name`` of its data in the page, ``title`` above it, and ``said``, its content in words.

    ``zoom`` names the signal of its horizontal axis that buttons change, with the ends of the whole axis. A chart of
    ``columns`` has several panels, side by side where there is room. ``note`` stands below it. ``packed`` are its rows
    where they are many.
    """

    name: str
    title: str
    said: str
    spec: Spec
    note: str = ""
    zoom: tuple[str, float, float] | None = None
    columns: int = 0
    packed: Packed | None = None

    def figure(self) -> Html:
        """The place of the chart in the page."""
        buttons = _zoom_buttons(self.title) if self.zoom else Html()
        note = tag("p", self.note, class_="note") if self.note else Html()
        return tag(
            "figure",
            tag("figcaption", self.title),
            buttons,
            tag("div", class_="chart", id=f"chart-{self.name}", data_chart=self.name),
            note,
            class_="wide" if self.zoom or self.columns else None,
        )

    def data(self) -> Spec:
        """What the script of the page reads."""
        spec = {"$schema": SCHEMA, "description": self.said, **self.spec}
        spec |= {} if self.columns else {"autosize": {"type": "fit-x", "contains": "padding"}}
        out: Spec = {"spec": spec, "columns": self.columns}
        if self.packed is not None:
            out["packed"] = self.packed._asdict()
        if self.zoom:
            signal, low, high = self.zoom
            out["zoom"] = {"signal": signal, "low": low, "high": high}
        return out


def _zoom_buttons(title: str) -> Html:
    words = (("in", "+", "zoom in"), ("out", "\u2212", "zoom out"), ("left", "\u2190", "move left"),
             ("right", "\u2192", "move right"), ("all", "all", "show all"))  # fmt: skip
    buttons = [
        tag(
            "button",
            sign,
            type="button",
            data_zoom=word,
            aria_label=f"{said if sign != word else 'show ' + sign}: {title}",
        )
        for word, sign, said in words
    ]
    hint = tag("span", "or drag, and turn the wheel with Ctrl", class_="note")
    return tag("div", *buttons, hint, class_="zoom", role="group", aria_label=f"zoom: {title}")


def charts_block(charts: Sequence[Chart]) -> Html:
    """The data of all charts."""
    return json_block("charts", {"config": CONFIG, "charts": {chart.name: chart.data() for chart in charts}})


def time_unit(longest: float) -> tuple[float, str]:
    """The factor from seconds to the unit in which ``longest`` reads well, and the unit."""
    return next((factor, unit) for least, factor, unit in SCALED if longest >= least)


def field(name: str, title: str | None, kind: str = "quantitative", **more: Any) -> Spec:
    """An encoding of a field."""
    return {"field": name, "type": kind, "title": title, **more}


LOG_AXIS: Spec = {"tickCount": 12, "format": "~g"}
"""An axis of a logarithmic scale: so many ticks are named that fewer decades than one have some, too."""

LEGEND: Spec = {"orient": "top"}
"""A legend above a chart; the script of the page gives it as many columns as there is room for."""


def data(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """The rows of a chart, or of one of its layers."""
    return {"data": {"values": rows}}


def colours(names: Mapping[str, str]) -> Spec:
    """A scale from words to colours, in order."""
    return {"domain": list(names), "range": list(names.values())}


def rounded(value: float) -> float:
    """Six digits, which is more than a chart can show, and half the bytes."""
    return float(f"{value:.6g}")
