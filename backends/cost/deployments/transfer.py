"""The transfer of KV cache from the pool that computes it to the pool that decodes, in another layout."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.prefix import shared_tokens
from plandsl.backends.cost.num import ceil_div, largest, maximum, minimum
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.ops import KEEPS, cache_name
from plandsl.ir.program import Region
from plandsl.ir.states import States
from plandsl.ir.types import Number
from plandsl.spec.formats import item_bytes
from plandsl.spec.plan import SplitSpec
from plandsl.values import sum_up

DRAFT = "draft "
"""Prefix of the names of a draft's regions."""

Key = tuple[str, str, int]
"""Region, cache and operand of a cached tensor; equal in every sharding of a model."""


class Kept(NamedTuple):
    """A cached tensor on a stage: ``layers`` of ``size`` bytes per token and request, at most ``window`` tokens.

    Of a state ``size`` is the bytes of all of it, however many tokens the request has. A request's part lies on
    ``ports`` ranks of the stage, every byte of it on ``copies`` of them; ``ways`` are the ranks, or groups of them,
    that share the requests.
    """

    layers: int
    size: Number
    window: int
    ports: Number
    copies: Number
    ways: Number
    state: bool = False

    def bytes(self, tokens: Number) -> Number:
        """Bytes of ``tokens`` tokens of one request, each once, or of its state."""
        if self.state:
            return self.layers * self.size * (tokens > 0)
        return self.layers * self.size * (minimum(tokens, self.window) if self.window else tokens)


def kept_caches(memory: MemoryModel, ranks: int) -> list[dict[Key, Kept]]:
    """The cached tensors of each stage of a replica of ``ranks`` GPUs."""
    found = []
    program = memory.program
    for parts in program.stages:
        here: dict[Key, Kept] = {}
        for part in parts:
            region = program.region(part.region)
            for op in region.ops:
                if isinstance(op, KEEPS):
                    name = cache_name(op)
                    for i in range(len(op.kept)):
                        one = _kept_cache(
                            memory, region, op=op, i=i, layers=part.repeats, ranks=ranks // len(program.stages)
                        )
                        key, before = (region.name, name, i), here.get((region.name, name, i))
                        here[key] = one if before is None else one._replace(layers=one.layers + before.layers)
        found.append(here)
    return (
        found
        if memory.draft is None
        else [here | drafted for here, drafted in zip(found, _kept_by_draft(memory, ranks), strict=True)]
    )


def _kept_by_draft(memory: MemoryModel, ranks: int) -> list[dict[Key, Kept]]:
    """The cache of a draft, which the GPUs of every stage keep; ports and copies count all stages."""
    draft, stages = memory.draft, len(memory.program.stages)
    assert draft is not None, "there is a draft"
    (own,) = kept_caches(draft, ranks // stages)
    all_ = {(DRAFT + region, cache, i): k for (region, cache, i), k in own.items()}
    return [{key: k._replace(ports=stages * k.ports, copies=stages * k.copies) for key, k in all_.items()}] * stages


def _kept_cache(memory: MemoryModel, region: Region, op: CacheWrite | States, i: int, layers: int, ranks: int) -> Kept:
    batch, *rest = op.kept[i].type.dims
    caches = isinstance(op, CacheWrite)
    shared: tuple[str, ...] = rest.pop(0).axes if caches else ()
    extents = memory.extents
    whole: Number = item_bytes(op.kept[i].type.dtype)
    for dim in rest:
        whole = whole * extents.sizes[dim.name]
    own = extents.product(rest) * item_bytes(op.kept[i].type.dtype) / extents.ways(shared)
    ports = ranks / extents.ways(batch.axes)
    return Kept(
        layers,
        whole,
        window=_cache_window(region, op) if isinstance(op, CacheWrite) else 0,
        ports=ports,
        copies=ports * own / whole,
        ways=extents.ways(batch.axes),
        state=not caches,
    )


def _cache_window(region: Region, op: CacheWrite) -> int:
    """The most tokens that attention to a cache sees, 0 for all; each cache has one reader."""
    made = {x.name for x in op.outs}
    readers = [x for x in region.ops if isinstance(x, Attention | LatentAttention | PickKeys)]
    direct = [x.window for x in readers if made & {v.name for v in x.operands}]
    return max(direct or [x.window for x in readers])


class TransferTimes(NamedTuple):
    """The transfer of a batch's KV cache.

    ``request`` is the bytes of one request; the busiest port of each side sends ``sent`` and receives ``received``
    bytes of a request. A batch takes ``seconds``, ``exposed`` of them after its prefill. The ports sustain ``rate``
    requests/s.
    """

    request: Number
    sent: Number
    received: Number
    seconds: Number
    exposed: Number
    rate: Number


class Transfer:
    """The link between two pools of one plan."""

    def __init__(self, split: SplitSpec, prefill: MemoryModel, decode: MemoryModel) -> None:
        self.split = split
        pools = (split.prefill.sharding, prefill), (split.decode.sharding, decode)
        self.sender, self.receiver = (kept_caches(memory, s.ranks // s.replicas) for s, memory in pools)
        self.replicas = pools[0][0].replicas, pools[1][0].replicas
        self.layers = split.prefill.model.layers

    @property
    def lanes(self) -> int:
        """Requests that travel at once: one for each server of the pool with fewer servers."""
        return min(self.replicas)

    def times(self, batch: Number, input_: Number, prefill: Number) -> TransferTimes:
        """The transfer of ``batch`` requests of ``input_`` tokens after a prefill of ``prefill`` seconds.

        The decode pool already has tokens that all requests share. Each of its ranks receives all that it keeps, also
        copies of replicated heads. Ranks of the prefill pool that hold the same bytes send equal parts of the copies:

            received = bytes per rank,   sent = bytes of the stage * copies over there / ports that hold it here
            seconds  = latency + ceil(batch / ways) * max(sent, received) / bandwidth

        Layer by layer, a port with n of N layers sends each layer as soon as it is computed. With t seconds for all
        layers it ends ``max(t / n, t - prefill (n - 1) / N)`` after the prefill: two machines in line (Johnson,
        "Optimal two- and three-stage production schedules", 1954), with equal jobs. Sources: Patel et al.,
        "Splitwise", ISCA 2024 (per-layer transfer); Qin et al., "Mooncake", 2024.
        """
        tokens = input_ - shared_tokens(self.split.prefill, input_)
        copies = {key: k.copies for stage in self.receiver for key, k in stage.items()}
        sides = (
            [(s, [k.bytes(tokens) * copies[key] / k.ports for key, k in s.items()]) for s in self.sender if s],
            [(s, [k.bytes(tokens) * k.copies / k.ports for k in s.values()]) for s in self.receiver if s],
        )
        seconds: Number = 0.0
        exposed: Number = 0.0
        for stages in sides:
            for stage, sizes in stages:
                one = next(iter(stage.values()))
                time = ceil_div(batch, one.ways) * sum_up(sizes) / self.split.bandwidth
                n = sum_up({key[0]: k.layers for key, k in stage.items() if not key[0].startswith(DRAFT)}.values())
                late = maximum(time / n, time - prefill * (n - 1) / self.layers)
                seconds, exposed = maximum(seconds, time), maximum(exposed, late)
        request: Number = 0.0
        for at, stage in enumerate(self.sender):
            once = (k for key, k in stage.items() if at == 0 or not key[0].startswith(DRAFT))
            request = request + sum_up(k.bytes(tokens) for k in once)
        if self.split.kv_transfer != "layerwise":
            exposed = seconds
        latency, (sent, received) = self.split.latency, (largest([sum_up(z) for _, z in side]) for side in sides)
        rates = [
            self.split.bandwidth * replicas * next(iter(stage.values())).ways / sum_up(sizes)
            for replicas, side in zip(self.replicas, sides, strict=True)
            for stage, sizes in side
        ]
        rate = rates[0]
        for other in rates[1:]:
            rate = minimum(rate, other)
        return TransferTimes(
            request, sent, received=received, seconds=latency + seconds, exposed=latency + exposed, rate=rate
        )
