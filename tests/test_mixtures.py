"""Every mixture of parallelisms is one mechanism: what any drawn plan computes, costs and looks like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import verify_programs
from plandsl.driver import plain_programs, programs
from plandsl.spec.plan import PlanSpec
from plandsl.testing import assert_laws, compiled, deployments, mixtures
from tests.draws import draws

FEW = draws(1 / 2)


@FEW
@given(plan=mixtures(), batch=st.integers(1, 9), prompt=st.integers(1, 12), steps=st.integers(1, 5))
def test_law_any_mixture_computes_what_one_device_does(plan: PlanSpec, batch: int, prompt: int, steps: int) -> None:
    """Also where requests and tokens are fewer than the ranks that share them, or not a multiple."""
    small = shrink(plan)
    plain, made = plain_programs(small), [programs(mode) for mode in small.modes]
    for (prefill, _), (_, decode) in zip(made, reversed(made), strict=True):
        verdict = verify_programs((prefill, decode), plain, {"batch": batch, "input": prompt}, steps, check=True)
        assert verdict.ok, verdict.message
        assert verdict.worst <= 1e-9


@pytest.mark.slow  # test_laws.py asks each law of drawn deployments, too
@draws(1 / 2)
@given(plan=deployments())
def test_law_any_deployment_keeps_the_laws(plan: PlanSpec) -> None:
    assert_laws(compiled(plan))


@FEW
@given(plan=deployments())
def test_law_any_deployment_has_an_estimate_and_a_picture(plan: PlanSpec) -> None:
    made = compiled(plan)
    found = list(numbers(made.estimate().as_json()))
    assert all(math.isfinite(x) for _, x in found)
    # only steps that are mixed with prompts may take time away: they may be shorter than full decode steps
    assert not [(path, x) for path, x in found if x < 0 and not path.endswith(".mixed_s")]
    for view in ("devices", "block", "timeline", "memory"):
        assert made.draw(view).startswith("digraph")


def numbers(body: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All of them, with where they stand."""
    if isinstance(body, dict):
        for name, value in body.items():
            yield from numbers(value, f"{path}.{name}")
    elif isinstance(body, list):
        for value in body:
            yield from numbers(value, path)
    elif isinstance(body, int | float) and not isinstance(body, bool):
        yield path, body


@pytest.mark.slow
def test_deployments_are_mixed() -> None:
    """What the strategy draws: every axis and region, several at once, clusters, kinds of steps and of models."""
    seen: Counter[str] = Counter()

    @settings(max_examples=60, database=None, phases=[Phase.generate])
    @given(plan=deployments())
    def look(plan: PlanSpec) -> None:
        seen.update(kinds(plan))

    for number in range(5):
        seed(number)(look)()
        missing = {*WANTED} - {*seen}
        if not missing and seen["axes"] > 20:
            return
    raise AssertionError(f"300 plans have {seen['axes']} times two axes or more, and none has {missing}")


WANTED = (
    *("data", "stage", "context", "seq", "expert", "tensor", "a", "b"),
    *("in attention", "in experts", "in head", "in embedding", "degrees and a mesh", "gather"),
    *(
        "cluster",
        "placed",
        "shift",
        "pools",
        "lookup",
        "draft",
        "chunks of prompts",
        "micro-batches",
        "reuse",
        "experts",
        "latent",
        "window",
        "turns",
        "encoder",
        "nothing comes out",
        "states",
        "states alone",
        "convolution",
        "table of a layer",
        "entry",
        "partial rotation",
        "soft cap",
        "slopes",
        "tied",
        "three axes",
        "12 ranks",
    ),
)


def kinds(plan: PlanSpec) -> Iterator[str]:
    """What is special about a plan."""
    sharding, model = plan.sharding, plan.model
    large = [a for a in sharding.axes if a.size > 1]
    yield from (a.name for a in large)
    yield from (f"in {r.region}" for r in sharding.rules if r.region)
    yield from (name for name, size in model.sizes if name == "experts" and size)
    found = {
        "axes": len(large) > 1,
        "three axes": len(large) > 2,
        "12 ranks": sharding.ranks >= 12,
        "degrees and a mesh": len({bool(a.sugar) for a in large}) == 2,
        "gather": sharding.context_form == "gather",
        "cluster": plan.cluster is not None,
        "placed": bool(sharding.placed),
        "shift": any(pool.shift is not None for pool in plan.pools),
        "pools": plan.split is not None,
        "lookup": plan.speculate is not None and plan.speculate.draft is None,
        "draft": plan.draft_plan is not None,
        "chunks of prompts": plan.chunked_prefill is not None,
        "micro-batches": plan.micro_batches > 1,
        "reuse": plan.workload.reuse > 0,
        "latent": "kv_rank" in dict(model.sizes),
        "window": "'window'" in str(model.blocks),
        "turns": any(b.every.period > 1 for b in model.blocks),
        "encoder": not model.causal,
        "nothing comes out": plan.workload.encodes,
        "states": "'recurrence'" in str(model.blocks),
        "states alone": bool(model.stateful) and "'attention'" not in str(model.blocks),
        "convolution": "'short_conv'" in str(model.blocks),
        "table of a layer": "'lookup'" in str(model.blocks),
        "entry": model.entry is not None,
        "partial rotation": "'first'" in str(model.blocks),
        "soft cap": "'softcap'" in str(model.blocks),
        "slopes": "'alibi'" in str(model.blocks),
        "tied": "w_head" not in str(model.head),
    }
    yield from (name for name, there in found.items() if there)
