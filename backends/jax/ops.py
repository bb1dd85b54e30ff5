"""Each op as the text of an expression over `jax.numpy` and `jax.lax`."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from string import ascii_letters
from typing import assert_never

from plandsl.backends.jax.layouts import Layouts, refuse, show_axes
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.chunks import Join, Split
from plandsl.ir.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Recv,
    ReduceScatter,
    Rescale,
    Reshard,
    Ring,
    Send,
    Slice,
)
from plandsl.ir.compute import (
    AddNorm,
    Attention,
    CacheWrite,
    Concat,
    Embed,
    Gemm,
    Ids,
    LastToken,
    Map,
    Merge,
    Norm,
    Quantize,
    Rope,
    Scale,
)
from plandsl.ir.earlier import Earlier, Item
from plandsl.ir.experts import Combine, Dispatch, TopK
from plandsl.ir.functions import GATES, LIMITING
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.limits import NONE, Limit, read_limits
from plandsl.ir.names import axes_of, stem
from plandsl.ir.norms import NormSums
from plandsl.ir.ops import Op
from plandsl.ir.states import BLOCKS, BlockState, BlockTail, Recurrence, ShortConv, States
from plandsl.ir.streams import Excess, Match, Mix, Moments, Spread, Stack
from plandsl.ir.types import Dim, TensorType, Value

SIGNS = {"add": "+", "sub": "-", "mul": "*"}
GATED = {gate: word for word, gate in GATES.items()}


class Writer:
    """Writes the ops of one region. ``names`` gives a value its name in the text."""

    def __init__(self, layouts: Layouts, names: Callable[[Value], str], prefix: str) -> None:
        self.layouts, self.names, self.prefix = layouts, names, prefix
        self.contexts: dict[str, tuple[str, ...]] = {}
        """The axes that split the context of the cache that a value comes from, by the value's name."""
        self.passing: set[str] = set()
        """The names of keys and values that no later step reads: a rank has those of its own part of the step."""

    def write(self, op: Op) -> list[str]:
        """The lines that compute the results of ``op``."""
        made = [v for v in op.results if "context" in v.type.names]
        for x in op.operands:
            if x.name in self.contexts:
                self.contexts |= {v.name: self.contexts[x.name] for v in made}
            if x.name in self.passing:
                self.passing |= {v.name for v in made}
        if isinstance(op, CacheWrite) and op.transient:
            self.passing |= {v.name for v in made}
        elif isinstance(op, CacheWrite):
            self.contexts |= {v.name: v.type.on("context") for v in made}
        texts = self._expressions(op)
        outs = [self.names(v) for v in op.results]
        if len(texts) != len(outs):  # one expression for all results
            lines = [f"{', '.join(outs)} = {text}" for text in texts if outs]
            return [*lines, *self._cast_state(op)] if isinstance(op, Recurrence) else lines
        lines = [f"{out} = {text}" for out, text in zip(outs, texts, strict=True)]
        if isinstance(op, CacheWrite) and not op.transient:
            lines.append(_keep(op.cache, outs))
        elif isinstance(op, States):
            lines.append(_keep(op.state, map(self.names, op.kept)))
        return lines

    def _expressions(self, op: Op) -> list[str]:
        """One expression for each result, or one for all. A chunk may have no rows, and then does not travel."""
        if isinstance(op, AllReduce | ReduceScatter | AllGather | AllToAll):
            text = self._exchange(op)
            chunk = any(d.chunk for d in op.x.type.dims)
            x = self.names(op.x)
            return [f"unless_empty({x}, lambda {x}: {text})"] if chunk else [text]
        match op:
            case Embed():
                return [cast(f"embed({self.names(op.ids)}, {self.names(op.table)}{self._first_row(op.table)})", op.out)]
            case Earlier():
                raise refuse(
                    f"its layers take `{op.made}` from earlier layers, and a scan over layers hands on one value"
                )
            case Moments():
                return [cast(f"moments(wide({self.names(op.x)}), {self._at(op.x, op.over)})", op.out)]
            case Stack() | Spread() | Mix() | Match() | Excess():
                raise refuse(f"`{op.keyword}` is not among the functions that programs in JAX have")
            case Item():
                if op.at is None:
                    raise refuse("layers take items by their numbers, and a scan over layers does not count them")
                return [f"jnp.take({self.names(op.x)}, {op.at}, axis={op.x.type.names.index(op.over)})"]
            case Ids():
                numbers = {"token": "ids", "type": "jnp.zeros_like(ids)"}
                return [numbers.get(op.of, "jnp.zeros_like(ids) + positions(ids.shape[1], past)")]
            case Norm():
                return [self._norm(op, f"wide({self.names(op.x)})", op.x.type, op.out, op.sums)]
            case NormSums():
                at = self._at(op.x, op.over)
                return [cast(f"norm_sums(wide({self.names(op.x)}), {at})", op.out)]
            case AddNorm():
                total = cast(f"{self.names(op.a)} + {self.names(op.b)}", op.sum)
                return [total, self._norm(op, f"wide({self.names(op.sum)})", op.a.type, op.out)]
            case TopK():
                return [self._top_k(op)]
            case Dispatch():
                weighs = ", weighs=True" if op.weighs else ""
                return [cast(f"dispatch({self.names(op.x)}, {self.names(op.gates)}{weighs})", op.out)]
            case Combine():
                gates = f"{self.names(op.gates)} != 0" if op.plain else self.names(op.gates)
                return [cast(f"combine({self.names(op.x)}, {gates})", op.out)]
            case Gemm():
                return [self._gemm(op, i) for i in range(len(op.weights))]
            case Rope():
                return [self._rope(op, x, out) for x, out in zip(op.xs, op.outs, strict=True)]
            case Map():
                return [cast(self._map(op), op.out)]
            case Concat():
                return [f"jnp.concatenate([{', '.join(map(self.names, op.xs))}], axis=-1)"]
            case Merge():
                at = self._at(op.x, "position")
                live = f"only_tokens({self.names(op.x)}, {at}, total - past)"
                return [cast(f"merge_tokens({live}, {at}, {op.tokens}, {op.joins})", op.out)]
            case Scale():
                return [cast(f"{self.names(op.x)} * {op.by!r}", op.out)]
            case Quantize():
                return [cast(self.names(op.x), op.out)]
            case CacheWrite():
                return self._cache_write(op)
            case Attention():
                return [self._attention(op)]
            case LatentAttention():
                return [self._latent_attention(op)]
            case PickKeys():
                w = "None" if op.w is None else f"wide({self.names(op.w)})"
                mask = self._mask(op, op.k)
                text = f"pick_keys(wide({self.names(op.q)}), wide({self.names(op.k)}), {w}, {mask}, {op.top_k})"
                return [cast(text, op.out)]
            case LastToken():
                at = self._at(op.x, "position")
                x = self.names(op.x)
                return [cast(f"last_token({x}, {at}, total - 1 - {self._positions(op.x)}[0])", op.out)]
            case Split():
                at, blocks = self._at(op.x, op.dim), self._blocks(op.x.type.dim(op.dim), axes_of(op.over))
                return [f"split({self.names(op.x)}, {at}, {blocks}, {len(op.outs)})"]
            case Join():
                dim = op.xs[0].type.dim(op.dim)
                over = dim.chunk.over if dim.chunk is not None else ()
                at = self._at(op.out, op.dim)
                return [f"join([{', '.join(map(self.names, op.xs))}], {at}, {self._blocks(dim, over)})"]
            case ShortConv():
                return [text for i in range(len(op.xs)) for text in self._short_conv(op, i)]
            case Recurrence():
                return [self._recurrence(op)]
            case BlockTail():
                count, index = self.layouts.sizes[op.out.type.names[2]], self._block(op.x)
                return [f"block_tail({self.names(op.x)}, {count}, past, total, {index})"]
            case BlockState():
                return [self._block_state(op)]
            case Slice() | Rescale() | Ring() | Send() | Recv() | Reshard():
                return [self._exchange(op)]
            case _:
                assert_never(op)

    def _exchange(
        self, op: AllReduce | ReduceScatter | AllGather | AllToAll | Slice | Rescale | Ring | Send | Recv | Reshard
    ) -> str:
        match op:
            case AllReduce():
                return f"lax.psum({self.names(op.x)}, {show_axes(op.axes)})"
            case ReduceScatter():
                at, axes = self._at(op.x, op.dim), show_axes(op.axes)
                x = self._repeated(self.names(op.x), op.x, op.out, op.dim)
                return f"lax.psum_scatter({x}, {axes}, scatter_dimension={at}, tiled=True)"
            case AllGather():
                at, axes = self._at(op.x, op.dim), show_axes(op.axes)
                made = f"lax.all_gather({self.names(op.x)}, {axes}, axis={at}, tiled=True)"
                return self._once(made, op.x, op.out, op.dim)
            case AllToAll():
                split, gather, axes = self._at(op.x, op.split), self._at(op.x, op.gather), show_axes(op.axes)
                x = self._repeated(self.names(op.x), op.x, op.out, op.split)
                made = f"lax.all_to_all({x}, {axes}, split_axis={split}, concat_axis={gather}, tiled=True)"
                return self._once(made, op.x, op.out, op.gather)
            case Slice():
                at, axes, ways = self._at(op.x, op.dim), show_axes(op.axes), self.layouts.mesh.ways(op.axes)
                x = self._repeated(self.names(op.x), op.x, op.out, op.dim)
                return f"own_part({x}, {axes}, {ways}, {at})"
            case Rescale():
                keeps = ", keep=True" if op.out.type.softmax else ""
                return cast(f"rescale({self.names(op.x)}, {show_axes(op.axes)}{keeps})", op.out)
            case Ring():
                at, ways = self._at(op.xs[0], op.dim), self.layouts.mesh.ways(op.axes)
                return f"ring([{', '.join(map(self.names, op.xs))}], {show_axes(op.axes)}, {ways}, {at})"
            case Send():
                return self.names(op.x)
            case Recv():
                return "x"
            case Reshard():
                raise AssertionError("collectives replace every reshard")
            case _:
                assert_never(op)

    # ---- parts of dimensions

    def _at(self, x: Value, name: str) -> int:
        return x.type.names.index(name)

    def _first_row(self, table: Value) -> str:
        axes = table.type.dims[0].axes
        return f", lax.axis_index({show_axes(axes)}) * {self.names(table)}.shape[0]" if axes else ""

    def _positions(self, x: Value) -> str:
        axes = x.type.on("position")
        index = f", lax.axis_index({show_axes(axes)})" if axes else ""
        return f"positions({self.names(x)}.shape[{self._at(x, 'position')}], past{index})"

    def _blocks(self, dim: Dim, over: tuple[str, ...]) -> int:
        return self.layouts.mesh.ways(over[len(dim.axes) :])

    def _factor(self, x: Value, out: Value, name: str) -> int:
        """How often items of dimension ``name`` are repeated in the layout that is split more, ``x`` or ``out``."""
        a, b = x.type.dim(name), out.type.dim(name)
        fewer, more = sorted((a, b), key=lambda d: len(d.axes))
        return self.layouts.repeats(more, fewer.axes)

    def _repeated(self, text: str, x: Value, out: Value, name: str) -> str:
        times = self._factor(x, out, name)
        return text if times == 1 else f"jnp.repeat({text}, {times}, axis={self._at(x, name)})"

    def _once(self, text: str, x: Value, out: Value, name: str) -> str:
        times = self._factor(x, out, name)
        return text if times == 1 else f"{text}[{', '.join([':'] * self._at(x, name) + [f'::{times}'])}]"

    # ---- arithmetic

    def _norm(self, op: Norm | AddNorm, x: str, type_: TensorType, out: Value, sums: Value | None = None) -> str:
        at = type_.names.index(op.over)
        text = f"{op.fn}({x}, {at})"
        if isinstance(op, Norm) and op.groups is not None:
            each = self.layouts.sizes[op.heads] // self.layouts.sizes[op.groups]
            text = f"grouped_norm({op.fn}, {x}, {at}, {each})"
        elif sums is not None:
            text = f"{op.fn}_by({x}, {at}, wide({self.names(sums)}), {self.layouts.sizes[op.over]})"
        return cast(text if op.gain is None else f"{text} * {self._aligned(op.gain, type_.names)}", out)

    def _aligned(self, value: Value, names: tuple[str, ...]) -> str:
        """``value`` with its dimensions in the order of ``names``; missing dimensions get length 1."""
        own, every = [stem(n) for n in value.type.names], [stem(n) for n in names]
        order = sorted(range(len(own)), key=lambda i: every.index(own[i]))
        text = self.names(value)
        if order != sorted(order):
            text = f"jnp.transpose({text}, {tuple(order)})"
        missing = tuple(i for i, n in enumerate(every) if n not in own)
        if missing == tuple(range(len(missing))):
            return text  # dimensions in front are added anyway
        return f"jnp.expand_dims({text}, {missing})"

    def _gemm(self, op: Gemm, i: int) -> str:
        w, out = op.weights[i], op.outs[i]
        text, names = self.names(w), w.type.names
        if isinstance(op, AdapterGemm):
            batch, adapters = op.each
            names = tuple(batch if n == adapters else n for n in names)
            text = f"own_matrices({text}, {self._own_part('adapters', op.x.type.dim(batch))})"
        letters = dict(zip(dict.fromkeys(map(stem, (*op.x.type.names, *names))), ascii_letters, strict=False))
        a, b, c = ("".join(letters[stem(n)] for n in some) for some in (op.x.type.names, names, out.type.names))
        types = f"{op.compute}, {out.type.dtype}"
        return f'gemm("{a},{b}->{c}", {self.names(op.x)}, {text}, {types})'

    def _map(self, op: Map) -> str:
        names = op.xs[0].type.names
        xs = [self._aligned(x, names) for x in op.xs]
        if op.first is not None:
            index = f"lax.axis_index({show_axes(axes_of(op.first))})"
            xs[1:] = [f"jnp.where({index} == 0, {x}, 0)" for x in xs[1:]]
        xs = [_limited(x, to) for x, to in zip(xs, read_limits(op.limits, len(xs)), strict=True)]
        if op.fn in SIGNS:
            return f"{xs[0]} {SIGNS[op.fn]} {xs[1]}"
        if op.fn in LIMITING:
            return xs[0]
        if op.fn in GATED:
            return f"{GATED[op.fn]}(wide({xs[0]})) * {xs[1]}"
        return f"{op.fn}(wide({xs[0]}))"

    def _rope(self, op: Rope, x: Value, out: Value) -> str:
        first = "" if op.first is None else f", {op.first}"
        return cast(f"rope(wide({self.names(x)}), {self._positions(x)}, {self._at(x, 'position')}{first})", out)

    def _top_k(self, op: TopK) -> str:
        bias = "" if op.bias is None else f", wide({self.names(op.bias)})"
        options = f"top_k={op.top_k}, score={op.score!r}, normalize={op.normalize}, scale={op.scale!r}"
        return cast(f"gates(wide({self.names(op.logits)}){bias}, {options})", op.out)

    # ---- the cache and attention

    def _cache_write(self, op: CacheWrite) -> list[str]:
        """The cache so far; where ranks share the context, each writes the positions that it has slots for."""
        made = []
        for i, (x, out) in enumerate(zip(op.xs, op.outs, strict=True)):
            kept, new = f'cache["{op.cache}"][{i}]', cast(self.names(x), out)
            if op.transient:
                own = out.type.on("context")[len(x.type.on("position")) :]
                made.append(self._part_along(new, own, self._at(x, "position")))
            elif not out.type.on("context"):
                made.append(f"lax.dynamic_update_slice_in_dim({kept}, {new}, past, {self._at(x, 'position')})")
            else:
                made.append(f"write_slots({kept}, {new}, {self._slots(out)}, {self._positions(x)}[0])")
        return made

    def _part_along(self, text: str, axes: tuple[str, ...], at: int) -> str:
        """The part along dimension ``at`` of a rank of ``axes``."""
        return f"own_part({text}, {show_axes(axes)}, {self.layouts.mesh.ways(axes)}, {at})" if axes else text

    def _slots(self, keys: Value) -> str:
        """The positions of the slots of a rank's part of ``keys``."""
        if keys.name in self.passing:
            index = f", lax.axis_index({show_axes(keys.type.on('context'))})" if keys.type.on("context") else ""
            return f"positions({self.names(keys)}.shape[1], 0{index})"
        whole, axes = self.contexts[keys.name], keys.type.on("context")
        ways = self.layouts.mesh.ways(whole)
        if not axes and not whole:
            return f"jnp.arange({self.names(keys)}.shape[1])"
        parts = self.layouts.mesh.ways(axes)
        index = f"lax.axis_index({show_axes(axes)})" if axes else "0"
        return f"slots({self.prefix.upper()}SETTING, {ways}, {parts})[{index}]"

    def _mask(self, op: Attention | LatentAttention | PickKeys, keys: Value) -> str:
        options = f"causal={op.causal}"
        options += f", window={op.window}" if op.window else ""
        options += f", chunk={op.chunk}" if op.chunk else ""
        if not isinstance(op, PickKeys) and op.among is not None:
            options += f", among={self.names(op.among)}"
        return f"Mask({self._positions(op.q)}, known({self._slots(keys)}, total), {options})"

    def _change(self, op: Attention | LatentAttention) -> str:
        """What changes the scores, as one more argument; a head has its slope on whatever rank it is."""
        if not op.alibi:
            return "" if op.softcap is None else f", change=Change({op.softcap!r})"
        dim = op.q.type.dims[2]
        slopes = self._own_part(f"alibi_slopes({self.layouts.sizes[dim.name]})", dim)
        return f", change=Change({op.softcap!r}, {slopes})"

    def _attention(self, op: Attention) -> str:
        k, v = (f"wide({self._for_heads(x, op.q.type.dims[2])})" for x in (op.k, op.v))
        kind = "partial_attention" if op.out.type.softmax else "attention"
        sinks = ""
        if op.sinks is not None:
            sinks = f", wide({self.names(op.sinks)})"
            if op.out.type.softmax:  # only the first of the ranks that share the keys adds the sink
                index = f"lax.axis_index({show_axes(op.k.type.on('context'))})"
                sinks = f", jnp.where({index} == 0, wide({self.names(op.sinks)}), -jnp.inf)"
        inside = f"wide({self.names(op.q)}), {k}, {v}, {self._mask(op, op.k)}{sinks}{self._change(op)}"
        return cast(f"{kind}({inside})", op.out)

    def _for_heads(self, keys: Value, heads: Dim) -> str:
        """``keys`` with the key head, or the group, of each of a rank's ``heads``; without any, the same for each."""
        text, mine = self.names(keys), self.layouts.local(heads.name, heads.axes)
        if len(keys.type.dims) == 3:
            return f"jnp.repeat(jnp.expand_dims({text}, 2), {mine}, axis=2)"
        k = keys.type.dims[2]
        have, own = self.layouts.local(k.name, k.axes), heads.axes[len(k.axes) :]
        ways = self.layouts.mesh.ways(own)
        if own and ways > 1:
            index = f"lax.axis_index({show_axes(own)})"
            return f"jnp.take({text}, ({index} * {mine} + jnp.arange({mine})) * {have} // {mine * ways}, axis=2)"
        return text if mine == have else f"jnp.repeat({text}, {mine // have}, axis=2)"

    def _latent_attention(self, op: LatentAttention) -> str:
        q, q_rope, k, k_rope, v = (f"wide({self.names(x)})" for x in op.operands[:5])
        rope_dim = self.layouts.sizes[op.k_rope.type.names[-1]]
        scale = (self.layouts.sizes[op.scaled] + rope_dim) ** -0.5
        partial = ", partial=True" if op.out.type.softmax else ""
        mask = self._mask(op, op.k_rope)
        inside = f"({q}, {q_rope}), ({k}, {k_rope}), {v}, {mask}, {scale!r}{partial}{self._change(op)}"
        return cast(f"latent_attention({inside})", op.out)

    # ---- layers with a state

    def _short_conv(self, op: ShortConv, i: int) -> tuple[str, str]:
        """The ``i``-th result, and the tokens that its convolution keeps."""
        x, w, kept = self.names(op.xs[i]), self.names(op.weights[i]), f'cache["{op.state}"][{i}]'
        tokens = f"with_tail({kept}, {x}, past)"
        bias = f", wide({self.names(op.biases[i])})" if op.biased else ""
        tail = f"lax.dynamic_slice_in_dim({tokens}, total - past, {w}.shape[0] - 1, 1)"
        if op.handed:
            before = f"before_blocks({kept}, {self.names(op.tails[i])}, {x}, past, total)"
            tokens, tail = f"jnp.concatenate([{before}[{self._block(op.xs[i])}], {x}], axis=1)", f"{before}[-1]"
        text = f"convolve(wide({w}), wide({tokens}){bias})"
        return cast(f"{op.fn}({text})" if op.fn else text, op.outs[i]), cast(tail, op.kept[i])

    def _recurrence(self, op: Recurrence) -> str:
        """The result and the state, of one scan."""
        q, k = (f"wide({self._for_heads(x, op.v.type.dims[2])})" for x in (op.q, op.k))
        qk = f"*unit_length({q}, {k})" if op.normalize else f"{q}, {k}"
        more = self._more(op)
        if (does := op.role(BLOCKS)) is not None:
            more += [f"does=wide({self.names(does)})", f"index={self._block(op.v)}"]
        kept, v = f'cache["{op.state}"][0]', f"wide({self.names(op.v)})"
        return f"recurrence({kept}, {qk}, {v}, {', '.join(more)}, past=past, total=total)"

    def _more(self, op: Recurrence | BlockState) -> list[str]:
        """The arguments of a scan that have names."""
        more = [f"decay={self._decay(op)}"]
        more += [f"{n}=wide({self.names(x)})" for n in ("write", "skip") if (x := op.role(n)) is not None]
        return [*more, *(["delta=True"] if op.delta else [])]

    def _block_state(self, op: BlockState) -> str:
        """What a rank's block of positions does to a state."""
        k, v = f"wide({self._for_heads(op.k, op.v.type.dims[2])})", f"wide({self.names(op.v)})"
        k = f"unit_length({k}, {k})[1]" if op.normalize else k
        more = ", ".join(self._more(op))
        return cast(f"block_state({k}, {v}, {more}, past=past, total=total, index={self._block(op.v)})", op.out)

    def _block(self, x: Value) -> str:
        """The number of the block of positions of ``x`` that a rank has."""
        return f"lax.axis_index({show_axes(x.type.on('position'))})"

    def _cast_state(self, op: Recurrence) -> list[str]:
        """The lines after its scan: both results in their formats, and the state as what the layer keeps."""
        lines = [f"{self.names(v)} = {cast(self.names(v), v)}" for v in op.results]
        return [*lines, _keep(op.state, [self.names(op.kept_state)])]

    def _decay(self, op: Recurrence | BlockState) -> str:
        """The factor of the state at each token, ``[batch, position, heads, n]``; missing dimensions have length 1."""
        step, rate, heads = op.role("step"), op.role("rate"), op.v.type.dims[2]
        if step is not None and rate is not None:
            given = ((step, 4), (rate, 2))
            made = (f"wide({self.names(x)})" + ("" if len(x.type.dims) == n else "[..., None]") for x, n in given)
            step_text, rate_text = made
            return f"decay_of({rate_text}, {step_text})"
        if not op.slopes:
            return "jnp.ones((1, 1, 1, 1), WIDE)"
        return f"{self._own_part(f'decay_slopes({self.layouts.sizes[heads.name]})', heads)}[:, None]"

    def _own_part(self, text: str, dim: Dim) -> str:
        """A rank's part of an array of all heads, or of all requests, whose layout ``dim`` says."""
        return self._part_along(text, dim.axes, 0)


def _keep(name: str, held: Iterable[str]) -> str:
    """The line that hands on what a layer keeps of each request."""
    texts = list(held)
    return f'new["{name}"] = ({", ".join(texts)}{"," if len(texts) == 1 else ""})'


def cast(text: str, out: Value) -> str:
    """``text`` in the format of ``out``. The log-sum-exp of a softmax over some keys needs the wide one."""
    if out.type.softmax:
        return text
    return f"{text if text.isidentifier() or _is_call(text) else f'({text})'}.astype({out.type.dtype})"


def _is_call(text: str) -> bool:
    """Whether ``text`` is one call or subscript, which needs no parentheses before a dot."""
    return isinstance(ast.parse(text, mode="eval").body, ast.Call | ast.Subscript)


def _limited(text: str, to: Limit) -> str:
    if to == NONE:
        return text
    low, high = (None if math.isinf(bound) else bound for bound in (to.low, to.high))
    clipped = text if low is None and high is None else f"jnp.clip({text}, {low}, {high})"
    return clipped if not to.plus else f"({clipped} + {to.plus!r})"
