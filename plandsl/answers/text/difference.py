"""`planc diff` for people: a sentence for each metric, the fields that differ, then both times term by term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl.answers.difference import Difference, Part, Split
from plandsl.answers.text.money import tokens_of
from plandsl.answers.text.words import LABELS, closed_form_lines, plain_table, show_token_rate
from plandsl.printing import print_lines
from plandsl.tables import Sheet
from plandsl.units import show_bytes, show_count, show_energy, show_money, show_time

TELLING = 0.1
"""A sentence names a change of a group only if it is at least this share of the largest change."""

MOST = 3
"""Most changes that a sentence names in each direction."""

SMALL = 0.02
"""Only JSON lists a term that changes by less than this share of a metric."""

Show = Callable[[float], str]

SHOW: dict[str, tuple[str, Show, str]] = {
    "ttft": ("TTFT", show_time, "as long"),
    "tpot": ("TPOT", show_time, "as long"),
    "throughput": ("throughput", show_token_rate, "as much"),
    "memory": ("memory per GPU", show_bytes, "as much"),
}


def print_difference(found: Difference, console: Console) -> None:
    """Print how the second plan differs from the first."""
    title = Text(f"{found.a.plan} -> {found.b.plan}", style="bold")
    parts: list[RenderableType] = [title, *(_sentence(found, split) for split in found.splits)]
    parts += [*_room_lines(found), *_money_lines(found), Text()]
    parts += [_changed_fields(found), Text(), _terms(found), *closed_form_lines(found.a, found.b)]
    print_lines(console, *parts)


def _sentence(found: Difference, split: Split) -> Text:
    """``TPOT 17.3 ms -> 25.9 ms, 1.50x: attention +5.42 ms (2x the bytes), ...``."""
    word, show, so = SHOW[split.metric]
    out = Text(f"{word} {show(split.before)} -> {show(split.after)}, ")
    if split.before == split.after:
        return out.append("the same")
    out.append(f"{split.after / split.before:.3g}x {so}", style="bold")
    if split.alike:
        out.append(", within each other's band")
    if split.alike is None and split.metric != "memory":
        out.append(", no band")
    named = list(_contributions(split))
    return out.append(": " + ", but ".join(named)) if named else out


def _room_lines(found: Difference) -> Iterator[Text]:
    """The KV cache that fits, where it differs, and whether the plans fit, where one does not."""
    before, after = found.a.kv_capacity_tokens, found.b.kv_capacity_tokens
    shown = show_count(before), show_count(after)
    if shown[0] != shown[1] and not found.encodes:
        times = f", {after / before:.3g}x as much" if before else ""
        yield Text(f"KV capacity {' -> '.join(shown)} tokens{times}")
    if found.a.fits != found.b.fits:
        yield Text(f"fits {' -> '.join('yes' if e.fits else 'NO' for e in (found.a, found.b))}", style="bold")


def _money_lines(found: Difference) -> Iterator[Text]:
    """What both plans cost and draw, where a price or a power of both is known."""
    a, b = found.a, found.b
    if a.money and b.money:
        yield _quotient("cost", a.money.usd_per_mtok, b.money.usd_per_mtok, show_money, f"per million {tokens_of(a)}s")
    if a.energy and b.energy:
        yield _quotient("energy", a.energy.j_per_token, b.energy.j_per_token, show_energy, f"per {tokens_of(a)}")
    if a.fleet and b.fleet:
        yield Text(f"copies {a.fleet.copies} -> {b.fleet.copies}, {a.fleet.gpus} -> {b.fleet.gpus} GPUs")


def _quotient(word: str, before: float, after: float, show: Show, per: str) -> Text:
    out = Text(f"{word} {show(before)} -> {show(after)} {per}, ")
    times = f"{after / before:.3g}x as much" if before else "none before"
    return out.append("the same") if before == after else out.append(times, style="bold")


def _contributions(split: Split) -> Iterator[str]:
    """The largest changes in the direction of the difference, then the largest changes against it."""
    _, show, _ = SHOW[split.metric]
    largest = max(abs(p.change) for p in split.groups)
    telling = [p for p in split.groups if abs(p.change) >= TELLING * largest and p.change]
    ways = [[p for p in telling if (p.change > 0) == (split.change > 0)]]
    ways.append([p for p in telling if p not in ways[0]])
    for way in ways:
        if way:
            yield ", ".join(_contribution(p, show) for p in way[:MOST])


def _contribution(part: Part, show: Show) -> str:
    why = f" ({part.why})" if part.why else ""
    return f"{LABELS.get(part.group, part.group)} {_signed(part.change, show)}{why}"


def _signed(change: float, show: Show) -> str:
    return f"{'+' if change > 0 else '-'}{show(abs(change))}" if change else ""


def _changed_fields(found: Difference) -> Sheet:
    """The fields that differ, with both values."""
    table = plain_table("l", "l", "l", header=("what differs", found.a.plan, found.b.plan))
    table.starts = (1,)
    for change in found.changes:
        table.add_row("  " + change.path, change.before or "-", change.after or "-")
    if not found.changes:
        table.add_row("  nothing", "", "")
    return table


def _terms(found: Difference) -> Sheet:
    """TTFT and TPOT of both plans group by group, with the ops that change most."""
    pair = (found.ttft,) if found.encodes else (found.ttft, found.tpot)
    heads = (column for split in pair for column in (SHOW[split.metric][0], "", "change"))
    table = plain_table("l", *"rrr" * len(pair), header=("term by term", *heads), gap=1)
    table.starts = (1, 4)
    groups = [{p.group: p for p in split.groups} for split in pair]
    ops = [{(p.group, p.op, p.name): p for p in split.parts} for split in pair]
    names = dict.fromkeys(name for own in groups for name in own)
    for group in sorted(names, key=lambda g: -_weight(pair, [own.get(g) for own in groups])):
        table.add_row("  " + group, *_cells([own.get(group) for own in groups]), style="bold")
        named = [key for key in dict.fromkeys(k for own in ops for k in own) if key[0] == group]
        rows = [(key[2], [own.get(key) for own in ops]) for key in named if len(named) > 1]
        for name, row in sorted(rows, key=lambda r: -_weight(pair, r[1])):
            if _weight(pair, row) >= SMALL:
                table.add_row("    " + name, *_cells(row))
    table.add_section()
    cells = (c for s in pair for c in (show_time(s.before), show_time(s.after), _signed(s.change, show_time)))
    table.add_row("total", *cells, style="bold")
    return table


def _weight(pair: Sequence[Split], row: Sequence[Part | None]) -> float:
    """The largest share of either time by which a row changes."""
    return max(abs(p.change) / max(s.before, s.after) if p else 0.0 for s, p in zip(pair, row, strict=True))


def _cells(row: Sequence[Part | None]) -> Iterator[str]:
    for part in row:
        yield from (show_time(v) if v else "" for v in ((part.before, part.after) if part else (0.0, 0.0)))
        yield _signed(part.change, show_time) if part else ""
