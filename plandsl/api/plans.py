"""Plans and searches: what a `.plan` file may hold by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from plandsl.api.items import clauses, declared, ranges, sizes, uses
from plandsl.api.kinds import (
    PARTS,
    Calibration,
    Cluster,
    Engine,
    Gpu,
    Model,
    Node,
    Pool,
    Sharding,
    Transfer,
    Workload,
)
from plandsl.api.parts import Convert, Part
from plandsl.arguments import Arguments, guarded
from plandsl.grammar import plans, searches

if TYPE_CHECKING:
    from plandsl.answers.comparison import Comparison
    from plandsl.answers.difference import Difference
    from plandsl.answers.estimate import Estimate
    from plandsl.answers.explanation import Explanation
    from plandsl.answers.flows import Flows
    from plandsl.answers.rate import FoundRate
    from plandsl.api.searching import SearchAnswer
    from plandsl.backends.cost.answers.simulation import Run
    from plandsl.backends.cost.deployments.deployment import Metrics
    from plandsl.backends.graphviz.picture import Picture
    from plandsl.backends.reference import Verdict
    from plandsl.diagnostics import Diagnostic
    from plandsl.driver import BenchFiles, CompiledPlan
    from plandsl.ir.types import Number
    from plandsl.progress import Tick
    from plandsl.spec.plan import PlanSpec

_PLAN_PARTS: dict[str, type[Part]] = {**PARTS, "prefill": Pool, "decode": Pool, "transfer": Transfer}
"""The parts of a plan."""

_FILE: dict[str, Convert] = {"use": uses, "let": sizes, "declare": declared}
"""What stands in a file beside the declaration itself: ``use`` of files, ``let``, and parts that texts name."""


class Whole(Part):
    """What a file may hold by itself: a plan or a search. ``folder`` is where the paths in it start."""

    __slots__ = ("_folder",)

    def _fill(self, base: object, name: object, given: Mapping[str, Any]) -> None:
        super()._fill(base, self.kind if isinstance(name, str) and not name else name, given)

    def _remade(self, name: str, fields: Mapping[str, Any]) -> Self:
        return super()._remade(name, fields).in_folder(self.folder)

    @property
    def folder(self) -> str:
        """Where the paths in it start; empty for the working directory."""
        return getattr(self, "_folder", "")

    def in_folder(self, folder: str | PurePath) -> Self:
        """The same, with paths that start at ``folder``."""
        made = super()._remade(self.name, self.fields)
        object.__setattr__(made, "_folder", str(folder))
        return made

    @guarded
    def check(self) -> list[Diagnostic]:
        """All findings: errors, warnings and notes."""
        from plandsl.driver import check_module, open_text

        return check_module(open_text(str(self), self.file))

    @property
    def file(self) -> str:
        """The file name in its diagnostics: paths that it names start at its folder."""
        return str(Path(self.folder) / f"{self.name}.plan")


class Plan(Whole):
    """A plan, with everything that a `.plan` file can say:

    >>> from plandsl import Plan, Sharding, Workload
    >>> plan = Plan(model="llama_3_1_8b", node="h100_8", sharding=Sharding(tp=4, pp=2),
    ...             workload=Workload(input=1024, output=128, batch=8), require=["tpot <= 50 ms"])
    >>> print(plan)
    plan plan {
      model = llama_3_1_8b
      node = h100_8
      sharding { tp = 4, pp = 2 }
      workload { input = 1024, output = 128, batch = 8 }
      require tpot <= 50 ms
    }
    <BLANKLINE>

    ``Plan(first, ...)`` builds on another plan, as ``plan second = first with { ... }`` does in a file. ``require`` has
    requirements, ``use`` paths of other files, ``let`` names for values, and ``declare`` parts that texts name.
    """

    __slots__ = ("_made",)  # what it compiles to, once it was compiled
    kind = "plan"
    known = plans.PLAN
    parts = MappingProxyType(_PLAN_PARTS)
    special = MappingProxyType({"require": clauses("require"), **_FILE})

    @classmethod
    def read(cls, source: str | PurePath, name: str | None = None) -> Plan:
        """The plan that a file or a text holds; ``name`` is needed where it has several.

        Raises `PlanError` for everything that is wrong with it.
        """
        from plandsl.api.read import read_whole

        return read_whole(cls, source, name)

    @classmethod
    def of(cls, plan: CompiledPlan | PlanSpec) -> Plan:
        """A compiled plan with all that it uses written out: it needs no catalog and no other file."""
        from plandsl.driver import CompiledPlan
        from plandsl.show import show_plan
        from plandsl.spec.plan import PlanSpec

        given = Arguments("of", plan=plan).instance("plan", (CompiledPlan, PlanSpec), "a compiled plan")
        return cls.read(show_plan(given.spec if isinstance(given, CompiledPlan) else given))

    @guarded
    def compile(self) -> CompiledPlan:
        """The plan, compiled; once for each object. Raises `PlanError` with everything that is wrong."""
        from plandsl.api.functions import compile

        return compile(self)

    @guarded
    def estimate(self) -> Estimate:
        """As `CompiledPlan.estimate`."""
        return self.compile().estimate()

    @guarded
    def evaluate(
        self,
        batch: Number | None = None,
        input: Number | None = None,
        output: Number | None = None,
        concurrency: Number | None = None,
        requests: Number | None = None,
    ) -> Metrics:
        """As `CompiledPlan.evaluate`."""
        return self.compile().evaluate(batch, input, output, concurrency, requests)

    @guarded
    def explain(self) -> Explanation:
        """As `CompiledPlan.explain`."""
        return self.compile().explain()

    @guarded
    def diff(self, other: str | PurePath | Plan | CompiledPlan) -> Difference:
        """What ``other`` says that this plan does not, and what comes of it."""
        from plandsl.api.functions import diff

        return diff(self.compile(), other)

    @guarded
    def compare(self, benches: BenchFiles, *, fit: str | None = None, tick: Tick | None = None) -> Comparison:
        """As `CompiledPlan.compare`."""
        return self.compile().compare(benches, fit=fit, tick=tick)

    @guarded
    def simulate(self, requests: int | None = None, tick: Tick | None = None) -> Run:
        """As `CompiledPlan.simulate`."""
        return self.compile().simulate(requests, tick)

    @guarded
    def find_rate(self, requests: int | None = None, tick: Tick | None = None) -> FoundRate:
        """As `CompiledPlan.find_rate`."""
        return self.compile().find_rate(requests, tick)

    @guarded
    def flows(self) -> tuple[Flows, ...]:
        """As `CompiledPlan.flows`."""
        return self.compile().flows()

    @guarded
    def verify(self, steps: int = 3, seed: int = 0) -> Verdict:
        """As `CompiledPlan.verify`."""
        return self.compile().verify(steps, seed)

    @guarded
    def run(self, steps: int = 3, seed: int = 0) -> Verdict:
        """As `CompiledPlan.run`."""
        return self.compile().run(steps, seed)

    @guarded
    def draw(self, view: str = "devices", phase: str = "prefill") -> Picture:
        """As `CompiledPlan.draw`."""
        return self.compile().draw(view, phase)

    @guarded
    def search(self, top: int = 10) -> SearchAnswer:
        """The best degrees and batches for this plan: a search without `vary`."""
        from plandsl.api.functions import search

        return search(self, top=top)


class Search(Whole):
    """A search over plans: ``Search(plan=plan, vary={"tp": [1, 2, 4], "batch": "1..256 by * 2"},
    require=["tpot <= 50 ms"], goals="maximize throughput_per_gpu")``.

    Instead of ``plan`` it may have the fields of a plan. ``where`` has conditions, and the first of ``goals`` ranks.
    """

    __slots__ = ()
    kind = "search"
    known = searches.FIELDS
    parts = MappingProxyType({"plan": Plan, **_PLAN_PARTS})
    special = MappingProxyType(
        {
            "vary": ranges,
            "where": clauses("where"),
            "require": clauses("require"),
            "goals": clauses(""),
            **_FILE,
        }
    )

    @classmethod
    def read(cls, source: str | PurePath, name: str | None = None) -> Search:
        """The search that a file or a text holds; ``name`` is needed where it has several."""
        from plandsl.api.read import read_whole

        return read_whole(cls, source, name)

    @guarded
    def run(
        self, top: int = 10, simulate: int | None = None, requests: int | None = None, scheduler: str | None = None,
        tick: Tick | None = None,
    ) -> SearchAnswer:  # fmt: skip
        """Run the search (arguments as for `plandsl.search`)."""
        from plandsl.api.functions import search

        return search(self, top=top, simulate=simulate, requests=requests, scheduler=scheduler, tick=tick)


KINDS: dict[str, type[Part]] = {
    made.kind: made for made in (Model, Gpu, Node, Cluster, Calibration, Engine, Sharding, Workload, Plan, Search)
}
"""The parts that a file declares, by the word that declares them."""
