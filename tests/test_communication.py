"""Communication in closed form: every call and every byte that a plan's report lists, by formulas from the literature.

Each row of `FORMS` says which collectives a sharding leads to, in both phases, for any degree and any model of the
catalog that it names: how many calls, over which axis, of how many bytes (per rank as nccl-tests count them: the
buffer, the total output of an all_gather, the total input of a reduce_scatter). The report must list these and no
others. Where the compiler learns to sum less often, `SUMS` and `summed` change, and nothing else here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import pytest

from plandsl.driver import CompiledPlan, compile_text
from plandsl.ir.extents import Extents
from plandsl.spec.model import Apply, BlockSpec, ModelSpec, Weight, walk

INPUT, OUTPUT, BATCH = 1024, 64, 8
ITEM = 2
"""Bytes of a bf16."""

Calls: TypeAlias = Counter[tuple[str, str, float]]
"""How often each (collective, axis, bytes) is called."""


class At(NamedTuple):
    """One model in one phase on axes of so many ranks."""

    model: ModelSpec
    phase: str
    ways: dict[str, int]

    def __getattr__(self, dim: str) -> int:
        """A dimension of the model."""
        return self.model.size(dim)

    @property
    def prefill(self) -> bool:
        return self.phase == "prefill"

    @property
    def layers(self) -> int:
        return self.model.layers

    @property
    def mixtures(self) -> int:
        """Layers with experts."""
        return sum(b.layers[1] - b.layers[0] for b in self.model.blocks if any(_option(b, "top_k")))

    @property
    def shared(self) -> bool:
        """Whether some experts serve every token."""
        weights = (w for b in self.model.blocks for s in b.statements for w in walk(s.term))
        return any("shared" in w.name for w in weights if isinstance(w, Weight))

    @property
    def top_k(self) -> int:
        return next(k for b in self.model.blocks for k in _option(b, "top_k"))

    def tokens(self, split: int = 1) -> int:
        """Tokens of a step on a rank: positions are split in prefill, requests in decode."""
        return BATCH * INPUT // split if self.prefill else -(-BATCH // split)

    def requests(self, split: int) -> int:
        """Rows of the logits on a rank where decode splits requests."""
        return BATCH if self.prefill else -(-BATCH // split)


def _option(block: BlockSpec, name: str) -> Iterator[int]:
    for s in block.statements:
        if isinstance(s.term, Apply) and s.term.body:
            yield int(s.term.option(name, 0))


def calls(op: str, axis: str, elements: float, times: int = 1) -> Calls:
    """``times`` calls of ``op`` over ``axis`` with so many elements of bf16."""
    return Counter({(op, axis, float(elements * ITEM)): times})


def summed(axes: tuple[str, ...], elements: float, times: int = 1) -> Calls:
    """A sum over neighbouring axes, major first: one all_reduce over their product, as over one axis of as many."""
    return calls("all_reduce", "*".join(axes), elements, times)


SUMS = 2
"""Partial sums that a layer completes: of attention and of its feed-forward part, whose ways are added before."""


def sums(at: At, axes: tuple[str, ...], tokens: int, *, embedded: bool = True) -> Calls:
    """Weights over ``axes``: sums of ``tokens`` hidden states in every layer, and behind the embedding."""
    return summed(axes, tokens * at.hidden, SUMS * at.layers + embedded)


def logits(at: At, axis: str = "tensor", rows: int = BATCH) -> Calls:
    """Those of each vocabulary shard, gathered for whoever samples."""
    return calls("all_gather", axis, rows * at.vocab)


def last(at: At, axis: str) -> Calls:
    """The last token of each request, from the rank along ``axis`` that has it: a sum with zeros, in prefill."""
    return calls("all_reduce", axis, BATCH * at.hidden) if at.prefill else Counter()


# ---- one formula for each sharding


def tensor(at: At) -> Calls:
    """Two sums per layer of tokens x hidden, one behind the embedding (split by vocabulary), logits gathered."""
    return sums(at, ("tensor",), at.tokens()) + logits(at)


def megatron(at: At) -> Calls:
    """Each sum becomes a reduce_scatter, with an all_gather before the next half: 2 and 2 per layer, as many bytes."""
    stream = at.tokens() * at.hidden
    out = calls("reduce_scatter", "tensor", stream, 2 * at.layers + 1)
    out += calls("all_gather", "tensor", stream, 2 * at.layers)
    whole = last(at, "tensor") if at.prefill else calls("all_gather", "tensor", BATCH * at.hidden)
    return out + whole + logits(at)


def ulysses(at: At) -> Calls:
    """Two exchanges per layer: queries, keys and values in (3 calls), the result out (1): 4 N h / P with h = hidden."""
    n, m = at.ways["seq"], at.ways.get("tensor", 1)
    rows = at.tokens(n) * at.head_dim // m
    out = calls("all_to_all", "seq", rows * at.heads, 2 * at.layers)
    out += calls("all_to_all", "seq", rows * at.kv_heads, 2 * at.layers)
    return out + last(at, "seq")


def ulysses_with_tensor(at: At) -> Calls:
    """Both: heads are cut by tensor first, sums are of a rank's own tokens."""
    n = at.ways["seq"]
    return ulysses(at) + sums(at, ("tensor",), at.tokens(n)) + logits(at, rows=at.requests(n))


def ring(at: At) -> Calls:
    """Prefill: n - 1 hops of the keys and values of a block. Decode: see `merge`."""
    n = at.ways["context"]
    if not at.prefill:
        return merge(at)
    block = at.tokens(n) * 2 * at.kv_heads * at.head_dim
    return calls("ring", "context", block, at.layers * (n - 1)) + last(at, "context")


def gathered(at: At) -> Calls:
    """Prefill: an all_gather of keys and one of values, per layer."""
    if not at.prefill:
        return merge(at)
    block = at.tokens() * at.kv_heads * at.head_dim
    return calls("all_gather", "context", block, 2 * at.layers) + last(at, "context")


def merge(at: At) -> Calls:
    """A softmax over some keys on each rank: queries and the new keys and values come to all, the statistics (fp32)
    of every row are exchanged, and the weighed means summed to where their requests live."""
    n, rows = at.ways["context"], BATCH * at.head_dim
    out = calls("all_gather", "context", rows * at.heads, at.layers)
    out += calls("all_gather", "context", rows * at.kv_heads, 2 * at.layers)
    out += calls("rescale", "context", n * BATCH * at.heads * 4 / ITEM, at.layers)
    return out + calls("reduce_scatter", "context", rows * at.heads, at.layers)


def experts(at: At) -> Calls:
    """Dispatch and combine in each layer with experts: a copy of a token for each of its top_k experts."""
    rows = BATCH // at.ways["expert"] * (INPUT if at.prefill else 1)
    return calls("all_to_all", "expert", rows * at.top_k * at.hidden, 2 * at.mixtures)


def experts_with_tensor(at: At) -> Calls:
    """Both: sums are of a rank's own requests, after what was dispatched is combined."""
    own = BATCH // at.ways["expert"]
    return experts(at) + sums(at, ("tensor",), own * (INPUT if at.prefill else 1)) + logits(at, rows=own)


def latent_ulysses(at: At) -> Calls:
    """What is cached has no heads, so it is gathered; queries (two parts) go in by heads, the result comes out."""
    n = at.ways["seq"]
    rows = at.tokens(n)
    out: Calls = Counter()
    for d in (at.nope_dim, at.rope_dim, at.v_dim):
        out += calls("all_to_all", "seq", rows * at.heads * d, at.layers)
    for d in (at.kv_rank, at.rope_dim):
        out += calls("all_gather", "seq", rows * n * d, at.layers)
    return out + last(at, "seq")


def replicas(at: At) -> Calls:
    """Nothing: each serves requests of its own."""
    return Counter()


class Form(NamedTuple):
    """A sharding, its formula and where that stands; the degrees and models that it is held against."""

    sharding: str
    formula: Callable[[At], Calls]
    source: str
    ways: tuple[dict[str, int], ...]
    models: tuple[str, ...]


def over(axis: str, *sizes: int) -> tuple[dict[str, int], ...]:
    return tuple({axis: n} for n in sizes)


DENSE = ("llama_3_1_8b", "llama_3_1_70b", "qwen3_32b")
SPARSE = ("mixtral_8x7b", "qwen3_30b_a3b")
LATENT = ("deepseek_v3",)

FORMS = {
    "tensor": Form(
        "tp = {tensor}",
        tensor,
        "Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3 and figure 4",
        over("tensor", 2, 4, 8),
        (*DENSE, "gemma_2_9b", "mistral_7b"),
    ),
    "tensor in experts": Form(
        "tp = {tensor}",
        tensor,
        "Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3: experts are feed-forward layers",
        over("tensor", 2, 4),
        SPARSE,
    ),
    "tensor of latent attention": Form(
        "tp = {tensor}",
        tensor,
        "DeepSeek-V2, arXiv 2405.04434, section 2.1: a latent has no heads, so every rank makes it whole",
        over("tensor", 2, 8),
        LATENT,
    ),
    "megatron": Form(
        "tp = {tensor}, tokens -> tensor",
        megatron,
        "Korthikanti et al., arXiv 2205.05198, section 4.2.2",
        over("tensor", 2, 4, 8),
        ("llama_3_1_8b", "llama_3_1_70b"),
    ),
    "ulysses": Form(
        "sp = {seq}",
        ulysses,
        "Jacobs et al., DeepSpeed Ulysses, arXiv 2309.14509, section 3.2",
        over("seq", 2, 4, 8),
        DENSE,
    ),
    "ulysses and tensor": Form(
        "sp = {seq}, tp = {tensor}",
        ulysses_with_tensor,
        "Jacobs et al., arXiv 2309.14509, section 3.2, on the ranks of each shard of Megatron-LM",
        ({"seq": 4, "tensor": 2}, {"seq": 2, "tensor": 4}, {"seq": 2, "tensor": 2}),
        DENSE,
    ),
    "ulysses of latent attention": Form(
        "sp = {seq}",
        latent_ulysses,
        "Jacobs et al., arXiv 2309.14509, section 3.2; DeepSeek-V2, arXiv 2405.04434, section 2.1",
        over("seq", 2, 8),
        LATENT,
    ),
    "ring": Form(
        "cp = {context}",
        ring,
        "Liu et al., Ring Attention, arXiv 2310.01889, section 3; Dao et al., Flash-Decoding, 2023",
        over("context", 2, 4, 8),
        DENSE,
    ),
    "gathered": Form(
        "cp = {context}, context_form = gather",
        gathered,
        "Llama 3, arXiv 2407.21783, section 3.3.2; Dao et al., Flash-Decoding, 2023",
        over("context", 2, 4, 8),
        DENSE,
    ),
    "experts": Form(
        "ep = {expert}",
        experts,
        "Lepikhin et al., GShard, arXiv 2006.16668, section 3",
        over("expert", 2, 4, 8),
        (*SPARSE, *LATENT),
    ),
    "experts and tensor": Form(
        "ep = {expert}, tp = {tensor}",
        experts_with_tensor,
        "Lepikhin et al., GShard, arXiv 2006.16668, section 3; Shoeybi et al., Megatron-LM, section 3",
        ({"expert": 4, "tensor": 2}, {"expert": 2, "tensor": 4}),
        SPARSE,
    ),
    "replicas": Form("dp = {data}", replicas, "independent by definition", over("data", 8), (*DENSE, *SPARSE)),
}


@cache
def plan(sharding: str, model: str, machine: str = "node = h200_8", more: str = "") -> CompiledPlan:
    load = f"workload {{ input = {INPUT}, output = {OUTPUT}, batch = {BATCH} }}"
    model += " with { weights = bf16, activations = bf16, kv_cache = bf16 }"
    spread = more or f"sharding {{ {sharding} }}"
    (made,) = compile_text(f"plan p {{ model = {model}, {machine}, {spread}, {load} }}")
    return made


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring", "rescale", "send")


def reported(made: CompiledPlan, phase: str) -> list[dict[str, Any]]:
    """What communicates, as `planc compile --json` prints it."""
    body = json.loads(json.dumps(made.estimate().as_json()))
    return [line for line in body[phase]["ops"] if line["op"] in COLLECTIVES]


def found(made: CompiledPlan, phase: str) -> Calls:
    out: Calls = Counter()
    for line in reported(made, phase):
        out[line["op"], line["axis"], line["bytes"]] += line["count"]
    return out


CASES = [
    pytest.param(form, ways, model, phase, id=f"{name}-{'x'.join(map(str, ways.values()))}-{model}-{phase}")
    for name, form in FORMS.items()
    for ways in form.ways
    for model in form.models
    for phase in ("prefill", "decode")
]


@pytest.mark.parametrize(("form", "ways", "model", "phase"), CASES)
def test_calls_and_bytes_are_those_of_the_closed_form(form: Form, ways: dict[str, int], model: str, phase: str) -> None:
    made = plan(form.sharding.format(**ways), model)
    assert found(made, phase) == form.formula(At(made.spec.model, phase, ways)), form.source


def test_each_form_names_its_source() -> None:
    assert all(form.source and form.formula.__doc__ for form in FORMS.values())


@pytest.mark.parametrize(("form", "ways", "model", "phase"), CASES)
def test_the_table_has_the_calls_and_bytes_of_the_closed_form(
    form: Form, ways: dict[str, int], model: str, phase: str
) -> None:
    made = plan(form.sharding.format(**ways), model)
    assert told(made, phase) == added_up(form.formula(At(made.spec.model, phase, ways))), form.source


def told(made: CompiledPlan, phase: str) -> dict[tuple[str, str], tuple[int, float]]:
    """Calls, and bytes of all of them, by op and axis, as the table of communication has them."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for row in json.loads(json.dumps(made.estimate().as_json()))["communication"]["rows"]:
        if row["phase"] == phase:
            calls, payload = found.get((row["op"], row["axis"]), (0, 0.0))
            found[row["op"], row["axis"]] = calls + row["calls"], payload + row["payload_bytes"]
    return found


def added_up(calls: Calls) -> dict[tuple[str, str], tuple[int, float]]:
    """The same of calls by op, axis and bytes."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for (op, axis, size), times in calls.items():
        before = found.get((op, axis), (0, 0.0))
        found[op, axis] = before[0] + times, before[1] + times * size
    return found


# ---- what goes over the links, by algorithm

RINGED = "algorithm = ring"
SHARES: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "rescale": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "ring": lambda n: 1.0,
    "send": lambda n: 1.0,
}
"""Bytes that a rank sends for each byte of payload: Thakur et al. 2005; Patarasuk and Yuan 2009."""


@pytest.mark.parametrize(
    "sharding",
    ["tp = 8", "tp = 4, tokens -> tensor", "sp = 8", "sp = 2, tp = 4", "cp = 4", "cp = 4, context_form = gather",
     "ep = 8", "ep = 4, tp = 2", "pp = 4, tp = 2", "cp = 2, tp = 2, pp = 2"],
)  # fmt: skip
def test_each_rank_sends_what_the_algorithm_says(sharding: str) -> None:
    model = "mixtral_8x7b" if "ep" in sharding else "llama_3_1_8b"
    made = plan("", model, more=f"{RINGED}, sharding {{ {sharding} }}")
    sizes = dict(made.prefill.program.mesh.axes)
    rows = made.estimate().communication.rows
    assert {row.phase for row in rows} == {"prefill", "decode"}
    for row in rows:
        assert row.wire == pytest.approx(row.payload * SHARES[row.op](sizes[row.axis]), rel=1e-12), row


def test_an_exchange_of_heads_sends_what_ranks_hold_before_it() -> None:
    """Of 7 tokens the fullest of 4 ranks has 2 with all heads; behind attention each has 7 with its own heads."""
    load = "workload { input = 7, output = 10, batch = 1 }"
    text = f"plan p {{ model = llama_3_1_8b, node = h100_8, sharding {{ sp = 4 }}, {load} }}"
    rows = compile_text(text)[0].estimate().communication.rows
    heads, kv_heads, head = 32, 8, 128 * ITEM
    sent = {row.phase: row.payload / 32 for row in rows if row.op == "all_to_all"}
    assert sent["prefill"] == 2 * (heads + 2 * kv_heads) * head + 7 * (heads / 4) * head
    assert sent["decode"] == (heads + 2 * kv_heads) * head + heads / 4 * head


def test_megatron_sends_what_plain_tensor_parallelism_sends() -> None:
    # Korthikanti et al., arXiv 2205.05198, section 4.2.2: an all_reduce is a reduce_scatter and an all_gather
    plain, megatron = (
        {row.op: row for row in plan("", "llama_3_1_8b", more=f"{RINGED}, {s}").estimate().communication.of("prefill")}
        for s in ("sharding { tp = 8 }", "sharding { tp = 8, tokens -> tensor }")
    )
    reduced, scattered = plain["all_reduce"], megatron["reduce_scatter"]
    stream = BATCH * INPUT * 4096 * ITEM
    gathered = megatron["all_gather"].wire - BATCH * 128256 * ITEM * 7 / 8  # but for the logits
    assert scattered.wire / scattered.calls == pytest.approx(stream * 7 / 8)
    assert reduced.wire / reduced.calls == pytest.approx(scattered.wire / scattered.calls + gathered / 64)


# ---- stages: the report lists the busiest one, the program has them all


@pytest.mark.parametrize("model", ["llama_3_1_8b", "llama_3_1_70b"])
@pytest.mark.parametrize(("pp", "tp"), [(2, 1), (4, 1), (8, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_pipeline_of_p_stages_hops_p_minus_one_times(model: str, pp: int, tp: int, phase: str) -> None:
    # Narayanan et al., arXiv 2104.04473, section 3.2: b s h between consecutive stages, each rank to its own neighbour
    made = plan(f"pp = {pp}, tp = {tp}", model)
    program = (made.prefill if phase == "prefill" else made.decode).program
    at = At(made.spec.model, phase, {})
    kinds = [[op.keyword for p in parts for op in program.region(p.region).ops] for parts in program.stages]
    assert sum(ops.count("send") for ops in kinds) == sum(ops.count("recv") for ops in kinds) == pp - 1
    hop = Extents(program, {"batch": BATCH, "input": INPUT, "context": INPUT})
    assert hop.bytes(program.region("send").args[0].type) == at.tokens() * at.hidden * ITEM
    assert found(made, phase) in [stage(at, tp, number, pp) for number in range(pp)]


@pytest.mark.parametrize("model", ["llama_3_1_8b", "llama_3_1_70b"])
@pytest.mark.parametrize(("pp", "tp"), [(2, 1), (4, 1), (8, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_table_has_all_stages_and_every_hop_between_them(model: str, pp: int, tp: int, phase: str) -> None:
    made = plan(f"pp = {pp}, tp = {tp}", model)
    at = At(made.spec.model, phase, {})
    every: Calls = Counter()
    for number in range(pp):
        every += stage(at, tp, number, pp)
    assert told(made, phase) == added_up(every)
    assert told(made, phase)["send", "stage"] == (pp - 1, (pp - 1) * at.tokens() * at.hidden * ITEM)


def stage(at: At, tp: int, number: int, of: int) -> Calls:
    """Its share of the layers' sums; the embedding at one end, logits at the other, hops between."""
    stream, sharded = at.tokens() * at.hidden, tp > 1
    out = summed(("tensor",), stream, (at.layers * 2 // of + (number == 0)) * sharded)
    out += logits(at) if sharded and number == of - 1 else Counter()
    return +out + (calls("send", "stage", stream) if number < of - 1 else Counter())


def test_two_tensors_of_a_hop_are_two_sends_of_the_same_bytes() -> None:
    one, two = (
        reported(plan(f"pp = 8, hop_tensors = {n}", "llama_3_1_405b", "node = mi325x_8"), "prefill") for n in (1, 2)
    )
    assert [(line["count"], line["bytes"]) for line in one] == [(1, BATCH * INPUT * 16384 * ITEM)]
    assert [(line["count"], line["bytes"]) for line in two] == [(2, BATCH * INPUT * 16384 * ITEM)]


# ---- what one request sends


def test_a_request_sends_its_part_of_a_prefill_and_of_each_decode_step() -> None:
    table = plan("tp = 8", "llama_3_1_8b").estimate().communication
    prefill, decode = table.total("prefill"), table.total("decode")
    assert prefill.per_request == pytest.approx(prefill.wire / BATCH)
    assert decode.per_request == pytest.approx(decode.wire * (OUTPUT - 1) / BATCH)
    assert table.per_request == pytest.approx(prefill.per_request + decode.per_request)


def test_guesses_take_fewer_steps_and_calls_of_the_draft_are_told_apart() -> None:
    more = "sharding { tp = 8 }, speculate { draft = llama_3_2_1b, tokens = 3, acceptance = 80 % }"
    made = plan("", "llama_3_1_8b", more=more)
    at, gain = At(made.spec.model, "decode", {}), 1 + 0.8 + 0.8**2 + 0.8**3
    rows = {(r.part, r.op): r for r in made.estimate().communication.of("decode")}
    verified, drafted = rows["", "all_reduce"], rows["draft", "all_reduce"]
    assert (verified.calls, verified.payload) == (65, 65 * 4 * BATCH * at.hidden * ITEM)
    assert (drafted.calls, drafted.payload) == (3 * 33, 3 * 33 * BATCH * 2048 * ITEM)
    for row in rows.values():
        assert row.per_request == pytest.approx(row.wire * (OUTPUT - 1) / gain / BATCH)


def test_a_prompt_in_chunks_calls_once_for_each_of_its_steps() -> None:
    whole, chunks = (
        plan("", "llama_3_1_8b", more=f"sharding {{ tp = 8 }}{more}").estimate().communication.of("prefill")[0]
        for more in ("", ", chunked_prefill = 2048")
    )
    assert chunks.calls == 5 * whole.calls  # 8 x 1024 tokens, and tokens of requests that are done in the last steps
    assert chunks.payload == whole.payload


def test_parts_of_a_batch_call_each_for_itself() -> None:
    at = At(plan("pp = 2, tp = 2", "llama_3_1_8b").spec.model, "prefill", {})
    made = plan("", "llama_3_1_8b", more="sharding { pp = 2, tp = 2 }, micro_batches = 4")
    stream = at.tokens() * at.hidden * ITEM
    assert told(made, "prefill")["send", "stage"] == (4, stream)
    assert told(made, "prefill")["all_reduce", "tensor"] == (4 * 65, 65 * stream)


def test_two_pools_have_a_row_each_way_and_one_for_the_transfer() -> None:
    pools = "prefill { node = h100_8, sharding { tp = 4 } }, decode { node = h200_8, sharding { tp = 8 } }"
    (made,) = compile_text(
        f"plan p {{ model = llama_3_1_8b, workload {{ input = 512, output = 64, batch = 8 }}, {pools}, "
        "transfer { bandwidth = 50 GB/s, latency = 10 us } }"
    )
    found = made.estimate()
    first, second = (pool.estimate.communication for pool in (found.pools.prefill, found.pools.decode))
    assert found.communication.of("prefill") == first.of("prefill")
    assert [r.wire for r in found.communication.of("decode")] == [r.wire for r in second.of("decode")]
    (moved,) = found.communication.of("transfer")
    sent = found.pools.sent
    assert (moved.payload, moved.wire, moved.time_s) == (sent.request, sent.sent, sent.time_s)
    assert moved.payload == 512 * found.kv_bytes_per_token
    assert found.communication.per_request == sum(r.per_request for r in found.communication.rows)


def test_one_gpu_sends_nothing() -> None:
    table = plan("tp = 1", "llama_3_1_8b").estimate().communication
    assert table.rows == ()
    assert table.total("prefill").calls == 0


# ---- two shardings on one cache


@pytest.mark.parametrize(("sp", "tp"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("model", ["llama_3_1_8b", "llama_3_3_70b"])
def test_each_step_of_a_shift_communicates_as_the_sharding_that_takes_it(model: str, sp: int, tp: int) -> None:
    # arXiv 2509.16495, section 3: Ulysses while a step is large, tensor parallelism over all ranks while it is small
    mesh = f"mesh seq = {sp}, tensor = {tp}"
    heads, rest = "heads, kv_heads -> tensor, seq", "ffn, vocab -> tensor, seq"
    more = f"shift {{ base {{ sp = {sp}, tp = {tp} }}, tensor {{ {mesh}; {heads}; {rest} }}, threshold = 256 }}"
    made = plan("", model, more=more)
    ways = {"seq": sp, "tensor": tp}
    small = At(made.spec.model, "decode", ways)
    large = At(made.spec.model, "prefill", ways)
    assert found(made, "prefill") == (ulysses_with_tensor(large) if tp > 1 else ulysses(large))
    over = ("seq", "tensor") if tp > 1 else ("seq",)
    wanted = sums(small, over, small.tokens())
    gathers = {axis: n for axis, n in (("seq", sp), ("tensor", tp)) if n > 1}
    part = float(BATCH * small.vocab * ITEM) / (sp * tp)
    for axis in over:  # the innermost axis of `vocab` first
        part *= gathers[axis]
        wanted += Counter({("all_gather", axis, part): 1})
    assert found(made, "decode") == wanted
    assert told(made, "decode") == added_up(wanted)


# ---- several nodes


@pytest.mark.parametrize(
    ("sharding", "formula", "spans"),
    [
        ("tp = 16", tensor, {"tensor": 2}),
        ("sp = 4, tp = 8", ulysses_with_tensor, {"seq": 4}),
        ("sp = 4, tp = 8, place seq in node", ulysses_with_tensor, {"tensor": 4}),
        ("cp = 4", ring, {}),
        ("cp = 16", ring, {"context": 2}),
    ],
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_nodes_change_the_way_and_not_the_calls(
    sharding: str, formula: Callable[[At], Calls], spans: dict[str, int], phase: str
) -> None:
    # a collective within each node and one between them, each of its own part (`tests/test_cluster.py` has the bytes
    # that pass the network): what a rank gives and gets is as on one node
    made = plan(sharding, "llama_2_7b", "cluster = h100_8x4")
    ways = dict(made.prefill.program.mesh.axes)
    assert found(made, phase) == formula(At(made.spec.model, phase, ways))
    listed = {line["axis"]: line["nodes"] for line in reported(made, phase) if "nodes" in line}
    assert listed == spans
