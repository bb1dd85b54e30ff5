"""Every law on every kind of deployment; a run of all tests draws some, and the slow tests ask them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from plandsl.driver import CompiledPlan, compile_file, compile_text
from plandsl.testing import LAWS, assert_law, laws_cost, laws_program
from plandsl.testing.known import Law
from tests.draws import pick, some
from tests.pairs import text, together
from tests.test_measured import DOWN, GEMM, write
from tests.test_measured import plan as measured_file

KINDS = {
    "static batch": ("batch", "tp"),
    "mixed steps": ("chunked_prefill", "concurrency", "engine", "tp"),
    "pipeline with micro-batches": ("micro_batches", "batch"),
    "replicas": ("dp", "tp"),
    "data-parallel attention with expert parallelism": ("own", "ep"),
    "two pools": ("pools", "tp"),
    "two pools with requests always in flight": ("pools", "concurrency", "chunked_prefill", "engine"),
    "several nodes": ("cluster", "tp"),
    "unlike layers": ("window", "chunk", "pp"),
    "states": ("states", "tp"),
    "states over a split context": ("states", "ring", "chunked_prefill"),
    "sparse attention": ("sparse", "tp"),
    "latent attention": ("latent", "tp"),
    "an encoder": ("encoder", "tp"),
    "a tower with images": ("tower", "tp"),
    "adapters": ("adapters", "tp"),
    "a draft": ("draft", "tp"),
    "tokens predicted by the model": ("mtp", "tp"),
    "guesses that are looked up": ("lookup", "tp"),
    "prefixes of one's own": ("reuse_own", "gather"),
    "a shared prefix": ("reuse_shared", "tp"),
    "context around a ring": ("ring", "tp"),
    "context that is gathered": ("gather", "latent"),
    "sequence parallelism": ("ulysses", "tp"),
    "an engine with fitted constants": ("engine", "concurrency", "tp", "dp"),
    "unlike GPUs": ("unlike", "pp"),
    "unlike GPUs in two pools": ("unlike", "pools", "tp"),
    "two shardings": ("shift", "batch"),
    "experts with unlike loads": ("zipf", "tp"),
    "chunks of rows": ("chunks", "overlap"),
}
"""Kinds of deployments, each by features of tests/pairs.py."""

FORMATS = {"": "", "fp8": ", kv_cache = fp8", "int8_channel": ""}
"""Formats of weights, each with what else a model then says; an empty one is that of the kind."""


def plan_of(kind: str, weights: str = "") -> CompiledPlan:
    said = together(*KINDS[kind])
    assert said is not None, "features that go together"
    source = text(said)
    if weights:
        source = source.replace("weights = bf16\n", f"weights = {weights}{FORMATS[weights]}\n")
    return compile_text(source, plan="p")[0]


def test_laws_of_a_kind_that_is_drawn() -> None:
    """A third of the laws on one kind: `make seeds` comes around."""
    kind = sorted(KINDS)[pick(len(KINDS), "kind")]
    made = plan_of(kind, sorted(FORMATS)[pick(len(FORMATS), "format")])
    for law in some(LAWS, 4, kind):
        assert_law(law, made)


@pytest.mark.slow
@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_every_kind(kind: str, weights: str) -> None:
    made = plan_of(kind, weights)
    for law in LAWS:
        assert_law(law, made)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_every_law_with_measured_tables(law: Law, tmp_path: Path) -> None:
    rows = (DOWN.format(m=m, t=1.2e-5 + 5e-8 * m) for m in (2**n for n in range(19)))  # assumed: like an H100's
    write(tmp_path, "m.csv", GEMM, *rows)
    (made,) = compile_file(measured_file(tmp_path, 'measured = "m.csv"'))
    assert_law(law, made)


FOUND = (
    # a chunked step runs at the engine's rate of prefill, and may be shorter than a step that only decodes
    ("mixed steps", laws_cost.terms_add_up),
    # of a calibration that takes round figures from another one, some were assumed that it has no use for
    ("data-parallel attention with expert parallelism", laws_program.text_reads_back),
)
"""What asking all kinds has found, with int8 weights."""


@pytest.mark.parametrize(("kind", "law"), FOUND)
def test_what_was_found_is_mended(kind: str, law: Law) -> None:
    assert_law(law, plan_of(kind, "int8_channel"))
