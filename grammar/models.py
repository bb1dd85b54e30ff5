"""Reads models: from a record to sizes, storage types, and the program as terms."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.earlier import Handing, check_handed, check_items
from plandsl.grammar.embeddings import EXAMPLE, Entry, read_embedding
from plandsl.grammar.functions import Scope, Typed, dims_text
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.stored import parts_of, read_stored
from plandsl.grammar.terms import Seen, Terms
from plandsl.grammar.values import whole
from plandsl.ir.names import Merged
from plandsl.spec.earlier import BEFORE
from plandsl.spec.model import (
    STEP_DIMENSIONS,
    Apply,
    BlockSpec,
    Every,
    LoraSpec,
    ModelSpec,
    Term,
    Weight,
    walk,
)

DTYPES = ("weights", "activations", "kv_cache", "state_cache", "index_cache", "compute")
FIELDS = ("layers", "max_context", "causal", "source", "stored", "lora", "tower", *DTYPES)

_EXAMPLES = {
    "embedding": EXAMPLE,
    "block": "block x[tokens, hidden] { ... }",
    "head": "head rms_norm(x) @ w_head[hidden, vocab]",
}


def model_spec(context: Context, record: Record) -> ModelSpec | None:
    """A model, with its program checked."""
    reader = Reader(context, record, None)
    layers = reader.whole("layers", "layers = 80", most=limits.MAX_LAYERS)
    sizes = _sizes(reader)
    weights = reader.stored("weights", "weights = bf16")
    activations = reader.dtype("activations") or "bf16"
    kv_cache = reader.dtype("kv_cache") or activations
    state_cache = reader.dtype("state_cache") or ""
    index_cache = reader.stored("index_cache") if "index_cache" in record.fields else None
    compute = reader.dtype("compute")
    max_context = reader.whole("max_context")
    causal = reader.flag("causal", True)
    source = reader.source()
    program = _Program(reader, sizes, causal)
    entry = program.embedding()
    blocks = program.blocks(layers)
    mtp = program.mtp()
    head = program.head()
    _warn_unused(reader, program.used)
    all_blocks = [*blocks, mtp] if mtp else blocks
    ends = [t for t in (entry and entry.term, head) if t] + [s.term for s in (entry.prelude if entry else ())]
    stored = _stored(reader, entry.table if entry else None, all_blocks, ends)
    alone = [*ends, *(st.term for st in (mtp.statements if mtp else ()))]
    for wrong in check_items(blocks, alone, layers or 0, sizes):
        reader.fail(wrong)
    lora = _lora(reader, all_blocks, sizes)
    tower = _tower(reader, entry.dims[-1] if entry else None, sizes)
    if not reader.ok or layers is None or weights is None or entry is None or head is None:
        return None
    return ModelSpec(
        name=record.name,
        layers=layers,
        sizes=tuple(sizes.items()),
        weights=weights,
        activations=activations,
        kv_cache=kv_cache,
        compute=compute,
        embedding=entry.table,
        blocks=tuple(blocks),
        head=head,
        causal=causal,
        max_context=max_context,
        mtp=mtp,
        entry=entry.term,
        prelude=entry.prelude,
        stream=entry.dims[1:],
        source=source,
        stored=stored,
        lora=lora,
        tower=tower,
        state_cache=state_cache,
        index_cache=index_cache or "",
        span=record.span,
    )


def _lora(reader: Reader, blocks: list[BlockSpec], sizes: dict[str, int]) -> LoraSpec | None:
    """The adapters of a model, which few have."""
    if not reader.ok or "lora" not in reader.record.fields:
        return None
    from plandsl.grammar.lora import lora_spec

    return lora_spec(reader, blocks, sizes)


def _tower(reader: Reader, width: str | None, sizes: dict[str, int]) -> ModelSpec | None:
    """The encoder of images, which few models have."""
    if "tower" not in reader.record.fields:
        return None
    from plandsl.grammar.towers import tower_spec

    return tower_spec(reader, width if reader.ok else None, sizes)


def _stored(
    reader: Reader, embedding: Weight | None, blocks: list[BlockSpec], ends: list[Term]
) -> tuple[tuple[str, str], ...]:
    if embedding is None or not reader.ok or "stored" not in reader.record.fields:
        return ()
    return read_stored(reader, parts_of(embedding, blocks, ends))


def _sizes(reader: Reader) -> dict[str, int]:
    """The dimensions and their sizes. A wrong size reads as 0, which later checks ignore."""
    sizes: dict[str, int] = {}
    for name, layers in reader.record.fields.items():
        layer = layers[-1]
        if name in FIELDS:
            continue
        if isinstance(layer.value, Record):
            reader.report_unknown(layer.name, FIELDS)
        elif name in STEP_DIMENSIONS:
            message = f"a model cannot give the size of `{name}`"
            hint = "it follows from the workload" if name != "position" else "rename this dimension"
            reader.fail(Wrong("E206", message, layer.name.span, hint=hint))
        else:
            sizes[name] = reader.attempt(partial(_size, reader, layer)) or 0
    return sizes


def _size(reader: Reader, layer: Layer) -> int:
    value = layer.value
    if isinstance(value, s.Str) or (isinstance(value, s.Ref) and _is_undeclared(reader, value, layer.unit)):
        hint = reader.context.library.suggest(layer.name.text, iter(FIELDS))
        message = f"{reader.title} has no field `{layer.name.text}`, and a dimension is a whole number"
        raise Wrong("E206", message, layer.name.span, hint=hint)
    return whole(reader.value(layer), layer, 1, limits.MAX_DIMENSION)


def _is_undeclared(reader: Reader, ref: s.Ref, unit: Unit) -> bool:
    return ref.name not in reader.record.fields and not reader.context.library.find_let(ref.name, unit)


def _warn_unused(reader: Reader, used: set[str]) -> None:
    for name, layers in reader.record.fields.items():
        if reader.ok and name not in FIELDS and name not in used:
            others = (n for n in reader.record.fields if n != name)
            hint = reader.context.library.suggest(name, others)
            hint = hint if hint.startswith("did") else "remove it, or use it in a weight"
            message = f"nothing in the model uses the dimension `{name}`"
            reader.context.library.record(Wrong("W202", message, layers[-1].name.span, hint=hint))


class _Covering(NamedTuple):
    """A block, and the layers that it covers."""

    block: s.Block
    unit: Unit
    layers: tuple[int, int]
    every: Every = Every()


class _Program:
    """The embedding, the blocks and the head of one model."""

    def __init__(self, reader: Reader, sizes: dict[str, int], causal: bool) -> None:
        self.reader = reader
        self.sizes = sizes
        self.causal = causal
        self.context = reader.context
        self.placed = reader.record.items()
        self.used: set[str] = set()
        self._outer = self._terms(reader.record.unit)  # the embedding and the head share their weights
        self._hidden: tuple[str, ...] | None = None
        self._arg: tuple[str, tuple[str, ...]] | None = None
        self._handing = Handing()
        self._read: list[tuple[Terms, str]] = []

    def _terms(self, unit: Unit) -> Terms:
        return Terms(Scope(self.context, self.reader.record, unit, self.sizes))

    def _single_item(
        self, kind: type[s.Embedding] | type[s.Head] | type[s.Mtp], word: str
    ) -> s.Embedding | s.Head | s.Mtp | None:
        found = [placed.item for placed in self.placed if isinstance(placed.item, kind)]
        for again in found[1:]:
            labels = (Label(found[0].span, "first given here"),)
            self.reader.fail(Wrong("E202", f"a model has one `{word}`", again.span, labels=labels))
        if not found and word in _EXAMPLES:
            self.reader.report_missing(word, _EXAMPLES[word])
        return found[0] if found else None

    def embedding(self) -> Entry | None:
        """The table that turns token ids into vectors, and all that happens before the first layer."""
        item = self._single_item(s.Embedding, "embedding")
        if not isinstance(item, s.Embedding):
            return None
        terms = self._terms(self.reader.record.unit)
        terms.weights = self._outer.weights
        found = self.reader.attempt(lambda: read_embedding(item, terms))
        self.reader.ok &= not terms.failed
        if found is not None:
            self._hidden = found.dims[1:]
            if found.prelude:
                self._handing.enter(terms, "embedding", BEFORE, "")
                self._read.append((terms, ""))
        return found

    # ---- blocks

    def blocks(self, layers: int | None) -> list[BlockSpec]:
        """The blocks in the order of their layers, which they must cover without gap or overlap."""
        blocks = [(p.item, p.unit) for p in self.placed if isinstance(p.item, s.Block)]
        if not blocks:
            self.reader.report_missing("block", _EXAMPLES["block"])
        placed = []
        self._check_names([block for block, _ in blocks])
        for block, unit in blocks:
            found = self.reader.attempt(partial(self._layer_range, block, unit, layers))
            if found is not None:
                placed.append(_Covering(block, unit, *found))
        if layers is not None and len(placed) == len(blocks):
            placed = self._fill_rest(placed, layers)
            placed.sort(key=lambda p: p.layers)
            check = self._check_cover if all(p.every.period == 1 for p in placed) else self._check_each
            check(placed, layers)
        placed.sort(key=lambda p: p.layers)
        specs = [spec for n, p in enumerate(placed) if (spec := self._block(p, n, len(placed)))]
        for terms, arg in self._read:
            terms.unread = {name: span for name, span in terms.unread.items() if name not in self._handing.taken}
            terms.warn_unused(arg)
        if self._handing.taken and len(specs) == len(blocks):
            for wrong in check_handed(specs):
                self.reader.fail(wrong)
        return specs

    def _check_names(self, blocks: list[s.Block]) -> None:
        seen: dict[str, s.Name] = {}
        for block in blocks:
            if block.name and block.name is not seen.setdefault(block.name.text, block.name):
                labels = (Label(seen[block.name.text].span, "first given here"),)
                message = f"block `{block.name.text}` is given twice"
                self.reader.fail(Wrong("E202", message, block.name.span, labels=labels))

    def _fill_rest(self, placed: list[_Covering], layers: int) -> list[_Covering]:
        """Give the one block that names no layers the layers that no other block names."""
        silent = [p for p in placed if not p.block.attributes]
        if len(silent) != 1 or len(placed) == 1:
            return placed
        named = {n for p in placed if p is not silent[0] for n in p.every.select(p.layers)}
        left = [n for n in range(layers) if n not in named]
        if not left:
            labels = tuple(Label(_layers_span(p.block), "named here") for p in placed if p is not silent[0])
            message = "no layer is left for this block: the other blocks name all layers"
            self.reader.fail(Wrong("E215", message, silent[0].block.arg.span, labels=labels[:3]))
            return [p for p in placed if p is not silent[0]]
        span, every = Every.from_layers(left)
        rest = silent[0]._replace(layers=span, every=every)
        return [rest if p is silent[0] else p for p in placed]

    def _layer_range(self, block: s.Block, unit: Unit, layers: int | None) -> tuple[tuple[int, int], Every]:
        found, every = None, Every()
        for field in block.attributes:
            if field.name.text != "layers":
                message = f"a block has no attribute `{field.name.text}`"
                raise Wrong("E206", message, field.name.span, hint="`block name [layers = 0..3] x[...] { ... }`")
            if found is not None:
                raise Wrong("E202", "`layers` is given twice", field.name.span)
            if isinstance(field.value, s.Seq) and field.value.items:
                found, every = Every.from_layers(self._listed(field.value, unit))
                continue
            if not isinstance(field.value, s.Range) or field.value.by:
                hint = "`layers = 0..3`, `layers = 0..36 by 2`, or `layers = [5, 12, 19]`"
                raise Wrong("E215", "expected a range of layers", field.value.span, hint=hint)
            found = self._bound(field.value.lo, unit), self._bound(field.value.hi, unit)
            if found[0] >= found[1]:
                hint = "`a..b` excludes `b`"
                raise Wrong("E215", f"no layer is in {found[0]}..{found[1]}", field.value.span, hint=hint)
            if field.value.step is not None:
                value = self.context.evaluator.value(field.value.step, unit, self.reader.record)
                step = whole(value, Layer(field.name, field.value.step, unit), 1, limits.MAX_LAYERS)
                every = Every(step, (found[0] % step,))
        if found is None:
            return (0, layers or 1), every
        return Every.from_layers(every.select(found)) if every.period > 1 else (found, every)

    def _listed(self, layers: s.Seq, unit: Unit) -> list[int]:
        """The layers of ``[5, 12, 19]``, in order, each once."""
        found = [self._bound(item, unit) for item in layers.items]
        for number, (layer, item) in enumerate(zip(found, layers.items, strict=True)):
            if layer in found[:number]:
                raise Wrong("E215", f"layer {layer} is listed twice", item.span, hint="leave one of the two out")
        return sorted(found)

    def _bound(self, expr: s.Expr, unit: Unit) -> int:
        value = self.context.evaluator.value(expr, unit, self.reader.record)
        return whole(value, Layer(s.Name("layers", expr.span), expr, unit), 0, limits.MAX_LAYERS)

    def _check_cover(self, placed: list[_Covering], layers: int) -> None:
        at = 0
        before: s.Block | None = None
        for block, _, (lo, hi), _ in placed:
            span = _layers_span(block)
            if lo > at:
                self.reader.fail(Wrong("E215", f"no block covers layers {at}..{lo}", span))
            elif lo < at and before:
                labels = (Label(_layers_span(before), "this block covers them too"),)
                message = f"layers {lo}..{min(at, hi)} have two blocks"
                hint = "" if block.attributes else "say which layers it covers: `block [layers = 0..3] x[...]`"
                self.reader.fail(Wrong("E215", message, span, labels=labels, hint=hint))
            if hi > layers:
                message = f"this block ends at layer {hi}, but the model has {layers} layers"
                self.reader.fail(Wrong("E215", message, span))
            at, before = max(at, hi), block
        if placed and at < layers:
            message = f"no block covers layers {at}..{layers}"
            self.reader.fail(Wrong("E215", message, _layers_span(placed[-1].block)))

    def _check_each(self, placed: list[_Covering], layers: int) -> None:
        """`_check_cover` layer by layer, for blocks whose layers alternate."""
        owners: dict[int, s.Block] = {}
        for block, _, (first, stop), every in placed:
            span = _layers_span(block)
            if stop > layers:
                message = f"this block covers layer {stop - 1}, but the model has {layers} layers"
                self.reader.fail(Wrong("E215", message, span))
            mine = every.select((first, stop))
            twice = next((n for n in mine if n in owners), None)
            if twice is not None:
                labels = (Label(_layers_span(owners[twice]), "this block covers it too"),)
                self.reader.fail(Wrong("E215", f"layer {twice} has two blocks", span, labels=labels))
            owners |= dict.fromkeys(mine, block)
        bare = next((n for n in range(layers) if n not in owners), None)
        if bare is not None:
            hint = "one block may leave `layers` out: it covers the layers that no other block names"
            self.reader.fail(Wrong("E215", f"no block covers layer {bare}", _layers_span(placed[-1].block), hint=hint))

    def _block(self, placed: _Covering, number: int, count: int) -> BlockSpec | None:
        block = placed.block
        name = block.name.text if block.name else "block" if count == 1 else f"block{number}"
        spec = BlockSpec(name, placed.layers, block.arg.name.text, (), span=block.span, every=placed.every)
        terms = self._terms(placed.unit)
        terms.handing, terms.first_layer = self._handing, placed.layers[0]
        found = self._read_statements(spec, block, terms)
        self.reader.attempt(lambda: self._handing.enter(terms, name, placed.layers[0], spec.arg))
        return found

    def mtp(self) -> BlockSpec | None:
        """The block that predicts the token after the next one; None if the model has none."""
        item = self._single_item(s.Mtp, "mtp")
        if not isinstance(item, s.Mtp):
            return None
        unit = next(p.unit for p in self.placed if p.item is item)
        spec = BlockSpec("mtp", (0, 1), item.arg.name.text, (), item.span, token=item.token.name.text)
        found = self._read_statements(spec, item, terms := self._terms(unit))
        if not terms.failed:
            terms.warn_unused(spec.arg)
        return found

    def _read_statements(self, spec: BlockSpec, block: s.Block | s.Mtp, terms: Terms) -> BlockSpec | None:
        """``spec`` with the statements of ``block``, checked."""
        arg = spec.arg
        dims = tuple(name.text for name in block.arg.dims)
        if not self.reader.attempt(lambda: self._check_arg(terms, block.arg, dims)):
            return None
        start = terms.bind(arg, dims, block.arg.span)
        if isinstance(block, s.Mtp) and not self.reader.attempt(lambda: self._bind_token(terms, block, dims)):
            return None
        statements = tuple(terms.statements(block.body.items))
        merge = next((t for st in statements for t in walk(st.term) if isinstance(t, Apply) and t.fn == "merge"), None)
        if merge is not None:
            why = "`merge` stands in the head: a block keeps all tokens"
            self.reader.fail(Wrong("E548", why, merge.span, hint="`head merge(x, tokens = 4, into = merged) @ ...`"))
            return None
        self.used |= {dim for seen in terms.weights.values() for dim in seen.dims or ()} | set(dims)
        end = terms.values[arg]
        if end is start and not terms.failed:
            hint = f"a block ends with `{arg} = {arg} + ...`"
            self.reader.fail(Wrong("E213", f"this block never changes `{arg}`", block.arg.span, hint=hint))
        elif end.dims is not None and end.dims != dims:
            message = f"the block leaves `{arg}` as {dims_text(end.dims)}"
            labels = (Label(block.arg.span, f"it came as {dims_text(dims)}"),)
            self.reader.fail(Wrong("E213", message, end.span, labels=labels))
        elif not terms.failed and isinstance(block, s.Block):
            self._read.append((terms, arg))
        self.reader.ok &= not terms.failed
        return spec._replace(statements=statements)

    def _bind_token(self, terms: Terms, mtp: s.Mtp, dims: tuple[str, ...]) -> bool:
        """Give an `mtp` the embedding of the token, which has the dimensions of its hidden state."""
        token = mtp.token
        if tuple(name.text for name in token.dims) != dims or token.name.text == mtp.arg.name.text:
            hint = f"`mtp x{dims_text(dims)} with e{dims_text(dims)} {{ ... }}`"
            message = "the two arguments of an `mtp` need the same dimensions, and different names"
            raise Wrong("E213", message, token.span, hint=hint)
        terms.values[token.name.text] = Seen(dims, token.span)
        return True

    def _check_arg(self, terms: Terms, arg: s.Index, dims: tuple[str, ...]) -> bool:
        if dims[0] != "tokens" or len(dims) < 2:
            hint = "`block x[tokens, hidden] { ... }`"
            raise Wrong("E213", "the first dimension of a block's argument must be `tokens`", arg.span, hint=hint)
        terms.check_dims(arg.dims[1:])
        if self._hidden and dims[1:] != self._hidden:
            given = dims_text(("tokens", *self._hidden))
            message = f"the argument of the block is {dims_text(dims)}, but the embedding gives {given}"
            raise Wrong("E213", message, arg.span)
        self._arg = arg.name.text, dims
        return True

    # ---- head

    def head(self) -> Term | None:
        """The term that computes logits from the result of the last block."""
        item = self._single_item(s.Head, "head")
        if not isinstance(item, s.Head) or self._arg is None:
            return None
        name, dims = self._arg
        rows = "batch" if self.causal else "tokens"
        terms = self._outer
        terms.bind(name, (rows, *dims[1:]), None)
        typed: Typed | None = terms.attempt(item.value)
        self.used |= {dim for seen in terms.weights.values() for dim in seen.dims or ()}
        if typed is not None and isinstance(typed.term, Weight):
            hint = f"`{_EXAMPLES['head']}`"
            message = "the head does not use the result of the blocks"
            self.reader.fail(Wrong("E213", message, item.span, hint=hint))
        elif typed is not None and typed.dims[0] not in (rows, *_merged_rows(typed)):
            message = f"the head leaves {dims_text(typed.dims)}, but it works on {dims_text((rows, *dims[1:]))}"
            self.reader.fail(Wrong("E213", message, item.span, hint=f"`{_EXAMPLES['head']}`"))
        self.reader.ok &= not terms.failed
        return typed.term if typed else None


def _merged_rows(typed: Typed) -> tuple[str, ...]:
    """The first dimension of a value whose tokens are merged; none of another one."""
    return typed.dims[:1] if isinstance(typed.dims[0], Merged) else ()


def _layers_span(block: s.Block) -> Span:
    return block.attributes[0].value.span if block.attributes else block.arg.span
