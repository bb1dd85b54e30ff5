"""`measured`: the files of measured kernels that a declaration names. The cost backend reads their contents."""

from __future__ import annotations

import os
from functools import partial

from plandsl import limits
from plandsl.grammar import syntax as s
from plandsl.grammar.evaluate import describe
from plandsl.grammar.files import locate
from plandsl.grammar.modules import Unit, Wrong, catalog_aliases
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of
from plandsl.spec.hardware import TableSpec

FIELD = "measured"

Named = tuple[s.Str, Unit]
"""A path as written, and the file that contains it."""


def read_tables(reader: Reader) -> tuple[TableSpec, ...]:
    """The tables that `measured` of a gpu or a plan names; a file that may not be read gives a finding."""
    found = [reader.attempt(partial(_table, reader, text, unit)) for text, unit in read_paths(reader)]
    return tuple(table for table in found if table)


def read_paths(reader: Reader) -> list[Named]:
    """The paths in `measured`, without a check that the files exist."""
    return reader.read(FIELD, partial(_strings, reader)) or []


def _table(reader: Reader, text: s.Str, unit: Unit) -> TableSpec:
    library = reader.context.library
    path = locate(library, text, unit, f"`{FIELD}`", ".csv")
    assert unit.path is not None, "a located path starts somewhere"
    assert library.folder is not None, "a located path is in a folder"
    shown = os.path.relpath(unit.path.parent / text.value, library.folder).replace(os.sep, "/")
    return TableSpec(shown, str(path), catalog_aliases("gpu"), text.span)


def _strings(reader: Reader, layer: Layer) -> list[Named]:
    """A string, or a list of strings; each may be a `let`, whose path then starts at the folder of its own file."""
    if isinstance(layer.value, Record):
        raise Wrong("E210", f"`{FIELD}` is not a section", span_of(layer), hint=f'`{FIELD} = "gemm.csv"`')
    whole, unit = _follow_lets(reader, layer.value, layer.unit)
    items = whole.items if isinstance(whole, s.Seq) else (whole,)
    if len(items) > limits.MAX_TABLES:
        why = f"`{FIELD}` names at most {limits.MAX_TABLES} files, found {len(items)}"
        raise Wrong("E214", why, span_of(layer), hint=limits.MAX_TABLES.hint("join some of them", len(items)))
    found: list[Named] = []
    for item in items:
        text, home = _follow_lets(reader, item, unit)
        if not isinstance(text, s.Str):
            raise _not_a_string(reader, text, home)
        found.append((text, home))
    return found


def _follow_lets(reader: Reader, expr: s.Expr, unit: Unit) -> tuple[s.Expr, Unit]:
    """The expression that a name stands for, after every `let`, and the file that contains it."""
    for _ in range(8):  # a `let` may stand for another
        if not isinstance(expr, s.Ref) or not (found := reader.context.library.find_let(expr.name, unit)):
            break
        expr, unit = found[0].value, found[1]
    return expr, unit


def _not_a_string(reader: Reader, expr: s.Expr, unit: Unit) -> Wrong:
    what = f"`{FIELD}` must be a string in quotes, or a list of them"
    if isinstance(expr, s.Ref):
        return Wrong("E210", what, expr.span, hint=f'`{FIELD} = "{expr.name}.csv"`')
    found = "a list in a list" if isinstance(expr, s.Seq) else describe(reader.context.evaluator.value(expr, unit))
    return Wrong("E210", f"{what}, found {found}", expr.span, hint=f'`{FIELD} = "gemm.csv"`')
