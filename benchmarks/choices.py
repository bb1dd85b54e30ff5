"""The choice that measurements are made for: most throughput per GPU under a limit on TPOT, over degrees and load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.aims import Table, by
from benchmarks.served import Value
from plandsl.backends.accuracy.show import percent
from plandsl.backends.calibrate.table import Table as Rows

LIMITS = (0.010, 0.020, 0.030, 0.050)
"""Seconds that TPOT may take."""

LEAST = 4
"""Fewest configurations that are a choice."""

SAME = (
    "gpu",
    "model",
    "precision",
    "framework",
    "serving_mode",
    "isl_tokens",
    "osl_tokens",
    "length_jitter",
    "load_kind",
)
"""Columns that are equal in all configurations of a group."""

DEGREES = (
    "n_gpu", "tp", "pp", "attn_dp", "replicas", "ep", "prefill_workers", "prefill_tp", "prefill_attn_dp", "prefill_ep",
    "decode_workers", "decode_tp", "decode_attn_dp", "decode_ep", "concurrency",
)  # fmt: skip
"""Columns that tell configurations apart: degrees and load."""

NOISE = 0.05
"""How far a measured TPOT may exceed the limit: two repeats of one configuration differ by 3 %."""

NEAR, AIM_NEAR, AIM_REGRET = 0.05, 0.85, 0.03
"""A choice within this share of the best is good; the share of good ones, and the mean regret, that are aimed at."""


class Option(NamedTuple):
    """A configuration: measured and predicted TPOT in seconds and output tokens/s per GPU."""

    tpot: float
    rate: float
    predicted_tpot: float
    predicted_rate: float


class Choice(NamedTuple):
    """What choosing by prediction costs: the share of the best measured throughput that is lost.

    All of it is lost where the measured TPOT of the choice exceeds the limit (``kept`` is False).
    """

    limit: float
    options: int
    regret: float
    kept: bool


def options_of(rows: Rows, values: Sequence[Value]) -> list[list[Option]]:
    """Configurations of serving.csv by group; of one that was measured several times, the medians."""
    found = by([v for v in values if v.file == "serving" and v.answered and v.at >= 0], lambda v: v.at)
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Option]]] = {}
    columns = {name: rows[name] for name in (*SAME, *DEGREES) if name in rows.columns}
    for at, some in found.items():
        assert isinstance(at, int)
        option = _option(rows, at, {v.metric: v for v in some})
        if option is not None:
            group, config = (tuple(str(columns[n][at]) for n in names if n in columns) for names in (SAME, DEGREES))
            groups.setdefault(group, {}).setdefault(config, []).append(option)
    every = ([Option(*np.median(o, axis=0).tolist()) for o in configs.values()] for configs in groups.values())
    return [options for options in every if len(options) >= LEAST]


def _option(rows: Rows, at: int, values: Mapping[str, Value]) -> Option | None:
    """A row as a configuration; None where TPOT or throughput is not known.

    Where throughput is not measured it is that of the requests in flight, which take as long as measured (Little 1961);
    the prediction then too, so that both mean the same.
    """
    gpus, clients = rows.numbers("n_gpu")[at], rows.numbers("concurrency")[at]
    tpot, rate, first = (values.get(name) for name in ("tpot", "throughput", "ttft"))
    if tpot is None or not gpus >= 1:
        return None
    if rate is not None:
        return Option(tpot.measured, rate.measured / gpus, tpot.predicted, rate.predicted / gpus)
    if first is None or not clients >= 1:
        return None
    output = rows.numbers("osl_tokens")[at]
    measured, predicted = (
        clients * output / (f + t * (output - 1)) / gpus
        for f, t in ((first.measured, tpot.measured), (first.predicted, tpot.predicted))
    )
    return Option(tpot.measured, float(measured), tpot.predicted, float(predicted))


def choose(options: Sequence[Option], limit: float) -> Choice | None:
    """What comes of choosing by prediction; None where no configuration keeps the limit.

    The choice is the most throughput of those predicted to keep it; where none is, the least predicted TPOT.
    """
    best = max((o.rate for o in options if o.tpot <= limit), default=0.0)
    if not best:
        return None
    kept = [o for o in options if o.predicted_tpot <= limit]
    chosen = max(kept, key=lambda o: o.predicted_rate) if kept else min(options, key=lambda o: o.predicted_tpot)
    good = chosen.tpot <= limit * (1 + NOISE)
    return Choice(limit, len(options), max(1 - chosen.rate / best, 0.0) if good else 1.0, good)


def choices_table(rows: Rows, values: Sequence[Value]) -> Table:
    """A row for each limit, and one for all."""
    groups = options_of(rows, values)
    found = list(_choices(groups))
    out = [["TPOT limit", "groups", "within 5 %", "aim", "mean regret", "aim", "limit missed", "regret of the others"]]
    for limit in (*LIMITS, None):
        some = [c for c in found if limit in (None, c.limit)]
        if some:
            out.append([f"{1e3 * limit:.0f} ms" if limit else "all", *_cells(some)])
    return out


def _choices(groups: Sequence[Sequence[Option]]) -> Iterator[Choice]:
    for options in groups:
        for limit in LIMITS:
            if (found := choose(options, limit)) is not None:
                yield found


def _cells(some: Sequence[Choice]) -> list[str]:
    near = float(np.mean([c.regret <= NEAR for c in some]))
    regret = float(np.mean([c.regret for c in some]))
    kept = [c.regret for c in some if c.kept]
    rest = float(np.mean(kept)) if kept else None
    return [
        str(len(some)), percent(near), f"{100 * AIM_NEAR:.0f} %", percent(regret), f"{100 * AIM_REGRET:.0f} %",
        str(len(some) - len(kept)), percent(rest),
    ]  # fmt: skip
