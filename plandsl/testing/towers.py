"""Strategies for towers: encoders of images for a model, and the loads whose prompts have images."""

from __future__ import annotations

from attrs import evolve
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.passes.drafts import check_tower
from plandsl.spec.model import PATCHES, Apply, BlockSpec, ModelSpec, Statement, Term, Var, Weight
from plandsl.spec.plan import PlanSpec
from plandsl.testing.shardings import shardings, stages_of

X, H = Var("x"), Var("h")
OVER = (("over", "hidden"),)


def _product(x: Term, name: str, *dims: str) -> Apply:
    return Apply("matmul", (x, Weight(name, dims)))


@composite
def towers(draw: DrawFn, width: int) -> ModelSpec:
    """An encoder of images for a model whose hidden states are ``width`` wide, with or without merged patches."""
    norm = draw(st.sampled_from(("rms_norm", "layer_norm")))
    heads = draw(st.sampled_from((1, 2, 3, 4)))
    sizes = {"hidden": draw(st.sampled_from((8, 12, 24))), "heads": heads, "head_dim": 4, "ffn": 16}
    sizes |= {"patch": draw(st.sampled_from((5, 12))), "out": width}

    def turned(name: str) -> Apply:
        x = _product(H, name, "hidden", "heads", "head_dim")
        return Apply("rope", (x,)) if rotates else x

    rotates = draw(st.booleans())
    values = _product(H, "w_v", "hidden", "heads", "head_dim")
    attention = Apply("attention", (turned("w_q"), turned("w_k"), values))
    body = [Statement("h", Apply(norm, (X,), OVER))]
    body.append(Statement("x", Apply("add", (X, _product(attention, "w_o", "heads", "head_dim", "hidden")))))
    inner = Apply(
        draw(st.sampled_from(("gelu", "silu"))), (_product(Apply(norm, (X,), OVER), "w_up", "hidden", "ffn"),)
    )
    body.append(Statement("x", Apply("add", (X, _product(inner, "w_down", "ffn", "hidden")))))
    last: Term = Apply(norm, (X,), OVER)
    end = "hidden"
    tokens = draw(st.sampled_from((1, 2, 4)))
    if tokens > 1:
        joins = draw(st.booleans())
        last = Apply("merge", (last,), (("tokens", tokens), *((("into", "merged"),) if joins else ())))
        if joins:
            end = "merged"
            sizes["merged"] = tokens * sizes["hidden"]
    layers = draw(st.integers(1, 3))
    return ModelSpec(
        name="sees",
        layers=layers,
        sizes=tuple(sizes.items()),
        weights="bf16",
        activations="bf16",
        kv_cache="bf16",
        compute=None,
        embedding=Weight("w_patch", ("patch", "hidden")),
        entry=_product(Var(PATCHES), "w_patch", "patch", "hidden"),
        blocks=(BlockSpec("block", (0, layers), "x", tuple(body)),),
        head=_product(last, "w_out", end, "out"),
        causal=False,
        stored=(("block", "activations"), ("embedding", "activations")),
    )


@composite
def with_images(draw: DrawFn, plan: PlanSpec) -> PlanSpec:
    """``plan`` with a tower on the GPUs of each stage, and with images in its prompts or without."""
    model, load = plan.model, plan.workload
    tower = draw(towers(model.size(model.embedding.dims[-1])))
    around, node = plan.sharding, plan.node
    stage = evolve(node, count=around.ranks // around.replicas // stages_of(around), gpus=())
    laid = evolve(draw(shardings(tower, stage, whole=True)), name="beside")
    images = draw(st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.7)))
    if images and load.input >= images:
        each = draw(st.integers(1, max(1, int(load.input / images)) if images > 1 else load.input))
        load = evolve(load, images=images, image_tokens=min(each, 300))
    made = evolve(plan, model=evolve(model, tower=tower), tower=laid, workload=load)
    beside = made.tower_plan
    assert beside is not None, "its model has a tower"
    assume(not any(d.severity == "error" for d in check_tower(made, beside)))
    return made
