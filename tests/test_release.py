"""What is published is whole: built in isolation, installed alone in fresh environments, and run as the README says.

`make release-check` runs these. They need the network, for the libraries that plandsl depends on.
"""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from plandsl._version import __version__
from tests.test_docs import covers
from tests.test_packaging import ROOT, STAY, installed_files

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
README = (ROOT / "README.md").read_text("utf-8")
CONSOLE = re.compile(r"```console\n\$ (planc [^\n]*)\n(.*?)```", re.DOTALL)
PLAN = re.compile(r"```plan\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
MADE = (".git", ".venv", "build", "dist", "htmlcov", ".hypothesis")
"""Files and folders at the top that git does not track."""

pytestmark = [pytest.mark.release, pytest.mark.xdist_group("release")]


def run(*command: str | Path, cwd: Path, statuses: tuple[int, ...] = (0,)) -> str:
    """What a command prints on both streams, with nothing of this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    out = subprocess.run(
        words, cwd=cwd, env=kept, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert out.returncode in statuses, out.stdout
    return out.stdout


def untracked(folder: str, names: list[str]) -> set[str]:
    """The names in a folder of the tree that a build must not see."""
    caches = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")(folder, names)
    return caches | (set(MADE) if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and the wheel, which is built from the sdist, each by an isolated build."""
    tree = tmp_path_factory.mktemp("release") / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=untracked)
    out = ROOT / "build" / "release"
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out, tree, cwd=tree)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path_factory.mktemp("sdist"), filter="data")
    (folder,) = (tmp_path_factory.getbasetemp() / "sdist0").iterdir()
    return folder


def environment(folder: Path, what: str | Path) -> Path:
    """The folder of programs of a fresh environment that has ``what`` and what it depends on."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", what, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("alone") / "env", wheel)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_twine_takes_both(dist: Path) -> None:
    out = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()), cwd=dist)
    assert out.count("PASSED") == 2, out


def test_both_are_of_this_version(dist: Path, metadata: email.message.Message) -> None:
    stem = f"plandsl-{__version__}"
    assert sorted(path.name for path in dist.iterdir()) == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    assert metadata["Version"] == __version__


def test_the_metadata_says_what_it_is(metadata: email.message.Message) -> None:
    stated = {name: metadata.get_all(name) for name in ("Name", "Summary", "License-Expression", "Requires-Python")}
    assert all(stated.values()), stated
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    described = metadata.get_payload(decode=True)
    assert isinstance(described, bytes)
    assert described.decode("utf-8").strip() == README.strip()


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {n for n in archive.namelist() if ".dist-info/" not in n} == set(installed_files(ROOT))


def test_the_sdist_holds_what_a_checkout_has(sdist: Path) -> None:
    folders = ("docs", "examples", "tests", "benchmarks", *STAY)
    there = [p.relative_to(ROOT) for f in folders for p in (ROOT / f).rglob("*") if p.is_file()]
    there = [path for path in there if "__pycache__" not in path.parts]
    assert [path for path in there if not (sdist / path).is_file()] == []
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml"):
        assert (sdist / name).read_bytes() == (ROOT / name).read_bytes()


def test_its_entry_points_are_there(alone: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import distribution
from importlib.util import find_spec
for one in distribution("plandsl").entry_points:
    assert find_spec(one.module), one
    print(one.group, one.name)
"""
    stated = {"console_scripts": PROJECT["scripts"], **PROJECT.get("entry-points", {})}
    wanted = sorted(f"{group} {name}" for group, names in stated.items() for name in names)
    assert sorted(run(alone / "python", "-c", code, cwd=tmp_path).splitlines()) == wanted
    assert run(alone / "planc", "--version", cwd=tmp_path) == f"planc {__version__}\n"


def play(programs: Path, cwd: Path, *, examples: bool) -> list[str]:
    """Run the README's commands, and compare what they print; without ``examples`` those that need no such file."""
    (plan,) = PLAN.findall(README)
    (cwd / "hybrid.plan").write_text(plan, "utf-8")
    played = []
    for command, shown in CONSOLE.findall(README):
        if examples or "examples/" not in command:
            words = [word.strip("'") for word in command.split()]
            real = run(programs / "planc", *words[1:], cwd=cwd, statuses=(0, 1, 2))  # the README shows failures too
            assert covers(shown, real), f"{command}\n{real}"
            played.append(command)
    return played


def test_the_wheel_alone_does_what_the_readme_shows(alone: Path, tmp_path: Path) -> None:
    assert len(play(alone, tmp_path, examples=False)) >= 5
    run(alone / "planc", "init", cwd=tmp_path)
    assert "TTFT" in run(alone / "planc", "compile", "first.plan", cwd=tmp_path)


def test_the_sdist_does_all_that_the_readme_shows(sdist: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "env", f"{sdist}[plot,render]")
    here = tmp_path / "here"
    here.mkdir()
    (here / "examples").symlink_to(sdist / "examples")
    assert len(play(programs, here, examples=True)) == len(CONSOLE.findall(README)) >= 7
    (code,) = PYTHON.findall(README)
    shown = run(programs / "python", "-c", code, cwd=here).splitlines()
    assert [line.split()[0] for line in shown[:2]] == ["<Estimate", "<Difference"]
    run(programs / "planc", "render", "hybrid.plan", "-o", "hybrid.svg", "--view", "devices", cwd=here)
    assert "</svg>" in (here / "hybrid.svg").read_text("utf-8")
