"""The page of the grammar, from grammar/plan.lark: the rules, without the names of what builds the tree."""

from __future__ import annotations

import re
from pathlib import Path

from plandsl.grammar._tables import FIXED
from plandsl.units import UNITS

ROOT = Path(__file__).parents[2]
GRAMMAR = ROOT / "grammar" / "plan.lark"
SECTION = re.compile(r"^// ---- (.*)$", re.MULTILINE)

HEAD = """# Grammar

These are the rules of `.plan` text, from `grammar/plan.lark`: the compiler reads plans with tables made from this file.
[The language](../language.md) says what the constructs mean.

A rule is `name: alternatives`, with `|` between them. Words in capitals are tokens, listed [below](#words-and-signs).
The line ends that end an item are the token `SEP`, as are `,` and `;`. `CALL_BRACE` is the `{` behind the `)` of a
call.

"""


def page() -> str:
    """The page, as Markdown."""
    rules, _, tokens = GRAMMAR.read_text("utf-8").partition("// ---- terminals")
    head, *sections = SECTION.split(rules)
    out = HEAD + _section("Declarations", head)
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        out += _section(title.capitalize(), text)
    return out + _words() + _patterns(tokens)


def _section(title: str, text: str) -> str:
    lines = [re.sub(r" *-> \w+$", "", line) for line in text.split("\n") if not line.startswith("//")]
    rules = re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip("\n")
    return f"## {title}\n\n```text\n{rules}\n```\n\n"


def _words() -> str:
    rows = "".join(f"| `{kind}` | `{_cell(text)}` |\n" for text, kind in sorted(FIXED.items(), key=lambda i: i[1]))
    return (
        "## Words and signs\n\nA word is a keyword only where it starts an item and cannot be a name; elsewhere it may "
        f"be a name.\n\n| token | text |\n| --- | --- |\n{rows}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _patterns(tokens: str) -> str:
    named = re.findall(r"^([A-Z]+): /(.*)/$", tokens, re.MULTILINE)
    rows = "".join(f"| `{name}` | `{_cell(pattern)}` |\n" for name, pattern in named)
    units = ", ".join(f"`{unit}`" for unit in UNITS)
    return (
        f"## Names, numbers and strings\n\n| token | regular expression |\n| --- | --- |\n{rows}\n"
        f"A number and its unit are one token. The units are {units}.\n"
    )
