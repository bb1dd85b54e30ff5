"""Bands from left-out residuals hold what they say, and are wider where less is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plandsl.backends.calibrate.conformal import NONE, Residuals, margin, residuals, together, wider
from plandsl.backends.calibrate.distance import Left, kind_margins, near_band


def drawn(rng, groups, rows, scatter=0.1, bias=0.2, name="g"):
    """Residuals of groups that each have a bias of their own."""
    parts = []
    for i in range(groups):
        logs = rng.normal(rng.normal(0, bias), scatter, rows)
        parts.append(residuals(np.ones(rows), np.exp(logs), f"{name}{i}"))
    return together(parts)


def inside(band, found):
    return (found.over >= band[0]) & (found.over <= band[1])


@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from([0.5, 0.8, 0.9]))
def test_a_band_holds_its_share_of_new_groups(seed, level):
    """Over many draws: 40 groups, and new ones of the same kind. Four standard errors of slack, by groups."""
    rng = np.random.default_rng(seed)
    shares = [inside(margin((drawn(rng, 40, 5),), level), drawn(rng, 20, 5)).mean() for _ in range(20)]
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert np.mean(shares) >= level - 4 * error - 1 / 40


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 6), rows=st.integers(1, 9))
def test_a_band_grows_with_the_share_that_it_is_to_hold(seed, groups, rows):
    rng = np.random.default_rng(seed)
    classes = (drawn(rng, groups, rows), drawn(rng, 8, 4, bias=0.4, name="wide"))
    bands = [margin(classes, level) for level in (0.2, 0.5, 0.8, 0.95)]
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in pairwise(bands))


def test_a_class_with_few_groups_borrows_and_one_without_any_takes_the_wider_band():
    rng = np.random.default_rng(1)
    wide = drawn(rng, 50, 4, bias=0.5, name="wide")
    many, few = drawn(rng, 50, 4, bias=0.02), drawn(rng, 2, 4, bias=0.02)
    assert margin((NONE, wide)) == margin((wide,))
    spans = [high - low for low, high in (margin((found, wide)) for found in (many, few, NONE))]
    assert spans[0] < 0.5 * spans[2] < spans[1] < spans[2]
    assert margin((NONE,)) == (0.0, 0.0)


def test_a_group_counts_once_however_many_rows_it_has():
    few, many = (residuals(np.ones(n), np.full(n, 3.0), "far") for n in (1, 1000))
    others = drawn(np.random.default_rng(2), 30, 4)
    assert margin((together([others, few]),)) == margin((together([others, many]),))


@given(seed=st.integers(0, 2**32 - 1))
def test_bands_are_never_narrower_farther_away(seed):
    rng = np.random.default_rng(seed)
    left = {
        kind: [Left(*(drawn(rng, int(rng.integers(1, 4)), 3, name=f"{kind}{i}") for _ in range(3))) for i in range(3)]
        for kind in ("gemm", "moe")
    }
    for found in kind_margins(left).values():
        assert found.lent is not None
        near, beyond, lent = found.near, found.beyond, found.lent
        assert lent[0] <= beyond[0] <= near[0] <= 0 <= near[1] <= beyond[1] <= lent[1]


def test_no_gpu_left_out_leaves_the_margin_of_other_gpus_unknown():
    near = drawn(np.random.default_rng(3), 3, 4)
    assert kind_margins({"gemm": [Left(near=near)]})["gemm"].lent is None


def test_shapes_left_out_widen_the_band_of_their_own_set():
    rng = np.random.default_rng(4)
    kind = drawn(rng, 20, 10, scatter=0.01, bias=0.01)
    wild = Residuals(*(rng.normal(0, 0.5, 60),) * 2, np.full(60, "wild"))
    calm, own = near_band((-0.1, 0.1), NONE, kind), near_band((-0.1, 0.1), wild, kind)
    assert own[0] < calm[0] <= -0.1
    assert own[1] > calm[1] >= 0.1


def test_margins_only_move_a_band_out():
    assert wider((-0.1, 0.2), (0.05, -0.1)) == (-0.1, 0.2)
    assert wider((-0.1, 0.2), (-0.1, 0.1)) == pytest.approx((-0.2, 0.3))
