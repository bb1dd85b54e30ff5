"""Reads `stored { ... }` of a model: weights that are stored in another format than `weights` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from plandsl.diagnostics import clip
from plandsl.grammar.functions import NORMS
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.spec.model import ACTIVATIONS, EMBEDDING, EXPERTS, GAINS, HEAD, Apply, BlockSpec, Term, Weight, walk


class Part(NamedTuple):
    """A weight, the region that it stands in (a block, `mtp`, `embedding` or `head`), and whether it is an expert's."""

    weight: str
    region: str
    expert: bool = False


def parts_of(embedding: Weight, blocks: Iterable[BlockSpec], ends: Iterable[Term]) -> Iterator[Part]:
    """Every use of a weight in a model, with the ``ends`` before and behind the blocks.

    A head that is tied to the embedding has no weight of its own.
    """
    yield Part(embedding.name, EMBEDDING)
    for block in blocks:
        for statement in block.statements:
            yield from _parts_of(statement.term, block.name)
    for term in ends:
        yield from (part for part in _parts_of(term, HEAD) if part.weight != embedding.name)


def _parts_of(term: Term, region: str) -> Iterator[Part]:
    for inner in walk(term):
        if isinstance(inner, Weight):
            yield Part(inner.name, region)
        elif isinstance(inner, Apply):
            if inner.fn in NORMS and inner.option("gain", "") != "none":
                yield Part(GAINS, region)
            for statement in inner.body:
                yield from (Part(w.name, region, True) for w in walk(statement.term) if isinstance(w, Weight))


def read_stored(reader: Reader, parts: Iterable[Part]) -> tuple[tuple[str, str], ...]:
    """The exceptions of a model from `weights`, as `ModelSpec.stored` holds them, by path.

    A path that names no weight of the model is an error (E206), as is a value that is no format (E217).
    """
    section = reader.section("stored")
    if section is None:
        return ()
    found = tuple(parts)
    inner = Reader(reader.context, section, None)
    made = tuple(sorted(_entries(inner, "", found)))
    reader.ok &= inner.ok
    return made


def _entries(reader: Reader, region: str, parts: tuple[Part, ...]) -> Iterator[tuple[str, str]]:
    known = _names(parts, inside=bool(region))
    for name, layers in reader.record.fields.items():
        layer = layers[-1]
        if isinstance(layer.value, Record) and not region and name in {part.region for part in parts}:
            if (section := reader.section(name)) is None:
                continue
            inner = Reader(reader.context, section, None)
            yield from _entries(inner, name, tuple(part for part in parts if part.region == name))
            reader.ok &= inner.ok
        elif isinstance(layer.value, Record) or name not in known:
            reader.fail(_unknown(reader, layer, region, known))
        elif (word := reader.attempt(partial(reader.format, layer, (ACTIVATIONS,)))) is not None:
            yield f"{region}.{name}" if region else name, word


def _unknown(reader: Reader, layer: Layer, region: str, known: tuple[str, ...]) -> Wrong:
    """The finding about a name that `stored` cannot have, or that holds no weights of its own."""
    name = layer.name.text
    if name in known:
        hint = f"`{name} = bf16`"
        return Wrong("E206", f"`{name}` has one format, and holds no weights by name", layer.name.span, hint=hint)
    where = f"block `{region}`" if region else "the model"
    hint = reader.context.library.suggest(name, iter(known))
    return Wrong("E206", f"`{clip(name)}` names no weight of {where}", layer.name.span, hint=hint)


def _names(parts: tuple[Part, ...], *, inside: bool) -> tuple[str, ...]:
    """What `stored`, or a block inside it, may name: weights, regions, and `experts` where the model has some."""
    experts = (EXPERTS,) if any(part.expert for part in parts) else ()
    regions = () if inside else dict.fromkeys(part.region for part in parts)
    return tuple(dict.fromkeys((*(part.weight for part in parts), *regions, *experts)))
