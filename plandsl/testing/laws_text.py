"""Laws about the text of a plan: what `--set` says equals what is written, and order changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from attrs import evolve

from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, open_text
from plandsl.fields import changes
from plandsl.show import show_plan
from plandsl.spec.plan import PlanSpec, WorkloadSpec
from plandsl.testing.compare import same
from plandsl.testing.inapplicable import DoesNotApply


def _text(plan: CompiledPlan) -> str:
    if plan.spec.kv_residency == "prompts":
        raise DoesNotApply("a pool of prefill has no text of its own")
    return show_plan(plan.spec)


# ---- `--set`


def set_equals_written(plan: CompiledPlan) -> None:
    """A field that is given with `--set` makes the plan that has this field written in its text.

    The law sets the numbers of the load, and fields of the plan, one by one.
    """
    text = _text(plan)
    for path, value, written in _settings(plan.spec):
        found, wanted = _read(text, {path: value}), _read(show_plan(written))
        left = ", ".join(change.path for change in changes(found, wanted))
        assert same(found, wanted), f"--set {path}={value} is another plan than the written one: {left}"


def _read(text: str, overrides: Mapping[str, str] | None = None) -> PlanSpec:
    """The plan of a text. Raises `PlanError` where the text is wrong."""
    module = open_text(text, overrides=overrides or {})
    (name,) = module.root.declared["plan"]
    found = module.plan(name)
    if found is None:
        raise PlanError([d for d in module.diagnostics if d.severity == "error"], module.sources)
    return found


def _settings(spec: PlanSpec) -> Iterator[tuple[str, str, PlanSpec]]:
    """Paths and values for `--set`, each with the plan that it makes."""
    load = spec.workload
    numbers = ("input", *(() if load.encodes else ("output",)), *(("batch",) if load.concurrency is None else ()))
    for name in numbers if load.traffic is None and spec.split is None else ():
        value = getattr(load, name) + 1
        yield f"workload.{name}", str(value), evolve(spec, workload=_with(load, name, value))
    if spec.split is None:
        yield "hop_tensors", str(3 - spec.hop_tensors), evolve(spec, hop_tensors=3 - spec.hop_tensors)
        yield "memory_fraction", "0.875", evolve(spec, memory_fraction=0.875)
        if spec.engine is None:
            yield "step_tokens", "4096", evolve(spec, step_tokens=4096)
    yield "router", "least_loaded", evolve(spec, router="least_loaded")


def _with(load: WorkloadSpec, name: str, value: int) -> WorkloadSpec:
    return evolve(load, **cast("dict[str, Any]", {name: value}))


# ---- order


def order_of_declarations_changes_nothing(plan: CompiledPlan) -> None:
    """With its declarations and the fields of its plan in reverse order, a file has the same plan and estimate."""
    text = _text(plan)
    declarations = _items(text.split("\n"))
    (last,) = [at for at, lines in enumerate(declarations) if lines[0].startswith("plan ")]
    head, *body, end = declarations[last]
    items = _items(body)
    asked = [item for item in items if item[0].strip().startswith("require")]  # reports have them in this order
    others = [item for item in items if item not in asked]
    turned = [line for item in (*reversed(others), *asked) for line in item]
    rest = [lines for at, lines in enumerate(declarations) if at != last]
    moved = [[head, *turned, end], *reversed(rest)]
    (found,) = compile_text("\n\n".join("\n".join(lines) for lines in moved) + "\n")
    (wanted,) = compile_text(text)
    left = ", ".join(change.path for change in changes(found.spec, wanted.spec))
    assert same(found.spec, wanted.spec), f"declarations in another order are another plan: {left}"
    assert _told(wanted) == _told(found), "declarations in another order have another estimate"


def _told(plan: CompiledPlan) -> str:
    """The machine form of an estimate, without the lines on which its notes stand."""
    body = plan.closed_form().as_json()
    return json.dumps(body | {"notes": [note["message"] for note in body["notes"]]})


def _items(lines: list[str]) -> list[list[str]]:
    """Lines as items: a block with all its lines is one; empty lines are left out."""
    found: list[list[str]] = []
    depth = 0
    for line in lines:
        if not line.strip():
            continue
        if depth:
            found[-1].append(line)
        else:
            found.append([line])
        depth += line.count("{") - line.count("}")
    return found
