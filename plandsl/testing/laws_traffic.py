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
def serve_some(plan: CompiledPlan) -> Run:
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
    records = serve_some(plan).records
    served = records.served
    moments = np.stack([records.arrival_s, records.admitted_s, records.first_s, records.finish_s])[:, served]
    late = np.diff(moments, axis=0) >= -SLACK
    assert late.all(), f"{np.argwhere(~late.all(0)).ravel()[:3].tolist()} of {served.sum()} requests pass out of order"
    assert (records.replica[served] >= 0).all(), "a request is served by no server"


def requests_are_served_once(plan: CompiledPlan) -> None:
    """Each request is served by one server or refused: it arrives, is admitted and ends once, or never starts.

    Of two pools, one server makes the first token, and another one the rest, if there are more.
    """
    records = serve_some(plan).records
    served, refused = records.served, records.replica < 0
    lost = np.flatnonzero(served == refused)
    assert not lost.size, f"{lost[:3].tolist()} are neither served nor refused, or both"
    for name in ("arrival_s", "admitted_s", "first_s"):
        known = np.isfinite(getattr(records, name))
        assert known[served].all(), f"{name}: {np.flatnonzero(served & ~known)[:3].tolist()} are served without it"
    started = refused & np.isfinite(records.first_s)
    assert not started.any(), f"{np.flatnonzero(started)[:3].tolist()} are refused, and have a first token"
    if records.prefill_replica is not None and records.transfer_s is not None:
        moved = served & (records.output > 1)
        assert (records.prefill_replica[served] >= 0).all(), "a first token is made by no server"
        assert (np.isfinite(records.transfer_s) == moved).all(), "a cache moves that has no tokens to make, or stays"


def every_request_gets_its_tokens(plan: CompiledPlan) -> None:
    """Steps compute each token of each prompt once, and bring each token of each answer once."""
    run = serve_some(plan)
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
    run = serve_some(plan)
    steps, most = run.records.steps, max(pool.in_flight for pool in plan.cost.pools)
    if len(plan.pools) == 1:
        assert steps.blocks.max(initial=0) <= run.blocks, f"{steps.blocks.max()} of {run.blocks} blocks are in use"
    for server in np.unique(steps.replica):
        mine = steps.replica == server
        order = np.argsort(steps.start_s[mine], kind="stable")
        begins, ends = steps.start_s[mine][order], steps.end_s[mine][order]
        late = begins[most:] - ends[:-most]
        assert (late >= -SLACK).all(), f"server {server} has more than {most} steps on their way, for {-late.min()} s"


def _limit_of(pool: CompiledPlan) -> int:
    """The most requests that run on a rank."""
    return pool.spec.effective_engine.max_requests


def servers_keep_their_limits(plan: CompiledPlan) -> None:
    """No server runs more requests than its engine's `max_requests` for each rank, and its steps go on in time.

    A step begins when it was composed or later, ends behind its begin, and not before the step before it.
    """
    steps = serve_some(plan).records.steps
    pools = list(zip(plan.pools, plan.cost.pools, strict=True))
    first = 0
    for pool, servers in pools:
        most = _limit_of(pool) * int(servers.main.ways)
        for server in range(first, first + servers.n):
            mine = steps.replica == server
            ran = int(steps.running[mine].max(initial=0))
            assert ran <= most, f"server {server} runs {ran} requests, {most} are allowed"
            begins, ends = steps.start_s[mine], steps.end_s[mine]
            assert (ends >= begins).all(), f"server {server} has a step that ends before it begins"
            for what, moments in (("begins", begins), ("ends", ends)):
                assert (np.diff(moments) >= -SLACK).all(), f"server {server}: a step {what} before the one before it"
        first += servers.n


def first_come_first_served(plan: CompiledPlan) -> None:
    """A server admits requests in the order in which they come, whatever its steps take.

    The law is silent where an engine may choose otherwise: by priority or by prefix, among adapters, where blocks
    are loaded from tiers or shared by requests, and where ranks have queues of their own.
    """
    run = serve_some(plan)
    records = run.records
    first = plan.pools[0]
    engine = first.spec.effective_engine
    load = plan.spec.workload.traffic
    order = dict(engine.scheduler.limits).get("order", "fcfs")
    shares = load is not None and (load.sessions is not None or any(c.sessions for c in load.classes))
    reasons = {
        f"its engine has the order {order}": order != "fcfs",
        "requests name adapters": records.adapter is not None,
        "its engine has tiers of KV memory": bool(engine.scheduler.tiers),
        "requests share blocks of their prompts": shares or bool(plan.spec.workload.reuse),
        "ranks have queues of their own": int(plan.cost.pools[0].main.ways) > 1,
    }
    for reason, holds in reasons.items():
        if holds:
            raise DoesNotApply(reason)
    where = records.replica if records.prefill_replica is None else records.prefill_replica
    for server in np.unique(where[records.served]):
        mine = np.flatnonzero(records.served & (where == server))
        mine = mine[np.argsort(records.arrival_s[mine], kind="stable")]
        back = np.diff(records.admitted_s[mine]) < -SLACK
        pair = [int(order[back][0]) for order in (mine[1:], mine[:-1])] if back.any() else []
        assert not pair, f"server {server} admits request {pair[0]} before {pair[1]}, which came earlier"


def one_seed_is_one_run(plan: CompiledPlan) -> None:
    """The same load from the same seed is served in exactly the same way."""
    first = serve_some(plan)
    again = plan.simulate(len(first.records.input))
    for name, column in first.columns().items():
        same = np.array_equal(column, again.columns()[name], equal_nan=column.dtype.kind == "f")
        assert same, f"{name} differs between two runs"
