"""Opens the root file and the files that it uses, without leaving its folder tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span
from plandsl.files import NOT_ORDINARY
from plandsl.grammar import syntax as s
from plandsl.grammar.modules import Library, Unit, Wrong, read_bytes
from plandsl.grammar.parse import decode


def open_root(library: Library, source: str | None, path: str, tree: s.File | None = None) -> Unit:
    """The root file, with every file that it uses; a file that cannot be read is reported."""
    real = _resolved_path(path)
    text = _read_root(library, path) if source is None else source
    # a file that is not text gives a finding about its bytes, and is not read as a plan
    root = Unit(path, "" if library.report.errors else text, real, tree=tree)
    library.folder = real.parent if real else None
    library.enter(root)
    library.sources[path] = text
    if root.uses:
        _Opener(library, root).follow(root, (root,))
    return root


def _resolved_path(path: str) -> Path | None:
    """The path of the root file with links resolved; None for a text without a file, such as ``<text>``."""
    if path.startswith("<") or path in ("", "-"):
        return None
    try:
        real = Path(path).resolve()
        return real if real.parent.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _read_root(library: Library, path: str) -> str:
    try:
        text, found = decode(read_bytes(Path(path)), path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = f"read it from standard input: planc ... - < {path}" if reason == NOT_ORDINARY else ""
        library.report.put(Diagnostic("E209", f"cannot read {path}: {reason}", None, hint=hint))
        return ""
    for diagnostic in found:
        library.report.put(diagnostic)
    return text


class _Opener:
    """Opens the files that `use` names, each once."""

    def __init__(self, library: Library, root: Unit) -> None:
        self.library = library
        self.opened: dict[Path, Unit] = {root.path: root} if root.path else {}

    def follow(self, unit: Unit, chain: tuple[Unit, ...]) -> None:
        for use in unit.uses:
            try:
                self._use(use, unit, chain)
            except Wrong as wrong:
                self.library.record(wrong)
                unit.incomplete = True

    def _use(self, use: s.Use, unit: Unit, chain: tuple[Unit, ...]) -> None:
        path = locate(self.library, use.path, unit, "`use`", ".plan")
        used = self.opened.get(path)
        if used is not None and used in chain:
            why = f'"{use.path.value}" uses this file, directly or through others'
            raise Wrong("E209", why, use.span, hint="remove one `use`")
        if used is None:
            if len(self.opened) >= limits.MAX_FILES:
                why = f"more than {limits.MAX_FILES} files are used"
                raise Wrong("E209", why, use.span, hint=limits.MAX_FILES.hint("join some of them"))
            used = self._open(use, unit, path)
            self.follow(used, (*chain, used))
        unit.used.append(used)

    def _open(self, use: s.Use, unit: Unit, path: Path) -> Unit:
        shown = path_beside(unit.file, use.path.value)
        try:
            unsaved = self.library.texts.get(path)
            text, found = decode(read_bytes(path, resolved=True), shown) if unsaved is None else (unsaved, [])
        except OSError as error:
            raise Wrong("E209", f"cannot read this file: {error.strerror}", use.path.span) from None
        used = self.opened[path] = Unit(shown, text, path)
        used.found[:0] = found
        self.library.enter(used)
        return used


def path_beside(file: str, written: str) -> str:
    """The path that ``file`` gives as ``written``, as diagnostics show it."""
    return os.path.normpath(PurePosixPath(file).parent / written).replace(os.sep, "/")


def locate(library: Library, written: s.Str, unit: Unit, word: str, ending: str, *, folder: bool = False) -> Path:
    """The file, or with ``folder`` also a folder, at the path ``written`` after ``word`` in ``unit``.

    Raises `Wrong` (E209) if it may not be read, or (E597) if this compilation reads no files at all.
    """
    text, span = written.value, written.span
    if not library.reads_files:
        raise Wrong(
            "E597", f"{word} reads a file, and a playground reads none", span, hint=_INSTEAD.get(word, _LOCALLY)
        )
    if library.folder is None or unit.path is None:
        raise Wrong("E209", "this text was not read from a folder, so it can use no other file", span)
    if PurePosixPath(text).is_absolute() or "\\" in text or "\0" in text or ":" in text:
        hint = "write the path from this file's folder, with `/`"
        raise Wrong("E209", f"a path in {word} must be relative", span, hint=hint)
    if not text.endswith(ending) and not folder:
        raise Wrong("E209", f"{word} reads `{ending}` files only", span)
    try:
        path = (unit.path.parent / text).resolve()
    except (OSError, RuntimeError, ValueError):
        raise _missing_file(text, span) from None
    if not path.is_relative_to(library.folder):
        hint = "keep shared files in the folder of the root file, or below it"
        raise Wrong("E209", f'"{text}" is outside the folder of the root file', span, hint=hint)
    if path in library.texts:
        return path
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise _missing_file(text, span) from None
    if folder and stat.S_ISDIR(mode) and not text.endswith(ending):
        return path
    if folder and not text.endswith(ending):
        raise Wrong("E209", f"{word} reads `{ending}` files and folders only", span)
    if not stat.S_ISREG(mode):
        raise Wrong("E209", f'"{text}" is not a regular file', span)
    return path


_LOCALLY = "keep the plan in a file, and run `planc compile` on it"
_INSTEAD = {
    "`use`": f"copy the declarations into this text; or {_LOCALLY}",
    "`hf`": f"`planc catalog model config.json` prints the model as text, to copy into this one; or {_LOCALLY}",
    "`gguf`": f"`planc catalog model FILE.gguf` prints the model as text, to copy into this one; or {_LOCALLY}",
    "`trace`": f"say what a trace has with `rate`, `input` and `output`; or {_LOCALLY}",
}
"""What to write in a playground instead of a word that reads a file; `_LOCALLY` goes for every word."""


def _missing_file(written: str, span: Span) -> Wrong:
    return Wrong("E209", f'there is no file "{written}"', span, hint="the path starts at this file's folder")
