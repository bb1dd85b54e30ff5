"""Traffic: when requests arrive and how long they are, as values in SI units. Nothing is drawn here.

`plandsl.backends.cost.serving.workloads` draws from these values; its docstrings say how.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from attrs import field, frozen

from plandsl.diagnostics import Span
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.spec.plan import RequireSpec

# ---- files


@frozen
class FileSpec:
    """A file of rows: its path from the folder of the root file, and its real path."""

    shown: str
    path: str = field(eq=False)
    span: Span | None = field(default=None, eq=False)


# ---- distributions: of lengths in tokens, of turns, and of times in seconds


class Fixed(NamedTuple):
    """Always ``value``."""

    value: float


class Uniform(NamedTuple):
    """Each value from ``low`` to ``high`` is equally likely. Whole numbers include both ends."""

    low: float
    high: float


class Bounds(NamedTuple):
    """A value below ``low`` becomes ``low``, one above ``high`` becomes ``high``; None: no such bound."""

    low: float | None = None
    high: float | None = None


class Normal(NamedTuple):
    """A normal distribution with this mean and standard deviation."""

    mean: float
    sigma: float
    bounds: Bounds = Bounds()


class Exponential(NamedTuple):
    """An exponential distribution."""

    mean: float
    bounds: Bounds = Bounds()


class Lognormal(NamedTuple):
    """``exp(mu + sigma z)`` with a standard normal ``z``.

    ``given`` are the two numbers that the plan states, of `LOGNORMAL`, in that order; ``mu`` and ``sigma`` solve them.
    """

    given: tuple[tuple[str, float], tuple[str, float]]
    mu: float
    sigma: float
    bounds: Bounds = Bounds()


class Zipf(NamedTuple):
    """The probability of each whole number n from ``low`` to ``high`` is proportional to ``n ** -exponent``."""

    exponent: float
    low: int
    high: int


class Empirical(NamedTuple):
    """The numbers in one column of a CSV file, each row equally likely."""

    file: FileSpec
    column: str


Distribution: TypeAlias = "Fixed | Uniform | Normal | Exponential | Lognormal | Zipf | Empirical"

QUANTILES = {"p50": 0.0, "p95": 1.6448536269514722, "p99": 2.3263478740408408}
"""Percentile -> the same percentile of the standard normal distribution."""

LOGNORMAL = ("mean", *QUANTILES, "sigma")
"""The numbers that a lognormal distribution can be given by: any two of them."""

WIDEST = 10.0
"""Largest ``sigma`` of a lognormal distribution."""


def solve_lognormal(given: dict[str, float]) -> tuple[float, float] | None:
    """``mu`` and ``sigma`` from two numbers of `LOGNORMAL`; None if no distribution has both, or only a wider one.

    With ``mean = exp(mu + sigma^2 / 2)`` and ``pXX = exp(mu + z sigma)``. Mean and percentile have two solutions, of
    which the one with the smaller sigma is taken; it is at most z.
    """
    points = {name: value for name, value in given.items() if name in QUANTILES}
    mean, sigma = given.get("mean"), given.get("sigma")
    if sigma is None and mean is None:
        (a, low), (b, high) = sorted((QUANTILES[name], value) for name, value in points.items())
        sigma = log(high / low) / (b - a)
    elif sigma is None and mean is not None:
        ((name, value),) = points.items()
        z, ratio = QUANTILES[name], log(value / mean)
        inside = z * z - 2 * ratio
        if inside < 0:
            return None
        sigma = sqrt(inside) if name == "p50" else z - sqrt(inside)
    if sigma is None or not 0 <= sigma <= WIDEST:
        return None
    if mean is not None:
        return log(mean) - sigma * sigma / 2, sigma
    name, value = next(iter(points.items()))
    return log(value) - QUANTILES[name] * sigma, sigma


def mean_of(distribution: Distribution) -> float | None:
    """The mean, without bounds; None if only a file has the numbers."""
    match distribution:
        case Fixed(value):
            return value
        case Uniform(low, high):
            return (low + high) / 2
        case Normal() | Exponential():
            return distribution.mean
        case Lognormal():
            return exp(distribution.mu + distribution.sigma**2 / 2)
        case Zipf(exponent, low, high):
            weights: list[float] = [float(n) ** -exponent for n in range(low, high + 1)]
            return sum_up(n * w for n, w in enumerate(weights, low)) / sum_up(weights)
        case Empirical():
            return None
        case _:
            assert_never(distribution)


# ---- arrivals


class Steady(NamedTuple):
    """Gaps between arrivals are gamma distributed with mean ``1 / rate`` and this ``shape``, 1 / cv^2.

    Shape 1 is a Poisson process; None: all gaps are equal. ``scaled``: all times are multiplied so that the last of n
    requests arrives at ``n / rate``, as vLLM's load generator does.
    """

    rate: float
    shape: float | None = 1.0
    scaled: bool = False


class OnOff(NamedTuple):
    """A Poisson process of rate ``high`` for a while, then ``low``, and so on.

    ``on`` and ``off`` are mean durations in seconds, exponentially distributed; with ``fixed`` they are exact.
    """

    high: float
    on: float
    off: float
    low: float = 0.0
    fixed: bool = False


class Varying(NamedTuple):
    """A Poisson process whose rate changes: (time in seconds, rate from then on), the first at 0.

    The last rate stays; with ``every`` seconds, the list starts again.
    """

    steps: tuple[tuple[float, float], ...]
    every: float | None = None


class Traced(NamedTuple):
    """A Poisson process whose rate is that of a trace, counted in bins of so many seconds, times ``scale``."""

    file: FileSpec
    bin: float
    scale: float = 1.0


class AtOnce(NamedTuple):
    """All requests arrive at time 0."""


Arrivals: TypeAlias = "Steady | OnOff | Varying | Traced | AtOnce"


def mean_rate(arrivals: Arrivals | None) -> float | None:
    """Mean arrivals per second in the long run; None if only a trace says, or all arrive at once."""
    match arrivals:
        case Steady():
            return arrivals.rate
        case OnOff():
            return (arrivals.high * arrivals.on + arrivals.low * arrivals.off) / (arrivals.on + arrivals.off)
        case Varying(steps, None):
            return steps[-1][1]
        case Varying(steps, every):
            ends = [*(at for at, _ in steps[1:]), every or 0.0]
            return sum_up(rate * (end - at) for (at, rate), end in zip(steps, ends, strict=True)) / (every or 1.0)
        case _:
            return None


# ---- the whole


@frozen
class TraceSpec:
    """Recorded requests. ``speed`` 2 plays them in half the time. ``format`` empty: recognised by the content."""

    file: FileSpec
    speed: float = 1.0
    format: str = ""


class SessionsSpec(NamedTuple):
    """Conversations of several ``turns``. ``think`` is the time in seconds between an answer and the next request.

    A prompt is ``system`` tokens that all conversations share, then all earlier prompts and answers of the
    conversation, then new tokens.
    """

    turns: Distribution
    think: Distribution
    system: int = 0


class AdaptersSpec(NamedTuple):
    """Which adapter (LoRA) a request names: a number from 1.

    It is drawn from ``which``, or a ``column`` of the trace names it. ``share`` of the requests name one, and all turns
    of a conversation the same.
    """

    which: Distribution | None
    share: float = 1.0
    column: str = ""


class Lengths(NamedTuple):
    """Tokens of a request, in and out. In a conversation ``input`` counts the new tokens of a turn."""

    input: Distribution
    output: Distribution


@frozen
class ClassSpec:
    """One of several kinds of requests, with its ``share`` of the arrivals or with ``arrivals`` of its own.

    The class with the lowest ``priority`` comes first, where the engine's scheduler heeds it.
    """

    name: str
    lengths: Lengths
    share: float | None = None
    arrivals: Arrivals | None = None
    sessions: SessionsSpec | None = None
    adapters: AdaptersSpec | None = None
    requires: tuple[RequireSpec, ...] = ()
    priority: int = 0
    span: Span | None = field(default=None, eq=False)


@frozen
class TrafficSpec:
    """Requests over time. ``lengths`` None: the trace or the classes have them.

    ``arrivals`` None: the trace has the times, each class has its own, or the load is a closed loop. ``duration`` in
    seconds: requests that arrive later are left out.
    """

    arrivals: Arrivals | None = None
    lengths: Lengths | None = None
    trace: TraceSpec | None = None
    sessions: SessionsSpec | None = None
    classes: tuple[ClassSpec, ...] = ()
    duration: float | None = None
    seed: int = 0
    adapters: AdaptersSpec | None = None

    @property
    def named(self) -> tuple[AdaptersSpec, ...]:
        """What says which adapters requests name: of the load, or of each of its classes that has some."""
        every = (self.adapters, *(one.adapters for one in self.classes))
        return tuple(one for one in every if one is not None)

    @property
    def means(self) -> tuple[int, int]:
        """The rounded mean of input and output, at least 1; 1 where only a file has the lengths."""
        if self.lengths is not None:
            weighted = [(1.0, self.lengths)]
        else:
            weighted = [(c.share or mean_rate(c.arrivals) or 1.0, c.lengths) for c in self.classes]
        whole = sum_up(weight for weight, _ in weighted) or 1.0
        inputs = sum_up(weight * (mean_of(lengths.input) or 1.0) for weight, lengths in weighted) / whole
        outputs = sum_up(weight * (mean_of(lengths.output) or 1.0) for weight, lengths in weighted) / whole
        return max(1, round(inputs)), max(1, round(outputs))

    @property
    def requires(self) -> tuple[RequireSpec, ...]:
        """The requirements of all classes."""
        return tuple(r for c in self.classes for r in c.requires)
