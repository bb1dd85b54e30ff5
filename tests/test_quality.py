"""`make quality`: which tests it names, what it adds up, and that it leaves no code of the product out."""

from __future__ import annotations

import tomllib
from pathlib import Path

from benchmarks.quality import LEAST, Counted, by_package, failures, holds, settings, show

ROOT = Path(__file__).parent.parent

REPORT = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" tests="5">
<testcase classname="" name="tests.test_b" time="0.0"><error message="collection failure">no</error></testcase>
<testcase classname="tests.test_a" name="test_f[a::b [c]]" time="0.1"><failure message="assert 0">x</failure></testcase>
<testcase classname="tests.test_a" name="test_f[2]" time="0.1" />
<testcase classname="tests.test_a.TestB" name="test_g" time="0.1"><error message="failed on setup">x</error></testcase>
<testcase classname="tests.test_a" name="test_s" time="0.1"><skipped message="no">x</skipped></testcase>
</testsuite></testsuites>"""
"""A report as pytest 9 writes it."""


def test_tests_that_fail_are_named(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(REPORT)
    assert failures(report, 1) == [
        "tests.test_b",
        "tests/test_a.py::test_f[a::b [c]]",
        "tests/test_a.py::TestB::test_g",
    ]


def test_a_run_that_names_no_failure_tells_how_it_ended(tmp_path: Path) -> None:
    assert failures(tmp_path / "tests.xml", 4) == [f"{tmp_path}/tests.xml: pytest ended with status 4"]
    assert failures(tmp_path / "tests.xml", 0) == []


def test_packages_add_up() -> None:
    files = {
        "passes/a.py": Counted(10, 9, 4, 3),
        "passes/b.py": Counted(10, 10, 0, 0),
        "plandsl/ir/c.py": Counted(80, 80, 16, 16),
    }
    counted = by_package(files)
    assert counted == {
        "passes": Counted(20, 19, 4, 3),
        "plandsl/ir": Counted(80, 80, 16, 16),
        "all": Counted(100, 99, 20, 19),
    }
    assert (counted["passes"].of_branches, counted["all"].of_branches) == (0.75, LEAST)
    assert holds(counted)
    assert not holds({"all": Counted(100, 99, 20, 18)})
    assert not holds({"all": Counted(100, 90, 20, 20)})  # lines count too
    assert "passes                                  20         4         75.0%" in show(counted)


def test_no_code_of_the_product_is_left_out() -> None:
    """All folders of Python that are installed are recorded, but the parser's tables, which are generated."""
    found = tomllib.loads(settings(ROOT))["tool"]["coverage"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {
        project["tool"]["setuptools"]["package-dir"].get(".".join(name.split(".")[:2]), "plandsl")
        for name in project["tool"]["setuptools"]["packages"]
    }
    assert set(found["run"]["source"]) == {str(ROOT / folder) for folder in folders}
    assert found["run"]["omit"] == ["*/grammar/_tables.py"]
    assert found["run"]["branch"]
    assert found["report"]["exclude_also"] == ["assert_never\\(", "if TYPE_CHECKING:"]
    texts = [p.read_text(encoding="utf-8") for folder in folders for p in (ROOT / folder).rglob("*.py")]
    assert not [text for text in texts if "pragma: no cover" in text or "pragma: no branch" in text]
