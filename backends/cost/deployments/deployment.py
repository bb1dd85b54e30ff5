"""`Deployment`: all metrics under a load, as numbers or arrays, for every kind of deployment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from plandsl.arguments import Arguments, guarded, is_plain_load
from plandsl.backends.cost.deployments.ongoing import Served
from plandsl.backends.cost.num import are_numbers
from plandsl.backends.cost.time.phase import PhaseTimes
from plandsl.ir.types import Number
from plandsl.spec.plan import OF_OUTPUT, PlanSpec
from plandsl.units import show_count, show_time

if TYPE_CHECKING:
    from plandsl.backends.cost.deployments.replicas import Replicas
    from plandsl.backends.cost.deployments.transfer import Transfer
    from plandsl.columns import Table

COLUMNS = {
    "batch": "batch",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "latency": "latency_s",
    "throughput": "throughput_tokens_per_s",
    "throughput_per_gpu": "throughput_per_gpu_tokens_per_s",
    "memory": "memory_per_gpu_bytes",
    "kv_capacity": "kv_capacity_tokens",
    "max_batch": "max_batch",
    "fits": "fits",
}
"""Fields of metrics, and the columns of their table; of requests that are always in flight, ``batch`` run at once."""

HOT = 24
"""The number of single configurations after which the model is compiled, which takes as long as dozens of answers."""


class Phases:
    """Prefill and decode of one configuration, timed when first asked for: most callers of metrics never ask."""

    def __init__(self, time: Callable[[], tuple[PhaseTimes, PhaseTimes]]) -> None:
        self._time = time

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Phases) and self.both == other.both

    @cached_property
    def both(self) -> tuple[PhaseTimes, PhaseTimes]:
        """The times of prefill, and of decode."""
        return self._time()


class Metrics(NamedTuple):
    """The answers for one configuration, or arrays of them; SI units. ``used`` is the largest share of a GPU's room.

    ``tpot`` includes ``mixed``, which steps with prompts of the same batch add, and ``sent``, which the transfer of the
    cache between two pools adds. ``phases`` times the prompts of ``joined`` requests and a step of ``batch`` requests.
    """

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
    phases: Phases
    joined: Number
    batch: Number
    served: Served | None = None
    mixed: Number = 0.0
    sent: Number = 0.0
    encodes: bool = False

    @property
    def prefill(self) -> PhaseTimes:
        """The times of prefill."""
        return self.phases.both[0]

    @property
    def decode(self) -> PhaseTimes:
        """The times of a decode step."""
        return self.phases.both[1]

    def table(self) -> Table:
        """A row for each configuration, in the order of the broadcast arrays."""
        import numpy as np

        from plandsl.columns import Table

        left_out = OF_OUTPUT if self.encodes else ()
        columns = {column: getattr(self, name) for name, column in COLUMNS.items() if name not in left_out}
        if isinstance(self, LoadMetrics):
            columns = {**self.load} | {name: x for name, x in columns.items() if name not in self.load}
        arrays = np.broadcast_arrays(*map(np.asarray, columns.values()))
        return Table("metrics", {name: array.ravel() for name, array in zip(columns, arrays, strict=True)})

    def __repr__(self) -> str:
        shape = getattr(self.latency, "shape", ())
        if shape:
            return f"<Metrics of {' x '.join(map(str, shape))} configurations: {', '.join(COLUMNS)}>"
        fits = "fits" if self.fits else "does not fit"
        times = f"TTFT {show_time(float(self.ttft))}"
        times += "" if self.encodes else f", TPOT {show_time(float(self.tpot))}"
        return f"<Metrics: {fits}, {times}, {show_count(float(self.throughput))} tok/s>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    @property
    def numbers(self) -> Metrics:
        """The same without the programs that ran: two plans that take equally long have equal numbers."""
        return self._replace(phases=Phases(lambda: (self.prefill._replace(runs=()), self.decode._replace(runs=()))))


class LoadMetrics(Metrics):
    """Metrics that carry the ``load`` that was asked about, by name, for their table."""

    load: Mapping[str, Number] = MappingProxyType({})

    @classmethod
    def of(cls, metrics: Metrics, load: Mapping[str, Number]) -> LoadMetrics:
        """``metrics`` with the load."""
        made = cls._make(metrics)
        made.load = load
        return made


def _check_load(given: dict[str, Number]) -> Iterator[Number | None]:
    """The numbers of a load, None for those that are not given. Raises `PlanError` where they are none."""
    call = Arguments("evaluate", **given)
    if "batch" in given and (other := next((k for k in ("concurrency", "requests") if k in given), "")):
        why = f"`batch` is a load that starts together, and `{other}` is one of requests that are always in flight"
        raise call.error("E447", other, why, hint="leave one of the two out")
    checked = {name: call.load(name) for name in given}
    if len(arrays := {name: x for name, x in checked.items() if not are_numbers(x)}) > 1:
        import numpy as np

        try:
            np.broadcast_shapes(*(x.shape for x in arrays.values()))
        except ValueError:
            shapes = ", ".join(f"`{name}` {x.shape}" for name, x in arrays.items())
            why, hint = f"the shapes of the arrays do not broadcast: {shapes}", "to combine all values: batch[:, None]"
            raise call.error("E447", list(arrays)[-1], why, hint=hint) from None
    return (checked.get(name) for name in ("batch", "input", "output", "concurrency", "requests"))


class Deployment(ABC):
    """The cost model of one plan. Compile once, then evaluate any number of configurations.

    A configuration binds ``batch`` (requests of one in-flight batch of one replica) or ``concurrency`` (requests
    always in flight, over all replicas; ``requests`` in all), ``input`` and ``output`` (tokens), each a number or a
    numpy array. The plan has the defaults.
    """

    plan: PlanSpec

    def __init__(self, plan: PlanSpec) -> None:
        self.plan = plan
        self._asked: dict[str, int] = {}
        self._hot: dict[str, Callable[..., Any]] = {}

    @property
    @abstractmethod
    def pools(self) -> tuple[Replicas, ...]:
        """The servers: one group for both phases, or the servers of prefill and the servers of decode."""

    @property
    @abstractmethod
    def transfer(self) -> Transfer | None:
        """The transfer of the KV cache between two pools; None for one pool."""

    def counted(self, i: Number, o: Number) -> Number:
        """The tokens of a request that throughput counts."""
        return i if self.plan.workload.encodes else o

    @abstractmethod
    def on(self, plan: PlanSpec) -> Deployment:
        """The same deployment with other figures of hardware, calibration or engine, from ``plan``."""

    def nudged(self, plan: PlanSpec, metrics: Metrics) -> Metrics:
        """The metrics of ``plan``, whose figures are a hair worse or better; ``metrics`` are those of this plan."""
        return self.on(plan).evaluate()

    @abstractmethod
    def guessing(self, tokens: Number, acceptance: Number) -> Deployment:
        """The same deployment with ``tokens`` guesses of chance ``acceptance`` each; numbers or arrays, as a load."""

    @abstractmethod
    def together(self, b: Number, i: Number, o: Number) -> Metrics:
        """Metrics of batches of ``b`` requests that start together."""

    @abstractmethod
    def ongoing(self, n: Number, i: Number, o: Number, requests: Number | None) -> Metrics:
        """Metrics of ``n`` requests always in flight, ``requests`` in all; None: without end."""

    def endless(self, n: Number, i: Number, o: Number) -> Metrics:
        """Metrics of ``n`` requests always in flight, without end."""
        return self.ongoing(n, i, o, None)

    @cached_property
    def own(self) -> Metrics:
        """All metrics for the plan's own load."""
        return self.evaluate()

    @guarded
    def evaluate(
        self,
        batch: Number | None = None,
        input: Number | None = None,
        output: Number | None = None,
        concurrency: Number | None = None,
        requests: Number | None = None,
    ) -> Metrics:
        """All metrics (docs/language.md, "What the numbers mean").

        Raises `PlanError` for a number below 1 (E445), for ``batch`` beside ``concurrency`` or ``requests``, and for
        arrays that do not broadcast (E447).
        """
        numbers = (batch, input, output, concurrency, requests)
        clash = batch is not None and (concurrency is not None or requests is not None)
        if clash or not all(x is None or is_plain_load(x) for x in numbers):
            given = zip(("batch", "input", "output", "concurrency", "requests"), numbers, strict=True)
            batch, input, output, concurrency, requests = _check_load({k: x for k, x in given if x is not None})
        load = self.plan.workload
        if load.encodes and output is not None:
            why, hint = "the load of this plan has `output = 0`", "leave it out"
            raise Arguments("evaluate", output=output).error("E447", "output", why, hint=hint)
        i = load.input if input is None else input
        o = load.output if output is None else output
        if batch is None and concurrency is None and load.concurrency is None:
            batch = load.batch
        if batch is not None:
            return self._answer(self.together, batch, i, o)
        n = load.concurrency if concurrency is None else concurrency
        requests = load.requests if requests is None else requests
        if requests is None:
            return self._answer(self.endless, n, i, o)
        return self._answer(self.ongoing, n, i, o, requests)

    def _answer(self, way: Callable[..., Metrics], *numbers: Number) -> Metrics:
        """``way(*numbers)``; after `HOT` calls compiled as straight-line code."""
        if not are_numbers(*numbers):
            return way(*numbers)
        if way.__name__ not in self._hot:
            asked = self._asked[way.__name__] = self._asked.get(way.__name__, 0) + 1
            if asked <= HOT:
                return way(*numbers)
            from plandsl.backends.cost.time.trace import trace

            names = [f"n{i}" for i in range(len(numbers))]
            self._hot[way.__name__] = trace(lambda *n: way(*n[:-1])._replace(phases=n[-1]), *names, "phases")
        return cast(Metrics, self._hot[way.__name__](*numbers, Phases(lambda: way(*numbers).phases.both)))
