"""Errors of servers by class, beside what is aimed at: tables of docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.served import LENGTHS, ORDER, Value
from plandsl.backends.accuracy.show import percent

Table = list[list[str]]

AIMS = {
    (True, "tpot"): (0.08, 0.08),
    (True, "throughput"): (0.08, 0.08),
    (True, "ttft"): (0.12, 0.20),
    (False, "tpot"): (0.10, 0.10),
    (False, "throughput"): (0.12, 0.12),
    (False, "ttft"): (0.25, 0.35),
}
"""Median absolute errors that are aimed at, by dense models or not and by metric: with jittered and with fixed lengths.

Rows whose lengths are only assumed to be fixed have no aim.
"""

TAIL = 0.45
"""What nine errors in ten are aimed to stay below."""

SAID = {"jittered": "jittered", "fixed": "fixed", "assumed": "fixed (assumed)"}

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "throughput": "throughput"}


class Errors(NamedTuple):
    """Of some values: how many, how many are answered, and errors of the answered ones; None where there are none."""

    rows: int
    answered: int
    median: float | None = None
    p90: float | None = None
    bias: float | None = None
    in_band: float | None = None


def errors_of(values: Sequence[Value]) -> Errors:
    """Absolute relative errors; ``bias`` is the median of predicted / measured - 1."""
    ratios = np.array([v.ratio for v in values if v.answered])
    if not len(ratios):
        return Errors(len(values), 0)
    banded = [v for v in values if v.answered and np.isfinite(v.low) and np.isfinite(v.high)]
    inside = [v.low <= v.measured <= v.high for v in banded]
    off = np.abs(ratios - 1)
    return Errors(
        len(values), len(ratios), median=float(np.median(off)), p90=float(np.quantile(off, 0.9)),
        bias=float(np.median(ratios) - 1), in_band=float(np.mean(inside)) if inside else None,
    )  # fmt: skip


def aim_of(value: Value) -> float | None:
    """The aim of a value's class."""
    jittered, fixed = AIMS[value.dense, value.metric]
    return {"jittered": jittered, "fixed": fixed}.get(value.lengths)


def is_met(errors: Errors, aim: float | None) -> bool | None:
    """Whether a class meets its aims, of the median and of the tail; None where there is no aim, or no answer."""
    if aim is None or errors.median is None or errors.p90 is None:
        return None
    return errors.median <= aim and errors.p90 <= TAIL


def cells(errors: Errors) -> list[str]:
    """The figures as words."""
    return [
        str(errors.rows), str(errors.answered), percent(errors.median), percent(errors.p90),
        percent(errors.bias, signed=True), percent(errors.in_band),
    ]  # fmt: skip


HEAD = ["rows", "answered", "median", "p90", "bias", "in band"]


def by(values: Sequence[Value], key: Callable[[Value], Hashable]) -> dict[Hashable, list[Value]]:
    """Values that share a key, in the order in which the keys come."""
    out: dict[Hashable, list[Value]] = {}
    for value in values:
        out.setdefault(key(value), []).append(value)
    return out


def class_of(value: Value) -> tuple[int, int, int]:
    """The class of a value, in the order of the table."""
    return int(not value.dense), LENGTHS.index(value.lengths), ORDER.index(value.metric)


def named(value: Value) -> list[str]:
    """The class of a value in words."""
    return ["dense" if value.dense else "experts", SAID[value.lengths], NAMES[value.metric]]


def aims_table(values: Sequence[Value]) -> Table:
    """A row for each class, with its aim and whether it is met."""
    out = [["models", "lengths", "metric", *HEAD, "aim", "met"]]
    groups = by(values, class_of)
    for key in sorted(groups, key=str):
        errors, aim = errors_of(groups[key]), aim_of(groups[key][0])
        met = is_met(errors, aim)
        verdict = ["-" if aim is None else f"{100 * aim:.0f} %", {None: "-", True: "yes", False: "no"}[met]]
        out.append([*named(groups[key][0]), *cells(errors), *verdict])
    return out


def engines_table(values: Sequence[Value]) -> Table:
    """A row for each engine, GPU, model, kind of lengths and metric."""
    out = [["engine", "GPU", "model", "lengths", "metric", *HEAD]]
    groups = by(values, lambda v: (v.engine, v.gpu, v.model, LENGTHS.index(v.lengths), ORDER.index(v.metric)))
    for key in sorted(groups, key=str):
        one = groups[key][0]
        name = [f"`{one.engine}`", f"`{one.gpu}`", one.model, *named(one)[1:]]
        out.append([*name, *cells(errors_of(groups[key]))])
    return out


# ---- what misses

Key = tuple[str, str, str, str]

HOST = (
    "outside of graphs the host launches kernels more slowly than they run; and rows of November 2025 wait for "
    "seconds, which nothing in them explains"
)

CAUSES: dict[Key, str] = {
    ("*", "gb200", "deepseek-r1", "*"): "two pools in a rack: how caches travel and requests are routed is not stated",
    ("trtllm", "*", "deepseek-r1", "ttft"): "short prompts take the same time on any number of ranks: outside of "
    "graphs the host launches kernels more slowly than they run",
    ("sglang", "b200_sxm", "deepseek-r1", "ttft"): HOST,
    ("sglang", "b300_sxm", "deepseek-r1", "ttft"): HOST,
    ("vllm", "b200_sxm", "llama-3.3-70b", "ttft"): "grows with ranks, for short prompts too: launches of the host, "
    "and large all_reduces",
    ("vllm", "h100_sxm", "llama-3.3-70b", "ttft"): "large all_reduces in prefill run faster than those that were "
    "measured outside of graphs",
    ("vllm_rocm", "mi355x", "gpt-oss-120b", "*"): "attention with sinks and a window was not measured on this GPU; "
    "the error grows with the context",
    ("trtllm", "*", "qwen3-235b-a22b", "*"): "a step takes longer than its kernels by a time that does not depend on "
    "the batch; the limits of batch and memory of these runs are not listed",
    ("trtllm", "*", "gpt-oss-120b", "*"): "the limits of batch and memory of these runs are not listed",
    ("trtllm", "rtx_pro_6000", "*", "*"): "stages exchange over PCIe, where measured times differ by several times",
    ("vllm", "*", "gpt-oss-120b", "ttft"): "the kernel of experts in mxfp4 that was measured is not the one that runs",
    ("atom", "*", "*", "*"): "nightly software of different days, on one number of ranks",
    ("sglang", "mi355x", "*", "*"): "the engine's constants come from other GPUs, with other kernels and all-to-all",
}
"""Likely causes of misses, by engine, GPU, model and metric; ``*`` stands for any. Words without figures."""

UNKNOWN = "not known"

FEW = 4
"""Fewer answered rows than this are no class that could miss."""


def misses_table(values: Sequence[Value]) -> Table:
    """A row for each engine, GPU and model that misses the aim of its class, the most rows first."""
    out = [["models", "lengths", "metric", "engine", "GPU", "model", "rows", "median", "aim", "bias", "likely cause"]]
    lines = []
    groups = by(values, lambda v: (class_of(v), v.engine, v.gpu, v.model))
    for some in groups.values():
        errors, one = errors_of(some), some[0]
        aim = aim_of(one)
        if aim is None or errors.median is None or errors.median <= aim or errors.answered < FEW:
            continue
        shown = [str(errors.answered), percent(errors.median), f"{100 * aim:.0f} %", percent(errors.bias, signed=True)]
        line = [*named(one), f"`{one.engine}`", f"`{one.gpu}`", one.model, *shown, cause_of(one)]
        lines.append((class_of(one), -errors.answered, line))
    return [*out, *(line for _, _, line in sorted(lines))]


def cause_of(value: Value) -> str:
    """The likely cause of a miss: the most exact entry of `CAUSES` that names it."""
    own = value.engine, value.gpu, value.model, value.metric
    fitting = [key for key in CAUSES if all(a in (b, "*") for a, b in zip(key, own, strict=True))]
    return CAUSES[min(fitting, key=lambda key: key.count("*"))] if fitting else UNKNOWN


def refusals_table(values: Sequence[Value]) -> Table:
    """Why rows have no prediction, with counts."""
    groups = by([v for v in values if not v.answered], lambda v: v.reason or "a fit says nothing of it")
    found = sorted(((len({(v.file, v.at) for v in some}), str(why)) for why, some in groups.items()), reverse=True)
    return [["rows", "reason"], *([str(count), why] for count, why in found)]
