"""``hf("config.json")``: from the config of a Hugging Face checkpoint to the text of a model.

The result is `.plan` text, read like any other: it can be printed, kept and changed by hand.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from plandsl.diagnostics import Diagnostic, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.files import locate, path_beside
from plandsl.grammar.hf_config import Config, read
from plandsl.grammar.hf_families import family_of
from plandsl.grammar.hf_notes import refuse, tell
from plandsl.grammar.hf_shape import shape_of
from plandsl.grammar.hf_storage import storage_of
from plandsl.grammar.hf_text import MAX_BLOCKS, Made, dimensions_in, model_text
from plandsl.grammar.modules import Follows, Library, Unit, Wrong, read_bytes
from plandsl.limits import MAX_DIMENSION, MAX_ERRORS, MAX_FILES

_LONGEST_NAME = 60


class Translated(NamedTuple):
    """The text of the model (empty if the config is wrong), the text of the config, and the findings."""

    text: str
    source: str
    found: list[Diagnostic]


def translate(data: bytes, file: str, source: str = "") -> Translated:
    """The `.plan` text for the bytes of a config.json, called ``file`` in findings and ``source`` in the text."""
    config, written, found = read(data, file)
    if config is None:
        return Translated("", written, found)
    text = _text(config, source or file)
    return Translated("" if config.errors else text, written, config.found[:MAX_ERRORS])


def _text(config: Config, source: str) -> str:
    family = family_of(config)
    if family is None:
        return ""
    refuse(config, family)
    shape = shape_of(config, family)
    storage = storage_of(config, family, shape)
    tell(config, family)
    if config.errors:
        return ""
    if storage.layers:
        shape = shape._replace(stored=storage.layers)
    shown = re.sub(r'["\x00-\x1f\x7f]', "_", source)
    named = (config.items("architectures", str) or [family.architecture])[0]
    remarks = [f"Made from {shown}, {clip(re.sub(r'[^ -~]', '?', named))}.", *(_sentence(d) for d in config.found)]
    text = model_text(_name(config, source), Made(family, shape), storage, shown, remarks)
    if not text and storage.layers:
        config.note("formats of single layers are left out: they need too many blocks", "quantization_config")
        plain = Made(family, shape._replace(stored=()))
        text = model_text(_name(config, source), plain, storage, shown, [*remarks, _sentence(config.found[-1])])
    for name in sorted(dimensions_in(text)):
        if not 0 < (size := shape.values.get(name, 1)) <= MAX_DIMENSION:
            config.fail("E214", f"the size of `{name}` must be from 1 to {MAX_DIMENSION:,}, and would be {size:,}")
    if not text:
        config.fail("E232", f"the pattern of layers needs more than {MAX_BLOCKS} blocks", "layer_types")
    return text


def _sentence(note: Diagnostic) -> str:
    """A note as a line of a comment."""
    text = re.sub(r"[^\x20-\x7e]", "?", note.message)
    return f"{text[:1].upper()}{text[1:]}."


def _name(config: Config, source: str) -> str:
    """A name for the model, from the file or its folder: ``Llama-3.1-8B/config.json`` gives ``llama_3_1_8b``."""
    path = PurePosixPath(source)
    words = (path.stem if path.stem != "config" else path.parent.name, config.word("model_type") or "", "model")
    names = (re.sub("[^a-z0-9]+", "_", word.lower()).strip("_")[:_LONGEST_NAME] for word in words)
    name = next(name for name in names if name)
    return f"model_{name}" if name[0].isdigit() else name


# ---- in a plan


def import_model(library: Library, call: s.Call, unit: Unit) -> tuple[s.Decl, Unit]:
    """The declaration of the model that ``call`` builds, and the file made for it; each config is read once."""
    written = _argument(call)
    path = locate(library, written, unit, "`hf`", ".json")
    if path not in library.configs:
        if len(library.configs) >= MAX_FILES:
            raise Wrong("E209", f"more than {MAX_FILES} configs are read", written.span)
        library.configs[path] = None
        try:
            data = read_bytes(path)
        except OSError as error:
            raise Wrong("E209", f"cannot read this file: {error.strerror}", written.span) from None
        assert unit.path is not None, "a located path starts somewhere"
        source = os.path.relpath(unit.path.parent / written.value, library.folder).replace(os.sep, "/")
        library.configs[path] = _enter_model(library, data, path_beside(unit.file, written.value), source, call)
    made = library.configs[path]
    if made is None:
        raise Follows
    return made.declared["model"][made.declarations[0].name.text], made


def _argument(call: s.Call) -> s.Str:
    if len(call.args) == 1 and not call.kwargs and isinstance(call.args[0], s.Str):
        return call.args[0]
    raise Wrong("E210", "`hf` takes one path in quotes", call.span, hint='`hf("config.json")`')


def _enter_model(library: Library, data: bytes, file: str, source: str, call: s.Call) -> Unit | None:
    text, written, found = translate(data, file, source)
    library.sources[file] = written
    for diagnostic in found:
        library.record(Wrong(diagnostic.code, diagnostic.message, diagnostic.span, hint=diagnostic.hint))
    if not text:
        return None
    unit = Unit(f'hf("{clip(source, 80)}")', text)
    library.spend(call.span, len(unit.declarations))
    library.enter(unit)
    return unit if unit.declarations else None
