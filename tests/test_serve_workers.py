"""Workers of the playground that take too much, fail or end: each request is answered, and the next one too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="this system has no limits of processes")

from plandsl.backends.serve.limits import LIMITS
from plandsl.backends.serve.workers import Crew, Reply
from tests.misbehaving import WRITTEN, misbehave

ROOT = Path(__file__).parents[1]
LIMITS_HERE = LIMITS._replace(seconds=0.5, workers=1, waiting=2, recycle=3, memory=1 << 29)


class Team:
    """A crew of one worker, and what it logged."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.crew = Crew(misbehave, LIMITS_HERE, (), self.log.append)
        self.loop = asyncio.new_event_loop()
        self.crew.start()

    def ask(self, *kinds: str) -> list[Reply]:
        """The answers to questions that come at once."""

        async def all_of() -> list[Reply]:
            return await asyncio.gather(*(self.crew.ask(kind, b"") for kind in kinds))

        return self.loop.run_until_complete(all_of())

    def next(self) -> Reply:
        """The answer to an honest question, once the worker is replaced."""
        for _ in range(40):
            (reply,) = self.ask("tell")
            if reply.status == 200:
                break
        return reply


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    WRITTEN.unlink(missing_ok=True)
    team = Team()
    yield team
    team.crew.stop()
    team.loop.run_until_complete(end_tasks())
    team.loop.close()


async def end_tasks() -> None:
    """End what replaces workers when all are stopped."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["diagnostics"][0]["code"])


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("sleep", 503, "E598"),
        ("spin", 503, "E598"),
        ("eat", 503, "E598"),
        ("grow", 503, "E598"),
        ("leave", 503, "E598"),
        ("talk", 503, "E598"),
        ("fail", 500, "E599"),
        ("recurse", 500, "E599"),
        ("deepen", 503, "E598"),
        ("read", 500, "E599"),
        ("write", 500, "E599"),
        ("start", 500, "E599"),
    ],
)
def test_a_worker_that_misbehaves_is_replaced(team: Team, kind: str, status: int, expected: str) -> None:
    (reply,) = team.ask(kind)
    assert (reply.status, code(reply)) == (status, expected)
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert team.next().status == 200


def test_what_failed_is_told_to_the_owner(team: Team) -> None:
    team.log.clear()
    team.ask("fail")
    assert "a secret of the server" in "".join(team.log)
    assert not WRITTEN.exists()


def test_a_worker_is_replaced_after_so_many_answers(team: Team) -> None:
    pids = [json.loads(team.next().body)["pid"] for _ in range(8)]
    assert 3 <= len(set(pids)) <= 4
    assert os.getpid() not in pids


def test_too_many_requests_at_once_are_refused_at_once(team: Team) -> None:
    start = time.monotonic()
    replies = team.ask(*["sleep"] * 6)
    assert {code(reply) for reply in replies} == {"E598"}
    assert sum(b"too many" in reply.body for reply in replies) >= 3
    assert time.monotonic() - start < 10
    assert len(team.crew.all) <= 1


STARTED = (
    "from plandsl.backends.serve.workers import Crew\n"
    "from plandsl.backends.serve.limits import LIMITS\n"
    "from plandsl.diagnostics import PlanError\n"
    "from tests.misbehaving import misbehave\n"
    "try:\n    Crew(misbehave, LIMITS, {loaded}, print).start()\n"
    "except PlanError as error:\n    print(error.diagnostics[0].code, error.diagnostics[0].hint)\n"
)


def started(loaded: list[str], path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a process says that starts workers, with the modules of ``path``."""
    paths = os.pathsep.join([str(path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = os.environ | {"PYTHONPATH": paths} | variables
    code = STARTED.format(loaded=loaded)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, check=False)


def test_a_compiler_that_cannot_be_loaded_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "broken_for_a_test.py").write_text("raise KeyError('no compiler')\n")
    done = started(["broken_for_a_test"], tmp_path)
    assert done.stdout.startswith("E595 what they printed above")
    assert "no compiler" in done.stderr


def test_a_folder_whose_name_is_too_long_for_sockets_is_told_of(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    assert "set TMPDIR to a shorter one" in started([], tmp_path, TMPDIR=str(folder)).stdout
