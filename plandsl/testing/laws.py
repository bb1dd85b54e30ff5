"""Laws that every compiled plan obeys, and laws of your own: `check` one plan, `run` a plan and its neighbours.

    from plandsl.testing import laws

    laws.check(plan, "sharded-equals-unsharded")
    laws.check(plan, my_law)
    print(laws.run(plan, draws=20))

A law is a plain function over a compiled plan. It is broken where it raises AssertionError or returns False; the first
paragraph of its docstring says what holds; it raises `DoesNotApply` where it says nothing about a plan. A plan that
breaks a law is reduced to a small one, as `.plan` text. Only neighbours need Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from plandsl.api.plans import Plan
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan
from plandsl.progress import Tick, silent
from plandsl.spec.plan import PlanSpec, ShardingSpec
from plandsl.testing.ask import Asked, ask
from plandsl.testing.checked import Checked
from plandsl.testing.compare import compiled
from plandsl.testing.failures import tell_failure
from plandsl.testing.inapplicable import DoesNotApply
from plandsl.testing.known import LAWS, NAMES, OF_COMPILER, Law, find_law, meaning_of, name_of
from plandsl.testing.outcomes import Breach, LawBroken, Outcome
from plandsl.testing.reduce import reduce_plan, short_text

__all__ = [
    "LAWS",
    "NAMES",
    "Breach",
    "Checked",
    "DoesNotApply",
    "Law",
    "LawBroken",
    "Outcome",
    "assert_law",
    "assert_laws",
    "check",
    "find_law",
    "meaning_of",
    "name_of",
    "run",
]

Named: TypeAlias = Law | str
"""A law, or its name."""

Subject: TypeAlias = CompiledPlan | Plan | PlanSpec | ShardingSpec | str
"""What laws are asked of: a plan, the text of one, the name of its file, or a sharding of a model on a machine."""


# ---- one plan


def check(
    subject: Subject, law: Named | Iterable[Named] | None = None, *, model: Any = None, node: Any = None
) -> tuple[Outcome, ...]:
    """Check a law, several or all on one plan. Raises `LawBroken`, an AssertionError, at the first that is broken.

    ``subject`` may be a sharding: then ``model`` and ``node`` say of what, each as the strategies take it. The result
    says of each law whether it applies, and what it was asked of. Raises `PlanError` where a law is unknown (E453), or
    the subject is no plan (E454).
    """
    found = []
    for plan in _plans(subject, model, node):
        for one in _laws(law):
            try:
                asked = ask(one, plan)
            except Exception as error:
                raise _broken(one, plan, error) from None
            found.append(_outcome(one, asked))
    return tuple(found)


def _plans(subject: Subject, model: Any, node: Any) -> list[CompiledPlan]:
    from plandsl.driver import compile_file, compile_text

    if isinstance(subject, ShardingSpec):
        from plandsl.testing.parts import plan_of

        return [compiled(plan_of(subject, model, node))]
    if isinstance(subject, str):
        return compile_file(subject) if subject.endswith(".plan") else compile_text(subject)
    if isinstance(subject, PlanSpec):
        return [compiled(subject)]
    if isinstance(subject, CompiledPlan | Plan):
        return [subject if isinstance(subject, CompiledPlan) else subject.compile()]
    why = f"a law is asked of a plan, not of {type(subject).__name__}"
    hint = "give a Plan, a compiled plan, a PlanSpec, `.plan` text, or a sharding with model= and node="
    raise PlanError([Diagnostic("E454", why, hint=hint)])


def _laws(law: Named | Iterable[Named] | None) -> Sequence[Law]:
    named = LAWS if law is None else (law,) if isinstance(law, str) or callable(law) else tuple(law)
    return [find_law(one) if isinstance(one, str) else one for one in named]


def _broken(law: Law, plan: CompiledPlan, error: Exception) -> LawBroken:
    return LawBroken(name_of(law), meaning_of(law), lambda: _breach(law, plan, error))


def _outcome(law: Law, asked: Asked) -> Outcome:
    return Outcome(name_of(law), meaning_of(law), asked.how, asked.why_not)


def _breach(law: Law, plan: CompiledPlan, error: Exception, home: CompiledPlan | None = None, file: str = "") -> Breach:
    """How ``plan`` breaks a law: it is reduced, and what fails is told of the smallest plan that breaks it.

    ``home`` is the plan whose neighbour it is; ``file`` the file of that plan.
    """
    kind, last = type(error), {plan.spec: error}

    def breaks(tried: CompiledPlan) -> bool:
        try:
            ask(law, tried)
        except Exception as again:
            last[tried.spec] = again
            return isinstance(again, kind)
        return False

    small = reduce_plan(plan.spec, breaks)
    failure = tell_failure(last.get(small, error))
    changed = () if home is None else _differences(home.spec, plan.spec)
    return Breach(failure.expected or meaning_of(law), failure.found, short_text(small, file or "<text>"), changed)


def _differences(home: PlanSpec, other: PlanSpec) -> tuple[str, ...]:
    from plandsl.fields import changes

    return tuple(f"{change.path} = {change.after}" for change in changes(home, other) if change.after is not None)


# ---- a plan and its neighbours


def run(
    plan: CompiledPlan | Plan | PlanSpec,
    law: Named | Iterable[Named] | None = None,
    *,
    draws: int = 0,
    seed: int = 0,
    file: str = "",
    tick: Tick = silent,
) -> Checked:
    """Check laws on a plan and on up to ``draws`` neighbours of it, drawn from ``seed``; nothing is raised.

    Neighbours have other degrees on the same machine, and other loads. They are asked for laws about deployments, and
    for laws about the compiler only where ``law`` names them. Raises `PlanError` as `check` does, and where neighbours
    are asked for without Hypothesis (E455).
    """
    made = compiled(plan) if isinstance(plan, PlanSpec) else plan.compile() if isinstance(plan, Plan) else plan
    laws, named = _laws(law), law is not None
    near = draw_neighbours(made, draws, seed) if draws else []
    outcomes = []
    for at, one in enumerate(laws):
        outcomes.append(_ask_all(one, made, near if named or one not in OF_COMPILER else [], file))
        tick(at + 1, len(laws))
    return Checked(made.name, tuple(outcomes), len(near), seed)


def _ask_all(law: Law, plan: CompiledPlan, near: Sequence[CompiledPlan], file: str) -> Outcome:
    """Ask a plan, and then its neighbours until one breaks the law."""
    try:
        found = _outcome(law, ask(law, plan))
    except Exception as error:
        return Outcome(name_of(law), meaning_of(law), broken=_breach(law, plan, error, file=file))
    asked = kept = 0
    for other in near:
        asked += 1
        try:
            kept += not ask(law, other).why_not
        except Exception as error:
            return found._replace(neighbours=asked, kept=kept, broken=_breach(law, other, error, plan, file))
    return found._replace(neighbours=asked, kept=kept)


def draw_neighbours(plan: CompiledPlan, draws: int, seed: int) -> list[CompiledPlan]:
    """At most ``draws`` different neighbours. Raises `PlanError` (E455) where Hypothesis is missing."""
    find_hypothesis()
    import hypothesis

    from plandsl.testing.neighbours import neighbours

    found: dict[PlanSpec, None] = {}
    quiet = list(hypothesis.HealthCheck)

    def collect(spec: PlanSpec) -> None:
        found[spec] = None

    drawn: Callable[[], None] = hypothesis.given(neighbours(plan))(collect)
    only = hypothesis.settings(
        max_examples=3 * draws, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=quiet,
    )  # fmt: skip
    hypothesis.seed(seed)(only(drawn))()
    return [compiled(spec) for spec in found if spec != plan.spec][:draws]


def find_hypothesis() -> None:
    """Raises `PlanError` (E455) where Hypothesis is missing, by which neighbours are drawn."""
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError as missing:
        hint = "pip install 'plandsl[testing]', or --draws 0 for the laws of the plan itself"
        why = "neighbours of a plan are drawn by Hypothesis, which is not installed"
        raise PlanError([Diagnostic("E455", why, hint=hint)]) from missing


# ---- laws as plain assertions


def assert_laws(plan: CompiledPlan) -> None:
    """Check every law that applies to ``plan``."""
    for law in LAWS:
        assert_law(law, plan)


def assert_law(law: Law, plan: CompiledPlan) -> None:
    """Check a law, and raise what it raises, with the law as a note. Passes where the law does not apply."""
    try:
        ask(law, plan)
    except AssertionError as broken:
        broken.add_note(f"the law: {law.__doc__}")
        raise
