"""Reads the fusions of an engine, and up to which size an all_reduce shares its kernel."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.engine_limits import list_of
from plandsl.grammar.evaluate import describe
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import expect, span_of, whole
from plandsl.spec.fusions import ANY, FUSIONS, NARROWEST, FusedSizes
from plandsl.units import BYTES

EXAMPLE = "`fusions = [all_reduce_norm, norm_quantize]`"
RANKS = "`ranks = [2, 4, 8]`"


def fusions(reader: Reader) -> tuple[str, ...] | None:
    """The names of `FUSIONS` that an engine lists, each once; None where it lists none."""
    return reader.read("fusions", partial(_names, reader))


def _names(reader: Reader, layer: Layer) -> tuple[str, ...]:
    if not isinstance(layer.value, s.Seq):
        found = f"`{layer.value.name}`" if isinstance(layer.value, s.Ref) else describe(reader.value(layer))
        raise Wrong("E210", f"`fusions` must be a list of names, found {found}", span_of(layer), hint=EXAMPLE)
    names = (reader.choice(layer._replace(value=item), tuple(FUSIONS), "E210", "fusion") for item in layer.value.items)
    return tuple(dict.fromkeys(names))


def fused_sizes(engine: Reader) -> FusedSizes | None:
    """The section `fused_sizes`; None where the engine has none, or a wrong one."""
    section = engine.section("fused_sizes")
    if section is None:
        return None
    reader = Reader(engine.context, section, ("ranks", *NARROWEST, ANY))
    ranks = reader.read("ranks", partial(_ranks, reader), "ranks = [2, 4, 8]") or ()
    sizes = ((name, reader.read(name, partial(_sizes, reader, ranks))) for name in (*NARROWEST, ANY) if ranks)
    found = tuple((name, each) for name, each in sizes if each is not None)
    engine.ok &= reader.ok
    return FusedSizes(ranks, found) if reader.ok else None


def _ranks(reader: Reader, layer: Layer) -> tuple[int, ...]:
    """Numbers of ranks that rise."""
    found = list_of(reader, layer, lambda item: whole(item, layer, 2, limits.MAX_DIMENSION), RANKS)
    if not 1 <= len(found) <= limits.MAX_BOUNDS or any(a >= b for a, b in pairwise(found)):
        why = f"`ranks` must be 1 to {limits.MAX_BOUNDS} numbers that grow"
        raise Wrong("E214", why, span_of(layer), hint=limits.MAX_BOUNDS.hint(RANKS, len(found)))
    return found


def _sizes(reader: Reader, ranks: tuple[int, ...], layer: Layer) -> tuple[float, ...]:
    """One size for each number of ranks."""
    name = layer.name.text
    example = f"`{name} = [64 MiB, 32 MiB, 1 MiB]`"
    found = list_of(reader, layer, lambda item: float(expect(item, BYTES, layer).value), example)
    if len(found) != len(ranks) or any(size < 0 for size in found):
        why = f"`{name}` must have {len(ranks)} sizes, zero or more, found {len(found)}"
        at = reader.layer("ranks")
        labels = (Label(at.name.span, f"numbers of ranks: {len(ranks)}"),) if at else ()
        raise Wrong("E214", why, span_of(layer), hint="give one size for each number of `ranks`", labels=labels)
    return found
