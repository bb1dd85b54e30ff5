"""A model: sizes, formats, and blocks of terms over named dimensions."""

from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple, TypeAlias

from attrs import Factory, evolve, field, frozen

from plandsl.diagnostics import Span
from plandsl.values import FrozenValue, once

STEP_DIMENSIONS = ("tokens", "batch", "position", "context", "layers")
"""Dimensions that the compiler knows without a declaration."""

EMBEDDING, HEAD, EXPERTS, ACTIVATIONS = "embedding", "head", "experts", "activations"
"""Regions that `stored` may name beside blocks and weights, and the word for the format of `activations`."""

GAINS = "gains"
"""What `stored` calls the gains of all norms, which have no names of their own."""

STATEFUL = ("short_conv", "recurrence")
"""Functions of the block language whose layers keep a state of fixed size for each request."""

STREAMS = ("stack", "spread", "mix", "match", "excess")
"""Functions of models with several residual streams, or with activations that few elements pass."""

INDEX, AMONG = "index", "among"
"""The function that picks keys for each query, and the option of `attention` that takes its result.

In a term of attention with the option, the last argument is the choice.
"""

EARLIER = "earlier"
"""The word before a value of an earlier layer, ``earlier.k``: an `Apply` without arguments, and the option ``name``."""

LAYER = "layer"
"""What `item` calls the number of the layer that runs: the value of its option ``at``, where that is no number."""

ADAPTERS, LORA_RANK = "adapters", "lora_rank"
"""Dimensions of the matrices of adapters."""


# ---- terms: the expressions of a model's block


class Var(NamedTuple):
    """A value that an earlier statement computes: ``x``, ``h``."""

    name: str
    span: Span | None = None


class Weight(NamedTuple):
    """A use of a parameter tensor: ``w_q[hidden, heads, head_dim]``."""

    name: str
    dims: tuple[str, ...]
    span: Span | None = None


class Apply(NamedTuple):
    """A function or operator of the block language: ``matmul add mul rms_norm rope silu attention ...``.

    ``body`` holds the statements that ``experts`` runs for each token and expert; the last statement has no target and
    gives the result. In weights of the body the first dimension is the dimension of the experts.
    """

    fn: str
    args: "tuple[Term, ...]"
    options: tuple[tuple[str, int | float | bool | str], ...] = ()
    span: Span | None = None
    body: "tuple[Statement, ...]" = ()

    def option(self, name: str, default: int | float | bool | str) -> int | float | bool | str:
        """The value of a keyword argument."""
        return dict(self.options).get(name, default)


Term: TypeAlias = "Var | Weight | Apply"


PATCHES = "patches"
"""What the embedding of a tower reads: the elements of each patch of an image."""


def looks_up_position(term: Apply) -> bool:
    """Whether ``term`` is a `lookup` of positions."""
    return term.fn == "lookup" and term.option("by", "token") == "position"


def walk(term: Term) -> Iterator[Term]:
    """A term and all terms inside it, without the bodies of `experts`."""
    yield term
    if isinstance(term, Apply):
        for argument in term.args:
            yield from walk(argument)


def inside_experts(terms: Iterable[Term]) -> Iterator[Weight]:
    """The weights in the bodies of `experts`."""
    for term in (inner for outer in terms for inner in walk(outer)):
        for statement in term.body if isinstance(term, Apply) else ():
            yield from (w for w in walk(statement.term) if isinstance(w, Weight))


class Statement(NamedTuple):
    """``target = term`` in a block."""

    target: str
    term: Term
    span: Span | None = None


class Every(NamedTuple):
    """A periodic choice of layers: layer n is chosen if ``n % period in at``.

    The default chooses all layers; ``Every(2, (1,))`` the odd ones.
    """

    period: int = 1
    at: tuple[int, ...] = (0,)

    @classmethod
    def from_layers(cls, layers: list[int]) -> "tuple[tuple[int, int], Every]":
        """The range from the first to the last of the ascending ``layers``, and the `Every` with the least period.

        The `Every` chooses exactly ``layers`` from the range.
        """
        span = layers[0], layers[-1] + 1
        for period in range(1, span[1] - span[0] + 1):
            every = cls(period, tuple(sorted({n % period for n in layers})))
            if every.count(span) == len(layers):
                return span, every
        raise AssertionError("with a period as long as the range, each layer has a remainder of its own")

    def select(self, layers: tuple[int, int]) -> list[int]:
        """The chosen layers in the range ``layers`` (half-open), in order."""
        if self.period == 1:
            return list(range(*layers))
        return [n for n in range(*layers) if n % self.period in self.at]

    def count(self, layers: tuple[int, int]) -> int:
        """The number of chosen layers in the range ``layers``."""
        first, stop = layers
        if self.period == 1:
            return stop - first
        return sum(len(range(first + (at - first) % self.period, stop, self.period)) for at in self.at)

    def clip(self, layers: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int] | None:
        """The range from the first to the last chosen layer in both ``layers`` and ``bounds``; None without any."""
        first, stop = max(layers[0], bounds[0]), min(layers[1], bounds[1])
        if self.period > 1:
            found = self.select((first, stop))
            first, stop = (found[0], found[-1] + 1) if found else (0, 0)
        return (first, stop) if first < stop else None

    def __str__(self) -> str:
        """The text after a range of layers: empty, `` by 2``, or `` by 6 at 0 1 2 3 4``."""
        if self.period == 1:
            return ""
        return f" by {self.period}" + (f" at {' '.join(map(str, self.at))}" if len(self.at) > 1 else "")


EVERY = Every()
"""All layers of a range."""


class BlockSpec(NamedTuple):
    """A block repeated over the layers of the range ``layers`` (first, one past the last) that ``every`` chooses.

    The block of an `mtp` has a second argument, ``token``: the embedding of a token.
    """

    name: str
    layers: tuple[int, int]
    arg: str
    statements: tuple[Statement, ...]
    span: Span | None = None
    every: Every = EVERY
    token: str = ""


class LoraSpec(NamedTuple):
    """Low-rank adapters (LoRA): ``x W`` becomes ``x W + (x A) B``, with ``A`` and ``B`` of each request's own adapter.

    ``targets`` are the weights ``W``; the dimensions `ADAPTERS` and `LORA_RANK` say how many adapters a GPU holds, and
    of which rank. ``active`` is the largest number of different ones in a batch. ``mix`` is what a plan's load says of
    them: pairs of (number of adapters, chance that a request names one of these); empty where it says nothing.

    An adapter that is on no GPU is loaded from host memory at ``host_bandwidth`` bytes/s for each GPU, in ``load_time``
    seconds besides. Host memory holds ``host_adapters``, or all (None); the others are read at ``disk_bandwidth``.
    """

    targets: tuple[str, ...]
    active: int
    host_bandwidth: float | None = None
    load_time: float = 0.0
    host_adapters: int | None = None
    disk_bandwidth: float | None = None
    mix: tuple[tuple[int, float], ...] = ()


@frozen(eq=False, repr=False, slots=False)
class ModelSpec(FrozenValue):
    """A model: sizes of its named dimensions, storage types, and its program as terms.

    ``embedding`` is the table of token ids. Where more happens before the first layer, ``entry`` is the whole term, in
    which that weight stands for the rows that tokens pick; ``prelude`` are the statements before that term.
    ``stream`` are the dimensions of what a token brings to each layer.
    ``mtp`` is the block that predicts the token after the next one; it runs only as a draft. ``stored`` holds the
    exceptions from ``weights``: a path (a weight, ``embedding``, ``head``, ``experts``, a block, or one of them in a
    block, as ``dense.w_q``) and the format of the weights that it names, or ``activations``. ``state_cache`` is the
    format of the states of recurrences, ``index_cache`` that of the keys of `index`; empty: that of activations.
    ``lora`` are the adapters that requests may have.
    ``tower`` is the encoder of images, whose results take the places of prompt tokens.
    """

    name: str
    layers: int
    sizes: tuple[tuple[str, int], ...]
    weights: str
    activations: str
    kv_cache: str
    compute: str | None
    embedding: Weight
    blocks: tuple[BlockSpec, ...]
    head: Term
    causal: bool = True
    max_context: int | None = None
    mtp: BlockSpec | None = None
    entry: "Term | None" = None
    prelude: tuple[Statement, ...] = ()
    stream: tuple[str, ...] = field(default=Factory(lambda self: self.embedding.dims[1:], takes_self=True))
    source: str = ""
    stored: tuple[tuple[str, str], ...] = ()
    state_cache: str = ""
    index_cache: str = ""
    lora: LoraSpec | None = None
    tower: "ModelSpec | None" = None
    span: Span | None = field(default=None, eq=False)

    def exception(self, paths: Iterable[str]) -> str:
        """The format that ``stored`` gives to the first of ``paths`` that it has; empty if it has none of them."""
        found = dict(self.stored)
        word = next((found[path] for path in paths if path in found), "")
        return self.activations if word == ACTIVATIONS else word

    def named_format(self, weight: str, region: str) -> str:
        """The format that ``stored`` gives to a weight of ``region`` by its name; empty if it names no such weight."""
        return self.exception((f"{region}.{weight}", weight))

    def format_of(self, weight: str, region: str, experts: str | None = None) -> str:
        """The format of a weight of ``region`` (a block, ``mtp``, `EMBEDDING` or `HEAD`) that a GEMM reads.

        ``experts``: the weight stands inside `experts`, whose option `weights` is this format, or empty.
        """
        if weight == self.embedding.name:
            region = EMBEDDING  # a head that is tied to the embedding has its format
        if found := self.named_format(weight, region):
            return found
        if experts is not None and (found := self.exception((f"{region}.{EXPERTS}", EXPERTS)) or experts):
            return found
        return self.exception((region,)) or self.weights

    @once
    def called(self) -> frozenset[str]:
        """The functions that the blocks call."""
        statements = (s for block in self.blocks for s in block.statements)
        return frozenset(part.fn for s in statements for part in walk(s.term) if isinstance(part, Apply))

    @once
    def formats(self) -> tuple[str, ...]:
        """Every format in which weights that GEMMs read are stored, each once."""
        options = (str(t.option("weights", "")) for b in self.blocks for s in b.statements for t in walk(s.term)
                   if isinstance(t, Apply) and t.fn == EXPERTS)  # fmt: skip
        stored = (self.exception((path,)) for path, _ in self.stored)
        return tuple(dict.fromkeys((self.weights, *filter(None, options), *stored)))

    @property
    def terms(self) -> Iterator[Term]:
        """The terms of the embedding, of the blocks and of the head."""
        yield from (s.term for s in self.prelude)
        yield self.entry or self.embedding
        yield from (s.term for b in self.blocks for s in b.statements)
        yield self.head

    @once
    def longest_position(self) -> tuple[int, str] | None:
        """The fewest positions that a table of the model has, and its weight; None where positions have no table."""
        tables = (t.args[0] for term in self.terms for t in walk(term) if isinstance(t, Apply) and looks_up_position(t))
        return min(((self.size(w.dims[0]), w.name) for w in tables if isinstance(w, Weight)), default=None)

    @once
    def stateful(self) -> tuple[Apply, ...]:
        """Every `short_conv` and `recurrence` of the embedding, the blocks and the head."""
        return tuple(t for term in self.terms for t in walk(term) if isinstance(t, Apply) and t.fn in STATEFUL)

    @once
    def choices(self) -> tuple[Apply, ...]:
        """Every `index` of the blocks."""
        return tuple(t for term in self.terms for t in walk(term) if isinstance(t, Apply) and t.fn == INDEX)

    @property
    def taps(self) -> list[Weight]:
        """The weight of each `short_conv`; its first dimension is the width."""
        weights = (t.args[1] for t in self.stateful if t.fn == STATEFUL[0])
        return [w for w in weights if isinstance(w, Weight)]

    @property
    def predictor(self) -> "ModelSpec | None":
        """The `mtp` as a model of one layer, with the embedding and the head of this model; None without `mtp`."""
        if self.mtp is None:
            return None
        return evolve(self, name=f"{self.name}_mtp", layers=1, blocks=(self.mtp,), mtp=None, lora=None, tower=None)

    @property
    def norm_groups(self) -> frozenset[str]:
        """The dimensions that say how many groups of heads a norm takes together."""
        calls = (t for term in self.terms for t in walk(term) if isinstance(t, Apply))
        return frozenset(str(t.option("groups", "")) for t in calls).difference(("",))

    @property
    def reads_patches(self) -> bool:
        """Whether the embedding reads patches of images, and not ids of tokens."""
        return self.entry is not None and any(isinstance(t, Var) and t.name == PATCHES for t in walk(self.entry))

    @once
    def merged(self) -> int:
        """The number of tokens of which the head makes one: of a tower, patches for each token of a prompt."""
        calls = (t for t in walk(self.head) if isinstance(t, Apply) and t.fn == "merge")
        return prod(int(t.option("tokens", 1)) for t in calls)

    @property
    def routed(self) -> bool:
        """Whether the model has routed experts."""
        return any(name == "experts" for name, _ in self.sizes)

    def size(self, dim: str) -> int:
        """Global size of a declared dimension."""
        return dict(self.sizes)[dim]
