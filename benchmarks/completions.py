"""Write the scripts of `plandsl/completion` from the parser of the command line: `python -m benchmarks.completions`.

shtab writes them (it comes with the extra `dev`); a user needs no more than the scripts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from plandsl.cli import VERBS, parser
from plandsl.completion import SCRIPTS
from plandsl.grammar.catalog import kinds

TARGET = Path(__file__).resolve().parent.parent / "plandsl" / "completion"

PATHS = ("FILE", "FILE|CODE", "FILE[:PLAN]", "OUT", "DATA", "BENCH")
"""What the help calls the name of a file or a folder."""


def scripts() -> dict[str, str]:
    """The script of each shell."""
    import shtab

    made = parser(VERBS)
    _name_files(made, shtab.FILE)
    return {shell: shtab.complete(made, shell) for shell in SCRIPTS}


def _name_files(made: argparse.ArgumentParser, file: object) -> None:
    """Let arguments that name files be completed by files, and kinds of the catalog by their names."""
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _name_files(verb, file)
        elif action.metavar in PATHS:
            action.complete = file  # type: ignore[attr-defined]  # shtab reads it
        elif action.metavar == "KIND":
            action.choices = kinds()


def main() -> None:
    """Write all of them."""
    for shell, text in scripts().items():
        (TARGET / SCRIPTS[shell]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
