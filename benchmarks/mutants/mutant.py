"""A mutant, and the groups of modules that mutants are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "passes": ("passes", ()),
    "IR": ("plandsl/ir", ()),
    "cost": ("backends/cost", ("backends/cost/serving",)),
    "reference": ("backends/reference", ()),
    "simulator": ("backends/cost/serving", ()),
}
"""The folder of each group of modules, and the folders below it that do not belong to it."""

LEAST = 50
"""Mutants of each group that a sample has at least, if it has that many for all of them."""


class Mutant(NamedTuple):
    """A change of one file. ``line`` counts from 1; ``before`` and ``after`` are the lines that differ."""

    group: str
    file: str
    line: int
    operator: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """What the change is, whatever line it stands on."""
        return f"{self.file}: {self.before} => {self.after}"

    @property
    def module(self) -> str:
        """The name under which the file is imported."""
        dotted = self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return dotted if dotted.startswith("plandsl.") else f"plandsl.{dotted}"

    def diff(self) -> str:
        """The change as the lines of a diff."""
        old, new = (text.splitlines() for text in (self.before, self.after))
        lines = [f"{self.file}:{self.line}  {self.operator}", *(f"- {x}" for x in old), *(f"+ {x}" for x in new)]
        return "\n".join(lines)
