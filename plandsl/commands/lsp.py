"""`planc lsp`: a language server for editors."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace

from plandsl.commands.console import OK
from plandsl.diagnostics import Diagnostic, PlanError

LOCAL = "127.0.0.1"
"""The only address that it listens on."""


def run_lsp(arguments: Namespace) -> int:
    """`planc lsp`: until the editor says that it is over, on standard input and output or on a port of this machine."""
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise PlanError([Diagnostic("E587", f"{arguments.port} is no port", hint="a port is from 1 to 65535")])
    try:
        from plandsl.lsp.server import make_server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("pygls", "lsprotocol", "cattrs"):
            raise
        why = f"a language server needs the package {error.name.partition('.')[0]}, which is not installed"
        raise PlanError([Diagnostic("E586", why, hint="pip install 'plandsl[lsp]'")]) from None
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR)
    server = make_server()
    if arguments.port is None:
        # the streams of the protocol are closed when the editor ends; whatever else is printed goes to standard error
        with os.fdopen(os.dup(0), "rb") as said, os.fdopen(os.dup(1), "wb") as heard:
            sys.stdout = sys.stderr
            server.start_io(said, heard)
        return OK
    try:
        server.start_tcp(LOCAL, arguments.port)
    except OSError as error:
        why = f"cannot listen on port {arguments.port}: {error.strerror}"
        raise PlanError([Diagnostic("E587", why, hint="choose another one, or leave --port out")]) from None
    return OK
