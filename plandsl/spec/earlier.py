"""What layers of a model take from earlier layers, and where this lets the layers be cut into stages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from plandsl.spec.model import EARLIER, Apply, BlockSpec, ModelSpec, Term, walk

BEFORE = -1
"""The number of the layer that stands for the embedding."""


def name_of(term: Term) -> str:
    """The name in ``earlier.name``; empty for another term."""
    return str(term.option("name", "")) if isinstance(term, Apply) and term.fn == EARLIER else ""


def shares_keys(term: Apply) -> bool:
    """Whether an attention takes its keys and its values from an earlier layer, and so the cache of that layer."""
    return term.fn == "attention" and len(term.args) > 2 and all(map(name_of, term.args[1:3]))


def reads(term: Term) -> Iterator[str]:
    """The names of the values that a term takes from an earlier layer; of keys and values, those it does not cache."""
    if isinstance(term, Apply) and shares_keys(term):
        q, _, _, *more = term.args
        for other in (q, *more):
            yield from reads(other)
    elif name := name_of(term):
        yield name
    elif isinstance(term, Apply):
        for argument in term.args:
            yield from reads(argument)
        for statement in term.body:
            yield from reads(statement.term)


def values_handed(model: ModelSpec) -> tuple[str, ...]:
    """The names of values that some layer takes from an earlier one."""
    return tuple(dict.fromkeys(name for term in _terms(model) for name in reads(term)))


def caches_handed(model: ModelSpec) -> tuple[tuple[str, str], ...]:
    """The names of the keys and values whose caches some layer takes from an earlier one."""
    found = (t for term in _terms(model) for t in walk(term) if isinstance(t, Apply) and shares_keys(t))
    return tuple(dict.fromkeys((name_of(t.args[1]), name_of(t.args[2])) for t in found))


def _terms(model: ModelSpec) -> Iterator[Term]:
    return (s.term for b in model.blocks for s in b.statements)


def _names(block: BlockSpec) -> set[str]:
    """All that a block takes from earlier layers, by name."""
    terms = [s.term for s in block.statements]
    keys = {name_of(arg) for term in terms for t in walk(term) if isinstance(t, Apply) and shares_keys(t)
            for arg in t.args[1:3]}  # fmt: skip
    return keys.union(*map(reads, terms))


def layers_that_make(name: str, model: ModelSpec) -> list[int]:
    """The layers, in order, that make a value called ``name``; the embedding is layer `BEFORE`."""
    first = [BEFORE] if any(s.target == name for s in model.prelude) else []
    blocks = (b for b in model.blocks if any(s.target == name for s in b.statements))
    return first + sorted(layer for block in blocks for layer in block.every.select(block.layers))


def takes_what_is_made(model: ModelSpec) -> bool:
    """Whether for all that a layer takes from an earlier one, there is an earlier layer that makes it."""
    return all(
        any(made < block.layers[0] for made in layers_that_make(name, model)[:1])
        for block in model.blocks
        for name in _names(block)
    )


def spans(model: ModelSpec) -> Iterator[tuple[str, int, int]]:
    """Each value that a layer takes from an earlier one: its name, and the layers that make it and read it."""
    for block in model.blocks:
        for name in sorted(_names(block)):
            made = layers_that_make(name, model)
            for layer in block.every.select(block.layers):
                at = bisect_left(made, layer)
                assert at, f"layer {layer} reads `{name}`, which no layer before it makes: the grammar finds this"
                yield name, made[at - 1], layer


def group_starts(model: ModelSpec) -> list[int]:
    """The layers at which a stage may start: no layer is parted from a layer whose values it takes.

    What the embedding makes is sent from stage to stage, and parts nothing.
    """
    change = [0] * (model.layers + 1)
    for _, made, read in spans(model):
        if made != BEFORE:
            change[made + 1] += 1
            change[read + 1] -= 1
    held = accumulate(change[: model.layers])
    return [layer for layer, parted in enumerate(held) if not parted]
