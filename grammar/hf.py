"""``hf("config.json")``: from the config of a Hugging Face checkpoint to the text of a model.

The result is `.plan` text, read like any other: it can be printed, kept and changed by hand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, clip
from plandsl.grammar import syntax as s
from plandsl.grammar.files import locate, path_beside
from plandsl.grammar.headers import Checkpoint, Unreadable, about, opened, read_folder
from plandsl.grammar.headers_gguf import read_gguf
from plandsl.grammar.headers_metadata import checkpoint_of, config_of, notes_of
from plandsl.grammar.headers_storage import storage_of_headers
from plandsl.grammar.hf_config import Config, read
from plandsl.grammar.hf_families import family_of
from plandsl.grammar.hf_notes import refuse, tell
from plandsl.grammar.hf_shape import Shape, shape_of
from plandsl.grammar.hf_storage import Storage, storage_of
from plandsl.grammar.hf_text import MAX_BLOCKS, Made, dimensions_in, model_text
from plandsl.grammar.modules import Follows, Library, Unit, Wrong, read_bytes

_LONGEST_NAME = 60
CONFIG, GGUF = "config.json", ".gguf"


class Translated(NamedTuple):
    """The text of the model (empty if the config is wrong), the text of the config, and the findings."""

    text: str
    source: str
    found: list[Diagnostic]


def translate(data: bytes, file: str, source: str = "", checkpoint: Checkpoint | None = None) -> Translated:
    """The `.plan` text for the bytes of a config.json, called ``file`` in findings and ``source`` in the text.

    With a ``checkpoint``, the formats come from its tensors.
    """
    config, written, found = read(data, file)
    if config is None:
        return Translated("", written, found)
    return translate_config(config, source or file, checkpoint)._replace(source=written)


def translate_config(config: Config, source: str, checkpoint: Checkpoint | None = None) -> Translated:
    """The `.plan` text for a config."""
    text = _text(config, source, checkpoint)
    return Translated("" if config.errors else text, "", config.found[: limits.MAX_ERRORS])


def _text(config: Config, source: str, checkpoint: Checkpoint | None) -> str:
    family = family_of(config)
    if family is None:
        return ""
    refuse(config, family)
    shape = shape_of(config, family)
    storage = storage_of(config, family, shape)
    tower = _tower(config, shape, storage)
    tell(config, family)
    if config.errors:
        return ""
    if checkpoint is not None:
        storage = storage_of_headers(config, Made(family, shape), storage, checkpoint)
        if config.errors:
            return ""
    if storage.layers:
        shape = shape._replace(stored=storage.layers)
    shown = re.sub(r'["\x00-\x1f\x7f]', "_", source)
    named = (config.items("architectures", str) or [family.architecture])[0]
    remarks = [f"Made from {shown}, {clip(re.sub(r'[^ -~]', '?', named))}.", *(_sentence(d) for d in config.found)]
    text = model_text(_name(config, source), Made(family, shape), storage, shown, remarks=remarks, tower=tower)
    if not text and storage.layers:
        config.note("formats of single layers are left out: they need too many blocks", "quantization_config")
        plain = Made(family, shape._replace(stored=()))
        text = model_text(
            _name(config, source), plain, storage, shown, remarks=[*remarks, _sentence(config.found[-1])], tower=tower
        )
    # remarks may quote what stands in the config, and a tower has sizes of its own
    own = re.sub(r"^#[^\n]*$|^  tower \{$.*?^  \}$", "", text, flags=re.MULTILINE | re.DOTALL)
    for name in sorted(dimensions_in(own)):
        if not 0 < (size := shape.values.get(name, 1)) <= limits.MAX_DIMENSION:
            why = f"the size of `{name}` must be from 1 to {limits.MAX_DIMENSION:,}, and would be {size:,}"
            config.fail("E214", why, hint=limits.MAX_DIMENSION.hint(found=size))
    if not text:
        config.fail("E232", f"the layers are of more than {MAX_BLOCKS} kinds", "layer_types")
    return text


def _tower(config: Config, shape: Shape, storage: Storage) -> list[str]:
    """The lines of the model's tower, which few configs have."""
    if config.errors or not config.get("vision_config"):
        return []
    from plandsl.grammar.hf_towers import tower_lines

    return tower_lines(config, shape, storage.activations)


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


# ---- files


def translate_file(path: Path, root: Path, file: str, source: str) -> Translated:
    """The `.plan` text for a config.json, the folder of a checkpoint, or a GGUF file. Raises `OSError`.

    ``root`` is the folder that no file may lie outside of. The path of a config.json is a resolved one.
    """
    if path.suffix == GGUF:
        return _translate_gguf(path, root, file, source)
    if not os.path.isdir(path):
        return translate(read_bytes(path, resolved=True), file, source)
    try:
        with about(CONFIG), opened(path / CONFIG, root) as (config, _):
            data = config.read(limits.MAX_FILE_BYTES + 1)
        checkpoint = read_folder(path, root)
    except Unreadable as error:
        return Translated("", "", [Diagnostic("E485", f"{file}: {error}", None, hint=error.hint)])
    return translate(data, f"{file}/{CONFIG}", f"{source}/{CONFIG}", checkpoint)


def _translate_gguf(path: Path, root: Path, file: str, source: str) -> Translated:
    try:
        made = read_gguf(path, root)
        config = config_of(made, file)
    except Unreadable as error:
        return Translated("", "", [Diagnostic("E485", f"{file}: {error}", None, hint=error.hint)])
    notes_of(made, config)
    config.skip(*config.values)
    found = translate_config(config, source, checkpoint_of(made, str(config.values["model_type"])))
    return found._replace(found=[d._replace(span=None) for d in found.found])


# ---- in a plan


def import_model(library: Library, call: s.Call, unit: Unit) -> tuple[s.Decl, Unit]:
    """The declaration of the model that ``call`` builds, and the file made for it; each config is read once."""
    written = _argument(call)
    name = call.func.text
    path = locate(library, written, unit, f"`{name}`", GGUF if name == "gguf" else ".json", folder=name == "hf")
    if path not in library.configs:
        if len(library.configs) >= limits.MAX_FILES:
            why = f"more than {limits.MAX_FILES} configs are read"
            raise Wrong("E209", why, written.span, hint=limits.MAX_FILES.hint("keep the plans in several files"))
        library.configs[path] = None
        assert unit.path is not None, "a located path starts somewhere"
        assert library.folder is not None, "and in a folder"
        source = os.path.relpath(unit.path.parent / written.value, library.folder).replace(os.sep, "/")
        file = path_beside(unit.file, written.value)
        try:
            made = translate_file(path, library.folder, file, source)
        except OSError as error:
            raise Wrong("E209", f"cannot read this file: {error.strerror}", written.span) from None
        library.configs[path] = _enter_model(library, made, file, source, call)
    entered = library.configs[path]
    if entered is None:
        raise Follows
    return entered.declared["model"][entered.declarations[0].name.text], entered


def _argument(call: s.Call) -> s.Str:
    if len(call.args) == 1 and not call.kwargs and isinstance(call.args[0], s.Str):
        return call.args[0]
    hint = '`gguf("model.gguf")`' if call.func.text == "gguf" else '`hf("config.json")`, or `hf("FOLDER")`'
    raise Wrong("E210", f"`{call.func.text}` takes one path in quotes", call.span, hint=hint)


def _enter_model(library: Library, made: Translated, file: str, source: str, call: s.Call) -> Unit | None:
    name = next((d.span.file for d in made.found if d.span is not None), file)
    library.sources[name] = made.source
    for diagnostic in made.found:
        library.record(Wrong(diagnostic.code, diagnostic.message, diagnostic.span or call.span, hint=diagnostic.hint))
    if not made.text:
        return None
    unit = Unit(f'{call.func.text}("{clip(source, 80)}")', made.text)
    library.spend(call.span, len(unit.declarations))
    library.enter(unit)
    return unit if unit.declarations else None
