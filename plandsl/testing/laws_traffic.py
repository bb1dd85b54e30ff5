"""Laws about requests that arrive over time and are served one by one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan
from plandsl.testing.inapplicable import DoesNotApply

if TYPE_CHECKING:
    from plandsl.backends.cost.answers.simulation import Run

SERVED = 60
"""Requests that a law has served, at most."""

SLACK = 1e-9
"""Seconds by which two moments may differ."""


@lru_cache(maxsize=2)
def _run(plan: CompiledPlan) -> Run:
    """Some requests of the plan's load, served one by one."""
    load = plan.spec.workload
    if not load.over_time:
        raise DoesNotApply("its load is a batch that starts together, no requests over time")
    try:
        return plan.simulate(min(SERVED, load.requests or SERVED))
    except PlanError as error:
        if any(d.code != "E328" for d in error.diagnostics):
            raise
        raise DoesNotApply(error.diagnostics[0].message) from error


def requests_pass_in_order(plan: CompiledPlan) -> None:
    """No request is admitted before it arrives, none has its first token before that, or its last before its first."""
    records = _run(plan).records
    served = records.served
    moments = np.stack([records.arrival_s, records.admitted_s, records.first_s, records.finish_s])[:, served]
    late = np.diff(moments, axis=0) >= -SLACK
    assert late.all(), f"{np.argwhere(~late.all(0)).ravel()[:3].tolist()} of {served.sum()} requests pass out of order"
    assert (records.replica[served] >= 0).all(), "a request is served by no server"


def every_request_gets_its_tokens(plan: CompiledPlan) -> None:
    """Steps compute each token of each prompt once, and bring each token of each answer once."""
    run = _run(plan)
    records = run.records
    if plan.spec.speculate is not None:
        raise DoesNotApply("a step brings several guessed tokens at once")
    if records.preemptions.any():
        raise DoesNotApply("preempted requests compute their prompts again")
    served = records.served
    prompts, tokens = (records.input - records.cached)[served].sum(), (records.output - 1)[served].sum()
    steps = records.steps
    assert steps.prompt_tokens.sum() == prompts, f"{steps.prompt_tokens.sum()} of {prompts} tokens of prompts"
    assert steps.decodes.sum() == tokens, f"{steps.decodes.sum()} of {tokens} tokens after the first ones"


def servers_hold_what_their_requests_need(plan: CompiledPlan) -> None:
    """No server holds more blocks of KV memory than it has, or has more steps on their way than batches in flight."""
    run = _run(plan)
    steps, most = run.records.steps, max(pool.in_flight for pool in plan.cost.pools)
    if len(plan.pools) == 1:
        assert steps.blocks.max(initial=0) <= run.blocks, f"{steps.blocks.max()} of {run.blocks} blocks are in use"
    for server in np.unique(steps.replica):
        mine = steps.replica == server
        order = np.argsort(steps.start_s[mine], kind="stable")
        begins, ends = steps.start_s[mine][order], steps.end_s[mine][order]
        late = begins[most:] - ends[:-most]
        assert (late >= -SLACK).all(), f"server {server} has more than {most} steps on their way, for {-late.min()} s"


def one_seed_is_one_run(plan: CompiledPlan) -> None:
    """The same load from the same seed is served in exactly the same way."""
    first = _run(plan)
    again = plan.simulate(len(first.records.input))
    for name, column in first.columns().items():
        same = np.array_equal(column, again.columns()[name], equal_nan=column.dtype.kind == "f")
        assert same, f"{name} differs between two runs"
