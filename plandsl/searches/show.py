"""Print the answer of a search: the best plans, the front, and why the others are out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.text import Text

from plandsl.answers.text.words import plain_table, show_value
from plandsl.printing import print_lines
from plandsl.searches.account import account_for
from plandsl.searches.answer import Configuration, Miss, Remedy
from plandsl.searches.run import Found
from plandsl.searches.values import MOST
from plandsl.searches.words import WORDS
from plandsl.tables import Sheet
from plandsl.units import show_percent, show_time

if TYPE_CHECKING:
    from plandsl.searches.shortlist import Shortlist

SHOWN = 12
"""Most rows of the front that are printed; the JSON has all of them."""


class Answer(NamedTuple):
    """What comes of a search: the best and the front, or what the nearest misses and what would help.

    ``alike`` has for each of ``top`` the ranks that it may trade places with, ``origins`` where its constants come
    from, and ``bands`` the bands of its metrics; ``without`` are the ranks without a band. ``shortlist`` is what was
    simulated, None where the closed form is the answer.
    """

    top: list[Configuration]
    front: list[Configuration]
    alike: Sequence[tuple[int, ...]]
    bands: Sequence[dict[str, Any]]
    without: Sequence[int] = ()
    missing: Sequence[Miss] = ()
    remedies: Sequence[Remedy] = ()
    shortlist: Shortlist | None = None
    origins: Sequence[str] = ()


def print_found(found: Found, answer: Answer, seconds: float, console: Console) -> None:
    """Print the whole answer."""
    print_lines(console, title_of_search(found, seconds), Text(), *answer_parts(found, answer))


def answer_parts(found: Found, answer: Answer) -> list[RenderableType]:
    """The best and the front, or what the nearest misses; then where each configuration ended."""
    parts: list[RenderableType] = []
    printed = 0
    if answer.shortlist is not None and answer.shortlist.simulated + len(answer.shortlist.refused):
        from plandsl.searches.show_shortlist import simulated_parts

        parts += simulated_parts(found, answer.top, answer.shortlist, answer.alike)
        parts += origin_lines(answer.origins)
    elif answer.top:
        shown = evenly_spaced(answer.front, SHOWN)
        printed = len(shown)
        parts += [_ranking(found, answer), Text(), _front(found, shown, len(answer.front)), Text()]
    elif found.tally.seen:
        parts += [_nearest_miss(found, answer.missing, answer.remedies), Text()]
    return parts + _reasons(found, printed)


def title_of_search(found: Found, seconds: float) -> Text:
    """The first line of an answer: the search, what it looked at, and how long it took."""
    t = found.tally
    out = Text(found.search.name, style="bold")
    plans = f"{found.plans:,} plan{'s' if found.plans != 1 else ''}"
    closed = " in closed form" if found.search.over_requests else ""
    out.append(
        f"  {t.seen:,} configurations of {plans}, {t.met:,} meet all{closed}; {show_time(seconds)}", style="not bold"
    )
    if found.stopped:
        out.append("  INTERRUPTED: the best of what was seen", style="bold red")
    return out


def _columns(found: Found) -> list[str]:
    goals = [g.metric for g in found.search.all_goals]
    required = [r.metric for r in found.search.requires]
    return list(dict.fromkeys((*goals, "ttft", "tpot", "throughput", "throughput_per_gpu", *required)))


def _rows(
    table: Sheet,
    found: Found,
    rows: Sequence[Configuration],
    alike: Sequence[tuple[int, ...]] = (),
    *,
    best: bool = False,
) -> None:
    columns = [name for name in _columns(found) if not all(math.isnan(row.metrics[name]) for row in rows)]
    for name in columns:
        table.add_column(WORDS.get(name, name), justify="right", no_wrap=True)
    for rank, row in enumerate(rows, 1):
        cells = [show_value(name, row.metrics[name]) for name in columns]
        table.add_row(f"{rank}{mark_of(rank, alike)}", row.label, *cells, style="bold" if best and rank == 1 else "")


def _table(title: str) -> Sheet:
    return plain_table("r", "l", header=("", title), labels=2)


def _ranking(found: Found, answer: Answer) -> RenderableType:
    goals = ", then ".join(g.text for g in found.search.all_goals)
    table = _table(goals)
    _rows(table, found, answer.top, answer.alike, best=True)
    metric = WORDS.get(found.search.all_goals[0].metric, found.search.all_goals[0].metric)
    lines = [*_cut_line(found, answer), *mark_lines(found, answer.alike)]
    without = answer.without
    if without:
        told = "all" if len(without) == len(answer.top) else ", ".join(map(str, without))
        lines.append(Text(f"no band, {metric}: {told}", style="dim"))
    return Group(table, *lines, *origin_lines(answer.origins))


def _cut_line(found: Found, answer: Answer) -> Iterator[Text]:
    """How many meet everything and are not in the ranking."""
    met = found.tally.met
    if rest := met - len(answer.top):
        yield Text(f"{rest:,} more meet all: --top {met} ranks them too", style="dim")


def mark_of(rank: int, alike: Sequence[tuple[int, ...]]) -> str:
    """``=`` beside a row that may trade places with the first, ``~`` beside one that may with the row above it."""
    ranks = alike[rank - 1] if alike else ()
    return "=" if rank > 1 and 1 in ranks else "~" if rank - 1 in ranks else ""


def mark_lines(found: Found, alike: Sequence[tuple[int, ...]]) -> Iterator[Text]:
    """What the marks beside the rows say."""
    goal = found.search.all_goals[0].metric
    marks = {mark_of(rank, alike) for rank in range(1, len(alike) + 1)}
    for mark, which in (("=", "the first row"), ("~", "the row above")):
        if mark in marks:
            said = f"{mark}  this row and {which} lie within each other's band, {WORDS.get(goal, goal)}"
            yield Text(f"{said}: their order may be wrong", style="dim")


def origin_lines(origins: Sequence[str]) -> Iterator[Text]:
    """Where the constants behind the rows come from: a line for the rows that say the same."""
    ranks: dict[str, list[int]] = {}
    for rank, origin in enumerate(origins, 1):
        ranks.setdefault(origin, []).append(rank)
    for origin, rows in ranks.items():
        if origin:
            which = "" if len(rows) == len(origins) else f" of {', '.join(map(str, rows))}"
            yield Text(f"constants{which}: {origin}", style="dim")


def _front(found: Found, shown: Sequence[Configuration], of: int) -> RenderableType:
    many = f"{len(shown):,} of {of:,}" if len(shown) < of else f"{of:,}"
    table = _table(f"Pareto front, {many} configuration{'s' if of > 1 else ''}")
    _rows(table, found, shown)
    return table


def evenly_spaced(rows: Sequence[Configuration], most: int) -> list[Configuration]:
    """At most ``most`` of the rows, evenly spaced from the shortest TPOT to the longest."""
    ordered = sorted(rows, key=lambda row: (row.metrics["tpot"], row.number))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def _nearest_miss(found: Found, missing: Sequence[Miss], remedies: Sequence[Remedy]) -> RenderableType:
    """What the nearest configuration misses, by which factors, and what would make it meet everything."""
    closed = " in closed form, so nothing is simulated" if found.search.over_requests else ""
    lines = [Text(f"nothing meets every requirement{closed}", style="bold red")]
    for miss in missing:
        show = show_percent if "%" in miss.text else partial(show_value, miss.metric)
        value, bound = show(miss.value), show(miss.bound)
        lines.append(Text(f"  {miss.text}: the nearest has {value}, {miss.factor:.3g} times off {bound}"))
        if miss.best is None:
            continue
        best = show(miss.best)
        alone = "some configuration meets it" if miss.alone else "no configuration meets it"
        lines.append(
            Text(f"    {alone}: the {'most' if miss.metric in MOST else 'least'} that fits is {best}", style="dim")
        )
    if remedies:
        ways = ", or ".join(f"{r.factor:.3g} times the {r.what}" for r in remedies)
        lines.append(Text(f"  the nearest would meet all with {ways}"))
    return Group(*lines)


def _reasons(found: Found, printed: int) -> list[RenderableType]:
    """Where each configuration ended, ``printed`` of them on the front; then the plans that were not evaluated."""
    table = plain_table("l", "r", "l", labels=2)
    for what, count, why in account_for(found, printed).lines():
        table.add_row(what, f"{count:,}", why, style="dim")
    for code, (finding, count) in sorted(found.refused.items()):
        table.add_row("invalid", f"{count:,}", f"{code}: for example, {finding.message}", style="dim")
    return [table]


def found_json(found: Found, answer: Answer, seconds: float) -> dict[str, Any]:
    """One entry of ``searches`` in the JSON."""
    search, t, account = found.search, found.tally, account_for(found, len(answer.front))
    body = {
        "search": search.name,
        "goals": [g.text for g in search.all_goals],
        "requires": [r.text for r in search.requires],
        "varies": {c.name: len(c.settings) for c in search.choices},
        "plans": found.plans,
        "structures": found.structures,
        "configurations": t.seen,
        "meet_all": t.met,
        "seconds": seconds,
        "interrupted": found.stopped,
        "top": [
            row.as_json() | band | {"within_band": list(alike), "origin": origin}
            for row, band, alike, origin in zip(answer.top, answer.bands, answer.alike, answer.origins, strict=True)
        ],
        "within_band_of_first": list(answer.alike[0]) if answer.alike else [],
        "without_band": list(answer.without),
        "front": [row.as_json() for row in answer.front],
        "beaten": account.beaten,
        "unrated": account.unrated,
        "out": dict(t.missed),
        "refused": [
            {"code": code, "message": finding.message, "configurations": count}
            for code, (finding, count) in sorted(found.refused.items())
        ],
        "nearest": _nearest(answer.missing, answer.remedies),
    }
    return body if answer.shortlist is None else body | {"simulated": answer.shortlist.as_json()}


def _nearest(missing: Sequence[Miss], remedies: Sequence[Remedy]) -> dict[str, Any] | None:
    if not missing:
        return None
    return {
        "missing": [_miss_json(m) for m in missing],
        "would_take": [r._asdict() for r in remedies],
    }


def _miss_json(miss: Miss) -> dict[str, Any]:
    body = miss._asdict() | {"alone": miss.alone}
    return {
        name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in body.items()
    }
