"""A plan under traffic: typed results of `planc simulate`, in SI units, with their machine form."""

from __future__ import annotations

from math import isfinite, nan
from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.answers.about import NOBODY, About
from plandsl.answers.estimate import Requirement
from plandsl.answers.money import Served

if TYPE_CHECKING:
    from plandsl.columns import Table

GROWS = "the queue grows"
"""What fails of a run that is not stable."""

UNSERVED = "no request is served"
"""What fails of a run that refuses all."""


class Figure(NamedTuple):
    """A number, and the half width of its 95 % interval; NaN where the run is too short for one."""

    value: float
    half: float

    def as_json(self) -> dict[str, float | None]:
        """Both numbers; null where there is none."""
        return {"value": _number(self.value), "half_width": _number(self.half)}


class Spread(NamedTuple):
    """The mean and the percentiles of a quantity, and how often it was measured."""

    mean: Figure
    p50: Figure
    p90: Figure
    p95: Figure
    p99: Figure
    number: int

    def as_json(self) -> dict[str, Any]:
        """Each figure by its name."""
        return {name: getattr(self, name).as_json() for name in self._fields[:-1]} | {"number": self.number}


class Summary(NamedTuple):
    """A run. Throughputs are over ``duration_s``, from the first request to the last token; tokens are those served.

    ``goodput`` are requests/s that kept all bounds. ``bearable`` is the rate of requests that was served while the
    queue grew; NaN where it did not. ``warnings`` say what the numbers do not.
    """

    requests: int
    served: int
    duration_s: float
    request_rate: float
    input_rate: float
    output_rate: float
    goodput: float
    ttft: Spread
    tpot: Spread
    itl: Spread
    latency: Spread
    preemptions: int
    bearable: float
    warnings: tuple[str, ...]

    @property
    def stable(self) -> bool:
        """Whether the queue does not grow."""
        return not isfinite(self.bearable)


class Occupancy(NamedTuple):
    """What one server held while it worked: means over time and largest values over all servers.

    ``running`` and ``waiting`` are requests, ``kv_cache`` is the share of the blocks of KV memory. NaN where steps were
    not kept.
    """

    running: tuple[float, float]
    waiting: tuple[float, float]
    kv_cache: tuple[float, float]
    busy: float

    def as_json(self) -> dict[str, Any]:
        """Mean and peak of each, and the share of the run in which servers had a step on their way."""
        both = {
            name: dict(zip(("mean", "peak"), map(_number, getattr(self, name)), strict=True))
            for name in self._fields[:3]
        }
        return {**both, "busy_share": _number(self.busy)}


NO_OCCUPANCY = Occupancy((nan, nan), (nan, nan), (nan, nan), nan)
"""What is told where steps were not kept."""


class PrefillPool(NamedTuple):
    """The pool that makes first tokens, where another pool decodes: its servers, and what one of them held."""

    replicas: int
    scheduler: str
    router: str
    occupancy: Occupancy

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {**self._asdict(), "occupancy": self.occupancy.as_json()}


class TierUse(NamedTuple):
    """What came from a tier of KV memory: tokens of all requests, and bytes that a GPU loaded, as a mean."""

    tokens: int
    bytes_per_gpu: float

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {"loaded_tokens": self.tokens, "loaded_bytes_per_gpu": self.bytes_per_gpu}


class Found(NamedTuple):
    """What was found of prompts: ``cached`` of their ``tokens`` at first admission, and what each tier gave.

    A request that was preempted may load tokens again.
    """

    tokens: int
    cached: int
    tiers: tuple[TierUse, ...]

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "input_tokens": self.tokens,
            "cached_tokens": self.cached,
            "tiers": [tier.as_json() for tier in self.tiers],
        }


class AdapterUse(NamedTuple):
    """What became of the ``requests`` that name an adapter (LoRA) and were admitted.

    ``resident`` found it on the GPUs of their server. Steps loaded adapters ``loaded[0]`` times from host memory, in
    ``load_s[0]`` seconds each, and ``loaded[1]`` times from disk. ``waited`` requests were passed over since all slots
    had other adapters, and waited ``wait_s`` seconds from then on, in the mean. ``slots`` are those of a GPU.
    """

    requests: int
    resident: int
    loaded: tuple[int, int]
    load_s: tuple[float, float]
    waited: int
    wait_s: float
    slots: int

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "requests": self.requests, "resident": self.resident, "loaded_from_host": self.loaded[0],
            "loaded_from_disk": self.loaded[1], "load_from_host_s": self.load_s[0],
            "load_from_disk_s": self.load_s[1], "waited": self.waited, "wait_s": _number(self.wait_s),
            "slots": self.slots,
        }  # fmt: skip


class Simulation(NamedTuple):
    """A plan that served requests one by one.

    ``gpus`` of all replicas; ``scheduler`` and ``router`` by name; ``seed`` of what was drawn. ``requires`` of the plan
    and of its classes. ``unchecked`` are the texts of requirements that a run of requests says nothing of.
    With ``prefill`` the other servers decode only. ``found``: what the prefix cache and its tiers had, where there are
    tiers; ``adapters``: what became of requests that name some. ``spent``: what the plan costs and draws at the rate
    that was served, where it was asked for.
    """

    plan: str
    gpus: int
    replicas: int
    scheduler: str
    router: str
    seed: int
    summary: Summary
    occupancy: Occupancy
    requires: tuple[Requirement, ...]
    unchecked: tuple[str, ...]
    prefill: PrefillPool | None = None
    found: Found | None = None
    adapters: AdapterUse | None = None
    spent: Served | None = None
    about: About = NOBODY
    encodes: bool = False

    @property
    def times(self) -> tuple[str, ...]:
        """The names of the times of its requests; where nothing comes out of them (``encodes``) there is one."""
        return ("latency",) if self.encodes else ("ttft", "tpot", "itl", "latency")

    @property
    def ok(self) -> bool:
        """Whether some request was served and every requirement that was checked is met."""
        return self.summary.served > 0 and all(r.ok for r in self.requires)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        from plandsl.answers.tables import SIMULATION

        return SIMULATION

    def table(self, name: str) -> Table:
        """A table by its name. Raises `PlanError` (E445) for another name."""
        from plandsl.answers.tables import simulation_table

        return simulation_table(self, name)

    def __repr__(self) -> str:
        from plandsl.answers.shown import simulation_line

        return simulation_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The machine form; null where there is no number."""
        s = self.summary
        spreads = {f"{name}_s": getattr(s, name).as_json() for name in self.times}
        rates = {"input_tokens_per_s": _number(s.input_rate)}
        rates |= {} if self.encodes else {"output_tokens_per_s": _number(s.output_rate)}
        return {
            "plan": self.plan, "gpus": self.gpus, "replicas": self.replicas, "scheduler": self.scheduler,
            "router": self.router, "seed": self.seed, "requests": s.requests, "served": s.served,
            "duration_s": _number(s.duration_s), "requests_per_s": _number(s.request_rate),
            **rates,
            "goodput_requests_per_s": _number(s.goodput), **spreads, "preemptions": s.preemptions,
            "bearable_requests_per_s": _number(s.bearable), "occupancy": self.occupancy.as_json(),
            "requires": [{"text": r.text, "value": _number(r.value), "ok": r.ok} for r in self.requires],
            **({} if self.prefill is None else {"prefill_pool": self.prefill.as_json()}),
            **({} if self.found is None else {"prefix_cache": self.found.as_json()}),
            **({} if self.adapters is None else {"adapters": self.adapters.as_json()}),
            **({} if self.spent is None else {"spent": self.spent.as_json()}),
            "unchecked": list(self.unchecked), "warnings": list(s.warnings), "ok": self.ok,
        }  # fmt: skip


class Short(NamedTuple):
    """A short simulation of a plan's load, beside its estimate in closed form.

    ``kind`` is "requests": ``requests`` of the load's ``of`` were served, from the first on (None: all of them). Or it
    is "steady loop": the middle of a closed loop without end, of which ``requests`` were measured; the throughputs
    follow from the latency. ``running`` requests run on a server in the mean.
    """

    kind: str
    requests: int
    of: int | None
    ttft: Spread
    tpot: Spread
    latency: Spread
    request_rate: float
    output_rate: float
    goodput: float
    running: float
    preemptions: int
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The machine form; null where there is no number."""
        spreads = {f"{name}_s": getattr(self, name).as_json() for name in ("ttft", "tpot", "latency")}
        return {
            "kind": self.kind, "requests": self.requests, "of": self.of, **spreads,
            "requests_per_s": _number(self.request_rate), "output_tokens_per_s": _number(self.output_rate),
            "goodput_requests_per_s": _number(self.goodput), "running": self.running,
            "preemptions": self.preemptions, "warnings": list(self.warnings),
        }  # fmt: skip


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
