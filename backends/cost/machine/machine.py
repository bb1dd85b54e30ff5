"""The machine that a program runs on: a GPU, its links, and the rates that they reach by the calibration."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property, lru_cache
from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from plandsl.ir.program import PREFILL
from plandsl.ir.types import Number
from plandsl.spec.constants import C, FormConstants, GemmConstants
from plandsl.spec.formats import BITS, base_format, in_blocks
from plandsl.spec.fusions import ANY, FusedSizes
from plandsl.spec.hardware import OF_LINKS, TRANSFER, CalibrationSpec, ClusterSpec, GpuSpec, LinkSpec
from plandsl.spec.origins import FITTED_HERE, GENERIC, MEASURED
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.backends.cost.machine.tables import Measured


Side: TypeAlias = Literal["links", "traffic", "arithmetic"]
"""A side of a machine: links, kernels that only move memory, or kernels that calculate."""


STAND_INS = {
    "bf16": ("fp16",), "fp16": ("bf16",), "fp8": ("fp8_block",), "int8": ("w8a8_int8_or_fp8",),
    "fp4": ("nvfp4", "mxfp4"), "nvfp4": ("mxfp4",), "mxfp4": ("nvfp4",), "mxfp8": ("fp8", "fp8_block"),
}  # fmt: skip
"""Fitted formats of GEMMs that stand in for a format without a set of its own, best first."""


UNPACKED = {8: ("w8a16", "w4a16"), 6: ("w6a16",), 4: ("w4a16", "w8a16")}
"""Fitted formats of GEMMs that unpack weights first, by the bits of a stored weight: its own, then one built alike."""


UNPACKED_BLEND = 3.965
"""How far kernels that unpack weights hide reading them behind arithmetic, at least: as those fitted on A100 do.

`blend` is 3.965 for weights of 8 bits there and 4.674 for 4 bits, beside 2.2 for weights that are not unpacked.
"""


MARLIN = ("vllm", "sglang")
"""Engines that unpack weights with Marlin, so that TensorRT-LLM's kernels tell nothing of them.

Marlin reads weights of 4 bits nearly as fast as the memory allows, 3.87 times as fast as 16 bits up to a batch of 16 to
32, on A10, RTX 3090 and A6000 (Frantar et al., arXiv 2408.11743): it has the form of weights that are not unpacked,
with `UNPACKED_BLEND`.
"""


class Answer(NamedTuple):
    """The layer of the cost model that timed an op, and its band; for a collective also the fastest algorithm.

    ``origin`` says where the constants come from (`CalibrationSpec.origin`). With the algorithm a rank sends ``volume``
    bytes over the links for each byte of payload. ``fused``: the op runs in the kernel of another op.
    """

    layer: str
    band: tuple[float, float] | None
    algorithm: str = ""
    volume: Number = 0
    fused: bool = False
    origin: str = FITTED_HERE


MEASURED_ANSWER = Answer("measured", (1.0, 1.0), origin=MEASURED)
"""A table gives the measured time. It does not say how far measurements vary."""


class Rates(NamedTuple):
    """Throughput under an engine relative to stand-alone runs, of kernels in one phase and of collectives."""

    kernels: float
    links: float


class Machine:
    """A GPU, its links and its calibration.

    ``bandwidth`` is what kernels reach of the GPU's memory bandwidth, in bytes/s. Collectives reach the share
    ``link_share`` of the bandwidth of ``link``. ``launch...`` are the fixed seconds of a kernel or a collective.
    ``rates``: engine throughput relative to stand-alone runs, for kernels in prefill and decode, and for collectives.
    ``fused_sizes``: up to which size the engine's all_reduces share their kernels with other ops.
    """

    def __init__(
        self, gpu: GpuSpec, link: LinkSpec, calibration: CalibrationSpec, algorithm: str = "auto", kernels: str = ""
    ) -> None:
        self.gpu, self.link, self.calibration, self.algorithm = gpu, link, calibration, algorithm
        self.kernels = kernels
        self.rates = (1.0, 1.0, 1.0)
        self.fused_sizes: FusedSizes | None = None
        self.cluster: ClusterSpec | None = None
        self.measured: Measured | None = None
        self.suffixes = ("_trtllm", "") if kernels == "trtllm" else ("", "_trtllm")
        get = calibration.get
        self.bandwidth = gpu.bandwidth * get("hbm", 1.0)
        self.launch = get("launch", 0.0)
        self.launch_elementwise = get("launch_elementwise", self.launch)
        self.launch_collective = get("launch_collective", self.launch)
        self.link_share = get("link", 1.0)

    def gemm_rate(self, dtype: str) -> float:
        """FLOP/s of a large GEMM in ``dtype``."""
        return self.peak(dtype) * self.calibration.get(f"gemm.{dtype}", self.calibration.get("gemm", 1.0))

    def attention_rate(self, dtype: str, phase: str) -> float:
        """FLOP/s of attention arithmetic in ``dtype``."""
        share = self.calibration.get("attention_prefill", 1.0)
        return self.peak(dtype) * (share if phase == PREFILL else self.calibration.get("attention_decode", share))

    def peak(self, dtype: str) -> float:
        """FLOP/s in ``dtype`` at the clock that the GPU's power allows."""
        peak = self.gpu.peak(dtype)
        assert peak is not None, f"legality checked that {self.gpu.name} multiplies in {dtype}"
        return peak * self.gpu.clock

    def gemm_constants(self, weights: str, compute: str) -> GemmConstants | None:
        """The fitted constants of a GEMM that stores ``weights`` and multiplies in ``compute``."""
        path = self.gemm_set(weights, compute)
        if path is None:
            return None
        found = self.calibration.constants(GemmConstants, path)
        assert found is not None, "the calibration has the set"
        if self.packing(weights, compute) == 1:
            return found
        return as_unpacked(found._replace(blend=max(found.blend, UNPACKED_BLEND)))

    def packing(self, weights: str, compute: str) -> float:
        """Bits of a stored weight over those that the fitted constants are for: 1, but for weights without a set."""
        path, bits = self.gemm_set(weights, compute), BITS[base_format(weights)]
        if path is None or bits >= BITS[compute]:
            return 1.0
        fitted = next((of for of, names in UNPACKED.items() if path.startswith(f"gemm.{names[0]}")), BITS[compute])
        return bits / fitted

    def gemm_set(self, weights: str, compute: str) -> str | None:
        """The section with the constants of a GEMM that stores ``weights`` and multiplies in ``compute``, or None."""
        if self.gpu.units is None:
            return None
        bits = BITS[base_format(weights)]
        unpacked = UNPACKED[min(UNPACKED, key=lambda of: abs(of - bits))] if bits < BITS[compute] else ()
        own = ("fp8_block",) if in_blocks(weights) and compute == "fp8" else ()
        names = (*unpacked, *own, compute, *STAND_INS.get(compute, ()))
        paths = (
            f"gemm.{name}{suffix}"
            for name in names
            for suffix in self.suffixes
            if not (suffix and name in unpacked and self.kernels in MARLIN)
        )
        return next((path for path in paths if path in self.calibration.sections), None)

    def most_fused(self, ranks: Number) -> Number:
        """The most bytes of an all_reduce between ``ranks`` that shares its kernel with other ops; 0: it never does."""
        if self.fused_sizes is None:
            return inf
        by_format = dict(self.fused_sizes.bytes)
        sizes = by_format.get(self.gpu.narrowest) or by_format.get(ANY)
        found: Number = 0.0
        for count, size in zip(reversed(self.fused_sizes.ranks), reversed(sizes), strict=True) if sizes else ():
            found = found + (size - found) * (ranks <= count)
        return found

    def rates_in(self, phase: str) -> Rates:
        """The engine's rates in one phase."""
        prefill, decode, links = self.rates
        return Rates(prefill if phase == PREFILL else decode, links)

    @property
    def flat(self) -> Answer:
        """The layer for ops without a fitted form: shares of peaks, and launches."""
        get, values = dict(self.calibration.values).get, self.calibration.values
        low, high = get("low"), get("high")
        band = None if low is None or high is None else (low, high)
        origin = dict(self.calibration.origins).get("low", FITTED_HERE) if values else GENERIC
        return Answer("constant" if values else "roofline", band, origin=origin)

    @cached_property
    def figures(self) -> dict[Side, Hashable]:
        """All that the ops of each side depend on: where two machines agree in it, these ops take equally long."""
        own = self.gpu.units, self.kernels, self.measured
        kernels = self.gpu.name, self.gpu.bandwidth, self.bandwidth
        cluster = self.cluster and (self.cluster.network, self.cluster.node.count)
        links = self.link, cluster, self.link_share, self.launch_collective, self.algorithm, self.rates[2]
        constants: dict[Side, list[tuple[str, float]]] = {"links": [], "traffic": [], "arithmetic": []}
        for constant in self.calibration.values:
            constants[_side_of(constant[0])].append(constant)
        sections = self.calibration.sections  # a layer with constants of its own takes the place of some kernels
        return {
            "links": (*own, *links, *constants["links"]),
            "traffic": (*own, *kernels, self.fused_sizes, self.launch_elementwise, *constants["traffic"], *sections),
            "arithmetic": (*own, *kernels, self.gpu.compute, self.gpu.clock, *constants["arithmetic"]),
        }

    @classmethod
    def of(cls, plan: PlanSpec) -> Machine:
        """The machine that a plan runs on."""
        machine = cls(plan.node.gpu, plan.node.link, plan.calibration, plan.algorithm, plan.effective_engine.kernels)
        machine.rates = plan.effective_engine.rates
        machine.fused_sizes = plan.effective_engine.fused_sizes
        machine.cluster = plan.cluster
        if plan.measured or plan.node.gpu.measured:
            from plandsl.backends.cost.machine.tables import Measured

            machine.measured = Measured.of(plan)
        return machine


@lru_cache(maxsize=4096)
def _side_of(constant: str) -> Side:
    """The side of a machine that a constant of its calibration belongs to."""
    word = constant.partition(".")[0]
    return "links" if word in OF_LINKS else "traffic" if word == "elementwise" else "arithmetic"


def as_unpacked(constants: C) -> C:
    """``constants`` for weights that are stored in fewer bits than they are multiplied in: the band is wider.

    No rows of such weights are known. They are timed as weights that are not unpacked, with bytes of their own.
    """
    return constants if constants.band is None else constants._replace(band=constants.band.raised(TRANSFER))


def form_answer(constants: FormConstants, seconds: Number | None = None) -> Answer:
    """The layer for ops with a fitted form, whose ``constants`` have the band.

    ``seconds`` that the form gives tell whether such sizes were fitted; None where the form is of more than the op.
    """
    band = constants.band
    if band is None:
        return Answer("fitted", None)
    return Answer("fitted", band.at(None if seconds is None else float(seconds)), origin=band.origin or FITTED_HERE)
