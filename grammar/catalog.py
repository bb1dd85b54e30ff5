"""The catalog as people see it: kinds, names, and the text of each entry."""

from __future__ import annotations

import os
from pathlib import Path

from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.grammar.modules import FOLDERS, catalog_find, catalog_names
from plandsl.grammar.syntax import Ref


def kinds() -> tuple[str, ...]:
    """The kinds of entries that the catalog holds."""
    return tuple(FOLDERS)


def names(kind: str) -> tuple[str, ...]:
    """The names of the entries of a kind; a family of nodes gives one name for each declared size."""
    return catalog_names(kind)


def aliases(kind: str) -> dict[str, str]:
    """Names of a kind that stand for another entry as it is, each with the name of that entry."""
    declared = {name: found[0].value for name in names(kind) if (found := catalog_find(kind, name))}
    stands_for = {name: value.name for name, value in declared.items() if isinstance(value, Ref)}
    return {name: _last(stands_for, name) for name in stands_for}


def _last(stands_for: dict[str, str], name: str) -> str:
    while name in stands_for:
        name = stands_for[name]
    return name


def text(kind: str, name: str) -> str:
    """The `.plan` text of the file that declares an entry: figures, sources and assumptions."""
    found = catalog_find(kind, name)
    assert found is not None, "names come from the folder"
    return found[1].text


def from_config(path: str) -> str:
    """The `.plan` text of the model that ``hf(...)`` makes of a config.json or a folder, and ``gguf(...)`` of a file.

    Raises `PlanError` for a wrong file.
    """
    from plandsl.grammar.hf import GGUF, translate_file

    place, name = Path(path), path.rstrip("/") or path
    try:
        real = place.resolve()  # whoever names a file may name a link to it
        root = _whole(real) if os.path.isdir(place) else real.parent
        text, source, found = translate_file(place if place.suffix == GGUF else real, root, name, name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError([Diagnostic("E209", f"cannot read {path}: {reason}")]) from error
    if not text:
        wrong = [d for d in found if d.severity == "error"]
        raise PlanError(wrong, {d.span.file: source for d in wrong if d.span is not None})
    return text


def _whole(folder: Path) -> Path:
    """The folder that has all files of a checkpoint.

    The cache of Hugging Face keeps them in ``blobs``, and links to them in ``snapshots/REVISION``.
    """
    repository = folder.parent.parent
    return repository if folder.parent.name == "snapshots" and (repository / "blobs").is_dir() else folder
