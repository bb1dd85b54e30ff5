"""Where the constants behind a number come from, in the words of all reports (`plandsl/terms.py` explains them)."""

from __future__ import annotations

import re
from collections.abc import Sequence

FITTED_HERE = "fitted here"
"""To rows of this GPU; of an engine: to rows of this GPU and this model."""

POOLED = "pooled"
"""To rows of many GPUs at once; of an engine: to rows of other engines."""

GENERIC = "generic"
"""Round figures: nobody measured such a thing."""

UNMEASURED = "unmeasured"
"""The calibration of chips whose makers have none that were measured; it has round figures alone."""

MEASURED = "measured"
"""A row of a table."""

BORROWED = "borrowed from "


def borrowed_from(names: Sequence[str]) -> str:
    """To rows of other GPUs or models."""
    first, *others = names
    more = f" and {len(others)} more" if len(others) > 1 else "".join(f" and {name}" for name in others)
    return f"{BORROWED}{first}{more}"


VENDORS = {
    "AMD": re.compile(r"mi\d"),
    "NVIDIA": re.compile(r"(?:gb|gh|[abhltv])\d|rtx|dgx"),
    "Intel": re.compile("gaudi"),
    "Google": re.compile("tpu"),
    "AWS": re.compile("trainium"),
}
"""Who makes a GPU, by the beginning of its name in the catalog."""


def vendor_of(names: Sequence[str]) -> str:
    """The vendor of a GPU, from its name and those of its bases; empty where none of them tells."""
    return next((vendor for name in names for vendor, known in VENDORS.items() if known.match(name)), "")
