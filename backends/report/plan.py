"""The section of a plan: summary, devices, memory, timeline, ops, roofline, communication, and its load over time."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator

from plandsl.answers.estimate import Estimate
from plandsl.answers.text.communication import communication_table
from plandsl.answers.text.estimate import (
    ASSUMED_WORDS,
    calibration_words,
    compared_values,
    notes_table,
    overview_parts,
    start_parts,
    trust_lines,
)
from plandsl.answers.text.resources import memory_table, time_table
from plandsl.answers.text.simulation import simulation_parts
from plandsl.answers.text.words import requirement_table, show_token_rate, title_of
from plandsl.backends.report.charts import Chart
from plandsl.backends.report.html import Html, join, parts_html, scrolling, tag
from plandsl.backends.report.matrix import matrix_charts
from plandsl.backends.report.memory import memory_chart
from plandsl.backends.report.ops import ops_table
from plandsl.backends.report.roofline import roofline_chart
from plandsl.backends.report.served import percentile_chart, queue_chart
from plandsl.backends.report.timeline import timeline_charts
from plandsl.backends.report.values import PlanShown
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.units import show_bytes, show_percent, show_time


def plan_section(shown: PlanShown, name: str, plans: int) -> tuple[Html, list[Chart]]:
    """The section of a plan, and its charts; ``name`` is its anchor, and the page has so many ``plans``."""
    plan, e = shown.spec, shown.estimate
    charts: list[Chart] = []

    def draw(*found: Chart | None) -> list[Html]:
        drawn = [chart for chart in found if chart is not None]
        charts.extend(drawn)
        return [chart.figure() for chart in drawn]

    label = f"{e.plan}: "
    parts = [
        tag("h2", e.plan),
        tag("p", title_of(plan, e).plain.removeprefix(e.plan).strip(), class_="lead"),
        _cards(e),
        parts_html(overview_parts(plan, e), label + "summary"),
        *_trust(shown),
        _part(name, "Devices", _picture(shown)),
        _part(name, "Memory", *draw(memory_chart(f"{name}-memory", e)),
              parts_html([memory_table(e), *start_parts(e)], label + "memory")),
        _part(name, "Time", *_timelines(shown, name, plans, draw),
              tag("details", tag("summary", "Sums of each phase"), parts_html([time_table(e)], label + "time"))),
        _part(name, "Ops", tag("p", "A click on a heading sorts.", class_="note noprint"), *ops_table(e),
              *draw(roofline_chart(f"{name}-roofline", plan, e))),
        _part(name, "Communication", *_communication(shown, draw(*matrix_charts(f"{name}-flows", shown.flows)), label)),
    ]  # fmt: skip
    if shown.run is not None:
        parts.append(_part(name, "Load over time", *_served(shown, name, charts, label)))
    return tag("section", join(parts), id=name, class_="plan"), charts


def _part(name: str, title: str, *content: object) -> Html:
    anchor = f"{name}-{title.lower().replace(' ', '-')}"
    return tag("section", tag("h3", title), *content, id=anchor)


def _cards(e: Estimate) -> Html:
    """The numbers that everybody asks for first."""
    ttft, tpot, rate = compared_values(e)
    missed = sum(not r.ok for r in e.requires)
    cards = [("latency" if e.encodes else "TTFT", show_time(ttft), "")]
    cards += [] if tpot is None else [("TPOT", show_time(tpot), "")]
    cards += [
        ("throughput", show_token_rate(rate), ""),
        ("per GPU", show_token_rate(rate / e.gpus), ""),
        ("memory", show_percent(e.memory.total / e.memory.capacity), "" if e.fits else "bad"),
        ("fits", "yes" if e.fits else "no", "good" if e.fits else "bad"),
    ]
    if e.requires:
        told = f"{missed} of {len(e.requires)} failed" if missed else "all met" if len(e.requires) > 1 else "met"
        cards.append(("requirements", told, "bad" if missed else "good"))
    shown = [tag("div", tag("dt", word), tag("dd", value, class_=look or None)) for word, value, look in cards]
    return tag("dl", *shown, class_="cards")


def _trust(shown: PlanShown) -> Iterator[Html]:
    """Notes, what is assumed, and the conventions: how far to trust the numbers."""
    plan, e = shown.spec, shown.estimate
    if e.notes:
        yield tag("details", tag("summary", f"Notes ({len(e.notes)})"), parts_html([notes_table(e)], "notes"), open="")
    if e.assumed:
        rows = [
            tag("tr", tag("th", entry, scope="row"), tag("td", ASSUMED_WORDS.get(path, path)), tag("td", value))
            for entry, path, value in e.assumed
        ]
        head = tag("thead", tag("tr", *(tag("th", word, scope="col") for word in ("entry", "field", "value"))))
        table = scrolling("what is assumed", tag("table", head, tag("tbody", *rows), class_="sheet"))
        yield tag("details", tag("summary", f"Assumed, with no source ({len(e.assumed)})"), table)
    lines = [*trust_lines(plan, e), calibration_words(e)]
    yield tag("details", tag("summary", "Conventions, and where constants come from"), parts_html(lines, "conventions"))


def _picture(shown: PlanShown) -> Html:
    """The map of the devices as a picture of its own, in which nothing of a plan can become part of the page."""
    if isinstance(shown.devices, Diagnostic):
        return tag("p", f"The map of the devices is not drawn: {shown.devices.message}.", class_="note")
    e = shown.estimate
    said = f"Map of the devices of {e.plan}: {title_of(shown.spec, e).plain}. "
    said += f"The fullest GPU holds {show_bytes(e.memory.total)} of {show_bytes(e.memory.capacity)}."
    data = b64encode(shown.devices.encode()).decode()
    picture = tag("img", src=f"data:image/svg+xml;base64,{data}", alt=said)
    return scrolling(f"map of the devices of {e.plan}", tag("div", picture, class_="paper"))


def _timelines(shown: PlanShown, name: str, plans: int, draw: Callable[..., list[Html]]) -> list[Html]:
    try:
        return draw(*timeline_charts(f"{name}-timeline", shown.model, shown.estimate, plans))
    except PlanError as error:
        return [tag("p", f"No timeline is drawn: {error.diagnostics[0].message}.", class_="note")]


def _communication(shown: PlanShown, figures: list[Html], label: str) -> Iterator[Html]:
    e = shown.estimate
    if not e.communication.rows:
        yield tag("p", "Nothing is sent between GPUs.", class_="note")
        return
    yield parts_html([communication_table(e.communication, len(e.stages))], label + "communication")
    yield tag("div", *figures, class_="grid")


def _served(shown: PlanShown, name: str, charts: list[Chart], label: str) -> Iterator[Html]:
    if isinstance(shown.run, Diagnostic):
        yield tag("p", f"Not simulated: {shown.run.message}.", class_="note")
        return
    assert shown.run is not None
    drawn = [percentile_chart(f"{name}-times", shown.spec, shown.run), queue_chart(f"{name}-queue", shown.run)]
    there = [chart for chart in drawn if chart is not None]
    charts.extend(there)
    if shown.left_out:
        yield tag("p", shown.left_out, class_="note")
    found = shown.run.simulation
    yield parts_html([requirement_table(found.requires)] if found.requires else [], label + "requirements")
    yield parts_html(simulation_parts(found), label + "load over time")
    yield from (chart.figure() for chart in there)
