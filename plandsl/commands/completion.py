"""`planc completion`: the scripts that complete planc's commands in shells."""

from __future__ import annotations

import sys
from argparse import Namespace

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json


def run_completion(arguments: Namespace) -> int:
    """`planc completion`."""
    from plandsl.completion import script

    text = script(arguments.shell)
    if arguments.json:
        print_json({"plandsl": __version__, "shell": arguments.shell, "script": text})
    else:
        sys.stdout.write(text)
    return OK
