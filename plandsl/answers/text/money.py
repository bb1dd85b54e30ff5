"""Lines of a report about money and energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from plandsl.answers.estimate import Estimate
from plandsl.answers.money import Fleet, Served, spent_at
from plandsl.answers.text.words import plain_table
from plandsl.units import counted, show_energy, show_money, show_power

TARIFF = {"on_demand": "on demand", "reserved": "reserved"}


def money_rows(e: Estimate) -> Iterator[tuple[str, str]]:
    """What output tokens cost and take, at the rate of the simulation where there is one."""
    spent = _spent(e)
    if spent.usd_per_mtok is not None:
        yield "cost", f"{_dollars(spent.usd_per_mtok, e.encodes)} per million {tokens_of(e)}s"
    if spent.j_per_token is not None and spent.power_w is not None:
        yield "energy", f"{show_energy(spent.j_per_token)} per {tokens_of(e)}, {show_power(spent.power_w)}"


def tokens_of(e: Estimate) -> str:
    """What a plan is paid by."""
    return "input token" if e.encodes else "output token"


def _dollars(value: float, encodes: bool) -> str:
    """``6.73 USD`` of output tokens; a million tokens of texts cost less than a cent."""
    return show_money(value) if encodes else f"{value:.2f} USD"


def _spent(e: Estimate) -> Served:
    most = e.throughput_tokens_per_s
    return spent_at(most if e.simulated is None else e.simulated.output_rate, most, e.money, e.energy)


def spent_line(spent: Served, *, encodes: bool = False) -> Iterator[str]:
    """What a run costs and draws, at the rate that was served."""
    said, word = [], "input" if encodes else "output"
    if spent.usd_per_h is not None:
        paid = "" if spent.usd_per_mtok is None else _dollars(spent.usd_per_mtok, encodes)
        each = f", {paid} per million {word} tokens" if paid else ""
        said.append(f"{show_money(spent.usd_per_h)} an hour{each}")
    if spent.power_w is not None:
        each = "" if spent.j_per_token is None else f", {show_energy(spent.j_per_token)} per {word} token"
        said.append(f"{show_power(spent.power_w)}{each}")
    if said:
        yield "; ".join(said)


def money_table(estimates: Sequence[Estimate]) -> Table | None:
    """Plans side by side in money and energy; None where no price is known. With a demand, all copies count."""
    if not any(e.money for e in estimates):
        return None
    fleets = any(e.fleet for e in estimates)
    kinds = {e.encodes for e in estimates}  # an encoder is paid by input tokens
    paid_by = "tokens" if len(kinds) == 2 else "input" if True in kinds else "output"
    header = ("in money", *(("copies",) if fleets else ()), "GPUs", "an hour", f"per M {paid_by}", "energy")
    table = plain_table("l", *"r" * (len(header) - 1), header=header)
    for e in estimates:
        told, gpus, copies = (_spent(e), e.gpus, 1) if e.fleet is None else (e.fleet, e.fleet.gpus, e.fleet.copies)
        paid = "-" if told.usd_per_h is None else show_money(told.usd_per_h)
        cost = "-" if told.usd_per_mtok is None else _dollars(told.usd_per_mtok, e.encodes)
        if len(kinds) == 2 and told.usd_per_mtok is not None:
            cost = f"{cost}, {'input' if e.encodes else 'output'}"
        energy = "-" if told.j_per_token is None or told.power_w is None else show_energy(told.j_per_token)
        cells = (str(copies), str(gpus), paid, cost, energy)
        table.add_row(e.plan, *(cells if fleets else cells[1:]))
    return table


def fleet_line(fleet: Fleet) -> Text:
    """How many copies a demand takes, and what they cost and draw together."""
    copies = "1 copy" if fleet.copies == 1 else f"{fleet.copies} copies"
    said = [f"{copies} for {fleet.demand:.4g} req/s, {fleet.gpus} GPUs on {counted(fleet.nodes, 'node')}"]
    if fleet.usd_per_h is not None and fleet.usd_per_month is not None:
        said.append(f"{show_money(fleet.usd_per_h)} an hour, {show_money(fleet.usd_per_month)} a month")
    if fleet.power_w is not None:
        said.append(show_power(fleet.power_w))
    return Text("fleet  ").append("; ".join(said), style="bold")


def money_notes(e: Estimate) -> Iterator[str]:
    """Whose prices count and how input and output share them; what the power counts, and how far it may be off."""
    if (m := e.money) is not None:
        whose = f", {'; '.join(m.sources)}" if m.sources else ""
        split = f"; by time, {show_money(m.input_usd_per_mtok)} per million input tokens"
        if m.output_usd_per_mtok is not None:
            split += f" and {show_money(m.output_usd_per_mtok)} per million output tokens"
        yield f"{show_money(m.usd_per_h)} an hour {TARIFF[m.tariff]}{whose}" + ("" if e.encodes else split)
    if (energy := e.energy) is not None:
        low, high = map(show_power, energy.power_w_band)
        included = "GPUs and hosts" if energy.whole else "GPUs alone"
        building = f", times a PUE of {energy.pue:.3g}" if energy.pue > 1 else ""
        law = "" if energy.fitted else "; by the law of H100 and B200"
        yield f"power of {included}{building}, {low} to {high}{law}"
