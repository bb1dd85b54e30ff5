"""Pictures of plans: DOT text that notebooks show as SVG."""

from __future__ import annotations

from pathlib import PurePath

from plandsl.arguments import Arguments
from plandsl.backends.graphviz.write import render, write
from plandsl.diagnostics import PlanError


class Picture(str):
    """A picture as DOT text. Notebooks show it; `save` writes it to a file, by its ending SVG, PNG, PDF or DOT."""

    __slots__ = ()

    def save(self, path: str | PurePath) -> None:
        """Write the picture to ``path``. Raises `PlanError` where that fails (E430, E431, E433, E434)."""
        given = Arguments("save", path=path).instance("path", (str, PurePath), "the path of a file")
        write(self, str(given))

    @property
    def svg(self) -> str:
        """The picture as SVG, drawn by Graphviz. Raises `PlanError` (E430, E434) where that fails."""
        text = render(self, "svg").decode()
        return text[max(text.find("<svg"), 0) :]

    def _repr_svg_(self) -> str | None:
        try:
            return self.svg
        except PlanError:  # without Graphviz a notebook shows the text
            return None

    def __repr__(self) -> str:
        return f"<Picture of {len(self.splitlines())} lines of DOT>"
