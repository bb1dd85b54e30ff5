"""The fuzzer in short: some cases of some targets, what it found before, and faults that it has to notice."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from plandsl.cli import VERBS
from plandsl.diagnostics import PlanError
from plandsl.driver import compile_text
from tests import draws
from tests.draws import some
from tests.fuzz.case import Answer, Case, Target, load, save
from tests.fuzz.judge import judge, scratch
from tests.fuzz.plans import draw_text
from tests.fuzz.replay import verdict_of
from tests.fuzz.run import Runner
from tests.fuzz.shrink import shrink
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import number_of, run_batch

FOUND = sorted((Path(__file__).parent / "fuzz" / "found").glob("*/case.json"))
PLAN = b"plan p { model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, workload { input = 100, output = 10 } }\n"


@pytest.fixture(autouse=True)
def process_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all tests before left in this process is no memory of a case."""
    for module in ("judge", "worker"):
        monkeypatch.setattr(f"tests.fuzz.{module}.MEMORY", 10**12)


@pytest.mark.parametrize("name", some(sorted(TARGETS), 6, "fuzz"))
def test_drawn_cases_end_in_an_answer_or_a_diagnostic(name: str) -> None:
    target, seed = TARGETS[name], draws.SEED or os.urandom(4).hex()
    with scratch():
        for number in range(2):
            # an hour of CPU time: no test asserts a time
            verdict = judge(target, target.draw(number_of(seed, target, number), ()), seconds=3600)
            assert not verdict.bad, f"{verdict.why}: {name}, seed {seed}, case {number}\n{verdict.detail}"


def test_every_verb_has_a_target() -> None:
    assert set(VERBS) - set(TARGETS) == {"run"}, "it takes programs of JAX, each a process of its own"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_what_was_found_is_mended(path: Path) -> None:
    verdict = verdict_of(path.parent)
    assert not verdict.bad, f"{verdict.why}\n{verdict.detail}"


@pytest.mark.slow
def test_most_drawn_plans_compile() -> None:
    made = 0
    for number in range(100):
        with suppress(PlanError):
            made += bool(compile_text(draw_text(Random(f"{draws.SEED} {number}"), over_time=0.1)))
    assert made >= 65


def test_a_case_follows_from_its_seed_and_is_kept_as_it_is(tmp_path: Path) -> None:
    for name in ("check", "import", "lsp", "serve"):
        one, again = (TARGETS[name].draw(number_of("s", TARGETS[name], 5), ()) for _ in range(2))
        save(one, tmp_path / name)
        assert one == again == load(tmp_path / name)


# ---- faults that are planted


def faulty(what: str) -> Target:
    """A verb that goes wrong where its input has the word `bad`."""

    def run(case: Case) -> Answer:
        if b"bad" not in case.files.get("in", b""):
            return Answer(0, "fine")
        match what:
            case "raises":
                raise KeyError("bad")
            case "loops":
                while True:
                    pass
            case "status":
                return Answer(3)
            case "silence":
                return Answer(2, "", "something is wrong")
            case "traceback":
                return Answer(1, "", "Traceback (most recent call last):\n")
            case "escape":
                return Answer(2, "", "error[E100]: \x1b[31m")
            case "half":
                Path(".out-12.tmp").write_text("half")
            case "more":
                Path("other").write_text("")
            case "changes":
                Path("in").write_text("")
            case "removes":
                Path("in").unlink()
            case "refuses":
                Path("out").write_text("")
                return Answer(2, "", "error[E100]: no")
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return Answer(0, "fine")

    def draw(random: Random, corpus: object) -> Case:
        return Case(
            {"in": b"\n".join(random.choice((b"a", b"b", b"bad")) for _ in range(3)), "not": b"read"},
            ("x", "-o", "out"),
        )

    return Target(what, "verb", draw, run, seconds=0.03 if what == "loops" else 2.0)


WORDS = {
    "raises": "KeyError in no frame of plandsl",
    "loops": "over 0.03 s of CPU time in no frame of plandsl",
    "status": "status 3",
    "silence": "status 2 without a diagnostic",
    "traceback": "prints a traceback",
    "escape": r"prints the control character '\x1b'",
    "half": "leaves a temporary file",
    "more": "writes a file that was not asked for",
    "changes": "changes a file that was not asked for",
    "removes": "removes a file",
    "refuses": "refuses, and yet writes a file",
}


@pytest.mark.parametrize("what", WORDS)
def test_a_fault_is_found_counted_and_made_small(what: str) -> None:
    target = faulty(what)
    numbers = range(1, 4)  # of which none is traced
    bad = sum(b"bad" in target.draw(number_of("s", target, n), ()).files["in"] for n in numbers)
    done = run_batch(target, numbers, "s", corpus=(), known=set())
    assert (done.inputs, done.counts) == (3, {WORDS[what]: bad})
    assert bad == 3 - done.answered
    assert done.found[0].small == Case({"in": b"bad"}, ("x",) if what != "refuses" else ("x", "out"))


def test_a_worker_that_dies_is_a_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    target = faulty("dies")
    runner = Runner([target], tmp_path, "s", say=told.append)
    runner.run(60, cases=6)
    cases = [target.draw(number_of("s", target, n), ()) for n in range(6)]
    bad = sum(b"bad" in case.files["in"] for case in cases)
    body = json.loads((tmp_path / "report.json").read_text())["targets"]["dies"]
    assert body["inputs"] == 6
    assert body["findings"] == {"the process ended with SIGKILL": bad}
    assert told
    (kept, *_) = sorted((tmp_path / "findings" / "dies").iterdir())
    assert load(kept) in cases


def test_a_fault_of_the_product_is_found_by_its_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    target, case = TARGETS["compile"], Case({"p.plan": PLAN}, ("compile", "p.plan"))
    with scratch():
        assert judge(target, case).kind == "answered"
        monkeypatch.setattr("plandsl.backends.cost.estimate", lambda *_: {}["nothing"])
        found = judge(target, case)
    assert found.kind == "finding"
    assert found.why.startswith("KeyError in ")


def test_memory_of_a_case_is_told_apart_from_that_of_the_cases_before(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("large", "verb", lambda random, corpus: Case(), lambda case: b"x" * case.size)
    with scratch():
        large = judge(target, Case({"in": b"\0" * 3 * 10**7}))
        small = judge(target, Case())
        assert large.spent.memory > small.spent.memory + 2 * 10**7
        monkeypatch.setattr("tests.fuzz.judge.MEMORY", (large.spent.memory + small.spent.memory) // 2)
        assert judge(target, Case({"in": b"\0" * 3 * 10**7})).why.startswith("over ")


def test_shrinking_keeps_what_matters() -> None:
    case = Case({"a": b"x\ny\nz\nneedle\n", "b": b"y"}, ("verb", "--a", "--b", "1"), b"stdin")
    assert shrink(case, lambda one: b"needle" in one.files.get("a", b"")) == Case({"a": b"needle"}, ("verb",))
