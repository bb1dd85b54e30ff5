"""`planc compare` for people: measured beside predicted, the largest gap and its likeliest cause, what was fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.comparison import NAMES, ComparedRun, Comparison, FittedEngine, Measure, Suspect, Verdict
from plandsl.answers.text.words import plain_table, show_request_rate, show_token_rate
from plandsl.diagnostics import Diagnostic
from plandsl.printing import print_lines
from plandsl.spec.hardware import ENGINE_RATES
from plandsl.spec.plan import PlanSpec
from plandsl.tables import Sheet
from plandsl.units import counted, show_percent, show_time

SHOW = {
    **dict.fromkeys(("ttft", "tpot", "itl", "latency"), show_time),
    **dict.fromkeys(("throughput", "total_throughput"), show_token_rate),
    "request_throughput": show_request_rate,
}
"""How values of metrics are shown."""

ACROSS = ("ttft", "tpot", "throughput")
"""Metrics of the table over several runs."""

TELLING = 0.02
"""Suspects that explain less of the gap, and lower the error of all runs by less, are named in one line."""


def print_comparison(plan: PlanSpec, found: Comparison, console: Console) -> None:
    """Print all runs beside the plan, then the verdict."""
    tools = " and ".join(dict.fromkeys(run.tool for run in found.runs))
    title = Text(found.plan, style="bold")
    title.append(f"  {plan.model.name} on {plan.machine}: {counted(len(found.runs), 'run')} of {tools}", style="")
    parts: list[RenderableType] = [title, Text()]
    if len(found.runs) > 1:
        parts += [runs_table(found.runs), Text()]
    for run in found.runs:
        parts += [_heading(run), measures_table(run), Text()]
    if notes := list(_notes(found.runs)):
        parts += [*notes, Text()]
    parts += [*_verdict(found)]
    if found.fitted is not None:
        parts += [Text(), *fitted_lines(found.fitted)]
    print_lines(console, *parts)


def runs_table(runs: Sequence[ComparedRun]) -> Sheet:
    """A line for each run: the load, and the mean (or median) of each metric, measured and over the predicted."""
    words = [word for metric in ACROSS for word in (NAMES[metric], "measured / predicted")]
    header = ("run", "load", "in", "out", *words)
    table = plain_table("l", "l", "r", "r", *("r", "l") * len(ACROSS), header=header)
    table.starts = [4, 6, 8]
    for run in sorted(runs, key=lambda run: (run.clients, run.rate)):
        cells: list[str | Text] = []
        for metric in ACROSS:
            measure = run.find(metric)
            cells += ["-", ""] if measure is None else [SHOW[metric](measure.measured), _ratio(measure)]
        table.add_row(run.name, run.load, f"{run.input:,.0f}", f"{run.output:,.0f}", *cells)
    return table


def measures_table(run: ComparedRun) -> Sheet:
    """A line for each statistic: measured, predicted with its band, and the ratio."""
    table = plain_table("l", "r", "r", "l", "l", header=("", "measured", "predicted", "band", "measured / predicted"))
    for m in run.measures:
        show = SHOW[m.metric]
        band = "none" if m.low is None or m.high is None else f"{show(m.low)} to {show(m.high)}"
        table.add_row(m.name, show(m.measured), show(m.predicted), band, _ratio(m))
    return table


def _ratio(m: Measure) -> Text:
    """``1.36 outside``."""
    where = {True: "inside", False: "outside", None: "no band"}[m.inside]
    return Text(f"{m.ratio:.2f} {where}", style="bold red" if m.inside is False else "")


def _heading(run: ComparedRun) -> Text:
    label = f" ({run.label})" if run.label else ""
    tokens = f"{run.input:,.0f} tokens in, {run.output:,.0f} out"
    text = Text(f"{run.name}{label}", style="bold")
    return text.append(f"  {run.load}, {counted(run.requests, 'request')}, {tokens}", style="not bold")


def _notes(runs: Sequence[ComparedRun]) -> Iterator[Text]:
    """The notes of all runs, each once, with the runs that it is about."""
    about: dict[Diagnostic, list[str]] = {}
    for run in runs:
        for note in run.notes:
            about.setdefault(note, []).append(run.name)
    for note, names in about.items():
        who = "" if len(runs) == 1 else "all runs: " if len(names) == len(runs) else f"{', '.join(names)}: "
        hint = f" ({note.hint})" if note.hint else ""
        yield Text(f"{note.code}  {who}{note.message}{hint}", style="dim")


def _verdict(found: Comparison) -> Iterator[RenderableType]:
    verdict = found.verdict
    if verdict is None:
        yield Text(f"no cause is named: {found.why_not}")
        return
    gap, run = verdict.gap, found.runs[verdict.run]
    show = SHOW[gap.metric]
    where = {True: "inside the band", False: "outside the band", None: "no band"}[gap.inside]
    text = Text("largest gap: ", style="bold")
    yield text.append(
        f"{gap.name} of {run.name}: {show(gap.measured)} measured, {show(gap.predicted)} predicted, "
        f"{gap.ratio:.3g} times as much, {where}",
        style="not bold",
    )
    text = Text("likeliest cause: ", style="bold")
    yield text.append(_cause(verdict), style="not bold")
    yield from (Text(f"  {line}") for line in verdict.why)
    telling = [s for s in verdict.suspects if s.explained >= TELLING or s.error < (1 - TELLING) * verdict.error]
    if telling:
        yield Text()
        yield suspects_table(telling, gap)
    if rest := [s.title for s in verdict.suspects if s not in telling]:
        yield Text(f"no part in it: {', '.join(rest)}", style="dim")
    for i, line in enumerate(verdict.measure):
        if not i:
            yield Text()
        yield Text("to tell: " if not i else "or: ", style="bold").append(line, style="not bold")


def _cause(verdict: Verdict) -> str:
    likely = verdict.suspects[: verdict.likely]
    if not likely:
        return "none of those that were tried"
    if len(likely) == 1:
        return f"{likely[0].title}, {likely[0].change}"
    return " or ".join(s.title for s in likely)


def suspects_table(suspects: Sequence[Suspect], gap: Measure) -> Sheet:
    """A line for each suspect: its share of the metric, the change, and what this explains."""
    header = ("suspect", f"share of {NAMES[gap.metric]}", "would have to take", "explains", "error of all runs then")
    table = plain_table("l", "r", "l", "r", "r", header=header)
    for s in suspects:
        share = show_percent(max(s.share, 0.0)) if isfinite(s.share) else "-"
        table.add_row(s.title, share, s.change, show_percent(min(s.explained, 1.0)), show_percent(s.error))
    return table


def fitted_lines(found: FittedEngine) -> Iterator[RenderableType]:
    """What was fitted, and what it explains."""
    yield Text(f"fitted engine `{found.engine}`", style="bold")
    if found.constants:
        table = plain_table("l", "r", "r", "l", header=("constant", "before", "after", "80 % interval"))
        for c in found.constants:
            before, after = (_constant(c.name, value) for value in (c.before, c.after))
            table.add_row(c.name, before, after, f"x {1 / c.interval:.2f} to {c.interval:.2f}")
        yield table
    table = plain_table("l", "r", "r", "r", header=("mean error", "before", "after", "run left out"))
    fitted, left_out = dict(found.after), dict(found.left_out or ())
    for metric, error in found.before:
        unseen = show_percent(left_out[metric]) if metric in left_out else "-"
        table.add_row(NAMES[metric], show_percent(error), show_percent(fitted[metric]), unseen)
    yield table
    yield from (Text(line, style="dim") for line in found.skipped)


def _constant(name: str, value: float) -> str:
    return show_percent(value) if name in ENGINE_RATES else show_time(value)
