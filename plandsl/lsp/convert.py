"""Values of `plandsl.editing` as values of the protocol, whose lines start at 0 and whose columns count code units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lsprotocol import types as lsp
from pygls import uris
from pygls.workspace import PositionCodec

from plandsl.diagnostics import Diagnostic, Span
from plandsl.editing.actions import Edit
from plandsl.editing.complete import Completion
from plandsl.editing.outline import TYPES, Entry, Painted

SEVERITIES = {
    "error": lsp.DiagnosticSeverity.Error,
    "warning": lsp.DiagnosticSeverity.Warning,
    "note": lsp.DiagnosticSeverity.Information,
}

KINDS = {
    "field": lsp.CompletionItemKind.Field,
    "section": lsp.CompletionItemKind.Struct,
    "word": lsp.CompletionItemKind.Keyword,
    "value": lsp.CompletionItemKind.EnumMember,
    "unit": lsp.CompletionItemKind.Unit,
    "name": lsp.CompletionItemKind.Variable,
    "entry": lsp.CompletionItemKind.Constant,
    "function": lsp.CompletionItemKind.Function,
    "metric": lsp.CompletionItemKind.Property,
    "file": lsp.CompletionItemKind.File,
}

SYMBOLS = {
    "model": lsp.SymbolKind.Class,
    "plan": lsp.SymbolKind.Method,
    "search": lsp.SymbolKind.Method,
    "let": lsp.SymbolKind.Constant,
    "field": lsp.SymbolKind.Field,
    "section": lsp.SymbolKind.Object,
    "block": lsp.SymbolKind.Function,
    "class": lsp.SymbolKind.Class,
    "require": lsp.SymbolKind.Event,
}
"""The kinds of entries of an outline; all others are structures."""

LEGEND = lsp.SemanticTokensLegend(token_types=list(TYPES), token_modifiers=["declaration"])


class Columns:
    """The columns of one text, in characters here and in the code units of the client there."""

    def __init__(self, lines: Sequence[str], codec: PositionCodec) -> None:
        self.lines, self.codec = lines, codec

    def position(self, line: int, column: int) -> lsp.Position:
        """The position of a line and column from 1."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        before = text[: column - 1]
        units = len(before) if before.isascii() else self.codec.client_num_units(before)
        return lsp.Position(line - 1, units + max(0, column - 1 - len(text)) * (line > len(self.lines)))

    def place(self, position: lsp.Position) -> tuple[int, int]:
        """The line and column from 1 of a position, within the text."""
        line = min(max(position.line, 0), len(self.lines) - 1)
        text = self.lines[line]
        if text.isascii():
            return line + 1, min(position.character, len(text)) + 1
        units = 0
        for column, sign in enumerate(text):
            if units >= position.character:
                return line + 1, column + 1
            units += self.codec.client_num_units(sign)
        return line + 1, len(text) + 1

    def range(self, span: Span) -> lsp.Range:
        """The range of a span."""
        return lsp.Range(self.position(span.line, span.column), self.position(span.end_line, span.end_column))


def uri_of(path: str) -> str:
    """The URI of a file."""
    return uris.from_fs_path(path) or path


def diagnostic(found: Diagnostic, columns: Columns, uri: str) -> lsp.Diagnostic:
    """A finding with a place in the text; its hint stands below the message."""
    assert found.span is not None, "it has a place"
    text = found.message + (f" ({found.label})" if found.label else "")
    related = [
        lsp.DiagnosticRelatedInformation(lsp.Location(uri, columns.range(label.span)), label.text)
        for label in found.labels
        if label.span.file == found.span.file
    ]
    return lsp.Diagnostic(
        range=columns.range(found.span),
        message=f"{text}\nhelp: {found.hint}" if found.hint else text,
        severity=SEVERITIES[found.severity],
        code=found.code,
        source="planc",
        related_information=related or None,
        tags=[lsp.DiagnosticTag.Unnecessary] if found.code in ("W202", "W205") else None,
    )


class Shown(NamedTuple):
    """What an editor can show: completions with a place for the cursor, and the markup of texts."""

    snippets: bool
    documentation: lsp.MarkupKind
    hover: lsp.MarkupKind


def completion(item: Completion, at: int, where: lsp.Range, shown: Shown) -> lsp.CompletionItem:
    """A completion, the one at ``at`` of a list, that replaces what stands at ``where``."""
    text = item.insert or item.label
    if not shown.snippets:
        text = text.split("$0")[0]
    return lsp.CompletionItem(
        label=item.label,
        kind=KINDS[item.kind],
        detail=item.detail or None,
        documentation=lsp.MarkupContent(shown.documentation, item.about) if item.about else None,
        text_edit=lsp.TextEdit(where, text),
        insert_text_format=lsp.InsertTextFormat.Snippet if shown.snippets and "$0" in text else None,
        sort_text=f"{at:04}",
        data={"of": item.of, "name": item.label} if item.kind == "entry" else None,
    )


def symbol(entry: Entry, columns: Columns) -> lsp.DocumentSymbol:
    """A declaration with its parts."""
    return lsp.DocumentSymbol(
        name=entry.name,
        kind=SYMBOLS.get(entry.kind, lsp.SymbolKind.Struct),
        range=columns.range(entry.span),
        selection_range=columns.range(entry.at),
        detail=entry.kind,
        children=[symbol(part, columns) for part in entry.parts],
    )


def tokens(found: Iterable[Painted], columns: Columns) -> list[int]:
    """Tokens as the protocol counts them: five numbers each, lines and columns from the token before."""
    data: list[int] = []
    line = start = 0
    for one in found:
        place = columns.range(one.span)
        if place.start.line != line:
            start = 0
        length = place.end.character - place.start.character
        data += [place.start.line - line, place.start.character - start, length]
        data += [TYPES.index(one.type), int(one.declares)]
        line, start = place.start.line, place.start.character
    return data


def edits(made: Iterable[Edit], columns: Columns) -> list[lsp.TextEdit]:
    """Edits of one text."""
    return [lsp.TextEdit(columns.range(edit.span), edit.text) for edit in made]


def lines_of(path: str) -> list[str]:
    """The lines of a file of the catalog or of one that is used; empty where it cannot be read."""
    try:
        return Path(path).read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return [""]
