"""Kernels of adapters (LoRA): grouped products with a small rank.

Loaded by the first model that has adapters.
"""

from __future__ import annotations

from plandsl.backends.cost.work.kernel import Kernel, count_bytes
from plandsl.backends.cost.work.site import Site
from plandsl.ir.adapters import AdapterGemm
from plandsl.spec.model import ADAPTERS


def adapter_kernel(op: AdapterGemm, site: Site) -> Kernel:
    """A roofline: ``2 m n k`` FLOPs, inputs and outputs once, and the matrices of the adapters that are active.

    No calibration has measurements of these kernels, so their rate is the share of peak of large GEMMs, and each takes
    at least what the smallest GEMM takes.
    """
    m, extents = site.machine, site.extents
    held = extents.product([op.weights[0].type.dim(ADAPTERS)])
    weights = sum(extents.bytes(w.type) for w in op.weights) * op.active / held
    k = extents.product(op.x.type.dim(n) for n in op.contracted())
    outputs = sum(site.split(out.type)[0] for out in op.outs)
    _, per_row = count_bytes(site, (op.x.type, *(out.type for out in op.outs)))
    fitted = m.gemm_constants(op.weights[0].type.dtype, op.compute)
    return Kernel(
        op,
        site.split(op.x.type)[1],
        flops_per_row=2 * k * outputs,
        bytes_fixed=weights,
        bytes_per_row=per_row,
        rate=m.gemm_rate(op.compute),
        bandwidth=m.bandwidth,
        launch=m.launch if fitted is None else fitted.fixed,
    )
