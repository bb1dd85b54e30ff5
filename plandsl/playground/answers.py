"""The answers of the playground: each is a function of a text, in JSON, and reads no file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from plandsl import limits
from plandsl.answers.estimate import Estimate
from plandsl.answers.text.estimate import load_words, more_parts, table_parts
from plandsl.answers.text.words import title_of
from plandsl.backends.graphviz.write import render
from plandsl.codes import CODES
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import NO_PLAN, CompiledPlan
from plandsl.editing.actions import Action, actions
from plandsl.editing.complete import complete as completions
from plandsl.editing.hover import hover as hovered
from plandsl.editing.reading import Reading
from plandsl.grammar.fmt import format_text
from plandsl.grammar.parse import decode
from plandsl.playground.asked import FILE, Asked, Malformed, read
from plandsl.playground.blocks import blocks
from plandsl.playground.overview import overview, row_of
from plandsl.progress import silent
from plandsl.units import counted

SHARE = 0.5
"""Of the time that a request has, what passes before no further plan is estimated."""

MOST_OFFERED = 200
"""Most completions of an answer."""


MOST_FIXES = 3
"""Most fixes that are offered for one diagnostic."""

LONGEST_FIXED = 32_768
"""Most characters of a text for which fixes are looked for: each fix that is tried reads the text again."""

READS_FILES = ("use", "hf", "gguf", "trace", "trace_rate", "empirical", "measured")
"""Words that name files, which a playground does not offer."""


def answer(kind: str, body: bytes, seconds: float) -> tuple[int, bytes]:
    """The answer to a question of a ``kind`` in `KINDS`: a status, and JSON. ``seconds`` are left for it."""
    try:
        asked = read(body)
    except Malformed as error:
        return 400, _encode({"diagnostics": [error.diagnostic.as_json()]})
    try:
        return 200, _encode(_ANSWERS[kind](asked, time.monotonic() + seconds * SHARE))
    except PlanError as error:
        return 200, _encode({"diagnostics": [*_shown(error.diagnostics)]})


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).encode("utf-8", "replace")


# ---- questions


def estimate(asked: Asked, until: float) -> dict[str, Any]:
    """Every mistake of a text; without one, the report of one of its plans, in closed form where requests arrive.

    `compare` tells the other plans, so that the one that is shown does not wait for them.
    """
    reading = _read(asked)
    found = _look(reading)
    out: dict[str, Any] = {"names": reading.plans, "searches": reading.module.searches}
    if reading.plans and not _wrong(found):
        plan = reading.plan(name := _name(asked, reading))
        found += reading.findings(("plan", name), compiled=True)
        if plan is not None:
            out["report"] = _first_report(plan)
    return out | {"diagnostics": [*_shown(found)]}


def fixes(asked: Asked, until: float) -> dict[str, Any]:
    """The diagnostics of a text again, with the edits that their hints stand for, where these work."""
    reading = _read(asked)
    found = _look(reading)
    if reading.plans and not _wrong(found):
        found += reading.findings(("plan", _name(asked, reading)), compiled=True)
    offered: dict[Diagnostic, list[Action]] = {}
    for one in dict.fromkeys(found):
        if len(reading.text) > LONGEST_FIXED or time.monotonic() > until:
            break
        if one.severity != "note":
            offered[one] = actions(reading, [one])[:MOST_FIXES]
    return {"fixable": any(offered.values()), "diagnostics": [*_shown(found, offered)]}


def compare(asked: Asked, until: float) -> dict[str, Any]:
    """The estimates of all plans of a text side by side, in closed form, and everything that is said of them."""
    reading = _read(asked)
    found, estimates = _look(reading), dict[str, Estimate]()
    if reading.plans and not _wrong(found):
        chosen = _name(asked, reading)
        waiting = [chosen, *(name for name in reading.plans if name != chosen)]
        while waiting and not (estimates and time.monotonic() > until):
            plan = reading.plan(name := waiting.pop(0))
            found += reading.findings(("plan", name), compiled=True)
            if plan is not None:
                estimates[name] = _closed_form(plan)
        found += [_late(reading, len(waiting))] if waiting else []
    ordered = [estimates[name] for name in reading.plans if name in estimates]
    return {"plans": [row_of(e, ordered) for e in ordered], "diagnostics": [*_shown(found)]}


def simulate(asked: Asked, until: float) -> dict[str, Any]:
    """The report of one plan whose requests arrive over time, with the short simulation that `planc compile` runs."""
    plan = _chosen(asked)
    return {"report": _report(plan, plan.estimate()), "diagnostics": []}


def search(asked: Asked, until: float) -> dict[str, Any]:
    """The answer of each search of a text, as `planc search` prints it. Raises `PlanError` where it cannot be read."""
    from plandsl.searches.ask import Asked as Wanted
    from plandsl.searches.ask import keep_most, read_searches, tell
    from plandsl.searches.run import Run
    from plandsl.searches.show import answer_parts, title_of_search
    from plandsl.searches.spread import Workers

    reading, wanted, here = _read(asked), Wanted(), Workers(None)
    if _wrong(reading.unit.found):
        raise PlanError(reading.unit.found, reading.module.sources)
    out: dict[str, list[dict[str, Any]]] = {}
    for one in read_searches(reading.module.again(), None):
        start = time.monotonic()
        found = here.search(Run(one, keep_most(one, wanted), None), silent)
        told = tell(found, wanted, here, silent)
        out[one.name] = [*blocks([title_of_search(found, time.monotonic() - start), *answer_parts(found, told)])]
    return {"searches": out, "diagnostics": []}


def picture(asked: Asked, until: float) -> dict[str, Any]:
    """A picture of one plan as SVG."""
    drawn = _chosen(asked).draw(asked.view, asked.phase)
    svg = render(drawn, "svg", max(0.1, until - time.monotonic()) / SHARE).decode()
    return {"svg": svg[max(svg.find("<svg"), 0) :], "diagnostics": []}


def format_plan(asked: Asked, until: float) -> dict[str, Any]:
    """The text in canonical form, as `planc fmt` writes it."""
    return {"text": format_text(_decoded(asked), FILE), "diagnostics": []}


def complete(asked: Asked, until: float) -> dict[str, Any]:
    """What may stand before the cursor."""
    found = completions(_read(asked), asked.line, asked.column)
    offered = [
        {"label": one.label, "type": one.kind, "detail": one.detail, "info": one.about, "apply": one.insert}
        for one in [one for one in found.items if one.label not in READS_FILES][:MOST_OFFERED]
    ]
    return {"column": found.column, "options": offered, "diagnostics": []}


def hover(asked: Asked, until: float) -> dict[str, Any]:
    """What the word at the cursor means, as Markdown."""
    found = hovered(_read(asked), asked.line, asked.column)
    said = None if found is None else {"text": found.text, **found.span._asdict()}
    return {"hover": said, "diagnostics": []}


_ANSWERS: dict[str, Callable[[Asked, float], dict[str, Any]]] = {
    "estimate": estimate,
    "fixes": fixes,
    "compare": compare,
    "simulate": simulate,
    "search": search,
    "picture": picture,
    "format": format_plan,
    "complete": complete,
    "hover": hover,
}

KINDS = tuple(_ANSWERS)
"""The questions."""


# ---- texts

_last: Reading | None = None
"""The text that this process read last: what has not changed since is not compiled again."""

_estimates: WeakKeyDictionary[CompiledPlan, Estimate] = WeakKeyDictionary()
"""The estimates in closed form of compiled plans."""

_reports: WeakKeyDictionary[CompiledPlan, dict[str, Any]] = WeakKeyDictionary()
"""The reports of compiled plans."""


def _read(asked: Asked) -> Reading:
    """The text, read without any file. Raises `PlanError` where it is too long, or no Unicode."""
    global _last
    text = _decoded(asked)
    if _last is None or _last.text != text:
        _last = Reading(text, FILE, before=_last, reads_files=False)
    return _last


def _decoded(asked: Asked) -> str:
    """The text, as it would be read from a file. Raises `PlanError` where it is too long, or no Unicode."""
    text, found = decode(asked.text.encode("utf-8", "surrogatepass"), FILE)
    if found:
        raise PlanError(found, {FILE: text})
    return text


def _look(reading: Reading) -> list[Diagnostic]:
    """What is wrong with a text, and the warnings of its declarations; no plan is compiled yet."""
    found, many = reading.look(), len(reading.plans)
    if many > limits.MAX_PLANS:
        why = f"the text has {many} plans, and at most {limits.MAX_PLANS} are compiled at once"
        return [*found, Diagnostic("E408", why, reading.module.end, hint="keep fewer plans in the text")]
    return found if many or reading.module.searches or _wrong(found) else [*found, _no_plan(reading)]


def _wrong(found: Sequence[Diagnostic]) -> bool:
    return any(d.severity == "error" for d in found)


def _name(asked: Asked, reading: Reading) -> str:
    """The name of the plan that is asked for, or of the first."""
    return asked.plan if asked.plan in reading.plans else reading.plans[0]


def _chosen(asked: Asked) -> CompiledPlan:
    """The plan that is asked for, or the first. Raises `PlanError` for all that is wrong with it."""
    reading = _read(asked)
    found = _look(reading)
    if not reading.plans and not _wrong(found):
        found.append(_no_plan(reading))
    if _wrong(found):
        raise PlanError(found)
    plan = reading.plan(name := _name(asked, reading))
    if plan is None:
        raise PlanError(reading.findings(("plan", name), compiled=True))
    return plan


# ---- parts of answers


def _closed_form(plan: CompiledPlan) -> Estimate:
    if plan not in _estimates:
        _estimates[plan] = plan.closed_form()
    return _estimates[plan]


def _first_report(plan: CompiledPlan) -> dict[str, Any]:
    """The report that takes little time: in closed form where requests arrive over time."""
    if plan not in _reports:
        simulates = plan.spec.workload.over_time
        found = _closed_form(plan) if simulates else plan.estimate()
        _reports[plan] = _report(plan, found) | {"simulates": simulates}
    return _reports[plan]


def _no_plan(reading: Reading) -> Diagnostic:
    return Diagnostic("E401", "there is no plan to compile", reading.module.end, hint=NO_PLAN)


def _late(reading: Reading, late: int) -> Diagnostic:
    why = f"{counted(late, 'plan')} of {len(reading.plans)} not estimated: the time of a request was over"
    hint = "keep the text in a file, and run `planc compile` on it"
    return Diagnostic("N555", why, reading.module.end, hint=hint)


def _report(plan: CompiledPlan, found: Estimate) -> dict[str, Any]:
    return {
        "plan": plan.name,
        "title": title_of(plan.spec, found).plain.removeprefix(plan.name).strip(),
        "load": load_words(plan.spec, found),
        "overview": overview(found),
        "blocks": [*blocks([*more_parts(found), *table_parts(plan.spec, found)])],
        "phases": list(found.timed),
    }


def _shown(
    found: Sequence[Diagnostic], offered: Mapping[Diagnostic, Sequence[Action]] = MappingProxyType({})
) -> Iterator[dict[str, Any]]:
    """Diagnostics for the page, each once, in the order of the text; those without a place come last."""
    for d in sorted(dict.fromkeys(found), key=lambda d: (d.span is None, d.span or ())):
        own = d.span is not None and d.span.file == FILE
        made = [
            {"title": one.title, "edits": [{**edit.span._asdict(), "text": edit.text} for edit in one.edits]}
            for one in offered.get(d, ())
        ]
        yield d.as_json() | {"here": own, "label": d.label, "title": CODES[d.code].title, "fixes": made}
