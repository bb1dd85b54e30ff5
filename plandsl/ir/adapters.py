"""The op of adapters (LoRA): a product with the matrix of each request's own adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic
from plandsl.ir.base import COMPUTE, Facts, finding
from plandsl.ir.compute import Gemm
from plandsl.ir.rule import Rule
from plandsl.spec.model import ADAPTERS


@frozen(eq=False, repr=False, slots=False)
class AdapterGemm(Gemm):
    """One product for each request: ``x [batch, ..., a]``, ``w [adapters, a, b]`` -> ``[batch, ..., b]``.

    Request ``r`` of the batch has adapter ``r mod (adapters + 1)``; where that is the number of ``adapters``, it has
    none, and its result is zero. A step reads the matrices of at most ``active`` adapters.
    """

    keyword: ClassVar[str] = "adapter_gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "gemm", "gemm", measured="gemm", linear=("x",))
    active: int = 1

    @property
    def each(self) -> tuple[str, str]:
        """The requests of ``x``, and the adapters of ``w``."""
        return "batch", ADAPTERS

    def _rule(self, i: int) -> Rule:
        return Gemm._rule(self, i)._replace(whole=(ADAPTERS,))

    def verify(self) -> Iterator[Diagnostic]:
        yield from Gemm.verify(self)
        if any(w.type.names[:1] != (ADAPTERS,) for w in self.weights):
            yield finding(f"the first dimension of its weights is not {ADAPTERS}", self.span, str(self.weights[0].type))
