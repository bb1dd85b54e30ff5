"""Draws `.plan` files, most of them legal: small models with any features together, models of the catalog, loads,
searches.

Features of small models are those of `tests/pairs.py`; here their sizes, loads, requirements and other fields vary too.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from plandsl.grammar import catalog
from tests import pairs
from tests.pairs import FEATURES, together

Files = dict[str, bytes]


class Asked(NamedTuple):
    """What a file of plans is drawn with: see `draw_files`. ``files`` gets those that it uses."""

    random: Random
    files: Files
    over_time: float
    small: bool
    rates: bool


ROOT = Path(__file__).resolve().parents[2]

AT_ONCE = ("encoder", "micro_batches", "pools", "reuse_own", "reuse_shared", "tower")
"""Features of a plan whose requests do not arrive at rates, or that is not scaled."""

SLOW = ("balanced", "draft", "lognormal", "mtp", "pools", "shift", "tower", "unlike")
"""Features with which a plan takes several times as long to answer."""

AMISS = 0.05
"""How often what is drawn may be wrong where it could be seen to be right."""

GPUS = 16
"""How many the machines of plans of features have."""

REFUSED = ({"balanced", "shift"},)
"""Pairs of features that contradict each other (tests/test_pairs.py)."""


def draw_files(random: Random, over_time: float = 0.1, plans: int = 2, lean: float = 0.0, rates: float = 0.0) -> Files:
    """A file `p.plan` with one plan or a few, and files that it uses. ``over_time`` is the share of loads over time.

    ``lean`` of the files have one plan of few features, and models with few kinds of layers: verbs that answer slowly
    mostly get these. In ``rates`` of the files there is a plan whose requests arrive at rates, and no pools.
    """
    files: Files = {}
    small = random.random() < lean
    rated = random.random() < rates
    asked = Asked(random, files, 1.0 if rated else over_time, small, rated)
    text = random.choices((_featured, _catalog, _example), (6, 3, 0 if rated else 1))[0](asked)
    for number in range(random.choice((0, 0, 0, 1, plans)) if not small or random.random() < 0.1 else 0):
        text += f"plan r{number} = p with {{ {_changes(random, is_timed(text))} }}\n" if "plan p" in text else ""
    if random.random() < (0.02 if small else 0.08):
        text = _extreme(text, random)
    text = _dressed(text, random)
    if random.random() < 0.05:
        text = _split(text, files, random)
    return {"p.plan": text.encode(), **files}


def draw_text(random: Random, over_time: float = 0.1, lean: float = 0.0) -> str:
    """One file of plans that needs no other."""
    while True:
        files = draw_files(random, over_time, lean=lean)
        if len(files) == 1:
            return files["p.plan"].decode()


# ---- models that are small, with features


def _featured(asked: Asked) -> str:
    random, names = asked.random, list[str]()
    most = random.choice((1, 1, 2, 2, 2, 3) if asked.small else (1, 2, 2, 3, 3, 4, 5, 7))
    without = set(SLOW) if asked.small and random.random() < 0.85 else set[str]()
    without |= set(AT_ONCE) if asked.rates else set()
    for name in random.sample(sorted(set(FEATURES) - without), 16):
        said = together(*names, name)
        if (
            len(names) < most
            and said
            and pairs.ranks(said) <= 8
            and not any(pair <= {*names, name} for pair in REFUSED)
        ):
            names.append(name)
    said = together(*names) or {}
    other = {matter: _other_size(matter, value, random) for matter, value in said.items()}
    if pairs.ranks(other) <= GPUS or random.random() < AMISS:
        said = other
    text = _scaled(pairs.text(said), random, split=pairs.ranks(said) > 1)
    text = _loaded(text, asked, plain=bool({"reads", "prefix", "tower"} & said.keys()))
    if random.random() < (0.9 if asked.small else 0.5):
        text = re.sub(r"^plan more .*\n", "", text, flags=re.M)
    fields = _fields(random, engine="engine" not in said, timed=is_timed(text))
    return text.replace("plan p {\n", "plan p {\n  " + "\n  ".join(fields) + "\n", 1)


def _other_size(matter: str, value: pairs.Said, random: Random) -> pairs.Said:
    if matter in ("tp", "pp", "dp", "sp", "cp", "ep", "own") and value == 2:
        return random.choice((2, 2, 2, 4))
    return value


def is_timed(text: str) -> bool:
    """Whether a load of the text has requests over time."""
    return bool(re.search(r"\b(rate|trace) =", text))


def _scaled(text: str, random: Random, split: bool) -> str:
    """The same with other sizes of the models, which still go together."""
    times = random.choice((1, 1, 1, 2, 4, 16, 128))
    text = re.sub(r"\b(hidden|ffn|out) = (\d+)", lambda m: f"{m[1]} = {int(m[2]) * times}", text)
    if random.random() < 0.3:
        even = split and random.random() >= AMISS  # what is split must be a multiple of the ranks
        vocab = random.choice((1008, 32_000, 128_256) if even else (7, 97, 1000, 32_000, 128_256))
        text = text.replace("vocab = 96", f"vocab = {vocab}")
    if random.random() < 0.3:
        text = text.replace("layers = 4,", f"layers = {random.choice((4, 5, 6, 8, 12, 13, 32))},")
    if random.random() < 0.15:
        text = text.replace("head_dim = 8", f"head_dim = {random.choice((6, 16, 64, 64, 128, 128, 2, 7))}")
    if random.random() < 0.1:
        text = text.replace(
            "heads = 8, kv_heads = 4", random.choice(("heads = 16, kv_heads = 4", "heads = 8, kv_heads = 8"))
        )
    if random.random() < 0.4:
        groups = not split or times >= 16 or random.random() < AMISS  # a group is not split
        text = text.replace("weights = bf16", f"weights = {random.choice((*PLAIN, *(GROUPS if groups else ())))}")
    return text


PLAIN = ("fp8", "fp8", "int8", "int8_channel", "fp4", "int4", "fp16", "fp32")
GROUPS = ("int4_128", "fp8_128x128", "mxfp4", "nvfp4", "q4_k", "int4_128(4.14)")
"""Formats of weights: of single elements or whole rows, and of groups."""


# ---- loads

STATIC = re.compile(r"workload \{ input = 24, output = (\d+), ([a-z]+ = \d+(?:, requests = \d+)?)")


def _loaded(text: str, asked: Asked, plain: bool) -> str:
    """The same under another load."""
    random, files = asked.random, asked.files
    if not plain and random.random() < asked.over_time:
        text = text[: text.index("plan more")].replace("prefill { batch = 2 }", "prefill { }")
        return STATIC.sub(lambda _: "workload { " + _over_time(files, random, asked.rates), text)
    if random.random() < 0.5:
        return text
    # the longest prompts in chunks of 16 tokens are thousands of steps, each of which is simulated where that is asked
    size = random.choice((1, 2, 7, 100, 1000, *((4096, 33_000) if "chunked_prefill" not in text else ())))

    def other(found: re.Match[str]) -> str:
        output = random.choice((1, 2, 50, 400)) if found[1] != "0" else 0
        return f"workload {{ input = {max(24, size) if plain else size}, output = {output}, {found[2]}"

    return STATIC.sub(other, text)


def _length(random: Random) -> str:
    return random.choice((
        "100", "24", "1", "uniform(2, 60)", "normal(mean = 50, sigma = 20, min = 1)", "lognormal(mean = 40, p95 = 120)",
        "lognormal(p50 = 20, sigma = 0.7, max = 400)", "exponential(40)", "zipf(1.2, max = 300)",
        "vllm_range(64, ratio = 0.2)", "sglang_range(64, ratio = 0.3)", 'empirical("lengths.csv")',
    ))  # fmt: skip


def _rate(random: Random, rates: bool) -> str:
    if not rates and random.random() < 0.1:
        return "at_once"
    return random.choice((
        "8 req/s", "poisson(20 req/s)", "constant(5 req/s)", "gamma(mean = 8 req/s, cv = 2.5)",
        "vllm_rate(8 req/s, burstiness = 0.5)", "on_off(20 req/s, on = 3 s, off = 9 s)",
        "[[0 s, 2 req/s], [8 s, 20 req/s]]",
        "varying([[0 s, 2 req/s], [8 s, 20 req/s]], every = 24 s)", "0.001 req/s", "5000 req/s",
    ))  # fmt: skip


def _over_time(files: Files, random: Random, rates: bool) -> str:
    """Fields of a load whose requests arrive over time, or with lengths that vary."""
    count = random.choice((1, 2, 5, 10, 20, 20, 40))
    short = rates and random.random() < 0.8  # the rate that a server bears is searched, one simulation a step
    lengths = f"input = {_length(random)}, output = {random.choice((1, 2, 5)) if short else _length(random)}"
    match random.randrange(8):
        case 0 if not rates:
            found = f"{lengths}, concurrency = {random.choice((1, 4, 16))}, requests = {count}"
        case 1:
            files["t.csv"] = _trace(random)
            found = 'trace = "t.csv"' + random.choice(("", ", speed = 2", ", rate = 3 req/s", f", requests = {count}"))
        case 2:
            talk = "sessions { turns = uniform(1, 4), think = exponential(3 s), system = 16 }"
            found = f"{lengths}, rate = 2 req/s, requests = {count}\n {talk}"
        case 3:
            parts = (("a", 80), ("b", 20))
            each = "\n".join(f"class {n} {{ share = {s} %, input = {_length(random)}, output = 9 }}" for n, s in parts)
            found = f"rate = {_rate(random, rates)}, requests = {count}\n{each}"
        case 4:
            found = f"{lengths}, rate = 3 req/s, duration = {random.choice((1, 3, 8))} s"
        case _:
            found = f"{lengths}, rate = {_rate(random, rates)}, requests = {count}, seed = {random.choice((0, 1, 7))}"
    if "lengths.csv" in found:
        files["lengths.csv"] = b"input,output\n" + b"".join(b"%d,%d\n" % (random.randint(1, 90), 3) for _ in range(5))
    return found


def _trace(random: Random) -> bytes:
    rows = random.randint(1, 8)
    if random.random() < 0.5:
        lines = (
            f'{{"timestamp": {i * 900}, "input_length": {random.randint(1, 99)}, "output_length": 5}}'
            for i in range(rows)
        )
        return "\n".join(lines).encode()  # in a .csv file this is refused
    start = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    times = (
        f"2023-11-16 18:15:{i:02}.5,{random.randint(1, 99)},{random.randint(random.random() < 0.95, 9)}\n"
        for i in range(rows)
    )
    return (start + "".join(times)).encode()


# ---- fields of a plan


def _fields(random: Random, engine: bool = True, timed: bool = False) -> list[str]:
    """A few fields of a plan, each legal for most plans."""
    some = {
        "kv_residency": ("all_batches", "one_batch"),
        "step_tokens": ("0", "64", "512", "8192"),
        "memory_fraction": ("90 %", "0.5", "1.0"),
        "hop_tensors": ("1", "2"),
        "fuse_norms": ("true", "false"),
        "algorithm": ("auto", "ring", "direct", "one_shot", "tree"),
        "router": ("round_robin", "least_loaded", "two_choices", "prefix"),
        "calibration": ("generic", "h100_sxm", "pooled", "unmeasured", "generic with { hbm = 0.85 }"),
        "pricing": ("on_demand", "reserved"),
    }
    if engine:
        some["engine"] = ("vllm", "sglang", "trtllm", "atom", "vllm_rocm", f"vllm with {{ {_engine(random)} }}")
    found = [
        f"{name} = {random.choice(some[name])}"
        for name in random.sample(sorted(some), random.choice((0, 0, 1, 1, 2, 3)))
    ]
    return found + [f"require {_bound(random, timed)}" for _ in range(random.choice((0, 0, 0, 1, 2)))]


def _engine(random: Random) -> str:
    return random.choice((
        "max_requests = 16", "scheduler = trtllm, room = max_utilisation", "prefix_cache = false", "fusions = []",
        "kv_tiers = [[20 GB, 50 GB/s], [2 TB, 6 GB/s, 100 us]]", "step = 1 ms, request = 10 us",
        "graph_sizes = [1, 2, 4, 8]",
        "fusions = [all_reduce_norm, residual_norm]", "watermark = 2 %, order = priority",
        "long_prompt = 32, adaptive = true",
        "memory_fraction = 95 %, max_requests = 7", "ahead = false", "chunked = false", "kv_block = 64",
    ))  # fmt: skip


def _bound(random: Random, timed: bool) -> str:
    if random.random() < 0.1 and (timed or random.random() < AMISS):
        return random.choice(("p95(ttft) <= 1 s", "goodput >= 1 req/s"))
    return random.choice((
        "ttft <= 2 s", "tpot < 40 ms", "latency <= 1 us", "throughput >= 10 tok/s", "memory <= 95 %", "memory < 3 GB",
        "mfu >= 1 %", "max_batch >= 8 req", "kv_capacity >= 1000 tok", "comm_share <= 50 %", "cost <= 9 USD",
        "gpus <= 8",
        "energy <= 3 J", "power <= 9 kW", "ttft <= 1 s and tpot <= 1 s",
        "request_throughput > 1 req/s", "cost_blended <= 3 USD", "spend <= 99 USD/h", "100 ms >= tpot",
    ))  # fmt: skip


def _changes(random: Random, timed: bool) -> str:
    """What makes another plan of a plan."""
    if not timed and random.random() < 0.3:
        return random.choice(("workload { input = 64 }", "workload { output = 3 }", "workload { batch = 1 }"))
    return random.choice((
        "step_tokens = 128", "engine = sglang", "algorithm = ring",
        "require memory <= 90 %", "memory_fraction = 80 %", "model { weights = fp8 }", "calibration = unmeasured",
        "overlap = collectives, chunks = 3", "chunked_prefill = 640", "sharding { tp = 1 }",
        "node { link { bandwidth = 100 GB/s } }", "kv_residency = one_batch",
    ))  # fmt: skip


# ---- the catalog


def _catalog(asked: Asked) -> str:
    """A model and machine of the catalog."""
    random, common = asked.random, COMMON[:3] if asked.small else COMMON
    model = random.choice(common) if random.random() < (0.8 if asked.small else 0.5) else _any_model(random)
    formats = ("", "", "", "weights = fp8", "weights = fp8, kv_cache = fp8", "weights = int4_128", "activations = fp16")
    what = random.choice(formats)
    node = random.choice(("h100_8", "h200_8", "mi300x_8", "h100_2", "b200_8")) if random.random() < 0.6 else ""
    node = node or random.choice(catalog.names("node"))
    count = _gpus_of(node)
    machine = f"node = {node}"
    if random.random() < 0.08:
        machine, count = f"cluster = {random.choice(catalog.names('cluster'))}", 8
    degrees = _degrees(count, random)
    load = _over_time(asked.files, random, asked.rates) if random.random() < asked.over_time else _batch(random)
    fields = [f"model = {model}" + (f" with {{ {what} }}" if what else ""), machine]
    fields += _fields(random, timed=is_timed(load))
    fields += [f"sharding {{ {degrees} }}"] if degrees else []
    fields += [f"workload {{ {load} }}"]
    if random.random() < 0.1:
        drafts = [draft for draft, fits in DRAFTS.items() if fits in catalog.text("model", model)]
        draft = random.choice(["none", *(drafts if random.random() >= AMISS else DRAFTS)])
        fields += [f"speculate {{ draft = {draft}, tokens = {random.choice((1, 3, 7))}, acceptance = 70 % }}"]
    if random.random() < 0.08 and not asked.rates:
        first = "batch = 1" if " batch = " in load else ""
        fields += [f"prefill {{ {first} }}, decode {{ }}, transfer {{ bandwidth = 50 GB/s, latency = 10 us }}"]
    random.shuffle(fields)
    search = draw_search(random, is_timed(load)) if random.random() < 0.1 else ""
    return "plan p {\n  " + "\n  ".join(fields) + "\n}\n" + search


COMMON = ("llama_3_1_8b", "llama_3_2_1b", "qwen3_8b", "gpt_oss_20b", "mixtral_8x7b", "deepseek_v3")
"""Models that are drawn often, those with one kind of layer first."""

DRAFTS = {"llama_3_2_1b": "vocab = 128256", "mtp": "\n  mtp "}
"""What drafts, and what stands in a model of the catalog that it drafts for."""


def _any_model(random: Random) -> str:
    return random.choice(catalog.names("model"))


@cache
def _gpus_of(node: str) -> int:
    """The GPUs of a node of the catalog. Machines of clouds are made of nodes whose names tell."""
    if match := re.search(r"_(\d+)$", node):
        return int(match[1])
    match = re.search(rf"node {node} = (\w+)", catalog.text("node", node))
    return _gpus_of(match[1]) if match else 8


def _degrees(count: int, random: Random) -> str:
    found = []
    known = ("tp", "pp", "dp", "sp", "cp", *(["ep"] if random.random() < 0.1 else []))
    for degree in random.sample(known, random.choice((0, 1, 1, 1, 2, 3))):
        size = random.choice([n for n in (1, 2, 4, 8) if n <= max(1, count)] or [1])
        count //= size
        found.append(f"{degree} = {size}")
    return ", ".join(found)


def _batch(random: Random) -> str:
    found = f"input = {random.choice((1, 100, 1000, 4000, 9092))}, output = {random.choice((1, 10, 200, 512))}"
    much = random.choice(
        ("", f", batch = {random.choice((1, 2, 16, 64, 500))}", ", concurrency = 32", ", in_flight = 2")
    )
    more = (
        "",
        "",
        "",
        "",
        ", reuse = 60 %, prefix = shared",
        *([] if "in_flight" in much else [", demand = 50 req/s"]),
    )
    return found + much + random.choice(more)


def draw_search(random: Random, timed: bool) -> str:
    """A search over the plan `p`, of at most some hundred configurations."""
    varies = random.sample(
        (
            "tp in [1, 2, 4]", "pp in [1, 2]", "batch in 1..64 by * 4", "input in [100, 1000]", "dp in 1..2",
            "output in 1..9 by + 4",
            "model.weights in [bf16, fp8]", "algorithm in [ring, tree]",
            "node.link.bandwidth in 100 GB/s..900 GB/s by * 3",
            "engine in [vllm, sglang]", "step_tokens in [0, 512]", "batch in [1, 3]", "in_flight in 1..2",
            "chunks in [1, 2]",
        ),
        random.choice((1, 2, 2, 3)),
    )  # fmt: skip
    lines = ["plan = p", f"vary {', '.join(varies)}"]
    lines += random.choice(([], ["where gpus <= 8"], ["where tp * pp <= 8"], ["where batch >= 2 or tp == 1"]))
    lines += [f"require {_bound(random, timed)}"] if random.random() < 0.5 else []
    goals = (
        "maximize throughput_per_gpu",
        "minimize tpot",
        "minimize latency",
        "maximize throughput",
        "minimize gpus",
        "",
    )
    return "search t {\n  " + "\n  ".join((*lines, random.choice(goals))) + "\n}\n"


# ---- what the documentation and examples show


@cache
def shown() -> list[str]:
    """Files of plans of the examples and of the documentation, which stand alone."""
    found = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.plan"))]
    for page in sorted((ROOT / "docs").glob("*.md")):
        found += re.findall(r"^```plan[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [text for text in found if "plan " in text and not re.search(r'use "|\.(csv|jsonl?)"|^plandsl = 2', text)]


@cache
def _with_plan() -> list[str]:
    """Those with a plan `p`, which most verbs ask for."""
    return [text for text in shown() if "plan p {" in text]


@cache
def vocabulary() -> tuple[bytes, ...]:
    """The words of these files, each once."""
    words = re.findall(r"[A-Za-z_]\w*|->|[<>=]=|\.\.|[^\w\s]", "\n".join(shown()))
    return tuple(word.encode() for word in dict.fromkeys(words))


def _example(asked: Asked) -> str:
    return asked.random.choice(_with_plan() if asked.random.random() < 0.3 else shown())


def plan_of(text: str, random: Random) -> str:
    """The name of the plan that a verb is asked about: `p`, which most files have; seldom one that the file lacks."""
    if "plan p " in text or random.random() < AMISS / 2:
        return "p"
    found = re.findall(r"^plan (\w+)", text, re.M)
    return random.choice(found) if found else "p"


# ---- numbers at the ends of what is legal

LARGEST = {
    **dict.fromkeys(
        ("batch", "input", "output", "micro_batches", "concurrency", "demand", "in_flight", "requests"), 10**9
    ),
    **dict.fromkeys(("chunked_prefill", "step_tokens", "window", "chunk", "threshold", "vocab", "max_requests"), 10**9),
    **dict.fromkeys(
        ("hidden", "ffn", "state_dim", "state_width", "head_dim", "kv_rank", "index_dim", "kv_block"), 2**20
    ),
    **dict.fromkeys(("layers", "adapters", "images"), 10_000),
    **dict.fromkeys(("top_k", "experts", "tp", "pp", "sp", "cp", "ep"), 4096),
    **dict.fromkeys(("dp", "rank", "count"), 65_536),
    **{"tokens": 256, "chunks": 64, "image_tokens": 10**6, "seed": 2**63},
}
"""About the largest legal number of each field, or a number that is too large for most plans."""


def _extreme(text: str, random: Random) -> str:
    """The same with one or two of its numbers as large as they may be, or as small."""
    for _ in range(random.choice((1, 1, 2))):
        found = [m for m in re.finditer(r"\b([a-z_]+) = (\d[\d_]*)", text) if m[1] in LARGEST]
        if found:
            one = random.choice(found)
            most = LARGEST[one[1]]
            # 20 prompts of a million tokens, block for block, take a simulation seconds, as they should
            some = 131_072 if one[1] == "input" else most // 1000 or 1
            number = random.choice((most, most, most // 2, some, 1, 0))
            text = f"{text[: one.start(2)]}{number}{text[one.end(2) :]}"
    return text


# ---- how a text looks


def _dressed(text: str, random: Random) -> str:
    """The same text, written in another way."""
    if random.random() < 0.05:
        text = text.replace("\n", "\r\n")
    if random.random() < 0.1:
        text = re.sub(r"\n", lambda _: random.choice(("\n", "\n", "  # why\n", "\n\n")), text)
    if random.random() < 0.05:
        text = "plandsl = 1\n" + text
    if random.random() < 0.05:
        text = f"let many = {random.choice((8, 64, 512))}\n" + re.sub(r"batch = \d+", "batch = many", text, count=1)
    return text


def _split(text: str, files: Files, random: Random) -> str:
    """The same with its models in a file that is used."""
    at = text.find("\nplan ")
    if at <= 0 or text.startswith("plandsl") or "\r" in text:
        return text
    name = random.choice(("more.plan", "shared/more.plan"))
    files[name] = text[: at + 1].encode()
    return f'use "{name}"\n{text[at + 1 :]}'
