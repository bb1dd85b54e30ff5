"""The parts for editors know the words of the language: the grammar of VS Code, and the lexer for Pygments."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String

from plandsl.grammar._tables import FIXED
from plandsl.grammar.editors.build import TARGET, grammar, text
from plandsl.grammar.editors.pygments_plan import PlanLexer
from plandsl.grammar.editors.words import DECLARES, JOINS, MEASURES, STARTS
from plandsl.grammar.functions import FUNCTIONS
from plandsl.grammar.modules import KINDS
from plandsl.grammar.requires import METRICS, OVER_REQUESTS
from plandsl.grammar.tokens import KEYWORDS, scan, split_number
from plandsl.units import UNITS
from tests.draws import pick

ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("examples/**/*.plan"), *ROOT.glob("plandsl/catalog/**/*.plan")]
EXTENSION = ROOT / "grammar" / "editors" / "vscode"


def test_the_grammar_of_vs_code_is_that_of_the_words():
    assert TARGET.read_text("utf-8") == text(), "run make tables"


def coloured(line: str) -> list[tuple[str, str]]:
    """A line as an editor reads it: at each place the rule that matches first, of several the one that stands first."""
    rules = [(re.compile(rule["match"]), rule) for rule in grammar()["patterns"]]
    found, at = [], 0
    while at < len(line):
        matches = [
            (match.start(), -n, match, rule) for n, (of, rule) in enumerate(rules) if (match := of.search(line, at))
        ]
        if not matches:
            found.append(("", line[at:]))
            break
        start = min(m[0] for m in matches)
        _, _, match, rule = max(((m[0], m[1], m[2], m[3]) for m in matches if m[0] == start), key=lambda m: m[1])
        found += [("", line[at:start])] if start > at else []
        groups = rule.get("captures", {"0": rule})
        found += [(groups[key]["name"], match[int(key)]) for key in groups]
        at = max(match.end(), start + 1)
    return [(name, piece) for name, piece in found if piece.strip()]


def test_no_line_of_a_plan_has_an_unknown_piece():
    for path in FILES[pick(8, "colours") :: 8]:
        for line in path.read_text("utf-8").split("\n"):
            wrong = [(name, piece) for name, piece in coloured(line) if not name or name.startswith("invalid")]
            assert wrong == [], f"{path}: {line}"


COLOURS = {
    "plan p {": "declaration type punctuation",
    "plandsl = 1": "declaration operator numeric",
    "  memory = 80 GiB # the driver's": "property operator numeric unit comment",
    "vary batch in 1..1024 by * 2": "control variable word numeric operator numeric word operator numeric",
    "head -> tensor": "variable operator variable",
    "head rms_norm(x)": "control function punctuation variable punctuation",
    "mesh = 2": "property operator numeric",
    'use "a.plan"': "control string",
    "a = 12 req/s": "property operator numeric unit",
    'a = "never closed': "property operator illegal",
    "require p99(ttft) <= 2 s": "control function punctuation constant punctuation operator numeric unit",
    "require tpot < 9 ms and goodput > 1": "control constant operator numeric unit word constant operator numeric",
    "minimize tpot": "control constant",
    "minimize p99_9(latency)": "control function punctuation constant punctuation",
    "p99(batch)": "variable punctuation variable punctuation",
    "  power = 700 W": "property operator numeric unit",
    "a = 2 €": "property operator numeric illegal",
}


def test_words_have_the_colour_of_what_they_are():
    for line, expected in COLOURS.items():
        names = [name for name, _ in coloured(line)]
        assert len(names) == len(expected.split()), (line, names)
        assert all(want in name for name, want in zip(names, expected.split(), strict=True)), (line, names)


def test_both_know_metrics_where_they_are_metrics():
    for name in METRICS | OVER_REQUESTS:
        for line in (f"require p9({name}) <= 1", f"require {name} <= 1", f"maximize {name}", f"minimize p50({name})"):
            assert ("support.constant.plan", name) in coloured(line), line
            assert (Name.Constant, name) in list(PlanLexer().get_tokens(line)), line
        assert coloured(f"{name} = 1")[0] == ("variable.other.property.plan", name)


def test_both_know_every_keyword_unit_and_function():
    assert {*STARTS, *JOINS} == set(KEYWORDS) == {word for word in FIXED if word.isalpha()}
    assert set(DECLARES) == set(KINDS)
    assert set(MEASURES) == set(UNITS)
    for word in STARTS:
        line = f'{word} "a"' if word == "use" else f"{word} a = 1" if word in ("let", "mesh") else f"{word} a"
        assert "keyword" in coloured(line)[0][0], word
        assert next(iter(PlanLexer().get_tokens(line)))[0] in Keyword, word
    for word in JOINS:
        assert "keyword.operator.word" in {piece: name for name, piece in coloured(f"a {word} b")}[word], word
        assert (Operator.Word, word) in list(PlanLexer().get_tokens(f"a {word} b")), word
    for name in UNITS:
        assert coloured(f"8 {name}")[1] == ("keyword.other.unit.plan", name)
        assert (Keyword.Type, name) in list(PlanLexer().get_tokens(f"8 {name}")), name
    for name in FUNCTIONS:
        assert coloured(f"{name}(x)")[0] == ("support.function.plan", name)
        assert (Name.Builtin, name) in list(PlanLexer().get_tokens(f"{name}(x)")), name


def test_pygments_reads_every_plan_and_its_tokens_are_those_of_the_scanner():
    lexer = PlanLexer(stripnl=False, ensurenl=False)
    kinds = {"STRING": String, "COMMENT": Comment, "NUMBER": Number}
    for path in FILES[pick(8, "lexer") :: 8]:
        source = path.read_text("utf-8")
        found = list(lexer.get_tokens(source))
        assert "".join(piece for _, piece in found) == source
        assert [piece for kind, piece in found if kind in Error] == [], path
        for name, kind in kinds.items():
            ours = [
                split_number(t.text)[0] if name == "NUMBER" else t.text for t in scan(source, "a") if t.kind == name
            ]
            assert [piece for of, piece in found if of in kind] == ours, path


def test_the_extension_names_files_that_are_there():
    package = json.loads((EXTENSION / "package.json").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    brings = package["contributes"]
    paths = [
        package["main"],
        *(one["configuration"] for one in brings["languages"]),
        *(one["path"] for one in brings["grammars"]),
    ]
    assert [path for path in paths if not (EXTENSION / path).is_file()] == []
    assert (
        json.loads((EXTENSION / brings["languages"][0]["configuration"]).read_text("utf-8"))["comments"]["lineComment"]
        == "#"
    )
    assert brings["configuration"]["properties"]["plan.server.command"]["default"] == ["planc", "lsp"]
    assert package["license"] == project["license"]
    module, _, name = project["entry-points"]["pygments.lexers"]["plan"].partition(":")
    assert (module, name) == (PlanLexer.__module__, PlanLexer.__name__)
