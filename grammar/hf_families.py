"""The model families that `hf` knows: one file each in `catalog/families`, and the family of a config.json.

A file has entries: ``name: text`` on one line, or ``name:`` and indented lines. ``like`` names other files: the family
has their entries too, except `architectures` and `types`. An entry in the family's own file replaces the entry of the
same name. Three entries are merged instead: `fields` (a field replaces the field of the same name), `findings`, `skip`.

| entry | what it says |
| --- | --- |
| `architectures`, `types` | the names of the family in a config |
| `towers` | of a family of towers: the architectures whose `vision_config` it reads |
| `fields` | values that the family takes from a config: `name: kind key, else default` (kinds: `hf_shape._Reader`) |
| `findings` | diagnostics: `CODE key when condition: message` |
| `skip` | keys of a config that change nothing |
| `embedding`, `layer`, `mtp`, `head` | the text of the model; `options` are further lines above it |
| `argument` | what each layer gets: `x[tokens, hidden]`, unless the family has several residual streams |
| `kept` | weights that quantised checkpoints keep as they are |
| `modules`, `mtp_modules` | the modules of a layer with the weights of each, for the lists of quantised checkpoints |
| any other | a part: other texts include it as ``<name>`` (`hf_template`) |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from plandsl.grammar.hf_config import Config, json_list, json_text
from plandsl.grammar.hf_template import names_in
from plandsl.grammar.modules import CATALOG

FOLDER = CATALOG / "families"
SUFFIX = ".family"

_ENTRY = re.compile(r"(\w+):[ ]?(.*)")
_FIELD = re.compile(r"(\w+): (\w+) ?(.*)")
_OPTION = re.compile(r",\s+(?=(?:else|null|class|least|most|in|as|when)\s)")
_FINDING = re.compile(r"(E\d{3}|N201) ([\w.]+) when (.+?): (.+)")


class Field(NamedTuple):
    """A value that a family takes from a config.

    ``kind`` says how it is read, ``source`` is a key of the config or an expression, and ``options`` has texts by their
    words, such as ``else``.
    """

    name: str
    kind: str
    source: str
    options: dict[str, str]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a config from which the field is read: the first key that has a value counts."""
        return tuple(self.source.split("|"))


class Finding(NamedTuple):
    """A diagnostic that `hf` reports at a key of a config if a condition holds."""

    code: str
    key: str
    condition: str
    message: str


class Family(NamedTuple):
    """What the file of a family says. ``parts`` are the texts of which a model consists."""

    name: str
    architectures: tuple[str, ...]
    types: tuple[str, ...]
    fields: tuple[Field, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...]
    parts: dict[str, str]

    def needs(self, field: Field) -> Iterator[str]:
        """The names of other fields that must be read before a field."""
        texts = [field.options[key] for key in ("when", "else", "null", "class") if key in field.options]
        texts += [field.source] if field.kind in ("is", "each") else []
        texts += ["layers"] if field.kind in ("each", "kinds", "letters", "flags", "numbers") else []
        if field.kind != "activation":
            yield from (name for text in texts for name in names_in(text))

    @property
    def architecture(self) -> str:
        """The architecture by which messages call the family."""
        return self.architectures[0] if self.architectures else self.name


@cache
def family(name: str) -> Family:
    """The family of one file. Raises `ValueError` for a line that belongs to no entry."""
    entries = dict(_entries(_text(name)))
    bases = tuple(map(family, entries.pop("like", "").split()))
    own = tuple(map(_field, entries.pop("fields", "").splitlines()))
    findings = tuple(map(_finding, entries.pop("findings", "").splitlines()))
    skipped = tuple(entries.pop("skip", "").split())
    entries.pop("towers", "")
    architectures, types = (tuple(entries.pop(key, "").split()) for key in ("architectures", "types"))
    fields: dict[str, Field] = {}
    parts: dict[str, str] = {}
    for base in bases:
        fields |= {field.name: field for field in base.fields}
        parts |= base.parts
    return Family(
        name,
        architectures,
        types,
        fields=tuple((fields | {field.name: field for field in own}).values()),
        findings=tuple(dict.fromkeys((*(f for base in bases for f in base.findings), *findings))),
        skipped=tuple(dict.fromkeys((*(key for base in bases for key in base.skipped), *skipped))),
        parts=parts | entries,
    )


@cache
def _text(name: str) -> str:
    """The text of a file, which a process reads once."""
    return (FOLDER / f"{name}{SUFFIX}").read_text("utf-8")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("  "):
            lines.append(line[2:])
            continue
        if name:
            yield name, "\n".join(lines)
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise ValueError(f"no entry of a family: {line}")
        name, lines = found[1], [found[2]] if found[2] else []
    yield name, "\n".join(lines)


def _field(line: str) -> Field:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise ValueError(f"no field of a family: {line}")
    source, *options = _OPTION.split(found[3])
    return Field(found[1], found[2], source, {key: rest for key, _, rest in (o.partition(" ") for o in options)})


def _finding(line: str) -> Finding:
    found = _FINDING.fullmatch(line)
    if found is None:
        raise ValueError(f"no finding of a family: {line}")
    return Finding(*found.groups())


@cache
def _index() -> dict[str, dict[str, str]]:
    """The name of the file for each architecture, and for each model type. No file is parsed for it."""
    found: dict[str, dict[str, str]] = {"architectures": {}, "types": {}, "towers": {}}
    for path in sorted(FOLDER.glob(f"*{SUFFIX}")):
        for key, words in re.findall(r"^(architectures|types|towers): (.+)$", _text(path.stem), re.MULTILINE):
            found[key] |= dict.fromkeys(words.split(), path.stem)
    return found


def architectures() -> tuple[str, ...]:
    """The architectures that `hf` knows."""
    return tuple(sorted(_index()["architectures"]))


def model_types() -> tuple[str, ...]:
    """The model types that `hf` knows."""
    return tuple(sorted(_index()["types"]))


_LACKS = {
    "t5": "an encoder and cross-attention",
    "bart": "an encoder and cross-attention",
    "whisper": "an encoder and cross-attention",
    "gpt2": "learned positions",
    "opt": "learned positions",
    "rwkv": "a recurrent layer of another kind",
    "mamba": "state-space layers alone",
}
"""Model types that `hf` cannot translate, by the start of their name, and the feature that it lacks."""


def tower_family(named: list[str]) -> Family | None:
    """The family of the tower of an architecture; None if `hf` knows none."""
    stem = _index()["towers"].get(named[0]) if named else None
    return None if stem is None else family(stem)


def family_of(config: Config) -> Family | None:
    """The family that ``architectures`` or ``model_type`` names; None, and a finding, if `hf` does not know it."""
    kind = config.word("model_type")
    named = config.items("architectures", str) or []
    stem = _index()["architectures"].get(named[0]) if named else None
    # a multimodal file names its language model by `model_type` only
    whole = bool(named) and not named[0].endswith("ForConditionalGeneration")
    if stem is None and not whole and kind in _index()["types"]:
        return family(_index()["types"][kind])
    if stem is None:
        _report_unknown(config, named[0] if named else "", kind or "")
        return None
    found = family(stem)
    if kind is not None and kind not in found.types:
        hint = f"{named[0]} has {json_list(found.types)}"
        why = f"{json_text(named[0])} and the type {json_text(kind)} belong to different families"
        config.fail("E231", why, "model_type", hint)
    return found


def _report_unknown(config: Config, named: str, kind: str) -> None:
    if not named and not kind:
        hint = 'add "architectures": ["LlamaForCausalLM"], or the name of another family'
        config.fail("E231", f"{config.file} names no architecture", hint=hint)
        return
    lacks = next((what for start, what in _LACKS.items() if kind.startswith(start)), "")
    if not lacks and named and kind in _index()["types"]:
        lacks = "another head than that of a language model"
    why = f": it has {lacks}" if lacks else ""
    short = sorted({name.removesuffix("ForCausalLM").removesuffix("Model") for name in architectures()}, key=str.lower)
    hint = f"any other model is written as a block; `hf` knows {', '.join(short)}"
    key = "architectures" if named else "model_type"
    config.fail("E231", f"`hf` knows no {key.replace('_', ' ').rstrip('s')} {json_text(named or kind)}{why}", key, hint)
