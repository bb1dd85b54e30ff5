"""The constants of each analytic form: the contents of a calibration's section for one dtype, operation or library.

Each form has a class, and `FORMS` maps sections to classes. The language, the forms and the fits follow these classes:
the name and unit of a constant are defined here only. The module of a form gives the formula.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, TypeAlias, TypeVar, cast

from plandsl.units import BYTES, NUMBER, TIME, Dimension

# No `from __future__ import annotations` here: the units are read from the annotations.
Seconds: TypeAlias = Annotated[float, TIME]
Bytes: TypeAlias = Annotated[float, BYTES]
Plain: TypeAlias = Annotated[float, NUMBER]
"""A share of a published figure, a factor, or a count."""


class Band(NamedTuple):
    """Factors between which 80 % of measured / predicted lie, and where the constants come from.

    ``low`` and ``high`` hold for sizes that take from ``least`` to ``most`` seconds, as the fitted ones do. Smaller and
    larger ones have the band ``low * beyond_low`` to ``high * beyond_high``. ``origin`` is one of the words of
    `CalibrationSpec.origin`.
    """

    low: Plain
    high: Plain
    beyond_low: Plain = 1.0
    beyond_high: Plain = 1.0
    least: Seconds = 0.0
    most: Seconds = math.inf
    origin: str = ""

    def at(self, seconds: float | None) -> tuple[float, float]:
        """The band of a kernel that takes so many seconds by its form; None: of any size that was fitted."""
        if seconds is None or self.least <= seconds <= self.most:
            return self.low, self.high
        return self.low * self.beyond_low, self.high * self.beyond_high

    def raised(self, power: float) -> "Band":
        """The band with its factors raised to ``power``: wider, as a logarithm."""
        return self._replace(low=self.low**power, high=self.high**power)


BAND = Band._fields[:-1]
"""What a section may say of its band."""

MARGINS = ("beyond_low", "beyond_high", "lent_low", "lent_high")
"""What the section ``bands`` of a kind says of all its sets.

Factors by which bands are wider on sizes beyond the fitted ones, and on GPUs other than the fitted one.
"""


class GemmConstants(NamedTuple):
    """Constants of `forms.gemm`: launch, split along k, arithmetic, memory, and the quantisation of an input.

    ``chain``: seconds per contracted element. ``compute``: share of the peak; ``throttle``: how much of it long
    arithmetic loses; ``memory``: share of the bandwidth; ``cached``: the same of weights that a cache still holds.
    ``intensity``: cost of loading an element, in multiplications; ``blend``: how far arithmetic hides memory.
    ``quant_fixed``: seconds of quantisation without rows; ``quant_row`` and ``quant_walk``: seconds of a unit for each
    row and each element quantised.
    """

    fixed: Seconds
    step: Seconds
    chain: Seconds
    compute: Plain
    throttle: Plain
    memory: Plain
    cached: Plain
    intensity: Plain
    blend: Plain
    quant_fixed: Seconds
    quant_row: Seconds
    quant_walk: Seconds
    band: Band | None = None


class PrefillConstants(NamedTuple):
    """Constants of `forms.attention.prefill_seconds`: a launch, a step for each tile, arithmetic and memory.

    ``compute``: share of the peak; ``half_dim``: head dimension at which half of it is reached; ``tail``: part of the
    longest tile that is not hidden. ``memory`` and ``write``: shares of the bandwidth, ``write`` when new keys and
    values go to the cache; ``packed``: share of calls that pack the heads of a group (0 to 1).
    """

    fixed: Seconds
    step: Seconds
    compute: Plain
    half_dim: Plain
    tail: Plain
    memory: Plain
    blend: Plain
    packed: Plain
    write: Plain
    band: Band | None = None


class DecodeConstants(NamedTuple):
    """Constants of `forms.attention.decode_seconds`: a launch, a step for each task, and the sum over context parts.

    ``compute``: share of the peak; ``memory``: share of the bandwidth; ``draw``: bandwidth of a single busy unit, as a
    multiple of its equal share. ``cache``: bytes of keys that stay in the cache from an earlier call; reading them is
    ``cached`` times as fast.
    """

    fixed: Seconds
    step: Seconds
    split: Seconds
    compute: Plain
    memory: Plain
    draw: Plain
    blend: Plain
    cache: Bytes
    cached: Plain
    band: Band | None = None


class MixedConstants(NamedTuple):
    """Constants of `forms.attention.mixed_seconds`: decode and prefill in one call.

    ``rows``: queries to which a decode is padded; ``cache``: bytes of keys at which half of the repeated reads come
    from memory.
    """

    fixed: Seconds
    step: Seconds
    split: Seconds
    compute: Plain
    memory: Plain
    draw: Plain
    blend: Plain
    half_dim: Plain
    rows: Plain
    cache: Bytes
    band: Band | None = None


class MlaPrefillConstants(NamedTuple):
    """Constants of `forms.mla.mla_prefill_seconds`: as in `PrefillConstants`, but heads are never packed."""

    fixed: Seconds
    step: Seconds
    compute: Plain
    half_dim: Plain
    tail: Plain
    memory: Plain
    blend: Plain
    write: Plain
    band: Band | None = None


class MlaDecodeConstants(NamedTuple):
    """Constants of `forms.mla.mla_decode_seconds`: as in `DecodeConstants`, for one latent KV head.

    ``parts``: most parts of a context; ``again``: share of the keys that every task after the first reads from memory.
    """

    fixed: Seconds
    step: Seconds
    split: Seconds
    parts: Plain
    again: Plain
    compute: Plain
    memory: Plain
    draw: Plain
    blend: Plain
    band: Band | None = None


class ElementConstants(NamedTuple):
    """Constants of `forms.elementwise`: a launch, memory or the last-level cache, and the work of one unit.

    ``memory`` and ``cached``: rates as shares of the bandwidth; ``cache``: bytes that stay in the cache. ``unit``: rate
    of a unit, in multiples of `forms.elementwise.DRAW`; ``row``: seconds of a unit for each row.
    """

    fixed: Seconds
    memory: Plain
    cached: Plain
    cache: Bytes
    unit: Plain
    row: Seconds
    band: Band | None = None


class CollectiveConstants(NamedTuple):
    """Constants of `forms.collective.collective_seconds`: launch, quick path (small messages), pipelined path (large).

    ``latency`` and ``step``: seconds of a message on the quick and the pipelined path; ``quick`` and ``bulk``: share of
    the port that each reaches. ``half``: bytes that reach half of the rate; ``own``: cost of copying a rank's own part,
    as a share of sending it; ``switch``: share of the port if the switch computes the sum (0: it does not).
    """

    fixed: Seconds
    latency: Seconds
    quick: Plain
    step: Seconds
    bulk: Plain
    half: Bytes
    own: Plain
    switch: Plain
    band: Band | None = None


class NodesConstants(NamedTuple):
    """Constants of `forms.collective.nodes_seconds`: as in `CollectiveConstants`, over several nodes.

    ``hop``: seconds of a message between nodes; ``network``: share of a network port that is reached; ``rails``: ports
    of a node.
    """

    fixed: Seconds
    latency: Seconds
    quick: Plain
    step: Seconds
    half: Bytes
    bulk: Plain
    hop: Seconds
    network: Plain
    rails: Plain
    band: Band | None = None


class DispatchConstants(NamedTuple):
    """Constants of `forms.dispatch`: tokens to the ranks of their experts, and back.

    Seconds: ``expert`` for each expert that is awaited, ``row`` of a unit for `forms.dispatch.ROW` elements, ``each``
    for a copy, ``ramp`` until queues are full, ``message`` for a message between nodes. ``unit`` is in GB/s; ``port``
    and ``network`` are shares of the links inside and between nodes.
    """

    fixed: Seconds
    expert: Seconds
    row: Seconds
    each: Seconds
    unit: Plain
    port: Plain
    ramp: Seconds
    network: Plain
    message: Seconds
    band: Band | None = None


class GroupedConstants(NamedTuple):
    """Constants of `forms.moe.gemm_seconds`: one grouped GEMM by itself.

    ``step``: seconds of a tile; ``compute``: share of the peak; ``memory`` and ``stream``: shares of the bandwidth for
    weights and for activations; ``draw``: rate at which a unit loads from the cache, as a multiple of its equal share
    of the bandwidth; ``cache``: bytes of weights that the cache keeps.
    """

    fixed: Seconds
    step: Seconds
    compute: Plain
    draw: Plain
    memory: Plain
    cache: Bytes
    blend: Plain
    stream: Plain
    band: Band | None = None


class MoeConstants(NamedTuple):
    """Constants of `forms.moe.moe_seconds`: as in `GroupedConstants`, and for the kernels between grouped GEMMs.

    ``away``: bytes moved by a pair (token, expert) of another rank, relative to a pair of this rank; ``token``: seconds
    of routing per token.
    """

    fixed: Seconds
    step: Seconds
    compute: Plain
    draw: Plain
    memory: Plain
    cache: Bytes
    blend: Plain
    stream: Plain
    away: Plain
    token: Seconds
    band: Band | None = None


FormConstants: TypeAlias = (
    GemmConstants
    | PrefillConstants
    | DecodeConstants
    | MixedConstants
    | MlaPrefillConstants
    | MlaDecodeConstants
    | ElementConstants
    | CollectiveConstants
    | NodesConstants
    | DispatchConstants
    | GroupedConstants
    | MoeConstants
)

FORMS: dict[str, type[FormConstants]] = {
    "gemm": GemmConstants,
    "attention_prefill": PrefillConstants,
    "attention_decode": DecodeConstants,
    "attention_mixed": MixedConstants,
    "mla_prefill": MlaPrefillConstants,
    "mla_decode": MlaDecodeConstants,
    "elementwise": ElementConstants,
    "collective": CollectiveConstants,
    "collective_nodes": NodesConstants,
    "ep_alltoall": DispatchConstants,
    "moe": MoeConstants,
    "grouped_gemm": GroupedConstants,
}
"""Sections that hold the constants of a form, by dtype or library: ``gemm { bf16 { ... } }``."""

C = TypeVar("C", bound=FormConstants)


def names(form: type[C]) -> tuple[str, ...]:
    """The constants of a form, without its band."""
    return form._fields[:-1]


def dimension(section: str, name: str) -> Dimension:
    """The dimension of a constant inside a section of `FORMS`; plain for factors of bands and unknown names."""
    annotation = FORMS[section].__annotations__.get(name, Band.__annotations__.get(name))
    found: tuple[Dimension, ...] = getattr(annotation, "__metadata__", (NUMBER,))
    return found[0]


def missing(form: type[C], section: Iterable[str]) -> tuple[str, ...]:
    """The constants of ``form`` that are not among the names in ``section``."""
    have = frozenset(section)
    return tuple(name for name in names(form) if name not in have)


def read(form: type[C], section: Mapping[str, float], origin: str = "") -> C:
    """The constants of ``form`` in a section, with its band. Raises `ValueError` if some are `missing`."""
    if lacks := missing(form, section):
        raise ValueError(f"the constants of {form.__name__} lack {', '.join(lacks)}")
    return build(form, (section[name] for name in names(form)), band_of(section, origin))


def build(form: type[C], values: Iterable[float], band: Band | None = None) -> C:
    """The constants of ``form`` from numbers in the order of `names`."""
    return form._make((*values, band))


def values(constants: FormConstants) -> dict[str, float]:
    """The constants by name, without the band."""
    return dict(zip(names(type(constants)), cast(tuple[float, ...], constants), strict=False))


def band_of(section: Mapping[str, float], origin: str = "") -> Band | None:
    """The band of a section; None unless it has ``low`` and ``high``."""
    if section.get("low") is None or section.get("high") is None:
        return None
    return Band(**{name: section[name] for name in BAND if name in section}, origin=origin)
