"""The same bytes: what each verb says of each example, under several hash seeds and by each Python that is here.

    python -m benchmarks.same_bytes                    hash seeds 0, 1 and 2, and the Pythons on PATH and in PYTHONS
    python -m benchmarks.same_bytes --cases A B        digests of some cases, as JSON: what the other processes run

A Python that is older than plandsl needs, or that cannot import what plandsl needs, is listed as not run. ``PYTHONS``
may name further ones, with `:` between them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
MINORS = range(11, 20)
"""Minor versions of Python 3 that are looked for; 3.11 is the first that plandsl runs on."""

OUT = "OUT"
"""What stands for a file that a case writes, in its arguments."""

WHOLE = (
    "check",
    "check --format json",
    "compile",
    "compile --json",
    "explain",
    "diff",
    "compare-comm",
    f"report -o {OUT}.html",
    "verify --steps 1",
    "laws --draws 0 --law memory-adds-up --law layers-add-up",
    "search",
    "simulate --requests 50",
    "simulate --requests 50 --json",
    "autoscale --requests 20",
    "fmt --check",
)
"""Verbs that take an example; what they refuse has the same bytes too."""

OF_ONE = (
    "compile --dump fuse",
    f"render --view devices -o {OUT}.dot",
    f"render --view block -o {OUT}.dot",
    "export --to vllm",
    "export --to k8s",
    f"export --to chakra --ranks 0 -o {OUT}",
    f"export --to perfetto -o {OUT}.json",
)
"""Verbs that take one plan of an example: its first one."""

TOOK = re.compile(r"( meet all.*; )[^;\n]+$", re.MULTILINE)
"""At its end, the first line of a search says how long it took: no two runs take as long."""

ALONE = (
    "catalog",
    "catalog model",
    "passes",
    "laws --list",
    "completion bash",
    f"init {OUT}.plan",
    "import vllm serve meta-llama/Llama-3.1-8B-Instruct --tensor-parallel-size 2",
    "explain E302",
    "explain bubble",
)
"""Commands without an example."""


def cases() -> list[str]:
    """Every case as the words of a command, with the example last."""
    examples = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "examples").rglob("*.plan"))
    found = [*ALONE, *(f"{verb} {name}" for name in examples for verb in WHOLE)]
    for name in examples:
        if plan := re.search(r"^plan (\w+)", (ROOT / name).read_text("utf-8"), re.MULTILINE):
            found += [f"{verb} {name} --plan {plan[1]}" for verb in OF_ONE]
    return found


# ---- one process


def digests(named: Sequence[str]) -> dict[str, str]:
    """The digest of each case: of its exit status, of what it prints, and of the file that it writes."""
    return {case: _digest(case) for case in named}


def _digest(case: str) -> str:
    from plandsl.cli import main

    found = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace(OUT, f"{folder}/{OUT}") for word in case.split()]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(ROOT):
            try:
                status = main(words)
            except SystemExit as stop:
                status = stop.code
        told = TOOK.sub(r"\1TIME", f"{status}\n{out.getvalue()}\n{err.getvalue()}").replace(folder, "FOLDER")
        found.update(told.encode())
        for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            found.update(path.name.encode() + path.read_bytes().replace(folder.encode(), b"FOLDER"))
    return found.hexdigest()


# ---- other processes


class Python(NamedTuple):
    """A Python by its path: its version, and why it is not run; empty where it is."""

    path: str
    version: str
    why_not: str = ""


def run(python: str, seed: int, named: Sequence[str]) -> dict[str, str]:
    """The digests of a process of its own. Raises `RuntimeError` where it fails."""
    env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    command = [python, "-m", "benchmarks.same_bytes", "--cases", *named]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def pythons() -> Iterator[Python]:
    """The Pythons on PATH and in ``PYTHONS``, each once, without the one that runs."""
    named = [f"python3.{minor}" for minor in MINORS]
    named += [path for path in os.environ.get("PYTHONS", "").split(":") if path]
    seen = {_version(sys.executable)}
    for path in filter(None, map(shutil.which, named)):
        version = _version(path)
        if version in seen:
            continue
        seen.add(version)
        yield Python(path, version or path, _why_not(path, version))


def _version(path: str) -> str:
    done = subprocess.run([path, "-c", "import sys; print(sys.version.split()[0])"], capture_output=True, text=True)
    return done.stdout.strip()


def _why_not(path: str, version: str) -> str:
    if not version:
        return "it does not start"
    if tuple(map(int, version.split(".")[:2])) < (3, 11):
        return "plandsl needs Python 3.11"
    done = subprocess.run([path, "-c", "import attrs, graphviz, lark, numpy, rich"], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def main_here() -> int:
    """Compare every case; 1 where one differs."""
    named = cases()
    first, *others = (run(sys.executable, seed, named) for seed in SEEDS)
    told = [(f"hash seed {seed}", other) for seed, other in zip(SEEDS[1:], others, strict=True)]
    left_out = []
    for python in pythons():
        if python.why_not:
            left_out.append(f"Python {python.version} not run: {python.why_not}")
        else:
            told.append((f"Python {python.version}", run(python.path, SEEDS[0], named)))
    differ = 0
    print(f"{len(named)} cases by Python {_version(sys.executable)} with hash seed {SEEDS[0]}, compared with")
    for who, found in told:
        other = [case for case in named if found[case] != first[case]]
        differ += len(other)
        print(f"  {who:<16} {'the same bytes' if not other else f'{len(other)} differ'}")
        print("".join(f"    {case}\n" for case in other), end="")
    missing = sorted({f"3.{minor}" for minor in MINORS[:4]} - {_minor(v) for v in _versions()})
    print("\n".join([*left_out, *(f"Python {version} not run: it is not here" for version in missing)]))
    return int(differ > 0)


def _versions() -> Iterator[str]:
    yield _version(sys.executable)
    yield from (python.version for python in pythons())


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*")
    given = parser.parse_args().cases
    if given is None:
        sys.exit(main_here())
    print(json.dumps(digests(given)))
