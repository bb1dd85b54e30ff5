"""From the text of a `.plan` file to its syntax tree."""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span
from plandsl.grammar import syntax
from plandsl.grammar.lalr import Machine
from plandsl.grammar.layout import Layout
from plandsl.grammar.recover import Recovery
from plandsl.grammar.tokens import scan
from plandsl.grammar.tree import TreeBuilder
from plandsl.grammar.version import newer_version

_READINGS = 3
"""How often a text with mistakes is read again: a slip may hide another one behind it."""


def parse(text: str, file: str) -> tuple[syntax.File, list[Diagnostic]]:
    """The tree of a text, and every syntax mistake in it (at most limits.MAX_ERRORS).

    There is always a tree; it leaves out the items that could not be understood. A text of a newer version of the
    language is not read: that is its only mistake (E600).
    """
    if len(text) > limits.MAX_FILE_BYTES:
        return syntax.File((), Span(file, 1, 1, 1, 1)), [_too_large(file)]
    if newer := newer_version(text, file):
        return syntax.File((), _whole(text, file)), [newer]
    tree, found = _read(text, file)
    return (tree, found) if not found else _read_again(tree, text, file, found)


def _read(text: str, file: str) -> tuple[syntax.File, list[Diagnostic]]:
    layout = Layout(scan(text, file))
    builder = TreeBuilder()
    recovery = Recovery(layout.faulty)
    tree: syntax.File = Machine(layout.tokens, layout.homes, builder).run(recovery.mend)
    found = sorted([*layout.found, *recovery.found, *builder.found], key=_place)
    return tree._replace(span=_whole(text, file)), found[: limits.MAX_ERRORS]


def _read_again(
    tree: syntax.File, text: str, file: str, found: list[Diagnostic]
) -> tuple[syntax.File, list[Diagnostic]]:
    """What `_read` gives for a text with mistakes, or better: the language that it is of, or what its slips hid."""
    from plandsl.grammar.foreign import foreign_text  # mistakes alone need them
    from plandsl.grammar.repair import repair

    if other := foreign_text(text, file):
        return syntax.File((), tree.span), [other]
    slips: list[Diagnostic] = []
    for _ in range(_READINGS):
        text, more = repair(text, file, found)
        if not more:
            break
        slips += more
        tree, found = _read(text, file)
    return tree, sorted([*slips, *found], key=_place)[: limits.MAX_ERRORS]


def decode(data: bytes, file: str) -> tuple[str, list[Diagnostic]]:
    """The text of a file's bytes, without its byte order mark; bytes that are not text are replaced and reported."""
    if len(data) > limits.MAX_FILE_BYTES:
        return "", [_too_large(file)]
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    try:
        data.decode("utf-8")
        place, what = data.find(b"\0"), "a NUL byte"
    except UnicodeDecodeError as error:
        place, what = error.start, f"the byte 0x{data[error.start]:02X}, which is not UTF-8"
    if place < 0:
        return text, []
    before = data[:place].decode("utf-8").removeprefix("\ufeff")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    hint = "save it as UTF-8 text"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        hint = "it looks like UTF-16: save it as UTF-8"
    message = f"this is not a text file: it contains {what}"
    return text, [Diagnostic("E109", message, Span(file, line, column, line, column + 1), hint=hint)]


def _too_large(file: str) -> Diagnostic:
    message = f"the file is too large: it has more than {limits.MAX_FILE_BYTES:,} bytes"
    return Diagnostic(
        "E108",
        message,
        Span(file, 1, 1, 1, 2),
        hint=limits.MAX_FILE_BYTES.hint("split it, and join the parts with `use`"),
    )


def _whole(text: str, file: str) -> Span:
    return Span(file, 1, 1, text.count("\n") + 1, len(text) - text.rfind("\n"))


def _place(diagnostic: Diagnostic) -> tuple[int, int]:
    span = diagnostic.span
    return (span.line, span.column) if span else (0, 0)
