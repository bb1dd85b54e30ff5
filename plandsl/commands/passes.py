"""`planc passes`: the passes of the compiler."""

from __future__ import annotations

import sys
from argparse import Namespace

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json


def run_passes(arguments: Namespace) -> int:
    """`planc passes`."""
    from plandsl.driver import pass_lines

    lines = pass_lines()
    if arguments.json:
        print_json({"plandsl": __version__, "passes": [{"name": n, "does": d, "place": w} for n, d, w in lines]})
    else:
        width = max(len(n) for n, _, _ in lines)
        for name, does, why in lines:
            sys.stdout.write(f"{name:<{width}}  {does}\n{'':<{width}}  {why}\n")
    return OK
