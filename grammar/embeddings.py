"""Reads what stands before the first layer: the table of token ids, and what is computed of its rows."""

from __future__ import annotations

from typing import NamedTuple, assert_never

from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Dims, Typed, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.grammar.terms import Seen, Terms
from plandsl.spec.model import PATCHES, Apply, Statement, Term, Var, Weight

EXAMPLE = "embedding w_embed[vocab, hidden]"

_ROWS = "embedding"
"""The name of the rows that tokens pick, while the term of an embedding is read."""


class Entry(NamedTuple):
    """An embedding: its table, the whole term if that is more, the dimensions that it gives, and statements before."""

    table: Weight
    term: Term | None
    dims: Dims
    prelude: tuple[Statement, ...] = ()


def read_embedding(item: s.Embedding, terms: Terms) -> Entry:
    """The embedding of a model; ``terms`` has the weights that it shares with the head. Raises `Wrong`."""
    if item.name is None:
        return _entry(item.weight, terms, keep=True)
    if item.body is None:
        hint = f"leave the name out, `{EXAMPLE}`, or write what is made of `{item.name.text}` in braces after it"
        raise Wrong("E213", "an embedding with a name has a block of statements", item.span, hint=hint)
    found = _entry(item.weight, terms, keep=False)
    name, items = item.name.text, item.body.items
    terms.values[name] = Seen(found.dims, item.name.span)
    first = Statement(name, found.term or found.table, item.weight.span)
    last = items[-1] if items and isinstance(items[-1], s.Bare) else None
    statements = tuple(terms.statements(items[: len(items) - (last is not None)]))
    given = Typed(Var(name, item.name.span), found.dims) if last is None else terms.attempt(last.value)
    if given is None or terms.failed:
        raise Follows
    if given.dims[0] != "tokens" or len(given.dims) < 2 or isinstance(given.term, Weight):
        span = item.span if last is None else last.span
        hint = "end with a value of each token, such as the name before `=`"
        raise Wrong("E213", f"the embedding gives {dims_text(given.dims)} to the first layer", span, hint=hint)
    return Entry(found.table, given.term, given.dims, (first, *statements))


def _entry(expr: s.Expr, terms: Terms, *, keep: bool) -> Entry:
    """The term of an embedding by itself. With ``keep``, it must have the dimensions of the table."""
    if (patches := _patch_weight(expr)) is not None:
        table = _table(patches, terms)
        typed = _with_value(terms, PATCHES, Seen(("tokens", table.dims[0]), patches.span), expr)
        return _checked(expr, typed, table, typed.term, keep=keep)
    first = _first_table(expr)
    table = _table(first or expr, terms)
    if first is None or first is expr:
        return Entry(table, None, ("tokens", *table.dims[1:]))
    rows = Seen(("tokens", *table.dims[1:]), first.span)
    typed = _with_value(terms, _ROWS, rows, _replace_first(expr, s.Ref(_ROWS, first.span)))
    return _checked(expr, typed, table, _put_back(typed.term, table), keep=keep)


def _with_value(terms: Terms, name: str, seen: Seen, expr: s.Expr) -> Typed:
    """The term of ``expr``, which may use the value ``name``."""
    terms.values[name] = seen
    typed = terms.attempt(expr)
    del terms.values[name]
    if typed is None:
        raise Follows
    return typed


def _checked(expr: s.Expr, typed: Typed, table: Weight, term: Term, *, keep: bool) -> Entry:
    dims = ("tokens", *table.dims[1:])
    if keep and typed.dims != dims:
        message = f"the embedding is {dims_text(typed.dims)}, but its table gives {dims_text(dims)}"
        raise Wrong("E213", message, expr.span, hint="keep the dimensions of the table")
    return Entry(table, term, typed.dims)


def _table(weight: s.Expr, terms: Terms) -> Weight:
    if not isinstance(weight, s.Index) or len(weight.dims) != 2:
        raise Wrong("E213", "an embedding is a weight of two dimensions", weight.span, hint=f"`{EXAMPLE}`")
    term = terms.weight(weight).term
    assert isinstance(term, Weight)
    return term


def _patch_weight(expr: s.Expr) -> s.Index | None:
    """The weight of ``patches @ w``, where an embedding begins so."""
    match expr:
        case s.Binary(op="@", a=s.Ref(name=name), b=s.Index() as weight) if name == PATCHES:
            return weight
        case s.Binary():
            return _patch_weight(expr.a)
        case s.Call(args=(first, *_)):
            return _patch_weight(first)
        case _:
            return None


def _first_table(expr: s.Expr) -> s.Index | None:
    """The weight that stands first in an embedding: the table of token ids."""
    match expr:
        case s.Index():
            return expr
        case s.Binary():
            return _first_table(expr.a)
        case s.Call(args=(first, *_)):
            return _first_table(first)
        case _:
            return None


def _replace_first(expr: s.Expr, new: s.Ref) -> s.Expr:
    match expr:
        case s.Binary():
            return expr._replace(a=_replace_first(expr.a, new))
        case s.Call(args=(first, *rest)):
            return expr._replace(args=(_replace_first(first, new), *rest))
        case _:
            return new


def _put_back(term: Term, table: Weight) -> Term:
    """``term`` with the table where the rows stood."""
    match term:
        case Var():
            return table
        case Apply():
            return term._replace(args=tuple(_put_back(a, table) for a in term.args))
        case Weight():
            return term
        case _:
            assert_never(term)
