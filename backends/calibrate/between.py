"""Sets of operations that a GPU was not measured in, where it was measured in one other.

Both the GPU and the operation tell something of the time, and neither tells all: each constant is the geometric mean of
the GPU's and of what all GPUs need for the operation. On GPUs with several operations, each pair of which was taken as
if one had been measured and the other had not, the mean of the median errors is 33 %, against 48 % with the GPU's
constants alone and 42 % with those of the operation alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from attrs import evolve

from plandsl.backends.calibrate.fit import Fitted
from plandsl.spec.constants import FormConstants, build, values

BAND = (0.58, 1.79)
"""Factors that hold 80 % of measured / predicted over these pairs, each of which counts the same."""


def fill_between(own: Sequence[Fitted], pooled: Mapping[str, Fitted]) -> list[Fitted]:
    """Sets for the operations among ``pooled``, all of one section, that ``own``, a GPU's sets, lack.

    None where the GPU has not exactly one operation.
    """
    section = next(iter(pooled), "").partition(".")[0]
    own = [f for f in own if f.path.partition(".")[0] == section]
    if len({f.path for f in own if not f.path.endswith(".any")}) != 1:
        return []
    base = own[0]
    why = f"half as this GPU needs it for {base.path.partition('.')[2]}, half as others do for this"
    return [
        Fitted(path, _mean(base, of), evolve(of.seen, low=BAND[0], high=BAND[1]), None, why)
        for path, of in pooled.items()
        if path not in {f.path for f in own}
    ]


def _mean(a: Fitted, b: Fitted) -> FormConstants:
    """The geometric mean of each constant, to four digits."""
    pairs = zip(values(a.constants).values(), values(b.constants).values(), strict=True)
    return build(type(a.constants), [float(f"{sqrt(x * y):.4g}") for x, y in pairs])
