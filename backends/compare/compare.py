"""Runs of a benchmark beside a plan: what is predicted for the load of each, and the cause of the largest gap."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from plandsl import limits
from plandsl.answers.about import About
from plandsl.answers.comparison import ComparedRun, Comparison
from plandsl.backends.accuracy.names import Known
from plandsl.backends.compare.bench import Bench, Lengths, read_bench
from plandsl.backends.compare.documents import Document, read_documents
from plandsl.backends.compare.fit import check_fit, fit_engine
from plandsl.backends.compare.notes import notes_of
from plandsl.backends.compare.predict import Predictor, measures_of
from plandsl.backends.compare.suspects import cases_of, probe
from plandsl.backends.compare.verdict import judge, why_not
from plandsl.backends.cost.deployments.build import Compiled
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick, count_parts, silent


def read_runs(paths: Sequence[str]) -> list[Bench]:
    """The runs of result files, in their order.

    Raises `PlanError` with everything that is wrong: E560 a file that cannot be read, E561 a file of no known tool,
    E562 a field that is missing or wrong, E563 a load that cannot be simulated.
    """
    found: list[Bench] = []
    wrong: list[Diagnostic] = []
    sources: dict[str, str] = {}
    for path in paths:
        try:
            documents = read_documents(path)
        except PlanError as error:
            wrong += error.diagnostics
            sources |= error.sources
            continue
        runs, more = read_all(documents)
        found, wrong = found + runs, wrong + more
    if len(found) > limits.MAX_BENCH_RUNS:
        why = f"the files have {len(found):,} runs: more than {limits.MAX_BENCH_RUNS:,}"
        wrong.append(Diagnostic("E560", why, hint=limits.MAX_BENCH_RUNS.hint("compare fewer runs at once", len(found))))
    if wrong:
        raise PlanError(wrong, sources)
    return found


def read_all(documents: Sequence[Document]) -> tuple[list[Bench], list[Diagnostic]]:
    """The runs of some documents, and what is wrong with the others."""
    found, wrong = [], []
    for document in documents:
        bench, more = read_bench(document)
        wrong += more
        if bench is not None:
            found.append(bench)
    return found, wrong


def compare_runs(
    made: Compiled, benches: Sequence[Bench], known: Known, fit: str | None = None, tick: Tick = silent
) -> Comparison:
    """What is predicted for each run, and the cause of the largest gap. ``known`` says what the catalog has.

    ``fit``: the name of an engine that is fitted to the runs; None fits none. ``tick`` hears how much is done.

    Raises `PlanError` where a run cannot be simulated with the plan (E565, E328), and as `fit_engine` does.
    """
    predictor = Predictor(made)
    runs, benches = compare_each(predictor, benches, known, count_parts(tick, 0, 2))
    why, engine = why_not(predictor, runs), predictor.engine
    verdict, fitted = None, None
    if fit is not None:
        check_fit(predictor, runs)
    if engine is not None and (fit is not None or not why):
        cases, others = cases_of(benches, runs)
        probed = probe(predictor, cases, engine, tick=count_parts(tick, 1, 2))
        verdict = None if why else judge(predictor, benches, runs, probed)
        fitted = None if fit is None else fit_engine(predictor, probed, others, engine, fit)
    return Comparison(made.spec.name, tuple(runs), verdict, why_not=why, fitted=fitted, about=About(made.spec))


def compare_each(
    predictor: Predictor, benches: Sequence[Bench], known: Known, tick: Tick = silent
) -> tuple[list[ComparedRun], list[Bench]]:
    """Each run beside the prediction, and the runs with the lengths that were simulated."""
    plan, found, asked = predictor.plan, [], []
    if plan.workload.encodes:
        why = f"`{plan.name}` encodes texts, and benchmarks of servers have tokens that come out"
        raise PlanError([Diagnostic("E565", why, plan.span, hint="compare with a plan whose `output` is stated")])
    for done, bench in enumerate(benches, 1):
        bench = with_lengths(bench, plan.workload.input, plan.workload.output)
        run = predictor.run(bench, predictor.alone)
        if not run.records.served.any():
            why = f"{bench.name}: none of its requests fits the KV cache of `{plan.name}`"
            hint = "`planc compile` shows the memory; is this the plan that ran?"
            raise PlanError([Diagnostic("E565", why, plan.span, hint=hint)])
        asked.append(bench)
        found.append(
            ComparedRun(
                file=bench.document.file,
                at=bench.document.at,
                tool=bench.document.format.title,
                label=bench.label,
                load=bench.load,
                clients=bench.clients,
                rate=bench.rate,
                requests=bench.requests,
                input=bench.input.mean,
                output=bench.output.mean,
                measures=measures_of(plan, bench, run),
                kv_peak=run.simulation.occupancy.kv_cache[1],
                preemptions=run.simulation.summary.preemptions,
                notes=tuple(notes_of(plan, bench, known, simulated=predictor.count(bench), alone=len(benches) == 1)),
            )
        )
        tick(done, len(benches))
    return found, asked


def with_lengths(bench: Bench, input_: int, output: int) -> Bench:
    """The run with the lengths of the plan where the file does not state its own."""
    if bench.lengths_stated:
        return bench
    return evolve(bench, input=Lengths(float(input_)), output=Lengths(float(output)))
