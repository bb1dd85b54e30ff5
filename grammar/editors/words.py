"""The words of the language by the colour that an editor gives them, as the grammar and its readers know them."""

from __future__ import annotations

from plandsl.grammar._tables import FIXED
from plandsl.grammar.arrivals import AT_ONCE
from plandsl.grammar.arrivals import FORMS as ARRIVALS
from plandsl.grammar.draws import FORMS as DISTRIBUTIONS
from plandsl.grammar.functions import FUNCTIONS
from plandsl.grammar.layout import ITEM_KEYWORDS
from plandsl.grammar.modules import IMPORTS, KINDS
from plandsl.grammar.requires import METRICS, OVER_REQUESTS
from plandsl.grammar.tokens import KEYWORDS
from plandsl.spec.formats import BITS
from plandsl.units import UNITS

DECLARES = tuple(sorted(KINDS))
"""Words that open a declaration, before a name."""

STARTS = tuple(sorted(word for word in KEYWORDS if FIXED[word] in ITEM_KEYWORDS - {"IN"}))
"""Keywords that start an item; elsewhere they are names."""

JOINS = tuple(sorted(word for word in KEYWORDS if word not in STARTS))
"""Keywords within an item."""

CALLS = tuple(sorted({*FUNCTIONS, *DISTRIBUTIONS, *ARRIVALS, *IMPORTS, "torus", "column"}))
"""Functions."""

MEASURED = tuple(sorted(METRICS | OVER_REQUESTS, key=lambda name: (-len(name), name)))
"""Metrics, the longer ones first: in percentiles, before a comparison and as goals. `memory` is a field too."""

CONSTANTS = tuple(sorted({*BITS, "true", "false", "on", "off", "none", AT_ONCE}))
"""Words that are values."""

MEASURES = tuple(sorted(UNITS, key=lambda name: (-len(name), name)))
"""Units, the longer ones first: `s` is the start of none before it is tried."""
