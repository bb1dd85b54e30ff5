"""The largest gap in words: its likeliest cause, what the runs cannot tell, and the measurement that would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plandsl.answers.comparison import ComparedRun, Measure, Suspect, Verdict
from plandsl.backends.calibrate.robust import OUTLIER
from plandsl.backends.compare.bench import Bench
from plandsl.backends.compare.formats import CLOSED
from plandsl.backends.compare.predict import Predictor
from plandsl.backends.compare.suspects import MEMORY, NOISE, Probed, Tried, largest_gap, suspect_of, try_all
from plandsl.units import show_percent

APART = (4 * NOISE / OUTLIER) ** 2
"""Losses of two suspects that differ by less are not told apart.

Where predictions of two suspects differ by d in all, their losses differ by d^2 with a standard deviation of 2 d NOISE
(both in units of `OUTLIER`): two standard deviations are reached at d = 4 NOISE.
"""

EXPLAINS = 0.5
"""A likely cause takes away at least this share of the largest gap, and of the loss of all runs."""

SMALL = 0.02
"""A smaller gap is not explained: benchmarks themselves are no more exact."""

TELLS = {
    "prefill_kernels": "time the kernels of prefill on this GPU: `planc measure --for FILE`, then `planc calibrate`",
    "decode_kernels": "time the kernels of decode on this GPU: `planc measure --for FILE`, then `planc calibrate`",
    "communication": "time the collectives on these GPUs (`planc measure --for FILE`, or nccl-tests at the sizes that "
                     "`planc compare-comm` prints), or run the benchmark on one GPU if the model fits",
    "host_step": "{alone}: the host's part of a step is the same at every load, and largest against the kernels there",
    "host_request": "{more}: host work for each request grows with the requests in a step",
    "client": "{server}: the difference to the client's TTFT is the client side",
    "client_request": "{server}; and the client on a machine of its own, with several processes",
    MEMORY: "the server's log and counters: the size of its KV cache (vLLM: \"GPU KV cache size\") beside the "
            "{tokens} tokens predicted, and preemptions (vLLM: `vllm:num_preemptions_total`)",
}  # fmt: skip
"""What would tell whether a suspect is the cause."""

ALONE = {
    "vllm": "--max-concurrency 1", "sglang": "--max-concurrency 1", "aiperf": "--concurrency 1",
    "guidellm": "--profile synchronous", "inferencex": "CONC=1",
}  # fmt: skip
"""How each load generator is told to send one request at a time."""

SERVER = "the server's own TTFT (vLLM: `vllm:time_to_first_token_seconds` in `/metrics`; SGLang: `sglang:...`)"


def why_not(predictor: Predictor, runs: Sequence[ComparedRun]) -> str:
    """Why no cause is sought; empty where one is."""
    found = largest_gap(runs)
    if found is None:
        return "no run has TTFT or TPOT, by whose errors causes are told"
    if predictor.engine is None:
        return (
            "the plan names no engine, so that the prediction has kernels alone: no host work, no client and no "
            "bands; name the one that ran, for example `engine = vllm`, and compare again"
        )
    off = abs(found[1].ratio - 1)
    return f"the largest gap of TTFT and TPOT is {show_percent(off)}: nothing to explain" if off < SMALL else ""


def judge(predictor: Predictor, benches: Sequence[Bench], runs: Sequence[ComparedRun], probed: Probed) -> Verdict:
    """The verdict on runs that have a gap."""
    found = largest_gap(runs)
    assert found is not None, "`why_not` says that there is none"
    at, gap = found
    cases, tried = probed.cases, try_all(predictor, probed, runs)
    row = next((i for i, bench in enumerate(cases.benches) if bench is benches[at]), 0)
    effective = predictor.pools[-1].plan.effective_engine
    suspects = tuple(suspect_of(cases, one, effective, row, gap.metric) for one in tried)
    likely = count_likely(cases.loss(cases.predicted), tried, suspects)
    suspects = _likely_first(suspects, likely)
    chosen = suspects[: len(likely)]
    error = cases.mean_error(cases.predicted)
    why = tuple(_why(gap, runs, error, chosen, suspects))
    tokens = f"{predictor.deployment.evaluate().kv_capacity:,.0f}" if MEMORY in {s.name for s in chosen} else ""
    measure = tuple(dict.fromkeys(_measure(chosen, runs, benches, tokens)))
    return Verdict(at, gap, error, suspects, likely=len(likely), why=why, measure=measure)


def count_likely(loss: float, tried: Sequence[Tried], suspects: Sequence[Suspect]) -> list[int]:
    """The places of the suspects that explain the runs, and that the runs cannot tell apart; none where none does."""
    good = [
        i for i, (one, s) in enumerate(zip(tried, suspects, strict=True))
        if s.explained >= EXPLAINS and one.loss <= (1 - EXPLAINS) * loss
    ]  # fmt: skip
    return [i for i in good if tried[i].loss <= tried[good[0]].loss + APART] if good else []


def _likely_first(suspects: Sequence[Suspect], likely: Sequence[int]) -> tuple[Suspect, ...]:
    return (*(suspects[i] for i in likely), *(s for i, s in enumerate(suspects) if i not in likely))


def _why(
    gap: Measure, runs: Sequence[ComparedRun], error: float, likely: Sequence[Suspect], all_: Sequence[Suspect]
) -> Iterator[str]:
    """What speaks for the verdict, and what nobody can tell from these runs."""
    if any(note.code in ("N535", "N536") for run in runs for note in run.notes):
        yield "runs and plan disagree on the model or the number of GPUs: make them agree first"
    if gap.inside:
        yield "the gap is inside the band: 8 of 10 servers are as far from the prediction, so it needs no cause"
    many = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    if not likely:
        best = all_[0] if all_ else None
        told = "" if best is None else (
            f": the best, {best.title}, leaves a mean error of {show_percent(best.error)} of {show_percent(error)}"
        )  # fmt: skip
        yield f"no single cause explains {many}{told}; several may act together, which `--fit` can tell"
    elif len(likely) == 1:
        one = likely[0]
        yield (
            f"with this change alone the mean error of {many} falls from {show_percent(error)} to "
            f"{show_percent(one.error)}"
        )
    else:
        names = [s.title for s in likely]
        yield f"{many} cannot tell {', '.join(names[:-1])} and {names[-1]} apart: each explains the gap"
    if len(runs) == 1:
        yield "one run does not show how errors move with the load: runs at other concurrencies tell causes apart"
    elif likely and len({run.clients or run.rate for run in runs}) == 1:
        yield "all runs have the same load: runs at other concurrencies tell causes apart"
    peak = max((run.kv_peak for run in runs), default=0.0)
    if MEMORY not in {s.name for s in all_} and peak > 0:
        yield (
            f"memory is no cause as predicted: the KV cache is {show_percent(peak)} full at its peak; it would be one "
            f"only if the server had less than {show_percent(peak)} of the predicted room"
        )


def _measure(
    likely: Sequence[Suspect], runs: Sequence[ComparedRun], benches: Sequence[Bench], tokens: str
) -> Iterator[str]:
    """What to measure next, the most telling first."""
    tool = benches[0].document.format.name
    has_one = any(bench.kind == CLOSED and bench.clients == 1 for bench in benches)
    most = max((bench.clients for bench in benches), default=0) or 16
    alone = "a profile of a decode step: gaps between kernels are host work"
    if not has_one:
        alone = f"one more run with {ALONE[tool]}"
    words = {"alone": alone, "more": f"one more run with {4 * most} requests at once", "server": SERVER,
             "tokens": tokens}  # fmt: skip
    found = [s.name for s in likely if s.name != "client" or all(other.name != "client_request" for other in likely)]
    names = found or (["host_step"] if len(runs) == 1 else [])
    for name in names:
        text = TELLS[name].format(**words)
        if name == "host_step" and has_one:
            text = alone
        yield text
