"""The study arXiv 2603.05692, recomputed: its claims, the plans that settle them, and its figures.

Identifiers (C1, ...) are those that the study's figures are cited by in `examples/study_2603_05692/`; `benchmarks/`
holds how each is computed. S, T and U are claims of related papers on the same subject.
"""

import builtins
import json
from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import figures
from benchmarks.claim import Claim, Claims, settle, table
from benchmarks.study import CLAIMS, RATIOS, START, answers, compiled, fit, loss, main
from benchmarks.study_figures import FIGURES
from benchmarks.study_plans import ALL, BATCHES, LONG, PLANS, communication, plans, with_link
from plandsl.cli import main as planc
from plandsl.plotting import PALETTE, group_styles

GATED = {
    *(f"C{n}" for n in (*range(1, 23), 24, 25, *range(31, 43), 44, *range(46, 54), *range(55, 60), *range(62, 73))),
    *("C75", "C76", "S32", "S33", "S34", "S35"),
    *(f"T{n}" for n in (*range(1, 9), 10)),
    "U1",
}
"""Every claim that states a tolerance or a trend. The others contradict these, or lack data."""
FILES = sorted(PLANS.glob("*.plan"))
SEVENTY = {
    **{n: (degrees, 256) for n, degrees in (("tp8", "tp 8"), ("tp4", "tp 4"), ("tp2", "tp 2"))},
    "tp4_pp2": ("tp 4 pp 2", 256),
    "pp8": ("pp 8", 1024),
    "dp8": ("dp 8", 64),
}


# ---- claims


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c.gated], ids=lambda c: c.name)
def test_gated_claim_holds(claim):
    ours = claim.ours()
    assert claim.holds(ours), f"{claim.what}: {claim.printed} claimed, {ours} here"


def test_every_gated_claim_has_a_row():
    assert {c.name for c in CLAIMS if c.gated} == GATED
    assert max(Counter(c.name for c in CLAIMS if c.gated).values()) == 1


def test_rows_that_are_not_gated_do_not_hide_agreement():
    """What the study contradicts itself on is shown as it comes out; only the share of KV reads agrees."""
    loose = [c for c in CLAIMS if not c.gated]
    assert {c.name for c in loose} == {"C23", "C43", "C45", "C47", "C54", "C55"}
    assert {c.name for c in loose if c.holds(c.ours())} == {"C54"}


def test_calibration_has_not_seen_the_other_ratios():
    values = {k: v * 1.01 for k, v in START.items()}
    seen = loss(compiled(), values)
    metrics = answers(compiled(), values)
    assert {r.name for r in RATIOS if not r.fit} == {"C33", "C34", "C42", "C57", "C63"}
    errors = [((r.predicted(metrics) - r.printed) / r.tolerance) ** 2 for r in RATIOS if r.fit]
    assert seen == pytest.approx(sum(errors), rel=0.5)
    assert seen > sum(errors)


def test_fit_is_at_least_as_close_as_the_catalog_and_agrees_to_a_third_digit():
    plans = compiled()
    found = fit(plans)
    kept = {k: float(v) for k, v in next(iter(plans.values())).spec.calibration.values}
    assert loss(plans, found) < loss(plans, kept) < 2.714
    assert found == pytest.approx(kept, rel=0.003)


def test_a_claim_off_its_tolerance_is_told():
    claims = Claims()
    for name, ours in (("C10", 1.04), ("C2", 1.06)):
        claims.add(name, "a ratio", 1.0, rel=0.05)(lambda ours=ours: ours)
    claims.add("C3", "a bound", 1.0, bound="above")(lambda: 1.0)
    claims.add("C4", "a statement")(lambda: False)
    claims.add("C5", "both of two", (1, 2))(lambda: (1, 3))
    lines = table(settle(claims)).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["C2", "C3", "C4", "C5", "C10"]
    assert [line.split()[-1] for line in lines[1:6]] == ["NO", "NO", "NO", "NO", "yes"]
    assert lines[-1].startswith("1 of 5 gated rows")


def test_claims_need_as_many_figures_as_are_printed():
    with pytest.raises(ValueError, match="zip"):
        Claim("C1", "two", (1.0, 2.0), lambda: 1.0).holds(1.0)


def test_table_is_what_the_command_prints(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(c.what in out for c in CLAIMS)
    assert f"{len(GATED)} of {len(GATED)} gated rows" in out


# ---- plans


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
class TestPlans:
    def test_compile_by_the_study_s_calibration(self, file, capsys):
        status = planc(["compile", str(file), "--json"])
        found = json.loads(capsys.readouterr().out)["plans"]
        assert {p["calibration"] for p in found} == {"study_2603_05692"}
        small = [p["plan"] for p in found if not p["fits"]]
        # C1 claims just that
        assert small == (["one_gpu_fp8"] if file.stem == "capacity" else [])
        assert status == bool(small)

    def test_are_formatted(self, file):
        assert planc(["fmt", "--check", str(file)]) == 0

    def test_name_their_calibration(self, file):
        texts = [file.read_text(), (PLANS / "common.plan").read_text()]
        assert file.stem == "common" or 'use "common.plan"' in texts[0]
        assert "calibration = study_2603_05692" in texts[1]


@pytest.mark.parametrize("load", ["long", "short"])
@pytest.mark.parametrize("name", SEVENTY)
def test_70b_is_there_in_each_parallelism(name, load):
    degrees, batch = SEVENTY[name]
    plan = (plans("latency_70b") | plans("throughput_70b"))[f"{name}_{load}"]
    spec = plan.spec
    words = degrees.split()
    wanted = {w: int(n) for w, n in zip(words[::2], words[1::2], strict=True)}
    assert {a.sugar: a.size for a in spec.sharding.axes if a.size > 1} == wanted
    assert (spec.model.weights, spec.model.kv_cache, spec.node.gpu.name) == ("fp8", "fp8", "mi325x")
    assert (spec.workload.input, spec.workload.output) == ((9092, 208) if load == "long" else (106, 26))
    assert load == "short" or spec.workload.batch == batch


# ---- trends of the 70B plans


def sweep(name, load):
    return (plans("latency_70b") | plans("throughput_70b"))[f"{name}_{load}"].cost.evaluate(batch=BATCHES)


@pytest.mark.parametrize("load", ["long", "short"])
class TestSeventy:
    def test_tp8_has_the_lowest_ttft_and_tpot(self, load):
        best = sweep("tp8", load)
        for other in ("tp4", "tp2", "tp4_pp2", "pp8", "dp8"):
            assert np.all(best.ttft < sweep(other, load).ttft)
            assert np.all(best.tpot < sweep(other, load).tpot)

    def test_pp8_has_more_throughput_than_tensor_parallelism(self, load):
        for other in ("tp8", "tp4_pp2"):
            assert np.all(sweep("pp8", load).throughput > sweep(other, load).throughput)

    def test_replicas_lead_at_equal_batch_only(self, load):
        pipeline, replicas = sweep("pp8", load), sweep("dp8", load)
        assert np.all(replicas.throughput >= pipeline.throughput)
        best = pipeline.throughput[pipeline.fits].max(), replicas.throughput[replicas.fits].max()
        # short prompts fit one GPU at any batch of the sweep, so that the pipeline has nothing to gain
        assert (best[0] > best[1]) == (load == "long")


@pytest.mark.parametrize("setup", ALL, ids=lambda s: s.label)
class TestCommunication:
    def test_share_falls_with_the_speed_of_links(self, setup):
        times = [with_link(setup.plan("tp = 8"), rate).evaluate(batch=32) for rate in (256e9, 512e9, 1024e9)]
        for a, b in pairwise(times):
            assert communication(a.prefill) > communication(b.prefill)
            assert communication(a.decode) > communication(b.decode)

    def test_share_of_decode_grows_with_the_degree_at_small_batches(self, setup):
        """Latency and launches do not shrink with the shards."""
        for a, b in pairwise(setup.metrics(f"tp = {n}", BATCHES[:6]) for n in (1, 2, 4, 8)):
            assert np.all(communication(a.decode) < communication(b.decode))

    def test_share_of_prefill_hardly_depends_on_the_degree(self, setup):
        """On a mesh the links towards a group grow with it (C41)."""
        shares = [communication(setup.metrics(f"tp = {n}", 32).prefill) for n in (2, 4, 8)]
        assert 0 < max(shares) - min(shares) <= 0.08


@pytest.mark.parametrize("setup", LONG, ids=lambda s: s.label)
def test_pipelines_have_the_throughput_of_replicas_at_equal_batch(setup):
    large = BATCHES[5:]
    pipeline, replicas = (setup.metrics(d, large).throughput for d in ("pp = 8", "dp = 8"))
    assert pipeline == pytest.approx(replicas, rel=0.03)


# ---- figures


def drawn(path):
    """The text of an SVG file."""
    text = path.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    return text


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_drawn(name, tmp_path):
    pytest.importorskip("matplotlib")
    FIGURES[name](tmp_path / "new" / f"{name}.svg")
    drawn(tmp_path / "new" / f"{name}.svg")


def test_figure_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        FIGURES["ratios_405b"](path)
    assert drawn(paths[0]) == drawn(paths[1])


def test_scatter_shows_every_group_and_its_error(tmp_path):
    pytest.importorskip("matplotlib")
    x = np.array([1.0, 10.0, 100.0])
    path = tmp_path / "points.svg"
    figures.scatter(x, 1.1 * x, ["gemm", "gemm", "attention"], path, unit="us", title="kernels")
    text = drawn(path)
    # matplotlib draws letters as paths, and writes what they say beside them
    assert "<!-- gemm (2, 10.0 %) -->" in text
    assert "<!-- attention (1, 10.0 %) -->" in text
    assert "<!-- measured (us) -->" in text
    assert all(color.lower() in text for color in PALETTE[:2])


def test_without_matplotlib_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["--figures", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "figures need matplotlib: python -m pip install 'matplotlib>=3.8'\n"
    assert not list(tmp_path.iterdir())


def test_groups_look_different():
    made = group_styles([str(n) for n in range(49)])
    assert len({tuple(look.items()) for look in made.values()}) == 49
