"""Every kind of measurement that has a form."""

from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.kinds.attention import ATTENTION_DECODE, ATTENTION_ONE_QUERY, ATTENTION_PREFILL
from plandsl.backends.calibrate.kinds.collective import COLLECTIVE, COLLECTIVE_NODES
from plandsl.backends.calibrate.kinds.dispatch import EP_ALLTOALL
from plandsl.backends.calibrate.kinds.elementwise import ELEMENTWISE, ELEMENTWISE_ANY
from plandsl.backends.calibrate.kinds.gemm import GEMM
from plandsl.backends.calibrate.kinds.mixed import ATTENTION_MIXED
from plandsl.backends.calibrate.kinds.mla import MLA_DECODE, MLA_PREFILL
from plandsl.backends.calibrate.kinds.moe import GROUPED_DOWN, GROUPED_UP, MOE

KINDS: tuple[AnyKind, ...] = (
    GEMM,
    ATTENTION_PREFILL,
    ATTENTION_DECODE,
    ATTENTION_ONE_QUERY,
    ATTENTION_MIXED,
    MLA_PREFILL,
    MLA_DECODE,
    ELEMENTWISE,
    ELEMENTWISE_ANY,
    COLLECTIVE,
    COLLECTIVE_NODES,
    EP_ALLTOALL,
    MOE,
    GROUPED_UP,
    GROUPED_DOWN,
)
