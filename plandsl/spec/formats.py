"""Number formats: their bits as stored, their scales, and the arithmetic in which each is multiplied."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

BITS = {
    "int32": 32,
    "fp64": 64,
    "fp32": 32,
    "tf32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "fp6": 6,
    "fp4": 4,
    "int4": 4,
    # block formats store one 8-bit scale per 32 elements (OCP Microscaling 1.0), nvfp4 one per 16
    "mxfp8": 8.25,
    "mxfp6": 6.25,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
}
"""Bits per element as stored, scales included."""

GGUF = {
    "q1_0": (128, 18),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q4_k": (256, 144),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "q8_0": (32, 34),
    "q8_1": (32, 40),
    "q8_k": (256, 292),
    "iq1_s": (256, 50),
    "iq1_m": (256, 56),
    "iq2_xxs": (256, 66),
    "iq2_xs": (256, 74),
    "iq2_s": (256, 82),
    "iq3_xxs": (256, 98),
    "iq3_s": (256, 110),
    "iq4_nl": (32, 18),
    "iq4_xs": (256, 136),
    "tq1_0": (256, 54),
    "tq2_0": (256, 66),
}
"""Quantised types of GGUF files: elements of a block along the inputs, and its bytes, scales included.

Source: `GGML_QUANT_SIZES` of ggml-org/llama.cpp, gguf-py/gguf/constants.py. No kernel multiplies in them: weights are
unpacked first. MXFP4 and NVFP4 of GGUF are `mxfp4` and `nvfp4` here.
"""

BITS |= {name: 8 * size / block for name, (block, size) in GGUF.items()}

ARITHMETIC = {"mxfp8": "fp8", "mxfp6": "fp6", "mxfp4": "fp4", "nvfp4": "fp4"}
"""Storage format -> format whose matrix peak applies, if the two differ."""

SCALED = ("fp8", "int8", "fp6", "fp4", "int4")
"""Formats of weights that may have scales: `fp8_128x128`, `int4_128`, `int8_channel`."""

OWN_GROUPS = {"mxfp8": 32, "mxfp6": 32, "mxfp4": 32, "nvfp4": 16} | {name: block for name, (block, _) in GGUF.items()}
"""Formats whose scales are part of the format -> inputs of a group."""

FORMS = "`fp8_128x128` (blocks), `int4_128` (groups of inputs), `int8_channel` (outputs)"
"""Examples of formats with scales, for a message."""

LARGEST_GROUP = 65_536
_STATED = re.compile(r"(\w+)\((\d{1,3}(?:\.\d{1,20})?)\)")
_MOST_BITS = 64
_WORD = re.compile(rf"({'|'.join(SCALED)})_(?:(\d+)(?:x(\d+))?|(channel)(\d*))")


class Format(NamedTuple):
    """A format of weights: elements of format ``name``, and one scale for ``inputs`` times ``outputs`` of them.

    ``inputs`` are elements along the dimensions that a GEMM sums over, ``outputs`` along those that it keeps. 0 inputs
    are all inputs of an output; a format without scales has 1 of each. ``channel``: one scale for each output.
    ``stated``: bits of an element with all its scales, where they are given: `int4_128(4.14)`.
    """

    name: str
    inputs: int = 1
    outputs: int = 1
    channel: bool = False
    stated: float = 0.0

    @property
    def scale_bits(self) -> float:
        """Bits of scales for each element.

        A scale is fp32 for a block or an output, and fp16 with a zero point of the elements' format for a group of
        integers, as checkpoints of fp8, GPTQ and AWQ store them.
        """
        if self.inputs * self.outputs == 1 or not self.inputs or self.name in OWN_GROUPS:
            return 0.0
        groups_of_integers = self.outputs == 1 and not self.channel and self.name.startswith("int")
        return (16 + BITS[self.name] if groups_of_integers else 32) / (self.inputs * self.outputs)


@cache
def read_format(word: str) -> Format | None:
    """The format that ``word`` names, such as ``bf16``, ``fp8_128x128`` or ``int8_channel``; None if it names none."""
    if word in BITS:
        return Format(word, OWN_GROUPS.get(word, 1))
    if stated := _STATED.fullmatch(word):
        inner, bits = read_format(stated[1]), float(stated[2])
        return None if inner is None or not 0 < bits <= _MOST_BITS else inner._replace(stated=bits)
    found = _WORD.fullmatch(word)
    if found is None:
        return None
    name, inputs, outputs, channel, of = found.groups()
    if channel:
        return Format(name, int(of or 0), 1, True)
    made = Format(name, int(inputs), int(outputs or 1))
    return made if all(0 < size <= LARGEST_GROUP for size in made[1:3]) else None


def is_storage(word: str) -> bool:
    """Whether a plan may name ``word`` as a format of weights. The inputs of an output follow from the weight."""
    found = read_format(word)
    return found is not None and not (found.channel and found.inputs)


@cache
def base_format(word: str) -> str:
    """The format of the elements of ``word``, without scales: ``fp8`` of ``fp8_128x128``."""
    found = read_format(word)
    assert found is not None, f"there is no format {word}"
    return found.name


@cache
def in_blocks(word: str) -> bool:
    """Whether a block of inputs and outputs has one scale, as in ``fp8_128x128``."""
    found = read_format(word)
    assert found is not None, f"there is no format {word}"
    return found.inputs > 1 and found.outputs > 1


def with_inputs(word: str, inputs: int) -> str:
    """``word``, with the number of inputs of an output in a format with one scale for each output."""
    name, bracket, stated = word.partition("(")
    return f"{name}{inputs}{bracket}{stated}" if name.endswith("_channel") else word


def as_written(word: str) -> str:
    """``word`` as plans write it, without the inputs that `with_inputs` adds."""
    found = read_format(word)
    _, bracket, stated = word.partition("(")
    return f"{found.name}_channel{bracket}{stated}" if found is not None and found.channel else word


@cache
def bits_of(word: str) -> float:
    """Bits per element of the format ``word`` as stored, scales included."""
    found = read_format(word)
    assert found is not None, f"there is no format {word}"
    return found.stated or BITS[found.name] + found.scale_bits


def item_bytes(dtype: str) -> float:
    """Bytes per element of ``dtype`` as stored, scales included."""
    return (BITS[dtype] if dtype in BITS else bits_of(dtype)) / 8
