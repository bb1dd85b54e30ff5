"""GPUs whose kernels are alike: whose constants a GPU takes where it has none of its own."""

from __future__ import annotations

from typing import NamedTuple


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
