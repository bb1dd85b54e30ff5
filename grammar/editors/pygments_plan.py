"""A lexer for Pygments: `pygmentize -l plan FILE`, and code blocks of documentation."""

from __future__ import annotations

import re
from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String, Text

from plandsl.grammar.editors.build import COMPARED, END, GOALS, NAME, NUMBER, PERCENTILE
from plandsl.grammar.editors.words import CALLS, CONSTANTS, DECLARES, JOINS, MEASURED, MEASURES, STARTS

_BEFORE = r"(?<![A-Za-z0-9_.])"
_METRIC = "|".join(map(re.escape, MEASURED))
_MEASURE = "|".join(map(re.escape, MEASURES))


class PlanLexer(RegexLexer):
    """Colours of `.plan` files."""

    name = "Plan"
    aliases: ClassVar[list[str]] = ["plan"]
    filenames: ClassVar[list[str]] = ["*.plan"]
    mimetypes: ClassVar[list[str]] = ["text/x-plan"]
    version_added = ""

    tokens: ClassVar[dict[str, list[object]]] = {
        "root": [
            (r"\s+", Text.Whitespace),
            (r"#.*$", Comment.Single),
            (r'"[^"\r\n]*"', String.Double),
            (r'"[^"\r\n]*$', Error),
            (rf"{_BEFORE}plandsl(?=[ \t]*=[ \t]*[0-9])", Keyword.Declaration),
            (
                rf"{_BEFORE}({'|'.join(DECLARES)})([ \t]+)({NAME})(?=[ \t]*[={{])",
                bygroups(Keyword.Declaration, Text.Whitespace, Name.Class),
            ),
            (
                rf"{_BEFORE}(let)([ \t]+)({NAME})(?=[ \t]*=)",
                bygroups(Keyword.Declaration, Text.Whitespace, Name.Constant),
            ),
            (
                rf"{_BEFORE}({'|'.join(GOALS)})([ \t]+)({_METRIC}){END}(?![ \t]*[=.(])",
                bygroups(Keyword, Text.Whitespace, Name.Constant),
            ),
            (words(STARTS, prefix=_BEFORE, suffix=rf"{END}(?![ \t]*(?:=(?!=)|->|,|\{{|\.))"), Keyword),
            (words(JOINS, prefix=_BEFORE, suffix=rf"{END}(?![ \t]*=(?!=))"), Operator.Word),
            (
                rf"({NUMBER})([ \t]*)({_MEASURE})(?![A-Za-z0-9_/])",
                bygroups(Number, Text.Whitespace, Keyword.Type),
            ),
            (NUMBER, Number),
            (
                rf"{_BEFORE}({PERCENTILE})([ \t]*)(\()([ \t]*)({_METRIC})(?=[ \t]*\))",
                bygroups(Name.Builtin, Text.Whitespace, Punctuation, Text.Whitespace, Name.Constant),
            ),
            (rf"{_BEFORE}(?:{_METRIC}){COMPARED}", Name.Constant),
            (words(CALLS, prefix=_BEFORE, suffix=r"(?=[ \t]*\()"), Name.Builtin),
            (rf"{NAME}(?=[ \t]*=(?!=))", Name.Attribute),
            (rf"{NAME}(?=[ \t]*\{{)", Name.Namespace),
            (words(CONSTANTS, prefix=_BEFORE, suffix=END), Keyword.Constant),
            (r"->|\.\.|[<>=!]=|[-+*/@<>=]", Operator),
            (r"[{}()\[\],;.]", Punctuation),
            (NAME, Name),
        ]
    }
