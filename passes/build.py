"""Build: turn a model's blocks, written as terms, into a program of typed operations on whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf, prod
from typing import TYPE_CHECKING, NamedTuple, TypedDict, assert_never

from attrs import evolve

from plandsl.diagnostics import Span
from plandsl.ir.compute import Attention, CacheWrite, Concat, Embed, Gemm, Ids, LastToken, Map, Merge, Norm, Rope, Scale
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm, TopK
from plandsl.ir.limits import Limit, show_limits
from plandsl.ir.names import EMBEDDING, HEAD, MOMENTS, Merged, Places, RegionName, block_name, cached, stem
from plandsl.ir.ops import Op
from plandsl.ir.program import DECODE, PREFILL, Program, Region
from plandsl.ir.skew import Skew, factor, read_skew
from plandsl.ir.types import Mesh, TensorType, Value, tensor
from plandsl.passes.rewrite import Names
from plandsl.spec.earlier import caches_handed, name_of, shares_keys, values_handed
from plandsl.spec.formats import BITS, base_format, with_inputs
from plandsl.spec.hardware import GpuSpec
from plandsl.spec.model import (
    AMONG,
    EARLIER,
    GAINS,
    INDEX,
    LAYER,
    PATCHES,
    STATEFUL,
    STREAMS,
    Apply,
    BlockSpec,
    ModelSpec,
    Statement,
    Term,
    Var,
    Weight,
    walk,
)
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.passes.index import Choice

TOKENS = ("batch", "position")


class Scores(TypedDict):
    """The fields of `Attention` and `LatentAttention` that say which keys a query sees, and what changes its scores."""

    causal: bool
    window: int
    chunk: int | None
    softcap: float | None
    alibi: bool


def arithmetic(model: ModelSpec, gpu: GpuSpec, stored: str = "") -> str:
    """The dtype in which GEMMs with weights ``stored`` in a dtype (by default the model's) multiply.

    It is the model's ``compute`` if given, else ``stored`` if the GPU lists a peak for it, else the activations' dtype.
    Weights that are an exception, and have more bits than ``compute``, do not multiply in it.
    """
    own = base_format(stored or model.weights)
    wide = own != base_format(model.weights) and model.compute is not None and BITS[own] > BITS[model.compute]
    if model.compute is not None and not wide:
        return model.compute
    return own if gpu.peak(own) is not None else model.activations


def empty_program(plan: PlanSpec, phase: str) -> Program:
    """The empty program of one phase, before the first pass."""
    return Program(plan.model.name, phase, mesh_of(plan), (), ())


def build(program: Program, plan: PlanSpec) -> Program:
    """The unsharded program of one phase.

    `tokens` becomes two dimensions, `batch` and `position`. ``position`` is ``input`` in prefill and 1 in decode
    (``queries`` where a step verifies guessed tokens). ``context``, the keys attended to, is ``input`` in prefill and
    grows during decode. In prefill steps that may find tokens of their requests in the cache, ``context`` is a symbol
    too.
    """
    own = partial(arithmetic, plan.model, plan.common_gpu)
    verifies = program.phase == DECODE and plan.speculate is not None
    made = build_model(plan.model, program.phase, own(), own, verifies=verifies)
    if plan.has_cached_prompts:
        made = evolve(made, sizes=tuple((n, n if n == "context" else s) for n, s in made.sizes))
    elif plan.workload.encodes:
        made = evolve(made, regions=tuple(map(_keep_nothing, made.regions)))
    return evolve(made, mesh=program.mesh)


def _keep_nothing(region: Region) -> Region:
    """The region of a program whose requests end with the step that reads them: no step reads a cache."""
    ops = (evolve(op, transient=True) if isinstance(op, CacheWrite) else op for op in region.ops)
    return evolve(region, ops=tuple(ops))


def mesh_of(plan: PlanSpec) -> Mesh:
    """The mesh of a plan's ranks."""
    return Mesh(tuple((a.name, a.size) for a in plan.sharding.axes))


def build_model(
    model: ModelSpec, phase: str, compute: str, narrow: Callable[[str], str] | None = None, *, verifies: bool = False
) -> Program:
    """The program of a model by itself, whose GEMMs multiply in ``compute``.

    ``narrow`` gives the dtype to multiply in for weights that are stored in a dtype of their own. A program that
    ``verifies`` has ``queries`` tokens of each request in a decode step, and logits for all of them.
    """
    steps: tuple[tuple[str, int | str], ...] = (
        ("batch", "batch"),
        ("position", "input" if phase == PREFILL else "queries" if verifies else 1),
        ("context", "input" if phase == PREFILL else "context"),
    )
    stream = tensor(model.activations, (*TOKENS, *model.stream))
    imbalance: dict[Places, Skew] = {}
    experts = frozenset(_experts(model))
    handed = Handed.of(model)
    builder = partial(
        _Builder, model, phase, compute=compute, narrow=narrow, imbalance=imbalance, experts=experts, handed=handed
    )
    regions = [_embedding(model, stream) if model.entry is None else builder().entry(model.entry)]
    regions += [builder().block(b, stream, len(model.blocks) > 1) for b in model.blocks]
    regions.append(builder().head(stream, model.causal and not verifies))
    if model.merged > 1:
        steps = (*steps, (Merged("position", model.merged), dict(steps)["position"]))
    steps = (*steps, *_tails(model), *_picks(model), *(((MOMENTS, 2),) if _has(model, "excess") else ()))
    sizes = (*steps, *model.sizes, *((place, model.size(place.experts)) for place in imbalance))
    return Program(model.name, phase, Mesh(), sizes, tuple(regions), imbalance=tuple(imbalance.items()))


def _tails(model: ModelSpec) -> Iterable[tuple[str, int]]:
    """The dimensions of the tokens that convolutions keep, which most models lack."""
    if not model.taps:
        return ()
    from plandsl.passes.states import tails

    return tails(model).items()


def _has(model: ModelSpec, fn: str) -> bool:
    return any(isinstance(t, Apply) and t.fn == fn for term in model.terms for t in walk(term))


def _picks(model: ModelSpec) -> Iterable[tuple[str, int]]:
    """The dimensions of the keys that queries pick, which few models have."""
    if not model.choices:
        return ()
    from plandsl.passes.index import picked_dims

    return picked_dims(model)


def _embedding(model: ModelSpec, stream: TensorType) -> Region:
    vocab, *rest = model.embedding.dims
    stored = with_inputs(model.format_of(model.embedding.name, EMBEDDING), prod(map(model.size, rest)))
    table = Value(model.embedding.name, tensor(stored, (vocab, *rest)))
    names = Names((table.name,))
    ids, out = Value(names.fresh("ids"), tensor("int32", TOKENS)), Value(names.fresh("x"), stream)
    op = Embed(out, ids, table, span=model.embedding.span)
    return Region(EMBEDDING, None, args=(ids,), weights=(table,), ops=(op,), results=(out,))


class Handed(NamedTuple):
    """What blocks make for later layers: values by name, caches by the names of keys and values, and their types."""

    values: tuple[str, ...]
    caches: tuple[tuple[str, str], ...]
    types: dict[str, TensorType]

    @classmethod
    def of(cls, model: ModelSpec) -> Handed:
        """What the layers of ``model`` take from earlier ones; nothing has a type yet."""
        return cls(values_handed(model), caches_handed(model), {})


class _Builder:
    """Turns the terms of one region into ops, innermost first."""

    def __init__(
        self,
        model: ModelSpec,
        phase: str,
        compute: str,
        narrow: Callable[[str], str] | None,
        imbalance: dict[Places, Skew],
        experts: frozenset[str],
        handed: Handed,
    ) -> None:
        self.model, self.phase, self.compute, self.narrow, self.imbalance = model, phase, compute, narrow, imbalance
        self.experts, self.handed = experts, handed
        self.region: str = HEAD
        self.inside: str | None = None  # inside `experts`: its option `weights`, or ""
        self.names = Names()
        self.ops: list[Op] = []
        self.weights: dict[str, Value] = {}
        self.variables: dict[str, Value] = {}
        self.groups: dict[str, tuple[Value, ...]] = {}
        self.choices: dict[str, Choice] = {}
        self.taken: dict[str, Value] = {}  # from earlier layers
        self.picked: dict[str, Value] = {}  # what attention made of the choices
        self.cached: dict[tuple[str, ...], tuple[Value, Value]] = {}  # caches, by the names of keys and values
        self.caches = 0
        self.convolves = False
        self.rows: Value | None = None  # in the embedding: what tokens pick of the table

    def block(self, block: BlockSpec, stream: TensorType, named: bool) -> Region:
        """One block, repeated over its layers."""
        self.region = block.name
        x = self._argument(block.arg, stream)
        if block.token:  # it has the shape of the hidden state; a program of its own passes one value for both
            self.variables[block.token] = x
        for statement in block.statements:
            self._statement(statement)
        out, name = self.variables[block.arg], block_name(block.name if named else "")
        region = self._region(name, block.layers, x, out, block.statements)
        return region if block.every == region.every else evolve(region, every=block.every)

    def _hand_on(self, statements: Iterable[Statement]) -> dict[str, Value]:
        """What later layers take of what the ``statements`` make, by name."""
        made = {s.target for s in statements} if self.handed.values or self.handed.caches else set()
        found = {n: self.picked.get(n) or self.variables[n] for n in self.handed.values if n in made}
        for k, v in self.handed.caches:
            if k in made and v in made:
                found |= zip((cached(k), cached(v)), self.cached[k, v], strict=True)
        for name, value in found.items():
            self.handed.types.setdefault(name, value.type)
        return found

    def entry(self, term: Term) -> Region:
        """What happens before the first layer, where it is more than picking rows of a table."""
        self.region = EMBEDDING
        if self.model.reads_patches:
            patches = self._argument(PATCHES, tensor(self.model.activations, (*TOKENS, self.model.embedding.dims[0])))
            return self._region(EMBEDDING, None, patches, self._term(term, "x"))
        ids = self._out("ids", tensor("int32", TOKENS))
        table = self._table(self.model.embedding)
        self.rows = self._embed(ids, table, "x", self.model.embedding)
        for statement in self.model.prelude:
            self._statement(statement)
        return self._region(EMBEDDING, None, ids, self._term(term, "x"), self.model.prelude)

    def head(self, stream: TensorType, last_alone: bool) -> Region:
        """The head, on the last token of each request (``last_alone``) or on all tokens."""
        argument = _first_variable(self.model.head) or "x"
        x = self._argument(argument, stream)
        if last_alone:
            last = Value(self.names.fresh(argument), tensor(stream.dtype, ("batch", *stream.names[2:])))
            self.ops.append(LastToken(last, x))
            self.variables[argument] = last
        logits = self._term(self.model.head, "logits")
        return self._region(HEAD, None, x, logits)

    def _argument(self, name: str, stream: TensorType) -> Value:
        x = Value(self.names.fresh(name), stream)
        self.variables[name] = x
        return x

    def _region(
        self,
        name: RegionName,
        layers: tuple[int, int] | None,
        x: Value,
        out: Value,
        statements: Iterable[Statement] = (),
    ) -> Region:
        weights, ops, handed = tuple(self.weights.values()), tuple(self.ops), self._hand_on(statements)
        results = (out, *handed.values())
        if self.convolves:
            from plandsl.passes.states import apply_functions

            ops = apply_functions(ops, results)
        return Region(name, layers, args=(x,), weights=weights, ops=ops, results=results, gives=tuple(handed))

    def _statement(self, statement: Statement) -> None:
        if isinstance(statement.term, Apply) and statement.term.fn in ("query", "latent"):
            self.groups[statement.target] = self._group(statement.term, statement.target)
        elif isinstance(statement.term, Apply) and statement.term.fn == INDEX:
            self.choices[statement.target] = self._choice(statement.term)
        else:
            self.variables[statement.target] = self._term(statement.term, statement.target)

    def _term(self, term: Term, name: str) -> Value:
        match term:
            case Var():
                return self.variables[term.name]
            case Weight() if self.rows is not None and term.name == self.model.embedding.name:
                return self.rows
            case Weight():
                return self._kept(term)
            case Apply():
                return self._apply(term, name)
            case _:
                assert_never(term)

    def _kept(self, weight: Weight) -> Value:
        """A weight that is kept in the format of activations unless `stored` names it: a bias, a sink, a router."""
        named = self.model.named_format(weight.name, self.region)
        return self._weight(weight, named or self.model.activations, prod(map(self.model.size, weight.dims)))

    def _quantised(self, weight: Weight, inputs: Iterable[str]) -> Value:
        """A weight in its own format, with ``inputs`` the dimensions that its GEMM sums over."""
        stored = self.model.format_of(weight.name, self.region, self.inside)
        return self._weight(weight, stored, prod(map(self.model.size, inputs)))

    def _weight(self, weight: Weight, stored: str, inputs: int) -> Value:
        name = weight.name
        if name not in self.weights:
            self.weights[name] = Value(self.names.fresh(name), tensor(with_inputs(stored, inputs), weight.dims))
        return self.weights[name]

    def _multiplies(self, w: Value) -> str:
        """The dtype in which a GEMM with ``w`` multiplies."""
        own = base_format(w.type.dtype)
        return self.compute if self.narrow is None or own == base_format(self.model.weights) else self.narrow(own)

    def _apply(self, term: Apply, name: str) -> Value:
        if term.fn == "matmul":
            return self._matmul(term, name)
        if term.fn in ("rms_norm", "layer_norm"):
            return self._norm(term, name)
        if term.fn == "attention":
            return self._attention(term, name)
        if term.fn == "experts":
            return self._experts(term, name)
        if term.fn == EARLIER:
            return self._earlier(name_of(term), term.span)
        if term.fn == "concat":
            return self._concat(term, name)
        if term.fn == "item":
            return self._item(term, name)
        if term.fn == "merge":
            return self._merge(term, name)
        if term.fn == "lookup":
            table = term.args[0]
            assert isinstance(table, Weight), "the grammar lets only weights be looked up"
            return self._embed(self._ids(str(term.option("by", "token"))), self._table(table), name, term)
        if term.fn in STATEFUL:
            return self._state(term, name)
        if term.fn in STREAMS:
            from plandsl.passes.streams import stream_ops

            self.ops += (ops := stream_ops(term, tuple(self._term(a, name) for a in term.args), name, self.names))
            return ops[-1].results[0]
        xs = tuple(self._term(a, name) for a in term.args)
        out = self._out(name, xs[0].type)
        if term.fn == "rope":
            self.ops.append(Rope((out,), xs, int(term.option("first", 0)) or None, span=term.span))
        elif term.fn == "scale":
            self.ops.append(Scale(out, xs[0], float(term.option("by", 1.0)), span=term.span))
        else:
            self.ops.append(Map(out, xs, term.fn, _limits(term), span=term.span))
        return out

    def _earlier(self, made: str, span: Span | None) -> Value:
        """What the last layer before this one made under a name, read once in a region."""
        if made not in self.taken:
            self.taken[made] = self._out(made, self.handed.types[made])
            self.ops.append(Earlier(self.taken[made], made, span=span))
        return self.taken[made]

    def _concat(self, term: Apply, name: str) -> Value:
        xs = tuple(self._term(a, name) for a in term.args)
        joined = tensor(xs[0].type.dtype, (*xs[0].type.names[:-1], str(term.option("into", ""))))
        out = self._out(name, joined)
        self.ops.append(Concat(out, xs, span=term.span))
        return out

    def _item(self, term: Apply, name: str) -> Value:
        x, over, at = self._term(term.args[0], name), str(term.option("over", "")), term.option("at", 0)
        out = self._out(name, tensor(x.type.dtype, (n for n in x.type.names if n != over)))
        self.ops.append(Item(out, x, over, None if at == LAYER else int(at), span=term.span))
        return out

    def _merge(self, term: Apply, name: str) -> Value:
        x = self._term(term.args[0], name)
        tokens, last = int(term.option("tokens", 1)), x.type.names[-1]
        rows = (Merged(n, tokens) if n == "position" else n for n in x.type.names[:-1])
        out = self._out(name, tensor(x.type.dtype, (*rows, str(term.option("into", last)))))
        self.ops.append(Merge(out, x, tokens, span=term.span))
        return out

    def _ids(self, of: str) -> Value:
        """Numbers of the step's tokens, made once in a region."""
        made = next((op.out for op in self.ops if isinstance(op, Ids) and op.of == of), None)
        if made is None:
            made = self._out("ids" if of == "token" else f"{of}s", tensor("int32", TOKENS))
            self.ops.append(Ids(made, of))
        return made

    def _table(self, table: Weight) -> Value:
        return self._quantised(table, table.dims[1:])

    def _embed(self, ids: Value, table: Value, name: str, term: Weight | Apply) -> Value:
        out = self._out(name, tensor(self.model.activations, (*TOKENS, *table.type.names[1:])))
        self.ops.append(Embed(out, ids, table, span=term.span))
        return out

    def _state(self, term: Apply, name: str) -> Value:
        from plandsl.passes.states import recurrence, short_conv

        self.convolves |= term.fn == "short_conv"
        make = short_conv if term.fn == "short_conv" else recurrence
        op = make(term, tuple(self._term(a, name) for a in term.args), name, self.model, self.names)
        self.ops.append(op)
        return op.results[0]

    def _out(self, name: str, type_: TensorType) -> Value:
        return Value(self.names.fresh(name), type_)

    def _matmul(self, term: Apply, name: str) -> Value:
        x = self._term(term.args[0], name)
        weight = term.args[1]
        assert isinstance(weight, Weight), "the grammar lets only weights stand on the right of `@`"
        here = {stem(n) for n in x.type.names}  # experts:8 of x is the same dimension as experts of the weight
        inside = bool(here.difference(x.type.names))
        router = not inside and not self.experts.isdisjoint(weight.dims)  # routers are not quantised
        inputs = (n for n in weight.dims if n in here and not (inside and n in self.experts))
        w = self._kept(weight) if router else self._quantised(weight, inputs)
        kept = [n for n in x.type.names if n not in w.type.names]
        out = self._out(name, tensor(self.model.activations, (*kept, *(n for n in w.type.names if n not in here))))
        unnamed = router and not self.model.named_format(weight.name, self.region)
        compute = self.model.activations if unnamed else self._multiplies(w)
        op = (GroupedGemm if inside else Gemm)((out,), x, (w,), compute, span=term.span)
        if router:
            self.ops.append(op)
        else:
            self._add_adapted([op])
        return out

    def _add_adapted(self, ops: list[Op]) -> None:
        """Add ``ops``, and beside their products with targets of `lora` the products of adapters."""
        lora = self.model.lora
        if lora is not None:
            from plandsl.passes.adapters import adapt_targets

            ops, matrices = adapt_targets(ops, self.weights, lora, self.names)
            self.weights |= {value.name: value for value in matrices}
        self.ops += ops

    def _experts(self, term: Apply, name: str) -> Value:
        """Routing scores, the choice of experts, dispatch of the tokens, the experts' block, and the combination."""
        x = self._term(term.args[0], name)
        logits, *biases = (self._term(argument, "logits") for argument in term.args[1:])
        top_k, of = int(term.option("top_k", 1)), logits.type.names[-1]
        place = Places(of, top_k)
        own = read_skew(term.option("imbalance", 1.0))
        self.imbalance[place] = max(self.imbalance.get(place, own), own, key=factor)
        gates = self._out("gates", tensor(logits.type.dtype, (*logits.type.names[:-1], place)))
        score, scale = str(term.option("score", "softmax")), float(term.option("scale", 1.0))
        normalize, bias = bool(term.option("normalize", True)), biases[0] if biases else None
        self.ops.append(
            TopK(gates, logits, bias, top_k=top_k, score=score, normalize=normalize, scale=scale, span=term.span)
        )
        inside = self._out(
            x.name, tensor(x.type.dtype, (*gates.type.names, *x.type.names[len(gates.type.names) - 1 :]))
        )
        early = term.option("weigh", "result") == "input"
        self.ops.append(Dispatch(inside, x, gates, early, span=term.span))
        y = self._body(term, inside, name)
        out = self._out(name, tensor(y.type.dtype, (n for n in y.type.names if n != place)))
        self.ops.append(Combine(out, y, gates, early, span=term.span))
        return out

    def _body(self, term: Apply, inside: Value, name: str) -> Value:
        """The block of an `experts` call, which has its own scope of names."""
        assert isinstance(term.args[0], Var), "the grammar wants a name for what goes to the experts"
        outer, self.variables = self.variables, {term.args[0].name: inside}
        self.inside = str(term.option("weights", ""))
        *statements, result = term.body
        for statement in statements:
            self._statement(statement)
        y = self._term(result.term, name)
        self.variables, self.inside = outer, None
        return y

    def _norm(self, term: Apply, name: str) -> Value:
        x = self._term(term.args[0], name)
        over = str(term.option("over", x.type.names[-1]))
        gain = None
        if term.option("gain", "") != "none":
            # gains have no name in the language: each norm has its own
            stored = self.model.named_format(GAINS, self.region) or self.model.activations
            gain = Value(self.names.fresh(f"gain_{name}"), tensor(stored, (over,)))
            self.weights[gain.name] = gain
        out = self._out(name, x.type)
        groups = str(term.option("groups", "")) or None
        self.ops.append(Norm(out, x, gain, term.fn, over, groups=groups, span=term.span))
        return out

    def _attention(self, term: Apply, name: str) -> Value:
        cache = f"kv{self.caches or ''}"
        self.caches += 1
        among, scores = None, self._scores(term)
        if term.option(AMONG, False):
            from plandsl.passes.index import pick_keys

            *args, choice = term.args
            term = term._replace(args=tuple(args))
            if taken := name_of(choice):
                among = self._earlier(taken, choice.span)
            else:
                among = pick_keys(self._choice(choice), scores, self.ops, self.names)
            if isinstance(choice, Var):
                self.picked[choice.name] = among
        if len(term.args) == 2:
            return self._latent(term, name, cache, among)
        if shares_keys(term):
            names = (cached(name_of(a)) for a in term.args[1:3])
            keys, values = (self._earlier(made, term.span) for made in names)
            q, *sinks = (self._term(a, name) for a in (term.args[0], *term.args[3:]))
        else:
            q, k, v, *sinks = (self._term(a, name) for a in term.args)
            keys, values = (
                self._out(wish, tensor(self.model.kv_cache, ("batch", "context", *x.type.names[2:])))
                for wish, x in (("keys", k), ("values", v))
            )
            self.ops.append(CacheWrite((keys, values), (k, v), cache, span=term.span))
            self.cached[tuple(a.name for a in term.args[1:3] if isinstance(a, Var))] = keys, values
        out = self._out(name, tensor(q.type.dtype, (*q.type.names[:-1], values.type.names[-1])))
        sink = sinks[0] if sinks else None
        self.ops.append(Attention(out, q, keys, values, sinks=sink, among=among, **scores, span=term.span))
        return out

    def _scores(self, term: Apply) -> Scores:
        return Scores(
            causal=bool(term.option("causal", self.model.causal)),
            window=int(term.option("window", 0)),
            chunk=int(term.option("chunk", 0)) or None,
            softcap=float(term.option("softcap", 0.0)) or None,
            alibi=bool(term.option("alibi", False)),
        )

    def _choice(self, term: Term) -> Choice:
        """An `index`, written in place or bound to a name before."""
        if not isinstance(term, Apply):
            assert isinstance(term, Var), "the grammar lets no weight stand here"
            return self.choices[term.name]
        from plandsl.passes.index import cache_keys

        return cache_keys(term, tuple(self._term(a, "index") for a in term.args), self.model, self.names)

    def _latent(self, term: Apply, name: str, cache: str, among: Value | None) -> Value:
        """`attention(query(qn, qr), latent(c, kr, w_uk, w_uv))`."""
        from plandsl.passes.latent import Latent, latent_attention

        (qn, qr), (c, kr, w_uk, w_uv) = (self._group(a, name) for a in term.args)
        scores = self._scores(term)
        operands = Latent((qn, qr), (c, kr), (w_uk, w_uv), cache=cache, scores=scores, among=among, span=term.span)
        ops = latent_attention(
            operands, name, self.phase, stored=self.model.kv_cache, compute=self._multiplies, names=self.names
        )
        out = ops[-1].results[0]
        self._add_adapted(ops)
        return out

    def _group(self, term: Term, name: str) -> tuple[Value, ...]:
        """The tensors of `query(...)` or `latent(...)`, written in place or bound to a name before."""
        if not isinstance(term, Apply):
            assert isinstance(term, Var), "the grammar lets no weight stand here"
            return self.groups[term.name]
        return tuple(
            self._quantised(a, a.dims[:1]) if isinstance(a, Weight) else self._term(a, name) for a in term.args
        )


def _limits(term: Apply) -> str | None:
    """The limits of `clamp(x, low = ..., high = ...)` and `x + 1`; None for other calls."""
    options = {name: float(value) for name, value in term.options}
    return show_limits([Limit(options.get("low", -inf), options.get("high", inf), options.get("by", 0.0))])


def _experts(model: ModelSpec) -> Iterator[str]:
    """The names of a model's dimensions of experts."""
    terms = [model.head, *(s.term for b in model.blocks for s in b.statements)]
    while terms:
        term = terms.pop()
        if isinstance(term, Apply):
            terms += term.args
            yield from (w.dims[0] for s in term.body for w in walk(s.term) if isinstance(w, Weight))


def _first_variable(term: Term) -> str | None:
    match term:
        case Var():
            return term.name
        case Weight():
            return None
        case Apply():
            return next((found for a in term.args if (found := _first_variable(a))), None)
        case _:
            assert_never(term)
