"""Plans and their parts, by the kinds that a `.plan` file has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from plandsl.api.parts import Convert, Part, Section, _Given, clauses, expression, items, ordered_section, sizes
from plandsl.api.texts import item_text
from plandsl.arguments import Arguments, guarded
from plandsl.expressions import quote, write_value
from plandsl.grammar import engines, hardware, plans, searches, sharding, shift, speculate, split, traffic, workloads
from plandsl.grammar import syntax as s

if TYPE_CHECKING:
    from plandsl.answers.difference import Difference
    from plandsl.answers.estimate import Estimate
    from plandsl.answers.explanation import Explanation
    from plandsl.answers.rate import FoundRate
    from plandsl.api.searching import SearchAnswer
    from plandsl.backends.cost.answers.simulation import Run
    from plandsl.backends.cost.deployments.deployment import Metrics
    from plandsl.backends.graphviz.picture import Picture
    from plandsl.backends.reference import Verdict
    from plandsl.diagnostics import Diagnostic
    from plandsl.driver import CompiledPlan
    from plandsl.ir.types import Number
    from plandsl.progress import Tick
    from plandsl.spec.plan import PlanSpec

ASSUMED = ("assumed",)
RULES = (s.Rule, s.Region, s.Place, s.Field)
"""What may stand among the rules of a sharding; a field is a degree whose place among them matters."""


class Calibration(Part):
    """Constants of a GPU's kernels: ``Calibration("h100_sxm", ...)``."""

    __slots__ = ()
    kind = "calibration"


class Gpu(Part):
    """A GPU: ``Gpu("h100_sxm", memory="96 GB")``."""

    __slots__ = ()
    kind = "gpu"
    known = (*hardware.GPU, *ASSUMED)
    parts = MappingProxyType({"calibration": Calibration})


class Link(Part):
    """The links between the GPUs of a node: ``Link(topology="switch", bandwidth="450 GB/s", latency="2 us")``."""

    __slots__ = ()
    kind = "link"
    known = hardware.LINK


class Network(Part):
    """The network between the nodes of a cluster."""

    __slots__ = ()
    kind = "network"
    known = hardware.NETWORK


class Node(Part):
    """A node: ``Node(gpu="h100_sxm", count=8, link=Link(...))``, or with unlike GPUs ``gpus=["4 * h100_sxm", ...]``."""

    __slots__ = ()
    kind = "node"
    known = (*hardware.NODE, *ASSUMED)
    parts = MappingProxyType({"gpu": Gpu, "link": Link})


class Cluster(Part):
    """Several nodes: ``Cluster(node="h100_8", count=4, network=Network(...))``."""

    __slots__ = ()
    kind = "cluster"
    known = (*hardware.CLUSTER, *ASSUMED)
    parts = MappingProxyType({"node": Node, "network": Network})


class Model(Part):
    """A model: ``Model("llama_3_1_70b", weights="fp8")``, or one of your own, whose other fields are its dimensions.

    ``embedding`` and ``head`` are expressions, ``blocks`` the texts of blocks and of `mtp`, all as in a file.
    """

    __slots__ = ()
    kind = "model"
    ordered = True
    special = MappingProxyType(
        {
            "embedding": expression("embedding"),
            "blocks": items(s.Block, s.Mtp, expected="the text of a `block` or of `mtp`"),
            "head": expression("head"),
        }
    )


class Engine(Part):
    """A serving engine: ``Engine("vllm", max_requests=512)``."""

    __slots__ = ()
    kind = "engine"
    known = (*engines.ENGINE, *ASSUMED)


class Sharding(Part):
    """How a model is split: by degrees, ``Sharding(tp=4, pp=2)``, or by a ``mesh`` and ``rules``.

    ``Sharding(mesh={"a": 4}, rules=["heads, ffn -> a", "place a in node", "in attention { tokens -> a }"])``. As in a
    file, the first rule wins: the order of degrees and rules has a meaning.
    """

    __slots__ = ()
    kind = "sharding"
    known = sharding.KNOWN
    ordered = True
    special = MappingProxyType(
        {
            "mesh": sizes,
            "rules": items(s.Rule, s.Region, s.Place, s.Field, expected="a rule such as `heads, ffn -> tensor`"),
        }
    )


class Sessions(Part):
    """Conversations of several turns: ``Sessions(turns="uniform(2, 6)", think="exponential(30 s)", system=200)``."""

    __slots__ = ()
    kind = "sessions"
    known = ("turns", "think", "system")


class RequestClass(Part):
    """One of several kinds of requests, with its share of the arrivals or a rate of its own."""

    __slots__ = ()
    kind = "class"
    known = traffic.CLASS
    parts = MappingProxyType({"sessions": Sessions})
    special = MappingProxyType({"require": clauses("require")})


def _classes(part: Part, key: str, given: _Given) -> Section:
    made = {}
    for name, value in given.mapping().items():
        if not isinstance(value, RequestClass | Mapping):
            raise given.call.wrong(key, "a mapping of names to RequestClass(...)")
        made[name] = value if isinstance(value, RequestClass) else RequestClass(**value)
    return ordered_section(made)


class Workload(Part):
    """A load: a batch, requests always in flight (``concurrency``), or requests over time (``rate``, ``trace``).

    ``Workload(input=1024, output=128, batch=8)``, ``Workload(input="lognormal(mean = 900, p95 = 3000)", output=200,
    rate="12 req/s")``; ``classes`` maps names to `RequestClass`.
    """

    __slots__ = ()
    kind = "workload"
    known = (*workloads.STATIC, "requests", *workloads.PREFIX, *workloads.TRAFFIC)
    parts = MappingProxyType({"sessions": Sessions})
    special = MappingProxyType({"classes": _classes})


class Shift(Part):
    """A second sharding for small steps: ``Shift(tensor=Sharding(tp=8), threshold=256)``; ``base`` is by keyword."""

    __slots__ = ()
    kind = "shift"
    known = shift.SHIFT
    parts = MappingProxyType({"base": Sharding, "tensor": Sharding})

    @guarded
    def __init__(self, **fields: Any) -> None:
        self._fill(None, "", fields)


class Speculate(Part):
    """Tokens guessed ahead: ``Speculate(draft="llama_3_2_1b", tokens=3, acceptance="80 %")``."""

    __slots__ = ()
    kind = "speculate"
    known = speculate.SPECULATE
    parts = MappingProxyType({"draft": Model, "sharding": Sharding})


class Transfer(Part):
    """The link between two pools: ``Transfer(bandwidth="50 GB/s", latency="10 us")``."""

    __slots__ = ()
    kind = "transfer"
    known = ("bandwidth", "latency")


_PARTS: dict[str, type[Part]] = {
    "model": Model,
    "node": Node,
    "cluster": Cluster,
    "sharding": Sharding,
    "workload": Workload,
    "calibration": Calibration,
    "engine": Engine,
    "shift": Shift,
    "speculate": Speculate,
}


class Pool(Part):
    """The fields of a plan for one of two pools: ``prefill=Pool(node="h100_8", sharding=Sharding(tp=4, dp=2))``."""

    __slots__ = ()
    kind = "pool"
    known = split.POOL
    parts = _PARTS


def _uses(part: Part, key: str, given: _Given) -> tuple[str, ...]:
    texts = [given.value] if isinstance(given.value, str | PurePath) else given.value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str | PurePath) for text in texts):
        raise given.call.wrong(key, "the path of a file, or a list of paths")
    quoted = [quote(str(text).strip('"')) for text in texts]
    if None in quoted:
        raise given.call.wrong(key, "the path of a file, or a list of paths")
    return tuple(text for text in quoted if text is not None)


def _declared(part: Part, key: str, given: _Given) -> tuple[Part, ...]:
    parts = [given.value] if isinstance(given.value, Part) else given.value
    if not isinstance(parts, Sequence) or not all(isinstance(one, Part) and one.name for one in parts):
        raise given.call.wrong(key, "parts with a name", hint='declare=[Gpu("h100_sxm", name="mine", memory="96 GB")]')
    return tuple(parts)


def _ranges(part: Part, key: str, given: _Given) -> Section:
    """The values of each field that varies, by its path."""
    made = {}
    for path, domain in given.mapping().items():
        text = domain if isinstance(domain, str) else write_value(domain)
        if text is None:
            raise given.call.wrong(
                key, 'a mapping of paths to values, such as {"tp": [1, 2, 4], "batch": "1..64 by * 2"}'
            )
        head = f"vary {path} in "
        made[path] = item_text(given.call, key, head + text).removeprefix(head)
    return ordered_section(made)


_FILE: dict[str, Convert] = {"use": _uses, "let": sizes, "declare": _declared}
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
    parts = MappingProxyType({**_PARTS, "prefill": Pool, "decode": Pool, "transfer": Transfer})
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
    def simulate(self, requests: int | None = None, tick: Tick | None = None) -> Run:
        """As `CompiledPlan.simulate`."""
        return self.compile().simulate(requests, tick)

    @guarded
    def find_rate(self, requests: int | None = None, tick: Tick | None = None) -> FoundRate:
        """As `CompiledPlan.find_rate`."""
        return self.compile().find_rate(requests, tick)

    @guarded
    def verify(self, steps: int = 3, seed: int = 0) -> Verdict:
        """As `CompiledPlan.verify`."""
        return self.compile().verify(steps, seed)

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
    parts = MappingProxyType({"plan": Plan, **_PARTS, "prefill": Pool, "decode": Pool, "transfer": Transfer})
    special = MappingProxyType(
        {
            "vary": _ranges,
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
