"""The shape of a model as `.plan` text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from plandsl.grammar.hf_shape import Kind, Router, Shape
from plandsl.grammar.hf_storage import Storage

MAX_BLOCKS = 16
"""Most blocks in the text of a model. If more are needed, its layers follow no regular pattern."""

_LONGEST_LEAD, _LONGEST_PERIOD = 8, 12
_WIDTH = 100
_SIZES = ("hidden", "heads", "kv_heads", "head_dim", "q_rank", "kv_rank", "nope_dim", "rope_dim", "v_dim")
_WIDTHS = ("ffn", "expert_ffn", "experts", "shared", "vocab", "pair")


def model_text(name: str, shape: Shape, storage: Storage, source: str, remarks: Sequence[str]) -> str:
    """The model in canonical form; empty if its layers need more than `MAX_BLOCKS` blocks."""
    ranges = cover(shape.layers)
    if len(ranges) > MAX_BLOCKS:
        return ""
    body = ["  embedding w_embed[vocab, hidden]"]
    labels = _labels(ranges, shape.reach)
    for label, (kind, layers) in zip(labels, ranges, strict=True):
        words = ["block", label, f"[layers = {layers}]" if layers else "", "x[tokens, hidden] {"]
        body.append(f"  {' '.join(filter(None, words))}")
        body += [f"    {line}" for line in (*_attention(shape, kind), *_feed(shape, kind, storage.experts))]
        body.append("  }")
    if shape.predicts:
        body.append("  mtp x[tokens, hidden] with e[tokens, hidden] {")
        body.append("    x = concat(rms_norm(e), rms_norm(x), into = pair) @ w_join[pair, hidden]")
        last = shape.layers[-1]
        body += [f"    {line}" for line in (*_attention(shape, last), *_feed(shape, last, storage.experts))]
        body.append("  }")
    body.append(f"  head {_head(shape)}")
    # the notes of `hf` become comments too, because the text is read without its config
    lines = [f"# {remark}" for remark in remarks]
    lines += [f"model {name} {{", f'  source = "{source}"', "", f"  layers = {len(shape.layers)}"]
    lines += _fields(shape, "\n".join(body))
    lines += ["", f"  {_formats(storage)}", *_stored(storage, labels, ranges), "", *body, "}"]
    return "\n".join(lines) + "\n"


def _fields(shape: Shape, body: str) -> Iterator[str]:
    """The lines with the dimensions that the body uses, and the context."""
    used = set(re.findall(r"\w+", " ".join(re.findall(r"\[([^]=]*)\]", body))))
    for names in (_SIZES, _WIDTHS):
        given = [f"{name} = {shape.sizes[name]}" for name in names if name in used and name in shape.sizes]
        if given:
            yield f"  {', '.join(given)}"
    if shape.max_context:
        yield f"  max_context = {shape.max_context}"


def _formats(storage: Storage) -> str:
    text = f"weights = {storage.weights}, activations = {storage.activations}, kv_cache = {storage.kv_cache}"
    return f"{text}, compute = {storage.compute}" if storage.compute else text


def _stored(storage: Storage, labels: list[str], ranges: list[tuple[Kind, str]]) -> Iterator[str]:
    """The lines with the weights whose format is another one than `weights`."""
    items = [_entries(storage.stored)]
    items += [
        f"{label} {{ {_entries(kind.stored)} }}" for label, (kind, _) in zip(labels, ranges, strict=True) if kind.stored
    ]
    line = f"  stored {{ {', '.join(items)} }}"
    if len(line) <= _WIDTH:
        yield line
        return
    yield "  stored {"
    for item in (*(_entries([entry]) for entry in storage.stored), *items[1:]):
        yield f"    {item}"
    yield "  }"


def _entries(stored: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} = {word}" for name, word in stored)


# ---- layers


def cover(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    """As few blocks as cover the layers: the kind of each, and its layers as ``a..b`` or ``a..b by step``.

    Empty layers mean all that no other block names. The first layers of a model may differ; the others repeat with a
    period, or change a few times.
    """
    parts = _parts(kinds)
    kind, most = Counter(kind for kind, _ in parts).most_common(1)[0]
    if most == 1 and len(parts) > 1:
        return parts
    return [(kind, ""), *(part for part in parts if part[0] != kind)]


def _parts(kinds: Sequence[Kind]) -> list[tuple[Kind, str]]:
    """Ranges that cover all layers, each of one kind."""
    best = _runs(kinds, 0, len(kinds))
    for lead in range(min(len(kinds), _LONGEST_LEAD + 1)):
        first = _runs(kinds, 0, lead)
        rest = kinds[lead:]
        for period in range(2, min(len(rest), _LONGEST_PERIOD + 1)):
            if len(first) + period < len(best) and rest[period:] == rest[:-period]:
                steps = [f"{lead + n}..{len(kinds)} by {period}" for n in range(period)]
                best = first + list(zip(rest, steps, strict=False))
    return best


def _runs(kinds: Sequence[Kind], start: int, end: int) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    while start < end:
        stop = next((layer for layer in range(start, end) if kinds[layer] != kinds[start]), end)
        found.append((kinds[start], f"{start}..{stop}"))
        start = stop
    return found


def _labels(ranges: list[tuple[Kind, str]], reach: str) -> list[str]:
    """A name for each block, made from the properties in which blocks differ."""
    kinds = {kind for kind, _ in ranges}
    sliding, sparse = len({kind.slides for kind in kinds}) > 1, len({kind.sparse for kind in kinds}) > 1
    stored = any(kind.stored for kind in kinds)
    some = "chunked" if reach == "chunk" else "sliding"
    names = []
    for kind, _ in ranges:
        words = [some if kind.slides else "full"] if sliding else []
        words += ["sparse" if kind.sparse else "dense"] if sparse else []
        words += [("kept" if kind.stored else "quantised")] if stored else []
        names.append("_".join(words))
    many, seen = Counter(names), Counter[str]()
    for number, name in enumerate(names):
        seen[name] += 1
        names[number] = f"{name}_{seen[name]}" if many[name] > 1 else name
    return names


# ---- statements


def _head(shape: Shape) -> str:
    weight = "w_embed[vocab, hidden]" if shape.tied else "w_head[hidden, vocab]"
    logits = f"rms_norm(x) @ {weight}"
    return f"tanh({logits})" if shape.softcap else logits


def _attention(shape: Shape, kind: Kind) -> Iterator[str]:
    yield "h = rms_norm(x)"
    if shape.latent:
        yield from _latent(shape)
        result = "a @ w_o[heads, v_dim, hidden]"
    else:
        for letter, heads in (("q", "heads"), ("k", "kv_heads")):
            text = _projection(shape, letter, heads, shape.qk_norm)
            turned = f"rope({text})" if kind.roped else text
            normed = shape.turned_norm and kind.roped
            yield f"{letter} = {f'rms_norm({turned}, over = head_dim, gain = none)' if normed else turned}"
        yield f"v = {_projection(shape, 'v', 'kv_heads', False)}"
        words = ["q", "k", "v"] + ["w_sinks[heads]"] * shape.sinks
        words += [f"{shape.reach} = {shape.window}"] if kind.slides else []
        yield f"a = attention({', '.join(words)})"
        result = "a @ w_o[heads, head_dim, hidden]"
    result += " + b_o[hidden]" if shape.out_bias and not shape.latent else ""
    yield f"x = x + {f'rms_norm({result})' if shape.post_norm else result}"


def _projection(shape: Shape, letter: str, heads: str, normed: bool) -> str:
    text = f"h @ w_{letter}[hidden, {heads}, head_dim]"
    text += f" + b_{letter}[{heads}, head_dim]" if shape.qkv_bias else ""
    return f"rms_norm({text}, over = head_dim)" if normed else text


def _latent(shape: Shape) -> Iterator[str]:
    """Multi-head latent attention."""
    low = "q_rank" in shape.sizes
    if low:
        yield "q = rms_norm(h @ w_dq[hidden, q_rank])"
    query, width = ("q", "q_rank") if low else ("h", "hidden")
    yield f"qn = {query} @ w_uq[{width}, heads, nope_dim]"
    yield f"qr = rope({query} @ w_qr[{width}, heads, rope_dim])"
    yield "c = rms_norm(h @ w_dkv[hidden, kv_rank])"
    yield "kr = rope(h @ w_kr[hidden, rope_dim])"
    latent = "latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim])"
    yield f"a = attention(query(qn, qr), {latent})"


def _router(router: Router, weights: str) -> str:
    """The arguments of ``experts``; options with their default value are left out."""
    words = ["h", "w_router[hidden, experts]"]
    if router.bias == "logits":
        words = ["h", "h @ w_router[hidden, experts] + b_router[experts]"]
    elif router.bias == "choice":
        words.append("b_router[experts]")
    words.append(f"top_k = {router.top_k}")
    words += [f"score = {router.score}"] if router.score != "softmax" else []
    words += ["normalize = false"] if not router.normalize else []
    words += [f"scale = {router.scale:g}"] if router.scale != 1 else []
    words += [f"weigh = {router.weigh}"] if router.weigh else []
    words += [f"weights = {weights}"] if weights else []
    return ", ".join(words)


def _feed(shape: Shape, kind: Kind, weights: str) -> Iterator[str]:
    yield "h = rms_norm(x)"
    if not kind.sparse or shape.router is None:
        yield from _gate(shape, "w_gate", "w_up", "ffn")
        result = _down(shape, "w_down", "ffn")
        yield f"x = x + {f'rms_norm({result})' if shape.post_norm else result}"
        return
    yield f"y = experts({_router(shape.router, weights)}) {{"
    yield from (f"  {line}" for line in _gate(shape, "w_gate", "w_up", "expert_ffn"))
    yield f"  {_down(shape, 'w_down', 'expert_ffn')}"
    yield "}"
    if shape.sizes.get("shared"):
        # named `expert_ffn`, so that a degree that splits the width of experts splits shared experts too
        width = "expert_ffn" if shape.sizes["shared"] == 1 else "shared, expert_ffn"
        yield from _gate(shape, "w_shared_gate", "w_shared_up", width)
        yield f"y = y + {_down(shape, 'w_shared_down', width)}"
    yield "x = x + y"


def _gate(shape: Shape, gate: str, up: str, width: str) -> Iterator[str]:
    sides = [f"h @ {name}[hidden, {width}]" for name in (gate, up)]
    if shape.mlp_bias:
        sides = [f"{side} + {name.replace('w_', 'b_')}[{width}]" for side, name in zip(sides, (gate, up), strict=True)]
    if not shape.limit:
        yield f"g = {shape.activation}({sides[0]}) * ({sides[1]})"
        return
    yield f"gate = clamp({sides[0]}, high = {shape.limit:g})"
    yield f"up = clamp({sides[1]}, low = {-shape.limit:g}, high = {shape.limit:g})"
    yield "g = quick_gelu(gate) * (up + 1)"


def _down(shape: Shape, name: str, width: str) -> str:
    text = f"g @ {name}[{width}, hidden]"
    return f"{text} + {name.replace('w_', 'b_')}[hidden]" if shape.mlp_bias else text
