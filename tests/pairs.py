"""What plans are made of, feature by feature, and one small plan for any number of them together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from io import StringIO
from itertools import combinations
from math import inf, isclose, prod

from rich.console import Console

from plandsl.answers.estimate import Estimate
from plandsl.answers.text.difference import print_difference
from plandsl.answers.text.estimate import print_estimate
from plandsl.answers.text.explanation import print_explanation
from plandsl.backends.cost.answers.terms import terms
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_text, difference, open_text
from plandsl.searches.run import Run
from plandsl.spec.search import SearchSpec

Said = str | int | bool

FEATURES: dict[str, dict[str, Said]] = {
    # how a model is spread
    "tp": {"tp": 2},
    "pp": {"pp": 2},
    "dp": {"dp": 2},
    "megatron": {"tp": 2, "megatron": True},
    "ulysses": {"sp": 2},
    "ring": {"cp": 2, "context_form": "ring"},
    "gather": {"cp": 2, "context_form": "gather"},
    "ep": {"ep": 2, "experts": True},
    "own": {"own": 2},
    "balanced": {"pp": 2, "cut": "balanced"},
    "place": {"tp": 2, "place": True},
    # how steps are taken
    "shift": {"sp": 2, "shift": True},
    "pools": {"pools": True},
    "chunked_prefill": {"chunked_prefill": 16},
    "lookup": {"guess": "none"},
    "draft": {"guess": "little"},
    "mtp": {"guess": "mtp"},
    "reuse_own": {"prefix": "own"},
    "reuse_shared": {"prefix": "shared"},
    "micro_batches": {"pp": 2, "micro_batches": 2},
    "overlap": {"tp": 2, "overlap": "collectives"},
    "chunks": {"tp": 2, "chunks": 2},
    # on which machine
    "unlike": {"tp": 2, "unlike": True},
    "cluster": {"pp": 2, "cluster": True},
    "engine": {"engine": "vllm"},
    # which model
    "imbalance": {"ep": 2, "experts": True, "imbalance": "1.3"},
    "zipf": {"ep": 2, "experts": True, "imbalance": "zipf(0.6)"},
    "lognormal": {"ep": 2, "experts": True, "imbalance": "lognormal(mean = 1.2, p95 = 1.6)"},
    "window": {"window": True},
    "chunk": {"chunk": True},
    "latent": {"latent": True},
    "adapters": {"adapters": True},
    "sparse": {"sparse": True},
    "states": {"states": True},
    "rope_front": {"rope": "first = 4"},
    "softcap": {"softcap": True},
    "alibi": {"alibi": True},
    "tower": {"tower": True},
    # under which load
    "batch": {"load": "batch = 4"},
    "concurrency": {"load": "concurrency = 8"},
    "requests": {"load": "concurrency = 8, requests = 32"},
    "encoder": {"load": "batch = 4", "guess": "", "prefix": "", "pools": "", "reads": True},
}
"""Each feature by what it says of a plan. Two that say different things of one matter are alternatives, and no pair:
a load is a batch or goes on, keys are gathered or go around a ring, experts have one imbalance, one model drafts. What
comes out of an encoder is not guessed or decoded, and it finds no tokens in a cache."""


def together(*names: str) -> dict[str, Said] | None:
    """What a plan with all of these features says; None where two of them are alternatives."""
    said: dict[str, Said] = {}
    for name in names:
        for matter, value in FEATURES[name].items():
            if said.setdefault(matter, value) != value:
                return None
    return said


def pairs() -> list[tuple[str, str]]:
    """Every two features that are no alternatives of each other."""
    return [pair for pair in combinations(FEATURES, 2) if together(*pair) is not None]


# ---- the text of a plan


def text(said: dict[str, Said]) -> str:
    """A file with two plans that differ by their load, `p` and `more`, and the search `s`."""
    load = str(said.get("load", "batch = 4"))
    field, count = load.partition(",")[0].split(" = ")
    more = f"{field} = {2 * int(count)}"
    search = f"search s {{ plan = p, vary {field} in [{count}, {2 * int(count)}]; maximize throughput }}"
    declared = [SEES if "tower" in said else "", _model(said), LITTLE, _machine(said), _shardings(said)]
    plans = [_plan(said, load), f"plan more = p with {{ workload {{ {more} }} }}", search]
    return "\n".join([*filter(None, declared), *plans]) + "\n"


MLP = "x = x + silu(h @ w_gate[hidden, ffn]) * (h @ w_up[hidden, ffn]) @ w_down[ffn, hidden]"
MOE = """y = experts(h, w_router[hidden, experts], top_k = 2{imbalance}) {{
      g = silu(h @ e_gate[hidden, expert_ffn]) * (h @ e_up[hidden, expert_ffn])
      g @ e_down[expert_ffn, hidden]
    }}
    shared = silu(h @ s_gate[hidden, ffn]) * (h @ s_up[hidden, ffn])
    x = x + y + shared @ s_down[ffn, hidden]"""
SELF = """a = attention({q}, {k}, h @ w_v[hidden, kv_heads, head_dim]{reach})
    x = x + a @ w_o[heads, head_dim, hidden]"""
STATE = """v = silu(short_conv(h @ w_sv[hidden, state_heads, state_dim], w_conv[taps, state_heads, state_dim]))
    step = softplus(h @ w_step[hidden, state_heads])
    y = recurrence(h @ w_sq[hidden, state_groups, state_width], h @ w_sk[hidden, state_groups, state_width], v,
      step = step, rate = a_log[state_heads])
    y = rms_norm(y, over = state_dim, groups = state_groups, gain = none)
    x = x + y @ w_so[state_heads, state_dim, hidden]
    h = rms_norm(x)
    """
SEES = """model sees {
  layers = 2, hidden = 16, heads = 4, head_dim = 4, ffn = 16, patch = 12, merged = 2 * hidden, out = 32
  weights = bf16, causal = false
  embedding patches @ w_patch[patch, hidden]
  block x[tokens, hidden] {
    h = rms_norm(x)
    q = rope(h @ w_q[hidden, heads, head_dim])
    a = attention(q, rope(h @ w_k[hidden, heads, head_dim]), h @ w_v[hidden, heads, head_dim])
    x = x + a @ w_o[heads, head_dim, hidden]
    x = x + gelu(rms_norm(x) @ w_up[hidden, ffn]) @ w_down[ffn, hidden]
  }
  head merge(rms_norm(x), tokens = 2, into = merged) @ w_out[merged, out]
}"""
LATENT = """q = query(h @ w_uq[hidden, heads, nope_dim], rope(h @ w_qr[hidden, heads, rope_dim]))
    c = rms_norm(h @ w_dkv[hidden, kv_rank])
    kr = rope(h @ w_kr[hidden, rope_dim])
    a = attention(q, latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim]){reach})
    x = x + a @ w_o[heads, v_dim, hidden]"""
INDEX = """i = rope(h @ w_iq[hidden, index_heads, index_dim])
    picked = index(i, rope(h @ w_ik[hidden, index_dim]), h @ w_iw[hidden, index_heads], top_k = 4)
    """
SCORES = {"softcap": "softcap = 20", "alibi": "alibi = true"}
MTP = """  mtp x[tokens, hidden] with e[tokens, hidden] {
    x = concat(rms_norm(e), rms_norm(x), into = pair) @ w_join[pair, hidden]
    h = rms_norm(x)
    x = x + attention(rope(h @ m_q[hidden, heads, head_dim]), rope(h @ m_k[hidden, kv_heads, head_dim]),
      h @ m_v[hidden, kv_heads, head_dim]) @ m_o[heads, head_dim, hidden]
  }
"""


def _model(said: dict[str, Said], name: str = "small") -> str:
    """Layers of one kind; or in turns: those with an even number have the window, those with an odd one the chunk."""
    moe = MOE.format(imbalance=f", imbalance = {said['imbalance']}" if "imbalance" in said else "")
    attention = "".join(part for name, part in (("states", STATE), ("sparse", INDEX)) if name in said)
    attention += LATENT if "latent" in said else SELF
    turn = f", {said['rope']}" if "rope" in said else ""
    q, k = (f"rope(h @ {w}{turn})" for w in ("w_q[hidden, heads, head_dim]", "w_k[hidden, kv_heads, head_dim]"))
    scores = "".join(f", {option}" for name, option in SCORES.items() if name in said)
    among = ", among = picked" if "sparse" in said else ""
    blocks = ""
    turns = (("even", "0..layers by 2", "window"), ("odd", "1..layers by 2", "chunk"))
    for block, layers, reach in turns if {"window", "chunk"} & said.keys() else (("all", "0..layers", ""),):
        body = f"""h = rms_norm(x)
    {attention.format(q=q, k=k, reach=(f", {reach} = 8" if reach in said else "") + scores + among)}
    h = rms_norm(x)
    {moe if "experts" in said else MLP}"""
        blocks += f"  block {block} [layers = {layers}] x[tokens, hidden] {{\n    {body}\n  }}\n"
    return f"""model {name} {{
  layers = 4, hidden = 32, heads = 8, kv_heads = 4, head_dim = 8, ffn = 64, vocab = 96
  {"experts = 8, expert_ffn = 16" if "experts" in said else ""}
  {"kv_rank = 16, nope_dim = 8, rope_dim = 4, v_dim = 8" if "latent" in said else ""}
  {"index_heads = 4, index_dim = 8, index_cache = fp8" if "sparse" in said else ""}
  {"state_heads = 8, state_groups = 4, state_dim = 4, state_width = 6, taps = 4" if "states" in said else ""}
  {"tower = sees" if "tower" in said else ""}
  {"pair = 2 * hidden" if said.get("guess") == "mtp" else ""}
  {"lora { adapters = 3, rank = 4, targets = all, active = 2 }" if "adapters" in said else ""}
  weights = bf16
  embedding w_embed[vocab, hidden]
{blocks}{MTP if said.get("guess") == "mtp" else ""}  head rms_norm(x) @ w_head[hidden, vocab]
}}"""


LITTLE = f"""model little {{
  layers = 1, hidden = 16, heads = 8, kv_heads = 4, head_dim = 8, ffn = 32, vocab = 96, weights = bf16
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{
    h = rms_norm(x)
    {SELF.format(q="rope(h @ w_q[hidden, heads, head_dim])", k="rope(h @ w_k[hidden, kv_heads, head_dim])", reach="")}
    h = rms_norm(x)
    {MLP}
  }}
  head rms_norm(x) @ w_head[hidden, vocab]
}}"""
"""Drafts for the model."""


def _machine(said: dict[str, Said]) -> str:
    """Sixteen GPUs in one node, or two in each of eight."""
    count = 2 if "cluster" in said else 16
    gpus = f"gpus = [1 * h100_sxm, {count - 1} * h200_sxm]" if "unlike" in said else f"gpu = h100_sxm, count = {count}"
    node = f"node home {{ {gpus}, link {{ topology = switch, bandwidth = 450 GB/s, latency = 2 us }} }}"
    if "cluster" not in said:
        return node
    network = "network { topology = fat_tree, bandwidth = 50 GB/s, latency = 5 us }"
    return f"{node}\ncluster pod {{ node = home, count = 8, {network} }}"


AXES = {"own": "own", "pp": "stage", "cp": "context", "sp": "seq", "ep": "expert", "tp": "tensor"}
"""What says how large an axis is, and the axis, in the order of ranks."""


def _shardings(said: dict[str, Said]) -> str:
    """`spread`, and with a shift also `tensor`, which has the ranks of a sequence share weights instead of tokens."""
    degrees = [f"{d} = {said[d]}" for d in ("dp", "pp", "cp", "sp", "ep", "tp") if d in said]
    rules = [f"mesh own = {said['own']}", "ffn -> own", "in attention { batch -> own }"] if "own" in said else []
    rules += ["tokens -> tensor"] if "megatron" in said else []
    rules += ["place tensor in node"] if "place" in said else []
    rules += [f"{field} = {said[field]}" for field in ("context_form", "cut") if field in said]
    found = f"sharding spread {{ {'; '.join([*degrees, *rules])} }}"
    if "shift" not in said:
        return found
    mesh = ", ".join(f"{axis} = {said[matter]}" for matter, axis in AXES.items() if matter in said)
    wide = ["heads, kv_heads, ffn, vocab -> seq", *(["expert_ffn -> seq"] if "experts" in said else [])]
    wide += ["state_heads, state_groups -> seq"] if "states" in said else []
    inner = [part for part in (*degrees, *rules) if not part.startswith(("sp ", "mesh "))]
    return f"{found}\nsharding tensor {{ {'; '.join([f'mesh {mesh}', *inner, *wide])} }}"


def _plan(said: dict[str, Said], load: str) -> str:
    fields = ["model = small", "cluster = pod" if "cluster" in said else "node = home", "sharding = spread"]
    if "shift" in said:
        fields[-1] = "shift { base = spread, tensor = tensor, threshold = 16 }"
    if said.get("prefix"):
        load += f", reuse = 50 %, prefix = {said['prefix']}"
    load += ", images = 1, image_tokens = 8" if "tower" in said else ""
    fields.append(f"workload {{ input = 24, output = {0 if 'reads' in said else 8}, {load} }}")
    kept = ("chunked_prefill", "micro_batches", "overlap", "chunks", "engine")
    fields += [f"{name} = {said[name]}" for name in kept if name in said]
    if said.get("guess"):
        fields.append(f"speculate {{ draft = {said['guess']}, tokens = 2, acceptance = 70 % }}")
    if said.get("pools"):
        first = "" if "concurrency" in load else "batch = 2"
        fields.append(f"prefill {{ {first} }}, decode {{ }}, transfer {{ bandwidth = 50 GB/s, latency = 10 us }}")
    return "plan p {\n  " + "\n  ".join(fields) + "\n}"


# ---- many features at once

GPUS = 8
"""Ranks of each pool, at most."""

SEVERAL = frozenset(("shift", "pools", "draft", "mtp", "unlike"))
"""Features with several programs or machines in a plan: each of them makes an explanation take twice as long."""


def ranks(said: dict[str, Said]) -> int:
    """Of a plan with these features."""
    return prod(int(said[degree]) for degree in ("dp", "own", "pp", "cp", "sp", "ep", "tp") if degree in said)


def rows(refused: Collection[frozenset[str]], most: int = 12) -> list[tuple[str, ...]]:
    """A few plans of many features that together have every pair but those ``refused``: greedily, pair after pair."""
    left = dict.fromkeys(pair for pair in pairs() if frozenset(pair) not in refused)
    found = []
    while left:
        row = next(iter(left))
        while len(row) < most and (best := _next(row, left, refused)):
            row = (*row, best)
        found.append(row)
        left = {pair: None for pair in left if not set(pair) <= set(row)}
    return found


def _next(row: tuple[str, ...], left: Collection[tuple[str, str]], refused: Collection[frozenset[str]]) -> str:
    """The feature that brings ``row`` the most of the pairs that are ``left``; empty where none brings any."""
    gains = dict.fromkeys(FEATURES, 0)
    for a, b in left:
        gains[a] += b in row
        gains[b] += a in row
    for name in sorted(gains, key=lambda n: -gains[n]):
        said = together(*row, name)
        fits = said is not None and ranks(said) <= GPUS and not any(frozenset((name, n)) in refused for n in row)
        fits = fits and len(SEVERAL.intersection((*row, name))) <= 2
        if fits and name not in row and gains[name]:
            return name
    return ""


# ---- what is asked of a plan


@lru_cache(maxsize=2)
def _estimate(plan: CompiledPlan) -> Estimate:
    """The estimate of one of the two plans of a text, made once for all verbs that show it."""
    return plan.estimate()


def _compile(made: list[CompiledPlan], source: str) -> None:
    for plan in made:
        estimate = _estimate(plan).as_json()
        for what in ("ttft_s", *(() if plan.spec.workload.encodes else ("tpot_s",)), "throughput_tokens_per_s"):
            assert 0 < estimate[what] < inf, what


def _report(made: list[CompiledPlan], source: str) -> None:
    for plan in made:
        print_estimate(plan.spec, _estimate(plan), NOWHERE)


def _terms(made: list[CompiledPlan], source: str) -> None:
    found = terms(made[0].cost, made[0].cost.evaluate())
    for breakdown in (found.ttft, *(() if made[0].spec.workload.encodes else (found.tpot,)), found.per_token):
        assert isclose(sum(term.value for term in breakdown.terms), breakdown.total, rel_tol=1e-9), breakdown.metric


def _explain(made: list[CompiledPlan], source: str) -> None:
    found = made[0].explain()
    assert found.as_json()
    print_explanation(made[0].spec, found, NOWHERE)


def _diff(made: list[CompiledPlan], source: str) -> None:
    found = difference(*made)
    assert found.as_json()
    print_difference(found, NOWHERE)


def _verify(made: list[CompiledPlan], source: str) -> None:
    verdict = made[0].verify(steps=2)
    assert verdict.ok, f"{verdict.where}: {verdict.message}"


def _search(made: list[CompiledPlan], source: str) -> None:
    module = open_text(source)
    search = module.spec("search", "s")
    assert isinstance(search, SearchSpec), module.diagnostics
    found = Run(search).run()
    assert found.tally.seen == 2, list(found.refused.values())


NOWHERE = Console(file=StringIO(), width=120)
"""Where reports go that nobody reads."""

VERBS: dict[str, Callable[[list[CompiledPlan], str], None]] = {
    "compile": _compile,
    "report": _report,
    "terms": _terms,
    "explain": _explain,
    "diff": _diff,
    "verify": _verify,
    "search": _search,
}


def failures(names: Iterable[str], verbs: Iterable[str] = tuple(VERBS)) -> dict[str, str]:
    """What a plan with these features fails to answer, and why; one that is refused fails to be read."""
    said = together(*names)
    assert said is not None, "features that are alternatives of each other make no plan"
    source, asked = text(said), list(verbs)
    try:
        made = compile_text(source, plan="p" if asked == ["compile"] else None)
    except PlanError as error:
        return {"read": _told(error)}
    found = {verb: _failure(VERBS[verb], made, source) for verb in asked}
    return {verb: why for verb, why in found.items() if why}


def _failure(ask: Callable[[list[CompiledPlan], str], None], made: list[CompiledPlan], source: str) -> str:
    try:
        ask(made, source)
    except PlanError as error:
        return _told(error)
    except Exception as error:  # whatever it is, these features do not work together
        return f"{type(error).__name__} {error}"
    return ""


def _told(error: PlanError) -> str:
    worst = next(d for d in error.diagnostics if d.severity == "error")
    return f"{worst.code} {worst.message}"
