"""Fit the times that serving engines add to kernels, from rows of serving.csv: `python -m benchmarks.engines DATA`.

Writes `plandsl/catalog/engines/`. Errors and bands come from rows that the fit did not see: each pair of GPU and model
is left out once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve, frozen

from benchmarks.engine_memory import memory_values, with_memory
from plandsl.backends.accuracy.serving import Row, catalog_name, engine_of, serving_groups
from plandsl.backends.calibrate.fit import Errors, errors
from plandsl.backends.calibrate.solve import along, polished
from plandsl.backends.calibrate.table import Table, read_table
from plandsl.backends.cost.deployments.batch import batch_times, decode_step, prefill_step
from plandsl.backends.cost.deployments.ongoing import serve
from plandsl.backends.cost.deployments.replicas import Replicas
from plandsl.backends.cost.deployments.single import Single
from plandsl.backends.cost.time.phase import PhaseTimes, Played
from plandsl.driver import compile_text
from plandsl.entries import catalog_has
from plandsl.grammar.fmt import format_text
from plandsl.ir.program import PHASES
from plandsl.passes import compile_phase
from plandsl.spec.engine_limits import LIMITED, LimitsSpec
from plandsl.spec.fusions import ANY, FusedSizes
from plandsl.spec.hardware import ENGINE_RATES, ENGINE_SHARES, ENGINE_TIMES, RANK_TIMES, EngineSpec

TARGET = Path(__file__).resolve().parent.parent / "plandsl" / "catalog" / "engines"

ENGINES = ("vllm", "vllm_rocm", "trtllm", "trtllm_1_0_0rc3", "atom")
"""Engines with rows of models that are in the catalog."""

MIB, GIB = 2**20, 2**30

RANK = "step_rank"
"""The constant that is fitted where rows have several numbers of ranks, and kept where rows left out agree."""

FITTED = ("prefill", "decode", "links", "step", RANK, "request", "admit", "first", "first_request")
START = EngineSpec(
    "", prefill=0.95, decode=0.95, links=1.0, step=0.3e-3, step_rank=20e-6, request=20e-6, admit=3e-3, first=20e-3,
    first_request=0.2e-3,
)  # fmt: skip
LOOSE = dict.fromkeys(FITTED, 1.0) | {"prefill": 0.2, "decode": 0.2, "links": 0.4, RANK: 1.5}
PRICE = 0.002

WAYS = {
    "vllm": {"kept_output": 0.5, "memory_fraction": 0.9, "kv_block": 16, "kernels": "vllm",
             "limits": LimitsSpec("memory", (70 * GIB,), (2048, 8192), (256, 1024), ("a100", "gb10"))},
    "trtllm": {"kept_output": 1.0, "memory_fraction": 0.9, "kv_block": 32, "max_requests": 2048, "step_tokens": 8192,
               "kernels": "trtllm"},
    "sglang": {"kept_output": 0.5, "kv_block": 1, "max_requests": 2048, "kernels": "sglang",
               "limits": LimitsSpec("memory_total", (20 * GIB, 60 * GIB, 160 * GIB), (2048, 4096, 8192, 16384))},
    "atom": {"kept_output": 0.5, "memory_fraction": 0.9, "kv_block": 16, "max_requests": 512, "step_tokens": 16384,
             "kernels": "aiter"},
}  # fmt: skip
"""How the engines spend memory by default, as their documentation of options says.

vLLM: `gpu_memory_utilization`, `block_size`, `max_num_seqs`, `max_num_batched_tokens`, the last two by the GPU as a
server of version 0.19 chooses them (`vllm/engine/arg_utils.py`); it admits a request without room for its output, and
evicts requests when memory runs out. TensorRT-LLM: `free_gpu_memory_fraction`, `tokens_per_block`, `max_batch_size`,
`max_num_tokens`; its scheduler guarantees that no request is evicted. SGLang: `page_size`, `chunked_prefill_size` by
the GPU (version 0.5.23, `arg_groups/memory_hook.py`), as `mem_fraction_static` (`spec/fractions.py`), and the least
`max_running_requests`. While requests grow, they hold half of their output on average. What engines take besides
weights and cache is in `engine_memory.py`.
"""

_QUANTIZING = ("residual_norm", "norm_quantize", "activation_quantize")
_SUMMING = ("all_reduce_norm", "all_reduce_norm_quantize")

FUSED: dict[str, dict[str, Any]] = {
    "vllm": {
        "fusions": (*_SUMMING, *_QUANTIZING),
        "fused_sizes": FusedSizes(
            (2, 4, 8), (("fp8", (64 * MIB, 2 * MIB, MIB / 2)), ("fp4", (64 * MIB, 32 * MIB, MIB)))
        ),
    },
    "vllm_rocm": {"fusions": _QUANTIZING},
    "trtllm": {
        "fusions": (*_SUMMING, "residual_norm", "activation_quantize", "attention_quantize", "norm_rope", "rope_cache"),
        "fused_sizes": FusedSizes((2, 8), ((ANY, (16e6, 8e6)),)),
    },
    "sglang": {
        "fusions": ("all_reduce_norm", "residual_norm"),
        "fused_sizes": FusedSizes((8,), tuple((name, (28 * MIB,)) for name in ("fp8", "fp4"))),
    },
    "atom": {"fusions": ("all_reduce_norm", *_QUANTIZING)},
}  # fmt: skip
"""What the engines run in one kernel by default, and up to which bytes an all_reduce shares one.

vLLM: `docs/design/fusions.md` and `FI_ALLREDUCE_FUSION_MAX_SIZE_MB` of
`vllm/compilation/passes/fusion/allreduce_rms_fusion.py`. `fuse_allreduce_rms` is on by default on Hopper and Blackwell
since pull request 34299 (February 2026); before, InferenceMAX set it in its scripts. Without it vLLM leaves norms,
activations and quantisation to Inductor, which fuses them (`enable_norm_fusion` in `vllm/config/vllm.py`). On AMD GPUs
it needs `VLLM_ROCM_USE_AITER=1` (pull request 37646). TensorRT-LLM, PyTorch flow: `AllReduceFusionOp` in
`modeling_llama.py`, on unless `TRTLLM_LLAMA_EAGER_FUSION_DISABLED`, up to `getMaxRequiredWorkspaceSize` of
`customAllReduceUtils.h`; `fuse_qk_norm_rope` of `QKNormRoPEAttention`; its attention op turns, quantises and writes the
cache. SGLang: an all_reduce of up to 2,048 tokens (`FUSE_ALLREDUCE_MAX_BATCH_SIZE`) on Hopper and Blackwell, on by
default for DeepSeek, GPT-OSS, GLM, Kimi and Qwen mixtures of experts; here 2,048 tokens of DeepSeek's 7,168 elements.
ATOM: `ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION` and the fusions with quantisation, 1 by default (`atom/utils/envs.py`).
"""


FUSED_SOURCE = {
    "vllm": 'vLLM, page "Fusion torch.compile passes"; FI_ALLREDUCE_FUSION_MAX_SIZE_MB (fp8: Hopper, fp4: Blackwell)',
    "vllm_rocm": "as vllm; an all_reduce shares its kernel only with VLLM_ROCM_USE_AITER=1 (pull request 37646)",
    "trtllm": "AllReduceFusionOp, customAllReduceUtils.h, QKNormRoPEAttention; activation, attention, rope: assumed",
    "sglang": "FUSE_ALLREDUCE_MAX_BATCH_SIZE, 2,048 tokens of 7,168 elements; assumed for all models",
    "atom": "defaults of ATOM (atom/utils/envs.py); an all_reduce of any size: assumed",
}
"""Where the fusions of an engine come from, as its file says."""


def fused_of(name: str) -> dict[str, Any]:
    """The fusions of an engine, and up to which size an all_reduce has part in them."""
    return FUSED.get(name) or FUSED[LIKE[name]]


STEP_NODE = 0.4e-3
"""Seconds by which a step on several nodes is longer: assumed, as no row has several nodes.

Two messages between processes over TCP, what to compute and what was computed, at 0.2 ms each: gloo carries out 5,015
operations of 10 elements a second between processes of one host (github.com/meta-pytorch/torchft, pull request 199).
"""

RELATIVES = {"sglang": "vllm"}
"""Engines without rows of a model in the catalog, and the engine whose constants they take."""

RANKS_OF = {"atom": "vllm_rocm"}
"""Engines whose rows have one number of ranks, and the engine on the same GPUs whose `step_rank` they take."""

HELD = {"trtllm_1_0_0rc3": "trtllm"}
"""Versions that always hold back one of the requests in flight, and the engine whose `WAYS` they share."""

LIKE = HELD | {"vllm_rocm": "vllm"}
"""Engines that use memory as another engine does."""


@frozen
class Group:
    """Rows of one plan and kind of load, with the times of their kernels.

    Arrays have one value for each row, per replica: ``clients`` send requests, ``runs`` of them run at once, and
    ``joined`` start together. ``flights`` is the number of batches in flight.
    """

    key: str
    load: list[Row]
    measured: dict[str, np.ndarray]
    prefill: PhaseTimes
    decode: PhaseTimes
    clients: np.ndarray
    runs: np.ndarray
    joined: np.ndarray
    flights: int
    replicas: int
    ranks: int

    def predict(self, engine: EngineSpec) -> dict[str, np.ndarray]:
        """Metrics under ``engine``, which must have the memory settings that the times were computed with."""
        o, engine = np.array([r.output for r in self.load]), engine.on_ranks(self.ranks, nodes=1)
        prefill = at_rates(self.prefill, engine.prefill, engine.links, self.flights)
        decode = at_rates(self.decode, engine.decode, engine.links, self.flights)
        if self.load[0].kind == "static_batch":
            ttft, tpot = batch_times(engine, self.runs / self.flights, prefill, decode)
            return {"ttft_s": ttft, "tpot_s": tpot, "output_tok_per_s": self.runs * o / (ttft + (o - 1) * tpot)}
        requests = np.array([r.requests for r in self.load]) / self.replicas
        s = serve(
            engine, self.clients, self.runs, o, requests,
            prefill=prefill, joined=self.joined, decode=decode, flights=self.flights,
        )  # fmt: skip
        return {"ttft_s": s.ttft, "tpot_s": s.tpot, "output_tok_per_s": self.replicas * s.rate * o}


def at_rates(times: PhaseTimes, rate: float, links: float, flights: int) -> PhaseTimes:
    """``times`` with kernels and exposed collectives at other rates, as `PhaseModel` computes them without overlap."""
    stages = [Played(s.compute / rate + s.exposed / links, s.compute / rate) for s in times.stages]
    hop, hops = times.hop / links, times.hops / links
    through = sum(s.span for s in stages) + hops
    slowest = np.maximum(np.max([np.asarray(s.span) for s in stages], axis=0), hop)
    return times._replace(
        stages=stages, hop=hop, hops=hops, through=through, period=np.maximum(through, flights * slowest)
    )


def is_dense(model: str) -> bool:
    """Whether a model has no experts, whose kernels' errors would otherwise be fitted into the engine."""
    return not catalog_has("dimension", f"{catalog_name(model)}.experts")


def start_engine(name: str) -> EngineSpec:
    """The engine ``name`` before its fit."""
    ways: dict[str, Any] = WAYS[LIKE.get(name, name)] | fused_of(name) | memory_values(name)
    return evolve(START, name=name, held_back=int(name in HELD), **ways)


def groups(table: Table, name: str) -> Iterator[Group]:
    """The rows of one engine, grouped by plan and kind of load."""
    pairs = zip(table.texts("framework"), table.texts("gpu"), strict=True)
    mine = np.array([engine_of(f, g) == name for f, g in pairs])
    table = table.where(mine & np.array([is_dense(m) for m in table.texts("model")]))
    engine = evolve(start_engine(name), prefill=1.0, decode=1.0, links=1.0, step_rank=0.0)

    def compiled(text: str) -> Replicas:
        bare = "\n".join(line for line in text.splitlines() if "engine =" not in line)
        plan = compile_text(bare)[0]
        share = engine.memory_fraction or 1.0
        own = engine.on_gpus([kind.node.gpu for kind in plan.spec.kinds])
        spec = evolve(plan.spec, engine=own, memory_fraction=share, step_tokens=own.step_tokens)
        prefill, decode = (compile_phase(spec, phase) for phase in PHASES)  # with the fusions of the engine
        return Replicas(spec.sharding.replicas, Single(spec, prefill, decode))

    for model, load, of in serving_groups(table, compiled, catalog_has):
        yield group(model, load, table, of)


def group(model: Replicas, load: list[Row], table: Table, of: list[int]) -> Group:
    """The group of some rows, with times of kernels, which do not depend on the fitted constants."""
    one, replicas, flights = model.one, model.n, model.in_flight
    i, o, n = (np.array([getattr(r, name) for r in load]) for name in ("input", "output", "clients"))
    measured = {m: table.numbers(m)[of] for m in ("ttft_s", "tpot_s", "output_tok_per_s")}
    key, ranks = f"{table.texts('gpu')[of[0]]} {table.texts('model')[of[0]]}", one.plan.step_ranks[0]
    if load[0].kind == "static_batch":
        pre, dec = prefill_step(one, n, i, flights), decode_step(one, n, i, o)
        return Group(
            key, load, measured, pre, dec, clients=n, runs=n * flights, joined=n, flights=flights, replicas=replicas,
            ranks=ranks,
        )  # fmt: skip
    clients, runs, joined, _ = model.crowd(n, i, o)
    pre, dec = prefill_step(one, joined, i, 1), decode_step(one, runs / flights, i, o)
    return Group(
        key, load, measured, pre, dec, clients=clients, runs=runs, joined=joined, flights=flights, replicas=replicas,
        ranks=ranks,
    )  # fmt: skip


def ratios(rows: list[Group], engine: EngineSpec) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted and measured values by metric, of all rows with a measurement."""
    out: dict[str, list[list[np.ndarray]]] = {}
    for g in rows:
        for metric, predicted in g.predict(engine).items():
            have = g.measured[metric] > 0
            pair = out.setdefault(metric, [[], []])
            pair[0].append(predicted[have])
            pair[1].append(g.measured[metric][have])
    return {m: (np.concatenate(a), np.concatenate(b)) for m, (a, b) in out.items() if sum(map(len, a))}


def fit(rows: list[Group], start: EngineSpec) -> EngineSpec:
    """Fit an engine: minimise the sum over metrics of the mean of |ln(predicted / measured)|.

    What is 0 in ``start`` stays 0.
    """
    names = [n for n in FITTED if getattr(start, n)]
    middle = np.log([getattr(start, n) for n in names])
    loose = np.array([LOOSE[n] for n in names])

    def engine(y: np.ndarray) -> EngineSpec:
        return evolve(start, **dict(zip(names, map(float, np.exp(middle + loose * y)), strict=True)))

    def loss(y: np.ndarray) -> float:
        off = [np.abs(np.log(p / m)).mean() for p, m in ratios(rows, engine(y)).values()]
        return float(sum(off) + PRICE * (y**2).sum())

    return engine(polished(loss, along(loss, np.zeros(len(middle)))))


def get_key(group: Group) -> str:
    """The pair of GPU and model."""
    return group.key


def get_ranks(group: Group) -> int:
    """The number of ranks."""
    return group.ranks


def unseen_errors(
    rows: list[Group], start: EngineSpec, by: Callable[[Group], str | int] = get_key
) -> dict[str, Errors]:
    """Errors by metric on each pair of GPU and model, with an engine fitted to the other pairs.

    With another ``by``, groups that it gives one value are left out together.
    """
    pairs: dict[str, list[list[np.ndarray]]] = {}
    for key in dict.fromkeys(map(by, rows)):
        others = [g for g in rows if by(g) != key] or rows
        found = fit(others, start)
        for metric, (p, m) in ratios([g for g in rows if by(g) == key], found).items():
            pair = pairs.setdefault(metric, [[], []])
            pair[0].append(p)
            pair[1].append(m)
    return {metric: errors(np.concatenate(a), np.concatenate(b)) for metric, (a, b) in pairs.items()}


class Ranks(NamedTuple):
    """Where a fit starts, with or without a time of further ranks, and the mean errors left out of both, by metric."""

    start: EngineSpec
    with_ranks: dict[str, float]
    without: dict[str, float]


def judge_ranks(rows: list[Group], start: EngineSpec) -> Ranks:
    """Keep the time of further ranks in ``start`` only where errors on what is left out are no larger with it.

    Left out in turn are pairs of GPU and model; of one pair alone, numbers of ranks.
    """
    bare = evolve(start, step_rank=0.0)
    if len({g.ranks for g in rows}) == 1:
        return Ranks(bare, {}, {})
    by = get_key if len({g.key for g in rows}) > 1 else get_ranks
    more, less = ({m: e.mean for m, e in unseen_errors(rows, one, by).items()} for one in (start, bare))
    return Ranks(start if sum(more.values()) <= sum(less.values()) else bare, more, less)


def main(data: str) -> None:
    """Fit every engine that has rows, and write the engines to the catalog."""
    path = Path(data)
    table = read_table(path / "serving.csv" if path.is_dir() else path)
    TARGET.mkdir(exist_ok=True)
    done: dict[str, tuple[EngineSpec, dict[str, Errors]]] = {}
    for name in ENGINES:
        rows = list(groups(table, name))
        ranks = judge_ranks(rows, start_engine(name))
        judged = unseen_errors(rows, ranks.start)
        found = fit(rows, ranks.start)
        if name in RANKS_OF:
            found = evolve(found, step_rank=done[RANKS_OF[name]][0].step_rank)
        done[name] = found, judged
        count = sum(len(g.load) for g in rows)
        alone = len({g.key for g in rows}) == 1
        write(found, judged, count, name, alone)
        for metric, error in ranks.with_ranks.items():
            print(f"{name:16} {metric:18} mean left out {error:.2%} with {RANK}, {ranks.without[metric]:.2%} without")
        for metric, e in judged.items():
            print(
                f"{name:16} {metric:18} {e.rows:4} rows  median {e.median:6.1%}  p90 {e.p90:6.1%}  bias {e.bias:+6.1%}"
            )
    for name, relative in RELATIVES.items():
        engine = evolve(start_engine(name), **{n: getattr(done[relative][0], n) for n in FITTED})
        write(engine, done[relative][1], 0, relative, False)


def write(engine: EngineSpec, judged: dict[str, Errors], rows: int, fitted_as: str, alone: bool) -> None:
    """Write one engine as a `.plan` file: fitted constants first, then assumed ones."""
    name = engine.name
    lines = ["# Made by `python -m benchmarks.engines`: do not edit.", f"engine {name} {{"]
    lines += [f'  source = "{rows} serving rows (docs/calibration.md)"'] if rows else []
    if rows:
        where = "the rows fitted, which have one model on one GPU" if alone else "models and GPUs left out of the fit"
        lines.append(f"  # errors on {where}:")
    for metric, e in judged.items() if rows else ():
        off = f"off by {100 * e.median:.1f} % (median) and {100 * e.p90:.1f} % (90th percentile)"
        lines.append(f"  # {metric}: {off}, bias {100 * e.bias:+.1f} %, {e.rows} rows")
    told = {n: f"{n} = {quantity(n, getattr(engine, n))}" for n in FITTED if getattr(engine, n)}
    taken = told.pop(RANK, "") if name in RANKS_OF else ""
    fitted = [*told.values()] if engine.step_rank else [*told.values(), f"# rows left out show no {RANK}"]
    bands = []
    for metric, short in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("output_tok_per_s", "throughput")):
        if metric in judged:
            bands += [f"{short}_low = {judged[metric].low:.4g}", f"{short}_high = {judged[metric].high:.4g}"]
    ways = list(way_lines(name))
    ways += ["held_back = 1"] if engine.held_back else []
    own = [*fitted, *bands] if rows else []
    assumed = [] if rows else [f"# the constants of {fitted_as}: no rows of a dense model", *fitted, *bands]
    lines += [f"  {text}" for text in (*own, *ways)]
    if taken:
        assumed += [f"# that of {RANKS_OF[name]}: these rows have one number of ranks", taken]
    assumed += [f"step_node = {quantity('step_node', STEP_NODE)}"]
    lines += ["  assumed {", *(f"    {text}" for text in assumed), "  }"]
    text = with_memory("\n".join([*lines, "}", ""]), name)
    (TARGET / f"{name}.plan").write_text(format_text(text, name), encoding="utf-8")


def way_lines(name: str) -> Iterator[str]:
    """The lines of an engine that say how it spends memory, and what it runs in one kernel."""
    yield from memory_lines(name)
    yield f"# fusions: {FUSED_SOURCE.get(name) or FUSED_SOURCE[LIKE[name]]}"
    fused = fused_of(name)
    yield from ("fusions = [", *(f"  {fusion}," for fusion in fused["fusions"]), "]")
    if "fused_sizes" in fused:
        yield from size_lines(fused["fused_sizes"])


def memory_lines(name: str) -> Iterator[str]:
    """The lines of an engine that say how it spends memory."""
    for field, value in WAYS[LIKE.get(name, name)].items():
        if not isinstance(value, LimitsSpec):
            yield f"{field} = {quantity(field, value)}"
            continue
        bounds = ", ".join(f"{bound / GIB:g} GiB" for bound in value.bounds)
        values = [f"{n} = {list(value.values(n))}" for n in LIMITED if value.values(n)]
        words = ", ".join(f'"{word}"' for word in value.small)
        values += [f"small = [{words}]"] if words else []
        yield from ("limits {", f"  {value.of} = [{bounds}]", *(f"  {line}" for line in values), "}")


def size_lines(sizes: FusedSizes) -> Iterator[str]:
    """The section `fused_sizes`."""
    yield "fused_sizes {"
    yield f"  ranks = {list(sizes.ranks)}"
    for name, each in sizes.bytes:
        shown = (f"{size / MIB:g} MiB" if size % (MIB / 2) == 0 else f"{size / 1e6:g} MB" for size in each)
        yield f"  {name} = [{', '.join(shown)}]"
    yield "}"


def quantity(name: str, value: float | str) -> str:
    """A constant in a unit that reads well."""
    if isinstance(value, str):
        return value
    if name in (*ENGINE_RATES, *ENGINE_SHARES):
        return f"{100 * value:.4g} %"
    if name in (*ENGINE_TIMES, *RANK_TIMES):
        return f"{value * 1e3:.4g} ms" if value >= 1e-4 else f"{value * 1e6:.4g} us"
    return f"{value:g}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.engines DATA, a folder with serving.csv")
    main(sys.argv[1])
