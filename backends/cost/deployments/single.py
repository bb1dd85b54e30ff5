"""The cost model of one compiled plan: metrics for any batch and lengths, as numbers or arrays."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from plandsl.backends.cost.deployments.memory import MemoryModel
from plandsl.backends.cost.deployments.ongoing import Served, batched, running, serve, together
from plandsl.backends.cost.deployments.prefix import reused
from plandsl.backends.cost.num import ceil_div, largest, maximum, minimum, plain
from plandsl.backends.cost.time.phase import PhaseModel, PhaseTimes
from plandsl.backends.cost.work.costing import Machine
from plandsl.ir.program import PREFILL
from plandsl.ir.schedule import Schedule
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.time.mixed import Mixer
    from plandsl.estimate import Shift, Speculated

HOT = 24
"""Configurations, one by one, after which a model is worth compiling: that takes as long as some dozens of answers."""


class Metrics(NamedTuple):
    """The answers for one configuration, or arrays of them; SI units. ``used`` is the largest share of a GPU's room."""

    ttft: Number
    tpot: Number
    latency: Number
    throughput: Number
    throughput_per_gpu: Number
    memory: Number
    used: Number
    kv_capacity: Number
    max_batch: Number
    fits: Number
    prefill: PhaseTimes
    decode: PhaseTimes
    served: Served | None = None
    mixed: Number = 0.0


class Ongoing(NamedTuple):
    """Requests of one replica under an ongoing load: in flight, running, joining at once; and the most in a batch."""

    clients: Number
    runs: Number
    joined: Number
    largest_batch: Number


class CostModel:
    """Times one plan. Compile once, then ask for as many configurations as you like.

    A configuration binds ``batch`` (requests of one in-flight batch of one replica) or ``concurrency`` (requests
    always in flight, over all replicas; ``requests`` in all), ``input`` and ``output`` (tokens), each a number or a
    numpy array; what is not given is the plan's. A step brings each request ``gain`` tokens.
    """

    gain: Number = 1
    mixer: Mixer | None = None
    """Times steps of both phases, where a plan has such."""
    straight = True
    """Whether answers for plain numbers may be traced: what is done must not depend on their values."""

    def __init__(self, plan: PlanSpec, prefill: Schedule, decode: Schedule) -> None:
        self.plan = plan
        self._time(prefill, decode)
        self.memory = MemoryModel(prefill.program, decode.program, plan, self.prefill.extents)
        self.in_flight = prefill.in_flight

    def _time(self, prefill: Schedule, decode: Schedule) -> None:
        """Both phases on the plan's GPUs."""
        self.prefill, self.decode = _phases(self.plan, prefill, decode)
        if self.plan.chunked_prefill is not None:
            from plandsl.backends.cost.time.mixed import Mixer

            self.mixer = Mixer(self.prefill, self.decode, self.plan.chunked_prefill)
        self.straight = self.prefill.modelled
        self._asked: dict[str, int] = {}
        self._hot: dict[str, Callable[..., Any]] = {}

    def on(self, plan: PlanSpec) -> CostModel:
        """The same schedules and memory under other figures of ``plan``'s hardware, calibration or engine."""
        other = copy(self)
        other.plan, other.memory = plan, self.memory.on(plan)
        other._time(self.prefill.schedule, self.decode.schedule)
        return other

    def requests(
        self, metrics: Metrics, batch: Number | None = None, output: Number | None = None
    ) -> tuple[Number, Number]:
        """Requests of a prefill step and of a decode step, where a load does not say them the plan's own."""
        load, served = self.plan.workload, metrics.served
        if served is None:
            batch = load.batch if batch is None else batch
            return batch, batch
        joined = 1 if self.mixer else together(served.running, (load.output if output is None else output) / self.gain)
        return joined, served.running / self.in_flight

    def taken(self, phase: str, metrics: Metrics) -> CostModel:
        """The model of the sharding that a phase takes under the plan's own load: here there is one."""
        return self

    def by_tokens(self, phase: str, tokens: Number, of: Callable[[PhaseModel], Number]) -> Number:
        """What is so of a phase, by the sharding that takes a step of ``tokens``: here there is one."""
        return of(self.prefill if phase == PREFILL else self.decode)

    def shift(self, metrics: Metrics) -> Shift | None:
        """What is to be said of two shardings, where the plan holds them."""
        return None

    def speculated(self, metrics: Metrics) -> Speculated | None:
        """What is to be said of tokens guessed ahead, where the plan does that."""
        return None

    def prefill_times(self, batch: Number, input_: Number, in_flight: Number) -> PhaseTimes:
        """Prefill of one batch: what is not in the cache, attending to all of the input."""
        part, parts = self.parts(batch)
        bind = {"batch": part, "input": input_ - reused(self.plan, input_), "context": input_}
        times = self.prefill.at(bind, in_flight, [(1.0, input_)])
        return times if self.plan.micro_batches == 1 else times.followed(parts, in_flight)

    def parts(self, batch: Number) -> tuple[Number, Number]:
        """Requests of one part that a prefill of ``batch`` is cut into, the fullest, and how many parts there are."""
        if self.plan.micro_batches == 1:
            return batch, 1
        part = ceil_div(batch, self.plan.micro_batches)
        return part, ceil_div(batch, part)

    def decode_times(self, batch: Number, input_: Number, output: Number, queries: Number = 1) -> PhaseTimes:
        """One decode step of one batch, averaged over the growing context.

        Step t of ``output - 1`` attends to ``input + t`` tokens; the mean over steps is that over the interval
        ``input + 1/2 .. input + output - 1/2``, exactly so where the time is linear in the context. Of several
        ``queries`` of a request, the first one does.
        """
        steps = maximum(output - 1, 1)  # a lone token needs no step: the first one is shown
        ahead = queries - 1
        nodes = self.decode.contexts(input_ + 0.5 + ahead, input_ + steps + 0.5 + ahead)
        return self.decode.at({"batch": batch, "context": input_, "queries": queries}, self.in_flight, nodes)

    def evaluate(
        self,
        batch: Number | None = None,
        input: Number | None = None,
        output: Number | None = None,
        concurrency: Number | None = None,
        requests: Number | None = None,
    ) -> Metrics:
        """All metrics (language.md section 5)."""
        load = self.plan.workload
        i = load.input if input is None else input
        o = load.output if output is None else output
        if batch is None and concurrency is None and load.concurrency is None:
            batch = load.batch
        if batch is not None:
            return self._answer(self._together, batch, i, o)
        n = load.concurrency if concurrency is None else concurrency
        requests = load.requests if requests is None else requests
        if requests is None:
            return self._answer(self._endless, n, i, o)
        return self._answer(self._ongoing, n, i, o, requests)

    def _answer(self, way: Callable[..., Metrics], *numbers: Number) -> Metrics:
        """``way(*numbers)``; what is asked again and again is written down once, as straight code."""
        if not self.straight or not plain(*numbers):
            return way(*numbers)
        if way.__name__ not in self._hot:
            asked = self._asked[way.__name__] = self._asked.get(way.__name__, 0) + 1
            if asked <= HOT:
                return way(*numbers)
            from plandsl.backends.cost.time.trace import traced

            self._hot[way.__name__] = traced(way, *(f"n{i}" for i in range(len(numbers))))
        return cast(Metrics, self._hot[way.__name__](*numbers))

    def resident(self, input_: Number, output: Number, ongoing: bool) -> tuple[Number, Number]:
        """Tokens of KV cache that a request holds, and in-flight batches that hold theirs.

        A pool that computes prompts holds these, and those of one more batch, which is being sent.
        """
        if self.plan.kv_residency == "prompts":
            return input_, self.in_flight + 1
        if ongoing:
            return input_ + self.plan.runs_on.kept_output * output, self.in_flight
        return input_ + output, self.in_flight if self.plan.kv_residency == "all_batches" else 1

    def ongoing(self, n: Number, input_: Number, output: Number) -> Ongoing:
        """How many of ``n`` requests in flight over all replicas run in one of them, and share a prefill."""
        clients = ceil_div(n, self.plan.sharding.replicas)
        kept, rounds = self.resident(input_, output, ongoing=True)
        largest_batch = self.memory.max_batch(kept, input_, rounds)
        runs = running(self.plan.runs_on, clients, largest_batch * rounds)
        return Ongoing(clients, runs, together(runs, output / self.gain), largest_batch)

    def _together(self, b: Number, i: Number, o: Number) -> Metrics:
        """In-flight batches of ``b`` requests that start together."""
        sharding, engine, rounds = self.plan.sharding, self.plan.runs_on, self.in_flight
        prefill, decode = self.prefill_times(b, i, rounds), self.decode_times(b, i, o)
        ttft, tpot = batched(engine, b, prefill, decode, self.gain)
        whole = prefill.period + engine.admit * b + engine.first + o * tpot
        kept, resident = self.resident(i, o, ongoing=False)
        most = self.memory.max_batch(kept, i, resident)
        if self.mixer is not None:
            chunks = self.mixer.together(b, i - reused(self.plan, i), i, rounds)
            prefill, host = chunks.whole, engine.step + engine.request * b
            ttft = batched(engine, b, prefill, decode)[0] + chunks.steps * host
            whole = ttft - engine.first_request * b + o * tpot
            mean = minimum(chunks.after, maximum(o - 1, 0))
            mixed = mean / maximum(o - 1, 1) * (chunks.times.period + host - tpot)
            rate = sharding.replicas * rounds * b * o / whole
            made = self._metrics(ttft, tpot + mixed, i, o, rate, b, kept, resident, most, prefill, decode, None)
            return made._replace(mixed=mixed)
        return self._metrics(ttft, tpot, i, o, sharding.replicas * rounds * b * o / whole, b, kept, resident, most,
                             prefill, decode, None)  # fmt: skip

    def _endless(self, n: Number, i: Number, o: Number) -> Metrics:
        """The same without an end."""
        return self._ongoing(n, i, o, None)

    def _ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """``n`` requests always in flight, over all replicas; `load.serve` has the formulas."""
        replicas, rounds = self.plan.sharding.replicas, self.in_flight
        clients, runs, joined, most = self.ongoing(n, i, o)
        b = runs / rounds
        decode, chunks = self.decode_times(b, i, o), None
        if self.mixer is None:
            prefill = self.prefill_times(joined, i, 1)
        else:
            chunks = self.mixer.one(b, i - reused(self.plan, i), i, rounds)
            prefill = chunks._replace(steps=ceil_div(chunks.steps, 1)).whole
        served = serve(self.plan.runs_on, clients, runs, o, None if requests is None else requests / replicas,
                       prefill, joined, decode, rounds, self.gain, chunks)  # fmt: skip
        kept, resident = self.resident(i, o, ongoing=True)
        return self._metrics(served.ttft, served.tpot, i, o, replicas * served.rate * o, b, kept, resident, most,
                             prefill, decode, served)  # fmt: skip

    def _metrics(
        self, ttft: Number, tpot: Number, i: Number, o: Number, throughput: Number, b: Number, kept: Number,
        resident: Number, most: Number, prefill: PhaseTimes, decode: PhaseTimes, served: Served | None,
    ) -> Metrics:  # fmt: skip
        """Times and memory: ``resident`` batches of ``b`` (at most ``most``) requests hold ``kept`` tokens."""
        sharding = self.plan.sharding
        held = [self.memory.held(s, b, kept, i, resident).total for s in range(len(self.memory.weights))]
        return Metrics(
            ttft,
            tpot,
            ttft + (o - 1) * tpot,
            throughput,
            throughput / sharding.ranks,
            largest(held),
            largest([total / room for total, room in zip(held, self.memory.capacities, strict=True)]),
            self.memory.kv_capacity(b, kept, i, resident) * sharding.replicas,
            most,
            self.memory.fit(held),
            prefill,
            decode,
            served,
        )


def _phases(plan: PlanSpec, prefill: Schedule, decode: Schedule) -> list[PhaseModel]:
    """Both phases on the plan's GPUs."""
    if len(plan.kinds) > 1:
        from plandsl.backends.cost.time.unlike import phases

        return phases(plan, (prefill, decode))
    machine = Machine.of(plan)
    return [PhaseModel(prefill, machine), PhaseModel(decode, machine)]
