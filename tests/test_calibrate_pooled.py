"""One set of constants for many GPUs: found again from made-up data, and judged on GPUs left out."""

import numpy as np
import pytest

from plandsl.backends.calibrate.between import BAND, fill_between
from plandsl.backends.calibrate.fit import Errors, Fitted
from plandsl.backends.calibrate.kinds.collective import COLLECTIVE, COLLECTIVE_NODES, linked
from plandsl.backends.calibrate.kinds.elementwise import ELEMENTWISE
from plandsl.backends.calibrate.kinds.gemm import GEMM
from plandsl.backends.calibrate.pooled import fit_pooled
from plandsl.backends.calibrate.table import Table
from plandsl.spec.constants import GemmConstants, NodesConstants
from plandsl.spec.hardware import GpuSpec, LinkSpec

TRUE = GemmConstants(fixed=5e-6, step=3e-6, chain=4e-10, compute=0.75, throttle=0.2, memory=0.7, cached=2.0,
    intensity=12.0, blend=3.0, quant_fixed=2e-6, quant_row=2e-7, quant_walk=1e-10)  # fmt: skip
GPUS = [
    GpuSpec(f"made_{i}", 80e9, bandwidth, (("bf16", peak),), units=units)
    for i, (bandwidth, peak, units) in enumerate([(2e12, 3e14, 108), (3.3e12, 1e15, 132), (8e12, 2.2e15, 148)])
]


def _gemms(gpu: GpuSpec, slow: float = 1.0, noise: float = 0.03) -> Table:
    grid = np.meshgrid(2.0 ** np.arange(0, 15, 2), [1024.0, 4096.0, 14336.0], [1024.0, 4096.0, 8192.0])
    m, n, k = (a.ravel() for a in grid)
    rows = Table(
        {
            "gpu": np.full(len(m), gpu.name), "dtype": np.full(len(m), "bf16"), "m": m, "n": n, "k": k,
            "time_s": np.ones(len(m)),
        }
    )  # fmt: skip
    wild = np.random.default_rng(len(gpu.name) + gpu.units).normal(0, noise, len(m))
    return Table(rows.columns | {"time_s": slow * GEMM.seconds(TRUE, gpu, rows) * np.exp(wild)})


def test_the_constants_that_made_the_data_are_found_and_carry_over() -> None:
    found = fit_pooled(GEMM, {gpu: _gemms(gpu) for gpu in GPUS}, "gemm.bf16")
    for name, rel in (("fixed", 0.1), ("compute", 0.1), ("memory", 0.1)):
        assert getattr(found.constants, name) == pytest.approx(getattr(TRUE, name), rel=rel), name
    assert found.unseen is not None
    assert found.unseen.rows == found.seen.rows == sum(len(_gemms(gpu)) for gpu in GPUS)
    assert found.unseen.median < 0.06
    assert 0.85 < found.unseen.low < 1 < found.unseen.high < 1.15


@pytest.mark.slow
def test_a_gpu_unlike_the_others_shows_when_it_is_left_out() -> None:
    rows = {gpu: _gemms(gpu, slow=1.5 if gpu is GPUS[2] else 1.0, noise=0.0) for gpu in GPUS}
    found = fit_pooled(GEMM, rows, "gemm.bf16")
    assert found.unseen is not None
    assert found.unseen.high > 1.4
    assert found.unseen.mean > found.seen.mean


@pytest.mark.slow
def test_gpus_count_the_same_however_many_rows_they_have() -> None:
    many = _gemms(GPUS[0], slow=1.3, noise=0.0)
    many = Table({n: np.tile(c, 4) for n, c in many.columns.items()})
    few = [_gemms(gpu, noise=0.0) for gpu in GPUS[1:]]
    found = fit_pooled(GEMM, dict(zip(GPUS, [many, *few], strict=True)), "gemm.bf16")
    off = [
        np.median(GEMM.seconds(found.constants, g, t) / t.numbers("time_s")) for g, t in zip(GPUS[1:], few, strict=True)
    ]
    assert np.abs(np.log(off)).max() < 0.1


def test_one_gpu_has_nobody_to_be_judged_by() -> None:
    found = fit_pooled(GEMM, {GPUS[0]: _gemms(GPUS[0])}, "gemm.bf16")
    assert found.unseen is None
    assert found.seen.median < 0.05


def test_long_tables_are_thinned_the_same_way_each_time() -> None:
    long = Table({"m": np.arange(5000.0)})
    assert len(long.thinned(300)) == 300
    assert (long.thinned(300)["m"] == long.thinned(300)["m"]).all()
    assert long.thinned(300).numbers("m").mean() == pytest.approx(2500, rel=0.1)
    short = Table({"m": np.arange(10.0)})
    assert short.thinned(300) is short


def test_kinds_that_need_links_take_rows_that_have_them() -> None:
    ranks, size = (a.ravel() for a in np.meshgrid([2.0, 4.0, 8.0], 2.0 ** np.arange(10, 30)))
    plain = {
        "gpu": np.full(len(size), "any"), "op": np.full(len(size), "all_reduce"), "backend": np.full(len(size), "nccl"),
        "n_ranks": ranks, "n_nodes": np.ones(len(size)), "bytes": size, "cuda_graph": np.ones(len(size)),
        "time_s": np.ones(len(size)),
    }  # fmt: skip
    rows = {}
    for gpu, bandwidth in zip(GPUS, (300e9, 450e9, 900e9), strict=True):
        table = linked(Table(plain), LinkSpec("switch", bandwidth, 2e-6))
        times = COLLECTIVE.seconds(COLLECTIVE.start, gpu, table)
        rows[gpu] = Table(table.columns | {"time_s": times})
    found = fit_pooled(COLLECTIVE, rows, "collective.nccl")
    assert found.unseen is not None
    assert found.unseen.median < 0.05


def test_gpus_share_what_a_library_takes_and_each_keeps_its_network() -> None:
    library = COLLECTIVE_NODES.start
    assert isinstance(library, NodesConstants)
    n, size = (a.ravel() for a in np.meshgrid([4.0, 8.0, 16.0], 2.0 ** np.arange(10, 30)))
    made = {"gpu": np.full(len(n), "made_0"), "op": np.full(len(n), "all_reduce"), "n_ranks": n, "bytes": size}
    made |= {"backend": np.full(len(n), "nccl-2.27"), "n_nodes": np.full(len(n), 2.0)}
    rows = linked(Table(made), LinkSpec("switch", 400e9, 2e-6))
    own = library._replace(fixed=1.0, network=0.1, rails=2.0)
    shared = COLLECTIVE_NODES.seconds(library, GPUS[0], COLLECTIVE_NODES.settled(own, rows))
    assert (shared == COLLECTIVE_NODES.seconds(own._replace(fixed=library.fixed), GPUS[0], rows)).all()
    assert (shared != COLLECTIVE_NODES.seconds(library, GPUS[0], rows)).any()
    assert COLLECTIVE_NODES.pools("collective_nodes.torch") == "collective_nodes.nccl"
    assert not COLLECTIVE_NODES.pools("collective_nodes.torch_exchange")


def _fitted(path: str, fixed: float) -> Fitted:
    errors = Errors(rows=20, median=0.1, mean=0.1, p90=0.2, bias=0.0, low=0.9, high=1.1)
    return Fitted(path, ELEMENTWISE.start._replace(fixed=fixed), errors, None)


def test_operations_that_a_gpu_lacks_are_half_its_own() -> None:
    own = [_fitted("elementwise.static_quant_fp8", 1e-6), _fitted("elementwise.any", 1e-6)]
    pooled = {f.path: f for f in (_fitted("elementwise.rope", 4e-6), _fitted("elementwise.static_quant_fp8", 9e-6))}
    (found,) = fill_between(own, pooled)
    assert (found.path, found.constants.fixed) == ("elementwise.rope", pytest.approx(2e-6))
    assert (found.seen.low, found.seen.high) == BAND
    assert not fill_between([*own, _fitted("elementwise.gelu", 1e-6)], pooled), "its own operations tell more"
    assert not fill_between([], pooled)


def test_rows_of_two_ranks_lean_on_those_of_more() -> None:
    def rows(*ranks: float) -> Table:
        return Table({"n_ranks": np.array(ranks)})

    assert COLLECTIVE.leans(rows(2.0, 2.0))
    assert not COLLECTIVE.leans(rows(2.0, 8.0))
    assert not COLLECTIVE_NODES.leans(rows(2.0))


def test_a_share_of_a_published_rate_stays_below_it() -> None:
    gpu = GPUS[0]
    rows = _gemms(gpu, noise=0.0)
    fast = Table(rows.columns | {"time_s": rows.numbers("time_s") / 1.6})  # as if memory gave 112 %
    found = fit_pooled(GEMM, {gpu: fast}, "gemm.bf16").constants
    assert max(found.memory, found.compute) <= 1
