"""`planc init`: a small plan to start from."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.catalog import is_checkpoint
from plandsl.commands.console import OK, print_json, print_text
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.files import write_file


def run_init(arguments: Namespace) -> int:
    """`planc init`: a file that exists is left as it is."""
    from plandsl.starter import MODEL, NODE, starter

    path = arguments.file
    if Path(path).suffix != ".plan":
        raise PlanError(
            [Diagnostic("E400", f"`{path}` does not end in .plan", hint=f"planc init {Path(path).stem}.plan")]
        )
    if os.path.lexists(path):
        raise PlanError([Diagnostic("E405", f"{path} exists already", hint="name another file: planc init FILE")])
    model = _imported(arguments.model, path) if arguments.model else MODEL
    write_file(Path(path), starter(model, arguments.node or NODE, path))
    if arguments.json:
        print_json({"plandsl": __version__, "output": path})
    else:
        print_text(f"wrote {path}; now: planc compile {path}\n")
    return OK


def _imported(model: str, path: str) -> str:
    """The call that reads a config.json, a folder or a GGUF file in a plan at ``path``; any other model as it is."""
    if not is_checkpoint(model):
        return model
    beside = os.path.relpath(model, os.path.dirname(path) or ".").replace(os.sep, "/")
    return f'{"gguf" if model.endswith(".gguf") else "hf"}("{beside}")'
