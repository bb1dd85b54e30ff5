"""What comes of checking laws on a plan and its neighbours, and its text, of any width from 60 columns on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import frozen

from plandsl.testing.known import LAWS, meaning_of, name_of
from plandsl.testing.outcomes import Outcome, breach_text
from plandsl.values import sum_up

NAMED = 8
"""Most laws that are named where they were asked of a part of the plan."""

WIDTH = 100
"""Columns, where nobody says how many there are."""


@frozen
class Checked:
    """The outcome of each law for one plan; ``neighbours`` of it were drawn from ``seed``."""

    plan: str
    outcomes: tuple[Outcome, ...]
    neighbours: int = 0
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Whether no law is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The laws that are broken."""
        return tuple(one for one in self.outcomes if one.broken is not None)

    def __getitem__(self, law: str) -> Outcome:
        """The outcome of a law, by its name (KeyError where it was not asked)."""
        for one in self.outcomes:
            if one.law == law.replace("_", "-"):
                return one
        raise KeyError(law)

    def __str__(self) -> str:
        return checked_text([self])

    def as_json(self) -> dict[str, Any]:
        """An entry of ``plans``."""
        laws = [one.as_json() for one in self.outcomes]
        return {"plan": self.plan, "ok": self.ok, "seed": self.seed, "neighbours": self.neighbours, "laws": laws}


def list_text(width: int = WIDTH) -> str:
    """Every law with what it says."""
    return "\n".join("\n".join((name_of(law), *_wrapped(meaning_of(law), width, "    "))) for law in LAWS) + "\n"


def checked_text(found: Sequence[Checked], width: int = WIDTH) -> str:
    """All laws in a table, why some do not apply, what some were asked of, and how some are broken."""
    parts = [_table(found), _notes(found, width), _ways(found, width), *_breaches(found, width), _summary(found, width)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(text: str, width: int, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent if first is None else first, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _by_law(found: Sequence[Checked]) -> Iterator[list[tuple[str, Outcome]]]:
    """The outcomes of each law, with the names of their plans."""
    for outcomes in zip(*(one.outcomes for one in found), strict=True):
        yield list(zip((one.plan for one in found), outcomes, strict=True))


def _table(found: Sequence[Checked]) -> str:
    """A line for each law: how many plans and neighbours keep it."""
    drawn = any(one.neighbours for one in found)
    rows = [["law", "plans", *(["neighbours"] if drawn else [])]]
    for outcomes in _by_law(found):
        of = [one for _, one in outcomes]
        own = [_own_cell(of)]
        rows.append([of[0].law, *own, *([_near_cell(of)] if drawn else [])])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _own_cell(of: Sequence[Outcome]) -> str:
    """How many of the plans themselves keep a law."""
    broken = sum_up(one.broken is not None and not one.broken.changed for one in of)
    apply = sum(not one.why_not for one in of)
    if broken:
        return f"BROKEN by {broken} of {len(of)}"
    if not apply:
        return "does not apply"
    return "held" if len(of) == 1 else f"held, {apply} of {len(of)}"


def _near_cell(of: Sequence[Outcome]) -> str:
    broken = [one for one in of if one.broken is not None and one.broken.changed]
    asked, kept = sum_up(one.neighbours for one in of), sum_up(one.kept for one in of)
    if broken:
        return f"BROKEN by {len(broken)}"
    if not asked:
        return "-"
    return f"held, {kept} of {asked}" if kept else "does not apply"


def _notes(found: Sequence[Checked], width: int) -> str:
    """Why laws do not apply; plans with one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for outcomes in _by_law(found):
        for plan, one in outcomes:
            if one.why_not:
                reasons.setdefault((one.law, one.why_not), []).append(plan)
    if not reasons:
        return ""
    lines = ["does not apply (N453)"]
    by_reason: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (law, why), plans in reasons.items():
        by_reason.setdefault((why, tuple(plans)), []).append(law)
    for (why, named), laws in by_reason.items():
        to = "" if len(named) == len(found) else f" ({', '.join(named)})"
        lines += _wrapped(f"{', '.join(laws)}{to}: {why}", width, "    ", "  ")
    return "\n".join(lines)


def _ways(found: Sequence[Checked], width: int) -> str:
    """What laws were asked of, where that is not the plan as it is."""
    ways: dict[str, list[str]] = {}
    for outcomes in _by_law(found):
        how = ", ".join(dict.fromkeys(way for _, one in outcomes for way in one.how))
        if how:
            ways.setdefault(how, []).append(outcomes[0][1].law)
    if not ways:
        return ""
    lines = ["asked of a part of the plan, or of a simpler load"]
    for how, laws in ways.items():
        named = ", ".join(laws) if len(laws) <= NAMED else f"{len(laws)} laws, which --json names"
        lines += _wrapped(f"{how}: {named}", width, "    ", "  ")
    return "\n".join(lines)


def _breaches(found: Sequence[Checked], width: int) -> Iterator[str]:
    for outcomes in _by_law(found):
        for plan, one in outcomes:
            if one.broken is None:
                continue
            heads = _wrapped(
                f"BROKEN {one.law}, by {'a neighbour of ' if one.broken.changed else ''}{plan}", width, "  ", ""
            )
            yield "\n".join([*heads, *_folded(breach_text(one.broken), width)]).rstrip("\n")


def _folded(text: str, width: int) -> Iterable[str]:
    """Lines of a breach, those of the plan as they are."""
    for line in text.split("\n"):
        if line.startswith(("  expected", "  found", "  in ")):
            yield from _wrapped(line[12:], width, " " * 12, line[:12])
        else:
            yield line


def _summary(found: Sequence[Checked], width: int) -> str:
    laws = list(_by_law(found))
    broken = sum(any(one.broken for _, one in outcomes) for outcomes in laws)
    silent = sum(all(one.status == "does not apply" for _, one in outcomes) for outcomes in laws)
    held = len(laws) - broken - silent
    near = sum_up(one.neighbours for one in found)
    plans = "1 plan" if len(found) == 1 else f"{len(found)} plans"
    drawn = f" and {near} neighbour{'s' if near > 1 else ''} (seed {found[0].seed})" if near else ""
    counted = [f"{held} {'law holds' if held == 1 else 'laws hold'}"]
    counted += [f"{broken} {'is' if broken == 1 else 'are'} broken"] if broken else []
    counted += [f"{silent} {'does' if silent == 1 else 'do'} not apply"] if silent else []
    return "\n".join(_wrapped(f"{plans}{drawn}: {', '.join(counted)}", width, ""))
