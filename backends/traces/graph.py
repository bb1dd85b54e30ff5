"""From the passes of a phase to the Chakra nodes of each rank: who waits for what, and who sends what to whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, assert_never

from plandsl import limits
from plandsl.answers.estimate import Estimate
from plandsl.backends.cost.answers.flows_pools import transfer_flows
from plandsl.backends.cost.deployments.deployment import Deployment
from plandsl.backends.cost.work.exchange import Exchange
from plandsl.backends.traces import chakra
from plandsl.backends.traces.chakra import Node, encode_groups, encode_trace
from plandsl.backends.traces.passes import Layer, Ran
from plandsl.backends.traces.perfetto import HINT
from plandsl.backends.traces.placement import Placement
from plandsl.backends.traces.ranks import check_size, choose_ranks
from plandsl.backends.traces.timeline import Hop, Phase, Steps, Turn, play_steps
from plandsl.ir.base import COMPUTE, LINK
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Recv,
    ReduceScatter,
    Rescale,
    Reshard,
    Ring,
    Send,
    Slice,
)
from plandsl.ir.compute import Attention, CacheWrite, Ids
from plandsl.ir.earlier import Earlier
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.rule import Regular
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv
from plandsl.values import sum_up

HOP = "hop"
"""The stream of what goes to the next stage: it keeps a link busy, and neither kernels nor collectives wait for it."""

Files: TypeAlias = dict[str, str | bytes]
"""The content of each file by its name."""


def trace_ranks(model: Deployment, told: Estimate, ranks: str = "all", rounds: int = 1) -> Files:
    """A folder of execution traces: ``PHASE.RANK.et`` for each rank, and the groups of ranks in ``PHASE.groups.json``.

    The phases are a prefill of all batches in flight, and ``rounds`` decode steps; of two pools each has ranks of its
    own, and ``transfer`` has those of both, the prefill pool's first. Raises `PlanError` (E510, E511).
    """
    steps = play_steps(model, told.decode.engine_s, rounds, limits.MAX_TRACE_PASSES)
    chosen = [choose_ranks(ranks, phase.placement.stages) for phase in steps.phases]
    counts = (_count_nodes(phase, own) for phase, own in zip(steps.phases, chosen, strict=True))
    check_size("nodes", sum_up(counts), limits.MAX_TRACE_EVENTS, HINT)
    files: Files = {}
    for phase, own in zip(steps.phases, chosen, strict=True):
        files |= _phase_files(model, phase, own)
    if steps.sent is not None:
        files |= _transfer_files(model, steps, *chosen)
    return files


def _count_nodes(phase: Phase, ranks: Sequence[int]) -> int:
    def weigh(ran: Ran) -> int:
        return 2 * ran.line.count if isinstance(ran.op, Ring) else 1

    passes = {id(turn.work): sum_up(weigh(r) for layer in turn.work.layers for r in layer.ran) for turn in phase.turns}
    each = [sum_up(passes[id(t.work)] + 2 for t in phase.turns_of(stage)) for stage in range(len(phase.main.stages))]
    return sum_up(each[phase.placement.stage(rank)] for rank in ranks)


def _phase_files(model: Deployment, phase: Phase, ranks: Sequence[int]) -> Files:
    """The files of a phase, and its groups."""
    groups = _number_groups(phase)
    files: Files = {f"{phase.name}.groups.json": encode_groups(groups)}
    about: dict[str, str | int] = {"plan": model.plan.name, "phase": phase.name, "ranks": phase.placement.mesh.ranks}
    for rank in ranks:
        files[f"{phase.name}.{rank}.et"] = encode_trace(about | {"rank": rank}, Rank(phase, rank, groups).nodes())
    return files


def _number_groups(phase: Phase) -> dict[tuple[int, ...], int]:
    """A number from 1 for each group of ranks that runs a collective, equal for all ranks."""
    found: dict[tuple[int, ...], int] = {}
    for part, placement in phase.placements.items():
        turns = [turn for turn in phase.turns if turn.part == part]
        used: dict[int | None, dict[str, None]] = {}
        for turn in turns:
            works = used.setdefault(turn.stage, {})
            works |= {r.line.axis: None for layer in turn.work.layers for r in layer.ran if r.stream == LINK}
        for stage, axes in used.items():
            for rank in sorted(placement.at):
                if stage in (None, placement.stage(rank)):
                    for axis in axes:
                        found.setdefault(placement.peers(rank, axis), len(found) + 1)
    return found


class Rank:
    """The graph of one rank. A node waits for those whose results it reads, and for the one before it on its stream."""

    def __init__(self, phase: Phase, rank: int, groups: Mapping[tuple[int, ...], int]) -> None:
        self.phase, self.rank, self.groups = phase, rank, groups
        self.stage = phase.placement.stage(rank)
        self.next = 0
        self.streams: dict[str, list[int]] = {}  # what the next node of each waits for
        self.tags: dict[tuple[int, int], int] = {}
        self.made: dict[int, list[int]] = {}  # the last nodes of each batch
        self.begun: dict[int, int] = {}  # the last round that each batch began here
        self.last: list[int] = []  # the last nodes of the pass before: a stage takes one pass after the other

    def nodes(self) -> Iterator[Node]:
        """All nodes, in the order in which they start."""
        hops = defaultdict[tuple[int, int, int], list[Hop]](list)
        for hop in self.phase.hops:
            hops[hop.stage, hop.batch, hop.round].append(hop)
        for turn in self.phase.turns_of(self.stage):
            yield from self._take_tokens(turn)
            ends = self.stage - 1, self.stage
            before, after = ([] if turn.part else hops[stage, turn.batch, turn.round] for stage in ends)
            if before:
                yield from self._receive(before)
            self.made[turn.batch] = sorted({*self.made.get(turn.batch, ()), *self.last})
            for layer in turn.work.layers:
                yield from self._layer(turn, layer)
            self.last = self.made[turn.batch]
            yield from self._send(after)
            yield from self._give_tokens(turn)

    def _layer(self, turn: Turn, layer: Layer) -> Iterator[Node]:
        """The nodes of one layer. It starts when the layer before has ended on all streams, as in the estimate."""
        placement, schedule = self.phase.placements[turn.part], turn.passes.run.phase.schedule
        ran = {one.number: one for one in layer.ran}
        before, outside = self.made.get(turn.batch, []), {value.name for value in layer.region.args}
        ends: list[list[int]] = []  # the last nodes of each slot
        blocks: dict[int, list[int]] = {}  # the receipts of each ring
        for at, slot in enumerate(schedule.slots_of(layer.region.name)):
            op = layer.region.ops[slot.op]
            needed = {node for other in slot.after for node in ends[other]}
            if not needed or any(value.name in outside for value in op.operands):
                needed |= set(before)
            nodes = []
            if slot.op in ran:
                come = [] if slot.along is None else blocks.get(slot.along, [])
                nodes = list(self._op(ran[slot.op], turn, layer, placement, needed=sorted(needed), come=come))
                yield from nodes
            if isinstance(op, Ring):
                blocks[at] = [node.id for node in nodes if node.type == chakra.RECEIVE]
                nodes = nodes[-2:]
            else:
                nodes = nodes[-1:]
            if not nodes:  # it takes no time, but its stream waits for it
                self.streams[slot.stream] = sorted({*self.streams.get(slot.stream, ()), *needed})
            ends.append([node.id for node in nodes] or self.streams[slot.stream])
        last = {node for slot in schedule.slots_of(layer.region.name) for node in self.streams.get(slot.stream, ())}
        self.made[turn.batch] = sorted(last) or before

    def _op(
        self,
        ran: Ran,
        turn: Turn,
        layer: Layer,
        placement: Placement,
        needed: Sequence[int],
        come: Sequence[int],
    ) -> Iterator[Node]:
        """The nodes of an op: one, messages for each step of a ring, or one for each block that has ``come`` by a ring.

        A collective that leaves work to do has a kernel behind it.
        """
        start, end = (turn.start + layer.start + t for t in (ran.start, ran.end))
        name = f"{turn.part}.{layer.name}.{ran.line.name}".lstrip(".").replace(" ", "_")
        line, share, op = ran.line, 1 / float(turn.passes.run.steps), ran.op
        match op:
            case Ring():
                yield from self._ring(ran, name, placement, needed, start=start, share=share)
            case Rescale():
                middle = start + (end - start) * (1 - kernel_share(ran, turn))
                gather = self._collective(op, line.bytes * share, placement.peers(self.rank, line.axis))
                first = self._node(name, chakra.COLLECTIVE, LINK, needed, time=(start, middle), given=gather)
                yield first
                moved = chakra.compute(0, line.bytes * share)
                yield self._node(
                    f"{name}.rescale", chakra.COMPUTE, COMPUTE, [first.id], time=(middle, end), given=moved
                )
            case AllReduce() | AllGather() | ReduceScatter() | AllToAll():
                given = self._collective(op, line.bytes * share, placement.peers(self.rank, line.axis))
                yield self._node(name, chakra.COLLECTIVE, LINK, needed, time=(start, end), given=given)
            case Send() | Recv() | Reshard():
                raise AssertionError("hops have nodes of their own, and nothing is left to reshard")
            case (
                Regular() | CacheWrite() | Attention() | LatentAttention() | PickKeys() | ShortConv() | Recurrence()
                | BlockTail() | BlockState() | Slice() | Split() | Join() | Ids() | Earlier()
            ):  # fmt: skip
                parts = len(come) + 1
                given = chakra.compute(line.flops * share / parts, line.bytes * share / parts)
                each = ran.busy / parts
                for part in range(parts):
                    waits = [*needed, *come[part - 1 : part]] if part else needed
                    stop = end - (parts - 1 - part) * each
                    yield self._node(name, chakra.COMPUTE, ran.stream, waits, time=(stop - each, stop), given=given)
            case _:
                assert_never(op)

    def _collective(
        self, op: AllReduce | AllGather | ReduceScatter | AllToAll | Rescale, payload: float, group: tuple[int, ...]
    ) -> list[chakra.Attribute]:
        """Attributes of a collective. The payload of a gathering counts what all ranks bring together."""
        match op:
            case AllReduce():
                kind, size = chakra.ALL_REDUCE, payload
            case ReduceScatter():
                kind, size = chakra.REDUCE_SCATTER, payload
            case AllToAll():
                kind, size = chakra.ALL_TO_ALL, payload
            case AllGather() | Rescale():
                kind, size = chakra.ALL_GATHER, payload / len(group)
            case _:
                assert_never(op)
        return chakra.collective(kind, size, self.groups[group])

    def _ring(
        self, ran: Ran, name: str, placement: Placement, needed: Sequence[int], start: float, share: float
    ) -> Iterator[Node]:
        """In each step a block to the next rank, and the block of the rank before."""
        group = placement.peers(self.rank, ran.line.axis)
        at = group.index(self.rank)
        after, before = group[(at + 1) % len(group)], group[at - 1]
        each = ran.busy / ran.line.count
        for step in range(ran.line.count):
            begin, size = start + step * each, ran.line.bytes * share
            given = self._message(self.rank, after, size)
            sent = self._node(f"{name}.send", chakra.SEND, LINK, needed, time=(begin, begin + each), given=given)
            taken = self._message(before, self.rank, size)
            got = self._node(f"{name}.receive", chakra.RECEIVE, "", needed, time=(begin, begin + each), given=taken)
            yield from (sent, got)
            needed = [sent.id, got.id]

    def _send(self, hops: Sequence[Hop]) -> Iterator[Node]:
        for number, hop in self._messages(hops):
            other = self.phase.placement.across(self.rank, hop.stage + 1)
            given = self._message(self.rank, other, self._hop_bytes(hop))
            needed = self.made.get(hop.batch, [])
            yield self._node(f"hop_{number}", chakra.SEND, HOP, needed, time=(hop.start, hop.end), given=given)

    def _receive(self, hops: Sequence[Hop]) -> Iterator[Node]:
        """The messages of a hop; what the stage does behind them waits for all of them, not for its own stream."""
        got = []
        for number, hop in self._messages(hops):
            given = self._message(self.phase.placement.across(self.rank, hop.stage), self.rank, self._hop_bytes(hop))
            got.append(self._node(f"hop_{number}", chakra.RECEIVE, "", (), time=(hop.start, hop.end), given=given))
        yield from got
        self.made[hops[0].batch] = [node.id for node in got]

    def _messages(self, hops: Sequence[Hop]) -> Iterator[tuple[int, Hop]]:
        """Each message of ``hops`` with its number: a model that hands on several values sends each by itself."""
        return enumerate(hop for hop in hops for _ in range(hop.op.line.count))

    def _give_tokens(self, turn: Turn) -> Iterator[Node]:
        """The last stage says which tokens it chose to those that begin the next round, before they do."""
        phase = self.phase
        if turn.part or turn.round == phase.rounds - 1 or turn.stage != len(phase.main.stages) - 1:
            return
        for stage in range(len(phase.main.stages) - 1) if phase.drafts else [0] if turn.stage else []:
            other = phase.placement.across(self.rank, stage)
            given = self._message(self.rank, other, self._token_bytes())
            yield self._node("tokens", chakra.SEND, HOP, self.made[turn.batch], time=(turn.end, turn.end), given=given)

    def _take_tokens(self, turn: Turn) -> Iterator[Node]:
        """What begins a round waits for the tokens of its batch; a draft for those of all batches."""
        phase, last = self.phase, len(self.phase.main.stages) - 1
        if turn.round in (0, self.begun.get(turn.batch, 0)) or self.stage == last:
            return
        if not (turn.part or (turn.stage == 0 and not phase.drafts)):
            return
        every = range(phase.batches * phase.parts) if phase.drafts else [turn.batch]
        got = []
        for batch in every:
            self.begun[batch] = turn.round
            other = phase.placement.across(self.rank, last)
            given = self._message(other, self.rank, self._token_bytes())
            got.append(self._node("tokens", chakra.RECEIVE, "", (), time=(turn.start, turn.start), given=given))
        yield from got
        for batch in every:
            self.made[batch] = sorted({*self.made.get(batch, ()), *(node.id for node in got)})

    def _token_bytes(self) -> float:
        """The next token of each request, in 4 bytes."""
        return 4.0 * max(float(self.phase.main.run.bind["batch"]), 1.0)

    def _hop_bytes(self, hop: Hop) -> float:
        return hop.op.line.bytes / float(self.phase.main.run.steps)

    def _message(self, sender: int, receiver: int, size: float) -> list[chakra.Attribute]:
        """Both ends count the messages between them, so that their tags agree."""
        tag = self.tags.get((sender, receiver), 0)
        self.tags[sender, receiver] = tag + 1
        return chakra.message(sender, receiver, tag, size)

    def _node(
        self,
        name: str,
        type_: int,
        stream: str,
        needed: Sequence[int],
        *,
        time: tuple[float, float],
        given: Sequence[chakra.Attribute],
    ) -> Node:
        """The next node; on a ``stream`` it waits for the one before."""
        id_, self.next = self.next, self.next + 1
        control = [node for node in self.streams.get(stream, []) if node not in needed]
        if stream:
            self.streams[stream] = [id_]
        return Node(
            id_, name, type_, data=sorted(set(needed)), control=control, start=time[0], end=time[1], attributes=given
        )


def kernel_share(ran: Ran, turn: Turn) -> float:
    """The share of an exchange's time in which a kernel works on what it brought."""
    work, run = ran.work, turn.passes.run
    if not isinstance(work, Exchange) or work.kernel is None:
        return 0.0
    at = run.phase.bound_sizes(run.bind, run.context)
    rows = at.rows(work.rows)
    kernel, call = float(work.kernel.modelled_seconds(rows)), float(work.modelled_seconds(rows))
    return kernel / (kernel + call)


# ---- between two pools


def _transfer_files(model: Deployment, steps: Steps, senders: Sequence[int], receivers: Sequence[int]) -> Files:
    """The messages that carry the cache of one request from the prefill pool to the decode pool."""
    assert steps.sent is not None, "there are two pools"
    moved, (start, end) = transfer_flows(model, 1), steps.sent
    first = len(steps.prefill.placement.at)
    ranks = first + len(steps.decode.placement.at)
    nodes: dict[int, list[Node]] = {rank: [] for rank in (*senders, *(first + rank for rank in receivers))}
    for cell in moved.cells:
        sender, receiver = cell.sender, first + cell.receiver
        given = chakra.message(sender, receiver, 0, cell.bytes)
        for rank, type_, word in ((sender, chakra.SEND, "send"), (receiver, chakra.RECEIVE, "receive")):
            if (own := nodes.get(rank)) is not None:
                own.append(
                    Node(
                        len(own),
                        f"{word} KV cache",
                        type_,
                        data=(),
                        control=(),
                        start=0.0,
                        end=end - start,
                        attributes=given,
                    )
                )
    about: dict[str, str | int] = {"plan": model.plan.name, "phase": "transfer", "ranks": ranks}
    files: Files = {f"transfer.{rank}.et": encode_trace(about | {"rank": rank}, own) for rank, own in nodes.items()}
    return files | {"transfer.groups.json": encode_groups({})}
