"""One row of a file of deployments: the plan that it stands for, and the load that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from attrs import frozen

from plandsl.backends.accuracy.lengths import FIXED
from plandsl.backends.accuracy.spread import Refused
from plandsl.diagnostics import clip

Cells = Mapping[str, float | str]
"""One row of a file, by column."""

NEVER = 1e9
"""Requests of a load that does not end."""

ENDLESS = 100_000.0
"""In flight where a row says that all requests were queued, and not how many."""

ROUNDS = 10
"""Requests that a closed loop sends for each one in flight (InferenceX: `--num-prompts $(( $CONC * 10 ))`)."""

MOST = 100_000
"""The largest degree, as in files of kernels."""


class Limits(NamedTuple):
    """What the 99th percentiles of TTFT and TPOT may be, in seconds."""

    ttft_s: float
    tpot_s: float


@frozen
class Row:
    """One deployment and its load: a plan's text without numbers of the load, and those numbers.

    ``input`` and ``output`` are mean lengths. Lengths are drawn evenly between both ends of ``spread``, in shares of
    the mean; where ``longest`` is given, from an exponential distribution that is cut there. ``others`` are plans that
    may have been run instead, where a row does not state its degrees: the fastest was. ``medians`` are the metrics
    of which the row states the median, not the mean. ``limits``: the load is the highest rate that keeps them.
    ``pools`` is 2 where some servers prefill and others decode. Where ``gpus`` is not 0, equal deployments of the plan
    stand side by side on so many GPUs, and share the load.
    """

    plan: str
    kind: str
    input: float
    output: float
    clients: float
    requests: float
    rate: float = 0.0
    others: tuple[str, ...] = ()
    spread: tuple[float, float] = FIXED
    longest: float = 0.0
    medians: tuple[str, ...] = ()
    limits: Limits | None = None
    pools: int = 1
    gpus: int = 0

    def copies(self, ranks: int) -> int:
        """How many deployments of so many ``ranks`` stand side by side."""
        return max(self.gpus // ranks, 1)


def number(row: Cells, name: str, default: float = np.nan) -> float:
    """A cell as a number; ``default`` where there is none, or one that cannot be meant."""
    try:
        value = float(row.get(name, default))
    except ValueError:
        return default
    return value if np.isfinite(value) else default


def text(row: Cells, name: str) -> str:
    """A cell as text; empty where it is blank or missing."""
    found = str(row.get(name, "")).strip()
    return "" if found.lower() in ("nan", "none", "null", "n/a", "-") else found


def degree(row: Cells, name: str, default: int = 1) -> int:
    """A cell as a whole number of ranks, workers or GPUs. Raises `Refused` on what is none."""
    value = number(row, name, default)
    if not (1 <= value <= MOST and value == int(value)):
        raise Refused(f"`{name}` is {clip(str(row[name]))}, not a whole number")
    return int(value)
