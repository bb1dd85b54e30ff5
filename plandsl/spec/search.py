"""A declared search: the fields that vary, conditions, requirements and goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from attrs import field, frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.spec.plan import PlanSpec, RequireSpec
from plandsl.values import FrozenValue

LOADS = ("batch", "input", "output", "concurrency", "requests")
"""Fields of a workload that a compiled plan takes as arrays."""

DEGREES = ("dp", "pp", "cp", "sp", "ep", "tp")
"""Fields of a sharding that size its axes, major first."""

Value: TypeAlias = "int | float | str"


class Setting(NamedTuple):
    """One value of a field: ``text`` in the language, and ``value``, in SI units if it is a number."""

    text: str
    value: Value
    expr: Any = None
    """The expression in the file, for the resolver."""


class Choice(NamedTuple):
    """A field that varies: ``name`` as it was written, ``path`` as ``--set`` takes it (``sharding.tp``)."""

    name: str
    path: str
    settings: tuple[Setting, ...]
    span: Span | None = None

    @property
    def load(self) -> str:
        """The argument of the cost model that this choice sets; empty if each value needs its own compiled plan."""
        section, _, name = self.path.partition(".")
        return name if section == "workload" and name in LOADS else ""


class Name(NamedTuple):
    """The name of a field that varies, in a condition."""

    name: str

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Its value."""
        return values[self.name]


class Constant(NamedTuple):
    """A value that does not vary, in a condition."""

    value: Any

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value."""
        return self.value


class Apply(NamedTuple):
    """An operator of `OPERATORS` and its operands."""

    op: str
    operands: tuple[Term, ...]

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value of the term, for numbers, words or arrays."""
        return OPERATORS[self.op](*(x(values) for x in self.operands))


Term: TypeAlias = "Name | Constant | Apply"


def _over(x: Any, y: Any) -> Any:
    if isinstance(y, int | float):
        return x / y if y else float("nan")  # with which no comparison holds
    return x / y


OPERATORS: dict[str, Callable[..., Any]] = {
    "not": lambda x: not x if isinstance(x, bool) else ~x,
    "negative": lambda x: -x,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": _over,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
}


class Condition(NamedTuple):
    """``where text``: the term ``holds`` evaluates the condition from the values of ``names``."""

    text: str
    names: frozenset[str]
    holds: Term
    span: Span | None = None


def metric_name(metric: str, percentile: float | None) -> str:
    """A metric, or a percentile of it, as the language writes it: ``ttft``, ``p99_9(ttft)``."""
    return metric if percentile is None else f"p{percentile:g}".replace(".", "_") + f"({metric})"


class Goal(NamedTuple):
    """``maximize metric`` (``most``) or ``minimize metric``; with a ``percentile``, this percentile over requests."""

    metric: str
    most: bool
    span: Span | None = None
    percentile: float | None = None

    @property
    def text(self) -> str:
        """The goal as the language writes it."""
        return f"{'maximize' if self.most else 'minimize'} {self.name}"

    @property
    def name(self) -> str:
        """The metric as the language writes it: ``ttft``, ``p99(ttft)``."""
        return metric_name(self.metric, self.percentile)

    @property
    def over_requests(self) -> bool:
        """Whether only requests over time have the metric."""
        return self.percentile is not None or self.metric == "goodput"


FRONT = (Goal("ttft", False), Goal("tpot", False), Goal("throughput_per_gpu", True), Goal("cost", False))
"""Metrics of the Pareto front, beside the goals that a search names."""

Combination: TypeAlias = "tuple[tuple[Choice, Setting], ...]"
"""Pairs of a choice and one of its values."""

Resolve: TypeAlias = "Callable[[Combination], tuple[PlanSpec | None, list[Diagnostic]]]"


@frozen(eq=False, repr=False, slots=False)
class SearchSpec(FrozenValue):
    """Everything that one search needs. ``resolve`` gives the plan of a combination, or None and the findings.

    ``write(name, combination)`` gives the text of the plan's declaration. ``gpus`` is the number of GPUs, which the
    product of degrees must not exceed; None if the number varies. ``priced``: all GPUs have a price. ``chosen``: the
    compiler chooses the requests in flight of some plans, so that each load is a plan of its own. ``over_requests``:
    plans have requests over time, or a goal or requirement is about single requests, so that the best are simulated.
    ``encodes``: nothing comes out of some plans, so that they have no TPOT.
    """

    name: str
    choices: tuple[Choice, ...]
    conditions: tuple[Condition, ...]
    requires: tuple[RequireSpec, ...]
    goals: tuple[Goal, ...]
    gpus: int | None
    resolve: Resolve = field(eq=False, repr=False)
    write: Callable[[str, Combination], str] = field(eq=False, repr=False)
    priced: bool = True
    chosen: bool = False
    over_requests: bool = False
    encodes: bool = False
    span: Span | None = field(default=None, eq=False)

    @property
    def all_goals(self) -> tuple[Goal, ...]:
        """The goals; the first one ranks the plans. Without goals: the greatest throughput per GPU."""
        return self.goals or (Goal("throughput_per_gpu", True),)

    @property
    def front_goals(self) -> tuple[Goal, ...]:
        """The metrics of the Pareto front: `FRONT` and the goals; cost only where GPUs differ and all have a price.

        With one kind of GPU the cost follows from the throughput per GPU.
        """
        unlike = any(c.path.split(".")[0] in ("node", "cluster") for c in self.choices)
        left_out = {*([] if unlike and self.priced else ["cost"]), *(["tpot"] if self.encodes else [])}
        usual = tuple(g for g in FRONT if g.metric not in left_out)
        named = {g.metric: g for g in (*usual, *(g._replace(span=None, percentile=None) for g in self.all_goals))}
        return tuple(named.values())

    @property
    def size(self) -> int:
        """The number of configurations, legal or not."""
        return count(self.choices)


def count(choices: Sequence[Choice]) -> int:
    """The number of combinations: the product of the numbers of settings."""
    total = 1
    for choice in choices:
        total *= len(choice.settings)
    return total
