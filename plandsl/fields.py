"""The fields of a plan as paths and values, written as in `--set` and in a file; and the differences of two plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from plandsl.show import show_plan, show_sharding, show_workload
from plandsl.show_engine import show_engine
from plandsl.show_hardware import show_calibration, show_cluster, show_gpu, show_node
from plandsl.show_model import show_model
from plandsl.spec.plan import PlanSpec
from plandsl.units import show_bytes, show_rate, show_time


class Change(NamedTuple):
    """A field that differs between two plans; ``before`` or ``after`` is None if that plan lacks the field."""

    path: str
    before: str | None
    after: str | None

    def as_json(self) -> dict[str, str | None]:
        """An entry of ``declarations``."""
        return self._asdict()


NAMED = {"model.block": "model", "model.head": "model", "model.embedding": "model", "engine": "engine"}
"""Sections whose contents are compared only if both plans name the same declaration, and the field with its name."""

TERMS = ("embedding", "head")
"""Items of a model that are written without ``=``."""

SHOWN: dict[str, Callable[[float], str]] = {
    "B": show_bytes,
    "B/s": show_rate,
    "s": show_time,
    "FLOP/s": lambda rate: show_rate(rate, "FLOP/s"),
}
"""Units that `plandsl.show` writes -> function that formats a quantity for people."""

MANY = 8
"""Most differing constants of a calibration that are listed; beyond this, only their number is given."""

SECTIONS = ("", "sharding", "shift", "workload", "model", "engine", "cluster", "node", "calibration", "require")
"""The order of differences."""


def changes(a: PlanSpec, b: PlanSpec) -> tuple[Change, ...]:
    """Every field in which two plans differ: first fields of the plan, then of each declaration."""
    before, after = fields(a), fields(b)
    named = [path for path, name in NAMED.items() if before.get(name) != after.get(name)]
    paths = [path for path in dict.fromkeys((*before, *after)) if not any(_is_within(path, n) for n in named)]
    found = [(path, before.get(path), after.get(path)) for path in sorted(paths, key=_section)]
    return tuple(_change(*each) for each in (*found, *_constants(a, b)) if each[1] != each[2])


def _is_within(path: str, section: str) -> bool:
    """Whether a field lies in a section; a field that holds the name of the declaration does not."""
    return path.startswith((f"{section}.", f"{section} ")) or path == section != NAMED.get(section)


def _change(path: str, before: str | None, after: str | None) -> Change:
    """The change with values formatted for people, unless both would have the same text."""
    shown = [None if value is None else _pretty(value) for value in (before, after)]
    return Change(path, *shown) if shown[0] != shown[1] else Change(path, before, after)


def _section(path: str) -> int:
    first = re.split(r"[. ]", path)[0]
    return SECTIONS.index(first) if first != path and first in SECTIONS else 0


def _constants(a: PlanSpec, b: PlanSpec) -> list[tuple[str, str | None, str | None]]:
    """Constants in which two calibrations of the same name differ; if many differ, only their number.

    A constant that only one of the two has is left out: a plan reads only the sections that it needs.
    """
    if a.calibration.name != b.calibration.name:
        return []
    before, after = (_read_all(show_calibration(plan.calibration), "calibration") for plan in (a, b))
    found = [(path, value, after[path]) for path, value in before.items() if after.get(path, value) != value]
    if len(found) <= MANY:
        return [*found]
    return [("calibration", a.calibration.name, f"{b.calibration.name}, with {len(found)} other constants")]


def fields(plan: PlanSpec) -> dict[str, str]:
    """Path -> value of every field of ``plan`` and of the declarations it uses, without the calibration's constants.

    The name of a declaration is a field (`model`), and so is each field in it (`model.hidden`). A declaration written
    in place has the plan's name, and gives no field for its name.
    """
    text = show_plan(plan)
    parts = [("", text[text.rindex("\nplan ") + 1 :]), ("sharding", show_sharding(plan.sharding))]
    if plan.shift is not None:
        parts.append(("shift.tensor", show_sharding(plan.shift.tensor)))
    parts += [("workload", show_workload(plan.workload)), ("model", show_model(plan.model))]
    parts += [("engine", show_engine(plan.engine))] if plan.engine else []
    parts += [("cluster", show_cluster(plan.cluster))] if plan.cluster else []
    parts += [("node", show_node(plan.node)), ("node.gpu", show_gpu(plan.node.gpu))]
    found = {path: value for where, declaration in parts for path, value in _read_all(declaration, where).items()}
    return {path: value for path, value in found.items() if "." in path or value != plan.name}


def _read_all(text: str, where: str) -> dict[str, str]:
    return dict(_read(text, where))


def _read(text: str, where: str) -> Iterator[tuple[str, str]]:
    """The items of the first declaration of ``text``; a repeated path gets a number."""
    path = [where] if where else []
    seen: dict[str, int] = {}
    for line in (line.strip() for line in text.split("\n")[1:]):
        if line == "}":
            if len(path) == bool(where):
                return
            path.pop()
            continue
        if line.endswith("{"):
            path.append(line.removesuffix("{").strip())
            continue
        for name, value in _items(line):
            whole = ".".join((*(p for p in path if p != "assumed"), name))
            seen[whole] = again = seen.get(whole, 0) + 1
            yield (whole if again == 1 else f"{whole} ({again})"), value


def _items(line: str) -> Iterator[tuple[str, str]]:
    """The items of a line: ``name = value``, ``dims -> axes``, ``mesh a = 4, b = 2``, or a word and the rest."""
    word, _, rest = line.partition(" ")
    if word == "require":
        metric, _, bound = rest.partition(" ")
        yield f"require {metric}", bound
        return
    if word == "mesh":
        for axis in rest.split(", "):
            name, _, size = axis.partition(" = ")
            yield f"mesh {name}", size
        return
    for sign in (" = ", " -> "):
        name, found, value = line.partition(sign)
        if found and "{" not in name and (word not in TERMS or rest.startswith("= ")):
            yield name, value
            return
    yield word, rest


def _pretty(value: str) -> str:
    """``value`` formatted for people, if it is a quantity."""
    number, _, unit = value.partition(" ")
    if unit not in SHOWN:
        return value
    return SHOWN[unit](float(number))
