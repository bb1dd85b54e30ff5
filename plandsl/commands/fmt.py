"""`planc fmt`: files in canonical form."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.console import FAILED, OK, print_json, print_text
from plandsl.commands.sources import read_source
from plandsl.files import write_file


def run_fmt(arguments: Namespace) -> int:
    """`planc fmt`: files are written only when all of them parse."""
    from plandsl.grammar.fmt import format_text

    texts = {path: read_source(path) for path in arguments.files}
    formatted = {path: format_text(text, path) for path, text in texts.items()}
    changed = [path for path in texts if texts[path] != formatted[path]]
    if "-" in formatted and not arguments.check:
        sys.stdout.write(formatted["-"])
        return OK
    if not arguments.check:
        for path in changed:
            write_file(Path(path), formatted[path])
    if arguments.json:
        print_json({"plandsl": __version__, "changed": changed})
    else:
        word = "would change" if arguments.check else "formatted"
        print_text("".join(f"{word} {path}\n" for path in changed))
    return FAILED if arguments.check and changed else OK
