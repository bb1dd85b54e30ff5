"""GPUs whose kernels are alike: whose constants a GPU takes where it has none of its own."""

from __future__ import annotations

from typing import NamedTuple

from plandsl.spec.hardware import GpuSpec


class Relatives(NamedTuple):
    """Relatives of a GPU, nearest first, and why these.

    The first ``completing`` of them complete a calibration of the GPU that was measured in part. A GPU that is left out
    of the fits is predicted from all of them.
    """

    names: tuple[str, ...]
    why: str
    completing: int = 0


RELATIVES = {
    "a100_sxm": Relatives(
        ("a800", "a40", "h100_sxm"), "the same chip with slower links, then its generation, then the next one"
    ),
    "a800": Relatives(("a100_sxm",), "the same chip with faster links", completing=1),
    "a40": Relatives(("a6000", "a100_sxm"), "the same chip, then its generation", completing=2),
    "a6000": Relatives(("a40", "a100_sxm"), "the same chip, then its generation", completing=2),
    "rtx_3090": Relatives(("a40", "a6000"), "the same chip"),
    "h100_sxm": Relatives(("h20", "b200_sxm", "a100_sxm"), "its generation, then its neighbours in the same line"),
    "h20": Relatives(("h100_sxm",), "its generation", completing=1),
    "b200_sxm": Relatives(("b300_sxm", "gb200", "h100_sxm"), "its generation"),
    "b300_sxm": Relatives(("b200_sxm", "gb200", "h100_sxm"), "its generation", completing=1),
    "gb200": Relatives(("b200_sxm", "b300_sxm", "h100_sxm"), "its generation, beside another host", completing=1),
    "gb300": Relatives(("b300_sxm", "gb200", "b200_sxm"), "its generation, beside another host"),
    "rtx_pro_6000": Relatives(("b200_sxm", "a40", "h100_sxm"), "its generation in another line", completing=1),
    "l40s": Relatives(("rtx_pro_6000", "a40", "h100_sxm"), "its line, a generation later"),
    "rtx_4090": Relatives(("rtx_pro_6000", "a40", "h100_sxm"), "its line, a generation later"),
    "mi210": Relatives(("mi300x",), "its line, a generation later", completing=1),
    "mi300x": Relatives(("mi355x", "mi210"), "its line, a generation later", completing=1),
    "mi308x": Relatives(("mi300x", "mi355x"), "its generation"),
    "mi325x": Relatives(("mi300x", "mi355x"), "its generation"),
    "mi350x": Relatives(("mi355x", "mi300x"), "its generation"),
    "mi355x": Relatives(("mi300x", "mi210"), "its line, a generation earlier", completing=1),
}
"""Relatives by GPU; `pooled` comes after them."""


def completing(gpu: str) -> tuple[str, ...]:
    """Calibrations that complete one whose GPU was measured in part."""
    found = RELATIVES.get(gpu)
    return found.names[: found.completing] if found else ()


CHIPS = (
    ("a100_sxm", "a800"), ("a40", "a6000", "rtx_3090"), ("h100_sxm", "h20"), ("b200_sxm", "b300_sxm", "gb200", "gb300"),
    ("rtx_pro_6000", "l40s", "rtx_4090"), ("mi300x", "mi308x", "mi325x"), ("mi350x", "mi355x"),
)  # fmt: skip
"""GPUs of one chip or generation: constants err on them alike, so they count once where whole GPUs are left out."""


def chip_of(gpu: str) -> str:
    """The chip of a GPU, by the name of the first GPU that has it."""
    return next((chip[0] for chip in CHIPS if gpu in chip), gpu)


def relatives_of(gpu: GpuSpec) -> tuple[str, ...]:
    """The relatives of a GPU, nearest first. A GPU that `RELATIVES` lacks has the GPU whose calibration it names."""
    if gpu.name in RELATIVES:
        return RELATIVES[gpu.name].names
    return (gpu.calibration,) if gpu.calibration and gpu.calibration != gpu.name else ()
