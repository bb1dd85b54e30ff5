"""Targets that read CSV files of measurements: by `calibrate`, `accuracy`, `measured` and `measure`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from tests.fuzz.after import assert_finite, copied, seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.cells import Rows, near, spoiled
from tests.fuzz.inputs import SMALLER
from tests.fuzz.mutate import mutate_one
from tests.tables import WHOLE

if TYPE_CHECKING:
    from plandsl.spec.hardware import GpuSpec, LinkSpec
    from plandsl.spec.plan import PlanSpec

DEPLOYMENTS = ("serving", "mlperf")
KERNELS = tuple(name for name in WHOLE if name not in DEPLOYMENTS)

WORDS = {
    "gpu": ("h100_sxm", "b200_sxm", "mi300x", "h20", "rtx_pro_6000", "a100_sxm", "abacus"),
    "dtype": ("bf16", "fp16", "fp8", "fp8_block", "nvfp4", "int8", "w4a16", "a_fp8_w_fp8_per_1x128", "bf17"),
    "kv_dtype": ("bf16", "fp8", "", "fp17"),
    "op": ("rmsnorm", "all_reduce", "all_gather", "p2p_send_recv", "dispatch", "combine", "silu_and_mul", "none"),
    "backend": ("nccl-2.27.3", "rccl", "trtllm", "one_shot"),
    "routing": ("balanced", "uniform", "power_law_1.2", "power_law_-1", "activated_experts=4", "activated_experts=0"),
    "phase": ("prefill", "decode", ""),
    "library": ("deepep", "nccl", "x"),
    "mode": ("normal", "low_latency"),
    "framework": ("vllm", "vllm-0.19.0", "sglang-0.5.10", "trtllm", "TensorRT-LLM", "aiter", ""),
    "kernel": ("fused", "deepgemm_masked", "deepgemm_contiguous", "marlin", "triton", ""),
    "model": ("llama-3.1-8b", "meta-llama/Llama-3.1-70B-Instruct-FP8", "deepseek-v3", "gpt-oss-120b", "nobody"),
    "precision": ("fp8", "bf16", "fp4", "auto", "int4", "x"),
    "load_kind": ("closed_concurrency", "static_batch", "offline", "burst", "open_poisson", "", "sideways"),
    "serving_mode": ("aggregated", "disaggregated", "", "prefill only"),
    "bench": ("llama2-70b-99", "mixtral-8x7b-99", "deepseek-r1", "x"),
    "scenario": ("Offline", "Server", "Interactive", ""),
    "length_jitter": ("uniform 0.8-1.0 x nominal", "uniform", "", "uniform 9-1", "uniform 0-0"),
}  # fmt: skip
"""Words of text columns, each with some that nobody knows."""

EVERY_WORD = tuple(dict.fromkeys(word for words in WORDS.values() for word in words))

MORE = {
    "serving": {
        "attn_dp": "1", "ep": "1", "request_rate_per_s": "2", "length_jitter": "", "output_tok_per_s": "900",
        "prefill_workers": "1", "prefill_tp": "1", "decode_workers": "1", "decode_tp": "2", "ttft_stat": "median",
    },
    "mlperf": {"ttft_limit_s": "2", "tpot_limit_s": "0.2", "precision_cfg": "fp8"},
    "collectives": {"dtype": "bf16"},
    "gemm": {"kernel": "", "source": "made"},
}  # fmt: skip
"""Columns that a file may have besides."""


def rows_of(random: Random, name: str, count: int) -> Rows:
    """A header and ``count`` rows of a table, valid ones."""
    header, row = WHOLE[name]
    more = {key: cell for key, cell in MORE.get(name, {}).items() if random.random() < 0.3}
    rows = [[*header, *more]]
    for _ in range(count):
        cells = [_cell(column, str(cell), random) for column, cell in zip(rows[0], [*row, *more.values()], strict=True)]
        rows.append(cells)
    return rows


def _cell(column: str, cell: str, random: Random) -> str:
    if column in WORDS and random.random() < 0.05:
        return random.choice(WORDS[column])
    if column in SMALLER and random.random() < 0.9:
        return cell  # it must be at most another one
    return near(cell, random)


def _draw(names: tuple[str, ...], counts: tuple[int, ...], random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus)
    name = random.choice(names)
    return Case({f"{name}.csv": spoiled(rows_of(random, name, random.choice(counts)), random, EVERY_WORD)})


def _path(case: Case) -> Path:
    return Path(next(iter(case.files)))


# ---- calibrate


@cache
def _gpu(name: str) -> GpuSpec | None:
    from plandsl.entries import catalog_gpu

    return catalog_gpu(name)


@cache
def _link(name: str) -> LinkSpec | None:
    from plandsl.entries import catalog_link

    return catalog_link(name)


def _calibrate(case: Case) -> object:
    """Group the rows as `calibrate` does, and ask each form for the seconds of its rows, before it is fitted."""
    from plandsl.backends.calibrate.run import jobs

    found = list(jobs([_path(case)], _gpu, _link))
    for job in found:
        seconds = job.kind.seconds(job.kind.start, job.gpu, job.rows)
        for values in (seconds, job.rows.numbers(job.kind.metric)):
            assert ((values > 0) & (values < np.inf)).all(), f"a kernel of {job.path} takes no time"
    return len(found)


KERNEL_ROWS = Target("measurements", "reader", lambda r, c: _draw(KERNELS, (1, 3, 12, 13), r, c), _calibrate)


# ---- accuracy


@cache
def _shelf() -> Any:
    from plandsl.commands.accuracy import _shelf as made

    return made(None)


def _accuracy(case: Case) -> object:
    """Read a file and predict the rows of kernels; make plans of the rows of servers, and compile a few of them."""
    from plandsl.backends.accuracy.run import compare, read, usable
    from plandsl.backends.accuracy.serving import READERS, read_rows
    from plandsl.driver import compile_cost
    from plandsl.entries import catalog_has

    path = _path(case)
    table = read(path, path.name)
    stem = path.stem
    if stem not in READERS:
        for judged, counted in compare(stem, table, usable(path.name, path, table), _shelf()):
            score = judged.where(counted).score().as_json()
            assert all(x is None or abs(x) < 1e300 for x in score.values() if isinstance(x, float)), score
        return None
    rows, reasons = read_rows(table, READERS[stem], catalog_has)
    assert len(rows) + len(reasons) == len(table)
    for row in list(rows.values())[:1]:
        assert all(0 < length < 1e9 for length in (row.input, row.output)), row
        assert row.clients > 0, row
        if seldom(path.read_bytes(), 16):
            compile_cost(row.plan)
    return len(rows)


ACCURACY_ROWS = Target("accuracy-rows", "reader", lambda r, c: _draw(tuple(WHOLE), (1, 3), r, c), _accuracy)


# ---- measured


TABLED = ("gemm", "attention_prefill", "attention_decode", "elementwise", "collectives")


def _measured(case: Case) -> object:
    """Read the file as a plan does that names it in `measured`; estimate such a plan now and then."""
    from plandsl.backends.cost.machine.tables import Measured
    from plandsl.driver import compile_text
    from plandsl.spec.hardware import TableSpec

    name, content = next(iter(case.files.items()))
    for level in Measured.of(evolve(_plan(), measured=(TableSpec(name, str(Path(name).absolute())),))).levels:
        for points in level.values():
            assert all(0 < time < 1e9 for time in points.values())
    if seldom(content, 12):
        (plan,) = compile_text(PLAN.replace("TABLE", name), str(Path("p.plan").absolute()))
        assert_finite(plan.estimate().as_json())
    return None


@cache
def _plan() -> PlanSpec:
    from plandsl.driver import compile_text

    return compile_text(PLAN.replace('measured = "TABLE"', ""))[0].spec


PLAN = """plan p {
  model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }, measured = "TABLE"
  workload { input = 512, output = 16, batch = 8 }
}
"""


MEASURED_ROWS = Target("measured-rows", "reader", lambda r, c: _draw(TABLED, (1, 3, 12), r, c), _measured)


# ---- measure

METRICS = {
    "hbm_bandwidth_copy": ("", 3e12),
    "gemm_peak": ("bf16", 8e14),
    "memory": ("", 8e10),
    "units": ("", 132),
}
"""Rows of the table of rates of a device: a number format and a value."""


def _draw_measured(random: Random, corpus: Corpus) -> Case:
    """A file as `planc measure` writes it, with rows of several tables."""
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus)
    from plandsl.backends.measure.table import HEADER

    rows: Rows = [list(HEADER)]
    blank = dict.fromkeys(HEADER, "")
    about = {"gpu": "mine", "device": "a device", "framework": "jax 0.7.2", "source": "planc measure"}
    for metric, (dtype, value) in METRICS.items():
        if random.random() < 0.95:
            row = (
                blank
                | about
                | {"file": "peaks.csv", "metric": metric, "dtype": dtype, "value": near(str(value), random)}
            )
            rows.append([*row.values()])
    for _ in range(random.choice((0, 1, 3))):
        name = random.choice(TABLED)
        header, cells = rows_of(random, name, 1)
        known = {key: cell for key, cell in zip(header, cells, strict=True) if key in blank}
        rows.append([*(blank | known | about | {"file": f"{name}.csv"}).values()])
    return Case({"m.csv": spoiled(rows, random, EVERY_WORD)})


def _read_measured(case: Case) -> object:
    """Go on with the file as `planc measure` does, then declare the GPU that it measured, as `planc calibrate` does."""
    from plandsl.backends.calibrate.declare import declared
    from plandsl.backends.measure.table import Rows as Kept
    from plandsl.driver import open_text

    with copied("m.csv", case.files["m.csv"]) as path:
        for name, one in declared([path]).items():
            if not seldom(case.files["m.csv"], 4):
                continue
            module = open_text(f"{one.text}\ncalibration {name} = h100_sxm\n")
            module.check()
            assert not module.errors, module.errors
        Kept(path, "mine", "a device", "jax 0.7.2")
    return None


MEASURE_ROWS = Target("measure-rows", "reader", _draw_measured, _read_measured, on_disk=False)

TABLES = (KERNEL_ROWS, ACCURACY_ROWS, MEASURED_ROWS, MEASURE_ROWS)
