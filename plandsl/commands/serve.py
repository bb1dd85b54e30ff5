"""`planc serve`: the playground, a page with an editor and estimates, served to this machine."""

from __future__ import annotations

import sys
from argparse import Namespace
from math import isfinite
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, print_json, print_text
from plandsl.commands.findings import print_diagnostics
from plandsl.commands.sources import read_source
from plandsl.diagnostics import Diagnostic, PlanError

if TYPE_CHECKING:
    import socket

PORT = 8765
"""The first port that is tried where none is named."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

LONGEST = 1e9
"""Most seconds that an option takes, some thirty years."""


def run_serve(arguments: Namespace) -> int:
    """`planc serve`."""
    _check(arguments)
    text = read_source(arguments.file) if arguments.file is not None else None
    try:
        from plandsl.backends.serve.limits import LIMITS
        from plandsl.backends.serve.server import FREE_PORTS, Ends, listen, serve
    except ImportError as error:
        raise PlanError([_lacking(error)]) from error
    from plandsl.playground.answers import KINDS, answer
    from plandsl.playground.link import fragment

    tries = FREE_PORTS if arguments.port is None else 1
    opened = listen(arguments.host, PORT if arguments.port is None else arguments.port, tries)
    if arguments.host not in LOOPBACK:
        print_diagnostics([_open_to_others(arguments.host)], {})
    more = "" if text is None else fragment(text)
    serve(
        opened,
        arguments.host,
        answer,
        KINDS,
        loaded=("plandsl.playground.warm",),
        ends=Ends(arguments.seconds, arguments.idle),
        limits=LIMITS if arguments.limit is None else LIMITS._replace(seconds=arguments.limit),
        log=_log,
        ready=lambda: _say_ready(arguments, opened, more),
    )
    if not arguments.json:
        print_text("stopped\n")
    return OK


def _check(arguments: Namespace) -> None:
    """Raise `PlanError` (E400) for numbers that mean nothing."""
    if arguments.port is not None and not 0 <= arguments.port <= 65_535:
        raise PlanError([Diagnostic("E400", f"--port must be from 0 to 65535, found {arguments.port}")])
    times = (("--for", arguments.seconds), ("--idle", arguments.idle), ("--limit", arguments.limit))
    for option, value in times:
        if value is not None and not (isfinite(value) and 0 < value <= LONGEST):
            hint = f"for example {option} {5 if option == '--limit' else 600}"
            raise PlanError([Diagnostic("E400", f"{option} takes seconds above 0, found {value:g}", hint=hint)])


def _lacking(error: ImportError) -> Diagnostic:
    if sys.platform == "win32":
        return Diagnostic("E595", "the playground does not run on Windows", hint="run planc in WSL")
    missing = (error.name or "a library").partition(".")[0]
    return Diagnostic("E595", f"the playground needs {missing}", hint="pip install 'plandsl[serve]'")


def _open_to_others(host: str) -> Diagnostic:
    why = f"everybody who reaches {host} can use this server, without a password and without encryption"
    return Diagnostic("W555", why, hint="leave --host out, and reach this machine by `ssh -L 8765:localhost:8765`")


def _say_ready(arguments: Namespace, opened: socket.socket, more: str) -> None:
    from plandsl.backends.serve.server import address_of

    address = address_of(opened, arguments.host) + more
    if arguments.json:
        print_json({"plandsl": __version__, "address": address})
    else:
        print_text(f"playground: {address}\nCtrl-C stops it\n", hang=0)
    sys.stdout.flush()
    if arguments.open:
        import webbrowser

        webbrowser.open(address)


def _log(text: str) -> None:
    """What the owner of the server should see: a mistake of the compiler, which the browser is not told."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
