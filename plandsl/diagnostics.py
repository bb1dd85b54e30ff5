"""Diagnostics: a mistake, its place, the expectation, and a hint how to correct it.

A `Diagnostic` is a value; `render` turns it into text. Tests and `--json` use the value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from plandsl.wrap import LEAST_WIDTH, indent_of, width_of, wrap


class Span(NamedTuple):
    """A stretch of source text: 1-based lines and columns, ``end_column`` one past the last character."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: "Span") -> "Span":
        """The span from the start of this one to the end of ``other``."""
        return Span(self.file, self.line, self.column, other.end_line, other.end_column)


class Label(NamedTuple):
    """Another place that a diagnostic points at, and the text shown there."""

    span: Span
    text: str


class Diagnostic(NamedTuple):
    """One finding.

    ``code`` is ``E...`` (error), ``W...`` (warning) or ``N...`` (note); `plandsl.codes` explains each.
    ``label`` stands beside the caret, ``hint`` says what to write instead, ``labels`` point at other places.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    hint: str = ""
    labels: tuple[Label, ...] = ()

    @property
    def severity(self) -> str:
        """``error``, ``warning`` or ``note``, from the first letter of the code."""
        return {"E": "error", "W": "warning", "N": "note"}[self.code[0]]

    def as_json(self) -> dict[str, Any]:
        """The machine form (docs/language.md, "JSON")."""
        out: dict[str, Any] = {"code": self.code, "severity": self.severity, "message": self.message}
        if self.span is not None:
            out |= self.span._asdict()
        if self.hint:
            out["hint"] = self.hint
        if self.labels:
            out["related"] = [{"message": text, **span._asdict()} for span, text in self.labels]
        return out


class PlanError(Exception):
    """Wrong input. Carries every diagnostic found, and the sources needed to show them."""

    def __init__(self, diagnostics: Sequence[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
        self.diagnostics = tuple(diagnostics)
        self.sources = dict(sources or {})
        super().__init__(self.diagnostics, self.sources)

    def __str__(self) -> str:
        return render(self.diagnostics, self.sources)

    def _render_traceback_(self) -> list[str]:
        """What IPython prints: the diagnostics in colour, without a traceback."""
        return render(self.diagnostics, self.sources, coloured).split("\n")


class Report:
    """Collects diagnostics; the same finding at the same place is kept once."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self._seen: set[tuple[str, Span | None, str]] = set()

    def add(self, code: str, message: str, span: Span | None, **more: Any) -> None:
        """Record one finding (keywords as the fields of `Diagnostic`)."""
        self.put(Diagnostic(code, message, span, **more))

    def put(self, diagnostic: Diagnostic) -> None:
        """Record a finding that exists already."""
        key = (diagnostic.code, diagnostic.span, diagnostic.message)
        if key not in self._seen:
            self._seen.add(key)
            self.found.append(diagnostic)

    @property
    def errors(self) -> list[Diagnostic]:
        """The findings that are errors."""
        return [d for d in self.found if d.severity == "error"]


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known words nearest to ``word``, or the first few known ones."""
    names = sorted(set(known))
    if near := nearest(word, names):
        return f"did you mean {either(near)}?"
    if not names:
        return ""
    some = ", ".join(f"`{n}`" for n in names[:12])
    return f"known here: {some}" + (", ..." if len(names) > 12 else "")


MOST_NEAR = 3
"""Most names that a hint offers."""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that fewest slips of a finger turn into ``word``: one, or several that are equally near."""
    from difflib import get_close_matches

    spelt = word[:64].lower()
    lower = {name.lower(): name for name in sorted(set(known))}
    close = get_close_matches(spelt, list(lower), n=12, cutoff=0.6)
    slips = {name: count_slips(spelt, name) for name in close}
    return [lower[name] for name in close if slips[name] == min(slips.values())][:MOST_NEAR]


def count_slips(a: str, b: str) -> int:
    """How many letters are missing, surplus, wrong or swapped with their neighbour between two words."""
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, x in enumerate(a):
        older, before, row = before, row, [i + 1]
        for j, y in enumerate(b):
            least = min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y))
            if i and j and x == b[j - 1] and a[i - 1] == y:
                least = min(least, older[j - 1] + 1)
            row.append(least)
    return row[-1]


def either(words: Sequence[str]) -> str:
    """```a`, `b` or `c```, for a message."""
    quoted = [f"`{word}`" for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def article(kind: str) -> str:
    """``a gpu``, ``an item``."""
    return f"{'an' if kind[:1] in 'aeio' else 'a'} {kind}"


def clip(text: str, limit: int = 40) -> str:
    """``text`` shortened for a message."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def visible(text: str) -> str:
    """``text`` whose characters that steer a terminal are written as codes, such as ``\\x1b``; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


Paint = Callable[[str, str], str]
"""Gives a text of a kind (a severity, ``place``, ``text`` or ``help``) as it is shown."""

COLOURS = {"error": "1;31", "warning": "1;33", "note": "1;36", "place": "1;34", "text": "1", "help": "1;32"}
"""Codes of ECMA-48 (ANSI) for what a diagnostic consists of."""


def plain(_kind: str, text: str) -> str:
    """``text`` without colour."""
    return text


def coloured(kind: str, text: str) -> str:
    """``text`` in the colour of its kind, for a terminal."""
    return f"\033[{COLOURS[kind]}m{text}\033[0m" if text else text


LONGEST = 160
"""Columns of a line of source that are shown where the terminal has no width."""

NEAR = 2_000
"""Characters of a line, before and behind a place in it, that are looked at: a file may be one long line."""


def _excerpt(
    span: Span, mark: str, text: str, sources: Mapping[str, str], room: int | None, paint: Callable[[str], str]
) -> list[str]:
    """The line of a span and, in the colour of ``paint``, the marks and the text below it; at most ``room`` wide."""
    source = sources.get(span.file)
    if source is None:
        return []
    # not str.splitlines: it also breaks at form feeds and the like, and the parser counts "\n" alone
    lines = source.split("\n")
    if not 1 <= span.line <= len(lines):
        return []
    line = lines[span.line - 1].rstrip("\r")
    skipped = max(0, span.column - NEAR) if len(line) > 2 * NEAR else 0
    line = line[skipped : skipped + 2 * NEAR]
    shown = "".join(" " if c == "\t" or not c.isprintable() else c for c in line)
    stop = min(span.end_column - skipped if span.end_line == span.line else len(line) + 1, 2 * NEAR)
    start = span.column - skipped
    cut, shown, more = _window(shown, start, stop, room or LONGEST)
    before = f"{shown[: start - 1 - cut]:<{start - 1 - cut}}"
    indent, marks = width_of(before), mark * max(1, width_of(shown[start - 1 - cut : stop - 1 - cut]))
    shown += more
    return [shown, *_below(marks, text, indent, room, paint)]


def _window(line: str, start: int, stop: int, most: int) -> tuple[int, str, str]:
    """What is shown of a long line, around its columns ``start`` to ``stop``: what is cut before, the piece, dots."""
    if width_of(line) <= most:
        return 0, line, ""
    kept = min(150, most - len(" ..."))
    cut = max(0, start - most * 3 // 8, min(start - 1, stop - 1 - kept))
    if width_of(line[cut:]) <= most:
        return cut, line[cut:], ""
    piece = line[cut : cut + kept]
    while width_of(piece) > kept:
        piece = piece[:-1]
    return cut, piece, " ..."


def _below(marks: str, text: str, indent: int, room: int | None, paint: Callable[[str], str]) -> list[str]:
    """The marks below a line, and the text beside them, or below them where it does not fit there."""
    beside = f"{marks} {text}".rstrip()
    if room is None or indent + width_of(beside) <= room:
        return [" " * indent + paint(beside)]
    under = min(indent, max(0, room - LEAST_WIDTH // 2))
    lines = wrap(text, room - under).split("\n")
    return [" " * indent + paint(marks), *(" " * under + paint(line) for line in lines)]


def render_one(
    diagnostic: Diagnostic, sources: Mapping[str, str], paint: Paint = plain, width: int | None = None
) -> str:
    """One diagnostic with its source line, caret, other places and hint, in lines of at most ``width`` columns."""
    severity = diagnostic.severity
    told = visible(diagnostic.hint) or f"`planc explain {diagnostic.code}` tells what it means"
    said = f": {visible(diagnostic.message)}"
    head = _painted(severity, f"{severity}[{diagnostic.code}]", said, "text", paint=paint, width=width)
    help_ = _painted("help", "help", f": {told}", "", paint=paint, width=width)
    if diagnostic.span is None:
        return f"{head}\n{help_}"
    spans = [diagnostic.span, *(label.span for label in diagnostic.labels)]
    gutter, quiet = max(len(str(s.line)) for s in spans), partial(paint, "place")
    room, blank = width and width - gutter - 3, f"{'':>{gutter}} "

    def excerpt(span: Span, mark: str, text: str, paint: Callable[[str], str]) -> list[str]:
        lines = _excerpt(span, mark, visible(text), sources, room=room, paint=paint)
        return [f"{blank if i else f'{span.line:>{gutter}} '}| {line}" for i, line in enumerate(lines)]

    out = [head, _arrow(diagnostic.span, gutter, quiet("-->")), f"{blank}|"]
    out += excerpt(diagnostic.span, "^", diagnostic.label, partial(paint, severity))
    for span, text in diagnostic.labels:
        if span.file != diagnostic.span.file:
            out.append(_arrow(span, gutter, quiet(":::")))
        bare = (
            f"{blank}{'=' if not i else ' '} {quiet(line)}"
            for i, line in enumerate(wrap(visible(text), room).split("\n"))
        )
        out += excerpt(span, "-", text, quiet) or list(bare)
    return "\n".join([*out, help_])


def _painted(kind: str, name: str, text: str, rest: str, paint: Paint, width: int | None) -> str:
    """``name`` in the colour of its ``kind``, then ``text`` in that of ``rest``, wrapped."""
    lines = wrap(name + text, width, hang=4).split("\n")
    first = paint(kind, name) + (paint(rest, lines[0][len(name) :]) if rest else lines[0][len(name) :])
    more = (" " * indent_of(line) + paint(rest, line.lstrip(" ")) if rest else line for line in lines[1:])
    return "\n".join([first, *more])


def _arrow(span: Span, gutter: int, mark: str) -> str:
    """The place of a span; a path is not broken, so that a terminal can open it."""
    return f"{'':>{gutter}}{mark} {visible(span.file)}:{span.line}:{span.column}"


def render(
    diagnostics: Sequence[Diagnostic], sources: Mapping[str, str], paint: Paint = plain, width: int | None = None
) -> str:
    """All diagnostics as text, in the order of the source, and a closing count of errors."""
    ordered = sorted(diagnostics, key=lambda d: (d.span is None, d.span or ()))
    parts = [render_one(d, sources, paint, width) for d in ordered]
    errors = sum(d.severity == "error" for d in diagnostics)
    if errors > 1:
        parts.append(f"{errors} errors")
    return "\n\n".join(parts)
