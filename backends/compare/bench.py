"""One run of a benchmark: the load that was sent, and what came of it, in SI units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from attrs import frozen

from plandsl import limits
from plandsl.backends.accuracy.lengths import JITTER
from plandsl.backends.compare.documents import Document, look_up, shown
from plandsl.backends.compare.formats import (
    AT_ONCE,
    CLOSED,
    EQUAL_GAPS,
    OPEN,
    PATTERNS,
    RATES,
    ROUNDS,
    Path,
    Place,
)
from plandsl.backends.cost.serving.requests import Ints
from plandsl.diagnostics import Diagnostic
from plandsl.measurements import RATE, SECONDS, Range
from plandsl.values import sum_up

SHAPE = Range(1e-3, 1e6)

LEAST_PERCENTILE = 50.0
"""Lower percentiles are not compared: they say what the quickest requests took."""


def _tokens() -> Range:
    """A number of tokens."""
    return Range(1, limits.MAX_DIMENSION)


def _requests(least: int = 1) -> Range:
    """A number of requests."""
    return Range(least, limits.MAX_REQUESTS)


@frozen
class Lengths:
    """Tokens of requests in one direction: the mean and, where they are known, deviation and ends (else 0)."""

    mean: float
    deviation: float = 0.0
    least: float = 0.0
    most: float = 0.0
    even: bool = False

    @property
    def differ(self) -> bool:
        """Whether requests differ by more than the noise of tokenizers, 1 % of the mean."""
        return self.deviation > 0.01 * self.mean or (self.even and self.most > self.least)


@frozen(eq=False)
class Bench:
    """One run.

    ``kind`` is of `CLOSED`, `OPEN` and `AT_ONCE`; ``clients`` are in flight in a closed loop; of an open loop ``cap``
    is the limit on them (0: none), ``rate`` its requests/s, and ``shape`` and ``rescaled`` as `Steady` has them.
    ``exact`` has the tokens of each request that was served, where the file has them. ``measured`` has seconds, or
    units/s, by metric and statistic (``mean`` or a percentile such as ``p99``).
    """

    document: Document
    kind: str
    requests: int
    input: Lengths
    output: Lengths
    clients: int = 0
    cap: int = 0
    rate: float = 0.0
    shape: float | None = 1.0
    rescaled: bool = False
    exact: tuple[Ints, Ints] | None = None
    spread_known: bool = True
    lengths_stated: bool = True
    model: str = ""
    label: str = ""
    gpus: int = 0
    failed: int = 0
    settings: tuple[tuple[str, float], ...] = ()
    measured: Mapping[tuple[str, str], float] = {}

    @property
    def name(self) -> str:
        """File and place."""
        return self.document.name

    @property
    def differ(self) -> bool:
        """Whether requests differ in length."""
        return self.input.differ or self.output.differ

    @property
    def load(self) -> str:
        """The load in words, without lengths."""
        if self.kind == CLOSED:
            return f"{self.clients:,} at once"
        if self.kind == OPEN:
            return f"{self.rate:.3g} req/s" + (f", {self.cap:,} at once" if self.cap else "")
        return "all at once"


def read_bench(document: Document) -> tuple[Bench | None, list[Diagnostic]]:
    """The run of a document, None where something that it must have is missing or wrong (E562, E563)."""
    fields = _Fields(document)
    made = fields.bench()
    return (None if fields.found else made), fields.found


class _Fields:
    """Reads the fields of a run, and collects what is wrong."""

    def __init__(self, document: Document) -> None:
        self.document, self.format = document, document.format
        self.found: list[Diagnostic] = []

    # ---- values

    def get(self, path: Path) -> Any:
        """The value at a path; a path that begins with ``..`` starts at the object of the whole file."""
        return look_up(self.document.outer, path[1:]) if path[0] == ".." else look_up(self.document.data, path)

    def first(self, paths: Iterable[Path]) -> tuple[Path, Any]:
        """The first path that has a value, and the value; without any, an empty path and None."""
        return next(((path, value) for path in paths if (value := self.get(path)) is not None), ((), None))

    def fail(self, path: Path, found: Any, expected: str) -> None:
        """Record a value that is wrong."""
        why = f"{self.document.name}: `{'.'.join(path)}` is {shown(found)}"
        self.found.append(Diagnostic("E562", why, hint=f"expected {expected}"))

    def lack(self, paths: tuple[Path, ...], what: str) -> None:
        """Record that something is missing."""
        names = " or ".join(f"`{'.'.join(path)}`" for path in paths)
        why = f"{self.document.name} does not say {what}: there is no {names}"
        hint = f"expected {self.format.title} to write it; is the file whole?"
        self.found.append(Diagnostic("E562", why, hint=hint))

    def number(self, paths: tuple[Path, ...], allowed: Range, default: float = math.nan) -> float:
        """A number in a range; ``default`` where there is none, NaN where it is wrong."""
        path, value = self.first(paths)
        return default if value is None else self.checked(path, value, allowed)

    def checked(self, path: Path, value: Any, allowed: Range) -> float:
        """A value that must be a number in a range; NaN where it is not."""
        number = _number(value)
        if allowed.least <= number <= allowed.most:
            return number
        self.fail(path, value, f"a number from {allowed}")
        return math.nan

    def word(self, paths: tuple[Path, ...]) -> str:
        """A text; empty where there is none, or something else."""
        _, value = self.first(paths)
        return value.strip() if isinstance(value, str) else ""

    # ---- the run

    def bench(self) -> Bench | None:
        """The run, as far as it can be read."""
        of = self.format
        requests = self.requests()
        if not requests > 0:
            return None
        kind, clients, rate, cap = self.load(requests)
        exact = self.exact()
        lengths = [self.lengths(which, exact) for which in (0, 1)]
        measured = dict(self.measured())
        shape = None if self.word(of.pattern) in EQUAL_GAPS else self.number(of.shape, SHAPE, 1.0)
        failed = self.number(of.failed, _requests(0), 0.0)
        if not measured and not self.found:
            self.lack(tuple(place.path or (f"mean_{place.name}",) for place in of.times["ttft"]), "any latency")
        if self.found:
            return None
        input_, output = (one or Lengths(0.0) for one in lengths)
        return Bench(
            self.document,
            kind,
            int(requests),
            input_,
            output,
            clients=int(clients),
            cap=int(cap),
            rate=rate,
            shape=shape,
            rescaled=of.rescaled,
            exact=exact,
            spread_known=exact is not None or input_.even or bool(of.input),
            lengths_stated=all(one is not None for one in lengths),
            model=self.word(of.model),
            label=self.word(of.label),
            gpus=self.gpus(),
            failed=int(failed),
            settings=tuple(self.settings()),
            measured=measured,
        )

    def requests(self) -> float:
        """How many requests were served."""
        of = self.format
        if of.name in ROUNDS:
            return ROUNDS[of.name] * self.number(of.concurrency, _requests(), math.nan)
        path, value = self.first(of.requests)
        if value is None:
            self.lack(of.requests, "how many requests were served")
            return math.nan
        if _number(value) == 0:
            why = f"{self.document.name}: no request was served (`{'.'.join(path)}` is 0)"
            hint = "look at the errors of the benchmark; there is nothing to compare"
            self.found.append(Diagnostic("E563", why, hint=hint))
            return math.nan
        return self.checked(path, value, _requests())

    def load(self, requests: float) -> tuple[str, float, float, float]:
        """The kind of load, requests in flight, requests/s, and the cap on those in flight."""
        of = self.format
        pattern = self.word(of.pattern)
        known = PATTERNS.get(pattern) if of.pattern and pattern else None
        clients = self.number(of.concurrency, _requests(), 0.0)
        path, value = self.first(of.rate)
        endless = value is None or value == "inf" or _number(value) == math.inf
        if isinstance(value, str) and value == "trace":
            why = f'{self.document.name} replays a trace: `request_rate` is "trace", and the file has no times'
            hint = "give the plan `workload { trace = ... }` and compare with `planc simulate`"
            self.found.append(Diagnostic("E563", why, hint=hint))
        rate = 0.0 if endless or self.found else self.checked(path, value, RATE)
        if pattern == "synchronous":
            return CLOSED, 1.0, 0.0, 0.0
        if known == OPEN and endless and not clients:
            self.lack(of.rate, "at which rate requests were sent")
            return OPEN, 0.0, 0.0, 0.0
        if not endless:
            return OPEN, 0.0, rate, clients
        if clients:
            return CLOSED, min(clients, requests), 0.0, 0.0
        if of.rate and (known == AT_ONCE or value is not None or not of.pattern):
            return AT_ONCE, requests, 0.0, 0.0
        self.lack((*of.concurrency, *of.rate), "what load was sent")
        return AT_ONCE, requests, 0.0, 0.0

    def exact(self) -> tuple[Ints, Ints] | None:
        """Tokens in and out of each served request; None where the file does not list tokens by request."""
        lists = [self.get((name,)) for name in ("input_lens", "output_lens")]
        if not all(isinstance(one, list) and one for one in lists) or len(lists[0]) != len(lists[1]):
            return None
        errors = self.get(("errors",))
        good = [not e for e in errors] if isinstance(errors, list) and len(errors) == len(lists[0]) else None
        rows = []
        for i, pair in enumerate(zip(*lists, strict=True)):
            numbers = [_number(one) for one in pair]
            if (good is not None and not good[i]) or numbers[1] == 0:
                continue
            wrong = next((at for at, one in enumerate(numbers) if not 1 <= one <= limits.MAX_DIMENSION), None)
            if wrong is not None:
                name = ("input_lens", "output_lens")[wrong]
                self.fail((name, str(i)), pair[wrong], f"a number from {_tokens()}")
                return None
            rows.append(numbers)
        if not rows:
            return None
        table = np.rint(np.array(rows)).astype(np.int64)
        return table[:, 0], table[:, 1]

    def lengths(self, which: int, exact: tuple[Ints, Ints] | None) -> Lengths | None:
        """Tokens of requests, in (0) or out (1); None where the file does not say."""
        of = self.format
        if exact is not None:
            own = exact[which]
            return Lengths(float(own.mean()), float(own.std()), float(own.min()), most=float(own.max()))
        paths, totals = ((of.input, of.input_total), (of.output, of.output_total))[which]
        path, value = self.first(paths)
        if isinstance(value, dict):
            return self.summary(path, value)
        if value is not None:
            mean = self.checked(path, value, _tokens())
            if of.nominal:
                return Lengths(max(mean * JITTER, 1.0), 0.0, mean * of.nominal, most=mean, even=True)
            return Lengths(mean)
        if not totals:
            return None
        path, value = self.first(totals)
        if value is None:
            return None
        count = max(self.number(of.requests, _requests(), 1.0), 1.0)
        return self.drawn(which, self.checked(path, value, _tokens_of(count)) / count)

    def drawn(self, which: int, mean: float) -> Lengths:
        """The lengths with this mean; SGLang says between which ends it draws random ones, evenly."""
        if not self.word((("dataset_name",),)).startswith("random"):
            return Lengths(mean)
        most = _number(self.get((("random_input_len", "random_output_len")[which],)))
        ratio = _number(self.get(("random_range_ratio",)))
        if 0 <= ratio < 1 and 1 <= most <= limits.MAX_DIMENSION and ratio * most <= mean <= most:
            return Lengths(mean, 0.0, max(ratio * most, 1.0), most=most, even=True)
        return Lengths(mean)

    def summary(self, path: Path, data: dict[str, Any]) -> Lengths | None:
        """Lengths from an object of statistics."""
        for name in ("mean", "avg"):
            if (value := data.get(name)) is not None:
                mean = self.checked((*path, name), value, _tokens())
                more = [_number(data.get(key)) for key in ("std_dev", "std", "min", "max")]
                deviation = max((one for one in more[:2] if 0 < one <= limits.MAX_DIMENSION), default=0.0)
                least, most = (one if 1 <= one <= limits.MAX_DIMENSION else 0.0 for one in more[2:])
                return Lengths(mean, deviation, min(least, mean), most=max(most, mean) if most else 0.0)
        total, count = data.get("total_sum"), self.number(self.format.requests, _requests(), math.nan)
        if total is None or math.isnan(count):
            return None
        return Lengths(self.checked((*path, "total_sum"), total, _tokens_of(count)) / count)

    def gpus(self) -> int:
        """The GPUs of the server, 0 where the file does not say. Of two pools both count (InferenceX)."""
        for parts in self.format.gpus:
            numbers = [_number(self.get(path)) for path in parts]
            if all(1 <= n <= limits.MAX_COUNT for n in numbers):
                return int(math.prod(numbers))
        pools = [_number(self.get((name,))) for name in ("num_prefill_gpu", "num_decode_gpu")]
        if self.format.per_gpu and all(1 <= n <= limits.MAX_COUNT for n in pools):
            return int(sum_up(pools)) if str(self.get(("disagg",))).lower() == "true" else int(pools[0])
        return 0

    def settings(self) -> Iterator[tuple[str, float]]:
        """What the file says of the server, by the fields of an engine."""
        for name, paths in self.format.settings:
            _, value = self.first(paths)
            if (number := _number(value)) > 0 and math.isfinite(number):
                yield name, number

    def measured(self) -> Iterator[tuple[tuple[str, str], float]]:
        """What was measured, by metric and statistic."""
        for metric, places in self.format.times.items():
            for place in places:
                yield from self.times(metric, place)
        gpus = self.gpus() if self.format.per_gpu else 1
        for metric in RATES if gpus else ():
            path, value = self.first(self.format.rates.get(metric, ()))
            if value is not None and _number(value) != 0:
                yield (metric, "mean"), self.checked(path, value, RATE) * gpus

    def times(self, metric: str, place: Place) -> Iterator[tuple[tuple[str, str], float]]:
        """The statistics of a latency."""
        scale = place.scale
        if place.path:
            data = self.get(place.path)
            if not isinstance(data, dict):
                return
            if not scale:
                unit = data.get("unit")
                scale = UNITS.get(unit, 0.0) if isinstance(unit, str) else 1e-3 if unit is None else 0.0
                if not scale:
                    self.fail((*place.path, "unit"), unit, f"one of {', '.join(UNITS)}")
                    return
            inner = data.get("percentiles")
            items = [((*place.path, key), key, value) for key, value in data.items()]
            if isinstance(inner, dict):
                items += [((*place.path, "percentiles", key), key, value) for key, value in inner.items()]
        else:
            end = f"_{place.name}"
            items = [
                ((key,), key.removesuffix(end), value) for key, value in self.document.data.items() if key.endswith(end)
            ]
        for path, key, value in items:
            stat = statistic(key)
            if stat and value is not None and _number(value) != 0:  # 0: not measured
                yield (metric, stat), self.checked(path, value, Range(0, SECONDS.most / scale)) * scale


def _tokens_of(count: float) -> Range:
    """The tokens that ``count`` requests may have together."""
    return Range(_tokens().least * count, _tokens().most * count)


UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "us": 1e-6, "ns": 1e-9}
"""Seconds of a unit, as AIPerf writes them."""

_DIGITS = {"p999": "p99.9", "p001": "", "p01": "", "p05": ""}
"""Percentiles of GuideLLM, which writes them without a point."""


def statistic(key: str) -> str:
    """The name of a statistic by a key of a file: ``mean``, or a percentile from p50 on; empty for others."""
    if key in ("mean", "avg"):
        return "mean"
    if key == "median":
        return "p50"
    key = _DIGITS.get(key, key)
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d{1,3})?)", key)
    return f"p{float(found[1]):g}" if found and float(found[1]) >= LEAST_PERCENTILE else ""


def _number(value: Any) -> float:
    """A number of JSON, or a text that is one, as command lines write them; NaN for anything else."""
    if isinstance(value, bool):
        return math.nan
    try:
        if isinstance(value, str):
            return float(value) if len(value) <= 40 else math.nan
        return float(value) if isinstance(value, int | float) else math.nan
    except (ValueError, OverflowError):
        return math.nan
