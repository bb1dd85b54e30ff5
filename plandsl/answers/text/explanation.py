"""`planc explain FILE` for people: where time goes, sensitivities, the next bottlenecks, and the room to grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from plandsl import limits
from plandsl.answers.explanation import BOUNDS, Bottleneck, Breakdown, Explanation, Headroom, Slope, Term
from plandsl.answers.text.money import tokens_of
from plandsl.answers.text.words import (
    METRIC,
    closed_form_lines,
    origin_shares,
    plain_table,
    show_band,
    show_token_rate,
    title_of,
)
from plandsl.printing import print_lines
from plandsl.spec.plan import PlanSpec
from plandsl.tables import Sheet
from plandsl.units import show_bytes, show_count, show_energy, show_money, show_percent, show_time
from plandsl.values import sum_up

SMALL = 0.04
"""Ops with a smaller share of both metrics are summed in one row."""

LEAST = 0.005
"""Only JSON lists a group with a smaller share of both metrics."""

UNMOVED = 0.05
"""A line names the share of a metric that follows no figure only if it is at least this."""

NAMES = {"bubble": "a wait for a stage", "wait": "a wait for other requests", "mixed": "prefills of others"}
"""Names for the bound of a term that no figure bounds."""

SLOPES = {"ttft": "TTFT", "tpot": "TPOT", "throughput": "throughput", "max_batch": "largest batch"}
"""Metrics whose slopes are shown."""

KINK = 0.1
"""Slopes down and up are both shown if they differ by more than this (in percent)."""


def print_explanation(plan: PlanSpec, found: Explanation, console: Console) -> None:
    """Print the whole explanation of one plan."""
    parts: list[RenderableType] = [title_of(plan, found.estimate), *_headlines(found), Text()]
    parts += [_terms(found.times), _layers(found), _origins(found), Text()]
    parts += [_slopes(found), *_remarks(found), Text()]
    parts += [*(_bottleneck(b) for b in found.bottlenecks), *_headroom(plan, found.headroom), _memory(found)]
    parts += closed_form_lines(found.estimate)
    print_lines(console, *parts)


# ---- where the time goes


def _headlines(found: Explanation) -> Iterator[Text]:
    """A line for each metric, with the share of each bound."""
    e = found.estimate
    for whole in found.times:
        name = f"{whole.metric}_s"
        line = Text(METRIC[name] + " ").append(show_band(show_time, whole.total, e.band(name)))
        yield line.append(": " + _shares(whole.bounds(), whole.total))
    words = {"prefill": "prefill", "decode": "decode steps"}
    phases = found.per_token.by(lambda t: words.get(t.phase, t.name))
    line = Text("throughput ").append(show_token_rate(e.throughput_tokens_per_s), style="bold")
    yield line.append(f", {show_time(found.per_token.total)} a token: {_shares(phases, found.per_token.total)}")
    if (m := e.money) is not None:
        line = Text("cost ").append(show_money(m.usd_per_mtok), style="bold").append(f" per million {tokens_of(e)}s: ")
        yield line.append(_shares({"for input": m.prefill_share, "for output": 1 - m.prefill_share}, 1.0))
    if (p := e.energy) is not None:
        line = Text("energy ").append(show_energy(p.j_per_token), style="bold").append(f" per {tokens_of(e)}: ")
        yield line.append(_shares({"idle power": p.idle_w, "work": p.power_w - p.idle_w}, p.power_w))


def _shares(sums: dict[str, float], total: float) -> str:
    return ", ".join(f"{name} {show_percent(v / total)}" for name, v in sums.items() if v >= 0.0005 * total)


def _terms(pair: tuple[Breakdown, ...]) -> Sheet:
    """Groups of terms, the longest in either metric first, each with its terms that are not small."""
    metrics = (column for metric in ("TTFT", "TPOT")[: len(pair)] for column in (metric, "", "bound by", "band"))
    table = plain_table("l", *"rrll" * len(pair), header=("where the time goes", *metrics), gap=1)
    table.starts = (1, 5)

    def weight(terms: Sequence[Term]) -> float:
        return max(sum_up(t.value for t in terms if t in b.terms) / b.total for b in pair)

    groups: dict[str, dict[str, list[Term]]] = {}
    for term in (term for whole in pair for term in whole.terms):
        groups.setdefault(term.group, {}).setdefault(term.name, []).append(term)
    flat = {group: [t for ts in named.values() for t in ts] for group, named in groups.items()}
    for group in sorted(groups, key=lambda g: -weight(flat[g])):
        if weight(flat[group]) < LEAST:
            continue
        table.add_row("  " + group, *_cells(flat[group], pair), style="bold")
        named = dict(sorted(groups[group].items(), key=lambda item: -weight(item[1])))
        shown = [name for name, ts in named.items() if weight(ts) >= SMALL and len(named) > 1]
        rest = [t for name, ts in named.items() if name not in shown for t in ts]
        for name in shown:
            table.add_row("    " + name, *_cells(named[name], pair))
        if shown and weight(rest) >= LEAST:
            table.add_row(f"    {len(named) - len(shown)} more", *_cells(rest, pair), style="dim")
    return table


def _cells(terms: Sequence[Term], pair: tuple[Breakdown, ...]) -> Iterator[str]:
    for whole in pair:
        own = Breakdown("", whole.total, tuple(t for t in terms if t in whole.terms))
        if not own.terms:
            yield from ("", "", "", "")
            continue
        value = sum_up(t.value for t in own.terms)
        bands = {t.band for t in own.terms}
        band = bands.pop() if len(bands) == 1 else None
        yield from (show_time(value), show_percent(value / whole.total), next(iter(own.bounds())))
        yield "" if band is None else f"{100 * (band[0] - 1):+.0f} to {100 * (band[1] - 1):+.0f} %"


def _origins(found: Explanation) -> Text:
    """The share of each origin of constants in the time of kernels and links, and the origin of the engine's."""
    shares = (
        f"{METRIC[f'{whole.metric}_s']} {origin_shares((t.origin, t.value) for t in whole.terms if t.layer)}"
        for whole in found.times
    )
    e = found.estimate
    engine = f"; engine {e.engine} {e.engine_origin}" if e.engine_origin else ""
    return Text(f"constants: {'; '.join(shares)}{engine}", style="dim")


def _layers(found: Explanation) -> Text:
    """The share of each layer of the cost model in the time of kernels and links."""
    out = []
    for whole in found.times:
        own = Breakdown(whole.metric, whole.total, tuple(t for t in whole.terms if t.layer))
        total = sum_up(t.value for t in own.terms) or 1.0
        out.append(f"{METRIC[f'{whole.metric}_s']} {_shares(own.by(lambda t: t.layer), total)}")
    return Text(f"kernels and links by layer: {'; '.join(out)}; calibration {found.estimate.calibration}", style="dim")


# ---- sensitivities and bottlenecks


def _slopes(found: Explanation) -> Sheet:
    """The change of each metric for 1 % more of each figure."""
    encodes = found.estimate.encodes
    words = {name: word for name, word in SLOPES.items() if not encodes or name in ("ttft", "throughput")}
    table = plain_table("l", *"r" * len(words), header=("1 % more of", *words.values()))
    for s in found.sensitivities:
        asked = f"{s.name} ({s.at:.0f})" if s.name == s.key else s.name
        cells = [_slope(s.slopes.get(name)) for name in words]
        if any(cell not in ("", "-") for cell in cells):
            table.add_row("  " + asked, *cells)
    return table


def _slope(slope: Slope | None) -> str:
    """The percentage; where the slopes below and above the figure's value differ, both."""
    if slope is None or abs(slope.mean) < 0.005:
        return "" if slope is None else "-"
    if slope.down is None or slope.up is None or abs(slope.down - slope.up) <= KINK:
        return f"{slope.mean:+.2f} %"
    return f"{slope.down:+.2f} / {slope.up:+.2f} %"


def _remarks(found: Explanation) -> Iterator[Text]:
    """Remarks: the share of metrics that no slope covers, and tables that the slopes leave out."""
    unmoved = ((whole.metric, found.unmoved[whole.metric]) for whole in found.times)
    if rest := [f"{100 * v:.0f} % of {METRIC[f'{metric}_s']}" for metric, v in unmoved if v >= UNMOVED]:
        yield Text(f"{' and '.join(rest)} depend on none of these: the calibration gives fixed times", style="dim")
    if found.modelled:
        yield Text("computed without measured tables, which are valid for the present figures only", style="dim")


def _bottleneck(b: Bottleneck) -> Text:
    """The bottleneck of a metric, the factor to the next bottleneck, and the gain if it were perfect."""
    out = Text(f"{METRIC[f'{b.metric}_s']} is bound by ").append(b.name, style="bold")
    out.append(f" first ({show_percent(b.share)}). ")
    if b.factor is None or b.then is None or b.gain is None:
        out.append("It stays the bottleneck however fast it gets. ")
    else:
        out.append(f"{b.factor:.2g}x better: {b.gain:.2f}x as fast, then {BOUNDS[b.then]}. ")
    out.append(f"Perfect: {b.limit:.2f}x")
    if b.behind is not None and b.hidden >= LEAST:
        out.append(f", with {show_percent(b.hidden)} left to {_bound_name(b.behind)}")
    return out.append(".")


def _bound_name(bound: str) -> str:
    """The name of a bound, for use in a sentence."""
    return BOUNDS[bound] if bound in BOUNDS else NAMES[bound]


def _headroom(plan: PlanSpec, room: Headroom) -> Iterator[Text]:
    """The batch from which decode is compute-bound, and the batch and context at which memory is full."""
    if plan.workload.encodes:  # no step decodes, and no cache bounds a batch
        return
    gemms, whole = (_show_batch(n) for n in (room.gemm_batch, room.compute_batch))
    at = show_count(round(room.batch, 1))
    yield Text(f"batch {at} of a decode step: its GEMMs turn compute-bound {gemms}, all of it {whole}")
    more = room.max_batch - room.batch
    spare = f"room for {show_count(round(more, 1))} more" if more >= 0 else "the batch does not fit"
    known = plan.model.max_context or limits.MAX_DIMENSION
    longest = f"{room.max_context:,} tokens" if room.max_context < known else "any length that the model knows"
    context = f"contexts of {longest} (now {room.context:,})" if room.max_context else "no context fits"
    yield Text(f"memory is full at batch {room.max_batch}: {spare}; at this batch, {context}")


def _show_batch(batch: int | None) -> str:
    return "at no batch" if batch is None else f"at {batch:,}"


def _memory(found: Explanation) -> Text:
    """The memory of the fullest GPU, by part."""
    m = found.estimate.memory
    parts = ", ".join(
        f"{name.replace('kv_cache', 'KV cache')} {show_bytes(v)}" for name, v in found.memory.groups().items() if v > 0
    )
    share = f"{show_bytes(m.total)} of {show_bytes(m.capacity)}"
    return Text(f"fullest GPU: {share}; {parts}")
