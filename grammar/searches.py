"""Reads searches: the fields that vary and their values, the conditions, and the plan of each combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from plandsl import limits
from plandsl.diagnostics import Diagnostic, Label, Report, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.evaluate import describe
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.plans import PLAN, plan_spec
from plandsl.grammar.records import Record, merge
from plandsl.grammar.requires import (
    METRICS,
    OVER_REQUESTS,
    OVER_TIME,
    TEXTS,
    read_metric,
    read_requirements,
    unknown_metric,
    without_output,
)
from plandsl.grammar.schema import Reader
from plandsl.grammar.sharding import EVERY_MODEL, SUGAR
from plandsl.grammar.unparse import declaration
from plandsl.spec import money as _money
from plandsl.spec.money import DRAWN, PAID, power_hint, power_missing
from plandsl.spec.plan import OF_OUTPUT, PlanSpec
from plandsl.spec.search import (
    Apply,
    Choice,
    Combination,
    Condition,
    Constant,
    Goal,
    Name,
    SearchSpec,
    Setting,
    Term,
)
from plandsl.units import NUMBER, Quantity

FIELDS = ("plan", *PLAN)
SHORT = {
    **{name: f"sharding.{name}" for name in SUGAR},
    **{name: f"workload.{name}" for name in ("input", "output", "batch", "in_flight", "concurrency", "requests")},
}
"""Short names of fields that may vary, and their full paths."""

GPUS = "gpus"
"""The number of GPUs that a plan uses: a goal, and a name in conditions."""

LARGEST_BATCH = 8192
"""A search without `vary` tries batches of powers of two up to this one."""


def search_spec(context: Context, record: Record) -> SearchSpec | None:
    """A search; each value of each field that varies is checked once."""
    reader = Reader(context, record, FIELDS)
    base = reader.attempt(lambda: _base(context, record))
    choices = _choices(reader)
    goals = _goals(reader)
    read_requirements(reader)
    conditions = tuple(_conditions(reader, choices))
    if not reader.ok or base is None:
        return None
    resolve = partial(_resolve, context, base)
    if choices:
        tried = _check_values(reader, choices, resolve)
    else:
        plan, found = resolve(())
        if plan is None:
            for finding in found:
                context.report.put(finding)
            return None
        tried, choices = {_kind_of(plan)}, _default_choices(plan)
    _check_goals(reader, goals, tried)
    if not reader.ok:
        return None
    plan, _ = resolve(tuple((c, c.settings[0]) for c in choices))
    gpus = plan.gpus if plan and not any(c.path.split(".")[0] in ("node", "cluster") for c in choices) else None
    clauses = plan.requires if plan else read_requirements(Reader(context, base, PLAN))
    write = partial(_plan_text, context, base)
    return SearchSpec(
        record.name,
        choices=choices,
        conditions=conditions,
        requires=clauses,
        goals=goals,
        gpus=gpus,
        resolve=resolve,
        write=write,
        priced=not any(kind.unpriced for kind in tried),
        chosen=any(kind.chosen for kind in tried),
        over_requests=any(g.over_requests for g in goals) or any(kind.over_requests for kind in tried),
        encodes=any(kind.encodes for kind in tried),
        span=record.span,
    )


def _default_choices(plan: PlanSpec) -> tuple[Choice, ...]:
    """The choices of a search without `vary`: degrees that split a dimension of the model, and batches."""
    dims = {*EVERY_MODEL, *(name for name, _ in plan.model.sizes)}
    sizes = tuple(Setting(str(n), n, _number(n)) for n in range(1, plan.gpus + 1) if plan.gpus % n == 0)
    choices = [
        Choice(name, SHORT[name], sizes)
        for name, sugar in SUGAR.items()
        if all(dims.intersection(names) for _, names, _ in sugar.rules)
    ]
    if not plan.workload.over_time and not plan.workload.chosen:
        powers = tuple(Setting(str(n), n, _number(n)) for n in (2**k for k in range(LARGEST_BATCH.bit_length())))
        choices.append(Choice("batch", SHORT["batch"], powers))
    return tuple(choices)


def _number(n: int) -> s.Num:
    return s.Num(n, None, None, Span("<search>", 1, 1, 1, 1))


def _base(context: Context, record: Record) -> Record:
    """The search as a record of a plan: the plan that it names, its own fields, and its requirements."""
    own = Record("plan", record.name, record.span, record.unit)
    own.fields = {name: layers for name, layers in record.fields.items() if name != "plan"}
    own.flawed = record.flawed
    for entry in record.entries:
        clause = not isinstance(entry, str) and isinstance(entry.item, s.Clause) and entry.item.word.text == "require"
        if clause or (isinstance(entry, str) and entry != "plan"):
            own.entries.append(entry)
    if "plan" not in record.fields:
        return own
    plan = context.records.section(record, "plan", "plan")
    return merge(plan, own).copy_as(record.name, record.span, record.unit) if plan else own


# ---- what varies


def _choices(reader: Reader) -> tuple[Choice, ...]:
    found: dict[str, Choice] = {}
    for placed in reader.record.items():
        if not isinstance(placed.item, s.Vary):
            continue
        for path, domain in placed.item.entries:
            choice = reader.attempt(partial(_choice, reader, path, domain, placed.unit))
            if choice is None:
                continue
            if before := found.get(choice.path):
                labels = (Label(before.span, "first given here"),) if before.span else ()
                reader.fail(Wrong("E202", f"`{choice.name}` varies twice", choice.span, labels=labels))
            found[choice.path] = choice
    return tuple(found.values())


def _choice(reader: Reader, path: s.Expr, domain: s.Expr, unit: Unit) -> Choice:
    names = _path(path)
    name = ".".join(names)
    full = SHORT.get(name, name)
    first = full.partition(".")[0]
    if first not in PLAN:
        from plandsl.grammar.near import own_path  # mistakes alone need it

        own = next((short for short, path in SHORT.items() if path == own_path(name)), own_path(name))
        hint = f"write `vary {own} in`" if own else reader.context.library.suggest(first, iter((*SHORT, *PLAN)))
        raise Wrong("E206", f"a plan has no field `{first}` that could vary", path.span, hint=hint)
    settings = tuple(_settings(reader, name, domain, unit))
    twice = next((a for i, a in enumerate(settings) if a.text in [b.text for b in settings[:i][-64:]]), None)
    if twice is not None:
        raise Wrong("E202", f"`{name}` takes the value `{twice.text}` twice", domain.span, hint="remove one of them")
    return Choice(name, full, settings, path.span)


def _path(expr: s.Expr) -> list[str]:
    names: list[str] = []
    while isinstance(expr, s.Dot):
        names.append(expr.name.text)
        expr = expr.base
    assert isinstance(expr, s.Ref), "the grammar admits names and dots"
    return [expr.name, *reversed(names)]


def _settings(reader: Reader, name: str, domain: s.Expr, unit: Unit) -> Iterator[Setting]:
    """The values of a list, or of a range."""
    if isinstance(domain, s.Range):
        yield from _range(reader, name, domain, unit)
    elif isinstance(domain, s.Seq):
        if not domain.items:
            raise Wrong("E210", f"the list of values for `{name}` is empty", domain.span, hint="`[1, 2, 4]`")
        for item in domain.items:
            yield _setting(reader, item, unit)
    else:
        raise Wrong("E210", "expected a list or a range", domain.span, hint="`[1, 2, 4]`, or `1..64 by * 2`")


def _setting(reader: Reader, item: s.Expr, unit: Unit) -> Setting:
    """A value of a list: a number, or a word such as a number format or the name of a declaration."""
    text = reader.context.library.text(item.span)
    word = isinstance(item, s.Ref) and not reader.context.library.find_let(item.name, unit)
    if word or isinstance(item, s.With | s.Call | s.Dot):
        return Setting(text, text, item)
    value = reader.context.evaluator.value(item, unit)
    if isinstance(value, Quantity):
        return Setting(text, value.value, item)
    if isinstance(value, tuple):
        raise Wrong("E210", "expected one value, found a list", item.span)
    return Setting(text, str(value), item)


def _range(reader: Reader, name: str, domain: s.Range, unit: Unit) -> Iterator[Setting]:
    """The values of ``a..b by * c``, ``a..b by + c``, or ``a..b`` in steps of one; ``b`` is one if a step gives it."""
    if domain.by == "":
        hint = "`1..64 by * 2` doubles, `1..9 by + 2` adds"
        raise Wrong("E210", "expected `*` or `+` after `by`", domain.span, hint=hint)
    low, high = (_end(reader, name, end, unit) for end in (domain.lo, domain.hi))
    product = domain.by == "*"
    step = Quantity(1)
    if domain.step is not None:
        found = reader.context.evaluator.value(domain.step, unit)
        if not isinstance(found, Quantity) or (product and found.dimension != NUMBER):
            raise Wrong("E210", "a step must be a number", domain.step.span)
        step = found
    wanted = NUMBER if product else low.dimension
    unitless = domain.step is None and low.dimension != NUMBER
    if high.dimension != low.dimension or step.dimension != wanted or unitless:
        hint = "`50 GB/s..400 GB/s by + 50 GB/s`"
        raise Wrong("E204", f"both ends of a range, and its step, must be {low.dimension}", domain.span, hint=hint)
    if high.value < low.value:
        why = f"the range ends below its start: {high.value:g} < {low.value:g}"
        raise Wrong("E214", why, domain.span, hint="a range goes from its least to its greatest value")
    if step.value <= (1 if product else 0) or (product and low.value <= 0):
        hint = "`1..64 by * 2`, `0..9 by + 3`"
        raise Wrong("E214", "with this step the range never ends", domain.span, hint=hint)
    values = list(_steps(low.value, high.value, step.value, product))
    if len(values) > limits.MAX_VALUES:
        why = f"`{name}` takes more than {limits.MAX_VALUES:,} values"
        raise Wrong("E214", why, domain.span, hint=limits.MAX_VALUES.hint("take a larger step"))
    scale, word = _unit(domain.lo, low)
    for value in values:
        number = value if scale == 1 else value / scale
        shown = f"{number:.12g}"
        text = f"{shown} {word}" if word else shown
        yield Setting(
            text, value, s.Num(int(shown) if shown.isdigit() else float(shown), word, domain.span, domain.span)
        )


def _steps(low: float, high: float, step: float, product: bool) -> Iterator[int | float]:
    for k in range(limits.MAX_VALUES + 1):
        value = low * step**k if product else low + step * k
        if value > high * (1 + 1e-12):
            return
        yield value


def _end(reader: Reader, name: str, expr: s.Expr, unit: Unit) -> Quantity:
    value = reader.context.evaluator.value(expr, unit)
    if isinstance(value, Quantity):
        return value
    raise Wrong("E210", f"the range of `{name}` must have numbers as its ends, found {describe(value)}", expr.span)


def _unit(expr: s.Expr, value: Quantity) -> tuple[float, str | None]:
    """The factor from the unit in which a range is written to SI, and the unit."""
    if value.dimension == NUMBER and not value.percent:
        return 1, None
    if not isinstance(expr, s.Num) or not expr.value:
        raise Wrong(
            "E210", "a range with units must start with a number and its unit", expr.span, hint="`50 GB/s..400 GB/s`"
        )
    return value.value / expr.value, expr.unit


# ---- conditions and goals


def _goals(reader: Reader) -> tuple[Goal, ...]:
    goals: dict[str, Goal] = {}
    for placed in reader.record.items():
        if isinstance(placed.item, s.Clause) and placed.item.word.text in ("maximize", "minimize"):
            goal = reader.attempt(partial(_goal, reader, placed.item))
            if goal and goal.name in goals:
                reader.fail(Wrong("E202", f"`{goal.name}` is a goal twice", placed.item.span))
            elif goal:
                goals[goal.name] = goal
    return tuple(goals.values())


def _goal(reader: Reader, clause: s.Clause) -> Goal:
    value, most = clause.value, clause.word.text == "maximize"
    asked = read_metric(value)
    if asked is not None:
        return Goal(asked.name, most, value.span, asked.percentile)
    if isinstance(value, s.Ref):
        raise unknown_metric(reader, value, (*METRICS, *OVER_REQUESTS))
    raise Wrong("E216", "expected a metric here", value.span, hint="such as `ttft`, `tpot`, `throughput` or `memory`")


class _Kind(NamedTuple):
    """What goals need to know of a plan: a GPU without a price, or an empty string; a power that is not known, or an
    empty string, by metric; a node whose overhead is not known, and one whose is; and what its load is.
    """

    unpriced: str
    powerless: str
    hosts: frozenset[tuple[str, bool]]
    chosen: bool
    over_time: bool
    over_requests: bool
    encodes: bool


def _kind_of(plan: PlanSpec) -> _Kind:
    unpriced = next(iter(_money.unpriced(plan)), "")
    lacks = _money.powerless(plan)
    known = frozenset((node.name, node.overhead is not None) for pool in plan.pools for node, _ in _money.hosts(pool))
    asked = plan.workload.traffic is not None or any(r.over_requests for r in plan.requires)
    powerless = f"{lacks[0]}.{lacks[1]}" if lacks else ""
    load = plan.workload
    return _Kind(
        unpriced,
        powerless,
        hosts=known,
        chosen=load.chosen,
        over_time=load.over_time,
        over_requests=asked,
        encodes=load.encodes,
    )


def _check_goals(reader: Reader, goals: tuple[Goal, ...], kinds: set[_Kind]) -> None:
    """Check that plans of these kinds have the metrics of goals: a cost, and percentiles or goodput."""
    unpriced = min((kind.unpriced for kind in kinds if kind.unpriced), default="")
    for goal in goals:
        if goal.metric in PAID and unpriced:
            hint = "give it one: `node = ... with { gpu { price = 2 USD/h } }`"
            reader.fail(Wrong("E309", f"the GPU `{unpriced}` has no price, so there is no cost", goal.span, hint=hint))
        if goal.metric in DRAWN:
            _check_power(reader, goal, kinds)
        if goal.metric in OF_OUTPUT and any(kind.encodes for kind in kinds):
            reader.fail(Wrong("E481", without_output(goal.metric), goal.span, hint=TEXTS))
        if goal.over_requests and not all(kind.over_time for kind in kinds):
            why = f"`{goal.name}` needs requests over time, and this load is one batch"
            reader.fail(Wrong("E216", why, goal.span, hint=OVER_TIME))


def _check_power(reader: Reader, goal: Goal, kinds: set[_Kind]) -> None:
    """Check that all plans have a power, and that all of them count the same parts of their nodes."""
    if powerless := min((kind.powerless for kind in kinds if kind.powerless), default=""):
        reader.fail(Wrong("E463", power_missing(*powerless.split(".")), goal.span, hint=power_hint(powerless)))
        return
    known: dict[bool, set[str]] = {True: set(), False: set()}
    for name, overhead in (host for kind in kinds for host in kind.hosts):
        known[overhead].add(name)
    if known[True] and known[False]:
        name = min(known[False])
        why = f"`{goal.name}` of `{name}` leaves out its hosts and fans, that of `{min(known[True])}` counts them"
        hint = f"give it a figure: `node = {name} with {{ overhead = 350 W }}`"
        reader.context.library.record(Wrong("W463", why, goal.span, hint=hint))


class _Scope(NamedTuple):
    """The scope of a condition: names that vary, with their first values, and the words among all values."""

    reader: Reader
    unit: Unit
    first: dict[str, Any]
    words: frozenset[str]


def _conditions(reader: Reader, choices: tuple[Choice, ...]) -> Iterator[Condition]:
    first = dict.fromkeys((*SHORT, GPUS), 1) | {c.name: c.settings[0].value for c in choices}
    words = frozenset(s.value for c in choices for s in c.settings if isinstance(s.value, str))
    for placed in reader.record.items():
        if isinstance(placed.item, s.Clause) and placed.item.word.text == "where":
            scope = _Scope(reader, placed.unit, first, words)
            made = reader.attempt(partial(_condition, scope, placed.item))
            if made is not None:
                yield made


def _condition(scope: _Scope, clause: s.Clause) -> Condition:
    """A `where` condition; it is evaluated once on first values, to check its types."""
    names: set[str] = set()
    holds = _term(scope, clause.value, names)
    if not isinstance(holds(scope.first), bool):
        hint = "`where tp * pp <= 8`"
        raise Wrong("E210", "a condition must be true or false", clause.value.span, hint=hint)
    text = scope.reader.context.library.text(clause.value.span)
    return Condition(text, frozenset(names), holds, clause.value.span)


def _term(scope: _Scope, expr: s.Expr, names: set[str]) -> Term:
    """An expression of a condition as a term; the names that vary in it are added to ``names``."""
    context = scope.reader.context
    if isinstance(expr, s.Ref | s.Dot) and (name := ".".join(_path(expr))) in scope.first:
        names.add(name)
        return Name(name)
    if isinstance(expr, s.Unary):
        return Apply("not" if expr.op == "not" else "negative", (_term(scope, expr.x, names),))
    if isinstance(expr, s.Binary) and expr.op != "@":
        inside: set[str] = set()
        a, b = (_term(scope, part, inside) for part in (expr.a, expr.b))
        if inside:
            names |= inside
            return _operator(expr, a, b, scope.first)
    if isinstance(expr, s.Ref) and not context.library.find_let(expr.name, scope.unit):
        if expr.name not in scope.words:
            hint = context.library.suggest(expr.name, iter(scope.first))
            why = f"`{expr.name}` is neither a field that varies, nor a value of such a field"
            raise Wrong("E201", why, expr.span, hint=hint)
        return Constant(expr.name)
    value = context.evaluator.value(expr, scope.unit)
    return Constant(value.value if isinstance(value, Quantity) else value)


def _operator(expr: s.Binary, a: Term, b: Term, first: Mapping[str, Any]) -> Term:
    """``a op b``; it is evaluated once on ``first`` values, to check its types."""
    sides = a(first), b(first)
    words = [isinstance(x, str) for x in sides]
    if expr.op in ("and", "or"):
        if not all(isinstance(x, bool) for x in sides):
            raise Wrong("E210", f"`{expr.op}` needs true or false on both sides", expr.span)
    elif words[0] != words[1] or (words[0] and expr.op not in ("==", "!=")):
        why = f"`{expr.op}` needs numbers on both sides; `==` and `!=` also compare words"
        raise Wrong("E210", why, expr.op_span)
    return Apply(expr.op, (a, b))


# ---- the plan of a combination


def _apply_combination(context: Context, base: Record, combination: Combination) -> Record:
    """``base`` with the values of a combination; a degree of 1 is left out unless ``base`` has this degree."""
    record = base
    for choice, setting in sorted(combination, key=lambda pair: pair[0].path.count(".")):
        names = choice.path.split(".")
        if (
            names[0] == "sharding"
            and names[-1] in SUGAR
            and setting.value == 1
            and not _has_degree(context, record, names)
        ):
            continue
        span = choice.span or setting.expr.span
        body = s.Body((s.Field(s.Name(names[-1], span), setting.expr, span),), span)
        for name in reversed(names[:-1]):
            body = s.Body((s.Section(s.Name(name, span), body, span),), span)
        record = merge(record, context.records.build("plan", s.Name(record.name, span), body, base.unit))
    return record


def _has_degree(context: Context, record: Record, names: list[str]) -> bool:
    section = context.records.section(record, "sharding", "sharding") if "sharding" in record.fields else None
    return section is not None and names[-1] in section.fields


def _resolve(context: Context, base: Record, combination: Combination) -> tuple[PlanSpec | None, list[Diagnostic]]:
    """The plan of a combination (None if it is wrong), and the findings about this plan alone."""
    library = context.library
    kept, context.report, steps = context.report, Report(), library.steps
    library.report = context.report
    try:
        return plan_spec(context, _apply_combination(context, base, combination)), context.report.found
    except Wrong as wrong:
        library.record(wrong)
        return None, context.report.found
    finally:
        context.report, library.report, library.steps = kept, kept, steps


FITTING = ("E219", "E220")
"""Errors of a sharding that does not fit a model. If models vary, they are not mistakes of the search."""


def _check_values(reader: Reader, choices: tuple[Choice, ...], resolve: Any) -> set[_Kind]:
    """Check that every value gives a valid plan: each is tried once, with the first values of the other choices.

    For a load, whose values are all numbers, only the first and the last value are tried. Gives the kinds of plans.
    """
    first = {c.path: (c, c.settings[0]) for c in choices}
    tried = {c: (c.settings[-1],) if c.load else c.settings[1:] for c in choices}
    tries = [first, *(first | {c.path: (c, setting)} for c, settings in tried.items() for setting in settings)]
    spared = FITTING if any(c.path.split(".")[0] == "model" for c in choices) else ()
    kinds: set[_Kind] = set()
    for combination in tries[: limits.MAX_VALUES]:
        plan, findings = resolve(tuple(combination.values()))
        if plan is not None:
            kinds.add(_kind_of(plan))
        for found in findings:
            if found.severity == "error" and found.code not in spared:
                reader.ok = False
                reader.context.report.put(found)
    return kinds


def _plan_text(context: Context, base: Record, name: str, combination: Combination) -> str:
    """The plan of a combination as text."""
    return declaration(context.library, _apply_combination(context, base, combination), name)
