"""Multi-head latent attention: limits in closed form, monotone in sizes, and a fit that finds its constants."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.calibrate.fit import fit, held_out
from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.kinds.attention import NO_PEAK
from plandsl.backends.calibrate.kinds.mla import MLA_DECODE, MLA_PREFILL
from plandsl.backends.calibrate.run import jobs
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import Chip, Heads, prefill_seconds
from plandsl.backends.cost.forms.mla import (
    mla_decode_seconds,
    mla_prefill_seconds,
)
from plandsl.spec.constants import PrefillConstants, values
from plandsl.spec.hardware import GpuSpec
from tests.draws import draws

GPU = GpuSpec("g", 80e9, 3e12, (("bf16", 1e15), ("fp8", 2e15)), units=132)
CHIP = Chip(132, 1e15, 3e12)
PREFILL = MLA_PREFILL.start
DECODE = MLA_DECODE.start
EASE = 1 + 1e-9  # rounding

HEADS = st.integers(1, 128)
BATCH = st.integers(1, 600)


def decode(heads: float, batch: float, context: float, chip: Chip = CHIP, item: float = 2.0, **changes: float) -> float:
    seconds = mla_decode_seconds(
        DECODE._replace(**changes), chip, heads=heads, batch=batch, context=context, item=2.0, cache_item=item
    )
    assert isinstance(seconds, float)
    return seconds


def prefill(heads: float, batch: float, new: float, context: float, chip: Chip = CHIP) -> float:
    seconds = mla_prefill_seconds(
        PREFILL, chip, heads=heads, batch=batch, position=new, context=context, item=2.0, cache_item=2.0
    )
    assert isinstance(seconds, float)
    return seconds


# ---- limits in closed form


def test_a_long_prefill_multiplies_192_and_128_dimensions_at_its_share_of_the_peak() -> None:
    n = 4_000_000
    share = PREFILL.compute * 160 / (160 + PREFILL.half_dim)
    assert prefill(16, 1, n, n) == pytest.approx(2 * (192 + 128) * 16 * (n * n / 2) / (1e15 * share), rel=1e-3)


def test_prefill_is_attention_without_shared_keys_and_a_write_of_576_elements() -> None:
    shape = Heads(16, 16, 160.0, 16 * (192 + 128) * 2.0, 16 * (192 + 128) * 2.0)
    own = PrefillConstants(**values(PREFILL), packed=1.0)
    plain = prefill_seconds(own, CHIP, shape=shape, batch=4, position=100, context=300)
    written = 4 * 100 * 576 * 4.0 / (3e12 * PREFILL.write)
    assert prefill(16, 4, 100, 300) == pytest.approx(plain + written)


@pytest.mark.parametrize("heads", [1, 8, 16])
def test_few_heads_read_576_elements_a_token_at_their_share_of_the_bandwidth(heads: int) -> None:
    keys = 1024 * 131072
    fast = CHIP._replace(peak=1e17)
    expected = keys * 1152 / (3e12 * DECODE.memory)
    assert decode(heads, 1024, 131072, fast, draw=1e3) == pytest.approx(expected, rel=1e-3)


def test_a_narrow_cache_halves_what_is_read() -> None:
    fast = CHIP._replace(peak=1e17)
    assert decode(8, 1024, 131072, fast, 1.0) == pytest.approx(decode(8, 1024, 131072, fast) / 2, rel=0.02)


def test_many_heads_multiply_576_and_512_dimensions_at_their_share_of_the_peak() -> None:
    weak = CHIP._replace(peak=1e14)
    flops = 2 * (576 + 512) * 128 * 1024 * 131072
    assert decode(128, 1024, 131072, weak) == pytest.approx(flops / (1e14 * DECODE.compute), rel=0.01)


def test_heads_of_one_tile_cost_the_same_arithmetic() -> None:
    weak = CHIP._replace(peak=1e13)
    assert decode(33, 512, 65536, weak) == pytest.approx(decode(64, 512, 65536, weak), rel=1e-3)
    assert decode(65, 512, 65536, weak) == pytest.approx(2 * decode(64, 512, 65536, weak), rel=1e-3)


def test_further_tiles_read_keys_again_as_far_as_the_cache_does_not_help() -> None:
    fast = CHIP._replace(peak=1e19)
    once, twice = (decode(128, 512, 65536, fast, again=a, draw=1e3) for a in (1e-9, 1.0))
    assert twice == pytest.approx(2 * once, rel=0.01)
    assert decode(16, 512, 65536, fast, again=1.0) == decode(16, 512, 65536, fast, again=1e-9)


def test_a_context_is_split_over_units_if_the_kernel_can() -> None:
    whole, some, all_of_them = (decode(16, 1, 131072, parts=n) for n in (1.0, 4.0, 1e6))
    one = 131072 * 1152 / (3e12 * DECODE.memory * DECODE.draw / 132)
    assert whole == pytest.approx(one, rel=0.05)
    assert some == pytest.approx(one / 4, rel=0.1)
    assert all_of_them < one / 40


def test_short_contexts_are_their_tasks() -> None:
    c = {"memory": 1e6, "compute": 1e6}
    for heads, tasks in ((8, 1), (32, 2), (64, 1), (128, 2)):
        expected = DECODE.fixed + DECODE.step * 4096 * tasks / 132
        assert decode(heads, 4096, 1, **c) == pytest.approx(expected, rel=1e-3), heads


# ---- monotone


@given(HEADS, BATCH, st.integers(1, 4000), st.integers(0, 20000))
def test_more_prefill_is_never_faster(heads: int, batch: int, new: int, before: int) -> None:
    base = prefill(heads, batch, new, new + before)
    assert math.isfinite(base)
    assert base > PREFILL.fixed
    assert base <= prefill(heads + 1, batch, new, new + before) * EASE
    assert base <= prefill(heads, batch + 1, new, new + before) * EASE
    assert base <= prefill(heads, batch, new, new + before + 1) * EASE
    assert base <= prefill(heads, batch, new + 1, new + before + 1) * EASE
    assert prefill(heads, batch, new, new + before, CHIP._replace(bandwidth=4e12)) <= base * EASE
    assert prefill(heads, batch, new, new + before, CHIP._replace(peak=2e15)) <= base * EASE


@given(HEADS, BATCH, st.floats(1, 2e5))
def test_more_decode_is_never_faster(heads: int, batch: int, context: float) -> None:
    base = decode(heads, batch, context)
    assert math.isfinite(base)
    assert base > DECODE.fixed
    assert base <= decode(heads, batch + 1, context) * EASE
    assert base <= decode(heads, batch, context + 1) * EASE
    assert base >= decode(heads, batch, context, item=1.0)
    assert decode(heads, batch, context, CHIP._replace(bandwidth=4e12)) <= base * EASE
    assert decode(heads, batch, context, CHIP._replace(peak=2e15)) <= base * EASE


@given(st.lists(st.tuples(HEADS, BATCH, st.integers(1, 4000), st.integers(0, 20000)), min_size=1, max_size=5))
@draws(25 / 6)
def test_numbers_and_arrays_agree(rows: list[tuple[int, int, int, int]]) -> None:
    heads, batch, new, before = (np.array([float(r[i]) for r in rows]) for i in range(4))
    made = mla_prefill_seconds(
        PREFILL, CHIP, heads=heads, batch=batch, position=new, context=new + before, item=2.0, cache_item=1.0
    )
    each = [
        mla_prefill_seconds(PREFILL, CHIP, heads=h, batch=b, position=n, context=n + e, item=2.0, cache_item=1.0)
        for h, b, n, e in rows
    ]
    np.testing.assert_allclose(made, np.array(each), rtol=1e-12)
    made = mla_decode_seconds(DECODE, CHIP, heads=heads, batch=batch, context=before + 1, item=2.0, cache_item=1.0)
    each = [
        mla_decode_seconds(DECODE, CHIP, heads=h, batch=b, context=e + 1, item=2.0, cache_item=1.0)
        for h, b, _, e in rows
    ]
    np.testing.assert_allclose(made, np.array(each), rtol=1e-12)


# ---- calibration


def table(n: int, phase: str, **texts: str) -> Table:
    random = np.random.default_rng(3)
    new = random.choice([1, 16, 256, 2048, 8192], n) if phase == "prefill" else np.ones(n)
    numbers = {
        "batch": random.choice([1, 4, 16, 128, 1024], n), "seq_q": new, "n_heads": random.choice([1, 8, 32, 128], n),
        "kv_len": new if phase == "prefill" else random.choice([2, 128, 2048, 32768], n), "time_s": np.full(n, 1e-4),
    }  # fmt: skip
    words = {"gpu": "g", "dtype": "bf16", "kv_dtype": "bf16", "framework": "sglang-0.5", "phase": phase} | texts
    return Table({k: v.astype(np.float64) for k, v in numbers.items()} | {k: np.full(n, v) for k, v in words.items()})


@pytest.mark.parametrize(
    ("kind", "rows", "truth", "known"),
    [
        (
            MLA_PREFILL,
            table(400, "prefill"),
            {"fixed": 1.5e-5, "step": 5e-6, "compute": 0.6},
            {"fixed": 0.1, "step": 0.3, "compute": 0.15},
        ),
        (
            MLA_DECODE,
            table(500, "decode"),
            {"fixed": 1.5e-5, "step": 2e-6, "parts": 8.0, "compute": 0.5, "memory": 0.7},
            {"fixed": 0.1, "step": 0.3, "parts": 0.35, "compute": 0.25, "memory": 0.1},
        ),
    ],
    ids=["prefill", "decode"],
)
def test_a_fit_finds_the_constants_despite_outliers(
    kind: AnyKind, rows: Table, truth: dict[str, float], known: dict[str, float]
) -> None:
    random = np.random.default_rng(1)
    clean = kind.seconds(kind.start._replace(**truth), GPU, rows)
    noise = np.exp(random.normal(0, 0.03, len(rows))) * np.where(random.random(len(rows)) < 0.05, 10.0, 1.0)
    found = fit(kind, GPU, Table(rows.columns | {"time_s": clean * noise}), str(kind.sets(rows)[0]))
    assert found.unseen is not None
    assert found.unseen.median < 0.06
    assert abs(found.unseen.bias) < 0.04
    for name, within in known.items():
        assert getattr(found.constants, name) == pytest.approx(truth[name], rel=within), name


def test_sets_are_named_by_phase_dtype_cache_and_library() -> None:
    assert set(MLA_PREFILL.sets(table(2, "prefill"))) == {"mla_prefill.bf16"}
    rows = table(2, "decode", kv_dtype="fp8", framework="trtllm-1.3")
    assert set(MLA_DECODE.sets(rows)) == {"mla_decode.bf16_fp8_trtllm"}
    assert list(MLA_DECODE.reason(rows)) == [NO_PEAK] * 2


def test_a_phase_is_fitted_to_its_own_rows(tmp_path: Path) -> None:
    one, two = table(30, "prefill"), table(40, "decode")
    with (tmp_path / "mla.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(one.columns)
        for part in (one, two):
            out.writerows(zip(*part.columns.values(), strict=True))
    found = [(j.path, len(j.rows)) for j in jobs([tmp_path], lambda name: GPU, lambda name: None)]
    assert sorted(found) == [("mla_decode.bf16", 40), ("mla_prefill.bf16", 30)]


def test_a_share_of_the_shapes_is_held_out() -> None:
    rows = table(2000, "decode")
    assert 0.1 < held_out(MLA_DECODE, rows).mean() < 0.35


@pytest.mark.parametrize(("path", "answers"), [("mla_decode.bf16_fp8_trtllm", True), ("mla_prefill.fp4", False)])
def test_what_a_gpu_must_publish(path: str, answers: bool) -> None:
    assert MLA_DECODE.answers(GPU, path) is answers
    assert not MLA_DECODE.answers(GpuSpec("a", 80e9, 2e12, (("bf16", 3e14),)), path)
