"""The cell magic `%%plan` of IPython and Jupyter: `%load_ext plandsl` loads it."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from plandsl.api.searching import run_search
from plandsl.arguments import Arguments
from plandsl.backends.graphviz import VIEWS
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, compile_module, open_text
from plandsl.grammar.resolve import Module
from plandsl.ir.program import PHASES

FILE = "cell.plan"
"""The file name of a cell in diagnostics: the paths that it names start at the working directory."""

USAGE = "%%plan [--view VIEW] [--phase PHASE] [--no-picture]"


def load(shell: Any) -> None:
    """Register the magic."""

    def plan(line: str, cell: str) -> None:
        """`%%plan`: compile the plans of a cell, show their reports and pictures, and name them as variables.

        Searches run, and their answers are variables too. `--view` and `--phase` choose the picture.
        """
        run_cell(shell, line, cell)

    shell.register_magic_function(plan, "cell", "plan")


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Compile the plans of ``cell`` and run its searches; each is shown, and bound to its name in the shell.

    Raises `PlanError`, which IPython prints as text with carets, without a traceback.
    """
    options, module = _options(line), open_text(cell, FILE)
    plans = compile_module(module) if module.plans or not module.searches else []
    for plan in plans:
        shell.user_ns[plan.name] = plan
        _show(plan)
        if options.picture:
            _show(plan.draw(options.view, options.phase))
    for name in module.searches:
        shell.user_ns[name] = answer = _search(module, name)
        _show(answer)


def _search(module: Module, name: str) -> Any:
    call = Arguments("search", name=name, top=10, simulate=None, requests=None)
    return run_search(call, module, name, None, None)


def _show(value: Any) -> None:
    """Show a value as a notebook does, and in a terminal its report."""
    from IPython import get_ipython
    from IPython.display import display

    if type(get_ipython()).__name__ != "TerminalInteractiveShell":
        display(value)
    elif isinstance(value, CompiledPlan) or hasattr(value, "__rich__"):
        from rich.console import Console

        Console(highlight=False).print(value)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are diagnostics."""

    def error(self, message: str) -> NoReturn:
        """Raise `PlanError` (E400)."""
        raise PlanError([Diagnostic("E400", f"%%plan: {message}", hint=USAGE)])


def _options(line: str) -> argparse.Namespace:
    parser = _Parser(prog="%%plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--view", choices=tuple(VIEWS), default="devices")
    parser.add_argument("--phase", choices=PHASES, default="prefill")
    parser.add_argument("--no-picture", dest="picture", action="store_false")
    return parser.parse_args(line.split())
