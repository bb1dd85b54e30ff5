"""`planc passes`: the passes of the compiler."""

from __future__ import annotations

from argparse import Namespace

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json, print_text


def run_passes(arguments: Namespace) -> int:
    """`planc passes`."""
    from plandsl.driver import pass_lines

    lines = pass_lines()
    if arguments.json:
        print_json({"plandsl": __version__, "passes": [{"name": n, "does": d, "place": w} for n, d, w in lines]})
    else:
        width = max(len(n) for n, _, _ in lines)
        for name, does, why in lines:
            for first, text in ((name, does), ("", why)):
                print_text(f"{first:<{width}}  {text}\n", hang=0 if not first else width + 2)
    return OK
