"""Replicas over a day: the typed result of `planc autoscale`, in SI units, with its machine form."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

from plandsl.answers.about import NOBODY, About
from plandsl.answers.simulation import Simulation
from plandsl.units import HOUR
from plandsl.values import sum_up


class Interval(NamedTuple):
    """The part of a load from ``start_s`` to ``end_s``, with ``rate`` arrivals per second on average.

    ``replicas`` are the fewest with which it is stable and meets the requirements, ``run`` is their simulation; None
    where nothing arrives. Where no number was found, ``fails`` says what was missed with the most that were tried.
    ``power_w`` is the average power of the replicas, and of the fixed deployment; None where a power is not known.
    """

    start_s: float
    end_s: float
    rate: float
    replicas: int
    run: Simulation | None = None
    fails: tuple[str, ...] = ()
    power_w: tuple[float, float] | None = None

    @property
    def hours(self) -> float:
        """Its length."""
        return (self.end_s - self.start_s) / HOUR


class Autoscale(NamedTuple):
    """The fewest replicas of a plan in each interval of its load, and what they cost.

    A replica has ``gpus`` GPUs, costs ``price_usd_per_h`` (None without a price) and bears ``capacity`` arrivals per
    second; NaN where it meets the requirements at no rate. Arrivals are conversations where a load has them. Runs serve
    ``requests`` requests for each replica. ``warnings``: what so few requests cannot tell.
    """

    plan: str
    gpus: int
    price_usd_per_h: float | None
    capacity: float
    every_s: float
    requests: int
    intervals: tuple[Interval, ...]
    warnings: tuple[str, ...] = ()
    about: About = NOBODY

    @property
    def ok(self) -> bool:
        """Whether every interval has a number of replicas."""
        return not any(one.fails for one in self.intervals)

    @property
    def peak(self) -> int:
        """The replicas of a fixed deployment: those of the busiest interval."""
        return max(one.replicas for one in self.intervals)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of the whole load."""
        return self.gpus * sum_up(one.replicas * one.hours for one in self.intervals)

    @property
    def fixed_gpu_hours(self) -> float:
        """GPU hours of the fixed deployment."""
        return self.gpus * self.peak * sum_up(one.hours for one in self.intervals)

    @property
    def energy_kwh(self) -> tuple[float, float] | None:
        """The energy of the whole load, by the replicas and by the fixed deployment; None where it is not known."""
        if any(one.power_w is None for one in self.intervals):
            return None
        kilowatts = [(one.power_w or (0.0, 0.0), one.hours / 1000) for one in self.intervals]
        return sum_up(power[0] * t for power, t in kilowatts), sum_up(power[1] * t for power, t in kilowatts)

    def cost_usd(self, gpu_hours: float) -> float | None:
        """The price of so many GPU hours."""
        return None if self.price_usd_per_h is None else self.price_usd_per_h / self.gpus * gpu_hours

    def __repr__(self) -> str:
        from plandsl.answers.shown import autoscale_line

        return autoscale_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The machine form; null where there is no number."""
        return {
            "plan": self.plan, "gpus_per_replica": self.gpus, "price_usd_per_h": self.price_usd_per_h,
            "capacity_per_s": self.capacity if isfinite(self.capacity) else None, "every_s": self.every_s,
            "requests_per_replica": self.requests, "ok": self.ok, "peak_replicas": self.peak,
            "gpu_hours": self.gpu_hours, "cost_usd": self.cost_usd(self.gpu_hours),
            "fixed_gpu_hours": self.fixed_gpu_hours, "fixed_cost_usd": self.cost_usd(self.fixed_gpu_hours),
            **dict(zip(("energy_kwh", "fixed_energy_kwh"), self.energy_kwh or (None, None), strict=True)),
            "warnings": list(self.warnings), "intervals": [self._interval_json(one) for one in self.intervals],
        }  # fmt: skip

    def _interval_json(self, one: Interval) -> dict[str, Any]:
        hours = self.gpus * one.replicas * one.hours
        return {
            "start_s": one.start_s, "end_s": one.end_s, "rate_per_s": one.rate, "replicas": one.replicas,
            "gpu_hours": hours, "cost_usd": self.cost_usd(hours),
            "power_w": None if one.power_w is None else one.power_w[0], "fails": list(one.fails),
            "simulation": None if one.run is None else one.run.as_json(),
        }  # fmt: skip
