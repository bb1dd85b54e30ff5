"""The form of element-wise kernels: limits, monotony, arrays, sets, and fits that find what made the data."""

import numpy as np
import pytest

from plandsl.backends.calibrate.fit import fit
from plandsl.backends.calibrate.kinds.elementwise import ELEMENTWISE, ELEMENTWISE_ANY
from plandsl.backends.calibrate.table import Table
from plandsl.backends.cost.forms.elementwise import EAGER, MOVED, kernel_seconds
from plandsl.spec.constants import ElementConstants
from plandsl.spec.hardware import GpuSpec

GPU = GpuSpec("test_gpu", 80e9, 2e12, (("bf16", 1e15),), units=100)
C = ElementConstants(fixed=2e-6, memory=0.8, cached=2.0, cache=4e7, unit=2.0, row=5e-8)


def test_large_tensors_reach_the_share_of_bandwidth() -> None:
    assert kernel_seconds(C, 100, 2e12, 1e11, 1e5) == pytest.approx(1e11 / (2e12 * 0.8), rel=1e-3)


def test_tensors_that_fit_the_cache_stream_from_it() -> None:
    fast = C._replace(unit=20.0)
    assert kernel_seconds(fast, 100, 2e12, 2e7, 0.0) == pytest.approx(2e-6 + 2e7 / (2e12 * 2.0))
    assert kernel_seconds(fast, 100, 2e12, 1e8, 0.0) == pytest.approx(2e-6 + 1e8 / (2e12 * 0.8))


def test_units_move_no_more_than_their_rate_whatever_the_memory() -> None:
    assert kernel_seconds(C, 10, 2e12, 1e9, 0.0) == pytest.approx(2e-6 + 1e9 / (10 * 4e10))
    assert kernel_seconds(C, 10, 2e13, 1e9, 0.0) == kernel_seconds(C, 10, 2e12, 1e9, 0.0)


def test_one_wide_row_takes_the_walk_of_one_unit() -> None:
    assert kernel_seconds(C, 100, 2e12, 1e6, 1e6) == pytest.approx(2e-6 + 1e6 / 4e10, rel=1e-3)


def test_many_narrow_rows_cost_their_blocks() -> None:
    assert kernel_seconds(C, 100, 2e12, 1e6 * 16, 16.0) == pytest.approx(1e6 * 5e-8 / 100, rel=0.05)
    assert kernel_seconds(C, 100, 2e12, 1e6 * 16, 0.0) < 2e-5


def test_nothing_to_move_takes_a_launch() -> None:
    assert kernel_seconds(C, 100, 2e12, 0.0, 0.0) == 2e-6


@pytest.mark.parametrize("cached", [0.1, 0.8, 3.0])
@pytest.mark.parametrize("row", [0.0, 1e3])
def test_time_grows_with_bytes_and_arrays_give_what_numbers_give(cached: float, row: float) -> None:
    sizes = np.geomspace(1e4, 1e10, 200)
    c = C._replace(cached=cached)
    times = kernel_seconds(c, 100, 2e12, sizes, row)
    assert (np.diff(times) > 0).all()
    assert times == pytest.approx([kernel_seconds(c, 100, 2e12, float(s), row) for s in sizes], rel=1e-12)


def _rows(op: str, framework: str = "test") -> Table:
    m, n = (a.ravel() for a in np.meshgrid(2.0 ** np.arange(0, 16), [128.0, 1024.0, 4096.0, 8192.0, 16384.0]))
    text = {"gpu": "test_gpu", "op": op, "dtype": "bf16", "framework": framework}
    return Table({k: np.full(len(m), v) for k, v in text.items()} | {"rows": m, "cols": n, "time_s": np.ones(len(m))})


@pytest.mark.parametrize(("op", "each"), [("silu_and_mul", 6), ("rmsnorm", 4), ("fused_add_rmsnorm", 8)])
def test_a_fit_finds_the_constants_that_made_the_data(op: str, each: int) -> None:
    rows = _rows(op)
    noise = np.random.default_rng(2).normal(0, 0.02, len(rows))
    time = ELEMENTWISE.seconds(C, GPU, rows)
    assert time[-1] == pytest.approx(2**15 * 16384 * each / (2e12 * 0.8), rel=0.01)
    found = fit(ELEMENTWISE, GPU, Table(rows.columns | {"time_s": time * np.exp(noise)}), "elementwise.test")
    for name, rel in (("fixed", 0.1), ("memory", 0.05), ("unit", 0.3), ("cached", 0.3), ("row", 0.3)):
        assert getattr(found.constants, name) == pytest.approx(getattr(C, name), rel=rel), name


def test_unfused_operations_take_several_kernels_and_move_more() -> None:
    for op in ("rope", "dropout_residual_layernorm"):
        fused, eager = _rows(op), _rows(op, "torch_eager")
        one, many = ELEMENTWISE.seconds(C, GPU, fused), ELEMENTWISE.seconds(C, GPU, eager)
        kernels, elements = EAGER[op]
        assert (many > one).all()
        assert many[0] / one[0] == pytest.approx(kernels, rel=0.1)
        assert many[-1] / one[-1] == pytest.approx(elements / sum(MOVED[op]), rel=0.05)


def test_every_row_of_a_known_dtype_has_a_set() -> None:
    table = Table(
        {
            "op": np.array(["rope", "gelu", "rope", "gelu", "fft", "rope"]),
            "dtype": np.array(["bf16", "fp16", "bf16", "bf16", "bf16", "decimal"]),
            "framework": np.array(["vllm", "llmcompass (torch eager)", "torch_eager", "torch_eager", "vllm", "vllm"]),
        }
    )
    names = ["rope", "gelu_torch", "rope_eager", "gelu", "fft"]
    assert list(ELEMENTWISE.sets(table)) == [*(f"elementwise.{n}" for n in names), ""]
    others = ["any", "any_torch", "any_eager", "any", "any"]
    assert list(ELEMENTWISE_ANY.sets(table)) == [*(f"elementwise.{n}" for n in others), ""]
    assert ELEMENTWISE.reason(table)[-1] == "a dtype of unknown width"
    plain = {k: np.full(3, v) for k, v in (("op", "fft"), ("dtype", "bf16"), ("framework", "vllm"))}
    rows = Table(plain | {"rows": np.array([1.0, 1e3, 1e6]), "cols": np.full(3, 4096.0)})
    assert ELEMENTWISE.seconds(C, GPU, rows)[-1] == pytest.approx(1e6 * 4096 * 4 / (2e12 * 0.8), rel=0.01)


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("rope", ["any", "rope_torch", "any_torch"]),
        ("rope_torch", ["any_torch", "rope", "any"]),
        ("rope_eager", ["rope", "any", "rope_torch", "any_torch"]),
        ("any", ["any_torch"]),
    ],
)
def test_sets_that_answer_for_one_that_is_missing(path: str, first: list[str]) -> None:
    assert list(ELEMENTWISE.instead(f"elementwise.{path}")) == [f"elementwise.{n}" for n in first]
