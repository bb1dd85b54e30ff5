"""`planc diff`: two plans, or the plans of two files, term by term."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plandsl._version import __version__
from plandsl.commands.console import OK, open_console, print_json, spaced
from plandsl.commands.sources import open_module, read_overrides, split_plan
from plandsl.diagnostics import Diagnostic, PlanError

if TYPE_CHECKING:
    from plandsl.driver import CompiledPlan
    from plandsl.grammar.resolve import Module


def run_diff(arguments: Namespace) -> int:
    """`planc diff A B`: each argument is FILE or FILE:PLAN; a single FILE must have two plans."""
    from plandsl.driver import difference

    if arguments.each:
        return _compare_each(arguments)
    a, b = _plans_to_compare(arguments)
    found = difference(a, b)
    if arguments.json:
        print_json({"plandsl": __version__, "files": arguments.files, **found.as_json()})
    else:
        from plandsl.answers.text.difference import print_difference

        print_difference(found, open_console())
    return OK


def _compare_each(arguments: Namespace) -> int:
    """Compare the plans of the same name in two files, and name the others."""
    from plandsl.driver import compile_module, difference

    if len(arguments.files) != 2:
        why = f"`planc diff --each` compares the plans of two files, found {len(arguments.files)}"
        raise PlanError([Diagnostic("E400", why, hint="planc diff --each OLD.plan NEW.plan")])
    old, new = (
        {plan.name: plan for plan in compile_module(open_module(path, read_overrides(arguments)), arguments.plan)}
        for path in arguments.files
    )
    found = {name: difference(old[name], new[name]) for name in old if name in new}
    same = [name for name, one in found.items() if not one.changes]
    lone = {"removed": [name for name in old if name not in new], "added": [name for name in new if name not in old]}
    if arguments.json:
        plans = [{"name": name, **one.as_json()} for name, one in found.items()]
        print_json({"plandsl": __version__, "files": arguments.files, "plans": plans, **lone})
        return OK
    from plandsl.answers.text.difference import print_difference

    console = open_console()
    for one in spaced((one for one in found.values() if one.changes), console):
        print_difference(one, console)
    if len(same) < len(found) and (same or any(lone.values())):
        console.print()
    for word, names in ("the same", same), *lone.items():
        if names:
            console.print(f"{word}: {', '.join(names)}")
    return OK


def _plans_to_compare(arguments: Namespace) -> list[CompiledPlan]:
    """The two plans to compare; a file that holds both is opened once."""
    from plandsl.driver import compile_module

    if len(arguments.files) > 2:
        why = f"`planc diff` compares two plans, found {len(arguments.files)}"
        raise PlanError([Diagnostic("E400", why, hint="planc diff A.plan B.plan, or planc diff A.plan:one A.plan:two")])
    sides = [split_plan(text, arguments.plan) for text in arguments.files]
    modules = {path: open_module(path, read_overrides(arguments)) for path, _ in dict.fromkeys(sides)}
    if len(sides) == 1:
        path, name = sides[0]
        plans = modules[path].plans
        if plans and (name is not None or len(plans) != 2):
            raise PlanError([_plan_not_named(path, modules[path], "two")])
        sides = [(path, plan) for plan in plans] or sides
    for path, name in sides:
        if name is None and len(modules[path].plans) > 1:
            raise PlanError([_plan_not_named(path, modules[path], "one")])
    return [compile_module(modules[path], name)[0] for path, name in sides]


def _plan_not_named(path: str, module: Module, wanted: str) -> Diagnostic:
    names = module.plans
    if names[1:] == [] and wanted == "two":
        hint = f"compare it with the plan of another file: planc diff {path} OTHER.plan"
        return Diagnostic("E413", f"{path} has 1 plan: {names[0]}, and `planc diff` compares two", hint=hint)
    plans = f"{len(names)} plans: {', '.join(names)}" if len(names) > 1 else f"1 plan: {names[0]}"
    hint = " ".join(f"{path}:{name}" for name in (names * 2)[:2])
    return Diagnostic("E413", f"{path} has {plans}, but {wanted} must be named", hint=f"name it: planc diff {hint}")
