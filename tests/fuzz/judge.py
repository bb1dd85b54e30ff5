"""Runs one case and says what came of it: an answer, a refusal with a diagnostic, or a finding."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from plandsl.diagnostics import PlanError
from tests.fuzz.case import Answer, Case, Target, is_below
from tests.fuzz.fence import MEMORY, OverTime, Spent, bounded

Kind = Literal["answered", "refused", "finding"]

CODE = re.compile(r"\b[EWN]\d{3}\b")
"""The code of a diagnostic, in any of the forms in which `planc` prints one."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys. A tab and a newline are fine."""

LEFT = re.compile(r"(^|/)\.[^/]*\.tmp$")
"""A file that was to be renamed (`plandsl/files.py`)."""

PLACES = 4
"""Frames of the product that tell two exceptions apart."""


class Verdict(NamedTuple):
    """What came of a case. ``why`` names a finding: cases with the same words have the same cause."""

    kind: Kind
    why: str = ""
    spent: Spent = Spent()
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.kind == "finding"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder that is the current one, for cases to run in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="plandsl-fuzz-", ignore_cleanup_errors=True) as made:
        os.chdir(made)
        try:
            yield Path(made)
        finally:
            os.chdir(before)


def judge(target: Target, case: Case, seconds: float | None = None) -> Verdict:
    """Run a case in the current folder, which is emptied before. ``seconds`` is in the place of the target's bound."""
    _empty()
    if target.on_disk:
        try:
            _write(case)
        except (OSError, ValueError):  # a name that no file can have
            return Verdict("refused", "no such name")
    limit = target.seconds if seconds is None else seconds
    detail, answer, spent = "", None, Spent()
    try:
        with bounded(limit) as took:
            answer = target.run(case)
        found = _of_answer(target, case, answer) if isinstance(answer, Answer) else Verdict("answered")
    except target.refusals as error:
        found = _of_refusal(error)
    except OverTime as error:
        found, detail = (
            Verdict("finding", f"over {limit:g} s of CPU time in {_places(error, outer=True)}"),
            _trace(error),
        )
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        found, detail = Verdict("finding", f"{type(error).__name__} in {_places(error)}"), _trace(error)
    spent = took[0]
    if not found.bad and spent.seconds > limit:
        found = Verdict("finding", f"over {limit:g} s of CPU time")
    if not found.bad and spent.memory > MEMORY:
        found = Verdict("finding", f"over {MEMORY / 1e9:g} GB of memory")
    if not found.bad and target.on_disk and (left := _files_wrong(target, case, found.kind == "refused")):
        found, detail = Verdict("finding", left[0]), left[1]
    if found.bad and not detail and isinstance(answer, Answer):
        detail = f"status {answer.status}\n{answer.out[-2000:]}\n{answer.err[-2000:]}"
    return found._replace(spent=spent, detail=detail)


def _empty() -> None:
    for entry in os.scandir("."):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def _write(case: Case) -> None:
    for name, content in case.files.items():
        if name.startswith("/") or ".." in name:
            raise ValueError("a file beyond the folder")
        if "/" in name:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)


def _of_answer(target: Target, case: Case, answer: Answer) -> Verdict:
    said = f"{answer.out}\n{answer.err}"
    if signs := CONTROL.search(answer.out) or CONTROL.search(answer.err):
        return Verdict("finding", f"prints the control character {signs.group()!r}")
    if "Traceback (most recent call last)" in said:
        return Verdict("finding", "prints a traceback")
    match answer.status:
        case 0:
            return Verdict("answered")
        case 1:
            return Verdict("refused" if re.search(r"\berror\[E\d{3}\]", said) else "answered")
        case 2 if CODE.search(said):
            return Verdict("refused")
        case 2:
            return Verdict("finding", "status 2 without a diagnostic")
        case status:
            return Verdict("finding", f"status {status}")


def _of_refusal(error: Exception) -> Verdict:
    if isinstance(error, PlanError):
        if not error.diagnostics:
            return Verdict("finding", "a PlanError without a diagnostic")
        if signs := CONTROL.search(str(error)):
            return Verdict("finding", f"an error with the control character {signs.group()!r}")
    return Verdict("refused")


def _files_wrong(target: Target, case: Case, refused: bool) -> tuple[str, str] | None:
    """What is wrong with the files that are left: a new or changed one is named on the command line."""
    found = {}
    for folder, _, names in os.walk("."):
        for name in names:
            path = os.path.join(folder, name)[2:]
            if LEFT.search(path):
                return "leaves a temporary file", path
            before = case.files.get(path)
            if before is None or os.path.getsize(path) != len(before) or Path(path).read_bytes() != before:
                found[path] = before is None
    asked = [word for given in case.argv for word in (given, given.partition("=")[2]) if word]
    asked += target.writes
    for path, new in found.items():
        if not any(is_below(path, word) for word in asked):
            return f"{'writes' if new else 'changes'} a file that was not asked for", path
    if refused and found and case.argv[:1] != ("fmt",):
        return "refuses, and yet writes a file", ", ".join(found)
    lost = [name for name in case.files if not os.path.lexists(name)]
    return ("removes a file", ", ".join(lost)) if lost else None


def _places(error: BaseException, outer: bool = False) -> str:
    """Where in the product it was raised: the innermost frames, or the outermost, without lines, which change."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename and "<" not in f.filename
    ]
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename]
    some = own[2 : 2 + PLACES] if outer else own[-PLACES:]
    return " < ".join(f"{Path(f.filename).stem}.{f.name}" for f in reversed(some)) or "no frame of plandsl"


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-12))[-6000:]
