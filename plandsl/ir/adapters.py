"""The op of adapters (LoRA): a product with the matrix of each request's own adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic
from plandsl.ir.base import COMPUTE, Facts, finding
from plandsl.ir.compute import Gemm
from plandsl.ir.names import Places
from plandsl.ir.rule import Rule
from plandsl.ir.types import Number
from plandsl.spec.model import ADAPTERS


@frozen(eq=False, repr=False, slots=False)
class AdapterGemm(Gemm):
    """One product for each request: ``x [batch, ..., a]``, ``w [adapters, a, b]`` -> ``[batch, ..., b]``.

    Request ``r`` of the batch has adapter ``r mod (adapters + 1)``; where that is the number of ``adapters``, it has
    none, and its result is zero. A step reads the matrices of at most ``active`` adapters, and of no more than its
    requests name; ``mix`` says how likely a request names each (`read_mix`).

    Inside experts a matrix has the dimension of experts, and ``x`` its places: one product for each request and expert.
    ``over`` names heads, where each has a product of its own.
    """

    keyword: ClassVar[str] = "adapter_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "gemm", "gemm", measured="gemm", linear=("x",))
    active: int = 1
    over: str | None = None
    mix: str | None = None

    @property
    def each(self) -> tuple[str, str]:
        """The requests of ``x``, and the adapters of ``w``."""
        return "batch", ADAPTERS

    @property
    def apart(self) -> tuple[str, ...]:
        """The dimensions of a matrix that have products of their own: adapters, experts, heads."""
        experts = (n.experts for n in self.x.type.names if isinstance(n, Places))
        return (ADAPTERS, *experts, *(() if self.over is None else (self.over,)))

    def contracted(self, i: int = 0) -> tuple[str, ...]:
        """Names of the dimensions that output ``i`` sums over."""
        have, apart = self.x.type.names, self.apart
        return tuple(n for n in self.weights[i].type.names if n in have and n not in apart)

    def _rule(self, i: int) -> Rule:
        w, inner = self.weights[i], self.contracted(i)
        gone = (*inner, *self.apart)
        dims = [n for n in self.x.type.names if n not in inner] + [n for n in w.type.names if n not in gone]
        kind = self.outs[i].type.dtype
        return Rule((self.x, w), tuple(dims), kind, whole=(ADAPTERS,), contracts=inner, stay=(w,))

    def verify(self) -> Iterator[Diagnostic]:
        yield from Gemm.verify(self)
        if any(w.type.names[:1] != (ADAPTERS,) for w in self.weights):
            yield finding(f"the first dimension of its weights is not {ADAPTERS}", self.span, str(self.weights[0].type))


# ---- which adapters requests name


def show_mix(groups: Sequence[tuple[int, float]]) -> str | None:
    """``1 x 0.22, 2 x 0.1``: how many adapters a request names with which chance each; None without any."""
    return ", ".join(f"{count} x {chance!r}" for count, chance in groups) or None


@lru_cache(maxsize=64)
def read_mix(text: str) -> tuple[tuple[int, float], ...]:
    """Read a mix as `show_mix` writes it."""
    pairs = (part.split(" x ") for part in text.split(", "))
    return tuple((int(count), float(chance)) for count, chance in pairs)


def distinct(mix: str, requests: Number) -> Number:
    """How many different adapters ``requests`` name, on average.

    Each names adapter i with the chance ``p_i`` by itself, so none of r requests names it with ``(1 - p_i)^r``, and the
    mean is the sum of ``1 - (1 - p_i)^r``. (It follows from the linearity of means; `crowd_loads` counts experts so.)
    """
    total: Number = 0.0
    for count, chance in read_mix(mix):
        total = total + count * (1 - (1 - chance) ** requests)
    return total
