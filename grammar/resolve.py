"""From the text of a file to its resolved declarations: here each kind of declaration finds its reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.calibrations import calibration_spec
from plandsl.grammar.context import Context
from plandsl.grammar.engines import engine_spec
from plandsl.grammar.evaluate import Value
from plandsl.grammar.files import open_root
from plandsl.grammar.hardware import cluster_spec, gpu_spec, node_spec
from plandsl.grammar.models import model_spec
from plandsl.grammar.modules import Library, Unit, Wrong
from plandsl.grammar.plans import plan_spec
from plandsl.grammar.records import Record
from plandsl.grammar.sharding import sharding_spec
from plandsl.grammar.workloads import workload_spec
from plandsl.spec.hardware import CalibrationSpec, ClusterSpec, EngineSpec, GpuSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import PlanSpec, ShardingSpec, WorkloadSpec

if TYPE_CHECKING:
    from plandsl.spec.search import SearchSpec

Hardware = GpuSpec | NodeSpec | ClusterSpec | CalibrationSpec
Spec: TypeAlias = "ModelSpec | Hardware | EngineSpec | ShardingSpec | WorkloadSpec | PlanSpec | SearchSpec"

_MAKERS = {
    "model": model_spec,
    "gpu": gpu_spec,
    "node": node_spec,
    "cluster": cluster_spec,
    "calibration": calibration_spec,
    "engine": engine_spec,
    "sharding": sharding_spec,
    "plan": plan_spec,
}


class Module:
    """A root file; a declaration is resolved when it is first needed."""

    def __init__(self, root: Unit, context: Context, overrides: Sequence[tuple[str, str]]) -> None:
        self.root = root
        self._context = context
        self._overrides = overrides
        self._plans: dict[str, PlanSpec | None] = {}

    def again(self) -> Module:
        """The same files, with nothing resolved and nothing found yet; they are not parsed again."""
        library = self._context.library
        context = Context(library.texts, reads_files=library.reads_files)
        context.library.folder = library.folder
        context.library.sources |= {unit.file: unit.text for unit in self.root.everywhere()}
        return Module(self.root, context, self._overrides)

    @property
    def library(self) -> Library:
        """The names that its files declare, and those of the catalog."""
        return self._context.library

    @property
    def path(self) -> str:
        """The path of the root file, as diagnostics show it."""
        return self.root.file

    @property
    def end(self) -> Span:
        """The place after its last character."""
        line, column = self.root.text.count("\n") + 1, len(self.root.text) - self.root.text.rfind("\n")
        return Span(self.path, line, column, line, column + 1)

    @property
    def plans(self) -> list[str]:
        """The names of the plans, in the order of the file."""
        return list(self.root.declared["plan"])

    @property
    def searches(self) -> list[str]:
        """The names of the searches, in the order of the file."""
        return list(self.root.declared["search"])

    @property
    def declarations(self) -> list[s.Decl]:
        """The declarations of the root file, in order."""
        return self.root.declarations

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """All findings so far."""
        return self._context.report.found

    @property
    def errors(self) -> list[Diagnostic]:
        """The findings so far that are errors."""
        return self._context.report.errors

    @property
    def sources(self) -> dict[str, str]:
        """The text of every file that was read, by its name in diagnostics."""
        return self._context.library.sources

    def plan(self, name: str) -> PlanSpec | None:
        """The plan called ``name``; None if it is wrong, with diagnostics recorded."""
        if name not in self._plans:
            spec = self.spec("plan", name)
            self._plans[name] = spec if isinstance(spec, PlanSpec) else None
        return self._plans[name]

    def evaluate(self, value: s.Expr, unit: Unit, model: str = "") -> Value:
        """The value of an expression in ``unit``; names may be dimensions of ``model``. Raises `Wrong`."""
        found = self._context.library.find("model", model, unit) if model else None
        within = self._context.records.of_declaration(*found) if found else None
        return self._context.evaluator.value(value, unit, within)

    def spec(self, kind: str, name: str) -> Spec | None:
        """The declaration called ``name`` of kind ``kind``, in the root file, a used file or the catalog."""
        try:
            found = self._context.library.find(kind, name, self.root)
            if found is None:
                raise self._context.library.unknown_name(kind, name, None, self.root)
            return self._resolve(kind, self._context.records.of_declaration(*found))
        except Wrong as wrong:
            self._context.library.record(wrong)
        except RecursionError:
            self._too_deep()
        return None

    def check(self) -> None:
        """Resolve every declaration of the root file, so that all its mistakes are reported."""
        for name in self.root.lets:
            if self._enough:
                return
            self.check_let(name)
        for decl in self.declarations:
            if self._enough:
                return
            if decl.kind.text == "plan":
                self.plan(decl.name.text)
            else:
                self.spec(decl.kind.text, decl.name.text)

    @property
    def _enough(self) -> bool:
        """Whether further findings would not be shown, or take too long."""
        return len(self.errors) >= limits.MAX_ERRORS or self._context.library.exhausted

    def _resolve(self, kind: str, record: Record) -> Spec | None:
        context = self._context
        if kind in ("plan", "search") and self._overrides:
            from plandsl.grammar.overrides import override

            record = override(context, record, self._overrides, self.root)
        if kind == "plan":
            return plan_spec(context, record)
        if kind == "workload":
            return workload_spec(context, record, used=False)
        if kind == "search":
            from plandsl.grammar.searches import search_spec  # few files hold one

            return search_spec(context, record)
        return context.make(_MAKERS[kind], record)

    def check_let(self, name: str) -> None:
        """Evaluate the `let` called ``name`` of the root file, so that its mistakes are reported."""
        try:
            self._context.evaluator.check_let(self.root.lets[name], self.root)
        except Wrong as wrong:
            self._context.library.record(wrong)
        except RecursionError:
            self._too_deep()

    def _too_deep(self) -> None:
        self._context.report.add("E208", "the declarations of this file depend on one another too deeply", None)


def load(
    source: str | None,
    path: str | Path,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    texts: Mapping[Path, str] = MappingProxyType({}),
    reads_files: bool = True,
    tree: s.File | None = None,
) -> Module:
    """Read a file, or take ``source`` as its text, and the files it uses; nothing is resolved yet.

    ``texts`` are used files as somebody is writing them, by their paths with links followed; they are not read.
    Without ``reads_files``, whatever names a file in ``source`` gives a finding (E597). ``tree`` is that of ``source``,
    if it is known.
    """
    context = Context(texts, reads_files=reads_files)
    root = open_root(context.library, source, str(path), tree)
    return Module(root, context, overrides)
