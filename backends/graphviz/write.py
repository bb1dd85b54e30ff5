"""Writes DOT text to a file: the text itself, or a picture that Graphviz draws in a child process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from plandsl.diagnostics import Diagnostic, PlanError, clip
from plandsl.files import write_whole

SUFFIXES = (".svg", ".png", ".pdf", ".dot")
TIME_LIMIT = 30.0
"""Seconds that drawing may take."""

PNG_DPI = 144
"""Dots per inch of a PNG: twice 72, so that it stays sharp on a slide."""

PYGRAPHVIZ = """
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""


def _fail(code: str, message: str, hint: str = "") -> NoReturn:
    raise PlanError([Diagnostic(code, message, hint=hint)])


def write(dot: str, path: str | os.PathLike[str], limit: float = TIME_LIMIT) -> None:
    """Write ``dot`` to ``path`` in the format of its suffix. The file appears whole or not at all.

    Raises PlanError (E430..E434) where the picture cannot be drawn or written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        what = f"unknown picture format `{suffix}`" if suffix else f"`{target.name}` has no suffix"
        _fail("E431", what, f"end the file's name in {known}")
    with write_whole(target, "E433") as file:
        file.write(dot.encode() if suffix == ".dot" else render(dot, suffix[1:], limit))


def render(dot: str, form: str, limit: float = TIME_LIMIT) -> bytes:
    """``dot`` drawn as ``form`` (svg, png or pdf) by the program `dot`, or if it is missing by pygraphviz.

    Raises PlanError (E430, E434) if both are missing, if drawing fails, or if it takes longer than ``limit`` seconds.
    """
    if form == "png":
        dot = dot.replace("graph [", f"graph [dpi={PNG_DPI}, ", 1)
    try:
        drawn = _draw(dot.encode(), form, limit)
    except subprocess.TimeoutExpired:
        _fail("E434", f"drawing took longer than {limit:.0f} s")
    except subprocess.CalledProcessError as e:
        _fail("E434", f"drawing failed: {failure_reason(e)}")
    if not drawn:
        _fail("E434", f"Graphviz drew nothing: it may lack the format `{form}`")
    return _slim(drawn) if form == "svg" else drawn


def _slim(svg: bytes) -> bytes:
    """An SVG that says once, and not for each text, which fonts it is in, without comments and unused names."""
    family = re.search(rb' font-family="[^"]*"', svg)
    svg = re.sub(rb"<!--.*?-->\n?", b"", svg, flags=re.DOTALL)
    svg = re.sub(rb'<g id="(?:node|edge)\d+" class="(?:node|edge)">', b"<g>", svg)
    if family is not None:
        svg = svg.replace(family[0], b"").replace(b"<svg ", b"<svg" + family[0] + b" ", 1)
    return svg


def failure_reason(failed: subprocess.CalledProcessError) -> str:
    """The last error line that a failed program printed (warnings are skipped), else its signal or exit status."""
    lines = (failed.stderr or b"").decode(errors="replace").splitlines()
    words = [line.strip() for line in lines if line.strip() and "warning" not in line.lower()]
    if words:
        return clip(words[-1], 200)
    return f"signal {-failed.returncode}" if failed.returncode < 0 else f"exit status {failed.returncode}"


def _draw(data: bytes, form: str, limit: float) -> bytes:
    from graphviz.backend import ExecutableNotFound, dot_command, execute

    try:
        # the text has the layout `nop2`; `dot` only reads it
        done = execute.run_check(
            dot_command.command("dot", form), input=data, capture_output=True, quiet=True, timeout=limit
        )
        return bytes(done.stdout)
    except (ExecutableNotFound, PermissionError):
        pass
    if importlib.util.find_spec("pygraphviz") is None:
        _fail(
            "E430",
            "drawing needs the program `dot` or the package `pygraphviz`, and neither is installed",
            "install Graphviz, or `pip install 'plandsl[render]'`; a .dot file needs neither",
        )
    command = [sys.executable, "-c", PYGRAPHVIZ, form]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=limit).stdout
