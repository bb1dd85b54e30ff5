"""The constants of each analytic form: what a section of a calibration holds for one dtype, operation or library.

Each form has a class, and `FORMS` says which section holds whose constants. Language, forms and fits follow these
classes: a constant has its name and its unit here and nowhere else. The module of a form gives the formula.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, TypeAlias, TypeVar, cast

from plandsl.units import BYTES, NUMBER, TIME, Dimension

# No `from __future__ import annotations` here: the units are read from the annotations.
Seconds: TypeAlias = Annotated[float, TIME]
Bytes: TypeAlias = Annotated[float, BYTES]
Plain: TypeAlias = Annotated[float, NUMBER]
"""A share of a published figure, a factor, or a count."""

Band: TypeAlias = tuple[float, float]
"""Factors between which the middle 80 % of measured / predicted lie: `low` and `high` of a section."""


class GemmConstants(NamedTuple):
    """Of `forms.gemm`: a launch and a split along k, arithmetic, memory, and the quantisation of an input.

    ``chain`` are seconds of each element contracted. ``compute`` is a share of the peak, ``throttle`` how much of it
    arithmetic that goes on for long loses, ``memory`` a share of the bandwidth. ``intensity`` is the price of loading
    an element, in multiplications; ``blend`` how far arithmetic hides memory. ``quant_row`` and ``quant_walk`` are
    seconds of a unit for each row and each element quantised.
    """

    fixed: Seconds
    step: Seconds
    chain: Seconds
    compute: Plain
    throttle: Plain
    memory: Plain
    intensity: Plain
    blend: Plain
    quant_row: Seconds
    quant_walk: Seconds
    band: Band | None = None


class PrefillConstants(NamedTuple):
    """Of `forms.attention.prefill_seconds`: a launch, a step for each tile, arithmetic and memory.

    ``compute`` is a share of the peak, ``half_dim`` the head dimension at which half of it is reached, ``tail`` the
    part of the longest tile that shows. ``memory`` and ``write`` are shares of the bandwidth, the latter where new keys
    and values go to the cache; ``packed`` is the share of calls that pack the heads of a group (0 to 1).
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
    """Of `forms.attention.decode_seconds`: a launch, a step for each task, and adding the parts of a context up.

    ``compute`` is a share of the peak, ``memory`` one of the bandwidth; ``draw`` is how many times its part of the
    bandwidth a unit draws alone. ``cache`` bytes of keys stay from a call before, read ``cached`` times as fast.
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
    """Of `forms.attention.mixed_seconds`: those of decode and prefill in one call.

    ``rows`` are the queries that a decode is padded to, ``cache`` the bytes of keys at which half of what is read
    again comes from memory.
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
    """Of `forms.mla.mla_prefill_seconds`: those of attention, for heads that are never packed."""

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
    """Of `forms.mla.mla_decode_seconds`: those of decode on one latent KV head.

    A context is split into ``parts`` at most; of the keys, tasks but the first read the share ``again`` from memory.
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
    """Of `forms.elementwise`: a launch, memory or the last-level cache, and the work of one unit.

    ``memory`` and ``cached`` are rates as shares of the bandwidth, ``cache`` the bytes that stay. ``unit`` is what a
    unit moves, in `forms.elementwise.DRAW`; ``row`` are its seconds for each row besides.
    """

    fixed: Seconds
    memory: Plain
    cached: Plain
    cache: Bytes
    unit: Plain
    row: Seconds
    band: Band | None = None


class CollectiveConstants(NamedTuple):
    """Of `forms.collective.collective_seconds`: a launch, a quick way for small messages, a pipelined one for large.

    ``latency`` are seconds of a message on the quick way and ``step`` on the pipelined one; ``quick`` and ``bulk`` the
    shares of the port that they reach. ``half`` bytes reach half of the rate; ``own`` is the price of copying a rank's
    own part, as a share of sending it; ``switch`` the share of the port where the switch adds up (0: it does not).
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
    """Of `forms.collective.nodes_seconds`: the same over several nodes.

    ``hop`` are seconds of a message between nodes, ``network`` the share of a port to them that is reached, ``rails``
    the ports that a node has.
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
    """Of `forms.dispatch`: tokens to the ranks of their experts, and back.

    ``expert`` are seconds of each expert awaited, ``row`` of a unit for `forms.dispatch.ROW` elements, ``each`` of a
    copy, ``ramp`` until queues are full, ``message`` of a message between nodes. ``unit`` is in GB/s; ``port`` and
    ``network`` are shares of the links inside and between nodes.
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
    """Of `forms.moe.gemm_seconds`: one grouped GEMM by itself.

    ``step`` are seconds of a tile, ``compute`` is a share of the peak, ``memory`` one of the bandwidth for weights and
    ``stream`` for activations; ``draw`` is how many times its part of the bandwidth a unit loads from the cache, which
    keeps ``cache`` bytes of weights.
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
    """Of `forms.moe.moe_seconds`: those of grouped GEMMs, and of what stands between them.

    A pair of another rank moves ``away`` times the bytes of one that is here; routing takes ``token`` seconds a token.
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
    """The dimension of a constant inside a section of `FORMS`; plain for ``low``, ``high`` and unknown names."""
    annotation = FORMS[section].__annotations__.get(name)
    found: tuple[Dimension, ...] = getattr(annotation, "__metadata__", (NUMBER,))
    return found[0]


def missing(form: type[C], section: Iterable[str]) -> tuple[str, ...]:
    """The constants of ``form`` that a section of these names lacks."""
    have = frozenset(section)
    return tuple(name for name in names(form) if name not in have)


def read(form: type[C], section: Mapping[str, float]) -> C:
    """The constants of ``form`` that a section holds, with its band.

    Raises `ValueError` where some are `missing`.
    """
    if lacks := missing(form, section):
        raise ValueError(f"the constants of {form.__name__} lack {', '.join(lacks)}")
    return made(form, (section[name] for name in names(form)), band_of(section))


def made(form: type[C], values: Iterable[float], band: Band | None = None) -> C:
    """The constants of ``form`` from numbers in the order of `names`."""
    return cast(C, form._make((*values, band)))


def values(constants: FormConstants) -> dict[str, float]:
    """The constants by name, without the band."""
    return dict(zip(names(type(constants)), cast(tuple[float, ...], constants), strict=False))


def band_of(section: Mapping[str, float]) -> Band | None:
    """``low`` and ``high`` of a section, where it says both."""
    low, high = section.get("low"), section.get("high")
    return None if low is None or high is None else (low, high)
