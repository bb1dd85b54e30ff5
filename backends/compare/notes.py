"""What a run of a benchmark and a plan disagree on, and what was assumed of its load."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.backends.accuracy.names import Known, catalog_name, find_model
from plandsl.backends.compare.bench import Bench
from plandsl.backends.compare.documents import shown
from plandsl.backends.compare.formats import CLOSED
from plandsl.diagnostics import Diagnostic
from plandsl.spec.plan import PlanSpec
from plandsl.units import counted

FAR = 0.05
"""Lengths that differ by more than this share are told."""


def notes_of(plan: PlanSpec, bench: Bench, known: Known, *, simulated: int, alone: bool) -> Iterator[Diagnostic]:
    """Notes about one run: N535 model, N536 GPUs, N537 load, N538 settings of the server, N539 what was assumed.

    ``simulated``: how many requests are. Runs that are not ``alone`` differ in their load on purpose.
    """
    yield from _model(plan, bench, known)
    if bench.gpus and bench.gpus != plan.ranks:
        why = f"the server ran on {counted(bench.gpus, 'GPU')}, and the plan has {plan.ranks}"
        yield Diagnostic("N536", why, hint="compare with a plan of the same degrees")
    yield from _load(plan, bench, alone)
    engine = plan.effective_engine
    for name, value in bench.settings:
        own = getattr(engine, name)
        if own is not None and plan.engine is not None and abs(value - own) > 1e-3 * abs(own):
            why = f"the server has `{name}` {value:g}, and the plan's engine {own:g}"
            yield Diagnostic("N538", why, hint=f"--set engine.{name}={value:g}")
    if said := "; ".join(_assumed(bench, simulated)):
        yield Diagnostic("N539", said)


def _model(plan: PlanSpec, bench: Bench, known: Known) -> Iterator[Diagnostic]:
    if not bench.model:
        return
    own, named = plan.model.name, shown(bench.model)
    found = find_model(bench.model, known)
    if found == own or own in catalog_name(bench.model.lower()) or (found and found == find_model(own, known)):
        return
    if found and own.startswith(f"{found}_"):  # such as `llama_3_1_8b_served`, with other formats
        return
    what = f"`{found}` of the catalog" if found else "which the catalog does not have"
    why = f"the server ran the model {named}, {what}, and the plan has `{own}`"
    yield Diagnostic("N535", why, hint="if both have the same layers and sizes, nothing is wrong")


def _load(plan: PlanSpec, bench: Bench, alone: bool) -> Iterator[Diagnostic]:
    """Where the load of the run is not the plan's: the run's counts."""
    load, differs = plan.workload, []
    if alone and bench.kind == CLOSED and load.concurrency not in (None, bench.clients):
        differs.append(f"{counted(bench.clients, 'request')} at once, not {load.concurrency:,}")
    if bench.lengths_stated:
        for word, own, other in (("in", load.input, bench.input.mean), ("out", load.output, bench.output.mean)):
            if abs(own - other) > FAR * own:
                differs.append(f"{other:,.0f} tokens {word}, not {own:,}")
    if differs:
        yield Diagnostic("N537", f"the load is not the plan's, and the run's counts: {'; '.join(differs)}")


def _assumed(bench: Bench, simulated: int) -> Iterator[str]:
    if not bench.lengths_stated:
        own = f"{bench.input.mean:,.0f} tokens in and {bench.output.mean:,.0f} out"
        yield f"the file does not say how long requests are: {own}, as in the plan"
    elif not bench.spread_known:
        yield "the file does not say how lengths differ: all requests are taken to be equally long"
    if bench.failed:
        yield f"{counted(bench.failed, 'request')} failed, which the simulation does not have"
    if simulated < bench.requests:
        yield f"{simulated:,} of {bench.requests:,} requests are simulated"
