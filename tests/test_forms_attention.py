from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.calibrate.fit import fit
from plandsl.backends.calibrate.kind import AnyKind
from plandsl.backends.calibrate.kinds.attention import (
    ATTENTION_DECODE,
    ATTENTION_ONE_QUERY,
    ATTENTION_PREFILL,
    NO_PEAK,
    instead,
)
from plandsl.backends.calibrate.kinds.mixed import ATTENTION_MIXED
from plandsl.backends.calibrate.run import jobs
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import (
    Chip,
    Heads,
    decode_seconds,
    mixed_seconds,
    prefill_seconds,
    visible_pairs,
)
from plandsl.spec.constants import DecodeConstants, values
from plandsl.spec.hardware import GpuSpec
from tests.draws import draws

GPU = GpuSpec("g", 80e9, 3e12, (("bf16", 1e15), ("fp8", 2e15)), units=132)
CHIP = Chip(132, 1e15, 3e12)
PREFILL = ATTENTION_PREFILL.start
DECODE = ATTENTION_DECODE.start
MIXED = ATTENTION_MIXED.start
OF_PREFILL = PREFILL._replace(**{n: v for n, v in values(MIXED).items() if n in PREFILL._fields}, tail=0.5)
OF_DECODE = DecodeConstants(*(getattr(MIXED, n, 1.0) for n in DecodeConstants._fields[:-1]))
EASE = 1 + 1e-9  # rounding


def heads(q: int = 32, kv: int = 8, dim: int = 128, item: float = 2.0) -> Heads:
    return Heads(q, kv, dim, q * dim * 4.0, 2 * kv * dim * item)


SHAPES = st.builds(
    lambda kv, g, d, i: heads(kv * g, kv, d, i),
    st.integers(1, 16), st.integers(1, 40), st.sampled_from([64, 128, 192, 256]), st.sampled_from([1.0, 2.0]),
)  # fmt: skip
WINDOWS = st.sampled_from([0, 1, 128, 1024])
NEW = st.integers(1, 4000)
BEFORE = st.integers(0, 20000)
BATCH = st.integers(1, 600)


# ---- visible pairs


@pytest.mark.parametrize(("new", "context", "window"), [(1, 1, 0), (5, 9, 0), (5, 9, 3), (7, 7, 4), (1, 9, 1)])
def test_visible_pairs_are_a_count(new: int, context: int, window: int) -> None:
    count = sum(min(i + 1, window or context) for i in range(context - new, context))
    assert visible_pairs(new, context, True, window) == count


def test_decode_sees_a_context_between_tokens() -> None:
    assert visible_pairs(1, 100.5, True, 100) == 100


# ---- limits in closed form


def test_a_long_prefill_runs_at_its_share_of_the_peak() -> None:
    n, shape = 4_000_000, heads()
    seconds = prefill_seconds(PREFILL._replace(tail=1e-9), CHIP, shape=shape, batch=1, position=n, context=n)
    share = PREFILL.compute * 128 / (128 + PREFILL.half_dim)
    assert seconds == pytest.approx(4 * 128 * 32 * (n * n / 2) / (1e15 * share), rel=1e-3)


def test_a_single_tile_is_its_share_and_its_tail() -> None:
    shape = heads(1, 1)
    seconds = prefill_seconds(PREFILL._replace(memory=1e6), CHIP, shape=shape, batch=1, position=128, context=128)
    rate = 1e15 / 132 * PREFILL.compute * 128 / (128 + PREFILL.half_dim)
    share = (PREFILL.step + 4 * 128 * (128 * 129 / 2 + 128 * 64) / rate) / 132
    longest = PREFILL.step + 4 * 128 * 128 * 128 / rate
    assert seconds == pytest.approx(PREFILL.fixed + share + PREFILL.tail * longest)


def test_slow_memory_bounds_prefill() -> None:
    shape = heads()
    slow = Chip(132, 1e15, 1e6)
    moved = 4 * (1000 * shape.query_bytes + 3000 * shape.key_bytes)
    assert prefill_seconds(PREFILL, slow, shape=shape, batch=4, position=1000, context=3000) == pytest.approx(
        moved / (1e6 * PREFILL.memory)
    )


def test_queries_of_a_group_share_tiles() -> None:
    few, many = heads(8, 8), heads(8, 1)
    c = PREFILL._replace(memory=1e6)
    assert prefill_seconds(c, CHIP, shape=many, batch=64, position=16, context=16) < prefill_seconds(
        c, CHIP, shape=few, batch=64, position=16, context=16
    )


@pytest.mark.parametrize("packed", [0.0, 0.4, 1.0])
def test_a_kernel_that_does_not_pack_has_a_tile_for_every_query_head(packed: float) -> None:
    c = PREFILL._replace(memory=1e6, compute=1e6, packed=packed)
    seconds = prefill_seconds(c, CHIP, shape=heads(32, 4), batch=64, position=32, context=32)
    tiles = 64 * 4 * (packed * 2 + (1 - packed) * 8)  # 8 heads of 32 queries fill two tiles
    assert seconds == pytest.approx(c.fixed + c.step * (tiles / 132 + c.tail), rel=1e-3)


def test_packing_saves_tiles() -> None:
    whole = prefill_seconds(PREFILL._replace(packed=1.0), CHIP, shape=heads(), batch=512, position=16, context=400)
    assert prefill_seconds(PREFILL, CHIP, shape=heads(), batch=512, position=16, context=400) > whole


def test_a_large_decode_reads_the_cache_at_its_share_of_the_bandwidth() -> None:
    shape = heads(8, 8)
    fast = Chip(132, 1e19, 3e12)
    seconds = decode_seconds(DECODE._replace(draw=1e3), fast, shape, 512, 131072)
    assert seconds == pytest.approx(512 * 131072 * shape.key_bytes / (3e12 * DECODE.memory), rel=2e-3)


def test_decode_without_keys_to_speak_of_is_its_tasks() -> None:
    c = DECODE._replace(memory=1e6, compute=1e6)
    seconds = decode_seconds(c, CHIP, heads(), 1024, 1)
    assert seconds == pytest.approx(c.fixed + c.step * 1024 * 8 / 132, rel=1e-3)


def test_large_groups_are_bound_by_arithmetic() -> None:
    weak = Chip(78, 1e14, 4e12)
    shape = heads(128, 1)
    flops = 4 * 128 * 128 * 256 * 65536
    assert decode_seconds(DECODE, weak, shape, 256, 65536) == pytest.approx(flops / (1e14 * DECODE.compute), rel=0.3)


def test_one_long_sequence_is_split_over_the_units() -> None:
    whole = decode_seconds(DECODE, CHIP, heads(1, 1), 1, 131072, divides=False)
    split = decode_seconds(DECODE, CHIP, heads(1, 1), 1, 131072)
    assert split < whole / 10


def test_a_narrow_cache_takes_half_as_long_to_read() -> None:
    wide, narrow = (decode_seconds(DECODE, CHIP, heads(item=i), 256, 65536) for i in (2.0, 1.0))
    assert narrow == pytest.approx(wide / 2, rel=0.1)


def test_a_window_bounds_decode() -> None:
    assert decode_seconds(DECODE, CHIP, shape=heads(), batch=64, context=100_000, window=128) == decode_seconds(
        DECODE, CHIP, heads(), 64, 128
    )


# ---- a warm cache


def test_what_fits_the_cache_is_read_faster_when_it_was_read_before() -> None:
    shape, c = heads(8, 8), DECODE._replace(cache=1e8, cached=4.0, fixed=1e-9, split=1e-12, step=1e-12)
    size = [n * 1e8 / (64 * shape.key_bytes) for n in (0.9, 1.5, 2.1)]
    fast = Chip(132, 1e19, 3e12)
    cold, warm = ([decode_seconds(c, fast, shape, 64, n, warm=w) for n in size] for w in (False, True))
    assert warm[0] == pytest.approx(cold[0] / 4, rel=0.02)
    assert warm[1] == pytest.approx(cold[1] * (0.5 + 0.5 / 4), rel=0.02)
    assert warm[2] == cold[2]


@given(SHAPES, BATCH, st.floats(1, 1e5), WINDOWS)
def test_a_warm_cache_never_costs_and_more_keys_never_help(
    shape: Heads, batch: int, context: float, window: int
) -> None:
    cold = decode_seconds(DECODE, CHIP, shape=shape, batch=batch, context=context, window=window)
    warm, more = (
        decode_seconds(DECODE, CHIP, shape=shape, batch=batch, context=n, window=window, warm=True)
        for n in (context, context * 1.1)
    )
    assert warm <= cold * EASE
    assert warm <= more * EASE


def test_benchmarks_are_warm() -> None:
    rows = Table(decode_table(1).columns | {k: np.array([v]) for k, v in (("batch", 8.0), ("kv_len", 2048.0))})
    hot, cold = (ATTENTION_DECODE.seconds(DECODE._replace(cached=f), GPU, rows) for f in (8.0, 1.0))
    assert (hot < cold).all()


# ---- a chunk of a prefill with decodes of others


def mixed(chunk: float, before: float, decodes: float, context: float, **changes: float) -> float:
    seconds = mixed_seconds(
        MIXED._replace(**changes), CHIP, shape=heads(), chunk=chunk, before=before, decodes=decodes, context=context
    )
    assert isinstance(seconds, float)
    return seconds


@pytest.mark.parametrize(("decodes", "context"), [(1, 16), (8, 4096), (256, 1024), (64, 65536)])
def test_a_batch_without_a_chunk_is_decode(decodes: int, context: int) -> None:
    assert mixed(0, 0, decodes, context) == decode_seconds(OF_DECODE, CHIP, heads(), decodes, context)


@pytest.mark.parametrize(("chunk", "before"), [(2048, 0), (4096, 16384), (16384, 0)])
def test_a_long_chunk_alone_is_close_to_prefill(chunk: int, before: int) -> None:
    prefill = prefill_seconds(OF_PREFILL, CHIP, shape=heads(), batch=1, position=chunk, context=before + chunk)
    assert mixed(chunk, before, 0, 0) == pytest.approx(prefill, rel=0.4)


def test_a_huge_chunk_runs_at_its_share_of_the_peak() -> None:
    n = 2_000_000
    share = MIXED.compute * 128 / (128 + MIXED.half_dim)
    assert mixed(n, 0, 0, 0) == pytest.approx(4 * 128 * 32 * (n * n / 2) / (1e15 * share), rel=0.01)


def test_decodes_in_the_kernel_of_prefill_are_padded() -> None:
    flops = 4 * 128 * 32 * MIXED.rows * 512 * 65536
    share = MIXED.compute * 128 / (128 + MIXED.half_dim)
    assert mixed(16, 0, 512, 65536, memory=1e6) == pytest.approx(flops / (1e15 * share), rel=0.05)


def test_a_chunk_keeps_long_contexts_from_being_split() -> None:
    assert mixed(16, 0, 1, 131072) > 5 * mixed(0, 0, 1, 131072)
    keys = 131072 * 2 * 128 * 2.0
    assert mixed(16, 0, 1, 131072) == pytest.approx(keys / (3e12 * MIXED.memory * MIXED.draw / 132), rel=0.1)


def test_many_decodes_read_their_keys_once_per_query_head_unless_the_cache_holds_them() -> None:
    slow = Chip(132, 1e18, 1e11)
    ample, none = (
        mixed_seconds(MIXED._replace(cache=n), slow, shape=heads(), chunk=16, before=0, decodes=1024, context=8192)
        for n in (1e15, 1e-3)
    )
    assert none == pytest.approx(4 * ample, rel=0.01)


@given(
    SHAPES, st.integers(0, 4000), st.integers(0, 20000), st.integers(0, 500), st.integers(1, 50000),
)  # fmt: skip
def test_more_of_a_mixed_batch_is_never_faster(
    shape: Heads, chunk: int, before: int, decodes: int, context: int
) -> None:
    def at(q: int, kv: int, n: int, keys: int, chip: Chip = CHIP) -> float:
        seconds = mixed_seconds(MIXED, chip, shape=shape, chunk=q, before=kv, decodes=n, context=keys)
        assert isinstance(seconds, float)
        return seconds

    base = at(chunk, before, decodes, context)
    assert math.isfinite(base)
    assert base > MIXED.fixed
    assert base <= at(chunk, before + 1, decodes, context) * EASE
    assert base <= at(chunk, before, decodes, context + 1) * EASE
    assert base <= at(chunk, before, decodes + 1, context) * EASE
    if chunk:
        assert base <= at(chunk + 1, before, decodes, context) * EASE
    assert at(chunk, before, decodes, context, CHIP._replace(bandwidth=4e12)) <= base * EASE
    assert at(chunk, before, decodes, context, CHIP._replace(peak=2e15)) <= base * EASE


def test_mixed_batches_take_arrays() -> None:
    sizes = [
        np.array(v, float) for v in ([0, 16, 512, 0, 64], [0, 0, 4096, 0, 100], [4, 0, 8, 0, 64], [9, 0, 99, 0, 7])
    ]
    many = mixed_seconds(MIXED, CHIP, heads(), *sizes)
    np.testing.assert_allclose(many, [mixed(*map(float, row)) for row in zip(*sizes, strict=True)], rtol=1e-12)


# ---- monotone


@given(SHAPES, BATCH, NEW, BEFORE, WINDOWS, st.booleans())
def test_more_prefill_is_never_faster(
    shape: Heads, batch: int, new: int, before: int, window: int, causal: bool
) -> None:
    def at(b: int, n: int, kv: int, chip: Chip = CHIP) -> float:
        seconds = prefill_seconds(
            PREFILL, chip, shape=shape, batch=b, position=n, context=kv, causal=causal, window=window
        )
        assert isinstance(seconds, float)
        return seconds

    base = at(batch, new, new + before)
    assert math.isfinite(base)
    assert base > PREFILL.fixed
    assert base <= at(batch + 1, new, new + before) * EASE
    assert base <= at(batch, new, new + before + 1) * EASE
    assert base <= at(batch, new + 1, new + before + 1) * EASE
    assert at(batch, new, new + before, CHIP._replace(bandwidth=4e12)) <= base * EASE
    assert at(batch, new, new + before, CHIP._replace(peak=2e15)) <= base * EASE


@given(SHAPES, BATCH, st.floats(1, 1e5), WINDOWS, st.booleans())
def test_more_decode_is_never_faster(shape: Heads, batch: int, context: float, window: int, divides: bool) -> None:
    def at(b: int, kv: float, chip: Chip = CHIP) -> float:
        seconds = decode_seconds(DECODE, chip, shape=shape, batch=b, context=kv, window=window, divides=divides)
        assert isinstance(seconds, float)
        return seconds

    base = at(batch, context)
    assert math.isfinite(base)
    assert base > DECODE.fixed
    assert base <= at(batch + 1, context) * EASE
    assert base <= at(batch, context + 1) * EASE
    assert at(batch, context, CHIP._replace(bandwidth=4e12)) <= base * EASE
    assert at(batch, context, CHIP._replace(peak=2e15)) <= base * EASE


@given(st.lists(st.tuples(SHAPES, BATCH, NEW, BEFORE, WINDOWS, st.booleans()), min_size=1, max_size=5))
@draws(25 / 6)
def test_numbers_and_arrays_agree(rows: list[tuple[Heads, int, int, int, int, bool]]) -> None:
    def column(i: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(r[i]) for r in rows])  # type: ignore[arg-type]

    shape = Heads(*(np.array([float(r[0][i]) for r in rows]) for i in range(5)))
    batch, new, before, window, causal = column(1), column(2), column(3), column(4), column(5) > 0
    made = prefill_seconds(
        PREFILL, CHIP, shape=shape, batch=batch, position=new, context=new + before, causal=causal, window=window
    )
    each = [
        prefill_seconds(PREFILL, CHIP, shape=h, batch=b, position=n, context=n + e, causal=a, window=w)
        for h, b, n, e, w, a in rows
    ]
    np.testing.assert_allclose(made, np.array(each), rtol=1e-12)
    made = decode_seconds(DECODE, CHIP, shape=shape, batch=batch, context=before + 1, window=window)
    each = [decode_seconds(DECODE, CHIP, shape=h, batch=b, context=e + 1, window=w) for h, b, _, e, w, _ in rows]
    np.testing.assert_allclose(made, np.array(each), rtol=1e-12)


# ---- calibration


def prefill_table(n: int, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    kv = random.choice([1, 2, 4, 8], n)
    new = random.choice([16, 64, 256, 1024, 4096, 16384], n)
    numbers = {
        "batch": random.choice([1, 4, 16, 64], n), "seq_q": new, "seq_kv": new + random.choice([0, 0, 512, 4096], n),
        "n_heads": kv * random.choice([1, 4, 8], n), "n_kv_heads": kv, "head_dim": random.choice([64, 128, 256], n),
        "window": random.choice([0, 0, 128], n), "causal": np.ones(n),
    }  # fmt: skip
    texts = {"gpu": "g", "dtype": "bf16", "kv_dtype": "bf16", "framework": "vllm-1", "kernel": "flash"}
    return Table({k: v.astype(np.float64) for k, v in numbers.items()} | {k: np.full(n, v) for k, v in texts.items()})


def decode_table(n: int, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    kv = random.choice([1, 2, 4, 8], n)
    numbers = {
        "batch": random.choice([1, 4, 16, 64, 256, 1024], n), "kv_len": random.choice([2, 64, 512, 4096, 32768], n),
        "n_heads": kv * random.choice([1, 4, 8, 32], n), "n_kv_heads": kv, "head_dim": random.choice([64, 128], n),
        "window": random.choice([0, 0, 128], n),
    }  # fmt: skip
    texts = {"gpu": "g", "kv_dtype": "bf16", "framework": "vllm-1", "kernel": "flash"}
    return Table({k: v.astype(np.float64) for k, v in numbers.items()} | {k: np.full(n, v) for k, v in texts.items()})


def mixed_table(n: int, seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    kv = random.choice([1, 2, 4, 8], n)
    numbers = {
        "n_heads": kv * random.choice([1, 4, 8], n), "n_kv_heads": kv, "head_dim": random.choice([64, 128], n),
        "prefill_chunk": random.choice([0, 16, 256, 2048, 8192], n), "kv_prefill": random.choice([0, 512, 8192], n),
        "n_decode": random.choice([0, 1, 16, 128], n), "kv_decode": random.choice([16, 512, 4096, 16384], n),
    }  # fmt: skip
    texts = {"gpu": "g", "dtype": "bf16"}
    return Table({k: v.astype(np.float64) for k, v in numbers.items()} | {k: np.full(n, v) for k, v in texts.items()})


@pytest.mark.parametrize(
    ("kind", "rows", "truth", "known"),
    [
        (
            ATTENTION_PREFILL,
            prefill_table(400),
            {"fixed": 1.2e-5, "step": 4e-6, "compute": 0.6, "half_dim": 60.0},
            {"fixed": 0.1, "compute": 0.15},
        ),
        (
            ATTENTION_MIXED,
            mixed_table(400),
            {"fixed": 1.2e-5, "step": 5e-6, "compute": 0.5, "memory": 0.9},
            {"fixed": 0.1, "step": 0.3, "compute": 0.15, "memory": 0.1},
        ),
        (
            ATTENTION_DECODE,
            decode_table(400),
            {"fixed": 1.5e-5, "step": 3e-6, "memory": 0.9},
            {"fixed": 0.1, "step": 0.2, "memory": 0.1},
        ),
    ],
    ids=["prefill", "mixed", "decode"],
)
def test_a_fit_finds_the_constants_despite_outliers(
    kind: AnyKind, rows: Table, truth: dict[str, float], known: dict[str, float]
) -> None:
    random = np.random.default_rng(1)
    clean = kind.seconds(kind.start._replace(**truth), GPU, rows)
    noise = np.exp(random.normal(0, 0.03, len(rows))) * np.where(random.random(len(rows)) < 0.05, 10.0, 1.0)
    measured = Table(rows.columns | {"time_s": clean * noise})
    found = fit(kind, GPU, measured, str(kind.sets(rows)[0]))
    assert found.unseen is not None
    assert found.unseen.median < 0.06
    assert abs(found.unseen.bias) < 0.04
    for name, within in known.items():
        assert getattr(found.constants, name) == pytest.approx(truth[name], rel=within), name


def changed(rows: Table, **texts: str) -> Table:
    return Table(rows.columns | {k: np.full(len(rows), v) for k, v in texts.items()})


def test_sets_are_named_by_dtype_cache_and_library() -> None:
    rows = prefill_table(3)
    sets = ATTENTION_PREFILL.sets
    assert set(sets(rows)) == {"attention_prefill.bf16"}
    assert set(sets(changed(rows, kv_dtype="fp8"))) == {"attention_prefill.bf16_fp8"}
    assert set(sets(changed(rows, framework="trtllm-1.0"))) == {"attention_prefill.bf16_trtllm"}
    assert set(sets(changed(rows, kernel="vllm_triton_attn"))) == {"attention_prefill.bf16_triton"}
    sets = ATTENTION_DECODE.sets
    one = decode_table(3)
    assert set(sets(changed(one, kv_dtype="fp8"))) == {"attention_decode.fp8"}
    assert set(sets(changed(one, kernel="triton_tlx_paged"))) == {"attention_decode.bf16_tlx"}
    groups = Table(changed(one, framework="trtllm-1.0").columns | {"n_heads": one.numbers("n_kv_heads") * [1, 8, 64]})
    assert list(sets(groups)) == [f"attention_decode.bf16_trtllm{s}" for s in ("_heads", "", "_heads")]
    windowed = Table(changed(one, kernel="vllm_flash_attn_fa2").columns | {"window": np.array([0.0, 128.0, 0.0])})
    assert list(sets(windowed)) == [f"attention_decode.bf16{s}" for s in ("", "_window", "")]


def test_rows_without_an_answer_say_why() -> None:
    for kind, rows in (
        (ATTENTION_PREFILL, prefill_table(2)), (ATTENTION_DECODE, decode_table(2)), (ATTENTION_MIXED, mixed_table(2)),
    ):  # fmt: skip
        assert list(kind.reason(rows)) == [NO_PEAK] * 2


def test_one_query_is_decode_but_for_tensorrt_llm() -> None:
    rows = Table(prefill_table(2).columns | {"seq_q": np.array([1.0, 64.0]), "seq_kv": np.array([64.0, 64.0])})
    assert list(ATTENTION_PREFILL.where(rows)) == [False, True]
    assert list(ATTENTION_ONE_QUERY.where(rows)) == [True, False]
    own = changed(rows, framework="trtllm-1.0")
    assert list(ATTENTION_PREFILL.where(own)) == [True, True]
    assert list(ATTENTION_ONE_QUERY.where(own)) == [False, False]
    one = rows.where(ATTENTION_ONE_QUERY.where(rows))
    same = Table(one.columns | {"kv_len": one["seq_kv"]})
    assert list(ATTENTION_ONE_QUERY.sets(one)) == ["attention_decode.bf16"]
    assert ATTENTION_ONE_QUERY.seconds(DECODE, GPU, one) == ATTENTION_DECODE.seconds(DECODE, GPU, same)


def test_one_query_is_not_fitted_again(tmp_path: Path) -> None:
    rows = prefill_table(60)
    rows = Table(rows.columns | {"seq_q": np.where(np.arange(60) < 30, 1.0, 16.0), "time_s": np.full(60, 1e-4)})
    with (tmp_path / "attention_prefill.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows.columns, *zip(*rows.columns.values(), strict=True)])
    found = list(jobs([tmp_path], lambda name: GPU, lambda name: None))
    assert [(j.path, len(j.rows)) for j in found] == [("attention_prefill.bf16", 30)]


def test_each_query_head_of_a_large_group_reads_alone_in_tensorrt_llm() -> None:
    rows = changed(decode_table(4), framework="trtllm-1.0")
    rows = Table(rows.columns | {k: np.full(4, v) for k, v in (("n_kv_heads", 1.0), ("batch", 64.0), ("window", 0.0))})
    few, many = (Table(rows.columns | {"n_heads": np.full(4, n)}) for n in (32.0, 64.0))
    many = Table(many.columns | {"kv_len": np.full(4, 8192.0)})
    few = Table(few.columns | {"kv_len": np.full(4, 8192.0)})
    assert (ATTENTION_DECODE.seconds(DECODE, GPU, many) > 4 * ATTENTION_DECODE.seconds(DECODE, GPU, few)).all()


@pytest.mark.parametrize(
    ("path", "first", "later"),
    [
        ("attention_prefill.bf16", "attention_prefill.bf16_trtllm", "attention_prefill.fp16"),
        ("attention_prefill.bf16_fp8_trtllm", "attention_prefill.bf16_fp8", "attention_prefill.bf16_trtllm"),
        ("attention_prefill.fp16", "attention_prefill.fp16_trtllm", "attention_prefill.bf16"),
        ("attention_decode.fp8_trtllm_heads", "attention_decode.fp8_trtllm", "attention_decode.bf16"),
        ("attention_decode.bf16_window", "attention_decode.bf16", "attention_decode.bf16_trtllm"),
        ("mla_decode.fp8", "mla_decode.fp8_trtllm", "mla_decode.bf16_fp8"),
        ("attention_mixed.int8", "attention_mixed.int8_trtllm", "attention_mixed.bf16"),
    ],
)
def test_the_nearest_set_answers_for_one_that_is_missing(path: str, first: str, later: str) -> None:
    found = instead(path)
    assert found[0] == first
    assert later in found[1:]
    assert path not in found
    assert len(set(found)) == len(found)
    assert {p.split(".")[0] for p in found} == {path.split(".")[0]}


@pytest.mark.parametrize(
    ("gpu", "path", "answers"),
    [
        (GPU, "attention_prefill.bf16_fp8", True),
        (GPU, "attention_prefill.fp16", True),
        (GPU, "attention_prefill.fp4", False),
        (GPU, "attention_decode.fp8_trtllm", True),
        (GpuSpec("a", 80e9, 2e12, (("bf16", 3e14),), units=108), "attention_prefill.fp8", False),
        (GpuSpec("a", 80e9, 2e12, (("bf16", 3e14),), units=108), "attention_decode.fp8", True),
        (GpuSpec("a", 80e9, 2e12, (("bf16", 3e14),)), "attention_decode.bf16", False),
    ],
)
def test_what_a_gpu_must_publish(gpu: GpuSpec, path: str, answers: bool) -> None:
    kind = ATTENTION_PREFILL if path.startswith("attention_prefill") else ATTENTION_DECODE
    assert kind.answers(gpu, path) is answers


def test_windowed_rows_of_fa2_read_alone() -> None:
    rows = changed(decode_table(6), kernel="vllm_flash_attn_fa2")
    rows = Table(rows.columns | {"window": np.full(6, 1024.0), "kv_len": np.full(6, 4096.0), "batch": np.ones(6)})
    dense = changed(rows, kernel="flash")
    assert (ATTENTION_DECODE.seconds(DECODE, GPU, rows) > ATTENTION_DECODE.seconds(DECODE, GPU, dense)).all()
