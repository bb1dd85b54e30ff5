"""From a compiled plan to a `Simulation`: its requests are drawn, served one by one, and summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plandsl.answers.about import About
from plandsl.answers.estimate import Requirement
from plandsl.answers.simulation import (
    NO_OCCUPANCY,
    AdapterUse,
    Figure,
    Found,
    Occupancy,
    PrefillPool,
    Simulation,
    TierUse,
)
from plandsl.arguments import Arguments
from plandsl.backends.cost.answers.mean_load import mean_load
from plandsl.backends.cost.deployments.build import Compiled, build_replicas
from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.serving.clock import Clock, server_clock, step_clock
from plandsl.backends.cost.serving.leaping import can_leap, take_stretches
from plandsl.backends.cost.serving.percentiles import figure
from plandsl.backends.cost.serving.pools import simulate_pools
from plandsl.backends.cost.serving.records import Records, Steps
from plandsl.backends.cost.serving.replica import Worker
from plandsl.backends.cost.serving.requests import Requests, share_prefix
from plandsl.backends.cost.serving.serve import adapters, block_bytes, moves, sides, worker
from plandsl.backends.cost.serving.shares import are_apart, merge_shares, serve_share
from plandsl.backends.cost.serving.simulate import simulate
from plandsl.backends.cost.serving.stream import can_stream, collect
from plandsl.backends.cost.serving.summary import Bounds, meets, summarise
from plandsl.backends.cost.serving.workloads import BLOCK, Load, draw_requests
from plandsl.columns import Table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.progress import Tick
from plandsl.spec.plan import TIMES, PlanSpec, RequireSpec
from plandsl.spec.requires import SIMULATED, Asked, all_requirements


class Check(NamedTuple):
    """A requirement, the figure that it is about, and whether it is met; ``text`` names the class that states it."""

    text: str
    require: RequireSpec
    figure: Figure

    @property
    def told(self) -> Requirement:
        """What reports say of it."""
        return Requirement(self.text, self.figure.value, self.met())

    def met(self, shift: float = 0.0) -> bool:
        """Whether it is met if the figure lies by ``shift`` times its half width higher."""
        value, half = self.figure
        moved = value + shift * half if shift and isfinite(half) else value
        return bool(self.require.holds(moved))


MANY = 1_000_000
"""More requests than this have so many steps that only a caller who needs steps has them kept."""

ROWS = 1 << 16
"""Requests that are written together."""


class Run(NamedTuple):
    """What is told of a run, and what became of each request.

    ``blocks`` of KV memory are those of one server; ``checks`` are the requirements that a run can check.
    """

    simulation: Simulation
    records: Records
    kinds: tuple[str, ...]
    blocks: int
    checks: tuple[Check, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        return ("records", *self.simulation.tables)

    def table(self, name: str) -> Table:
        """A table by its name: each request in ``records``, and those of the simulation."""
        if isinstance(name, str) and name == "records":
            return Table("records", self.columns())
        return self.simulation.table(Arguments("table", name=name).word("name", self.tables))

    def __repr__(self) -> str:
        return repr(self.simulation).replace("<Simulation", "<Run", 1)

    def __rich__(self) -> Any:
        return self.simulation.__rich__()

    def _repr_html_(self) -> str:
        return self.simulation._repr_html_()

    def columns(self) -> dict[str, NDArray[Any]]:
        """A column for each fact of a request, in the order of requests; NaN where there is none."""
        return self._columns(slice(0, len(self.records.input)))

    def parts(self) -> Iterator[dict[str, NDArray[Any]]]:
        """The same columns for some requests after others."""
        for at in range(0, max(len(self.records.input), 1), ROWS):
            yield self._columns(slice(at, min(at + ROWS, len(self.records.input))))

    def _columns(self, of: slice) -> dict[str, NDArray[Any]]:
        r = self.records.part(of)
        found: dict[str, NDArray[Any]] = {"request": np.arange(of.start, of.stop)}
        if r.kind is not None:
            found["class"] = np.array(self.kinds)[r.kind]
        columns = r.columns()
        whole = {name: column.astype(np.int64) for name, column in columns.items() if column.dtype.kind == "i"}
        return found | columns | whole


def simulate_plan(
    made: Compiled, count: int | None = None, tick: Tick | None = None, *, keep_steps: bool = True
) -> Run:
    """Serve the requests of a plan's workload, ``count`` requests in place of the number that the workload states.

    ``tick`` hears how many requests are served, of how many. ``keep_steps`` is as in `serve_plan`. Raises `PlanError`:
    E328 where no KV cache fits, E452 where a trace is wrong.
    """
    return serve_plan(made.spec, build_servers(made), count, tick, keep_steps=keep_steps)


class Servers(NamedTuple):
    """The servers of a plan, and the clock of each: what a step costs is asked for once, whatever the load.

    ``prefill``: the servers that prefill, where those of ``deployment`` decode only.
    """

    deployment: Replicas
    clock: Clock
    prefill: Servers | None = None


@lru_cache(maxsize=1)
def build_servers(made: Compiled) -> Servers:
    """The servers of a compiled plan. Those of two pools take each step by itself, and ask the cost model itself.

    Those of the last plan are kept: to tabulate what a step costs takes longer than a short run.
    """
    return time_servers(*(build_replicas(pool) for pool in made.pools))


def time_servers(*pools: Replicas, clock: Callable[[Server], Clock] | None = None) -> Servers:
    """The servers of one pool, or of the pools of prefill and decode, each with a ``clock`` of its own."""
    make = clock or (step_clock if len(pools) == 1 else server_clock)
    return join_servers(pools, [make(pool.one) for pool in pools])


def join_servers(pools: Sequence[Replicas], clocks: Sequence[Clock]) -> Servers:
    """The servers of one pool, or of the pools of prefill and decode, with the clock of each."""
    *before, decode = map(Servers, pools, clocks)
    return decode._replace(prefill=before[0]) if before else decode


def serve_plan(
    plan: PlanSpec, servers: Servers, count: int | None = None, tick: Tick | None = None, *, keep_steps: bool = True
) -> Run:
    """Serve the workload of ``plan`` on the servers of that plan, or of the same plan with another workload.

    Without ``keep_steps``, the steps of more than `MANY` requests are not kept where servers can `stream`: then the run
    tells no ITL and no occupancy. Raises as `simulate_plan` does.
    """
    load = draw_load(plan, count)
    return tell_run(plan, servers, load, *serve_load(plan, servers, load, tick, keep_steps=keep_steps))


def serve_replicas(
    made: Compiled, count: int | None, numbers: Sequence[int], *, keep_steps: bool = True
) -> list[Records]:
    """What becomes of the requests of some replicas of a plan, which are `apart`. Raises as `simulate_plan` does."""
    plan, servers, load = made.spec, build_servers(made), draw_load(made.spec, count)
    one, many = _worker(plan, servers, load), servers.deployment.n
    keep_steps = keep_steps or not _drops_steps([one] * many, plan, load)
    return [
        serve_share(one, load.requests, number=number, many=many, seed=seed_of(plan), keep_steps=keep_steps)
        for number in numbers
    ]


def join_replicas(made: Compiled, load: Load, shares: Sequence[Records]) -> Run:
    """What `simulate_plan` says of all replicas of a plan, from what `serve_replicas` says of each."""
    plan, servers = made.spec, build_servers(made)
    rooms = [_room(plan, _worker(plan, servers, load))]
    return tell_run(plan, servers, load, rooms, merge_shares(load.requests, shares))


def apart(made: Compiled, load: Load) -> bool:
    """Whether the replicas of a plan serve ``load`` without knowing of one another."""
    many = build_servers(made).deployment.n
    return made.spec.split is None and are_apart(many, load.requests, load.closed, made.spec.router)


def tell_run(plan: PlanSpec, servers: Servers, load: Load, rooms: Sequence[int], records: Records) -> Run:
    """What is told of a run; ``rooms`` are the blocks of a server of each pool."""
    deployment, engine, prefill = servers.deployment, plan.effective_engine, servers.prefill
    before = 0 if prefill is None else prefill.deployment.n
    summary = summarise(records, keep_bounds(plan, records))
    if plan.workload.encodes:
        summary = summary._replace(output_rate=summary.input_rate)
    summary = summary._replace(warnings=(*_warnings(plan, load), *summary.warnings))
    if not records.keeps_steps:
        said = f"steps of {summary.requests:,} requests are not kept: no ITL, and not what servers held"
        summary = summary._replace(warnings=(*summary.warnings, said))
    checks = check_requirements(plan, records, summary.request_rate, summary.output_rate)
    told = Simulation(
        plan=plan.name,
        gpus=plan.ranks,
        replicas=deployment.n,
        scheduler=engine.scheduler_name,
        router=plan.router,
        seed=seed_of(plan),
        summary=summary,
        occupancy=_occupancy(records, rooms[-1], range(before, before + deployment.n)),
        requires=tuple(check.told for check in checks),
        unchecked=tuple(a.text for a in all_requirements(plan) if not _is_checked(a, records)),
        prefill=None if prefill is None else _prefill_pool(prefill.deployment, records, rooms[0]),
        found=_found(records, deployment if prefill is None else prefill.deployment),
        adapters=_adapter_use(records, deployment if prefill is None else prefill.deployment),
        about=About(plan),
        encodes=plan.workload.encodes,
    )
    return Run(told, records, load.kinds, rooms[-1], checks)


def seed_of(plan: PlanSpec) -> int:
    """The seed of all that is drawn: the requests of a plan, choices of its router, guesses that are right."""
    return 0 if plan.workload.traffic is None else plan.workload.traffic.seed


def draw_load(plan: PlanSpec, count: int | None = None) -> Load:
    """The requests of a plan's workload, ``count`` in place of the number that it states."""
    size = plan.effective_engine.kv_block
    load = draw_requests(plan.workload, count, size if size > 1 else BLOCK)
    return load._replace(requests=_with_reuse(plan, load.requests), asked=count)


def foresee(plan: PlanSpec, servers: Servers, load: Load) -> tuple[Worker, Way]:
    """A server for ``load``, one that decodes if the plan has two pools; and how its servers take their steps."""
    one = _worker(plan, servers, load)
    workers, apart = [one] * servers.deployment.n, servers.prefill is None
    if apart and can_leap(workers, load.requests, load.closed, plan.router):
        return one, "leap"
    return one, "stretch" if take_stretches(workers, plan.router if apart else "round_robin") else "step"


Way: TypeAlias = Literal["leap", "stretch", "step"]
"""`leap`: all steps between two events are taken at once; `stretch`: steps that only decode are; `step`: none are."""


def _worker(plan: PlanSpec, servers: Servers, load: Load) -> Worker:
    name, one = plan.effective_engine.scheduler_name, servers.deployment.one
    return worker(one, load.requests, name, clock=servers.clock)


def _with_reuse(plan: PlanSpec, requests: Requests) -> Requests:
    """The requests with the blocks of the prefix that all share; the first one that a server computes fills them."""
    if not plan.workload.reuse or plan.workload.prefix != "shared":
        return requests
    return share_prefix(requests, reused_tokens(plan, requests.input), plan.effective_engine.kv_block)


def _warnings(plan: PlanSpec, load: Load) -> Iterator[str]:
    """What a simulation leaves out of a plan, what the load does not have, and what the model cannot serve."""
    requests = load.requests
    if load.asked is not None and len(requests.input) < load.asked:
        yield f"the load has {len(requests.input):,} requests, not {load.asked:,}"
    if plan.workload.reuse and plan.workload.prefix != "shared":
        yield OWN_REUSE
    context = plan.model.max_context
    long = 0 if context is None else int((requests.input + requests.output > context).sum())
    if long:
        name, of = plan.model.name, len(requests.input)
        yield f"{long:,} of {of:,} requests exceed the context of `{name}`, {context:,} tokens"


OWN_REUSE = "`reuse` of blocks that each request has for itself is not simulated: prompts are computed whole"


def _drops_steps(workers: Sequence[Worker], plan: PlanSpec, load: Load) -> bool:
    """Whether steps need not be kept, and are too many."""
    return len(load.requests.input) > MANY and can_stream(workers, load.requests, load.closed, plan.router)


def serve_load(
    plan: PlanSpec, servers: Servers, load: Load, tick: Tick | None = None, *, keep_steps: bool = True
) -> tuple[list[int], Records]:
    """The blocks of a server of each pool, and what became of the requests of ``load``.

    ``keep_steps`` is as in `serve_plan`. Raises `PlanError` (E328) where a server has no room for a KV cache.
    """
    decode, prefill, requests, seed = servers.deployment, servers.prefill, load.requests, seed_of(plan)
    if prefill is None or plan.split is None:
        one = _worker(plan, servers, load)
        rooms, workers = [_room(plan, one)], [one] * decode.n
        if not keep_steps and _drops_steps(workers, plan, load):
            return rooms, collect(workers, requests, tick)
        return rooms, simulate(
            workers, requests, load.closed, by=plan.router, seed=seed, think_s=load.think_s, tick=tick
        )
    pools = prefill.deployment, decode
    both = sides(pools, requests, (prefill.clock, servers.clock))
    rooms = [_room(plan, side.workers[0]) for side in both]
    travel = moves(plan.split, pools, requests)
    return rooms, simulate_pools(
        *both, requests, moves=travel, closed=load.closed, seed=seed, think_s=load.think_s, tick=tick
    )


def _room(plan: PlanSpec, server: Worker) -> int:
    """The blocks of a server. Raises `PlanError` (E328) where it has none."""
    if server.blocks < server.ranks:
        raise PlanError([_no_room(plan)])
    return server.blocks


def _no_room(plan: PlanSpec) -> Diagnostic:
    why = f"`{plan.name}` has no room for a KV cache beside the weights, so that no request can be served"
    hint = "`planc compile` shows the memory; use more GPUs for each replica, or weights in fewer bits"
    return Diagnostic("E328", why, plan.span, hint=hint)


def find_no_room(made: Compiled) -> Diagnostic | None:
    """Why no request of a plan can be served (E328); None where a server has room for a KV cache."""
    servers, mean = build_servers(made), mean_load(made.spec.workload)
    one = Requests(np.zeros(1), np.array([mean.input]), np.array([mean.output]))
    for pool in (servers.prefill, servers):
        if pool is not None:
            name = pool.deployment.plan.effective_engine.scheduler_name
            server = worker(pool.deployment.one, one, name, clock=pool.clock)
            if server.blocks < server.ranks:
                return _no_room(made.spec)
    return None


def _prefill_pool(pool: Replicas, records: Records, room: int) -> PrefillPool:
    """What is told of the servers that prefill."""
    held = _occupancy(records, room, range(pool.n))
    return PrefillPool(pool.n, pool.plan.effective_engine.scheduler_name, pool.plan.router, held)


def _found(records: Records, deployment: Replicas) -> Found | None:
    """What was found of prompts, where there are tiers of KV memory."""
    if records.loaded is None:
        return None
    served, server = records.served, deployment.one
    length = int(records.input.mean()) + int(records.output.mean())  # of requests that have tokens of both
    own = block_bytes(server, length) / server.plan.effective_engine.kv_block
    ranks = deployment.n * int(server.main.ways)
    return Found(
        int(records.input[served].sum()),
        int(records.cached[served].sum()),
        tuple(TierUse(int(tokens), float(tokens) * own / ranks) for tokens in records.loaded.sum(1)),
    )


def _adapter_use(records: Records, deployment: Replicas) -> AdapterUse | None:
    """What became of requests that name an adapter, where some do."""
    if records.adapter is None or records.fetched is None or records.slot_wait_s is None:
        return None
    spec = adapters(deployment.one, records.adapter)
    assert spec is not None, "servers have slots"
    named = (records.adapter > 0) & np.isfinite(records.admitted_s)
    waited = records.slot_wait_s > 0
    host, disk = (int(each.sum()) for each in records.fetched)
    return AdapterUse(
        requests=int(named.sum()),
        resident=int((named & (records.fetched.sum(0) == 0)).sum()),
        loaded=(host, disk),
        load_s=(spec.host_s, spec.host_s + spec.disk_s),
        waited=int(waited.sum()),
        wait_s=float(records.slot_wait_s[waited].mean()) if waited.any() else float("nan"),
        slots=spec.slots,
    )


# ---- requirements


def check_requirements(plan: PlanSpec, records: Records, request_rate: float, output_rate: float) -> tuple[Check, ...]:
    """The requirements of a plan and of its classes that requests which were served at these rates can check.

    The interval of goodput is that of the share of requests that are good.
    """
    share = figure(keep_bounds(plan, records)[records.served].astype(np.float64))
    rates = {
        "throughput": Figure(output_rate, float("nan")),
        "throughput_per_gpu": Figure(output_rate / plan.ranks, float("nan")),
        "goodput": Figure(share.value * request_rate, share.half * request_rate),
    }
    return tuple(
        Check(a.text, a.require, rates.get(a.require.metric) or _time(a, records))
        for a in all_requirements(plan)
        if _is_checked(a, records)
    )


def _time(asked: Asked, records: Records) -> Figure:
    return time_of(records, asked.require.metric, asked.require.percentile, asked.kind)


def _is_checked(asked: Asked, records: Records) -> bool:
    """Whether a run says something of a requirement: of times only where there are such requests.

    There may be none of a class, and requests of one token have no TPOT.
    """
    metric = asked.require.metric
    if metric not in TIMES:
        return metric in SIMULATED
    of_kind = _of_kind(records, asked.kind)
    return bool((of_kind & (records.output > 1) if metric == "tpot" else of_kind).any())


def time_of(records: Records, metric: str, percentile: float | None, kind: int | None = None) -> Figure:
    """A percentile of a latency, or its mean, over all requests or those of a class; NaN where none was served."""
    order, values = records.order, getattr(records, f"{metric}_s")
    if kind is None or records.kind is None:
        return figure(values[order], percentile)
    return figure(values[order][records.kind[order] == kind], percentile)


def keep_bounds(plan: PlanSpec, records: Records) -> NDArray[np.bool_]:
    """Whether each request kept all upper bounds on its times, of the plan and of its class."""
    good = records.served
    for asked in all_requirements(plan):
        r = asked.require
        if r.caps_time:
            good = good & (meets(records, Bounds(**{f"{r.metric}_s": r.bound})) | ~_of_kind(records, asked.kind))
    return good


def _of_kind(records: Records, kind: int | None) -> NDArray[np.bool_]:
    if kind is None or records.kind is None:
        return np.ones(len(records.input), np.bool_)
    found: NDArray[np.bool_] = records.kind == kind
    return found


# ---- what servers held


def _occupancy(records: Records, room: int, servers: range) -> Occupancy:
    """Means over the time of all steps of ``servers``, and peaks; ``room`` is the number of blocks of a server."""
    if not records.keeps_steps:
        return NO_OCCUPANCY
    every = records.steps  # unrolled when asked for
    own = (every.replica >= servers.start) & (every.replica < servers.stop)
    steps = Steps._make(values[own] for values in every)
    span = steps.end_s - steps.start_s
    whole = float(span.sum())
    if not whole:
        return Occupancy((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0)

    def both(values: NDArray[np.int64], unit: float = 1.0) -> tuple[float, float]:
        return float((values * span).sum()) / whole / unit, float(values.max()) / unit

    duration = float(steps.end_s.max() - steps.start_s.min()) * len(np.unique(steps.replica))
    return Occupancy(
        both(steps.running), both(steps.waiting), both(steps.blocks, float(room)), min(whole / duration, 1.0)
    )
