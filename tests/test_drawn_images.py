"""Images that each prompt draws: `images = uniform(0, 4)`."""

from __future__ import annotations

import numpy as np
import pytest

from plandsl.backends.cost.serving.workloads import draw_images
from plandsl.diagnostics import PlanError
from plandsl.show import show_plan
from tests.test_towers import plan_of

LOAD = "input = 1000, output = 20, rate = {rate} req/s, requests = 60, image_tokens = 128, images = {images}"


def load(images: str, rate: float = 200) -> str:
    return LOAD.format(images=images, rate=rate)


PLACES = [
    "sharding { tp = 4 }",
    "sharding { tp = 2 }, engine = vllm",
    "sharding { tp = 2 }, prefill { }, decode { }, transfer { bandwidth = 50 GB/s, latency = 10 us }",
]


@pytest.mark.parametrize("fields", PLACES)
def test_prompts_that_all_have_two_images_take_what_a_mean_of_two_takes(fields: str) -> None:
    """Prompts are of one length, so that the mean of the load is spread over them just so."""
    drawn, mean = (plan_of(fields, load(images)).simulate().records for images in ("uniform(2, 2)", "2"))
    assert np.allclose(drawn.ttft_s, mean.ttft_s, rtol=1e-6)


def test_ranks_that_share_requests_encode_the_images_of_all() -> None:
    """The mean of a load counts each rank as full as the slowest; images that are drawn count as they are."""
    fields = "sharding { mesh a = 2, b = 2; batch -> a; heads, kv_heads, ffn -> b }"
    drawn, mean = (plan_of(fields, load(images)).simulate().records for images in ("uniform(2, 2)", "2"))
    assert 0.9 < drawn.ttft_s.mean() / mean.ttft_s.mean() < 1.01


def test_a_prompt_waits_for_its_own_images() -> None:
    """At a low rate each prompt has a step by itself, which takes what the closed form says of so many images."""
    fields = "sharding { tp = 4 }"
    plan = plan_of(fields, load("uniform(0, 4)", rate=0.5))
    records = plan.simulate().records
    images = draw_images(plan.spec.workload, records.input)
    assert images is not None
    assert set(images.tolist()) == {0, 1, 2, 3, 4}
    for count in range(5):
        others = f", images = {count}, image_tokens = 128" if count else ""
        alone = plan_of(fields, f"input = 1000, output = 20, batch = 1{others}").estimate().ttft_s
        assert np.allclose(np.median(records.ttft_s[images == count]), alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "mean"),
    [("uniform(0, 4)", 2.0), ("uniform(0, 100)", (sum(range(7)) + 94 * 7) / 101), ("zipf(1, max = 2)", 4 / 3)],
)
def test_the_closed_form_has_the_mean_of_what_fits(images: str, mean: float) -> None:
    """Of 1,000 tokens: at most 7 images of 128."""
    spec = plan_of("", load(images)).spec
    assert spec.workload.images == pytest.approx(mean)
    drawn = draw_images(spec.workload, np.full(20_000, 1000))
    assert drawn is not None
    assert drawn.max() <= 7
    assert drawn.mean() == pytest.approx(mean, rel=0.03)


def test_the_seed_of_a_load_draws_its_images() -> None:
    lengths = np.full(1000, 1000)
    one, again, other = (
        draw_images(plan_of("", load("uniform(0, 4)") + f", seed = {seed}").spec.workload, lengths)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert np.mean(one != other) > 0.5


def test_it_prints_and_reads_back() -> None:
    plan = plan_of("", load("uniform(0, 4)"))
    assert "images = uniform(0, 4)\n" in show_plan(plan.spec)
    assert any("draws how many each prompt has" in d.message for d in (*plan.notes, *plan.findings))


@pytest.mark.parametrize(
    ("images", "code"),
    [
        ("uniform(0, 0)", "E546"),
        ('empirical("a.csv")', "E576"),
        ("uniform(-1, 4)", "E214"),
        ("uniform(0, 20_000)", "E214"),
    ],
)
def test_wrong_images_are_errors(images: str, code: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan_of("", load(images))
    assert code in [d.code for d in raised.value.diagnostics if d.severity == "error"]
