"""Laws about kinds of models: encoders, which make no tokens, layers with a state, which have one size, and towers."""

from __future__ import annotations

import json
import re
from io import StringIO
from math import isclose

from attrs import evolve
from rich.console import Console

from plandsl.answers.text.estimate import print_estimate
from plandsl.driver import CompiledPlan
from plandsl.ir.states import States
from plandsl.testing.compare import compiled
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.values import sum_up

OF_TOKENS = ("tpot", "kv_capacity", '"decode"', "output_tokens")
"""What the machine form of an estimate says of tokens that come out."""

LENGTH = 64
"""A number of blocks that every rank of a context holds in whole."""


def encoders_do_not_decode(plan: CompiledPlan) -> None:
    """Where nothing comes out of a request, a report has no TPOT and no decode step, and a text ends after prefill."""
    if not plan.spec.workload.encodes:
        raise DoesNotApply("tokens come out of its requests")
    estimate = plan.closed_form()
    assert estimate.latency_s == estimate.ttft_s, f"a text takes {estimate.latency_s} s, its prefill {estimate.ttft_s}"
    body = json.dumps(estimate.as_json())
    said = [word for word in OF_TOKENS if word in body]
    assert not said, f"its estimate speaks of output, {', '.join(said)}: {body}"
    out = StringIO()
    print_estimate(plan.spec, estimate, Console(file=out, width=120))
    shown = re.findall(r"\b(?:TPOT|decode|output tokens?)\b", out.getvalue())  # `attention_decode` is a constant
    assert not shown, f"its report speaks of {', '.join(shown)}: {out.getvalue()}"


def states_keep_their_size(plan: CompiledPlan) -> None:
    """A layer with a state takes the same memory and the same time of a decode step, however long the context is.

    A model that keeps nothing but states has the same TPOT at every context.
    """
    model = plan.cost.pools[0]
    memory, decode, load = model.memory, model.main.decode, plan.spec.workload
    if not plan.spec.model.stateful:
        raise DoesNotApply("its layers keep no state")
    caches = [cache for stage in memory.caches for cache in stage]
    length = memory.block * LENGTH * max(int(memory.extents.ways(cache.context.axes)) for cache in caches)
    for stage in range(len(memory.weights)) if not any(cache.window for cache in caches) else ():
        once, twice, four = (float(memory.kv_per_request(stage, n * length)) for n in (1, 2, 4))
        first, second = 2 * once - twice, 2 * twice - four  # what is left of a request without tokens
        assert isclose(first, second, abs_tol=1e-9 * four), f"stage {stage}: {first} and {second} bytes of states"
    bind = {"batch": load.batch, "context": load.input, "queries": 1}
    short, long = (decode.seconds(bind)(float(context)) for context in (length, 16 * length))
    for run, works in decode.work.items():
        kept = [i for i, work in enumerate(works) if isinstance(work.op, States)]
        grown = [i for i in kept if short[run][i] != long[run][i]]
        assert not grown, f"{run}: a step of {works[grown[0]].op.keyword} depends on the context"
    if all(cache.state for cache in caches) and not load.encodes:
        first, second = (float(plan.cost.evaluate(load.batch, n * length).tpot) for n in (1, 16))
        assert isclose(first, second, rel_tol=1e-9), f"TPOT is {first} s, and {second} s at 16 times the context"


def towers_are_never_free(plan: CompiledPlan) -> None:
    """Without its tower a model is never slower and never holds more; with half the images no prompt takes longer.

    Images change no step that makes tokens.
    """
    spec, load = plan.spec, plan.spec.workload
    if spec.model.tower is None or spec.tower is None:
        raise DoesNotApply("the model has no tower")
    others = {
        "with half the images": evolve(spec, workload=evolve(load, images=load.images / 2)),
        "without images": evolve(spec, workload=evolve(load, images=0.0)),
        "without its tower": evolve(
            spec, model=evolve(spec.model, tower=None), tower=None, workload=evolve(load, images=0.0, image_tokens=0)
        ),
    }
    before, held = plan.cost.own, sum_up(plan.cost.pools[0].memory.weights)
    for what, other in others.items():
        found = compiled(evolve(other, requires=())).cost
        now = found.own
        assert float(now.ttft) <= float(before.ttft) * (1 + 1e-9), f"TTFT is {before.ttft:g} s, {what} {now.ttft:g} s"
        assert isclose(float(now.tpot), float(before.tpot), rel_tol=1e-9), f"TPOT is {before.tpot} s, {what} {now.tpot}"
        less = sum_up(found.pools[0].memory.weights)
        assert less <= held * (1 + 1e-9), f"weights are {held:g} bytes, {what} {less:g}"
