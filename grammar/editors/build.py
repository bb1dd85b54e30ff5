"""Write the grammar of VS Code from the words of the language: `python -m plandsl.grammar.editors.build`.

TextMate grammars, which other editors read too, are regular expressions, tried in order at each place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from plandsl.grammar.editors.words import CALLS, CONSTANTS, DECLARES, JOINS, MEASURED, MEASURES, STARTS

TARGET = Path(__file__).resolve().parent / "vscode" / "syntaxes" / "plan.tmLanguage.json"

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
NUMBER = r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:_[0-9]+)*)?(?:[eE][+-]?[0-9]+)?"
END = r"(?![A-Za-z0-9_])"
START = r"(?<![A-Za-z0-9_.])"
PERCENTILE = r"p[1-9][0-9]?(?:_[0-9])?"
COMPARED = r"(?=[ \t]*(?:[<>]|[=!]=))"
GOALS = ("maximize", "minimize")


def _one_of(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(map(re.escape, words)) + ")"


def grammar() -> dict[str, Any]:
    """The grammar as VS Code reads it."""
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "Plan",
        "scopeName": "source.plan",
        "fileTypes": ["plan"],
        "patterns": [
            {"name": "comment.line.number-sign.plan", "match": "#.*$"},
            {"name": "string.quoted.double.plan", "match": r'"[^"\r\n]*"'},
            {"name": "invalid.illegal.string.plan", "match": r'"[^"\r\n]*$'},
            {"name": "keyword.declaration.plan", "match": rf"{START}plandsl(?=[ \t]*=[ \t]*[0-9])"},
            {
                "match": rf"{START}({_one_of(DECLARES)})[ \t]+({NAME})(?=[ \t]*[={{])",
                "captures": {"1": {"name": "keyword.declaration.plan"}, "2": {"name": "entity.name.type.plan"}},
            },
            {
                "match": rf"{START}(let)[ \t]+({NAME})(?=[ \t]*=)",
                "captures": {"1": {"name": "keyword.declaration.plan"}, "2": {"name": "variable.other.constant.plan"}},
            },
            {
                "match": rf"{START}({_one_of(GOALS)})[ \t]+({_one_of(MEASURED)}){END}(?![ \t]*[=.(])",
                "captures": {"1": {"name": "keyword.control.plan"}, "2": {"name": "support.constant.plan"}},
            },
            {
                "name": "keyword.control.plan",
                "match": rf"{START}{_one_of(STARTS)}{END}(?![ \t]*(?:=(?!=)|->|,|\{{|\.))",
            },
            {"name": "keyword.operator.word.plan", "match": rf"{START}{_one_of(JOINS)}{END}(?![ \t]*=(?!=))"},
            {
                "match": rf"({NUMBER})[ \t]*({_one_of(MEASURES)})(?![A-Za-z0-9_/])",
                "captures": {"1": {"name": "constant.numeric.plan"}, "2": {"name": "keyword.other.unit.plan"}},
            },
            {"name": "constant.numeric.plan", "match": rf"(?<![A-Za-z0-9_]){NUMBER}"},
            {
                "match": rf"{START}({PERCENTILE})[ \t]*(\()[ \t]*({_one_of(MEASURED)})(?=[ \t]*\))",
                "captures": {
                    "1": {"name": "support.function.plan"},
                    "2": {"name": "punctuation.plan"},
                    "3": {"name": "support.constant.plan"},
                },
            },
            {"name": "support.constant.plan", "match": rf"{START}{_one_of(MEASURED)}{COMPARED}"},
            {"name": "support.function.plan", "match": rf"{START}{_one_of(CALLS)}(?=[ \t]*\()"},
            {"name": "variable.other.property.plan", "match": rf"{START}{NAME}(?=[ \t]*=(?!=))"},
            {"name": "entity.name.section.plan", "match": rf"{START}{NAME}(?=[ \t]*\{{)"},
            {"name": "constant.language.plan", "match": rf"{START}{_one_of(CONSTANTS)}{END}"},
            {"name": "keyword.operator.plan", "match": r"->|\.\.|[<>=!]=|[-+*/@<>=]"},
            {"name": "punctuation.plan", "match": r"[{}()\[\],;.]"},
            {"name": "variable.other.plan", "match": NAME},
            {"name": "invalid.illegal.plan", "match": r"[^\s]"},
        ],
    }


def text() -> str:
    """The file's text."""
    return json.dumps(grammar(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
