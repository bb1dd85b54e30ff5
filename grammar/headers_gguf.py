"""The header of a GGUF file: its metadata, and names, types and shapes of its tensors, without the data.

A file may be hostile: every length and count is checked against the file and against a limit before it is used.
Source of the format: ggml-org/ggml, docs/gguf.md; types: ggml-org/llama.cpp, gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from plandsl import limits
from plandsl.diagnostics import clip
from plandsl.grammar.headers import Tensor, Unreadable, about, opened
from plandsl.spec.formats import GGUF

_TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "int8", 25: "int16", 26: "int32", 27: "int64",
    28: "fp64", 29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
"""Types of tensors by their numbers, as this language calls them."""

_BLOCKS = GGUF | {
    "fp32": (1, 4), "fp16": (1, 2), "bf16": (1, 2), "fp64": (1, 8), "int8": (1, 1), "int16": (1, 2), "int32": (1, 4),
    "int64": (1, 8), "mxfp4": (32, 17), "nvfp4": (64, 36),
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = 2, 3
_MOST_DIMENSIONS, _LONGEST_TEXT, _MOST_KEPT, _DEEPEST = 4, 65_535, 10_000, 4
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class Gguf(NamedTuple):
    """Metadata by key (of long arrays only the length, as `Long`), and the tensors of all files of a model."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


class Long(NamedTuple):
    """An array of strings, or a long one, of which only the length is kept."""

    length: int


def read_gguf(path: Path, root: Path) -> Gguf:
    """A model in one file, or in the files ``NAME-00001-of-0000N.gguf``. Raises `Unreadable`, with the file's name."""
    part = _PART.fullmatch(path.name)
    count = int(part[3]) if part else 1
    if not 1 <= count <= limits.MAX_SHARDS:
        why = f"{path.name}: a model has 1 to {limits.MAX_SHARDS:,} files"
        raise Unreadable(why, limits.MAX_SHARDS.hint(found=count))
    names = [f"{part[1]}-{n:05}-of-{part[3]}.gguf" for n in range(1, count + 1)] if part else [path.name]
    metadata: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        with about(name):
            with opened(path.with_name(name), root) as (file, size):
                found = _Reader(file, size).read()
            of, no = found.metadata.get("split.count", 1), found.metadata.get("split.no", 0)
            if (of or 1, no) != (count, number):
                said = f"its `split.no` is {clip(ascii(no))} of {clip(ascii(of))}, counted from 0"
                raise Unreadable(f"{said}, and its name says file {number + 1} of {count}")
            if again := next((t.name for t in found.tensors if t.name in tensors), None):
                raise Unreadable(f"the tensor {clip(ascii(again))} is given twice")
        metadata = metadata or found.metadata
        tensors |= {t.name: t for t in found.tensors}
    if len(tensors) > limits.MAX_TENSORS:
        why = f"{path.name}: the model has more than {limits.MAX_TENSORS:,} tensors"
        raise Unreadable(why, limits.MAX_TENSORS.hint())
    return Gguf(metadata, tuple(tensors.values()))


class _Reader:
    """Reads one file from its start to the end of its header."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.left = min(size, limits.MAX_HEADER_BYTES)
        self.order = "<"

    def read(self) -> Gguf:
        """The header. Raises `Unreadable`."""
        if self._bytes(4) != b"GGUF":
            raise Unreadable("it does not start with `GGUF`")
        version = self._number("I")
        if int(version).to_bytes(4, "little") in [n.to_bytes(4, "big") for n in _VERSIONS]:
            self.order = ">"  # files for big-endian machines say so in no other way
        elif version not in _VERSIONS:
            raise Unreadable(f"it has version {version} of the format; 2 and 3 are read")
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > limits.MAX_TENSORS or keys > limits.MAX_TENSORS:
            raise Unreadable(
                f"it would have {tensors:,} tensors and {keys:,} keys; at most {limits.MAX_TENSORS:,} are read"
            )
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text(_LONGEST_TEXT)
            if key in metadata:
                raise Unreadable(f"the key {clip(ascii(key))} is given twice")
            metadata[key] = self._value(self._number("I"), 0)
        found = [self._tensor() for _ in range(tensors)]
        self._check_places(found, metadata.get("general.alignment", 32))
        return Gguf(metadata, tuple(tensor for tensor, _ in found))

    # ---- values

    def _bytes(self, count: int) -> bytes:
        self._spend(count)
        data = self.file.read(count)
        if len(data) < count:
            raise Unreadable("its header is cut off")
        return data

    def _spend(self, count: int) -> None:
        if count > self.left:
            limit = "" if self.size <= limits.MAX_HEADER_BYTES else f", or after {limits.MAX_HEADER_BYTES:,} bytes"
            raise Unreadable(f"its header does not end before the file does{limit}")
        self.left -= count

    def _skip(self, count: int) -> None:
        self._spend(count)
        self.file.seek(count, 1)

    def _number(self, letter: str) -> Any:
        (value,) = struct.unpack(f"{self.order}{letter}", self._bytes(struct.calcsize(f"<{letter}")))
        return value

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise Unreadable(f"a name of {length:,} bytes is longer than {most:,}")
        return str(self._bytes(length).decode("utf-8", "replace"))

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            length = self._number("Q")
            if length <= _LONGEST_TEXT:
                return self._bytes(length).decode("utf-8", "replace")
            self._skip(length)
            return ""
        if kind == _ARRAY and depth < _DEEPEST:
            return self._array(depth)
        raise Unreadable("its metadata nests too deeply" if kind == _ARRAY else f"a value has the unknown type {kind}")

    def _array(self, depth: int) -> Any:
        kind, length = self._number("I"), self._number("Q")
        if kind in _SCALARS and length > _MOST_KEPT:
            self._skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
            return Long(length)
        if length > self.left:  # an element has a byte at least
            raise Unreadable(f"an array would have {length:,} elements, more than its file has bytes")
        if kind == _STRING:
            for _ in range(length):
                self._skip(self._number("Q"))
            return Long(length)
        return [self._value(kind, depth + 1) for _ in range(length)]

    # ---- tensors

    def _tensor(self) -> tuple[Tensor, int]:
        """A tensor with its shape, outer dimension first, and the place of its data."""
        name = self._text(_LONGEST_TEXT)
        shown, dimensions = clip(ascii(name)), self._number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise Unreadable(f"the tensor {shown} has {dimensions:,} dimensions, more than {_MOST_DIMENSIONS}")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        number, place = self._number("I"), self._number("Q")
        if number not in _TYPES:
            raise Unreadable(f"the tensor {shown} has the unknown type {number}")
        if prod(shape) > limits.MAX_TENSOR_ELEMENTS:
            raise Unreadable(f"the tensor {shown} would have {clip(str(prod(shape)), 30)} elements")
        block, size = _BLOCKS[_TYPES[number]]
        if (row := shape[-1] if shape else 1) % block:
            raise Unreadable(f"rows of {row:,} elements of the tensor {shown} are no blocks of {block}")
        return Tensor(name, _TYPES[number], shape, prod(shape) // block * size), place

    def _check_places(self, found: list[tuple[Tensor, int]], alignment: Any) -> None:
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise Unreadable("its `general.alignment` is no power of two")
        start = -(-self.file.tell() // alignment) * alignment
        if len({tensor.name for tensor, _ in found}) < len(found):
            raise Unreadable("two tensors have one name")
        for name, at in _overlaps(found):
            raise Unreadable(f"the tensor {clip(ascii(name))} overlaps another at byte {at:,} of the data")
        for tensor, place in found:
            if place % alignment or start + place + tensor.size > self.size:
                raise Unreadable(f"the data of the tensor {clip(ascii(tensor.name))} are not inside the file")


def _overlaps(found: list[tuple[Tensor, int]]) -> Iterator[tuple[str, int]]:
    end = 0
    for tensor, place in sorted(found, key=lambda pair: (pair[1], pair[0].size)):
        if place < end:
            yield tensor.name, place
        end = max(end, place + tensor.size)
