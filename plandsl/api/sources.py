"""What functions take as a plan: a `Plan`, a compiled plan, the path of a file, or a text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, SupportsIndex, TypeAlias, overload

from plandsl.api.plans import Plan, Search, Whole
from plandsl.arguments import Arguments, Overrides, show_value
from plandsl.columns import Table
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import CompiledPlan, compile_module, open_file, open_text
from plandsl.grammar.resolve import Module
from plandsl.shown import Printed, report_html

Source: TypeAlias = "str | PurePath | Plan | CompiledPlan"
"""A plan. A string with a brace or several lines is the text of a plan, any other one the path of a file."""

EXPECTED = "a Plan, a compiled plan, a path or the text of a plan"


class Plans(tuple[CompiledPlan, ...]):
    """All plans of a file, compiled: ``plans["hybrid"]`` is one of them."""

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the plans, in the order of the file."""
        return tuple(plan.name for plan in self)

    @overload  # type: ignore[override]
    def __getitem__(self, key: int | str) -> CompiledPlan: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[CompiledPlan, ...]: ...
    def __getitem__(self, key: Any) -> Any:
        """A plan by its name or its place."""
        if isinstance(key, str):
            return self[self.names.index(Arguments("plans", name=key).word("name", self.names))]
        if not isinstance(key, SupportsIndex | slice):
            raise Arguments("plans", name=key).wrong("name", "the name of a plan, or its place")
        return super().__getitem__(key)

    def table(self) -> Table:
        """The plans side by side, in closed form."""
        return Table.of_rows("plans", (_metrics(plan) for plan in self), ("plan", "gpus"))

    def __repr__(self) -> str:
        return f"<Plans {', '.join(self.names)}>"

    def _report(self) -> Callable[[Any], None]:
        from plandsl.answers.text.estimate import print_comparison

        return lambda console: print_comparison([plan.estimate() for plan in self], console)

    def __rich__(self) -> Any:
        return Printed(self._report())

    def _repr_html_(self) -> str:
        return report_html(self._report())


def _metrics(plan: CompiledPlan) -> dict[str, Any]:
    e = plan.closed_form()
    return {
        "plan": e.plan, "gpus": e.gpus, "fits": e.fits, "ok": e.ok, "ttft_s": float(e.ttft_s),
        **({} if e.tpot_s is None else {"tpot_s": float(e.tpot_s)}), "latency_s": float(e.latency_s),
        "throughput_tokens_per_s": float(e.throughput_tokens_per_s),
        "throughput_per_gpu_tokens_per_s": float(e.throughput_per_gpu_tokens_per_s),
        "memory_per_gpu_bytes": float(e.memory.total), "kv_capacity_tokens": e.kv_capacity_tokens,
        "max_batch": e.max_batch, "cost_usd_per_mtok": e.cost_usd_per_mtok,
        "usd_per_h": e.money and e.money.usd_per_h, "power_w": e.energy and e.energy.power_w,
        "j_per_token": e.energy and e.energy.j_per_token,
    }  # fmt: skip


def open_source(
    name: str, source: object, overrides: Overrides | None = None, file: str = "", argument: str = "source"
) -> Module:
    """What ``source`` holds, parsed, for the function ``name``. Raises `PlanError` (E445, E449) where it is no plan."""
    stated = None if isinstance(file, str) and not file else file
    call = Arguments(name, **{argument: source, "overrides": overrides, "file": stated})
    if stated is not None:
        call.text("file")
    given = () if overrides is None else overrides
    if isinstance(source, Whole):
        return open_text(str(source), source.file, given)
    if isinstance(source, CompiledPlan):
        from plandsl.show import show_plan

        return open_text(show_plan(source.spec), file or f"{source.name}.plan", given)
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return open_text(source, file or "<text>", given)
    if not isinstance(source, str | PurePath):
        raise call.wrong(argument, EXPECTED, code="E449")
    if not os.path.isfile(source):
        hint = "a string with a brace or several lines is taken as the text of a plan, any other one as a path"
        said = f"{show_value(str(source))} is neither a file nor the text of a plan"
        raise call.error("E449", argument, said, label="no such file", hint=hint)
    return open_file(Path(source), given)


def compile_source(
    name: str, source: object, plan: str | None, overrides: Overrides | None, file: str = "", argument: str = "source"
) -> CompiledPlan:
    """The one plan that ``source`` holds, or the one called ``plan``, compiled for the function ``name``."""
    call = Arguments(name, **{argument: source, "plan": plan})
    if plan is not None:
        call.text("plan")
    if isinstance(source, Plan | CompiledPlan) and plan not in (None, source.name):
        raise call.error("E445", "plan", f"the plan is called `{source.name}`, not `{plan}`", hint="leave `plan` out")
    plain = overrides is None or (isinstance(overrides, Mapping) and not overrides)
    if plain and isinstance(source, CompiledPlan):
        return source
    if plain and isinstance(source, Plan) and (known := getattr(source, "_made", None)) is not None:
        made: CompiledPlan = known
        return made
    if isinstance(source, Search):
        raise call.wrong(argument, EXPECTED, code="E449", hint="plandsl.search runs a search")
    module = open_source(name, source, overrides, file, argument)
    if plan is None and isinstance(source, Plan | CompiledPlan):
        plan = source.name
    names = module.plans
    if plan is not None and names and plan not in names:
        call.word("plan", names, code="E201")
    if plan is None and len(names) > 1 and not module.errors:
        why = f"{module.path} has {len(names)} plans: {', '.join(names)}"
        hint = f'name one, plan="{names[0]}", or take all: plandsl.compile_all'
        raise call.error("E403", argument, why, hint=hint)
    found = compile_module(module, plan)[0]
    if plain and isinstance(source, Plan):
        object.__setattr__(source, "_made", found)
    return found


def compile_each(source: object, overrides: Overrides | None, file: str = "") -> Plans:
    """All plans that ``source`` holds, or the plans of a list."""
    if isinstance(source, list | tuple):
        return Plans(each_source("compile_all", source, overrides))
    if isinstance(source, Plan | CompiledPlan):
        return Plans((compile_source("compile_all", source, None, overrides, file),))
    return Plans(compile_module(open_source("compile_all", source, overrides, file)))


def each_source(
    name: str, sources: list[Any] | tuple[Any, ...], overrides: Overrides | None = None
) -> Iterator[CompiledPlan]:
    """The plans of a list, compiled."""
    if not sources:
        raise PlanError([Diagnostic("E445", f"`{name}` needs a plan, and the list has none")])
    for source in sources:
        yield compile_source(name, source, None, overrides)
