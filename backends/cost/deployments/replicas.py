"""Equal servers side by side, each with a share of the requests: their metrics under a load."""

from typing import NamedTuple

from plandsl.backends.cost.deployments.batch import decode_step, prefill_step, resident_tokens, time_batch
from plandsl.backends.cost.deployments.chunks import (
    Chunks,
    chunk_lone,
    chunk_prompt,
    cuts_prompts,
    decodes_beside,
    sustained_requests,
)
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics, Phases
from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.ongoing import joined_prefills, running_requests, serve
from plandsl.backends.cost.deployments.prefix import reused_tokens
from plandsl.backends.cost.deployments.server import Server
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.deployments.step import Step
from plandsl.backends.cost.num import ceil_div, floor, largest, maximum, minimum
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec


class Occupancy(NamedTuple):
    """What the GPUs of a server hold: bytes of the fullest GPU, and the largest share of a GPU's memory."""

    memory: Number
    used: Number
    fits: Number
    kv_capacity: Number


class Crowd(NamedTuple):
    """Requests of one replica under an ongoing load: in flight, running, joining at once; and the largest batch."""

    clients: Number
    runs: Number
    joined: Number
    largest_batch: Number


class Replicas(Deployment):
    """A `Deployment` of ``n`` servers equal to ``one``."""

    transfer: None = None

    def __init__(self, n: int, one: Server) -> None:
        super().__init__(one.plan)
        self.n, self.one = n, one

    @property
    def pools(self) -> "tuple[Replicas, ...]":
        """These servers, for both phases."""
        return (self,)

    @property
    def main(self) -> Single:
        """The server of the model itself, of one replica."""
        return self.one.main

    @property
    def memory(self) -> MemoryModel:
        """The memory of one server."""
        return self.one.memory

    @property
    def in_flight(self) -> int:
        """Batches in flight in one server."""
        return self.one.in_flight

    @property
    def gain(self) -> Number:
        """Tokens that a decode step brings a request."""
        return self.one.gain

    def on(self, plan: PlanSpec) -> "Replicas":
        """The same servers with the figures of ``plan``."""
        return Replicas(self.n, self.one.on(plan))

    def guessing(self, tokens: Number, acceptance: Number) -> "Replicas":
        """The same with other guesses, each right with chance ``acceptance``; numbers or arrays, as a load."""
        return Replicas(self.n, self.one.guessing(tokens, acceptance))

    def step(self, step: Step, in_flight: Number) -> PhaseTimes:
        """Times of a step of one server."""
        return self.one.step(step, in_flight)

    def occupancy(self, b: Number, i: Number, o: Number, ongoing: bool) -> Occupancy:
        """What the GPUs hold with batches of ``b`` requests."""
        memory = self.memory
        kept, resident = resident_tokens(self.one, i, o, ongoing)
        totals = memory.totals(b, kept, i, resident)
        tokens = memory.kv_capacity(b, kept, i, resident) if self.plan.engine is None else memory.kv_tokens(i + o)
        return Occupancy(
            largest([total for total, _ in totals]),
            largest([total / capacity for total, capacity in totals]),
            memory.fit(totals),
            tokens * self.n,
        )

    def max_batch(self, i: Number, o: Number, ongoing: bool) -> Number:
        """The most requests in a batch."""
        kept, resident = resident_tokens(self.one, i, o, ongoing)
        return self.memory.max_batch(kept, i, resident)

    def together(self, b: Number, i: Number, o: Number) -> Metrics:
        """Metrics of batches of ``b`` requests that start together."""
        found = time_batch(self.one, b, i, o)
        rate = self.n * self.in_flight * b * self.counted(i, o) / found.whole
        return Metrics(
            ttft=found.first.ttft,
            tpot=found.tpot,
            latency=found.first.ttft + (o - 1) * found.tpot,
            throughput=rate,
            throughput_per_gpu=rate / self.plan.sharding.ranks,
            **self.occupancy(b, i, o, ongoing=False)._asdict(),
            max_batch=self.max_batch(i, o, ongoing=False),
            phases=Phases(lambda: (found.first.times, found.decode)),
            encodes=self.plan.workload.encodes,
            joined=b,
            batch=b,
            mixed=found.mixed,
        )

    def crowd(self, n: Number, i: Number, o: Number) -> Crowd:
        """Requests of one replica where ``n`` requests are in flight over all replicas."""
        clients = ceil_div(n, self.n)
        most = self.max_batch(i, o, ongoing=True)
        _, rounds = resident_tokens(self.one, i, o, ongoing=True)
        runs = running_requests(self.plan.effective_engine, clients, most * rounds)
        encodes = self.plan.workload.encodes
        if cuts_prompts(self.one) and decodes_beside(self.one):
            runs = minimum(runs, rounds * sustained_requests(self.one, i, o))
        joined = joined_prefills(runs, o / self.gain, self.main.ways)
        step = self.plan.chunked_prefill or self.plan.full_step
        if encodes and step:  # all that run are read, a full step at a time
            joined = minimum(joined, maximum(floor(step / (i - reused_tokens(self.plan, i))), 1) * self.main.ways)
        return Crowd(clients, runs, joined, most)

    def ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """Metrics of ``n`` requests always in flight, over all replicas; `ongoing.serve` has the formulas."""
        clients, runs, joined, most = self.crowd(n, i, o)
        one, b = self.one, runs / self.in_flight
        decode = decode_step(one, b, i, o)
        chunks: Chunks | None = None
        if cuts_prompts(one):
            if self.plan.workload.encodes or self.plan.effective_engine.mixes_steps:
                chunks = chunk_prompt(one, b, i, self.in_flight, o)
            else:
                chunks = chunk_lone(one, joined, i)
            prefill = chunks._replace(steps=ceil_div(chunks.steps, 1)).whole
        else:
            prefill = prefill_step(one, joined, i, 1)
        served = serve(
            self.plan.effective_engine, clients, runs=runs, output=o,
            requests=None if requests is None else requests / self.n, prefill=prefill, joined=joined,
            decode=decode, flights=self.in_flight, gain=self.gain, chunks=chunks, ways=self.memory.ways(0),
            decodes=not self.plan.workload.encodes,
        )  # fmt: skip
        rate = self.n * served.rate * self.counted(i, o)
        return Metrics(
            ttft=served.ttft,
            tpot=served.tpot,
            latency=served.ttft + (o - 1) * served.tpot,
            throughput=rate,
            throughput_per_gpu=rate / self.plan.sharding.ranks,
            **self.occupancy(b, i, o, ongoing=True)._asdict(),
            max_batch=most,
            phases=Phases(lambda: (prefill, decode)),
            encodes=self.plan.workload.encodes,
            joined=joined if chunks is None else 1,
            batch=b,
            served=served,
        )
