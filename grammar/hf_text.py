"""The shape of a model as `.plan` text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from plandsl.grammar.hf_families import Family
from plandsl.grammar.hf_shape import Shape
from plandsl.grammar.hf_storage import Storage
from plandsl.grammar.hf_template import indented, render
from plandsl.spec.model import ACTIVATIONS

MAX_BLOCKS = 16
"""Most blocks in the text of a model. If more are needed, its layers are of too many kinds."""

_LONGEST_LEAD, _LONGEST_PERIOD = 8, 12
_FEW_BLOCKS = 8
_ARGUMENT = "x[tokens, hidden]"
_WIDTH = 100
_LONGEST_LINE = 118
_WIDTHS = ("ffn", "expert_ffn", "experts", "shared", "vocab", "pair")
"""Dimensions that stand on the second line of sizes, in this order."""


class Made(NamedTuple):
    """A family, and the shape that it gives a model."""

    family: Family
    shape: Shape

    def part(self, name: str, **more: Any) -> str:
        """A part of the family, with the values of the model and ``more``."""
        return render(self.family.parts.get(name, ""), self.shape.of_model | more, self.family.parts)


class Kind(NamedTuple):
    """The kind of a layer: the values of its family's fields, and its own formats of weights."""

    words: tuple[tuple[str, Any], ...]
    stored: tuple[tuple[str, str], ...] = ()


def model_text(
    name: str, made: Made, storage: Storage, source: str, remarks: Sequence[str], tower: Sequence[str] = ()
) -> str:
    """The model in canonical form, with the lines of its ``tower``; empty if it needs more than `MAX_BLOCKS` blocks."""
    shape = made.shape
    ranges = _ranges(shape)
    if len(ranges) > MAX_BLOCKS:
        return ""
    labels = _labels(ranges, shape)
    body = _body(made, labels, ranges, storage.experts)
    # the notes of `hf` become comments too, because the text is read without its config
    lines = [f"# {remark}" for remark in remarks]
    lines += [f"model {name} {{", f'  source = "{source}"', "", f"  layers = {len(shape.layers)}"]
    lines += _fields(made, "\n".join(body))
    lines += ["", f"  {_formats(storage)}", *_stored(storage, labels, ranges), ""]
    lines += [*indented("\n".join(tower), 1), ""] if tower else []
    lines += [part for line in indented("\n".join(body), 1) for part in _folded(line)]
    lines.append("}")
    return "\n".join(lines) + "\n"


def tower_text(made: Made, formats: str) -> list[str]:
    """The lines of a tower in a model, with a line of its ``formats``."""
    ranges = _ranges(made.shape)
    body = _body(made, _labels(ranges, made.shape), ranges, "")
    sizes = [f"layers = {len(made.shape.layers)}", *(line.strip() for line in _fields(made, "\n".join(body)))]
    return ["tower {", *indented("\n".join([*sizes, formats, *body]), 1), "}"]


def _ranges(shape: Shape) -> list[tuple[Kind, str]]:
    stored = shape.stored or ((),) * len(shape.layers)
    return cover([Kind(words, own) for words, own in zip(shape.kinds, stored, strict=True)])


def _body(made: Made, labels: list[str], ranges: list[tuple[Kind, str]], experts: str) -> list[str]:
    """The embedding, the blocks and the head; the option `weights` of experts is ``experts``."""
    body, argument = [f"embedding {made.part('embedding')}"], made.part("argument") or _ARGUMENT
    for label, (kind, layers) in zip(labels, ranges, strict=True):
        words = ["block", label, f"[layers = {layers}]" if layers else "", f"{argument} {{"]
        body += [" ".join(filter(None, words)), made.part("layer", **dict(kind.words), expert_format=experts), "}"]
    if made.shape.of_model.get("predicts"):
        mtp = made.part("mtp", expert_format=experts, predicting=True)
        body += ["mtp x[tokens, hidden] with e[tokens, hidden] {", mtp, "}"]
    return [*body, f"head {made.part('head')}"]


def _folded(line: str) -> Iterator[str]:
    """A line, folded behind the commas of a long list of layers."""
    while len(line) > _LONGEST_LINE and "]] x[" in line:
        end = line.rfind(", ", 0, min(_LONGEST_LINE, line.index("]] x["))) + 1
        yield line[:end]
        line = f"      {line[end + 1 :]}"
    yield line


def dimensions_in(body: str) -> frozenset[str]:
    """The dimensions that a text of blocks uses."""
    return frozenset(re.findall(r"\w+", " ".join(re.findall(r"\[([^]=]*)\]", body))))


def _fields(made: Made, body: str) -> Iterator[str]:
    """The lines with the dimensions that the body uses, the context, and further fields of the family."""
    used = dimensions_in(body)
    names = [field.name for field in made.family.fields if field.name in used and field.name not in _WIDTHS]
    for line in (names, [name for name in _WIDTHS if name in used]):
        yield from _wrapped([f"{name} = {made.shape.values[name]}" for name in line])
    if made.shape.values["context"]:
        yield f"  max_context = {made.shape.values['context']}"
    yield from indented(made.part("options"), 1)


def _wrapped(items: list[str]) -> Iterator[str]:
    """Items on as few lines as hold them."""
    line: list[str] = []
    for item in items:
        if line and len(", ".join([*line, item])) > _WIDTH:
            yield f"  {', '.join(line)}"
            line = []
        line.append(item)
    if line:
        yield f"  {', '.join(line)}"


def _formats(storage: Storage) -> str:
    text = f"weights = {storage.weights}, activations = {storage.activations}, kv_cache = {storage.kv_cache}"
    return f"{text}, compute = {storage.compute}" if storage.compute else text


def _stored(storage: Storage, labels: list[str], ranges: list[tuple[Kind, str]]) -> Iterator[str]:
    """The lines with the weights whose format is another one than `weights`."""
    items = [_entries(storage.stored)]
    items += [
        f"{label} {{ {_entries(kind.stored)} }}" for label, (kind, _) in zip(labels, ranges, strict=True) if kind.stored
    ]
    line = f"  stored {{ {', '.join(items)} }}"
    if len(line) <= _WIDTH:
        yield line
        return
    yield "  stored {"
    for item in (*(_entries([entry]) for entry in storage.stored), *items[1:]):
        yield f"    {item}"
    yield "  }"


def _entries(stored: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} = {word}" for name, word in stored)


# ---- layers


def cover(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    """As few blocks as cover the layers: the kind of each, and its layers as ``a..b``, ``a..b by step`` or a list.

    Empty layers mean all that no other block names. The first layers of a model may differ; the others repeat with a
    period, or change a few times; where they follow no such rule, each kind has a list.
    """
    parts = _parts(kinds)
    kind, most = Counter(kind for kind, _ in parts).most_common(1)[0]
    found = parts if most == 1 and len(parts) > 1 else [(kind, ""), *(part for part in parts if part[0] != kind)]
    return _lists(kinds) if len(found) > _FEW_BLOCKS else found


def _lists(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    """The most frequent kind for all layers that the others leave; each other kind with the list of its layers."""
    counts = Counter(kinds)
    usual = counts.most_common(1)[0][0]
    layers = {kind: [layer for layer, other in enumerate(kinds) if other == kind] for kind in counts if kind != usual}
    return [(usual, ""), *((kind, f"[{', '.join(map(str, found))}]") for kind, found in layers.items())]


def _parts(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    """Ranges that cover all layers, each of one kind."""
    best = _runs(kinds, 0, len(kinds))
    for lead in range(min(len(kinds), _LONGEST_LEAD + 1)):
        first = _runs(kinds, 0, lead)
        rest = kinds[lead:]
        for period in range(2, min(len(rest), _LONGEST_PERIOD + 1)):
            if len(first) + period < len(best) and rest[period:] == rest[:-period]:
                steps = [f"{lead + n}..{len(kinds)} by {period}" for n in range(period)]
                best = first + list(zip(rest, steps, strict=False))
    return min(best, *_between(kinds), key=len) if len(best) > MAX_BLOCKS // 2 else best


def _between(kinds: Sequence[Kind]) -> Iterator[list[tuple[Kind, str]]]:
    """Ranges of layers that repeat with a period between first and last layers of one kind, as GGUF files have them."""
    runs = _runs(kinds, 0, len(kinds))
    yield runs
    stop = int(runs[-1][1].partition("..")[0])
    start = int(runs[0][1].partition("..")[2])
    middle = kinds[start:stop]
    for period in range(2, min(len(middle), _LONGEST_PERIOD + 1)):
        if middle[period:] == middle[:-period]:
            steps = [f"{start + n}..{stop} by {period}" for n in range(period)]
            yield [runs[0], *zip(middle, steps, strict=False), runs[-1]]


def _runs(kinds: Sequence[Kind], start: int, end: int) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    while start < end:
        stop = next((layer for layer in range(start, end) if kinds[layer] != kinds[start]), end)
        found.append((kinds[start], f"{start}..{stop}"))
        start = stop
    return found


def _labels(ranges: list[tuple[Kind, str]], shape: Shape) -> list[str]:
    """A name for each block, made from the properties in which blocks differ."""
    kinds = {kind for kind, _ in ranges}
    different = [name for name in shape.labels if len({dict(kind.words)[name] for kind in kinds}) > 1]
    stored = any(kind.stored for kind in kinds)
    names = []
    for kind, _ in ranges:
        words = [_word(dict(kind.words)[name], shape.labels[name]) for name in different]
        kept = all(word == ACTIVATIONS for _, word in kind.stored)
        words += [("quantised" if not kind.stored else "kept" if kept else "other")] if stored else []
        names.append("_".join(words))
    many, seen = Counter(names), Counter[str]()
    for number, name in enumerate(names):
        seen[name] += 1
        names[number] = f"{name}_{seen[name]}" if many[name] > 1 else name
    return names


def _word(value: Any, words: tuple[str, str]) -> str:
    yes, no = words
    return value if isinstance(value, str) else yes if value else no
