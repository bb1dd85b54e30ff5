"""Strategies for models: transformers of every common kind, small enough to run."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from plandsl.grammar.lora import list_targets
from plandsl.ir.functions import FUNCTIONS
from plandsl.spec.model import (
    ADAPTERS,
    AMONG,
    EARLIER,
    EVERY,
    INDEX,
    LORA_RANK,
    Apply,
    BlockSpec,
    Every,
    LoraSpec,
    ModelSpec,
    Statement,
    Term,
    Var,
    Weight,
    walk,
)
from plandsl.testing.mixers import MIXERS, STORED, mixer_sizes, mixers
from plandsl.testing.streams import with_rows_of_layers, with_streams

X, H = Var("x"), Var("h")
EMBEDDING = Weight("w_embed", ("vocab", "hidden"))
LATENT = ("q_rank", "kv_rank", "nope_dim", "rope_dim", "v_dim")
IMBALANCES: tuple[float | str, ...] = (1.25, 1.25, "zipf(0.7)", "lognormal(mean = 1.2, p95 = 1.6)")
ACTIVATIONS = tuple(f.word for f in FUNCTIONS if not f.limits)


def _matmul(x: Term, name: str, *dims: str) -> Apply:
    return Apply("matmul", (x, Weight(name, dims)))


def _add(a: Term, b: Term) -> Apply:
    return Apply("add", (a, b))


def _scale(x: Term, by: float) -> Apply:
    return Apply("scale", (x,), (("by", by),))


def _soft_cap(x: Term, cap: float) -> Apply:
    """A soft cap: no element is larger than ``cap``."""
    return _scale(Apply("tanh", (_scale(x, 1 / cap),)), cap)


@composite
def _limited_terms(draw: DrawFn, x: Term) -> Term:
    """``x``, sometimes clamped, and sometimes with a number added."""
    bounds = draw(st.sampled_from(((), (), (("high", 0.5),), (("low", -0.25), ("high", 1.0)))))
    more = draw(st.sampled_from((0.0, 0.0, 1.0, -0.5)))
    limited = Apply("clamp", (x,), bounds) if bounds else x
    return Apply("plus", (limited,), (("by", more),)) if more else limited


@composite
def _norms(draw: DrawFn, x: Term, over: str = "hidden") -> Apply:
    fn = draw(st.sampled_from(("rms_norm", "rms_norm", "layer_norm")))
    gain = (("gain", "none"),) if draw(st.integers(0, 4)) == 0 else ()
    return Apply(fn, (x,), (("over", over), *gain))


@composite
def _queries_keys_values(draw: DrawFn) -> tuple[Statement, ...]:
    """Three statements for queries, keys and values: a projection, with bias, norm and rope or without.

    `rope` may turn the first two elements of each head alone, and may stand before the norm.
    """
    bias, norm, rope = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 4)) > 0
    first = (("first", 2),) if draw(st.integers(0, 3)) == 0 else ()
    early = draw(st.integers(0, 4)) == 0
    out = []
    for name, heads in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads")):
        term: Term = _matmul(H, f"w_{name}", "hidden", heads, "head_dim")
        if bias:
            term = _add(term, Weight(f"b_{name}", (heads, "head_dim")))
        if rope and early and name != "v":
            term = Apply("rope", (term,), first)
        if norm and name != "v":
            term = draw(_norms(term, "head_dim"))
        if rope and not early and name != "v":
            term = Apply("rope", (term,), first)
        out.append(Statement(name, term))
    return tuple(out)


@composite
def _latents(draw: DrawFn, options: tuple[tuple[str, int | float | bool], ...]) -> tuple[tuple[Statement, ...], Apply]:
    """Latent attention: queries of full or low rank, the cached vectors, and the weights that unpack them."""
    low, norm = draw(st.booleans()), draw(st.booleans())
    source, rank = (Var("cq"), "q_rank") if low else (H, "hidden")
    c: Term = _matmul(H, "w_dkv", "hidden", "kv_rank")
    down = [Statement("cq", draw(_norms(_matmul(H, "w_dq", "hidden", "q_rank"), "q_rank")))] if low else []
    down.append(Statement("c", draw(_norms(c, "kv_rank")) if norm else c))
    qn = _matmul(source, "w_uq", rank, "heads", "nope_dim")
    first = (("first", 2),) if draw(st.integers(0, 3)) == 0 else ()
    qr = Apply("rope", (_matmul(source, "w_qr", rank, "heads", "rope_dim"),), first)
    kr = Apply("rope", (_matmul(H, "w_kr", "hidden", "rope_dim"),), first)
    weights = (Weight("w_uk", ("kv_rank", "heads", "nope_dim")), Weight("w_uv", ("kv_rank", "heads", "v_dim")))
    latent = Apply("latent", (Var("c"), kr, *weights))
    return tuple(down), Apply("attention", (Apply("query", (qn, qr)), latent), options)


@composite
def _choices(draw: DrawFn) -> Apply:
    """An index of keys, with a weight for each head of a query or without."""
    q, k = _matmul(H, "w_iq", "hidden", "index_heads", "index_dim"), _matmul(H, "w_ik", "hidden", "index_dim")
    w = (_matmul(H, "w_iw", "hidden", "index_heads"),) if draw(st.booleans()) else ()
    return Apply(INDEX, (Apply("rope", (q,)), Apply("rope", (k,)), *w), (("top_k", draw(st.sampled_from((2, 5, 64)))),))


def _among(attention: Apply) -> Apply:
    """The attention, over the keys that its queries picked."""
    return attention._replace(args=(*attention.args, Var("picked")), options=(*attention.options, (AMONG, True)))


@composite
def _mlps(draw: DrawFn) -> tuple[tuple[Statement, ...], Apply]:
    """Statements of the inner part of a feed-forward layer, and the term that it adds to the residual stream."""
    fn = draw(st.sampled_from(ACTIVATIONS))
    up: Term = _matmul(H, "w_up", "hidden", "ffn")
    bias = draw(st.booleans())
    if bias:
        up = _add(up, Weight("b_up", ("ffn",)))
    up = draw(_limited_terms(up))
    if draw(st.booleans()):
        inner: Term = Apply("mul", (Apply(fn, (draw(_limited_terms(_matmul(H, "w_gate", "hidden", "ffn"))),)), up))
    else:
        inner = Apply(fn, (up,))
    down = _matmul(Var("g"), "w_down", "ffn", "hidden")
    return (Statement("g", inner),), _add(down, Weight("b_down", ("hidden",))) if bias else down


@composite
def _experts(draw: DrawFn, experts: int) -> tuple[tuple[Statement, ...], Term]:
    """Statements of a mixture of experts, sometimes with a shared expert, and the term that it adds."""
    router: Term = _matmul(H, "w_router", "hidden", "experts")
    if draw(st.integers(0, 3)) == 0:
        router = _add(router, Weight("b_router", ("experts",)))
    bias = (Weight("b_choice", ("experts",)),) if draw(st.integers(0, 3)) == 0 else ()
    options: list[tuple[str, int | float | bool | str]] = [("top_k", draw(st.integers(1, experts)))]
    for option in (("score", "sigmoid"), ("normalize", False), ("scale", 2.5), ("weigh", "input")):
        options += [option] if draw(st.booleans()) else []
    if draw(st.booleans()):
        options.append(("imbalance", draw(st.sampled_from(IMBALANCES))))
    up: Term = _matmul(H, "e_up", "experts", "hidden", "expert_ffn")
    down: Term = _matmul(Var("g"), "e_down", "experts", "expert_ffn", "hidden")
    if draw(st.booleans()):
        up = _add(up, Weight("e_bias", ("experts", "expert_ffn")))
        down = _add(down, Weight("e_bias_down", ("experts", "hidden")))
    inner: Term = Apply(draw(st.sampled_from(ACTIVATIONS)), (draw(_limited_terms(up)),))
    if draw(st.booleans()):
        inner = Apply("mul", (inner, _matmul(H, "e_gate", "experts", "hidden", "expert_ffn")))
    body = (Statement("g", inner), Statement("", down))
    y = Apply("experts", (H, router, *bias), tuple(options), None, body)
    out: Term = Var("y")
    shared: tuple[Statement, ...] = ()
    if draw(st.booleans()):
        shared, more = draw(_mlps())
        out = _add(out, more)
    return (Statement("y", y), *shared), out


@composite
def _blocks(
    draw: DrawFn,
    name: str,
    layers: tuple[int, int],
    windows: tuple[int, ...],
    experts: int = 0,
    latent: bool = False,
    causal: bool = False,
    mixer: str = "",
    table: bool = False,
    sparse: bool = False,
) -> BlockSpec:
    """Attention and a feed-forward layer, one after the other or side by side.

    A ``mixer`` stands in the place of attention, or beside it. With ``table`` each token has a row of a table of the
    layer.
    """
    reach = draw(st.sampled_from((0, 0, *windows)))
    options: tuple[tuple[str, int | float | bool], ...] = (
        ((draw(st.sampled_from(("window", "window", "chunk"))), reach),) if reach else ()
    )
    options += (("causal", False),) if not causal and draw(st.integers(0, 9)) == 0 else ()
    options += (("softcap", draw(st.sampled_from((50.0, 2.5)))),) if draw(st.integers(0, 5)) == 0 else ()
    options += (("alibi", True),) if draw(st.integers(0, 5)) == 0 else ()
    sinks = (Weight("w_sinks", ("heads",)),) if draw(st.integers(0, 2)) == 0 else ()
    attention = Apply("attention", (Var("q"), Var("k"), Var("v"), *sinks), options)
    before = draw(_queries_keys_values()) if not latent else ()
    if latent:
        before, attention = draw(_latents(options))
    if sparse:
        before, attention = (*before, Statement("picked", draw(_choices()))), _among(attention)
    projected = _matmul(Var("a"), "w_o", "heads", "v_dim" if latent else "head_dim", "hidden")
    middle = [*before, Statement("a", attention)]
    if mixer:
        found = draw(mixers(mixer))
        alone = draw(st.integers(0, 3)) > 0
        middle = [*([] if alone else middle), *found.before]
        projected = found.out if alone else _add(projected, found.out)
    if draw(st.integers(0, 5)) == 0:
        projected = draw(_norms(projected))
    if draw(st.integers(0, 5)) == 0:
        projected = _scale(projected, draw(st.sampled_from((-2.0, 0.22, 1e-5))))
    inner, down = draw(_experts(experts) if experts else _mlps())
    first = [Statement("h", draw(_norms(X))), *middle]
    if draw(st.integers(0, 3)) == 0:
        body = [*first, *inner, Statement("x", _add(_add(X, projected), down))]
    else:
        body = [*first, Statement("x", _add(X, projected)), Statement("h", draw(_norms(X))), *inner]
        body.append(Statement("x", _add(X, down)))
    if table:
        rows = Apply("lookup", (Weight("w_rows", ("vocab", "row")),))
        gate = Apply("gelu", (_matmul(X, "w_gate_rows", "hidden", "row"),))
        body.append(Statement("x", _add(X, _matmul(Apply("mul", (gate, rows)), "w_row", "row", "hidden"))))
    return BlockSpec(name, layers, "x", tuple(body))


@composite
def _layer_ranges(draw: DrawFn, layers: int) -> list[tuple[str, tuple[int, int], Every]]:
    """One block for all layers, two blocks one after the other, or two blocks that take turns."""
    cut, period = draw(st.integers(0, layers - 1)), draw(st.integers(1, 4))
    if not cut:
        return [("block", (0, layers), EVERY)]
    at = draw(st.integers(0, period - 1))
    own = [n for n in range(layers) if n % period == at]
    rest = [n for n in range(layers) if n % period != at]
    if own and rest:
        parts = [("local", *Every.from_layers(rest)), ("own", *Every.from_layers(own))]
        return sorted(parts, key=lambda part: part[1])
    return [("dense", (0, cut), EVERY), ("other", (cut, layers), EVERY)]


def _weights(term: Term) -> Iterator[Weight]:
    """The weights in a term, those of the bodies of `experts` too."""
    for part in walk(term):
        if isinstance(part, Weight):
            yield part
        elif isinstance(part, Apply):
            yield from (w for s in part.body for w in _weights(s.term))


TABLES = {"positions": 16_384, "types": 2}
"""Dimensions of the tables that an embedding has besides that of token ids; requests are drawn no longer than these."""


@composite
def _entries(draw: DrawFn) -> Term:
    """More than a row of a table for each token: a factor, rows by position or type, a norm."""
    x: Term = _scale(EMBEDDING, 4.0) if draw(st.booleans()) else EMBEDDING
    for by, dim in (("position", "positions"), ("type", "types")):
        if draw(st.booleans()):
            x = _add(x, Apply("lookup", (Weight(f"w_{by}", (dim, "hidden")),), (("by", by),)))
    return draw(_norms(x)) if draw(st.booleans()) or x == EMBEDDING else x


@composite
def exceptions(draw: DrawFn, paths: list[str]) -> tuple[tuple[str, str], ...]:
    """Formats of some of the weights that ``paths`` name; often none."""
    if draw(st.booleans()):
        return ()
    chosen = draw(st.lists(st.sampled_from(paths), unique=True))
    words = st.sampled_from(("activations", "activations", "bf16", "fp8", "int4_32", "int8_channel"))
    return tuple((path, draw(words)) for path in sorted(chosen))


@composite
def models(draw: DrawFn, windows: tuple[int, ...] = (3, 7), causal: bool = False) -> ModelSpec:
    """A decoder: any kind of attention, with experts or without; one block, or two by layer ranges or in turns.

    Some have several residual streams, or a row of each layer for each token. With ``causal`` no token sees later
    tokens, so that guesses can be verified.
    """
    kv_heads = draw(st.sampled_from((2, 4, 8, 1, 3, 16)))
    heads = kv_heads * draw(st.sampled_from((1, 2, 4, 3)))
    scale = draw(st.sampled_from((1, 1, 64)))
    sizes = {
        "hidden": scale * draw(st.sampled_from((8, 16, 24, 4, 6, 12))),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": scale * draw(st.sampled_from((2, 4, 6, 8))),
        "ffn": scale * draw(st.sampled_from((8, 16, 24, 48, 4, 6, 12))),
        "vocab": scale * draw(st.sampled_from((8, 16, 24, 48, 4, 7, 12))),
    }
    experts = draw(st.sampled_from((0, 0, 0, 2, 4, 8, 16, 1, 6, 64)))
    if experts:
        sizes |= {"experts": experts, "expert_ffn": scale * draw(st.sampled_from((8, 4, 12, 16)))}
    latent = draw(st.integers(0, 2)) == 0
    if latent:
        sizes |= {name: scale * draw(st.sampled_from((2, 4, 6, 8))) for name in LATENT}
    mixer = draw(st.sampled_from(MIXERS)) if draw(st.integers(0, 2)) == 0 else ""
    if mixer:
        sizes |= draw(mixer_sizes(mixer, scale))
    table = draw(st.integers(0, 5)) == 0
    if table:
        sizes["row"] = scale * draw(st.sampled_from((4, 6, 8)))
    entry = draw(_entries()) if draw(st.integers(0, 4)) == 0 else None
    if entry is not None:
        sizes |= {name: size for name, size in TABLES.items() if f"'{name}'" in str(entry)}
    sparse = draw(st.integers(0, 4)) == 0
    if sparse:
        sizes |= {
            "index_heads": draw(st.sampled_from((1, 2, 4))),
            "index_dim": scale * draw(st.sampled_from((2, 4, 8))),
        }
    layers = draw(st.integers(1, 7))
    ranges = draw(_layer_ranges(layers))
    weights = draw(st.sampled_from(("bf16", "bf16", "fp16", "fp8", "fp4", "mxfp4", "int8", "int4_32", "fp8_channel")))
    activations = draw(st.sampled_from(("bf16", "bf16", "fp16")))
    tied = draw(st.booleans())
    head = EMBEDDING if tied else Weight("w_head", ("hidden", "vocab"))
    logits = Apply("matmul", (draw(_norms(X)), head))
    stateful = draw(st.sampled_from([{ranges[0][0]}, {ranges[-1][0]}, {name for name, *_ in ranges}]))
    blocks = tuple(
        draw(
            _blocks(
                name,
                span,
                windows,
                experts=experts * (name != "dense"),
                latent=latent and name != "local",
                causal=causal,
                mixer=mixer if name in stateful else "",
                table=table and name != "other",
                sparse=sparse and name != "other",
            )
        )._replace(every=every)
        for name, span, every in ranges
    )
    blocks, prelude = draw(_handed_on(blocks, entry or EMBEDDING))
    if prelude:
        entry = Var("e")
    lora = draw(_adapters(blocks)) if any(list_targets(blocks)) and draw(st.integers(0, 4)) == 0 else None
    if lora is not None:
        sizes |= {ADAPTERS: draw(st.integers(lora.active, 4)), LORA_RANK: draw(st.sampled_from((1, 2, 4, 8)))}
    drawn = [logits, entry or EMBEDDING, *(s.term for s in prelude), *(s.term for b in blocks for s in b.statements)]
    named = {w.name: w.dims for term in drawn for w in _weights(term)}
    used = {dim for dims in named.values() for dim in dims} | {ADAPTERS, LORA_RANK}
    paths = ["embedding", ranges[0][0], *(["w_o"] if "w_o" in named else []), *([] if tied else ["head"])]
    last = {w.name for s in blocks[-1].statements for w in _weights(s.term)}
    paths += [f"{ranges[-1][0]}.w_o"] if len(ranges) > 1 and "w_o" in last else []
    found = ModelSpec(
        name="m",
        layers=layers,
        sizes=tuple((name, size) for name, size in sizes.items() if name in used),
        weights=weights,
        activations=activations,
        kv_cache=draw(st.sampled_from((activations, "fp8"))),
        state_cache=draw(st.sampled_from(("", "fp32"))) if mixer in STORED else "",
        compute=draw(st.sampled_from((None, None, activations))),
        embedding=EMBEDDING,
        entry=entry,
        prelude=prelude,
        blocks=blocks,
        head=_soft_cap(logits, 30.0) if draw(st.integers(0, 3)) == 0 else logits,
        max_context=draw(st.none() | st.just(4096)),
        causal=causal or draw(st.integers(0, 7)) > 0,
        stored=draw(exceptions(paths)),
        lora=lora,
        index_cache=draw(st.sampled_from(("", "fp8_128"))) if sparse else "",
    )
    match draw(st.integers(0, 11)):
        case 0:
            return draw(with_streams(found))
        case 1:
            return draw(with_rows_of_layers(found))
        case _:
            return found


def _earlier(name: str) -> Apply:
    return Apply(EARLIER, (), (("name", name),))


@composite
def _handed_on(
    draw: DrawFn, blocks: tuple[BlockSpec, ...], entry: Term
) -> tuple[tuple[BlockSpec, ...], tuple[Statement, ...]]:
    """The blocks, of which the last sometimes takes values of earlier layers, and what the embedding makes for them."""
    first, last = blocks[0], blocks[-1]
    if len(blocks) > 1 and draw(st.integers(0, 3)) == 0:
        last = _share(first, last)
    if len(blocks) > 1 and draw(st.integers(0, 7)) == 0:
        last = last._replace(statements=(*last.statements, Statement("x", _add(X, _earlier("h")))))
    prelude: tuple[Statement, ...] = ()
    if draw(st.integers(0, 7)) == 0:
        prelude = (Statement("e", entry),)
        last = last._replace(statements=(*last.statements, Statement("x", _add(X, _earlier("e")))))
    return (*blocks[:-1], last), prelude


def _share(first: BlockSpec, last: BlockSpec) -> BlockSpec:
    """``last`` with the keys, the values and the picks of ``first``, as far as both have them."""
    own, other = ({s.target: s.term for s in block.statements} for block in (first, last))
    if any([s.target for s in block.statements].count(name) > 1 for block in (first, last) for name in ("k", "v", "a")):
        return last  # a mixer beside attention has the same names
    ours, theirs = own.get("a"), other.get("a")
    if any(not isinstance(a, Apply) or a.fn != "attention" for a in (ours, theirs)):
        return last
    assert isinstance(ours, Apply)
    assert isinstance(theirs, Apply)
    q, *args = theirs.args
    taken: set[str] = set()
    picks = bool(ours.option(AMONG, False))
    if picks:
        args = [*(args[:-1] if theirs.option(AMONG, False) else args), _earlier("picked")]
        taken.add("picked")
    rest = [x for s in last.statements if s.target != "a" for x in walk(s.term) if isinstance(x, Var)]
    if {"k", "v"} <= own.keys() & other.keys() and not {"k", "v"} & {x.name for x in rest}:
        taken |= {"k", "v"}
        args = [_earlier("k"), _earlier("v"), *args[2:]]
    if not taken:
        return last
    reach = [o for o in ours.options if o[0] in ("window", "chunk", "causal")]
    kept = [o for o in theirs.options if o[0] in ("softcap", "alibi")]
    among = [(AMONG, True)] if picks or theirs.option(AMONG, False) else []
    a = theirs._replace(args=(q, *args), options=(*reach, *kept, *among))
    changed = (s._replace(term=a) if s.target == "a" else s for s in last.statements if s.target not in taken)
    return last._replace(statements=tuple(changed))


@composite
def _adapters(draw: DrawFn, blocks: tuple[BlockSpec, ...]) -> LoraSpec:
    """Adapters of some of the weights, or of all that may have some."""
    known = sorted(set(list_targets(blocks)))
    chosen = draw(st.sampled_from((known, known[:1], known[::2])))
    return LoraSpec(tuple(chosen), active=draw(st.integers(1, 3)), host_bandwidth=25e9)
