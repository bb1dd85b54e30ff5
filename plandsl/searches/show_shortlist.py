"""Print what a search simulated: the best candidates with their intervals, what rules the others out, what was left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from plandsl.answers.simulation import Figure, Simulation
from plandsl.answers.text.words import plain_table, show_half, show_value
from plandsl.backends.cost.answers.simulation import OWN_REUSE
from plandsl.backends.cost.serving.percentiles import least_for
from plandsl.searches.answer import Configuration
from plandsl.searches.run import Found
from plandsl.searches.shortlist import Shortlist, Simulated
from plandsl.searches.words import WORDS
from plandsl.spec.search import metric_name

EXACT = 0.05
"""Intervals below this many per cent are not printed."""

SHOWN = 8
"""Most candidates that are printed of those that miss something; the JSON has all."""


def simulated_parts(
    found: Found, top: Sequence[Configuration], made: Shortlist, alike: Sequence[tuple[int, ...]]
) -> Iterator[RenderableType]:
    """What was simulated and what was not, the best, and the nearest of the others."""
    yield from _told(made)
    yield from _warnings(found, made)
    yield Text()
    shown = made.good[: len(top)]
    if shown:
        yield _table(found, shown, ", then ".join(g.text for g in found.search.all_goals), good=True, alike=alike)
        yield from _order(made)
        if any(_mark(rank, one, alike) == "~" for rank, one in enumerate(shown, 1)):
            said = (
                "~  within the engine's band of the first row or of the row above: measured, their order may be another"
            )
            yield Text(said, style="dim")
        yield Text()
    elif made.simulated:
        yield Text("no candidate that was simulated meets every requirement", style="bold red")
    missing = [one for one in made.others if one.simulation is not None]
    if missing:
        yield _table(found, missing[:SHOWN], "simulated, and out")
        yield Text()
    for why, count in sorted(Counter(one.why for one in made.refused).items()):
        yield Text(f"not simulated {count:>3,}  {why}", style="dim")


def _told(made: Shortlist) -> Iterator[RenderableType]:
    """What was simulated: how many candidates, and with which requests."""
    some = _some_simulation(made)
    if some is None:
        yield Text("no candidate was simulated")
        return
    tried = len(made.good) + len(made.others)
    near = sum(one.place > made.admitted for one in (*made.good, *made.others))
    of = f"{tried - near:,} of {made.admitted:,} that meet all in closed form"
    of += f" and {near:,} that nearly do" if near else ""
    yield Text(f"simulated: {of}, each with {some.summary.requests:,} requests of seed {some.seed}")
    if made.left:
        yield Text(f"not simulated: {made.left:,} that rank behind these in closed form", style="dim")


def _some_simulation(made: Shortlist) -> Simulation | None:
    return next((one.simulation for one in (*made.good, *made.others) if one.simulation is not None), None)


def _warnings(found: Found, made: Shortlist) -> Iterator[RenderableType]:
    """What the requests of the simulations cannot tell: percentiles of too few, reuse that is left out."""
    some, search = _some_simulation(made), found.search
    if some is None:
        return
    said = [warning for warning in some.summary.warnings if warning == OWN_REUSE]
    asked = [r.percentile for r in search.requires] + [g.percentile for g in search.all_goals]
    top = max((p for p in asked if p is not None), default=0.0)
    least = least_for(top / 100)
    if top and some.summary.served < least:
        said.append(f"{some.summary.served:,} requests are too few for p{top:g}: `--requests {least}`")
    for warning in said:
        yield Text(f"warning: {warning}", style="yellow")


def _mark(rank: int, one: Simulated, alike: Sequence[tuple[int, ...]]) -> str:
    """``=`` where the simulation cannot tell a row from the first, ``~`` where the band of the engine cannot."""
    return "=" if one.same else "~" if {1, rank - 1} & set(alike[rank - 1]) - {rank} else ""


def _table(
    found: Found, rows: Sequence[Simulated], title: str, good: bool = False, alike: Sequence[tuple[int, ...]] = ()
) -> RenderableType:
    """Candidates in order; of the ``good`` ones with their ranks, of others with what they miss."""
    search = found.search
    kinds = {g.name: g.metric for g in search.all_goals}
    kinds |= {metric_name(r.metric, r.percentile): r.metric for r in search.requires}
    columns = [name for name in kinds if any(name in one.figures for one in rows)]
    heads = ("", title, *(WORDS.get(name, name) for name in columns), "closed form", "" if good else "misses")
    table = plain_table("r", "l", *"r" * len(columns), "r", "l", header=heads, labels=2)
    for rank, one in enumerate(rows, 1):
        cells = [_cell(kinds[name], one.figures.get(name)) for name in columns]
        place = f"{one.place}." if one.place <= found.tally.met else "nearly"
        mark = f"{rank}{_mark(rank, one, alike)}" if good else ""
        table.add_row(mark, one.row.label, *cells, place, one.why, style="bold" if mark == "1" else "")
    return table


def _cell(metric: str, figure: Figure | None) -> str:
    """``412 ms +-9 %``: a value and its 95 % interval, where it has one."""
    if figure is None:
        return "-"
    text = show_value(metric, figure.value)
    exact = 100 * figure.half < EXACT * figure.value
    return text if exact else text + show_half(figure)


def _order(made: Shortlist) -> Iterator[RenderableType]:
    """Where the simulation changes the order of the closed form, and which candidates it cannot tell apart."""
    pairs = len(made.good) * (len(made.good) - 1) // 2
    if made.turned:
        first = min(made.good, key=lambda one: one.place)
        now = made.good.index(first) + 1
        said = f"the simulation turns {made.turned:,} of {pairs:,} pairs of the closed form's order round"
        said += f"; its first, {first.row.label}, is now number {now}" if now > 1 else ""
        yield Text(said, style="dim")
    elif pairs:
        yield Text("the simulation keeps the order of the closed form", style="dim")
    if any(one.same for one in made.good):
        said = "=  the difference to the first, over the same requests, has 0 in its 95 % interval"
        yield Text(said, style="dim")
