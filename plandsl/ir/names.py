"""Names with parts: of regions, their runs, a token's experts, the keys that a query picks, and groups of ranks.

`RegionName` and `Places` are strings, because they key dictionaries beside plain names; the string is what the textual
IR prints. Only this module builds that string from its parts or reads the parts from it: the rest of the compiler makes
a name here and asks for its fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias


class RegionName(str):
    """The name of a region.

    ``block`` is None for the ends and the hops. For a block of layers, it is the name that the model gives the block,
    or "" where the model has one block only.
    """

    __slots__ = ("block",)
    block: str | None

    def __new__(cls, word: str, block: str | None = None) -> RegionName:
        """Printed ``head``, ``block``, ``block.dense``."""
        self = super().__new__(cls, f"{word}.{block}" if block else word)
        self.block = block
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return read_region_name, (str(self),)

    @property
    def own(self) -> str:
        """The word that sets the ops of this region apart in reports; "" for the only block of a model."""
        return str(self) if self.block is None else self.block


EMBEDDING, HEAD = ENDS = RegionName("embedding"), RegionName("head")
"""The regions before the first layer and after the last."""

SEND, RECV = HOPS = RegionName("send"), RegionName("recv")
"""The regions that hand on to the next stage, and that take over from the stage before."""

_BLOCK = "block"


def block_name(own: str = "") -> RegionName:
    """The region of the block that the model calls ``own``; "" where the model has one block only."""
    return RegionName(_BLOCK, own)


def read_region_name(text: str) -> RegionName:
    """Read the name of a region as ``str`` prints it."""
    word, _, own = text.partition(".")
    return block_name(own) if word == _BLOCK else RegionName(text)


class RegionRun(NamedTuple):
    """A region as a stage runs it, where stages run it differently.

    ``near``: the hop stays inside a node, and other hops leave theirs. ``kinds``: the ranks of the stage are GPUs of
    these kinds; () where all stages have the same kinds.
    """

    region: RegionName
    near: bool
    kinds: tuple[int, ...] = ()


RunKey: TypeAlias = RegionName | RegionRun
"""A key of the work of a phase, and of its times. Where all stages run a region the same way, its name is the key."""


def region_of(run: RunKey) -> RegionName:
    """The region that is run."""
    return run.region if isinstance(run, RegionRun) else run


class Places(str):
    """The dimension of a token's experts: a token has a place for each of ``experts``, and ``chosen`` are filled."""

    __slots__ = ("chosen", "experts")
    experts: str
    chosen: int

    def __new__(cls, experts: str, chosen: int) -> Places:
        """Printed ``experts:8``."""
        self = super().__new__(cls, f"{experts}:{chosen}")
        self.experts, self.chosen = experts, chosen
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Places, (self.experts, self.chosen)


class Merged(str):
    """A dimension of tokens of which ``by`` neighbours became one: ``position/4`` has a quarter of the positions."""

    __slots__ = ("by", "of")
    of: str
    by: int

    def __new__(cls, of: str, by: int) -> Merged:
        """Printed ``position/4``."""
        self = super().__new__(cls, f"{of}/{by}")
        self.of, self.by = of, by
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Merged, (self.of, self.by)


def read_merged(text: str) -> Merged:
    """Read `Merged` as ``str`` prints it. Raises ValueError on anything else."""
    found = re.fullmatch(r"(\w+)/(\d+)", text)
    if found is None:
        raise ValueError(f"not a dimension of merged tokens: {text}")
    return Merged(found[1], int(found[2]))


def read_places(text: str) -> Places:
    """Read `Places` as ``str`` prints it. Raises ValueError on anything else."""
    found = re.fullmatch(r"(\w+):(\d+)", text)
    if found is None:
        raise ValueError(f"not the dimension of a token's experts: {text}")
    return Places(found[1], int(found[2]))


class Blocks(str):
    """A dimension with an item for each block of positions into which ``axes`` cut them, in their order."""

    __slots__ = ("axes",)
    axes: tuple[str, ...]

    def __new__(cls, axes: tuple[str, ...]) -> Blocks:
        """Printed ``blocks.cp``; along several axes ``blocks.a.b``, major first."""
        self = super().__new__(cls, ".".join((_BLOCKS, *axes)))
        self.axes = axes
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return Blocks, (self.axes,)


_BLOCKS = "blocks"

RANKS = "ranks"
"""What a program says for the size of `Blocks`: the number of ranks along their axes."""


def read_blocks(text: str) -> Blocks:
    """Read `Blocks` as ``str`` prints it. Raises ValueError on anything else."""
    word, *axes = text.split(".")
    if word != _BLOCKS or not all(axes) or not axes:
        raise ValueError(f"not a dimension of blocks: {text}")
    return Blocks(tuple(axes))


def read_dim_name(text: str) -> str:
    """Read the name of a dimension as ``str`` prints it: `Places`, `Merged`, `Blocks`, or a plain name."""
    if text.startswith(f"{_BLOCKS}."):
        return read_blocks(text)
    return read_places(text) if ":" in text else read_merged(text) if "/" in text else text


def stem(dim: str) -> str:
    """The name of a dimension as weights have it: ``experts`` for ``experts:8``; else ``dim`` itself."""
    return dim.experts if isinstance(dim, Places) else dim


def has_places(dims: Iterable[str]) -> bool:
    """Whether one of ``dims`` is the dimension of a token's experts."""
    return Places in map(type, dims)


def picks(top_k: int) -> str:
    """The dimension of the keys that a query picks; printed ``picks.2048``."""
    return f"picks.{top_k}"


MOMENTS = "moments"
"""The dimension of a sum and a sum of squares."""


def cached(value: str) -> str:
    """The cache of the keys or values that a block calls ``value``, as layers hand it on; printed ``k.cached``."""
    return f"{value}.cached"


def group_of(axes: Iterable[str]) -> str:
    """The group of ranks along neighbouring mesh axes, major first: ``a*b`` along a and b; "" along none."""
    return "*".join(axes)


def axes_of(group: str) -> tuple[str, ...]:
    """The mesh axes of a group of ranks, major first (the inverse of `group_of`)."""
    return tuple(group.split("*")) if group else ()
