"""The cost model of one compiled plan: metrics for any batch and lengths, as numbers or arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plandsl.backends.cost.load import IDEAL, Served, running, serve, together
from plandsl.backends.cost.memory import MemoryModel
from plandsl.backends.cost.num import ceil_div, largest, maximum
from plandsl.backends.cost.times import PhaseModel, PhaseTimes
from plandsl.backends.cost.work import Machine
from plandsl.ir.schedule import Schedule
from plandsl.ir.types import Number
from plandsl.spec import PlanSpec

if TYPE_CHECKING:
    from plandsl.estimate import Shift


class Metrics(NamedTuple):
    """The answers for one configuration, or arrays of them; SI units."""

    ttft: Number
    tpot: Number
    latency: Number
    throughput: Number
    throughput_per_gpu: Number
    memory: Number
    kv_capacity: Number
    max_batch: Number
    fits: Number
    prefill: PhaseTimes
    decode: PhaseTimes
    served: Served | None = None


class CostModel:
    """Times one plan. Compile once, then ask for as many configurations as you like.

    A configuration binds ``batch`` (requests of one in-flight batch of one replica) or ``concurrency`` (requests
    always in flight, over all replicas; ``requests`` in all), ``input`` and ``output`` (tokens), each a number or a
    numpy array; what is not given is the plan's.
    """

    def __init__(self, plan: PlanSpec, prefill: Schedule, decode: Schedule) -> None:
        self.plan = plan
        machine = Machine.of(plan)
        self.prefill = PhaseModel(prefill, machine)
        self.decode = PhaseModel(decode, machine)
        self.memory = MemoryModel(prefill.program, decode.program, plan, self.prefill.extents)
        self.in_flight = prefill.in_flight

    def requests(self, metrics: Metrics) -> tuple[Number, Number]:
        """Requests of a prefill step and of a decode step under the plan's own load."""
        load, served = self.plan.workload, metrics.served
        if served is None:
            return load.batch, load.batch
        return together(served.running, load.output), served.running / self.in_flight

    def taken(self, phase: str, metrics: Metrics) -> CostModel:
        """The model of the sharding that a phase takes under the plan's own load: here there is one."""
        return self

    def shift(self, metrics: Metrics) -> Shift | None:
        """What is to be said of two shardings, where the plan holds them."""
        return None

    def prefill_times(self, batch: Number, input_: Number, in_flight: Number) -> PhaseTimes:
        """Prefill of one batch."""
        return self.prefill.at({"batch": batch, "input": input_}, in_flight, [(1.0, input_)])

    def decode_times(self, batch: Number, input_: Number, output: Number) -> PhaseTimes:
        """One decode step of one batch, averaged over the growing context.

        Step t of ``output - 1`` attends to ``input + t`` tokens; the mean over steps is that over the interval
        ``input + 1/2 .. input + output - 1/2``, exactly so where the time is linear in the context.
        """
        steps = maximum(output - 1, 1)  # a lone token needs no step: the first one is shown
        nodes = self.decode.contexts(input_ + 0.5, input_ + steps + 0.5)
        return self.decode.at({"batch": batch, "context": input_}, self.in_flight, nodes)

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
        if batch is not None:
            return self._together(batch, i, o)
        if concurrency is None and load.concurrency is None:
            return self._together(load.batch, i, o)
        n = load.concurrency if concurrency is None else concurrency
        return self._ongoing(n, i, o, load.requests if requests is None else requests)

    def _together(self, b: Number, i: Number, o: Number) -> Metrics:
        """In-flight batches of ``b`` requests that start together."""
        sharding, engine, rounds = self.plan.sharding, self.plan.engine or IDEAL, self.in_flight
        prefill, decode = self.prefill_times(b, i, rounds), self.decode_times(b, i, o)
        joining, host = engine.admit * b, engine.step + engine.request * b
        ttft = prefill.through + joining + engine.first + engine.first_request * b
        tpot = decode.period + host
        whole = prefill.period + joining + engine.first + o * tpot
        resident = rounds if self.plan.kv_residency == "all_batches" else 1
        return self._metrics(ttft, tpot, i, o, sharding.replicas * rounds * b * o / whole, b, i + o, resident,
                             prefill, decode, None)  # fmt: skip

    def _ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """``n`` requests always in flight, over all replicas; `load.serve` has the formulas."""
        sharding, engine, rounds = self.plan.sharding, self.plan.engine or IDEAL, self.in_flight
        kept = i + engine.kept_output * o
        clients = ceil_div(n, sharding.replicas)
        runs = running(engine, clients, self.memory.max_batch(kept, i, rounds) * rounds)
        joined, b = together(runs, o), runs / rounds
        prefill, decode = self.prefill_times(joined, i, 1), self.decode_times(b, i, o)
        served = serve(engine, clients, runs, o, None if requests is None else requests / sharding.replicas,
                       prefill, joined, decode, rounds)  # fmt: skip
        throughput = sharding.replicas * served.rate * o
        return self._metrics(served.ttft, served.tpot, i, o, throughput, b, kept, rounds,
                             prefill, decode, served)  # fmt: skip

    def _metrics(
        self, ttft: Number, tpot: Number, i: Number, o: Number, throughput: Number, b: Number, kept: Number,
        resident: Number, prefill: PhaseTimes, decode: PhaseTimes, served: Served | None,
    ) -> Metrics:  # fmt: skip
        """With memory beside the times: ``resident`` batches of ``b`` requests that hold ``kept`` tokens each."""
        sharding = self.plan.sharding
        memory = largest([self.memory.held(s, b, kept, i, resident).total for s in range(len(self.memory.weights))])
        return Metrics(
            ttft,
            tpot,
            ttft + (o - 1) * tpot,
            throughput,
            throughput / sharding.ranks,
            memory,
            self.memory.kv_capacity(b, kept, i, resident) * sharding.replicas,
            self.memory.max_batch(kept, i, resident),
            memory <= self.memory.capacity,
            prefill,
            decode,
            served,
        )
