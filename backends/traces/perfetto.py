"""A prefill and some decode steps as Trace Event JSON: a process for each device, a track for each of its streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.answers.estimate import Estimate
from plandsl.backends.cost.answers.flows_pools import transfer_flows
from plandsl.backends.cost.answers.ranks import ranks_per_node
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.traces.events import Events, Track, describe_plan
from plandsl.backends.traces.passes import Layer, Ran
from plandsl.backends.traces.placement import Placement
from plandsl.backends.traces.ranks import check_size, choose_ranks
from plandsl.backends.traces.timeline import Phase, Steps, Turn, play_steps
from plandsl.ir.base import LINK
from plandsl.ir.collectives import Ring
from plandsl.ir.program import show_layers
from plandsl.spec.plan import PlanSpec
from plandsl.values import sum_up

FIRST_DEVICE, FIRST_SERVER = 1000, 100_000_000
"""Process numbers of rank 0 and of server 0; viewers take a track whose number is that of its process for its main."""

PASSES, KERNELS, LINKS, HOPS, TRANSFER = range(1, 6)
"""Tracks of a device: passes and their layers, kernels, collectives, hops to the next stage, and the cache sent on."""

NAMES = {PASSES: "passes", KERNELS: "kernels", LINKS: "collectives", HOPS: "hops", TRANSFER: "KV cache sent"}

HINT = "write fewer ranks with `--ranks stages` or `--ranks 0..7`, or fewer steps with `--steps 1`"


class Pool(NamedTuple):
    """The devices of a pool, or of the whole plan: rank ``r`` is process ``first + r``; ``phases`` run on them."""

    word: str
    servers: Replicas
    phases: tuple[Phase, ...]
    first: int
    ranks: list[int]

    @property
    def plan(self) -> PlanSpec:
        """The plan of the pool."""
        return self.servers.plan

    @property
    def placement(self) -> Placement:
        """Where its ranks stand."""
        return self.phases[0].placement


def trace_steps(model: Deployment, told: Estimate, ranks: str = "all", rounds: int = 2) -> str:
    """The trace of a prefill of all batches in flight, and of ``rounds`` decode steps.

    ``ranks`` as in `choose_ranks`, of each pool. Raises `PlanError`: E510 for wrong ranks, E511 for too many events.
    """
    steps = play_steps(model, told.decode.engine_s, rounds, limits.MAX_TRACE_PASSES)
    pools = _pools(model, steps, ranks)
    check_size("events", sum_up(map(_count_events, pools)), limits.MAX_TRACE_EVENTS, HINT)
    events = Events()
    for pool in pools:
        _write_pool(events, pool)
    for pool in pools:
        _write_servers(events, pool, pools, model, steps)
    if steps.sent is not None:
        _write_transfer(events, model, pools, steps.sent)
    return events.write(_about(model.plan, told))


def _about(plan: PlanSpec, told: Estimate) -> dict[str, Any]:
    """What the file says of itself."""
    tpot = {} if told.tpot_s is None else {"tpot_us": told.tpot_s * 1e6}
    return describe_plan(plan) | {"ttft_us": told.ttft_s * 1e6, **tpot}


def _pools(model: Deployment, steps: Steps, ranks: str) -> list[Pool]:
    """One pool, or two, whose devices are numbered one behind the other."""
    first, last = steps.pools
    if model.transfer is None:
        chosen = choose_ranks(ranks, steps.prefill.placement.stages)
        return [Pool("", first, steps.phases, FIRST_DEVICE, chosen)]
    found, at = [], FIRST_DEVICE
    for word, servers, phase in zip(("prefill", "decode"), (first, last), steps.phases, strict=True):
        found.append(Pool(word, servers, (phase,), at, choose_ranks(ranks, phase.placement.stages)))
        at += servers.plan.sharding.ranks
    return found


def _count_events(pool: Pool) -> int:
    """How many events the devices of a pool have, at most."""
    found = 0
    for phase in pool.phases:
        each = [sum_up(_events_of(turn) for turn in phase.turns_of(stage)) for stage in range(len(phase.main.stages))]
        each = [n + 3 * sum(hop.stage == stage for hop in phase.hops) for stage, n in enumerate(each)]
        found += sum_up(each[phase.placement.stage(rank)] for rank in pool.ranks)
    return found


def _events_of(turn: Turn) -> int:
    return 1 + sum(1 + sum(1 + (ran.stream == LINK) for ran in layer.ran) for layer in turn.work.layers)


# ---- devices


def _write_pool(events: Events, pool: Pool) -> None:
    """Name the devices of a pool, and write what they do."""
    chosen = set(pool.ranks)
    tracks = list(_tracks(pool))
    for rank in pool.ranks:
        _name_device(events, pool, rank, tracks)
    for phase in pool.phases:
        for turn in phase.turns:
            placement = phase.placements[turn.part]
            own = [rank for rank in pool.ranks if turn.stage in (None, phase.placement.stage(rank))]
            for rank in own:
                _write_turn(events, phase, turn, pool.first + rank)
            if len(chosen) > 1:
                _write_groups(events, turn, pool.first, own, placement)
        _write_hops(events, pool, phase, chosen)


def _name_device(events: Events, pool: Pool, rank: int, tracks: Sequence[int]) -> None:
    plan, placement = pool.plan, pool.placement
    node, gpu = divmod(rank, ranks_per_node(plan))
    stage, program = placement.stage(rank), pool.phases[0].main.program
    parts = [f"layers {show_layers(p.layers, p.every)}" for p in program.stages[stage] if p.layers is not None]
    label = ", ".join([f"rank {rank}", f"stage {stage}", *parts])
    if len(placement.stages[stage]) > 1:
        label = f"replica {placement.replica(rank)}, {label}"
    pid, word = pool.first + rank, f"{pool.word} " if pool.word else ""
    events.name_process(pid, f"{word}node{node}/gpu{gpu}", label, pid)
    for tid in tracks:
        events.name_track(Track(pid, tid), NAMES[tid])


def _tracks(pool: Pool) -> Iterator[int]:
    """The tracks that devices of a pool have."""
    yield from (PASSES, KERNELS)
    works = [ran for phase in pool.phases for turn in phase.turns for layer in turn.work.layers for ran in layer.ran]
    if any(ran.stream == LINK for ran in works):
        yield LINKS
    if any(phase.hops for phase in pool.phases):
        yield HOPS
    if pool.word:
        yield TRANSFER


def _write_turn(events: Events, phase: Phase, turn: Turn, pid: int) -> None:
    """Write a pass on one device: the pass, its layers inside it, and their ops."""
    batch, part = divmod(turn.batch, phase.parts)
    args = {"batch": batch, "round": turn.round} | ({"micro_batch": part} if phase.parts > 1 else {})
    word = f"{turn.part} {turn.passes.program.phase}" if turn.part else phase.name
    events.slice(Track(pid, PASSES), f"{word}, batch {batch}", "pass", (turn.start, turn.end), args)
    for layer in turn.work.layers:
        begin = turn.start + layer.start
        events.slice(Track(pid, PASSES), layer.name, "layer", (begin, begin + layer.seconds))
        for ran in layer.ran:
            track = Track(pid, LINKS if ran.stream == LINK else KERNELS)
            args = op_args(ran, turn)
            events.slice(track, ran.line.name, ran.line.op, (begin + ran.start, begin + ran.end), args)


def op_args(ran: Ran, turn: Turn) -> dict[str, Any]:
    """What a viewer shows of an op: what bounds it, and what one run computes and moves on one device."""
    line, share = ran.line, 1 / float(turn.passes.run.steps)
    found: dict[str, Any] = {"bound": line.bound, "from": line.layer, "op": line.op}
    if line.communicates:
        found |= {"axis": line.axis, "algorithm": line.algorithm, "bytes": line.bytes * share}
        found |= {"wire_bytes": line.wire * share, "calls": line.count}
    else:
        found |= {"flops": line.flops * share, "bytes": line.bytes * share}
    found |= {"shape": dict(line.shape)} if line.shape else {}
    found |= {"gpu": line.gpu} if line.gpu else {}
    found |= {"nodes": line.nodes} if line.nodes > 1 else {}
    found |= {"part": turn.part} if turn.part else {}
    return found | ({"busy_us": ran.busy * 1e6} if ran.end - ran.start > ran.busy * (1 + 1e-9) else {})


def _write_groups(events: Events, turn: Turn, first: int, own: Sequence[int], placement: Placement) -> None:
    """Join the slices of each collective over the ranks of its group that are written."""
    there = set(own)
    for axis in dict.fromkeys(r.line.axis for layer in turn.work.layers for r in layer.ran if r.stream == LINK):
        groups = dict.fromkeys(placement.peers(rank, axis) for rank in own)
        written = [[rank for rank in group if rank in there] for group in groups]
        for layer, ran in _collectives(turn, axis):
            time = turn.start + layer.start + ran.start
            word = "ring" if isinstance(ran.op, Ring) else "group"
            for group in written:
                events.flow(ran.line.name, word, [(Track(first + rank, LINKS), time) for rank in group])


def _collectives(turn: Turn, axis: str) -> Iterator[tuple[Layer, Ran]]:
    for layer in turn.work.layers:
        yield from ((layer, ran) for ran in layer.ran if ran.stream == LINK and ran.line.axis == axis)


def _write_hops(events: Events, pool: Pool, phase: Phase, chosen: set[int]) -> None:
    """Write each hop on the devices that send, and an arrow to the pass that waits for it."""
    begins = {(turn.stage, turn.batch, turn.round): turn.start for turn in phase.turns if not turn.part}
    for hop in phase.hops:
        line = hop.op.line
        batch, part = divmod(hop.batch, phase.parts)
        share = line.count / float(phase.main.run.steps)
        args = {"axis": line.axis, "algorithm": line.algorithm, "bytes": line.bytes * share, "batch": batch}
        args |= {"wire_bytes": line.wire * share} | ({"micro_batch": part} if phase.parts > 1 else {})
        begin = begins[hop.stage + 1, hop.batch, hop.round]
        for rank in pool.ranks:
            if phase.placement.stage(rank) != hop.stage:
                continue
            here, other = pool.first + rank, phase.placement.across(rank, hop.stage + 1)
            name = f"batch {batch} to stage {hop.stage + 1}"
            events.slice(Track(here, HOPS), name, "hop", (hop.start, hop.end), args | {"to": other})
            if other in chosen and hop.end > hop.start:
                there = Track(pool.first + other, PASSES)
                events.flow(name, "hop", [(Track(here, HOPS), hop.start), (there, begin)])


def _write_transfer(events: Events, model: Deployment, pools: Sequence[Pool], sent: tuple[float, float]) -> None:
    """Write how the cache of one request travels: slices on both sides, and arrows between them."""
    first, second = pools
    moved, (start, end) = transfer_flows(model, 1), sent
    here, there = set(first.ranks), set(second.ranks)
    for cells, side, chosen, at in ((0, first, here, "sender"), (1, second, there, "receiver")):
        totals: dict[int, float] = {}
        for cell in moved.cells:
            totals[getattr(cell, at)] = totals.get(getattr(cell, at), 0.0) + cell.bytes
        word = ("send", "receive")[cells]
        for rank, bytes_ in sorted(totals.items()):
            if rank in chosen:
                args = {"bytes_of_a_request": bytes_}
                events.slice(Track(side.first + rank, TRANSFER), f"{word} KV cache", "transfer", (start, end), args)
    for cell in moved.cells:
        if cell.sender in here and cell.receiver in there:
            ends = [
                (Track(first.first + cell.sender, TRANSFER), start),
                (Track(second.first + cell.receiver, TRANSFER), start),
            ]
            events.flow("KV cache", "transfer", ends)


# ---- servers: their engine, and what their GPUs hold


def _write_servers(events: Events, pool: Pool, pools: Sequence[Pool], model: Deployment, steps: Steps) -> None:
    """Write what the engine of each server adds, what its GPUs hold, and when requests have their first tokens."""
    offset = FIRST_SERVER + sum_up(other.servers.n for other in pools[: pools.index(pool)])
    replicas = sorted({pool.placement.replica(rank) for rank in pool.ranks})
    levels = list(_levels(pool, model, steps))
    for replica in replicas:
        pid = offset + replica
        events.name_process(pid, f"{pool.word or 'server'} {replica}", "engine and requests", pid)
        events.name_track(Track(pid, 1), "first tokens")
        for phase in pool.phases:
            for host in phase.hosts:
                track = Track(pid, 2 + host.batch)
                events.slice(track, "engine", "engine", (host.start, host.end))
            for batch in sorted({host.batch for host in phase.hosts}):
                events.name_track(Track(pid, 2 + batch), f"engine, batch {batch}")
        if steps.prefill in pool.phases:
            for batch, time in _first_tokens(steps.prefill):
                events.moment(Track(pid, 1), f"first tokens of batch {batch}", time)
        for level in levels:
            values = {"requests": level.requests, "tokens": level.tokens, "blocks": level.blocks}
            for name, value in values.items():
                events.counter(pid, f"KV {name}" if name != "requests" else name, level.time, {name: value})
    for rank in pool.ranks:
        stage = pool.placement.stage(rank)
        for level in levels:
            events.counter(pool.first + rank, "memory (GB)", level.time, level.memory[stage])


def _first_tokens(phase: Phase) -> Iterator[tuple[int, float]]:
    """When the last stage is done with the last pass of each batch."""
    last, ends = len(phase.main.stages) - 1, dict[int, float]()
    for turn in phase.turns:
        if turn.stage == last:
            ends[turn.batch // phase.parts] = turn.end
    yield from sorted(ends.items())


class Level(NamedTuple):
    """What a server holds from ``time`` on; ``memory`` in GB on a GPU of each stage."""

    time: float
    requests: float
    tokens: float
    blocks: float
    memory: list[dict[str, float]]


def _levels(pool: Pool, model: Deployment, steps: Steps) -> Iterator[Level]:
    """What the servers of a pool hold: a batch more behind each prefill, a token more of each request behind a step."""
    metrics, load = model.own, model.plan.workload
    size = float(metrics.batch if steps.decode in pool.phases else metrics.joined)
    yield _level(pool, 0.0, size, 0, load.input, input_=load.input)
    if steps.prefill in pool.phases:
        done = sorted(time for _, time in _first_tokens(steps.prefill))
        for number, time in enumerate(done, 1):
            yield _level(pool, time, size, number, load.input, input_=load.input)
        if steps.sent is not None:
            yield _level(pool, steps.sent[1], size, 0, load.input, input_=load.input)
    if steps.decode in pool.phases:
        gain = float(pool.servers.one.gain)
        flights = steps.decode.batches
        first = steps.decode.times.main.context - (gain if steps.decode.rounds else 0)
        for number, time in enumerate(_rounds(steps.decode)):
            yield _level(pool, time, size, flights, float(first) + gain * (number + 1), input_=load.input)


def _rounds(phase: Phase) -> Iterator[float]:
    """When each round of steps begins."""
    begins: dict[int, float] = {}
    for turn in phase.turns:
        begins[turn.round] = min(begins.get(turn.round, turn.start), turn.start)
    yield from (begins[number] for number in sorted(begins))


def _level(pool: Pool, time: float, size: float, flights: int, length: float, input_: int) -> Level:
    memory = pool.servers.memory
    held = [memory.held(stage, size, length, input_, flights) for stage in range(len(memory.weights))]
    told = [
        {
            "weights": float(h.weights) / 1e9,
            "KV cache": float(h.kv_cache) / 1e9 if flights else 0.0,
            "activations": float(h.activations) / 1e9,
            "buffers": float(h.buffers) / 1e9,
        }
        for h in held
    ]
    tokens = size * flights * length
    return Level(time, size * flights, tokens, size * flights * -(-length // memory.block), told)
