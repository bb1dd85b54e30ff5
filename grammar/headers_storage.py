"""The number formats of a model, from the headers of its checkpoint. Where the config differs, the headers count."""

from __future__ import annotations

import json
from collections import Counter
from math import ceil

from plandsl.diagnostics import Diagnostic, clip
from plandsl.grammar.headers import Checkpoint, Tensor
from plandsl.grammar.headers_weights import (
    MATRIX,
    SCALES,
    Claim,
    Place,
    biases_of_head,
    elements_of,
    ends_of,
    is_of_norm,
    sort_tensors,
)
from plandsl.grammar.hf_config import Config
from plandsl.grammar.hf_modules import layers_of
from plandsl.grammar.hf_storage import Storage, storage_with
from plandsl.grammar.hf_text import Made
from plandsl.spec.formats import BITS, GGUF, base_format, bits_of, is_storage, with_inputs
from plandsl.spec.model import ACTIVATIONS, EMBEDDING, GAINS, HEAD
from plandsl.values import sum_up

_PLAIN = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "I8": "int8"}
_EXACT = 1e-4  # bits that differ by less are not written: only single scales differ
_FOUND = "N486"
_SHOWN = 100


class _Formats:
    """The format of each weight while the tensors are read."""

    def __init__(self, config: Config, storage: Storage) -> None:
        self.config, self.storage = config, storage
        self.differ: Counter[tuple[str, str]] = Counter()
        self.first: dict[tuple[str, str], str] = {}

    def expect(self, layer: int | str, weights: tuple[str, ...]) -> str:
        """The format that the config gives a weight."""
        if layer in (EMBEDDING, HEAD):
            word = dict(self.storage.stored).get(str(layer), ACTIVATIONS)
        else:
            layers = self.storage.layers
            own = dict(layers[int(layer)]) if int(layer) < len(layers) else {}
            found = own | dict(self.storage.stored)
            word = next((found[w] for w in weights if w in found), self.storage.weights)
        return self.storage.activations if word == ACTIVATIONS else word

    def written(self, word: str) -> str:
        """A format as `stored` says it: `activations` for theirs."""
        return ACTIVATIONS if word == self.storage.activations else word

    def complete(self, layer: int, words: list[dict[str, str]], sizes: list[dict[str, int]]) -> dict[str, str]:
        """The formats of the matrices of a layer: those of its tensors, and the config's for a matrix without one."""
        found = {w: words[layer].get(w) or self.expect(layer, (w,)) for w in sizes[layer] if not _is_kept(w)}
        return {weight: self.written(word) for weight, word in found.items()}

    def note(self, place: Place, word: str, claim: Claim) -> None:
        """Remember a weight that the headers store in another format than the config says."""
        expected = self.expect(place.layer, place.weights)
        if base_format(expected) != base_format(word):
            key = expected, word
            self.differ[key] += 1
            self.first.setdefault(key, claim.tensor.name)


def storage_of_headers(config: Config, made: Made, storage: Storage, checkpoint: Checkpoint) -> Storage:
    """``storage`` with the formats that the tensors have; findings are recorded in ``config``."""
    layers = layers_of(made.shape, made.family)
    sizes = [*elements_of(made.family, made.shape)]
    ends = ends_of(made.family, made.shape)
    claims, left = sort_tensors(checkpoint.tensors, layers)
    formats = _Formats(config, storage)
    words: list[dict[str, str]] = [{} for _ in layers]
    kept = dict(storage.stored)
    for place, own in claims.items():
        if place == Place(HEAD, (HEAD,)) and HEAD not in ends:
            name = _quoted(own[0].tensor.name)
            _note(config, f"{name} is stored, but tied to the embedding: it is not counted")
            continue
        rows = ends if isinstance(place.layer, str) else sizes[place.layer]
        expected = sum_up(rows.get(weight, 0) for weight in place.weights)
        if not expected and place.weights != (GAINS,):
            left += [claim.tensor for claim in own]
            continue
        word = _word(formats, place, own, expected, partial=bool(checkpoint.absent))
        if word and isinstance(place.layer, int):
            words[place.layer] |= dict.fromkeys(_weights(place, sizes[place.layer]), word)
        elif word and isinstance(place.layer, str) and place.layer == place.weights[0]:
            kept[place.layer] = formats.written(word)
        elif word and place == Place(HEAD, (GAINS,)):
            kept |= dict.fromkeys(biases_of_head(made.family, made.shape), formats.written(word))
    _tell(formats, checkpoint, left)
    if not checkpoint.absent:
        _tell_missing(config, claims, sizes, ends)
    elif not checkpoint.tensors:
        _tell_total(formats, checkpoint, sizes, ends)
    if config.errors:
        return storage
    unpacks = not storage.compute and any(_is_packed(word) for row in words for word in row.values())
    compute = storage.activations if unpacks else storage.compute
    table = [formats.complete(number, words, sizes) for number in range(len(words))]
    base = storage._replace(experts="", compute=compute, stored=tuple(kept.items()))
    return _with_kept(storage_with(config, made.shape, layers, table, base), words, storage.activations)


def _weights(place: Place, row: dict[str, int]) -> tuple[str, ...]:
    """The weights of a layer that a place speaks of; ``row`` has all. One format is kept for the norms of a layer."""
    if place.weights != (GAINS,):
        return place.weights
    return (GAINS, *filter(is_of_norm, row))


def _with_kept(storage: Storage, words: list[dict[str, str]], activations: str) -> Storage:
    """``storage`` with the weights that engines keep in the format of activations, and this checkpoint does not."""
    rows = [{weight: word for weight, word in row.items() if _is_kept(weight)} for row in words]
    names = dict.fromkeys(weight for row in rows for weight in row)
    formats = {name: {row[name] for row in rows if name in row} for name in names}
    alike = {name: word for name in names if len(formats[name]) == 1 for word in formats[name] if word != activations}
    count = len(storage.layers) or len(words)
    layers = storage.layers or ((),) * count
    made = tuple(
        (*layers[n], *((name, word) for name, word in rows[n].items() if len(formats[name]) > 1)) for n in range(count)
    )
    stored = (*storage.stored, *alike.items())
    return storage._replace(stored=stored, layers=made if any(made) else ())


def _is_packed(word: str) -> bool:
    """Whether a GEMM unpacks these weights where its config does not say so."""
    return base_format(word).startswith("int4") or base_format(word) in GGUF


def _is_kept(name: str) -> bool:
    """Whether a weight has the format of activations unless a model says otherwise."""
    return name.startswith("b_") or name in ("w_router", "w_sinks", GAINS)


def _note(config: Config, text: str) -> None:
    config.found.append(Diagnostic(_FOUND, text, config.span))


def _quoted(name: str) -> str:
    return json.dumps(clip(name, _SHOWN))


def _more(count: int, what: str) -> str:
    """The words that tell of all but the first of ``count``."""
    return f" and {count - 1:,} more {what}" if count > 1 else ""


# ---- the format of one weight


def _word(formats: _Formats, place: Place, claims: list[Claim], expected: int, *, partial: bool) -> str:
    """The format of a weight, empty if it is not known; ``expected`` are its elements, 0 if they are not checked."""
    main = [c for c in claims if c.role != SCALES]
    if not main:
        return ""
    one, size = main[0].tensor, sum_up(c.tensor.size for c in claims)
    if one.type in BITS or one.type in ("int16", "int32", "int64"):  # a file of GGUF
        return _gguf_word(formats, place, main, expected)
    types = {c.tensor.type for c in main}
    stored = 8 * sum_up(c.tensor.size for c in main)
    if expected == 0:
        return _PLAIN.get(one.type, "")
    bits = stored / expected
    packed = one.type in ("I32", "U8", "I64", "U32") and main[0].role == MATRIX
    if (not packed and sum_up(c.tensor.elements for c in main) != expected) or (packed and bits not in (2, 3, 4, 6, 8)):
        if not partial:
            _fail_shape(formats.config, place, main, expected)
        return ""
    scales = [c.tensor for c in claims if c.role == SCALES and c.tensor.elements > 1]
    word = _derive(formats, place, main[0], scales, bits)
    if not word:
        known = f"the type {one.type} with {bits:g} bits for an element"
        _note(formats.config, f"{_quoted(one.name)} has {known}, which is no format of weights")
        return ""
    formats.note(place, word, main[0])
    exact = 8 * size / expected
    inputs = one.shape[-1] if one.shape else 1
    if len(types) == 1 and abs(bits_of(with_inputs(word, inputs)) - exact) <= _EXACT * exact:
        return word
    return f"{word}({round(exact, 12):.12g})"


def _derive(formats: _Formats, place: Place, claim: Claim, scales: list[Tensor], bits: float) -> str:
    """The format of a weight by the type of its elements and the shapes of its scales."""
    tensor = claim.tensor
    if tensor.type in _PLAIN and tensor.type != "I8":
        return _PLAIN[tensor.type]
    base = "fp8" if tensor.type.startswith("F8") else f"fp{bits:g}" if tensor.type.startswith("F") else f"int{bits:g}"
    expected = formats.expect(place.layer, place.weights)
    own = base_format(expected)
    if int(BITS[own]) == int(bits) and (tensor.type in ("U8", "I64", "U32") or own.endswith(base[-4:]) or own == base):
        return expected
    if tensor.type == "U8" and bits == 4 and scales:
        return "nvfp4" if scales[0].type == "F8_E4M3" else "mxfp4"
    if base not in BITS:
        return ""
    return next((w for w in (_scaled(base, tensor, s, bits) for s in scales) if is_storage(w)), base)


def _scaled(base: str, tensor: Tensor, scale: Tensor, bits: float) -> str:
    """``base`` with the groups that its scales have, empty if their shape says none."""
    if len(tensor.shape) != 2 or len(scale.shape) > 2:
        return ""
    outputs, inputs = tensor.shape
    rows, columns = (*scale.shape, 1)[:2]
    if tensor.type == "I32" and tensor.name.endswith("qweight"):  # packed along the inputs, which come first
        inputs, outputs = int(outputs * 32 / bits), inputs
        rows, columns = columns, rows
    elif tensor.type in ("I32", "U8"):
        inputs = int(inputs * (32 if tensor.type == "I32" else 8) / bits)
    if rows == outputs:
        return f"{base}_channel" if columns == 1 else f"{base}_{_power(inputs / columns)}"
    return f"{base}_{_power(inputs / columns)}x{_power(outputs / rows)}"


def _power(size: float) -> int:
    """The size of a block, which is a power of two, from the mean of blocks of which the last may be smaller."""
    return 1 << max(ceil(size) - 1, 0).bit_length()


def _gguf_word(formats: _Formats, place: Place, main: list[Claim], expected: int) -> str:
    elements = sum_up(c.tensor.elements for c in main)
    if expected and elements != expected:
        _fail_shape(formats.config, place, main, expected)
        return ""
    sizes = Counter[str]()
    for claim in main:
        sizes[claim.tensor.type] += claim.tensor.size
    word = sizes.most_common(1)[0][0]
    if word not in BITS:
        return ""
    return word if len(sizes) == 1 else f"{word}({round(8 * sizes.total() / elements, 12):.12g})"


def _fail_shape(config: Config, place: Place, main: list[Claim], expected: int) -> None:
    shape = " x ".join(f"{n:,}" for n in main[0].tensor.shape) or "1"
    more = f", with {len(main) - 1:,} more" if len(main) > 1 else ""
    why = f"the tensor {_quoted(main[0].tensor.name)} is {shape} of type {main[0].tensor.type}{more}"
    what = " and ".join(f"`{w}`" for w in place.weights)
    verb = "have" if len(place.weights) > 1 else "has"
    config.fail("E486", f"{why}, but {what} {verb} {expected:,} elements by its config")


# ---- what is told


def _tell(formats: _Formats, checkpoint: Checkpoint, left: list[Tensor]) -> None:
    config = formats.config
    for (expected, word), count in formats.differ.items():
        names = f"{_quoted(formats.first[expected, word])}{_more(count, 'weights')}"
        _note(config, f"{names}: stored as {word} by the headers, as {expected} by the config; the headers count")
    if left:
        size = sum_up(tensor.size for tensor in left)
        names = f"{_quoted(left[0].name)}{_more(len(left), 'tensors')}"
        _note(config, f"{names} ({size:,} bytes) have no place in the model")
    if checkpoint.absent:
        name, count = _quoted(checkpoint.absent[0]), len(checkpoint.absent)
        more = f" and of {count - 1:,} more" if count > 1 else ""
        stated = f"; all tensors have {checkpoint.total:,} bytes by the index" if checkpoint.total else ""
        why = f"the file of {name}{more} is not there: formats of these weights follow from config.json{stated}"
        _note(config, why)


def _tell_missing(
    config: Config, claims: dict[Place, list[Claim]], sizes: list[dict[str, int]], ends: dict[str, int]
) -> None:
    """Tell the first weight of the model that no tensor holds: scales alone are no weight."""
    held = [place for place, own in claims.items() if any(claim.role != SCALES for claim in own)]
    there = {
        (place.layer, weight)
        for place in held
        for weight in (_weights(place, sizes[place.layer]) if isinstance(place.layer, int) else place.weights)
    }
    wanted = [(n, weight) for n, row in enumerate(sizes) for weight in row] + [(end, end) for end in ends]
    missing = [pair for pair in wanted if pair not in there]
    if missing:
        layer, weight = missing[0]
        where = f"`{weight}` of layer {layer}" if isinstance(layer, int) else f"the {layer}"
        more = _more(len(missing), "weights")
        _note(config, f"no tensor of the checkpoint holds {where}{more}: formats of these follow from the config")


def _tell_total(formats: _Formats, checkpoint: Checkpoint, sizes: list[dict[str, int]], ends: dict[str, int]) -> None:
    """Compare the bytes that an index states with those that the formats of the config give."""
    found = [
        (formats.expect(layer, (weight,)), weight, n) for layer, row in enumerate(sizes) for weight, n in row.items()
    ]
    found += [(formats.expect(end, (end,)), end, n) for end, n in ends.items()]
    kept = formats.storage.activations
    size = sum_up(n * bits_of(kept if _is_kept(name) else word) / 8 for word, name, n in found)
    if checkpoint.total and abs(size - checkpoint.total) > 0.01 * checkpoint.total:
        why = f"the index states {checkpoint.total:,} bytes, but the formats of config.json give {size:,.0f}"
        _note(formats.config, why)
