"""The page of all fields: what readers ask of them (`traced.py`), beside what docs/language.md says in its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.site.markdown import slug
from benchmarks.site.traced import Asked, Fields, asked, read_everything
from benchmarks.words import rows as table_rows
from plandsl.grammar import hardware, models, plans, searches, sharding
from plandsl.grammar.engines import ENGINE

ROOT = Path(__file__).parents[2]
POINTER = re.compile(r"\[[^]]*\]\([^)]*\)")
"""A cell that only says where to read on."""


HEAD = """# Fields

Every field of every kind: which values it takes, in which range, what it is by default. Values and ranges are those
that the compiler's readers ask for; the rest is from the tables of [the language](../language.md). A field that takes
a number also takes an expression of the same dimension, and the name of a `let`. A value outside its range is an error
(E214), one of another dimension too (E204, E205). Where a cell is empty, the text says which values there are.

"""


class Part(NamedTuple):
    """A kind of record on the page: its title, where it may stand, and the sections of docs/language.md about it."""

    title: str
    within: str
    sections: tuple[str, ...]
    only: tuple[str, ...] = ()


PARTS: dict[str, Part] = {
    "plan": Part("plan", "at the top of a file", ("plan", "two-shardings", "guessing-ahead", "two-pools"), plans.PLAN),
    "workload": Part("workload", "at the top of a file, or in a `plan`", ("workload", "requests-over-time")),
    "class": Part("class", "in a `workload`", ("requests-over-time", "workload")),
    "sharding": Part(
        "sharding", "at the top of a file, or in a `plan`", ("sharding", "what-is-derived", "stages"), sharding.KNOWN
    ),
    "model": Part("model", "at the top of a file, or in a `plan`", ("model",), models.FIELDS),
    "lora": Part("lora", "in a `model`", ("adapters", "model")),
    "gpu": Part("gpu", "at the top of a file, or in a `node`", ("gpu",), hardware.GPU),
    "node": Part("node", "at the top of a file, or in a `plan` or `cluster`", ("node",), hardware.NODE),
    "link": Part("link", "in a `node`", ("node",)),
    "cluster": Part("cluster", "at the top of a file, or in a `plan`", ("cluster", "node"), hardware.CLUSTER),
    "network": Part("network", "in a `cluster` or a `node`", ("cluster", "node")),
    "engine": Part(
        "engine", "at the top of a file, or in a `plan`", ("engine", "schedulers", "tiers-of-kv-memory"), ENGINE
    ),
    "shift": Part("shift", "in a `plan`", ("two-shardings",)),
    "speculate": Part("speculate", "in a `plan`", ("guessing-ahead",)),
    "transfer": Part("transfer", "in a `plan` with two pools", ("two-pools",)),
    "search": Part("search", "at the top of a file", ("search", "plan"), searches.FIELDS),
}
"""Kind of record -> how the page shows it."""

KINDS = "gemm attention_prefill attention_decode attention_mixed mla_prefill mla_decode moe grouped_gemm elementwise"
CONSTANTS = (*KINDS.split(), "collective", "collective_nodes", "ep_alltoall")
"""Sections of a calibration, whose constants docs/cost.md explains."""


class Said(NamedTuple):
    """What a table of the language's page says of a field."""

    what: str
    default: str


def said(text: str) -> dict[tuple[str, str], Said]:
    """(Anchor of a section, field) -> what the tables of fields in the page of the language say."""
    found: dict[tuple[str, str], Said] = {}
    what = ""
    for (heading, first), cells in table_rows(text):
        if first.startswith("field"):
            told = cells.get("what") or list(cells.values())[1]
            what = what if told == "the same" else told
            for name in re.findall(r"`(\w+)[^`]*`", cells[first]):
                found[slug(heading, "-"), name] = Said(what, cells.get("default", ""))
    return found


def page() -> str:
    """The page, as Markdown."""
    fields, words = asked(read_everything), said((ROOT / "docs" / "language.md").read_text("utf-8"))
    out = HEAD + ", ".join(f"[{name}](#{name})" for name in (*PARTS, "calibration")) + "\n\n"
    for kind, part in PARTS.items():
        anchor = next(iter(part.sections))
        out += f"## {part.title}\n\nStands {part.within}. [More](../language.md#{anchor})\n\n"
        out += _table(kind, part, fields, words) + "\n"
    out += "## calibration\n\nA calibration has a section for each kind of kernel, with the constants of its formula "
    out += "([the cost model](../cost.md)). Constants are positive unless a range says otherwise.\n\n"
    return out + "".join(_constants(kind, fields[kind]) for kind in CONSTANTS if kind in fields)


def rows(kind: str, part: Part, fields: Fields, words: dict[tuple[str, str], Said]) -> list[tuple[str, Asked, Said]]:
    """Each field of a kind with what is asked of it and what is said of it."""
    own = fields.get(kind, {})
    names = [name for name in (part.only or own) if name in own or part.only]
    return [(name, own.get(name, Asked()), _said(name, part, words)) for name in names]


def _said(name: str, part: Part, words: dict[tuple[str, str], Said]) -> Said:
    found = [words[section, name] for section in part.sections if (section, name) in words]
    return next((one for one in found if not POINTER.fullmatch(one.what)), found[0] if found else Said("", ""))


def _table(kind: str, part: Part, fields: Fields, words: dict[tuple[str, str], Said]) -> str:
    out = "| field | what | value | range | default |\n| --- | --- | --- | --- | --- |\n"
    for name, found, told in rows(kind, part, fields, words):
        default = told.default or ("needed" if found.needed else "")
        cells = (_linked(told.what), "; ".join(found.values), " or ".join(found.ranges), _linked(default))
        out += f"| `{name}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return out


def _constants(kind: str, fields: dict[str, Asked]) -> str:
    out = f"### {kind}\n\n| constant | value | range |\n| --- | --- | --- |\n"
    for name, found in fields.items():
        out += f"| `{name}` | {'; '.join(found.values)} | {' or '.join(found.ranges)} |\n"
    return out + "\n"


def _linked(cell: str) -> str:
    """A cell of the language's page, with links that start at the folder of this page."""
    cell = re.sub(r"\]\(#", "](../language.md#", cell)
    return re.sub(r"\]\((?!\.\./)(\w+\.md)", r"](../\1", cell)
