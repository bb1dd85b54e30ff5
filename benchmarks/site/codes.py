"""The pages of diagnostics, from plandsl/codes*.py: each example is compiled, and what planc says of it is shown."""

from __future__ import annotations

from collections.abc import Mapping

from plandsl.codes import CODES, Code
from plandsl.diagnostics import render_one
from plandsl.driver import check_module, open_text
from plandsl.grammar.hf import translate

CONFIG = "config.json"
GROUPS = {
    "E1": ("syntax", "Syntax"),
    "E2": ("names-and-sizes", "Names, types and sizes"),
    "E3": ("sharding", "Shardings and collectives"),
    "E4": ("commands-and-files", "Commands, files and tables"),
    "E5": ("models-and-exports", "Models, exports and measurements"),
    "E6": ("versions", "Versions"),
    "W": ("warnings", "Warnings"),
    "N": ("notes", "Notes"),
}
"""First letters of codes -> the file and the title of their page."""

HEAD = """# Diagnostics

Each diagnostic has a code, a place in the text, a reason and, where there is one, a way out. `planc explain E301`
prints what these pages say. Errors (`E`) keep a plan from being compiled, warnings (`W`) say that a number is worse
than it looks, notes (`N`) tell what the compiler assumed or left out.

"""


def group(code: str) -> str:
    """The key of `GROUPS` that a code belongs to."""
    return next(key for key in GROUPS if code.startswith(key))


def index() -> str:
    """The page that lists all codes, each with a link to its text."""
    out = HEAD
    for key, (file, title) in GROUPS.items():
        rows = "".join(
            f"| [{c}](codes/{file}.md#{c.lower()}) | {CODES[c].title} |\n" for c in sorted(CODES) if group(c) == key
        )
        out += f"## {title}\n\n| code | meaning |\n| --- | --- |\n{rows}\n" if rows else ""
    return out


def pages() -> dict[str, str]:
    """The page of each group by its path in the site, as Markdown."""
    out = {}
    for key, (file, title) in GROUPS.items():
        found = [code for code in sorted(CODES) if group(code) == key]
        if found:
            out[f"reference/codes/{file}.md"] = f"# {title}\n\n" + "".join(_text(code, CODES[code]) for code in found)
    return out


def _text(name: str, code: Code) -> str:
    out = f"## {name}\n\n**{code.title[:1].upper()}{code.title[1:]}.** {code.text}\n\n"
    if code.example:
        lexer, file = ("json", CONFIG) if is_config(code.example) else ("plan", "example.plan")
        out += f'```{lexer} title="{file}"\n{code.example.strip(chr(10))}\n```\n\n'
        if shown := said(name, code.example):
            out += f"```text\n{shown}\n```\n\n"
    return out + (f"What to do: {code.fix}\n\n" if code.fix else "")


def is_config(text: str) -> bool:
    """Whether an example is the config of a checkpoint, which a plan reads by `hf`."""
    return text.lstrip().startswith("{")


def said(name: str, text: str) -> str:
    """What planc says of an example under a code; empty where only a command can cause it."""
    if is_config(text):
        found = translate(text.encode(), CONFIG).found
        sources: Mapping[str, str] = {CONFIG: text}
    else:
        module = open_text(text, "example.plan")
        found, sources = check_module(module), module.sources
    return "\n\n".join(render_one(d, sources) for d in [d for d in found if d.code == name][:2])
