import email
import email.message
import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from plandsl._version import __version__

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKED = {
    "plandsl.backends": "backends",
    "plandsl.grammar": "grammar",
    "plandsl.passes": "passes",
}
STAY = ("backends/serve/page/", "grammar/editors/vscode/")
"""Folders whose files are for people who work on a checkout, and stay out of the wheel."""

# Together on one worker, so that the wheel is built once.
pytestmark = pytest.mark.xdist_group("packaging")


def installed_files(root: Path) -> dict[str, Path]:
    """Each file that belongs in the wheel, by the path it has there: all of them but those of `STAY`."""
    found = {}
    for package, folder in {"plandsl": "plandsl", **LINKED}.items():
        for at, folders, names in os.walk(root / folder, followlinks=False):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for path in (Path(at, name) for name in names):
                if not path.relative_to(root).as_posix().startswith(STAY):
                    inside = path.relative_to(root / folder).as_posix()
                    found[f"{package.replace('.', '/')}/{inside}"] = path
    return found


def stated_files(root: Path) -> set[str]:
    """Each file that pyproject.toml puts into the wheel, by the path it has there."""
    found = set()
    for package in SETUPTOOLS["packages"]:
        outer = max((name for name in LINKED if f"{package}.".startswith(f"{name}.")), key=len, default="")
        folder = root / (package.replace(outer, LINKED[outer]) if outer else package).replace(".", "/")
        patterns = [*SETUPTOOLS["package-data"]["*"], *SETUPTOOLS["package-data"].get(package, ())]
        for name in (name for one in ("*.py", *patterns) for name in glob.glob(one, root_dir=folder, recursive=True)):
            if (folder / name).is_file():
                found.add(f"{package.replace('.', '/')}/{name}")
    return found


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command prints; a failure shows both of its streams."""
    outcome = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert outcome.returncode == 0, f"{command} failed\n{outcome.stdout}\n{outcome.stderr}"
    return outcome.stdout


def can_build() -> bool:
    try:
        return int(version("setuptools").split(".")[0]) >= 77 and bool(version("build"))
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that building leaves nothing behind in the tree."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("plandsl", *LINKED.values()):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def distributions(checkout: Path) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    if not can_build():
        pytest.skip("building needs the extra [dev]: build, and setuptools >= 77")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", checkout / "dist", cwd=checkout)
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> email.message.Message:
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return email.message_from_string(path.read_text(encoding="utf-8"))


def test_listed_packages_are_the_folders_that_hold_an_init() -> None:
    here = {path.rpartition("/")[0] for path in installed_files(ROOT) if path.endswith("/__init__.py")}
    listed = SETUPTOOLS["packages"]
    assert listed == sorted(folder.replace("/", ".") for folder in here)


def test_every_file_of_the_tree_is_stated() -> None:
    assert SETUPTOOLS["include-package-data"] is False
    assert stated_files(ROOT) == set(installed_files(ROOT))


def test_links_show_the_root_folders_where_they_install() -> None:
    links = {f"plandsl.{path.name}": path for path in (ROOT / "plandsl").iterdir() if path.is_symlink()}
    assert {name: os.readlink(path) for name, path in links.items()} == {
        name: f"../{folder}" for name, folder in LINKED.items()
    }
    assert all((ROOT / folder).is_dir() for folder in LINKED.values())
    assert SETUPTOOLS["package-dir"] == {"plandsl": "plandsl", **LINKED}


def test_wheel_holds_the_tree_and_nothing_else(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = installed_files(checkout)
        assert names == set(expected)
        assert [name for name in names if archive.read(name) != expected[name].read_bytes()] == []
    assert "plandsl/py.typed" in names


def test_sdist_holds_each_file_once(distributions: Path, checkout: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    sources = {file.relative_to(checkout).as_posix() for file in installed_files(checkout).values()}
    assert len(names) == len(set(names))
    assert sources | {"pyproject.toml", "README.md", "LICENSE"} <= set(names)
    assert [name for name in names if name.startswith(tuple(f"plandsl/{f}/" for f in LINKED.values()))] == []


def test_wheel_imports_from_any_directory(unpacked: Path, tmp_path: Path) -> None:
    code = """
import plandsl, plandsl.grammar, plandsl.passes, plandsl.backends
for module in plandsl, plandsl.grammar, plandsl.passes, plandsl.backends:
    print(module.__file__)
"""
    out = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(unpacked))
    folders = ["plandsl", "plandsl/grammar", "plandsl/passes", "plandsl/backends"]
    assert out.splitlines() == [str(unpacked / folder / "__init__.py") for folder in folders]


def test_wheel_tells_its_version(unpacked: Path, metadata: email.message.Message, tmp_path: Path) -> None:
    out = run(sys.executable, "-m", "plandsl", "--version", cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert out.split()[-1] == metadata["Version"]


def test_wheel_finds_its_catalog(unpacked: Path, tmp_path: Path) -> None:
    out = run(sys.executable, "-m", "plandsl", "catalog", cwd=tmp_path, PYTHONPATH=str(unpacked))
    shipped = {path.stem for path in (unpacked / "plandsl" / "catalog" / "gpus").glob("*.plan")}
    assert shipped
    assert shipped <= set(re.findall(r"\w+", out))


def test_wheel_installs_planc(unpacked: Path) -> None:
    (path,) = unpacked.glob("*.dist-info/entry_points.txt")
    expected = ["[console_scripts]", "planc", "=", "plandsl.__main__:run"]
    expected += ["[pygments.lexers]", "plan", "=", "plandsl.grammar.editors.pygments_plan:PlanLexer"]
    assert path.read_text().split() == expected


def test_runtime_dependencies_are_a_closed_set(metadata: email.message.Message) -> None:
    requirements = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}
    assert names == {"attrs", "graphviz", "lark", "numpy", "rich"}


def test_the_changelog_is_in_order_and_opens_with_this_version() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    entries = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((unreleased|\d{4}-\d\d-\d\d)\)", head) for head in heads]
    found = [entry for entry in entries if entry]
    assert len(found) == len(heads) > 0, heads
    versions = [tuple(map(int, entry.groups()[:3])) for entry in found]
    assert versions == sorted(set(versions), reverse=True)
    assert ".".join(map(str, versions[0])) == __version__
    days = [entry[4] for entry in found if entry[4] != "unreleased"]
    assert days == sorted(days, reverse=True)
    assert len(days) >= len(found) - 1, "only the newest version may be unreleased"


def test_metadata_names_the_licence(metadata: email.message.Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
