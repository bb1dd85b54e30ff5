"""Layouts from sharding rules: which mesh axes split which dimension of a tensor.

Rules are read in order; where two dimensions of one tensor want the same axis, the earlier rule gets it
(docs/language.md, "sharding").
"""

from __future__ import annotations

from plandsl.ir.names import stem
from plandsl.ir.program import DECODE
from plandsl.ir.types import Dim, TensorType
from plandsl.spec.plan import ShardingSpec


class Layout:
    """The rules of a sharding, as they apply in one phase.

    `tokens` means the positions of each request in prefill and the requests in decode. Rules split the dimensions
    ``experts`` only inside `experts`: a router has all of them.
    """

    def __init__(self, sharding: ShardingSpec, phase: str, experts: frozenset[str] = frozenset()) -> None:
        self._tokens = "batch" if phase == DECODE else "position"
        self._experts = experts
        self._rules: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        self._sharding = sharding
        self._found: dict[tuple[tuple[str, ...], str, bool], tuple[Dim, ...]] = {}

    def _ordered_rules(self, region: str) -> list[tuple[str, tuple[str, ...]]]:
        rules = self._rules.get(region)
        if rules is None:
            inside = [r for r in self._sharding.rules if region and r.region == region]
            everywhere = [r for r in self._sharding.rules if not r.region]
            rules = [(d, r.axes) for r in (*inside, *everywhere) for d in r.dims]
            self._rules[region] = rules
        return rules

    def dims(self, names: tuple[str, ...], region: str = "", *, stored: bool = False) -> tuple[Dim, ...]:
        """The dimensions ``names`` of one tensor with their axes.

        ``stored`` is for tensors that outlive a step (weights, caches): rules for `tokens` do not apply to them.
        """
        key = (names, region, stored)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._assign(names, region, stored)
        return found

    def _assign(self, names: tuple[str, ...], region: str, stored: bool) -> tuple[Dim, ...]:
        axes: dict[str, tuple[str, ...]] = {stem(n): () for n in names}
        taken: set[str] = set()
        for dim, wanted in self._ordered_rules(region):
            name = ("" if stored else self._tokens) if dim == "tokens" else dim
            if name in axes and (region == "experts" or name not in self._experts):
                free = tuple(a for a in wanted if a not in taken)
                axes[name] += free
                taken.update(free)
        return tuple(Dim(n, axes[stem(n)]) for n in names)

    def lay_out(self, type_: TensorType, region: str = "", *, whole: tuple[str, ...] = ()) -> TensorType:
        """``type_`` laid out by the rules, with the dimensions in ``whole`` not split."""
        dims = self.dims(type_.names, region)
        return TensorType(type_.dtype, tuple(Dim(d.name) if d.name in whole else d for d in dims))

    def weight(self, type_: TensorType, region: str = "") -> TensorType:
        """The type of a weight, laid out by the rules."""
        return TensorType(type_.dtype, self.dims(type_.names, region, stored=True))

    @property
    def gathers(self) -> bool:
        """Whether keys that travel to queries are all gathered first, instead of passed around a ring."""
        return self._sharding.context_form == "gather"

    def written_axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The axes that split the positions that a step writes to a cache split by ``axes``: none in decode."""
        return axes if self._tokens == "position" else ()

    def cache(self, names: tuple[str, ...]) -> tuple[Dim, ...]:
        """The dimensions ``names`` of a KV cache with their axes: the same in every phase."""
        return self.dims(names, "attention", stored=True)
