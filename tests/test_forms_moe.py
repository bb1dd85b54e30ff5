"""Forms of mixture-of-experts layers: how tokens fall on experts, limits, monotony, arrays, fits, sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.calibrate.dealt import DRAWS, deal, dealt_loads
from plandsl.backends.calibrate.fit import fit
from plandsl.backends.calibrate.kinds.moe import GROUPED_DOWN, GROUPED_UP, MOE
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.attention import Chip
from plandsl.backends.cost.forms.moe import (
    POPULARITY,
    TILES,
    Layer,
    Load,
    Matrix,
    expert_loads,
    gemm_seconds,
    grouped_seconds,
    moe_seconds,
    popular_experts,
)
from plandsl.spec.constants import MoeConstants
from plandsl.spec.hardware import GpuSpec

CHIP = Chip(100, 1e15, 4e12)
GPU = GpuSpec("test_gpu", 80e9, 4e12, (("bf16", 1e15), ("fp8", 2e15)), units=100)
LAYER = Layer(4096, 1536, topk=8, n_experts=128, local=128, weight_bytes=2.0, input_bytes=2.0)
C = MoeConstants(fixed=2e-5, step=2e-7, compute=0.7, draw=6.0, memory=0.85, cache=5e7, blend=2.5,
    stream=0.8, away=0.2, token=1e-9)  # fmt: skip
TOKENS = [1, 2, 3, 8, 20, 64, 150, 500, 3000, 16384, 100000]


def _seconds(layer: Layer, tokens: float, c: MoeConstants = C, even: bool = False) -> float:
    return moe_seconds(c, CHIP, layer, tokens, expert_loads(layer, tokens, even))


def _pairs(given: list[Load]) -> float:
    return sum(load.experts * load.tokens for load in given)


def _touched(given: list[Load]) -> float:
    return sum(load.touched for load in given)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("tokens", TOKENS)
def test_every_pair_falls_on_an_expert_and_no_expert_gets_more_than_all_tokens(tokens: int, even: bool) -> None:
    for n, k in ((8, 2), (128, 8), (512, 22)):
        layer = LAYER._replace(n_experts=n, local=n, topk=k)
        given = expert_loads(layer, tokens, even)
        assert _pairs(given) == pytest.approx(tokens * k)
        assert max(load.tokens for load in given) <= tokens * (1 + 1e-9)
        assert _touched(given) <= min(n, tokens * k) * (1 + 1e-9)


def test_uniform_draws_touch_the_expected_number_of_experts() -> None:
    rng = np.random.default_rng(3)
    for tokens in (1, 16, 64):
        seen = [len({e for _ in range(tokens) for e in rng.permutation(128)[:8]}) for _ in range(60)]
        assert _touched(expert_loads(LAYER, tokens)) == pytest.approx(np.mean(seen), rel=0.03)
    assert _touched(expert_loads(LAYER, 16, even=True)) == pytest.approx(128)
    assert _touched(expert_loads(LAYER, 4, even=True)) == pytest.approx(32)


@pytest.mark.parametrize(("pairs", "local"), [(8.0, 256), (8.0, 128), (4.0, 128), (1.0, 32), (2.0, 8), (0.5, 2)])
def test_experts_of_a_rank_are_touched_as_a_zipf_law_draws_them(pairs: float, local: int) -> None:
    """Beside the law itself, r ** -0.8 for each expert by itself, from one token to many."""
    groups = popular_experts(pairs, local, 256)
    weights = np.arange(1, local + 1) ** -POPULARITY
    chances = weights / weights.sum() * pairs
    for tokens in (1, 2, 8, 32, 128, 1000):
        law = (1 - (1 - chances) ** tokens).sum()
        assert sum(n * (1 - (1 - p) ** tokens) for n, p in groups) == pytest.approx(law, rel=0.01)


@given(experts=st.integers(1, 600), ways=st.integers(1, 64), share=st.floats(1e-3, 1))
def test_law_popular_experts_are_all_experts_with_all_pairs(experts: int, ways: int, share: float) -> None:
    """Counted, chosen ``pairs`` times by a token, none more than once, and the first the most."""
    local = experts / ways
    found = [(n, p) for n, p in popular_experts(share * local, local, experts) if n]
    assert sum(n for n, _ in found) == pytest.approx(local)
    assert sum(n * p for n, p in found) == pytest.approx(share * local)
    chances = [p for _, p in found]
    assert chances == sorted(chances, reverse=True)
    assert 0 <= chances[-1] <= chances[0] <= 1 + 1e-12


def test_groups_of_experts_are_alike_for_arrays_and_numbers() -> None:
    local = np.array([1, 2, 16, 128])
    many = popular_experts(8 * local / 128, local, 128)
    for at, n in enumerate(local.tolist()):
        one = popular_experts(8 * n / 128, n, 128)
        assert [float(there[at]) for there, _ in many] == [there for there, _ in one]
        assert [float(p[at]) for _, p in many] == pytest.approx([p for _, p in one], rel=1e-12)


@pytest.mark.parametrize(
    "point", [(64, 256, 8, 8, 1.2), (3, 128, 4, 16, 1.01), (500, 8, 2, 2, 1.2), (4096, 16, 1, 4, 1.0)]
)
def test_dealt_tokens_are_the_drawn_ones_one_by_one(point: tuple[int, int, int, int, float]) -> None:
    """Beside a dealer that moves one token at a time, where the rest goes to the ranks in turn."""
    tokens, experts, chosen, ranks, exponent = point
    low, high = (1.0, 0.8 * tokens) if tokens * chosen > experts else (0.01, 2.0)
    power = 1 - exponent or 1e-3
    uniform = np.random.default_rng(1).random((DRAWS, experts))
    fullest = []
    for u in uniform:
        weights = (low**power + (high**power - low**power) * u) ** (1 / power)
        counts = np.minimum(np.round(weights / weights.sum() * tokens * chosen), tokens).reshape(ranks, -1)
        for turn in range(int(abs(rest := tokens * chosen - counts.sum()))):
            rank = counts[turn % ranks]
            rank[rank.argmin() if rest > 0 else rank.argmax()] += np.sign(rest)
        assert counts.sum() == tokens * chosen
        fullest.append(sorted(counts[counts.sum(axis=1).argmax()]))
    assert np.sort(deal(*point), axis=1).tolist() == fullest
    loads = dealt_loads(np.array([point], dtype=np.float64))
    assert _pairs(loads) == pytest.approx(np.mean(np.sum(fullest, axis=1)))
    assert _touched(loads) == pytest.approx(np.mean(np.sum(np.array(fullest) > 0, axis=1)))


def test_a_rank_has_at_least_one_pair_and_at_most_all() -> None:
    assert _pairs(expert_loads(LAYER._replace(n_experts=256, local=2), 1)) == pytest.approx(1)
    assert _pairs(expert_loads(LAYER._replace(n_experts=4, local=1), 100)) == pytest.approx(100)


@pytest.mark.parametrize("rows", [8, 64, 256])
def test_tiles_hold_the_tokens_and_pad_those_of_few(rows: int) -> None:
    for even in (False, True):
        many = Load(10, 1e6, 10, even).tiles(rows)
        assert many * rows == pytest.approx(1e7, rel=1e-3)
        assert Load(10, 1, 10 if even else 6.3, even).tiles(rows) >= 6.3
        counts = [sum(load.tiles(rows) for load in expert_loads(LAYER, t, even=even)) for t in TOKENS]
        assert (np.diff(counts) >= -1e-9).all()
    assert Load(10, 65, 10, True).tiles(64) == 20


def test_large_batches_reach_the_share_of_peak() -> None:
    layer = Layer(8192, 8192, topk=2, n_experts=8, local=8, weight_bytes=2.0, input_bytes=2.0)
    fast = C._replace(draw=1e6, step=1e-12, cache=1e12, stream=1e6)
    flops = 2 * 2**22 * 3 * 8192 * 8192
    assert flops / _seconds(layer, 2**21, c=fast) == pytest.approx(0.7e15, rel=0.03)
    assert flops / _seconds(layer, 2**21) < 0.7e15
    assert _seconds(layer, 2**22) == pytest.approx(2 * _seconds(layer, 2**21), rel=0.02)


def test_small_batches_read_the_touched_weights() -> None:
    sharp = C._replace(blend=20.0, fixed=1e-12)
    layer = Layer(7168, 2048, topk=8, n_experts=256, local=256, weight_bytes=2.0, input_bytes=2.0)
    for tokens in (16, 64):
        weights = _touched(expert_loads(layer, tokens)) * 3 * 7168 * 2048 * 2
        assert _seconds(layer, tokens, c=sharp) == pytest.approx(weights / (4e12 * 0.85), rel=0.06)


def test_narrow_weights_take_less_time_and_no_gate_less_work() -> None:
    for tokens in (4, 64, 8192):
        assert _seconds(LAYER._replace(weight_bytes=0.53125), tokens) < _seconds(LAYER, tokens)
        assert _seconds(LAYER._replace(gates=1), tokens) < _seconds(LAYER, tokens)


def test_weights_of_an_expert_that_exceed_the_cache_are_read_again_for_each_row_of_tiles() -> None:
    matrix = Matrix(8192, 32768, 2.0, 2.0)
    read = C._replace(compute=1e6, draw=1e9, step=1e-15, blend=20.0)
    given = [Load(4, 2560, 4, True)]
    once = 4 * 8192 * 32768 * 2 / (4e12 * 0.85)
    assert grouped_seconds(read._replace(cache=1e12), CHIP, given, (matrix,)) == pytest.approx(once, rel=1e-3)
    assert grouped_seconds(read._replace(cache=1.0), CHIP, given, (matrix,)) == pytest.approx(10 * once, rel=1e-3)


def test_pairs_of_other_ranks_cost_where_kernels_keep_rows_for_them() -> None:
    layer = LAYER._replace(local=8)
    idle, busy = (_seconds(layer, 16384, c=C._replace(away=a)) for a in (1e-9, 1.0))
    row = 4096 * 6 + 1536 * 6
    assert busy - idle == pytest.approx(16384 * 7.5 * row / (4e12 * 0.8), rel=1e-6)


@pytest.mark.parametrize("local", [1, 16, 128])
def test_more_of_anything_takes_no_less(local: int) -> None:
    layer = LAYER._replace(local=local)
    times = [_seconds(layer, t) for t in TOKENS]
    assert (np.diff(times) > 0).all()
    for name in ("hidden", "inter", "topk"):
        grown = [_seconds(layer._replace(**{name: f * getattr(layer, name)}), 64) for f in (1, 2, 4)]
        assert (np.diff(grown) > 0).all(), name
    spread = [_seconds(LAYER._replace(local=n), 4096) for n in (2, 8, 32, 128)]
    assert (np.diff(spread) > 0).all()


@pytest.mark.parametrize("even", [False, True])
def test_arrays_give_what_numbers_give(even: bool) -> None:
    tokens = np.array(TOKENS, dtype=np.float64)
    for local in (2, 128):
        layer = LAYER._replace(local=local)
        whole = moe_seconds(C, CHIP, layer, tokens, expert_loads(layer, tokens, even))
        one = [moe_seconds(C, CHIP, layer, t, expert_loads(layer, t, even)) for t in TOKENS]
        assert all(isinstance(t, float) for t in one)
        assert whole == pytest.approx(one, rel=1e-12)


def test_a_layer_is_its_two_gemms_and_what_passes_between() -> None:
    given = expert_loads(LAYER, 4096)
    up, down = Matrix(4096, 3072, 2.0, 2.0), Matrix(1536, 4096, 2.0, 2.0)
    both = grouped_seconds(C, CHIP, given, (up, down))
    parts = [grouped_seconds(C, CHIP, given, (m,)) for m in (up, down)]
    assert max(parts) < both
    assert both == pytest.approx(sum(parts), rel=0.05)
    assert both < _seconds(LAYER, 4096)
    assert parts[0] < gemm_seconds(C, CHIP, given, up)


def _rows(count: int = 0, **columns: object) -> Table:
    shapes = [(4096.0, 1536.0, 8.0, 128.0), (7168.0, 2048.0, 8.0, 256.0), (4096.0, 14336.0, 2.0, 8.0),
              (2048.0, 768.0, 8.0, 128.0), (6144.0, 2048.0, 6.0, 160.0)]  # fmt: skip
    grid = [(*s, e, t) for s in shapes for e in (1.0, 4.0) for t in (1, 8, 32, 128, 768, 4096, 16384)][: count or None]
    table: dict[str, object] = {
        "gpu": "test_gpu", "dtype": "bf16", "tp": 1.0, "routing": "random", "time_s": 1.0,
        "kernel": "vllm_triton_tritonexperts", "framework": "vllm-0.24.0",
    } | columns  # fmt: skip
    named = {name: np.array([g[i] for g in grid], dtype=np.float64) for i, name in enumerate(
        ("hidden", "inter", "topk", "n_experts", "ep", "tokens"))}  # fmt: skip
    return Table({n: np.full(len(grid), v) for n, v in table.items()} | named)


def test_a_fit_finds_the_constants_that_made_the_data() -> None:
    rows = _rows()
    noise = np.random.default_rng(4).normal(0, 0.02, len(rows))
    time = MOE.seconds(C, GPU, rows) * np.exp(noise)
    found = fit(MOE, GPU, Table(rows.columns | {"time_s": time}), "moe.test")
    assert found.unseen is not None
    assert found.unseen.median < 0.05
    for name, rel in (("fixed", 0.2), ("memory", 0.1), ("compute", 0.2), ("stream", 0.3)):
        assert getattr(found.constants, name) == pytest.approx(getattr(C, name), rel=rel), name


def test_sets_name_dtype_and_library() -> None:
    named = [
        ("bf16", "vllm-0.24.0", "vllm_unquantizedfusedmoe_triton_tritonexperts", "moe.bf16_triton"),
        ("fp8", "vllm-0.24.0", "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts", "moe.fp8_cutlass"),
        ("fp8_block", "sglang-0.5.14", "sglang_flashinfer_trtllm_moe", "moe.fp8_block_trtllm"),
        ("fp8_block", "vllm-0.24.0", "vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmodular", "moe.fp8_block_modular"),
        ("nvfp4", "trtllm-1.0", "moe_torch_flow", "moe.nvfp4_cutlass"),
        ("nvfp4", "trtllm-1.0", "moe_torch_flow_min_latency", "moe.nvfp4_trtllm"),
        ("w4a16", "sglang-0.5.10", "sglang_marlin_moe", "moe.w4a16_marlin"),
        ("a_fp8_w_fp8_per_1x128", "aiter-tuned", "aiter_fused_moe_tuned", "moe.fp8_block_aiter"),
        ("a_bf16_w_bf16_No", "aiter-tuned", "aiter_fused_moe_tuned", "moe.bf16_aiter"),
        ("a_fp8_w_mxfp4_per_1x32", "aiter-tuned", "aiter_fused_moe_tuned", "moe.fp8_mxfp4_aiter"),
        ("strange", "vllm-0.24.0", "vllm_fused_moe", ""),
    ]
    table = Table({
        "dtype": np.array([n[0] for n in named]), "framework": np.array([n[1] for n in named]),
        "kernel": np.array([n[2] for n in named]),
    })  # fmt: skip
    assert list(MOE.sets(table)) == [n[3] for n in named]


def test_a_missing_set_is_answered_by_another_library_then_by_a_near_dtype() -> None:
    others = MOE.instead("moe.fp8_block_triton")
    assert "moe.fp8_block_triton" not in others
    assert others.index("moe.fp8_block_cutlass") < others.index("moe.fp8_triton") < others.index("moe.fp8_trtllm")
    assert GROUPED_UP.instead("grouped_gemm.fp8_block_masked")[0] == "grouped_gemm.fp8_block_masked_down"
    assert GROUPED_DOWN.instead("grouped_gemm.fp8_block_masked_down")[1] == "grouped_gemm.fp8_block_contiguous_down"


def test_a_gpu_without_the_peak_falls_back_or_is_refused() -> None:
    assert MOE.answers(GPU, "moe.nvfp4_cutlass")
    assert MOE.answers(GPU, "moe.mxfp4_aiter")
    assert not MOE.answers(GpuSpec("x", 1, 1, (("fp32", 1.0),), units=1), "moe.bf16_triton")
    assert not MOE.answers(GpuSpec("x", 1, 1, (("bf16", 1.0),)), "moe.bf16_triton")


def test_tensor_parallel_ranks_have_their_part_of_each_expert() -> None:
    whole, half = _rows(7), _rows(7, tp=2.0)
    doubled = Table(half.columns | {"inter": half.numbers("inter") * 2})
    assert MOE.seconds(C, GPU, doubled) == pytest.approx(MOE.seconds(C, GPU, whole))


def test_rows_say_how_tokens_are_routed() -> None:
    times = {r: MOE.seconds(C, GPU, _rows(7, routing=r)) for r in ("random", "balanced", "power_law_1.2")}
    assert times["balanced"][2] > 1.05 * times["random"][2] > 1.1 * times["power_law_1.2"][2]
    few = MOE.seconds(C, GPU, _rows(7, routing="activated_experts=16"))
    assert few[2] < 0.5 * times["balanced"][2]


def test_slices_of_a_rank_compute_all_pairs_of_their_tokens() -> None:
    rows = _rows(14, routing="balanced", framework="sglang-0.5.10", kernel="sglang_marlin_moe")
    other = _rows(14, routing="balanced", framework="vllm-0.24.0", kernel="vllm_marlin_moe")
    ratio = MOE.seconds(C, GPU, rows) / MOE.seconds(C, GPU, other)
    assert ratio[:7] == pytest.approx(1)  # one rank has no foreign pairs
    assert ratio[13] > 2


def test_experts_without_a_gate_have_one_matrix_less() -> None:
    shape = {"hidden": np.full(7, 2688.0), "inter": np.full(7, 1856.0)}
    known, unknown = (
        MOE.seconds(C, GPU, Table(_rows(7, framework=f).columns | shape)) for f in ("vllm-0.24.0", "vllm-0.14.0")
    )
    assert (known < unknown).all()


def _grouped(layout: str) -> Table:
    grid = [(h, i, e, m) for h, i in ((2048.0, 768.0), (4096.0, 1536.0), (5120.0, 1664.0)) for e in (4.0, 16.0, 64.0)
            for m in (1.0, 3.0, 16.0, 64.0, 65.0, 500.0, 4096.0)]  # fmt: skip
    text = {"gpu": "test_gpu", "dtype": "fp8_block", "kernel": f"deepgemm_{layout}"}
    names = ("hidden", "inter", "n_local_experts", "tokens_per_local_expert")
    columns = {name: np.array([g[i] for g in grid]) for i, name in enumerate(names)}
    ones = {n: np.ones(len(grid)) for n in ("up_time_s", "down_time_s")}
    filled = {n: np.full(len(grid), v) for n, v in text.items()}
    return Table(filled | columns | ones | {"n_experts": np.full(len(grid), 128.0)})


def test_grouped_gemms_have_a_metric_and_sets_of_their_own() -> None:
    rows = _grouped("masked")
    assert set(GROUPED_UP.sets(rows)) == {"grouped_gemm.fp8_block_masked"}
    assert set(GROUPED_DOWN.sets(_grouped("contiguous"))) == {"grouped_gemm.fp8_block_contiguous_down"}
    up, down = GROUPED_UP.seconds(C, GPU, rows), GROUPED_DOWN.seconds(C, GPU, rows)
    assert (down < up).all()
    assert (GROUPED_UP.metric, GROUPED_DOWN.metric) == ("up_time_s", "down_time_s")


def test_masked_experts_of_one_token_are_half_of_them_empty() -> None:
    masked, contiguous = (GROUPED_UP.seconds(C, GPU, _grouped(layout)) for layout in ("masked", "contiguous"))
    fixed = C.fixed
    assert (masked[-7] - fixed) / (contiguous[-7] - fixed) == pytest.approx(0.5, abs=0.1)


def test_rows_of_a_tile_cost_alike_until_it_is_full() -> None:
    bound = C._replace(stream=1e6, draw=1e6, memory=1e3)
    per = GROUPED_UP.seconds(bound, GPU, _grouped("contiguous")).reshape(-1, 7)
    assert per[:, 2] == pytest.approx(per[:, 3])  # 16 and 64 tokens
    assert (per[2::3, 4] - C.fixed > 1.8 * (per[2::3, 3] - C.fixed)).all()  # 65 tokens


def test_all_tiles_are_open_to_the_form() -> None:
    given = expert_loads(LAYER, 4096)
    best = grouped_seconds(C, CHIP, given, (Matrix(4096, 3072, 2.0, 2.0),))
    each = [grouped_seconds(C, CHIP, given, (Matrix(4096, 3072, 2.0, 2.0),), [tile]) for tile in TILES]
    assert best == pytest.approx(min(each))
    assert best < max(each)
