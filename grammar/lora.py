"""Reads `lora { adapters = 8, rank = 16, targets = [w_q, w_v], active = 4 }` of a model.

Loaded by the first model that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plandsl import limits
from plandsl.diagnostics import clip
from plandsl.grammar import syntax
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of
from plandsl.spec.model import ADAPTERS, LORA_RANK, Apply, BlockSpec, LoraSpec, Term, Weight, inside_experts, walk
from plandsl.units import BYTE_RATE, TIME

LORA = ("adapters", "rank", "targets", "active", "host_bandwidth", "load_time", "host_adapters", "disk_bandwidth")
EVERYTHING = "all"
_EXAMPLE = "lora { adapters = 8, rank = 16, targets = [w_q, w_v] }"


def lora_spec(model: Reader, blocks: Iterable[BlockSpec], sizes: dict[str, int]) -> LoraSpec | None:
    """The adapters of a model, whose sizes are added to ``sizes``."""
    section = model.section("lora")
    if section is None:
        return None
    reader = Reader(model.context, section, LORA)
    adapters = reader.whole("adapters", "adapters = 8", most=limits.MAX_ADAPTERS)
    rank = reader.whole("rank", "rank = 16", most=limits.MAX_RANK)
    active = reader.whole("active", most=limits.MAX_ADAPTERS)
    targets = reader.read("targets", lambda layer: _targets(reader, layer, tuple(blocks)), "targets = [w_q, w_v]")
    if adapters and active and active > adapters and (layer := reader.layer("active")):
        why = f"a batch has requests of {active} adapters, but only {adapters} are on a GPU at once"
        reader.fail(Wrong("E487", why, span_of(layer), hint=f"`active = {adapters}`, or more `adapters`"))
    behind = _behind(reader, adapters)
    for name in (ADAPTERS, LORA_RANK):
        if name in sizes:
            hint = "give the dimension another name"
            reader.fail(Wrong("E487", f"the model has a dimension `{name}` of its own", section.span, hint=hint))
    model.ok &= reader.ok
    if not reader.ok or not adapters or not rank or targets is None:
        return None
    sizes |= {ADAPTERS: adapters, LORA_RANK: rank}
    return behind._replace(targets=targets, active=active or adapters)


def _behind(reader: Reader, adapters: int | None) -> LoraSpec:
    """What is behind the adapters of a GPU: host memory, and what host memory is filled from."""
    host = reader.number("host_bandwidth", BYTE_RATE)
    load = reader.number("load_time", TIME, zero=True)
    held = reader.whole("host_adapters", most=limits.MAX_DIMENSION)
    disk = reader.number("disk_bandwidth", BYTE_RATE)
    layers = {name: reader.layer(name) for name in ("load_time", "host_adapters", "disk_bandwidth")}
    for name, other, example in (
        ("load_time", "host_bandwidth", "host_bandwidth = 25 GB/s"),
        ("host_adapters", "host_bandwidth", "host_bandwidth = 25 GB/s"),
        ("host_adapters", "disk_bandwidth", "disk_bandwidth = 2 GB/s"),
        ("disk_bandwidth", "host_adapters", "host_adapters = 64"),
    ):
        if (layer := layers[name]) and not reader.layer(other):
            why = f"`{name}` has no meaning without `{other}`"
            reader.fail(Wrong("E536", why, layer.name.span, hint=f"add `{example}`, or drop it"))
    if held and adapters and held < adapters and (layer := layers["host_adapters"]):
        why = f"host memory holds {held} adapters, fewer than the {adapters} on a GPU, which have copies there"
        hint = f"`host_adapters = {adapters}` or more, or fewer `adapters`"
        reader.fail(Wrong("E536", why, span_of(layer), hint=hint))
    return LoraSpec((), 0, host, load_time=load or 0.0, host_adapters=held, disk_bandwidth=disk)


def _targets(reader: Reader, layer: Layer, blocks: tuple[BlockSpec, ...]) -> tuple[str, ...]:
    """The weights that adapters change."""
    known = dict.fromkeys(list_targets(blocks))
    value = layer.value
    if isinstance(value, syntax.Ref) and value.name == EVERYTHING:
        return tuple(known)
    if not isinstance(value, syntax.Seq):
        raise Wrong("E210", "`targets` must be a list of weights, or `all`", span_of(layer), hint=f"`{_EXAMPLE}`")
    found: dict[str, None] = {}
    for item in value.items:
        if not isinstance(item, syntax.Ref):
            raise Wrong("E210", "`targets` must be a list of weights, or `all`", item.span, hint=f"`{_EXAMPLE}`")
        if item.name not in known:
            inside = item.name in set(_others(blocks))
            why = "is no matrix that each request multiplies by" if inside else "names no weight of the blocks"
            hint = reader.context.library.suggest(item.name, iter(known))
            raise Wrong("E487", f"`{clip(item.name)}` {why}", item.span, hint=hint)
        found[item.name] = None
    if not found:
        raise Wrong("E210", "`targets` names no weight", span_of(layer), hint=f"`{_EXAMPLE}`")
    return tuple(found)


def list_targets(blocks: Iterable[BlockSpec]) -> Iterator[str]:
    """The weights that may have adapters: those on the right of an `@`, routers left out, and those of a latent cache.

    A router is the `@` of an `experts` call whose weight keeps a dimension of experts.
    """
    experts = {w.dims[0] for block in blocks for w in inside_experts(s.term for s in block.statements)}
    for block in blocks:
        for term in _terms(block):
            if not isinstance(term, Apply):
                continue
            weights = term.args[2:] if term.fn == "latent" else term.args[1:] if term.fn == "matmul" else ()
            for weight in weights:
                if isinstance(weight, Weight) and experts.isdisjoint(weight.dims):
                    yield weight.name
            for statement in term.body:
                yield from _products(statement.term)


def _products(term: Term) -> Iterator[str]:
    """The weights on the right of an `@` inside experts."""
    for inner in walk(term):
        if isinstance(inner, Apply) and inner.fn == "matmul" and isinstance(inner.args[1], Weight):
            yield inner.args[1].name


def _others(blocks: Iterable[BlockSpec]) -> Iterator[str]:
    for block in blocks:
        yield from (term.name for term in _terms(block) if isinstance(term, Weight))
        yield from (w.name for w in inside_experts(s.term for s in block.statements))


def _terms(block: BlockSpec) -> Iterator[Term]:
    for statement in block.statements:
        yield from walk(statement.term)
