"""What a plan costs and draws: typed results, in SI units unless a name says otherwise, and their JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from plandsl.units import HOUR

KWH = 1000 * HOUR

Band = tuple[float, float]


class Money(NamedTuple):
    """What one copy of a plan costs: USD an hour by a ``tariff``, per request, and per million tokens.

    ``input_usd_per_mtok`` and ``output_usd_per_mtok`` share the rent by the time of prefill and decode;
    ``blended_usd_per_mtok`` by tokens. ``sources`` say whose prices these are; empty where the plan states them.
    """

    tariff: str
    usd_per_h: float
    usd_per_request: float
    usd_per_mtok: float
    input_usd_per_mtok: float
    output_usd_per_mtok: float | None
    blended_usd_per_mtok: float
    prefill_share: float
    sources: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The ``money`` object; without a cost of output where nothing comes out."""
        found = self._asdict() | {"sources": list(self.sources)}
        return found if self.output_usd_per_mtok is not None else {k: v for k, v in found.items() if v is not None}


class Energy(NamedTuple):
    """What one copy of a plan draws on average: GPUs, the rest of their nodes where ``whole``, and ``pue`` around both.

    ``idle_w`` is what the same draws without work. ``fitted``: the law of power was fitted on these GPUs.
    """

    power_w: float
    power_w_band: Band
    gpu_power_w: float
    idle_w: float
    j_per_token: float
    j_per_request: float
    whole: bool
    pue: float
    fitted: bool

    def as_json(self) -> dict[str, Any]:
        """The ``energy`` object."""
        return self._asdict() | {"power_w_band": list(self.power_w_band)}

    def at(self, share: float) -> float:
        """W where the plan has work in a share of the time."""
        return self.idle_w + min(share, 1.0) * (self.power_w - self.idle_w)


class Served(NamedTuple):
    """What a plan costs and draws while it makes output tokens at some rate; None where it is not known."""

    usd_per_h: float | None
    usd_per_mtok: float | None
    power_w: float | None
    j_per_token: float | None

    def as_json(self) -> dict[str, float | None]:
        """The ``spent`` object of a simulation."""
        return self._asdict()


def spent_at(rate: float, most: float, money: Money | None, energy: Energy | None) -> Served:
    """What a plan costs and draws that makes ``rate`` output tokens/s, where it has work for ``most``."""
    hourly = None if money is None else money.usd_per_h
    power = None if energy is None or not rate >= 0 else energy.at(rate / most)
    return Served(
        usd_per_h=hourly,
        usd_per_mtok=None if hourly is None or not rate > 0 else hourly / HOUR / rate * 1e6,
        power_w=power,
        j_per_token=None if power is None or not rate > 0 else power / rate,
    )


class Fleet(NamedTuple):
    """The copies of a plan that a ``demand`` of requests per second takes, and what they cost and draw together."""

    demand: float
    copies: int
    replicas: int
    gpus: int
    nodes: int
    requests_per_s_each: float
    usd_per_h: float | None
    usd_per_month: float | None
    usd_per_mtok: float | None
    power_w: float | None
    kwh_per_month: float | None
    j_per_token: float | None

    def as_json(self) -> dict[str, Any]:
        """The ``fleet`` object; null where a price or a power is not known."""
        return {"demand_requests_per_s": self.demand} | {k: v for k, v in self._asdict().items() if k != "demand"}
