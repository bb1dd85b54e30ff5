"""Completion of `planc` in shells: scripts that `make completions` writes, and `planc completion` prints."""

from __future__ import annotations

from importlib.resources import files

SCRIPTS = {"bash": "planc.bash", "zsh": "_planc", "fish": "planc.fish"}
"""Each shell, and the file with its script."""


def script(shell: str) -> str:
    """The script for a shell."""
    return (files(__name__) / SCRIPTS[shell]).read_text(encoding="utf-8")
