"""`Pools`: a pool of servers for prefill, a pool for decode, and a transfer of KV cache between them.

Sources: Zhong et al., "DistServe", OSDI 2024; Patel et al., "Splitwise", ISCA 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from plandsl.backends.cost.deployments.batch import (
    PrefillBatch,
    decode_step,
    prefill_batch,
    prefill_step,
    resident_tokens,
)
from plandsl.backends.cost.deployments.chunks import chunk_prompt, cuts_prompts
from plandsl.backends.cost.deployments.deployment import Deployment, Metrics, Phases
from plandsl.backends.cost.deployments.ongoing import (
    PromptCost,
    Served,
    drained_rate,
    host_seconds,
    queue_seconds,
    running_requests,
    slowest_seconds,
    whole_prompt_cost,
)
from plandsl.backends.cost.deployments.replicas import Occupancy, Replicas
from plandsl.backends.cost.deployments.transfer import Transfer, TransferTimes
from plandsl.backends.cost.num import are_numbers, call_traced, ceil_div, follow_rise, maximum, minimum, where
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec, SplitSpec
from plandsl.values import sum_up


class Rates(NamedTuple):
    """Requests/s that each pool and the link between them sustain, and the transfer ``moved`` of a batch."""

    prefill: Number
    transfer: Number
    decode: Number
    moved: TransferTimes

    @property
    def least(self) -> Number:
        """Requests/s of the whole: the least of the three."""
        return minimum(minimum(self.prefill, self.transfer), self.decode)

    @property
    def limit(self) -> str:
        """The slowest of the three, for plain numbers."""
        return min(("prefill", "transfer", "decode"), key=lambda name: float(getattr(self, name)))


class Batches(NamedTuple):
    """Batches in both pools: prompts in one, the mean decode step in the other, TPOT with transfer, and rates."""

    first: PrefillBatch
    decode: PhaseTimes
    tpot: Number
    rates: Rates


class Flow(NamedTuple):
    """An ongoing load on both pools: a closed network of three stations.

    ``d`` of ``N`` requests have a place in the decode pool: they decode, or their cache is on its way (``tau`` seconds
    of this are exposed). The prompts of the others are computed, or wait. ``P`` prefill servers take ``E`` seconds for
    a prompt, and ``L`` lanes carry ``c`` requests/s together:

        X(d) = d / (tau + (output - 1) tpot(d))                                  requests/s (Little 1961)
        N    = d + X (queue of a prefill server + own + first + queue of a lane)    solved for d by bisection

    A queue is ``(N - 1) / N`` times the wait of Pollaczek and Khinchine at the rate ``X / P`` or ``X / L``, since no
    request waits for itself. Queues grow without end as X nears ``P / E`` or ``c``: the slowest station bounds the
    rate, and most requests wait there (bottleneck analysis of closed networks; Lazowska et al., "Quantitative system
    performance", 1984, chapters 3 and 5). Where the decode pool has room for fewer than d requests, it is full, and the
    rest wait before their prefill, as in engines that ask the decode server for room first.
    """

    served: Served
    prefill: PhaseTimes
    decode: PhaseTimes
    batch: Number


HALVINGS = 50
"""Steps of a bisection, enough for all digits of a number."""


class Pools(Deployment):
    """A `Deployment` of two pools. ``batch`` is the batch of the decode pool; the prefill pool's plan has its own."""

    def __init__(self, plan: PlanSpec, split: SplitSpec, prefill: Replicas, decode: Replicas) -> None:
        super().__init__(plan)
        self.split, self.prefill, self.decode = split, prefill, decode
        self._transfer = Transfer(split, prefill.memory, decode.memory)
        self._tokens: dict[bool, Callable[..., Number]] = {}
        self.near: Number | None = None

    @property
    def pools(self) -> tuple[Replicas, ...]:
        """The servers of prefill and the servers of decode."""
        return self.prefill, self.decode

    @property
    def transfer(self) -> Transfer:
        """The transfer between the pools."""
        return self._transfer

    def on(self, plan: PlanSpec) -> Pools:
        """The same deployment with the figures of ``plan``."""
        split = plan.split
        assert split is not None, "other figures leave the pools"
        return Pools(plan, split, self.prefill.on(split.prefill), self.decode.on(split.decode))

    def nudged(self, plan: PlanSpec, metrics: Metrics) -> Metrics:
        """The same. The number of requests in the decode pool is found beside that of ``metrics``."""
        other = self.on(plan)
        other.near = None if metrics.served is None else metrics.served.running
        return other.evaluate()

    def guessing(self, tokens: Number, acceptance: Number) -> Pools:
        """The same deployment with ``tokens`` guesses of chance ``acceptance`` each; numbers or arrays, as a load."""
        return Pools(self.plan, self.split, *(pool.guessing(tokens, acceptance) for pool in self.pools))

    def batches(self, first: Number, second: Number, i: Number, o: Number) -> Batches:
        """Batches of ``first`` prompts in one pool, and of ``second`` requests in the other.

        The prefill makes the first token, which does not wait for the transfer (DistServe; TensorRT-LLM and SGLang send
        it with the cache). Later tokens do: ``tpot = step + exposed transfer / (output - 1)``. A request has its place
        in the decode pool from the start of its transfer. With ``places = replicas in_flight batch`` of each pool,

            rates = places / (period + admit batch),  the rate of the ports,  places / ((output - 1) tpot)
        """
        ours, theirs = self.prefill, self.decode
        prompts, decode = prefill_batch(ours.one, first, i), decode_step(theirs.one, second, i, o)
        engine, steps = theirs.plan.effective_engine, maximum(o - 1, 1)
        moved = self.transfer.times(first, i, prompts.times.through)
        host = host_seconds(engine, second, theirs.memory.ways(0))
        tpot = (decode.period + host) / theirs.gain + moved.exposed / steps
        rates = Rates(
            ours.n * ours.in_flight * first / prompts.period,
            moved.rate,
            theirs.n * theirs.in_flight * second / (steps * tpot),
            moved,
        )
        return Batches(prompts, decode, tpot, rates)

    def together(self, b: Number, i: Number, o: Number) -> Metrics:
        """Metrics of batches of ``b`` requests in the decode pool, with the prefill pool's own batch."""
        first = self.prefill.plan.workload.batch
        prompts, decode, tpot, rates = self.batches(first, b, i, o)
        held = fuller_pool(
            self.prefill.occupancy(first, i, o, ongoing=False), self.decode.occupancy(b, i, o, ongoing=False)
        )
        throughput = rates.least * o
        return Metrics(
            ttft=prompts.ttft,
            tpot=tpot,
            latency=prompts.ttft + (o - 1) * tpot,
            throughput=throughput,
            throughput_per_gpu=throughput / self.gpus,
            **held._asdict(),
            max_batch=self.decode.max_batch(i, o, ongoing=False),
            phases=Phases(lambda: (prompts.times, decode)),
            joined=first,
            batch=b,
            sent=rates.moved.exposed / maximum(o - 1, 1),
        )

    @property
    def gpus(self) -> int:
        """GPUs of both pools."""
        return sum_up(pool.plan.sharding.ranks for pool in self.pools)

    def ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """Metrics of ``n`` requests always in flight in both pools together; `Flow` has the formulas."""
        ours, theirs = self.prefill, self.decode
        flow = self.flow(n, i, o, requests)
        held = fuller_pool(ours.occupancy(1, i, o, ongoing=True), theirs.occupancy(flow.batch, i, o, ongoing=True))
        throughput = flow.served.rate * o
        return Metrics(
            ttft=flow.served.ttft,
            tpot=flow.served.tpot,
            latency=flow.served.ttft + (o - 1) * flow.served.tpot,
            throughput=throughput,
            throughput_per_gpu=throughput / self.gpus,
            **held._asdict(),
            max_batch=theirs.max_batch(i, o, ongoing=True),
            phases=Phases(lambda: (flow.prefill, flow.decode)),
            joined=1,
            batch=flow.batch,
            served=flow.served,
            sent=flow.served.sent,
        )

    def flow(self, n: Number, i: Number, o: Number, requests: Number | None) -> Flow:
        """The flow of ``n`` requests always in flight, ``requests`` in all."""
        ours, theirs, gain = self.prefill, self.decode, self.decode.gain
        times, cost = self._prompt(i)
        moved = self.transfer.times(1, i, times.through)
        engine, steps = ours.plan.effective_engine, maximum(o - 1, 0)
        first = engine.first + engine.first_request
        lane = _Lane(moved.exposed, self.transfer.lanes, moved.rate)
        room = self._room(n, i, o)
        ask = call_traced(
            self._running, n, i, o, room, cost.turn, cost.own + first, lane.exposed, lane.servers, lane.rate
        )
        batch = ask / (theirs.n * theirs.in_flight)
        decode = decode_step(theirs.one, batch, i, o)
        step, host = decode.period / gain, self._host(batch) / gain
        stay = lane.exposed + steps * (step + host)
        rate = ask / stay
        others = (n - 1) / n
        line = others * queue_seconds(rate / ours.n, cost.turn)
        port = others * queue_seconds(rate / lane.servers, lane.servers / lane.rate)
        ahead = line + cost.own + first + port
        waiting = where(ask < room, 0.0, maximum(n - ask - rate * ahead, 0.0))
        rate = (n - waiting) / (ahead + stay)
        queue = waiting / rate
        crowd = maximum(n / ours.n - 1, 0) / 2 * cost.turn
        start, whole = 0.0 * crowd, rate
        if requests is not None:
            start = crowd * minimum(n / requests, 1.0)
            queue = queue * (1 - minimum(n / requests, 1.0) / 2)
            whole = drained_rate(rate, ahead + stay, requests, n - waiting)
        others_sent = port / maximum(o - 1, 1)
        served = Served(
            running=ask, waiting=waiting, queue=queue, line=line, start=start, prefill=cost.own, first=first,
            step=step, host=host, others=0.0 * rate, rate=whole,
            sent=lane.exposed / maximum(o - 1, 1) + others_sent, port=others_sent,
        )  # fmt: skip
        return Flow(served, times, decode, batch)

    def rates(self, metrics: Metrics, i: Number, o: Number) -> Rates:
        """Requests/s that each pool and the link between them sustain under the load of ``metrics``."""
        if metrics.served is None:
            return self.batches(metrics.joined, metrics.batch, i, o).rates
        times, cost = self._prompt(i)
        moved = self.transfer.times(1, i, times.through)
        places = self.decode.n * self.decode.in_flight
        room = self._room(inf, i, o)
        full = room / (moved.exposed + maximum(o - 1, 0) * self._token(room / places, i, o))
        return Rates(self.prefill.n / cost.turn, moved.rate, full, moved)

    def alone(self, metrics: Metrics, i: Number, o: Number) -> tuple[Metrics, Metrics]:
        """``metrics`` for each pool alone: with its own memory, and for decode with TPOT without the transfer."""
        ongoing = metrics.served is not None
        ours = self.prefill.occupancy(metrics.joined, i, o, ongoing)
        theirs = self.decode.occupancy(metrics.batch, i, o, ongoing)
        most = self.prefill.max_batch(i, o, ongoing)
        first = metrics._replace(**ours._asdict(), batch=metrics.joined, max_batch=most)
        return first, metrics._replace(**theirs._asdict(), tpot=metrics.tpot - metrics.sent)

    def _prompt(self, i: Number) -> tuple[PhaseTimes, PromptCost]:
        """The times and the cost of one prompt in the prefill pool."""
        one, engine = self.prefill.one, self.prefill.plan.effective_engine
        if not cuts_prompts(one):
            times = prefill_step(one, 1, i, 1)
            return times, whole_prompt_cost(engine, times, 1)
        chunks = chunk_prompt(one, inf, i, 1)
        slowest = slowest_seconds(chunks.times) + engine.step
        whole, turn = chunks._replace(steps=ceil_div(chunks.steps, 1)), chunks.steps * slowest + engine.admit
        return whole.whole, PromptCost(turn, whole.steps * (chunks.times.period + engine.step) + engine.admit, turn)

    def _room(self, n: Number, i: Number, o: Number) -> Number:
        """The most requests that fit in the decode pool."""
        pool = self.decode
        _, rounds = resident_tokens(pool.one, i, o, ongoing=True)
        most = pool.max_batch(i, o, ongoing=True) * rounds
        return pool.n * running_requests(pool.plan.effective_engine, maximum(n / pool.n, 1), most)

    def _host(self, batch: Number) -> Number:
        """Seconds that the engine adds to a decode step of ``batch`` requests."""
        return host_seconds(self.decode.plan.effective_engine, batch, self.decode.memory.ways(0))

    def _token(self, batch: Number, i: Number, o: Number) -> Number:
        """Seconds of a token in the decode pool with batches of ``batch`` requests."""
        return (decode_step(self.decode.one, batch, i, o).period + self._host(batch)) / self.decode.gain

    def _quick_token(self, arrays: bool) -> Callable[..., Number]:
        """`_token` as straight-line code, for plain numbers or for arrays; itself where guesses are arrays."""
        if not are_numbers(self.decode.gain):
            return self._token
        if arrays not in self._tokens:
            from plandsl.backends.cost.time.trace import trace

            self._tokens[arrays] = trace(self._token, "batch", "i", "o", arrays=arrays)
        return self._tokens[arrays]

    def _running(
        self, n: Number, i: Number, o: Number, room: Number, turn: Number, own: Number,
        exposed: Number, servers: Number, rate: Number,
    ) -> Number:  # fmt: skip
        """Requests in the decode pool or on their way to it: ``d`` of `Flow`, found by bisection."""
        places, steps = self.decode.n * self.decode.in_flight, maximum(o - 1, 0)

        def all_of(d: Number, token: Callable[..., Number]) -> Number:
            """Requests in flight with ``d`` in the decode pool; infinite beyond the rates of prefill and ports."""
            x = d / (exposed + steps * token(d / places, i, o))
            waits = queue_seconds(x / self.prefill.n, turn) + queue_seconds(x / servers, servers / rate)
            ahead = own + (n - 1) / n * waits
            borne = (x * turn < self.prefill.n) & (x < rate)
            return where(borne, d + x * ahead, inf)

        plain, top = are_numbers(n, i, o, room), minimum(room, n) + 0.0
        if plain and self.near is not None:
            found = follow_rise(lambda d: all_of(d, self._token) - n, self.near, top)
            if found is not None:
                return found
        token = self._quick_token(not plain)
        low, high = 0.0 * room, top
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = all_of(middle, token) <= n
            low, high = where(fits, middle, low), where(fits, high, middle)
        return where(all_of(top, token) <= n, top, low)


class _Lane(NamedTuple):
    """The way between the pools: exposed seconds of a request, requests that travel at once, and requests/s in all."""

    exposed: Number
    servers: int
    rate: Number


def fuller_pool(prefill: Occupancy, decode: Occupancy) -> Occupancy:
    """The memory of the fuller pool; both must fit, and the KV capacity is of the decode pool."""
    fuller = prefill.used > decode.used
    return decode._replace(
        memory=where(fuller, prefill.memory, decode.memory),
        used=where(fuller, prefill.used, decode.used),
        fits=prefill.fits & decode.fits,
    )
