"""Every plan of examples/ and of the README runs as a program in JAX, and agrees with the reference.

Plans of one file whose small programs are the same run once. Plans have at most 16 ranks; with LARGE set, all run, and
those that the pages of docs/ show do too.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import plandsl
from plandsl.driver import CompiledPlan, compile_file, compile_text, open_file
from tests.test_docs import BLOCKS, FENCE, lay, prepare, sort_of

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: plandsl[run]"),
]
ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.plan"))

SHOWN = [b for b in BLOCKS if b.info[0] == "plan" and sort_of(b) == "complete"]
"""The plan files that pages show, and that are sound."""

MOST = 64 if os.environ.get("LARGE") else 16
"""Most ranks of a plan that runs."""

WIDE = {
    "examples/clusters/racks.plan": {"nodes": 32, "wide": 32, "rack": 64},
}
"""The plans with more than 16 ranks, by their files, and their ranks."""


def plans_of(file: str) -> Iterator[CompiledPlan]:
    """The plans of a file, and the best one of each of its searches."""
    module = open_file(file)
    yield from compile_file(file) if module.plans else ()
    for name in module.searches:
        yield plandsl.search(file, name, top=1).plan().compile()


def run_each(plans: Iterable[CompiledPlan], place: str) -> None:
    """Run each different program once. The plans that are too large are those of `WIDE`."""
    ran: set[str] = set()
    wide: dict[str, int] = {}
    for plan in plans:
        if (ranks := plan.small.spec.ranks) > MOST:
            wide[plan.name] = ranks
            continue
        text = plan.jax_program(shrink=True, exact=True).partition("\n")[2]
        if text not in ran:
            ran.add(text)
            verdict = plan.run(steps=2)
            assert verdict.ok, f"{plan.name}: {verdict.message}"
            assert verdict.worst <= 1e-9
    assert wide == (WIDE.get(place, {}) if MOST == 16 else {})
    assert ran or wide


@pytest.mark.parametrize("file", FILES)
def test_every_plan_of_an_example_computes_what_the_reference_does(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run_each(plans_of(file), file)


def test_the_plan_of_the_readme_computes_what_the_reference_does() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    run_each([p for m in FENCE.finditer(text) if m[1] == "plan" for p in compile_text(m[2])], "README.md")


@pytest.mark.skipif(MOST == 16, reason="`make test-extras LARGE=1` runs it")
@pytest.mark.parametrize("page", sorted({b.page for b in SHOWN}))
def test_every_plan_of_a_page_computes_what_the_reference_does(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = []
    for block in (b for b in SHOWN if b.page == page):
        name = lay(block, tmp_path)
        Path(name).write_text(block.text, "utf-8")
        found += compile_file(name) if open_file(name).plans else []
    if found:
        run_each(found, page)
