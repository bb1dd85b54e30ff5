"""Strategies for models with several residual streams, and with rows that the embedding makes for each layer."""

from __future__ import annotations

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.spec.model import ADAPTERS, EARLIER, LORA_RANK, Apply, BlockSpec, ModelSpec, Statement, Term, Var, Weight

X, ONE, BEFORE = Var("x"), Var("s"), Var("p")
OVER = (("over", "streams"),)


def _item(x: Term, over: str = "streams", at: int | str = 0) -> Apply:
    return Apply("item", (x,), (("over", over), ("at", at)))


def _add(a: Term, b: Term) -> Apply:
    return Apply("add", (a, b))


def _matmul(x: Term, name: str, *dims: str) -> Apply:
    return Apply("matmul", (x, Weight(name, dims)))


def _renamed(term: Term) -> Term:
    """``term`` with the residual stream as the one of several that a layer works on."""
    if term == X:
        return ONE
    if not isinstance(term, Apply):
        return term
    body = tuple(s._replace(term=_renamed(s.term)) for s in term.body)
    return term._replace(args=tuple(map(_renamed, term.args)), body=body)


def _on_one(block: BlockSpec, corrects: bool) -> BlockSpec:
    """A block that predicts all streams, works on the first of them, and corrects the others by its change."""
    turn = Apply("tanh", (_matmul(_item(X), "w_routes", "hidden", "routes"),))
    predict = (("over", "streams"), ("by", "mixed"))
    weights = _matmul(Var("turn"), "w_predict", "routes", "streams", "mixed")
    body = [s._replace(target="s" if s.target == "x" else s.target, term=_renamed(s.term)) for s in block.statements]
    change = _add(ONE, Apply("scale", (_item(BEFORE),), (("by", -1.0),)))
    spread: Term = Apply("spread", (change,), (("into", "streams"),))
    if corrects:
        spread = Apply("mul", (spread, _matmul(Var("turn"), "w_correct", "routes", "streams")))
    first = (
        Statement("turn", turn),
        Statement("p", _add(X, Apply("mix", (X, weights), predict))),
        Statement("s", _item(BEFORE)),
    )
    return block._replace(statements=(*first, *body, Statement("x", _add(BEFORE, spread))))


@composite
def with_streams(draw: DrawFn, model: ModelSpec) -> ModelSpec:
    """``model`` with two to four residual streams, each of which begins as the embedding."""
    count = draw(st.integers(2, 4))
    prelude, begin = _begin(model)
    starts = [begin, *(Apply("scale", (begin,), (("by", float(n)),)) for n in range(2, count + 1))]
    corrects = draw(st.booleans())
    return evolve(
        model,
        sizes=_with_sizes(model, streams=count, mixed=count, routes=draw(st.integers(1, 4))),
        prelude=prelude,
        entry=Apply("stack", tuple(starts), (("into", "streams"),)),
        stream=("streams", "hidden"),
        blocks=tuple(_on_one(block, corrects) for block in model.blocks),
        head=_of_first(model.head),
    )


def _of_first(term: Term) -> Term:
    """``term`` over the first stream."""
    if term == X:
        return _item(X)
    return term._replace(args=tuple(map(_of_first, term.args))) if isinstance(term, Apply) else term


@composite
def with_rows_of_layers(draw: DrawFn, model: ModelSpec) -> ModelSpec:
    """``model`` whose embedding looks up a row for each layer, of which each layer takes its own."""
    rows = Apply("lookup", (Weight("w_each", ("vocab", "each_layer", "each_row")),))
    own = _item(Apply(EARLIER, (), (("name", "rows"),)), "each_layer", "layer")
    more = Statement("x", _add(X, _matmul(own, "w_each_out", "each_row", "hidden")))
    blocks = tuple(block._replace(statements=(*block.statements, more)) for block in model.blocks)
    sizes = _with_sizes(model, each_layer=model.layers, each_row=draw(st.sampled_from((2, 4, 6))))
    prelude, begin = _begin(model)
    return evolve(model, sizes=sizes, prelude=(*prelude, Statement("rows", rows)), entry=begin, blocks=blocks)


def _begin(model: ModelSpec) -> tuple[tuple[Statement, ...], Term]:
    """What the embedding makes before its last term, and what the first layer gets."""
    if model.prelude and model.entry is not None:
        return model.prelude, model.entry
    return (Statement("begin", model.entry or model.embedding),), Var("begin")


def _with_sizes(model: ModelSpec, **more: int) -> tuple[tuple[str, int], ...]:
    """The sizes of ``model`` and ``more``; those of adapters stand last."""
    last = tuple(size for size in model.sizes if size[0] in (ADAPTERS, LORA_RANK))
    return (*(size for size in model.sizes if size not in last), *more.items(), *last)
