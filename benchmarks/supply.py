"""What plandsl is made of, and whether any of it has a known weakness: `python -m benchmarks.supply WORD`.

    bundled          write docs/bundled.cdx.json: the packages of npm whose code ships with plandsl
    sbom OUT         write OUT: these, and the Python packages of this environment that plandsl needs (CycloneDX)
    audit            ask the databases of PyPI and npm for known weaknesses of all of them
    tested           write constraints.txt: the versions of this environment of what pyproject.toml names

`make audit` and `make tested` call them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from plandsl._version import __version__

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "docs" / "bundled.cdx.json"
CONSTRAINTS = ROOT / "constraints.txt"
REPORT = ROOT / "backends" / "report" / "static"
SERVE = ROOT / "backends" / "serve"
NPM = ("tests/web", "backends/serve/page", "grammar/editors/vscode")
"""Folders with a package.json."""

DEVELOPERS = ("dev", "docs", "release", "supply", "takers")
"""Extras that no user needs."""

TOOLS = ("cyclonedx-bom", "pip-audit", "uv", "build", "twine", "setuptools")
"""Tools that no test runs."""

Component = dict[str, Any]


# ---- what is bundled


def bundled() -> dict[str, Any]:
    """The bill of materials of the JavaScript that ships: CycloneDX 1.6, the same for the same files."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "plandsl", "name": "plandsl"}},
        "components": [*report_parts(), playground()],
    }


def report_parts() -> Iterator[Component]:
    """The files of a report page that come from npm; the last one holds what they are built from."""
    licences = (REPORT / "LICENSES.txt").read_text("utf-8")
    built_from = [one for line in re.findall(r"^=+\n(.+)\n-+$", licences, re.MULTILINE) for one in _packages(line)]
    files = sorted(REPORT.glob("*.min.js"))
    own = {path.name.rpartition("-")[0]: path for path in files}
    for name, path in own.items():
        version = path.name.removeprefix(f"{name}-").removesuffix(".min.js")
        licence = next(one["licenses"] for one in built_from if (one["name"], one["version"]) == (name, version))
        yield {
            **_npm(name, version), "licenses": licence, "hashes": _sha256(path),
            "properties": [{"name": "plandsl:file", "value": path.relative_to(ROOT).as_posix()}],
        }  # fmt: skip
    others = [one for one in built_from if one["name"] not in own]
    yield {
        "type": "file", "bom-ref": "report-page", "name": "backends/report/static/LICENSES.txt",
        "hashes": _sha256(REPORT / "LICENSES.txt"), "description": "what these files are built from",
        "components": others,
    }  # fmt: skip


def playground() -> Component:
    """The script of the playground, with the packages that are bundled into it."""
    lock = json.loads((SERVE / "page" / "package-lock.json").read_text("utf-8"))["packages"]
    lines = re.findall(r"^(@?[\w/-]+ [\d.]+ \(.+\))$", (SERVE / "static" / "licences.txt").read_text("utf-8"), re.M)
    packages = [one for line in lines for one in _packages(line)]
    for one in packages:
        kind, _, digest = lock[f"node_modules/{one['name']}"]["integrity"].partition("-")
        alg = {"sha512": "SHA-512", "sha256": "SHA-256", "sha1": "SHA-1"}[kind]
        one["hashes"] = [{"alg": alg, "content": base64.b64decode(digest).hex()}]  # of the package that npm has
    path = SERVE / "static" / "playground.js"
    return {
        "type": "file", "bom-ref": "playground", "name": path.relative_to(ROOT).as_posix(), "hashes": _sha256(path),
        "components": packages,
    }  # fmt: skip


def _packages(line: str) -> list[Component]:
    """The packages of a heading: ``d3-array 3.2.5, d3-color 3.1.1 (ISC)``."""
    names, _, licence = line.removesuffix(")").rpartition(" (")
    found = [one.rpartition(" ") for one in names.split(", ")]
    return [{**_npm(name, version), "licenses": [{"expression": licence}]} for name, _, version in found]


def _npm(name: str, version: str) -> Component:
    where = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    return {"type": "library", "bom-ref": where, "name": name, "version": version, "purl": where}


def _sha256(path: Path) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]


def bundled_text() -> str:
    """The content of docs/bundled.cdx.json."""
    return json.dumps(bundled(), indent=1) + "\n"


# ---- what Python packages there are


def direct() -> dict[str, str]:
    """What pyproject.toml names, by name with its condition on the version: of plandsl and of all its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = {}
    for one in named:
        name, rest = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", one).groups()  # type: ignore[union-attr]
        if name != "plandsl":
            found[_canonical(name)] = rest
    return dict(sorted(found.items()))


def needed() -> set[str]:
    """The packages of this environment that plandsl needs with all extras of users, and those that these need."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: one for name, one in project["optional-dependencies"].items() if name not in DEVELOPERS}
    waiting = [Requirement(one) for one in (*project["dependencies"], *(o for extra in extras.values() for o in extra))]
    found: set[str] = set()
    while waiting:
        one = waiting.pop()
        name = _canonical(one.name)
        if name in found or name == "plandsl" or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        try:
            waiting += [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def tested_text() -> str:
    """The content of constraints.txt. Raises `PackageNotFoundError` where something is not in this environment."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    lines = [
        f"# The newest versions that plandsl {__version__} was tested with, on {today}, with Python "
        f"{sys.version_info.major}.{sys.version_info.minor}: `make tested` writes them.",
        "# pip install -c constraints.txt plandsl",
    ]
    for name in direct():
        if name not in TOOLS:
            lines.append(f"{name}=={metadata.version(name)}")
    return "\n".join(lines) + "\n"


def sbom(out: Path) -> None:
    """Write a bill of materials of this environment and of what is bundled."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    made = subprocess.run([*command, "--output-reproducible"], capture_output=True, text=True, check=True)
    found = json.loads(made.stdout)
    names = needed()
    found["components"] = [one for one in found["components"] if _canonical(one["name"]) in names]
    refs = {one["bom-ref"] for one in (*found["components"], found["metadata"]["component"])}
    found["dependencies"] = [
        one | ({"dependsOn": [ref for ref in one["dependsOn"] if ref in refs]} if "dependsOn" in one else {})
        for one in found["dependencies"] if one["ref"] in refs
    ]  # fmt: skip
    found["components"] += bundled()["components"]
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {len(refs) - 1} Python packages, and what is bundled")


# ---- known weaknesses


def audit() -> int:
    """Print what each database says. 0: nothing is known; 1: something is; 2: a database did not answer."""
    checks: dict[str, Callable[[], tuple[int, str]]] = {"Python packages": _pip_audit}
    checks |= {folder: lambda folder=folder: _npm_audit(ROOT / folder) for folder in NPM}  # type: ignore[misc]
    worst = 0
    for name, check in checks.items():
        status, text = check()
        worst = max(worst, status)
        print(f"{name}: {('clean', 'WEAKNESSES', 'NOT AUDITED: the database did not answer')[status]}")
        print("".join(f"  {line}\n" for line in text.splitlines()[-12:] if status), end="")
    return worst


def _pip_audit() -> tuple[int, str]:
    """Ask for the packages of this environment. A package that was skipped was not audited."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 2, done.stderr
    weak = [f"{one['name']} {one['version']}: {v['id']}" for one in found for v in one.get("vulns", ())]
    skipped = [
        f"{one['name']}: {one['skip_reason']}" for one in found if "skip_reason" in one and one["name"] != "plandsl"
    ]
    return (1, "\n".join(weak)) if weak else (2, "\n".join(skipped)) if skipped else (0, "")


def _npm_audit(folder: Path) -> tuple[int, str]:
    """Ask for the packages of a package.json; where it has no lock file, for those that npm would take today."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ("package.json", "package-lock.json"):
            if (folder / name).exists():
                shutil.copy(folder / name, copy)
        if not (folder / "package-lock.json").exists():
            command = ["npm", "install", "--package-lock-only", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        command = ["npm", "audit", "--package-lock-only", "--json"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
        weak = [f"{name}: {one['severity']}" for name, one in found["vulnerabilities"].items()]
    except (ValueError, KeyError, TypeError):
        return 2, done.stderr
    return (1, "\n".join(weak)) if weak else (0, "")


def main() -> int:
    """Do what the words say."""
    match sys.argv[1:]:
        case ["bundled"]:
            BUNDLED.write_text(bundled_text(), encoding="utf-8")
        case ["sbom", out]:
            sbom(Path(out))
        case ["audit"]:
            return audit()
        case ["tested"]:
            CONSTRAINTS.write_text(tested_text(), encoding="utf-8")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
