"""From two cost models to a `Difference`: the terms of ``planc explain``, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from plandsl.answers.difference import Difference, Part, Split
from plandsl.answers.estimate import BANDED, within_band
from plandsl.answers.explanation import Breakdown, Term
from plandsl.backends.cost.answers.estimate import estimate
from plandsl.backends.cost.answers.terms import memory_terms, terms
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.fields import changes
from plandsl.values import sum_up

SAME = 0.02
"""Amounts of work with a smaller relative difference count as equal."""

WORK: dict[str, tuple[str, Callable[[Term], float]]] = {
    "compute": ("FLOPs", lambda t: t.flops),
    "memory": ("bytes", lambda t: t.bytes),
    "link": ("bytes", lambda t: t.bytes),
    "network": ("bytes", lambda t: t.bytes),
    "message": ("messages", lambda t: t.runs),
    "launch": ("launches", lambda t: t.runs),
    "unit": ("bytes", lambda t: t.bytes),
}
"""The amount of work of a term, by its bound."""

Key = Callable[[Term], tuple[str, str, str, str]]


def difference(a: Deployment, b: Deployment) -> Difference:
    """The difference of ``b`` to ``a``, term by term."""
    ours, theirs = estimate(a), estimate(b)
    before, after = (terms(model.on(model.plan), model.own) for model in (a, b))  # from here on, models share work

    def overlap(name: str) -> bool | None:
        return None if ours.band(name) is None or theirs.band(name) is None else within_band(ours, theirs, name)

    ttft, tpot, _, throughput = (overlap(name) for name in BANDED)
    return Difference(
        ours,
        theirs,
        changes=changes(a.plan, b.plan),
        ttft=_split("ttft", before.ttft, after.ttft, alike=ttft),
        tpot=_split("tpot", before.tpot, after.tpot, alike=tpot),
        throughput=_as_rates(_split("throughput", before.per_token, after.per_token, alike=throughput)),
        memory=_split("memory", memory_terms(ours.memory), memory_terms(theirs.memory)),
    )


def _split(metric: str, a: Breakdown, b: Breakdown, alike: bool | None = None) -> Split:
    parts = _parts(a.terms, b.terms, lambda t: t.key)
    groups = _parts(a.terms, b.terms, lambda t: ("", t.group, "", ""))
    return Split(metric, a.total, after=b.total, parts=parts, groups=groups, alike=alike)


def _as_rates(seconds: Split) -> Split:
    """Throughput from seconds per token: ``1 / b - 1 / a = -(b - a) / (a b)``, which keeps the proportions of terms."""
    scale = -1 / (seconds.before * seconds.after)

    def rated(parts: Iterable[Part]) -> tuple[Part, ...]:
        return tuple(part._replace(change=part.change * scale) for part in parts)

    parts, groups = rated(seconds.parts), rated(seconds.groups)
    return Split(
        seconds.metric, 1 / seconds.before, after=1 / seconds.after, parts=parts, groups=groups, alike=seconds.alike
    )


def _parts(a: Iterable[Term], b: Iterable[Term], key: Key) -> tuple[Part, ...]:
    """Terms of one key side by side, the largest change first."""
    both: dict[tuple[str, str, str, str], tuple[list[Term], list[Term]]] = {}
    for side, found in enumerate((a, b)):
        for term in found:
            both.setdefault(key(term), ([], []))[side].append(term)
    parts = []
    for name, (ours, theirs) in both.items():
        before, after = (sum_up(t.value for t in side) for side in (ours, theirs))
        parts.append(Part(*name, before, after, after - before, _why(ours, theirs)))
    return tuple(sorted(parts, key=lambda part: -abs(part.change)))


def _why(a: list[Term], b: list[Term]) -> str:
    """The ratio of work, in the unit of the longer side's bound: ``0.5x the bytes``."""
    if not a or not b:
        return "only before" if a else "only after"
    longer = max((a, b), key=lambda side: sum_up(t.value for t in side))
    bound = next(iter(Breakdown("", 0.0, tuple(longer)).bounds()))
    if bound not in WORK:
        return ""
    word, work = WORK[bound]
    before, after = (sum_up(work(t) for t in side) for side in (a, b))
    if before and abs(after / before - 1) >= SAME:
        return f"{after / before:.3g}x the {word}"
    was, now = (sum_up(t.value for t in side) for side in (a, b))
    if not was or abs(now / was - 1) < SAME:
        return ""
    return f"the same {word} take {now / was:.3g}x as long"
