"""Targets that read texts: plans, programs (IR), links and questions of the playground, overrides, parts in Python."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

from tests.fuzz.after import seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.documents import spoiled
from tests.fuzz.mutate import NUMBERS, mutate, mutate_one
from tests.fuzz.plans import draw_text, vocabulary

# ---- plans


def _draw_plan(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.25:
        return mutate_one(random, corpus, vocabulary())
    content = draw_text(random, over_time=0.05).encode()
    return Case({"p.plan": mutate(content, random, words=vocabulary()) if random.random() < 0.3 else content})


def _plan(case: Case) -> object:
    """The tree of the text; without mistakes it is formatted, and then formatted again to the same."""
    from plandsl.diagnostics import PlanError
    from plandsl.grammar.fmt import format_text
    from plandsl.grammar.parse import decode, parse

    text, found = decode(case.files["p.plan"], "p.plan")
    _, more = parse(text, "p.plan") if not found else (None, [])
    if wrong := [one for one in (*found, *more) if one.severity == "error"]:
        raise PlanError(wrong, {"p.plan": text})
    done = format_text(text, "p.plan")
    assert format_text(done, "p.plan") == done
    return None


PLAN = Target("plan", "reader", _draw_plan, _plan, on_disk=False)

# ---- programs

PLANS = (
    "model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }",
    "model = mixtral_8x7b, node = h100_8, sharding { mesh a = 4, b = 2; batch -> a; experts -> a; heads -> b }",
    "model = gemma_3_1b, node = h100_1, sharding { }",
    "model = qwen3_8b, node = h100_8, sharding { pp = 4, tp = 2 }, chunks = 2",
    "model = deepseek_v3, node = h200_8, sharding { tp = 8 }",
)


@cache
def programs() -> tuple[str, ...]:
    """Programs of several plans as text, early and late in the pipeline."""
    from plandsl.diagnostics import PlanError
    from plandsl.driver import compile_text
    from plandsl.ir.text import show

    found = []
    for body in PLANS:
        try:
            (plan,) = compile_text(f"plan p {{ {body}, workload {{ input = 100, output = 10, batch = 8 }} }}")
        except PlanError:
            continue
        for phase, step in (("prefill", "build"), ("decode", "insert-collectives"), ("decode", "place-memory")):
            found.append(show(plan.program(phase, step)))
    return tuple(found)


def _draw_ir(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus, _ir_words())
    lines = random.choice(programs()).splitlines()
    for _ in range(random.choice((0, 1, 2))):
        at = next((i for i, line in enumerate(lines) if line.startswith("dim ") and random.random() < 0.3), None)
        if at is not None and lines[at].rpartition(" ")[2].isdigit():
            lines[at] = f"{lines[at].rpartition(' ')[0]} {random.choice((1, 2, 7, 64, 4096, 10**9, 10**30))}"
    text = ("\n".join(lines) + "\n").encode()
    return Case({"p.ir": mutate(text, random, words=_ir_words()) if random.random() < 0.4 else text})


@cache
def _ir_words() -> tuple[bytes, ...]:
    from plandsl.ir.ops import OPS

    words = [op.keyword for op in OPS]
    return tuple(
        word.encode()
        for word in (
            *words,
            *[
                "%x",
                "-",
                "{+tensor}",
                "@tensor",
                "region",
                "weight",
                "live",
                "stage",
                "dim",
                "1..3",
                "by",
                "at",
                "true",
            ],
        )
    )


def _ir(case: Case) -> object:
    """Read the program; what is read prints as it was read, and is verified."""
    from plandsl.ir.program import verify
    from plandsl.ir.text import read, show

    program = read(case.files["p.ir"].decode("utf-8", "replace"))
    assert read(show(program)) == program
    verify(program)
    return None


IR = Target("ir", "reader", _draw_ir, _ir, refusals=(ValueError,), on_disk=False)

# ---- the playground


def _draw_link(random: Random, corpus: Corpus) -> Case:
    from plandsl.playground.link import fragment

    if corpus and random.random() < 0.2:
        return Case({}, (mutate(random.choice(corpus).argv[0].encode(), random).decode("utf-8", "replace"),))
    link = fragment(
        draw_text(random) if random.random() < 0.5 else random.choice(("", "a", "é" * 9, "x" * 300_000, "\ud800"))
    )
    if random.random() < 0.5:
        link = f"http://127.0.0.1:8765/{link}"
    return Case({}, (mutate(link.encode(), random).decode("utf-8", "replace") if random.random() < 0.4 else link,))


def _link(case: Case) -> object:
    """The text in the link; it makes a link with the same text."""
    from plandsl.playground.link import fragment, text_of

    text = text_of(case.argv[0])
    assert text_of(fragment(text)) == text
    return None


LINK = Target("link", "reader", _draw_link, _link, on_disk=False)


def _draw_question(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return Case(stdin=mutate(random.choice(corpus).stdin, random))
    asked: dict[str, Any] = {"text": draw_text(random)}
    more = {"plan": "p", "view": "devices", "phase": "decode", "line": random.randint(1, 60), "column": 3}
    asked |= {key: value for key, value in more.items() if random.random() < 0.4}
    return Case(stdin=spoiled(asked, random))


def _question(case: Case) -> object:
    from plandsl.diagnostics import PlanError
    from plandsl.playground.asked import Malformed, read

    try:
        return read(case.stdin)
    except Malformed as error:
        raise PlanError([error.diagnostic]) from None


QUESTION = Target("question", "reader", _draw_question, _question, on_disk=False)

# ---- overrides

PATHS = (
    "workload.batch", "workload.input", "model.layers", "node.count", "node.gpu.memory", "sharding.tp", "engine",
    "algorithm",
    "node.link.bandwidth", "model.weights", "chunks", "x", "workload", "a.b.c.d.e", "", ".", "workload..batch",
    "plan", "p.workload.batch",
)  # fmt: skip
VALUES = (
    "64",
    "7",
    "2",
    "ring",
    "vllm",
    "80 GB",
    "100 GB/s",
    "fp8",
    "1 s",
    "{ batch = 2 }",
    "[1, 2]",
    "3 * 4",
    '"x"',
    "true",
    "h100_2",
)


def _draw_set(random: Random, corpus: Corpus) -> Case:
    pairs = []
    for _ in range(random.choice((1, 1, 2, 4))):
        value = random.choice(VALUES) if random.random() < 0.9 else random.choice(NUMBERS).decode()
        pair = f"{random.choice(PATHS)}={value}" if random.random() < 0.15 else random.choice(SOUND)
        if random.random() < 0.08:
            pair = mutate(pair.encode(), random).decode("utf-8", "replace")
        pairs.append(pair)
    return Case({}, tuple(pairs))


SOUND = (
    "workload.batch=64",
    "workload.input=100",
    "model.weights=fp8",
    "algorithm=ring",
    "engine=vllm",
    "sharding.tp=2",
    "chunks=2",
)


def _set(case: Case) -> object:
    """Overrides of a plan, which is checked."""
    from argparse import Namespace

    from plandsl.commands.sources import read_overrides
    from plandsl.diagnostics import PlanError
    from plandsl.driver import check_plan, open_text

    module = open_text(TEXT, "p.plan", read_overrides(Namespace(overrides=list(case.argv))))
    _, found = check_plan(module, "p")
    if wrong := [one for one in (*module.diagnostics, *found) if one.severity == "error"]:
        raise PlanError(wrong, module.sources)
    return None


TEXT = """plan p {
  model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }
  workload { input = 100, output = 10, batch = 4 }
}
"""

SET = Target("set", "reader", _draw_set, _set, on_disk=False)

# ---- Python


def _draw_part(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus, vocabulary())
    content = draw_text(random, over_time=0.05).encode()
    return Case({"p.plan": mutate(content, random, words=vocabulary()) if random.random() < 0.2 else content})


def _part(case: Case) -> object:
    """A plan as an object of Python, and its text, which is read again."""
    import plandsl as ps

    text = case.files["p.plan"].decode("utf-8", "replace")
    plan = ps.Plan.read(text, name="p")
    if seldom(case.files["p.plan"], 4):
        assert str(ps.Plan.read(str(plan), name="p")) == str(plan)
    return None


PART = Target("python", "reader", _draw_part, _part, on_disk=False)

# ---- a notebook

OPTIONS = ("--view", "--phase", "--no-picture", "devices", "block", "timeline", "prefill", "decode", "--view=memory")


def _draw_magic(random: Random, corpus: Corpus) -> Case:
    """The line behind `%%plan`, and a cell."""
    pairs = (("--view", random.choice(OPTIONS[3:6])), ("--phase", random.choice(OPTIONS[6:8])), ("--no-picture",))
    words = [word for pair in pairs if random.random() < 0.5 for word in pair]
    if random.random() < 0.3:
        words.insert(random.randint(0, len(words)), random.choice(OPTIONS))
    line = " ".join(words)
    if random.random() < 0.2:
        line = mutate(line.encode(), random, words=[word.encode() for word in OPTIONS]).decode("utf-8", "replace")
    return Case({}, (line,))


def _magic(case: Case) -> object:
    from plandsl.api.magic import _options

    return _options(case.argv[0])


MAGIC = Target("magic", "reader", _draw_magic, _magic, on_disk=False)

TEXTS = (PLAN, IR, LINK, QUESTION, SET, PART, MAGIC)
