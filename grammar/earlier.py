"""Reads what layers take from earlier layers: `earlier.k`, the value `k` of the last layer before this one.

Blocks are read in the order of their first layers, the embedding before them, so that whatever a layer may take is
known when its block is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Typed, dims_text
from plandsl.grammar.modules import Wrong
from plandsl.spec.earlier import name_of, shares_keys
from plandsl.spec.model import AMONG, EARLIER, LAYER, Apply, BlockSpec, Term, Var, walk

if TYPE_CHECKING:
    from plandsl.grammar.terms import Seen, Terms

FORM = "`earlier.k` is the value `k` of the last layer before this one that makes it"


class Made(NamedTuple):
    """A value of a block or of the embedding (layer -1): what was seen of it, the block, and its first layer."""

    seen: Seen
    block: str
    first: int


class Handing:
    """The values that the blocks of a model make, by name, and which of them later layers take."""

    def __init__(self) -> None:
        self.made: dict[str, list[Made]] = {}
        self.taken: dict[str, Span] = {}

    def enter(self, terms: Terms, block: str, first: int, arg: str) -> None:
        """Note every value that a block has made, and check it against what earlier blocks call so."""
        for name, seen in terms.values.items():
            if name != arg and seen.dims is not None:
                self.made.setdefault(name, []).append(Made(seen, block, first))
                if name in self.taken:
                    _check_alike(name, self.made[name])

    def take(self, dot: s.Dot, terms: Terms, first: int) -> tuple[Typed, Seen]:
        """The value of an earlier layer, for a block whose first layer is ``first``."""
        name = dot.name.text
        there = [made for made in self.made.get(name, ()) if made.first < first]
        if not there:
            hint = terms.context.library.suggest(name, iter(self.made)) or FORM
            if self.made.get(name):
                hint = f"block `{self.made[name][0].block}` makes it, which begins at layer {self.made[name][0].first}"
            why = f"no layer before layer {max(first, 0)} makes a value `{name}`"
            raise Wrong("E568", why, dot.span, hint=hint)
        self.taken.setdefault(name, dot.span)
        _check_alike(name, self.made[name])
        seen = there[0].seen
        if seen.parts:
            why = f"`{name}` is a group of tensors, which stays in its layer"
            raise Wrong("E568", why, dot.span, labels=_made_at(there[0]), hint="take the tensors one by one")
        term = Apply(EARLIER, (), (("name", name),), dot.span)
        return Typed(term, seen.dims or ()), seen


def _made_at(made: Made) -> tuple[Label, ...]:
    return (Label(made.seen.span, "made here"),) if made.seen.span else ()


def _check_alike(name: str, made: list[Made]) -> None:
    """Raise `Wrong` unless every block that makes the value gives it the same dimensions."""
    first, *others = made
    for other in others:
        if (other.seen.dims, other.seen.chooses) != (first.seen.dims, first.seen.chooses):
            have, wanted = (dims_text(m.seen.dims or ()) for m in (other, first))
            why = f"later layers take `{name}`, which is {have} in block `{other.block}` and {wanted} before"
            hint = "give one of the two another name"
            raise Wrong("E568", why, other.seen.span or first.seen.span, labels=_made_at(first), hint=hint)


def take_earlier(dot: s.Dot, terms: Terms) -> tuple[Typed, Seen]:
    """The value that ``earlier.name`` stands for, in the block that ``terms`` reads."""
    if terms.handing is None:
        why = "only a block of layers has earlier layers"
        raise Wrong("E568", why, dot.span, hint=FORM)
    return terms.handing.take(dot, terms, terms.first_layer)


# ---- what only whole blocks show


def check_items(
    blocks: Iterable[BlockSpec], ends: Iterable[Term], layers: int, sizes: dict[str, int]
) -> Iterator[Wrong]:
    """Findings about items by the number of a layer: a block has such a number, and there is an item for each layer."""
    inside = (t for block in blocks for st in block.statements for t in walk(st.term))
    for term in (t for t in inside if _is_own_item(t)):
        assert isinstance(term, Apply)
        over = str(term.option("over", ""))
        if sizes[over] and sizes[over] != layers:
            why = f"`{over}` has {sizes[over]:,} items, and the model {layers:,} layers"
            yield Wrong("E570", why, term.span, hint=f"`{over} = {layers}`: one item for each layer")
    for term in (t for end in ends for t in walk(end) if _is_own_item(t)):
        assert isinstance(term, Apply)
        yield Wrong("E570", "only a block of layers has an item for each", term.span, hint="give `at` a number")


def _is_own_item(term: Term) -> bool:
    return isinstance(term, Apply) and term.fn == "item" and term.option("at", 0) == LAYER


def check_handed(blocks: Iterable[BlockSpec]) -> Iterator[Wrong]:
    """Findings about keys, values and picks of earlier layers: a layer must have left all that a later one sees."""
    blocks = tuple(blocks)
    for block in blocks:
        for term in (t for st in block.statements for t in walk(st.term) if isinstance(t, Apply)):
            if term.fn == "attention":
                yield from _check_attention(term, block, blocks)


def _check_attention(term: Apply, reader: BlockSpec, blocks: tuple[BlockSpec, ...]) -> Iterator[Wrong]:
    shared = tuple(name_of(a) for a in term.args[1:3]) if shares_keys(term) else ()
    picked = name_of(term.args[-1]) if term.option(AMONG, False) else ""
    for block in blocks:
        made = {st.target for st in block.statements}
        if block.layers[0] >= reader.every.select(reader.layers)[-1]:
            continue
        if shared and made.intersection(shared):
            yield from _check_keys(term, shared, block)
        if picked in made:
            yield from _check_picks(term, picked, block)


def _attentions(block: BlockSpec) -> Iterator[Apply]:
    return (t for st in block.statements for t in walk(st.term) if isinstance(t, Apply) and t.fn == "attention")


def _check_keys(term: Apply, names: tuple[str, ...], block: BlockSpec) -> Iterator[Wrong]:
    """A block that makes the keys or the values also caches them, and for as many tokens as are seen later."""
    k, v = names
    caching = [a for a in _attentions(block) if [_variable(x) for x in a.args[1:3]] == [k, v]]
    if not caching:
        why = f"no attention of block `{block.name}` has the keys `{k}` and the values `{v}`, so they are in no cache"
        hint = f"write `attention(q, {k}, {v})` there, with both names"
        yield Wrong("E568", why, term.args[1].span or term.span, hint=hint)
    elif not any(_reaches(a, term) for a in caching):
        why = f"block `{block.name}` keeps {_reach(caching[0])}, and this attention sees {_reach(term)}"
        labels = (Label(caching[0].span, "these keys"),) if caching[0].span else ()
        yield Wrong("E569", why, term.span, labels=labels, hint=f"give both the same reach{_option(caching[0])}")


def _check_picks(term: Apply, name: str, block: BlockSpec) -> Iterator[Wrong]:
    """A block that makes a choice of keys also uses it, among the keys that are seen later."""
    using = [a for a in _attentions(block) if a.option(AMONG, False) and _variable(a.args[-1]) == name]
    if not using:
        why = f"no attention of block `{block.name}` is `among = {name}`, so that nothing is picked there"
        yield Wrong("E568", why, term.args[-1].span or term.span, hint=f"write `among = {name}` there, too")
    elif _mask(using[-1]) != _mask(term):
        why = f"block `{block.name}` picks among {_reach(using[-1])}, and this attention sees {_reach(term)}"
        labels = (Label(using[-1].span, "picked here"),) if using[-1].span else ()
        yield Wrong("E569", why, term.span, labels=labels, hint=f"give both the same reach{_option(using[-1])}")


def _variable(term: Term) -> str:
    return term.name if isinstance(term, Var) else ""


def _mask(term: Apply) -> tuple[object, ...]:
    return (*(term.option(name, 0) for name in ("window", "chunk")), term.option("causal", True))


def _reaches(kept: Apply, seen: Apply) -> bool:
    """Whether the keys that one attention keeps are all that another one sees."""
    chunk, window = int(kept.option("chunk", 0)), int(kept.option("window", 0))
    if chunk:
        return bool(seen.option("chunk", 0) == chunk)
    return not window or 0 < int(seen.option("window", 0)) <= window


def _reach(term: Apply) -> str:
    for name, words in (("window", "the last {} keys"), ("chunk", "the keys of a chunk of {}")):
        if value := int(term.option(name, 0)):
            return words.format(f"{value:,}")
    return "all keys"


def _option(term: Apply) -> str:
    found = (f": `{name} = {term.option(name, 0)}`" for name in ("window", "chunk") if term.option(name, 0))
    return next(found, "")
