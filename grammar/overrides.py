"""``--set PATH=VALUE``: one more ``with``, written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plandsl.diagnostics import Span
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import KINDS, Unit, Wrong
from plandsl.grammar.parse import parse
from plandsl.grammar.records import REPLACED, Record, merge

FILE = "--set"
"""The file name in the spans of overrides; line N is the N-th override."""

_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,7}")


def override(context: Context, record: Record, overrides: Sequence[tuple[str, str]], unit: Unit) -> Record:
    """``record`` with every override laid on top."""
    lines = [f"--set {path}={value}" for path, value in overrides]
    context.library.sources[FILE] = "\n".join(line.replace("\n", " ") for line in lines)
    for number, (path, value) in enumerate(overrides, 1):
        body = _body(context, path, value.replace("\n", " "), number)
        name = s.Name(record.name, body.span)
        _tell_replaced(context, record, path.split("."), body.span)
        record = merge(record, context.records.build(record.kind, name, body, unit))
    return record


def _tell_replaced(context: Context, record: Record, path: list[str], span: Span) -> None:
    """Note the fields that the field at ``path`` takes the place of (N202)."""
    *sections, field = path
    base: Record | None = record
    for name in sections:
        base = context.records.section(base, name, name) if base and name in base.fields else None
    kind = "plan" if base and base.kind == "search" else base.kind if base else ""
    for rival in REPLACED.get(kind, {}).get(field, ()):
        if base and (layers := base.fields.get(rival)):
            value = layers[-1].value
            old = rival if isinstance(value, Record) else f"{rival} = {context.library.text(value.span)}"
            context.library.record(Wrong("N202", f"`{field}` takes the place of `{old}`", span))


def _body(context: Context, path: str, value: str, line: int) -> s.Body:
    """``{ a { b = value } }`` for the path ``a.b``."""
    start = len("--set ") + 1
    whole = Span(FILE, line, start, line, start + len(path) + 1 + len(value))
    if not _PATH.fullmatch(path):
        hint = "`--set workload.batch=64`"
        raise Wrong("E218", f"`{path}` is not a path to a field", whole, hint=hint)
    expr = _value(context, path, value, whole)
    names = []
    for part in path.split("."):
        names.append(s.Name(part, Span(FILE, line, start, line, start + len(part))))
        start += len(part) + 1
    body = s.Body((s.Field(names[-1], expr, whole),), whole)
    for name in reversed(names[:-1]):
        body = s.Body((s.Section(name, body, whole),), whole)
    return body


def _value(context: Context, path: str, value: str, whole: Span) -> s.Expr:
    # parsed as a `let` whose name is as long as the text before the value, so that columns agree
    name = "v" * (len("--set ") + len(path) - len("let "))
    tree, found = parse("\n" * (whole.line - 1) + f"let {name}={value}", FILE)
    only = tree.items[0] if len(tree.items) == 1 else None
    if found or not isinstance(only, s.Let):
        hint = "write a value as in a plan: `--set workload.batch=64`"
        if (kind := path.rpartition(".")[2]) in KINDS:
            from plandsl.grammar.near import hint_for_name  # mistakes alone need it

            hint = hint_for_name(kind, value)
        raise Wrong("E218", f"`{value}` is not a value", whole, hint=hint)
    return only.value
