"""Targets that run a verb of `planc`: files, options that mostly are legal, and mutants of both."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from random import Random

from attrs import evolve

from plandsl.codes import CODES
from plandsl.grammar import catalog
from plandsl.passes import PIPELINE
from tests import pairs
from tests.fuzz.case import Case, Corpus, Draw, Target
from tests.fuzz.inputs import MODELS, draw_bench, draw_command, draw_manifest, draw_script, draw_tables
from tests.fuzz.languages import LSP, SERVE
from tests.fuzz.measured import run_measure
from tests.fuzz.mutate import NUMBERS, mutate
from tests.fuzz.plans import COMMON, Files, draw_files, draw_search, is_timed, plan_of, vocabulary

Options = Callable[[Random, Files], list[str]]
"""The words behind a verb. It may change the files."""

PLAN = "p.plan"


MUTANTS, MUTATED = 0.2, 0.2
"""The share of cases that are mutants of one in the corpus, and of the others that are mutated as they are drawn."""


def verb(name: str, options: Options, over_time: float = 0.05, lean: float = 0.9, rates: float = 0.0) -> Target:
    """The target of a verb whose cases have plans.

    ``over_time`` of them have loads over time, and ``lean`` of them have little in them; see `draw_files`.
    """

    def draw(random: Random, corpus: Corpus) -> Case:
        if corpus and random.random() < MUTANTS:
            return mutant(random, corpus, options)
        files = draw_files(random, over_time, plans=1, lean=lean, rates=rates)
        words = options(random, files)
        if PLAN in files and random.random() < MUTATED:
            files[PLAN] = mutate(files[PLAN], random, words=vocabulary())
        return made(name, files, words)

    return Target(name, "verb", draw)


def verb_of(name: str, draw_one: Callable[[Random], tuple[Files, list[str]]]) -> Draw:
    """Draws cases of a verb that reads other files than plans."""

    def draw(random: Random, corpus: Corpus) -> Case:
        files, words = draw_one(random)
        if corpus and random.random() < MUTANTS:
            return mutant(random, corpus, lambda _, __: words)
        if files and random.random() < MUTATED:
            one = random.choice(sorted(files))
            files[one] = mutate(files[one], random)
        return made(name, files, words)

    return draw


def made(name: str, files: Files, words: list[str]) -> Case:
    """A case of a verb. A file that is `-` goes to standard input."""
    stdin = files.pop("-", b"")
    return Case(files, (name, *_tamed(words, files)), stdin)


def mutant(random: Random, corpus: Corpus, options: Options) -> Case:
    """One of the corpus, changed: one of its files, or its words."""
    case = random.choice(corpus)
    files, words = dict(case.files), list(case.argv[1:])
    others = [content for other in random.sample(corpus, min(3, len(corpus))) for content in other.files.values()]
    if files and random.random() < 0.5:
        one = random.choice(sorted(files))
        files[one] = mutate(files[one], random, others, vocabulary())
    elif random.random() < 0.7:
        words = options(random, files)
    elif words:
        at = random.randrange(len(words))
        match random.randrange(4):
            case 0 if "--requests" in words[max(at - 1, 0) : at + 1]:
                words[at] = "7"  # without `--requests`, all requests of the load are served, which takes long
            case 0:
                del words[at]
            case 1:
                words[at] = random.choice(NUMBERS).decode()
            case 2:
                words.insert(at, random.choice(words))
            case _:
                words[at] = mutate(words[at].encode(), random).decode("utf-8", "replace").replace("\0", "")
    return Case(files, (case.argv[0], *_tamed(words, files)), case.stdin)


def _tamed(words: Sequence[str], files: Files) -> Iterator[str]:
    """The same words, but ones that stay in the folder, and legal numbers that are served in a moment.

    Those are the numbers of requests, and of replicas that always run.
    """
    for before, word in zip(("", *words), words, strict=False):
        many = before in ("--requests", "--least") and re.fullmatch(r"[0-9_]{4,9}", word)
        yield word.replace("_", "")[:3] if many else _tame(word, files)


def _tame(word: str, files: Files) -> str:
    """The same word, but one that names no place beyond the folder, and asks for no network."""
    if word.startswith("--s") and not word.startswith(KNOWN):
        return "--seed"
    if "/" in word and "=" not in word and word not in files and word not in ALLOWED and not word.startswith("vllm "):
        return word.replace("/", "_")
    return word


KNOWN = ("--set", "--seed", "--steps", "--search", "--simulate", "--shrink", "--seconds")
"""Options that begin with these letters, but `--scheduler`, which opens a connection."""

ALLOWED = ("data/", "out/x", *MODELS)


# ---- options that several verbs take

SETS = (
    "workload.batch=64", "workload.batch=7", "workload.input=100", "workload.output=20", "step_tokens=512",
    "engine=vllm",
    "engine=sglang", "memory_fraction=80 %", "model.weights=fp8", "node.link.bandwidth=100 GB/s", "sharding.tp=1",
    "sharding.tp=2",
    "algorithm=ring", "calibration=unmeasured", "kv_residency=one_batch", "chunks=2", "node.gpu.memory=40 GB",
    "workload.seed=3",
    "overlap=collectives", "model.layers=2", "node.gpu.power=300 W", "micro_batches=2", "chunked_prefill=256",
)  # fmt: skip

WRONG = (
    "nonsense", "=4", "workload.batc=3", "workload.batch=2 s", "sharding.tp=1e400", "a.b.c.d=1", "workload.batch=0",
    "model=\x1b[31m",
    "workload.input=-1", "workload={ input = 1 }", "plan=x", "workload.batch=nan", "require=ttft", "node={",
    "model.hidden=\U0001f600",
)  # fmt: skip


def common(random: Random, files: Files) -> list[str]:
    """`--set`, `--json`: sometimes."""
    words: list[str] = []
    over_time = is_timed(_text(files)) and random.random() < 0.9  # such a load has fields of its own
    usual = [one for one in SETS if not (over_time and one.startswith("workload."))]
    while random.random() < 0.2:
        override = random.choice(usual) if random.random() < 0.9 else random.choice(WRONG)
        if random.random() < 0.05:
            override = mutate(override.encode(), random).decode("utf-8", "replace").replace("\0", "")
        words += ["--set", override]
    return words + (["--json"] if random.random() < 0.3 else [])


def _chosen(random: Random, files: Files, share: float = 1.0) -> list[str]:
    """`--plan` with a plan of the file, as often as ``share``."""
    return ["--plan", plan_of(_text(files), random)] if random.random() < share else []


def _text(files: Files) -> str:
    return files.get(PLAN, b"").decode("utf-8", "replace")


def _number(random: Random, *usual: int) -> str:
    """One of the usual numbers, or rarely one that nobody expects."""
    return random.choice(NUMBERS).decode() if random.random() < 0.02 else str(random.choice(usual))


def _one_of(random: Random, usual: Sequence[str], unusual: Sequence[str], share: float = 0.03) -> str:
    """One of the usual words, or seldom one that is refused."""
    return random.choice(unusual if random.random() < share else usual)


def _input(random: Random, files: Files) -> str:
    """The file with the plans, now and then on standard input; one that uses others must be a file."""
    if random.random() < 0.05 and (len(files) == 1 or random.random() < 0.1) and PLAN in files:
        files["-"] = files.pop(PLAN)
        return "-"
    return PLAN


def _compile(random: Random, files: Files) -> list[str]:
    words = common(random, files)
    dumped = random.random() < 0.3
    if dumped:
        words += ["--dump", _one_of(random, [step.name for step in PIPELINE], ("fuze",))]
        words += ["--phase", _phase(random, files)]
    chosen = _chosen(random, files, 1.0 if dumped else 0.7)
    return [_input(random, files), *chosen, *words]


def _phase(random: Random, files: Files) -> str:
    """What a plan has: where nothing comes out of it, nothing is decoded."""
    return "prefill" if b"output = 0" in files.get(PLAN, b"") else random.choice(("prefill", "decode"))


def _check(random: Random, files: Files) -> list[str]:
    words = common(random, files)
    if random.random() < 0.3:
        words += ["--format", random.choice(("text", "json", "sarif", "github"))]
    if random.random() < 0.1:
        files["q.plan"] = draw_files(random, 0.0, lean=0.8)["p.plan"]
        return [PLAN, "q.plan", *words]
    return [PLAN, *_chosen(random, files, 0.6), *words]


def _fmt(random: Random, files: Files) -> list[str]:
    names = sorted(name for name in files if name.endswith(".plan"))
    return [*names, *(["--check"] if random.random() < 0.3 else []), *(["--json"] if random.random() < 0.1 else [])]


def _explain(random: Random, files: Files) -> list[str]:
    if random.random() < 0.7:
        word = random.choice(
            ("TTFT", "KV cache", "hbm", "band", "tpot", "comm_share", "xyz", "E", "É", "\x1b[1m", "MFU", *CODES)
        )
        return [*word.split(), *(["--json"] if random.random() < 0.3 else [])]
    chosen = _chosen(random, files)
    return [_input(random, files), *chosen, *common(random, files)]


def _diff(random: Random, files: Files) -> list[str]:
    words = common(random, files)
    names = re.findall(r"^plan (\w+)", _text(files), re.M)
    if PLAN in files and not names[1:]:
        files[PLAN] += f"plan z9 = {plan_of(_text(files), random)} with {{ step_tokens = 256 }}\n".encode()
        names.append("z9")
    match random.randrange(4):
        case 0:
            files["q.plan"] = draw_files(random, 0.0, lean=0.8)["p.plan"]
            if b"plan p " in files["q.plan"] and "p" in names:
                return [PLAN, "q.plan", *words, *random.choice((["--plan", "p"], ["--each"]))]
            return [
                f"{PLAN}:{names[0] if names else 'p'}",
                f"q.plan:{plan_of(files['q.plan'].decode(), random)}",
                *words,
            ]
        case 1 if len(names) == 2 or random.random() < 0.1:
            return [PLAN, *words]
        case _:
            return [
                *(f"{PLAN}:{name}" for name in random.sample(names or ["p", "q"], 2 if len(names) != 1 else 1)),
                *words,
            ]


def _verify(random: Random, files: Files) -> list[str]:
    words = [*_chosen(random, files, 0.95), *common(random, files)]
    return [_input(random, files), *words, "--steps", _number(random, 1, 1, 1, 2), "--seed", _number(random, 0, 1, 7)]


def _render(random: Random, files: Files) -> list[str]:
    words = [*_chosen(random, files), *common(random, files)]
    view = random.choice(("devices", "communication", "block", "timeline", "memory"))
    # Graphviz takes 0.1 s and more for a picture, so that most are written for it to draw; a tradeoff is always drawn
    out = random.choices(("x.dot", "x.svg", "x.tex"), (97, 2, 1))[0]
    if random.random() < 0.01:
        few = ["--set", "workload.requests=20"] if is_timed(_text(files)) else []  # some 13 loads are served
        return [PLAN, *words, *few, "--view", "tradeoff", "-o", "x.svg"]
    phase = _phase(random, files)
    return [_input(random, files), *words, "--view", view, "--phase", phase, "-o", out]


def _with_search(random: Random, files: Files) -> list[str]:
    """`--search`, and a search over the plan, which is added to the file."""
    text = _text(files)
    if PLAN in files and not re.search(r"^search t\b", text, re.M):
        found = draw_search(random, is_timed(text)).replace("plan = p\n", f"plan = {plan_of(text, random)}\n")
        files[PLAN] += found.encode()
    return ["--search", "t"]


def _search(random: Random, files: Files) -> list[str]:
    words = [*_with_search(random, files), *common(random, files), "--top", _number(random, 1, 3, 10)]
    words += random.choice(([], [], ["-o", "best.plan"], ["--rows", "rows.csv"], ["--rows", "rows.parquet"]))
    if is_timed(_text(files)) or random.random() < 0.1:  # else 32 candidates serve all requests of the load
        words += ["--simulate", random.choice(("1", "1", "2")), "--requests", _number(random, 3, 10)]
    return [_input(random, files), *words]


def _simulate(random: Random, files: Files) -> list[str]:
    words = [*_chosen(random, files), *common(random, files), "--requests", _number(random, 1, 5, 10, 20)]
    seeds = ["--seeds", "2"] if is_timed(_text(files)) or random.random() < 0.1 else []
    words += random.choice(([], [], [], ["--rows", "rows.csv"], seeds))
    return [_input(random, files), *words]


ENGINES = ("vllm", "sglang", "trtllm", "dynamo", "k8s")
"""Targets of an export that are engines, or start one."""

FOREIGN = re.compile(r"\b(own|sp|cp|shift|mesh|unlike) [={]|gpus = \[|balanced")
"""What engines have no argument for."""


def _export(random: Random, files: Files) -> list[str]:
    words = [*_chosen(random, files), *common(random, files)]
    # engines refuse most features together, and other targets take them
    known = ("vllm", "sglang", "trtllm", "dynamo", "k8s", "jax", "perfetto", "chakra", "tensorrt")
    engines = FOREIGN.search(_text(files)) is None or random.random() < 0.1
    to = random.choices(known, (2, 2, 2, 1, 1, 3, 6, 6, 0.3) if engines else (0, 0, 0, 0, 0, 4, 6, 6, 0.3))[0]
    options = {
        "jax": ["--shrink"],
        "perfetto": ["--steps", _number(random, 1, 2)],
        "dynamo": ["--connector", random.choice(("nixl", "mooncake"))],
    }
    if random.random() < 0.5:
        words += options.get(to, [])
    match to:
        case "chakra":  # a graph of a million nodes takes long to write, as it was asked for: few ranks have fewer
            words += ["--ranks", _one_of(random, ("stages", "0"), ("0..1", "9,x"), 0.1), "-o", "out"]
        case "perfetto":
            words += random.choice(([], ["-o", "x.json"], ["-o", "x.pftrace"]))
        case _:
            words += random.choice(([], ["-o", "x.sh"]))
    return [_input(random, files), *words, "--to", to]


def _report(random: Random, files: Files) -> list[str]:
    words = common(random, files)
    words += _with_search(random, files) if random.random() < 0.1 else _chosen(random, files)
    words += ["--requests", _number(random, 2, 5, 20)] if random.random() < 0.9 else []
    return [_input(random, files), *words, "-o", _one_of(random, ("x.html",) * 8 + ("-",), ("x.txt",))]


def _laws(random: Random, files: Files) -> list[str]:
    if random.random() < 0.03:
        return ["--list"]
    from plandsl.testing.known import LAWS, name_of

    chosen = random.sample(sorted(name_of(law) for law in LAWS), 2)
    words = [word for name in chosen for word in ("--law", name)]
    return [_input(random, files), *_chosen(random, files), *common(random, files), *words, "--draws", "0"]


def _autoscale(random: Random, files: Files) -> list[str]:
    every = _one_of(random, ("1h", "15min", "1 min", "30 s"), ("0", "-1 s", "x"))
    words = [*_chosen(random, files), *common(random, files), "--every", every]
    return [
        _input(random, files),
        *words,
        "--requests",
        _number(random, 1, 2, 2, 5),
        "--least",
        _number(random, 0, 1, 2),
    ]


def _compare_comm(random: Random, files: Files) -> list[str]:
    words = [*_chosen(random, files, 0.8), *common(random, files)]
    return [PLAN, *words, *(["-o", "x.dot"] if random.random() < 0.2 else [])]


def _init(random: Random, files: Files) -> list[str]:
    files.clear()
    words = [_one_of(random, ("first.plan", "x.plan", "out/x.plan"), ("x",))] if random.random() < 0.7 else []
    if random.random() < 0.6:  # each knob of the start is tried, so that those with few layers come up more often
        usual = COMMON[:3] if random.random() < 0.9 else catalog.names("model")
        words += ["--model", _one_of(random, usual, ("llama", "\x1b[2J", "nobody"))]
    if random.random() < 0.6:
        words += ["--node", _one_of(random, catalog.names("node"), ("h100", "x" * 300))]
    return words + (["--json"] if random.random() < 0.3 else [])


def _catalog(random: Random, files: Files) -> list[str]:
    files.clear()
    kind = _one_of(random, catalog.kinds(), ("models", "llama", "\x1b]0;x\x07"), 0.15)
    names = catalog.names(kind) if kind in catalog.kinds() else ("x",)
    words = [kind, *([random.choice(names)] if random.random() < 0.8 else [])]
    return words + (["--json"] if random.random() < 0.4 else [])


def _import(random: Random) -> tuple[Files, list[str]]:
    more = ["--node", _one_of(random, ("h100_8", "mi300x_8"), ("nothing",))] if random.random() < 0.3 else []
    more += ["--model", _one_of(random, ("llama_3_1_8b", "qwen3_8b"), ("nothing",))] if random.random() < 0.3 else []
    more += random.choice(([], [], ["-o", "x.plan"], ["--json"]))
    match random.randrange(4):
        case 0:
            return {"m.yaml": draw_manifest(random)}, ["m.yaml", *more]
        case 1:
            return {"-": draw_script(random)}, ["-", *more]
        case 2:
            return {}, [*more, "--", *shlex.split(draw_command(random))]
        case _:
            return {"run.sh": draw_script(random)}, ["run.sh", *more]


def _calibrate(random: Random) -> tuple[Files, list[str]]:
    files = draw_tables(random, fits=True)
    return files, [random.choice(("data", *sorted(files))), "-o", random.choice(("x.plan", "x.plan", "x.plan", "out"))]


def _accuracy(random: Random) -> tuple[Files, list[str]]:
    files = draw_tables(random)
    more = random.choice(([], [], ["--json"], ["--rows", "rows.csv"]))
    return files, [random.choice(("data", *sorted(files))), *more]


CHAT = """plan chat {{
  model = {model}, node = h100_1{engine}
  workload {{ input = 1024, output = 128, concurrency = 32 }}
}}
"""


def _compare(random: Random) -> tuple[Files, list[str]]:
    name, content = draw_bench(random)
    more = random.choice(([], [], ["--json"], ["--rows", "rows.csv"]))
    # few ops and steps of one size, so that ten simulations take less long
    engine = ", engine = vllm" if random.random() < 0.04 else ""
    few = pairs.LITTLE + "\n" + CHAT.format(model="little", engine=engine)
    chat = few if random.random() < 0.97 else CHAT.format(model="llama_3_1_8b", engine=engine)
    return {"p.plan": chat.encode(), name: content}, ["p.plan", name, *more]


def _passes(random: Random, files: Files) -> list[str]:
    files.clear()
    return ["--json"] if random.random() < 0.5 else []


def _completion(random: Random, files: Files) -> list[str]:
    files.clear()
    return [random.choice(("bash", "zsh", "fish", "csh"))]


def _measure(random: Random, files: Files) -> list[str]:
    words = ["-o", _one_of(random, ("m.csv",), ("m.txt",))]
    if random.random() < 0.7:
        words += ["--for", PLAN, *_chosen(random, files), *common(random, files)]
    if random.random() < 0.5:
        words += ["--gpu", _one_of(random, ("my_gpu", "h100_sxm"), ("My GPU", "1"))]
    # the file is written after every kernel, so that few are enough; the clock of a made device tells when to end
    words += ["--seconds", _one_of(random, ("1", "0.1", "0.01"), ("nan", "-1"))] if random.random() < 0.9 else []
    words += ["--dtype", _one_of(random, ("bf16", "fp8"), ("fp17",))] if random.random() < 0.2 else []
    return words


VERBS: tuple[Target, ...] = (
    verb("check", _check),
    verb("compile", _compile),
    verb("fmt", _fmt),
    verb("explain", _explain, over_time=0.02, lean=0.95),
    verb("diff", _diff, over_time=0.02, lean=0.96),
    verb("verify", _verify, lean=0.96),
    verb("render", _render, lean=0.96),
    verb("search", _search, lean=0.96),
    verb("simulate", _simulate, over_time=0.9, lean=0.96),
    verb("export", _export, lean=0.96),
    verb("report", _report, lean=0.96),
    verb("laws", _laws, lean=0.96),
    verb("autoscale", _autoscale, rates=0.95),
    verb("compare-comm", _compare_comm),
    evolve(verb("init", _init), writes=("first.plan",)),
    verb("catalog", _catalog),
    verb("passes", _passes),
    verb("completion", _completion),
    Target("import", "verb", verb_of("import", _import)),
    Target("calibrate", "verb", verb_of("calibrate", _calibrate)),
    Target("accuracy", "verb", verb_of("accuracy", _accuracy)),
    Target("compare", "verb", verb_of("compare", _compare)),
    Target("measure", "verb", verb("measure", _measure, lean=0.8).draw, run_measure),
    LSP,
    SERVE,
)
