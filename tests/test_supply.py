"""What plandsl is made of: the bill of materials of what ships, and bounds of what it needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest

from benchmarks import supply

SCRIPTS = (supply.ROOT / "backends", supply.ROOT / "plandsl")
"""Folders whose files ship."""


def components(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in found.get("components", ()):
        yield one
        yield from components(one)


def test_the_bill_of_what_ships_is_of_today() -> None:
    assert supply.BUNDLED.read_text("utf-8") == supply.bundled_text(), "run `python -m benchmarks.supply bundled`"


def test_every_script_that_ships_is_ours_or_in_the_bill() -> None:
    bill = json.loads(supply.BUNDLED.read_text("utf-8"))
    own = {"backends/report/static/report.js"}
    files = {}
    for one in components(bill):
        named = [p["value"] for p in one.get("properties", ())] + ([one["name"]] if one["type"] == "file" else [])
        if named:
            files |= dict.fromkeys(named, one["hashes"][0]["content"])
    ships = {
        path.relative_to(supply.ROOT).as_posix()
        for path in (supply.ROOT / "backends").glob("*/static/*")
        if path.suffix in (".js", ".wasm", ".woff2", ".mjs")
    }
    assert ships - own == {name for name in files if name.endswith(".js")}
    for name, digest in files.items():
        assert hashlib.sha256((supply.ROOT / name).read_bytes()).hexdigest() == digest


def test_every_package_in_the_bill_has_a_version_and_a_licence() -> None:
    packages = [one for one in components(json.loads(supply.BUNDLED.read_text("utf-8"))) if one["type"] == "library"]
    assert len(packages) > 60
    for one in packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", one["version"]), one["name"]
        assert one["licenses"][0]["expression"] in ("0BSD", "BSD-3-Clause", "ISC", "MIT", "Unlicense"), one["name"]
        assert one["purl"].endswith(f"@{one['version']}")


def test_each_dependency_has_a_lower_bound_and_a_version_that_was_tested() -> None:
    bounds = supply.direct()
    assert {name for name, bound in bounds.items() if not bound.startswith(">=")} == set()
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", supply.CONSTRAINTS.read_text("utf-8"), re.MULTILINE))
    assert set(bounds) - set(tested) <= set(supply.TOOLS), "run `make tested`"


def test_only_two_dependencies_are_capped() -> None:
    """CONTRIBUTING.md says why."""
    capped = {name for name, bound in supply.direct().items() if "<" in bound}
    assert capped == {"lark", "mkdocs-material"}


def test_an_audit_that_asked_nobody_is_not_clean(monkeypatch, capsys) -> None:
    answers = iter(
        [
            json.dumps({"dependencies": [{"name": "numpy", "skip_reason": "not found on PyPI"}]}),
            json.dumps({"error": {"summary": "no answer"}}),
            "",
            json.dumps({"vulnerabilities": {}}),
        ]
    )

    def run(command: list[str], **more: Any) -> Any:
        text = "" if "install" in command else next(answers)
        return type("Done", (), {"stdout": text, "stderr": "no network"})

    monkeypatch.setattr(supply.subprocess, "run", run)
    assert supply.audit() == 2
    assert capsys.readouterr().out.count("NOT AUDITED") == 3


def test_a_known_weakness_is_named(monkeypatch, capsys) -> None:
    weak = {"name": "numpy", "version": "1.0", "vulns": [{"id": "CVE-1"}]}
    texts = [json.dumps({"dependencies": [weak]}), *[json.dumps({"vulnerabilities": {"x": {"severity": "high"}}})] * 3]
    answers = iter(texts)

    def run(command: list[str], **more: Any) -> Any:
        return type("Done", (), {"stdout": "" if "install" in command else next(answers), "stderr": ""})

    monkeypatch.setattr(supply.subprocess, "run", run)
    assert supply.audit() == 1
    said = capsys.readouterr().out
    assert "numpy 1.0: CVE-1" in said
    assert "x: high" in said


def test_what_is_needed_follows_from_what_is_named() -> None:
    found = supply.needed()
    assert {"attrs", "numpy", "rich", "markdown-it-py"} <= found
    assert "pytest" not in found
    for name in found:
        assert metadata.version(name)


@pytest.mark.extras
def test_the_bill_of_materials_names_packages_and_what_is_bundled(tmp_path) -> None:
    pytest.importorskip("cyclonedx_py")
    supply.sbom(tmp_path / "sbom.json")
    found = json.loads((tmp_path / "sbom.json").read_text())
    names = {one["name"].lower() for one in components(found)}
    assert {"numpy", "lark", "vega", "@codemirror/view"} <= names
    assert "pytest" not in names
