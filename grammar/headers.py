"""The headers of checkpoint files: names, types, shapes and sizes of their tensors, without the data.

A file may be hostile: every length and count is checked against the file and against a limit before it is used.
Source of the format: huggingface/safetensors, README.md, "Format"; types: safetensors/src/tensor.rs, `Dtype`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeGuard

from plandsl import limits
from plandsl.diagnostics import clip
from plandsl.files import open_ordinary

INDEX, SINGLE, SUFFIX = "model.safetensors.index.json", "model.safetensors", ".safetensors"

BITS_OF_TYPE = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Types of safetensors, and their bits."""

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_MOST_DIMENSIONS = 16


class Unreadable(Exception):
    """A file is no checkpoint, or a hostile one; the text says why, and ``hint`` how to go on."""

    def __init__(self, text: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(text)


class Tensor(NamedTuple):
    """A tensor of a checkpoint. ``shape`` is as stored, packed elements counted as one; ``size`` is in bytes.

    ``module`` is its name in checkpoints of Hugging Face, where its file has another for it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    module: str = ""

    @property
    def elements(self) -> int:
        """Elements as stored."""
        return prod(self.shape)


class Checkpoint(NamedTuple):
    """The tensors of a checkpoint.

    ``absent`` are tensors that an index names, but whose files are not there, and ``total`` the bytes of all tensors
    that the index states, or 0.
    """

    tensors: tuple[Tensor, ...]
    absent: tuple[str, ...] = ()
    total: int = 0


@contextmanager
def opened(path: Path, root: Path) -> Iterator[tuple[BinaryIO, int]]:
    """An ordinary file below ``root``, and its size in bytes. Raises `Unreadable`."""
    try:
        real = path.resolve()
        if not real.is_relative_to(root):
            raise Unreadable("it is a link to a file outside the folder")
        with open_ordinary(real, resolved=True) as file:
            yield file, os.fstat(file.fileno()).st_size
    except (OSError, ValueError, RuntimeError) as error:
        raise Unreadable(getattr(error, "strerror", None) or "its path cannot be read") from None


def read_folder(folder: Path, root: Path) -> Checkpoint | None:
    """The tensors of the checkpoint in a folder; None if it has no weights. Raises `Unreadable`."""
    if os.path.lexists(folder / INDEX):
        return _read_index(folder, root)
    names = [SINGLE] if os.path.lexists(folder / SINGLE) else sorted(filter(_SHARD.fullmatch, _names(folder)))
    if not names:
        return None
    return Checkpoint(tuple(_read_files(folder, names, root)))


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry, _ in zip(entries, range(10 * limits.MAX_SHARDS), strict=False))


def _read_index(folder: Path, root: Path) -> Checkpoint:
    with about(INDEX), opened(folder / INDEX, root) as (file, size):
        if size > limits.MAX_HEADER_BYTES:
            why = f"it has {size:,} bytes, and an index has at most {limits.MAX_HEADER_BYTES:,}"
            raise Unreadable(why, limits.MAX_HEADER_BYTES.hint(found=size))
        table = _json(file.read(limits.MAX_HEADER_BYTES))
        places = table.get("weight_map")
        if not isinstance(places, dict) or not places:
            raise Unreadable('it has no "weight_map" with the file of each tensor')
        if len(places) > limits.MAX_TENSORS:
            raise Unreadable(
                f"it names more than {limits.MAX_TENSORS:,} tensors", limits.MAX_TENSORS.hint(found=len(places))
            )
        for name, place in places.items():
            if not isinstance(place, str) or not place.endswith(SUFFIX) or re.search(r"[/\\\0:]", place):
                why = "which is no name of a safetensors file in its folder"
                raise Unreadable(f"it places {json.dumps(clip(name))} in {clip(json.dumps(place))}, {why}")
        total = table["metadata"].get("total_size", 0) if isinstance(table.get("metadata"), dict) else 0
        if type(total) not in (int, float) or not 0 <= total < 2**63 or total != int(total):
            raise Unreadable(f'its "total_size" is no number of bytes: {clip(json.dumps(total))}')
    files = sorted(set(places.values()))
    if len(files) > limits.MAX_SHARDS:
        raise Unreadable(
            f"{INDEX}: it names more than {limits.MAX_SHARDS:,} files", limits.MAX_SHARDS.hint(found=len(files))
        )
    there = [name for name in files if os.path.lexists(folder / name)]
    found = {tensor.name: tensor for tensor in _read_files(folder, there, root)}
    for name, place in places.items():
        if place in there and name not in found:
            raise Unreadable(f"{place}: it has no tensor {json.dumps(clip(name))}, which {INDEX} places there")
    return Checkpoint(tuple(found.values()), tuple(name for name in places if name not in found), int(total))


def _read_files(folder: Path, names: list[str], root: Path) -> Iterator[Tensor]:
    if len(names) > limits.MAX_SHARDS:
        raise Unreadable(f"the folder has more than {limits.MAX_SHARDS:,} files of weights", limits.MAX_SHARDS.hint())
    seen: set[str] = set()
    for name in names:
        with about(name), opened(folder / name, root) as (file, size):
            tensors = read_safetensors(file, size)
            if again := next((tensor.name for tensor in tensors if tensor.name in seen), None):
                raise Unreadable(f"another file has the tensor {json.dumps(clip(again))} too")
            seen |= {tensor.name for tensor in tensors}
            if len(seen) > limits.MAX_TENSORS:
                raise Unreadable(
                    f"the checkpoint has more than {limits.MAX_TENSORS:,} tensors", limits.MAX_TENSORS.hint()
                )
        yield from tensors


@contextmanager
def about(name: str) -> Iterator[None]:
    """Put the name of a file before the reason for refusing it."""
    try:
        yield
    except Unreadable as error:
        raise Unreadable(f"{clip(name)}: {error}", error.hint) from None


# ---- one file


def read_safetensors(file: BinaryIO, size: int) -> list[Tensor]:
    """The tensors of a safetensors file of ``size`` bytes, by its first 8 bytes and header. Raises `Unreadable`."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise Unreadable(f"its header would have {length:,} bytes, but the file ends after {max(size - 8, 0):,}")
    if length > limits.MAX_HEADER_BYTES:
        why = f"its header has {length:,} bytes, and at most {limits.MAX_HEADER_BYTES:,} are read"
        raise Unreadable(why, limits.MAX_HEADER_BYTES.hint(found=length))
    text = file.read(length)
    if len(text) < length:
        raise Unreadable("its header is cut off")
    table = _json(text)
    table.pop("__metadata__", None)
    if len(table) > limits.MAX_TENSORS:
        raise Unreadable(f"it has more than {limits.MAX_TENSORS:,} tensors", limits.MAX_TENSORS.hint(found=len(table)))
    found = [_tensor(name, entry) for name, entry in table.items()]
    at = 0
    for tensor, first in sorted(found, key=lambda pair: (pair[1], pair[0].size)):
        if first != at:
            why = "overlaps another" if first < at else "leaves a gap before its data"
            raise Unreadable(f"the tensor {json.dumps(clip(tensor.name))} {why}")
        at = first + tensor.size
    if at != size - 8 - length:
        raise Unreadable(f"its tensors have {at:,} bytes, but the file has {size - 8 - length:,} of data")
    return [tensor for tensor, _ in found]


def _tensor(name: str, entry: Any) -> tuple[Tensor, int]:
    """A tensor, and the place of its first byte."""
    shown = json.dumps(clip(name))
    if not isinstance(entry, dict):
        raise Unreadable(f"the tensor {shown} has no type and shape")
    type_, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(type_, str) or type_ not in BITS_OF_TYPE:
        raise Unreadable(f"the tensor {shown} has the unknown type {clip(json.dumps(type_))}")
    if not _are_whole(shape) or len(shape) > _MOST_DIMENSIONS or not _are_whole(offsets) or len(offsets) != 2:
        raise Unreadable(f"the shape or the offsets of the tensor {shown} are no whole numbers")
    elements = prod(shape)
    if elements > limits.MAX_TENSOR_ELEMENTS:
        raise Unreadable(f"the tensor {shown} would have {clip(str(elements), 30)} elements")
    first, end = offsets
    if 8 * (end - first) != elements * BITS_OF_TYPE[type_]:
        needed = elements * BITS_OF_TYPE[type_] / 8
        why = f"its offsets span {clip(str(end - first), 30)} bytes, its type and shape {needed:,.0f}"
        raise Unreadable(f"the tensor {shown} contradicts itself: {why}")
    return Tensor(name, type_, tuple(shape), end - first), first


def _are_whole(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object without names that stand twice. Raises `Unreadable`."""
    try:
        found = json.loads(data.decode(), parse_constant=_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        deep = "it nests too deeply" if isinstance(error, RecursionError) else "it is no valid JSON"
        raise Unreadable(deep) from None
    if not isinstance(found, dict):
        raise Unreadable("it is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Unreadable(f"{json.dumps(clip(name))} is given twice")
        found[name] = value
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(word)
