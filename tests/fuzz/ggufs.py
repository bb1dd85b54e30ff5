"""The target that reads GGUF files: small models of several families, in one file or a few, and wrong ones."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from random import Random
from typing import Any

from plandsl.grammar import headers_gguf
from plandsl.grammar.headers import Unreadable
from tests import checkpoints
from tests.checkpoints import Shapes, Typed
from tests.fuzz.after import copied, seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.models import estimate
from tests.fuzz.mutate import mutate_one

FAMILIES = {
    "llama": "", "granite": "", "ernie4_5": "", "qwen2": "biases", "qwen3": "norms", "gemma": "tied",
    "gemma2": "window after tied", "gemma3": "window norms after tied", "command-r": "beside tied",
    "cohere2": "window beside tied", "olmo2": "norms over_all beside unnormed after", "phi3": "qkv fused",
    "glm4": "biases fused after", "starcoder2": "biases all_biases norm_biases ungated", "qwen3moe": "norms experts",
    "minimax-m2": "norms over_all experts chosen", "gpt-oss": "window biases all_biases sinks experts",
}  # fmt: skip
"""`general.architecture`, and what a layer has beside or in the place of the parts of a `llama`."""

WEIGHTS = sorted(set(checkpoints.GGUF_TYPES).difference(("int64", "int32", "int16", "int8", "fp64")))
"""Types of weights."""

PAIRS = (("Q4_K", "Q6_K"), ("F16", "F16"), ("IQ2_XXS", "Q6_K"), ("bf16", "bf16"), ("q8_0", "F16"), ("mxfp4", "q8_0"))
ALIGNMENTS = (32, 32, 64, 8, 1, 256, 4096)
WHOLE = "IIIIiQqHhBb"
"""Types of whole numbers; most files have the first."""


def shapes(random: Random, family: str, wide: str, more: str) -> tuple[Shapes, dict[str, Any]]:
    """The tensors of a model of a family, and the metadata that they agree with."""
    layers, hidden, ffn, vocab = (random.choice(one) for one in ((1, 2, 4), (256, 512), (256, 768), (256, 1000)))
    heads, head_dim = random.choice((2, 4, 8)), random.choice((64, 128))
    heads = max(heads, 256 // head_dim)  # rows of the output projection are blocks of 256
    kv_heads = random.choice([n for n in (1, 2, 4, 8) if heads % n == 0])
    q, kv, parts = heads * head_dim, kv_heads * head_dim, FAMILIES[family].split()
    given = {
        "block_count": layers, "embedding_length": hidden, "attention.head_count": heads,
        "attention.head_count_kv": kv_heads, "attention.key_length": head_dim, "attention.value_length": head_dim,
        "feed_forward_length": ffn, "context_length": random.choice((512, 4096, 131_072)),
    }  # fmt: skip
    found: Shapes = {"token_embd.weight": (wide, (vocab, hidden)), "output_norm.weight": ("F32", (hidden,))}
    if "tied" not in parts:
        found["output.weight"] = (more, (vocab, hidden))
    experts = random.choice((4, 8)) if "experts" in parts else 0
    if experts:
        given |= {"expert_count": experts, "expert_used_count": 2, "expert_feed_forward_length": ffn}
    if "window" in parts:
        given["attention.sliding_window"] = random.choice((128, 4096))
    for layer in range(layers):
        own = _attention(parts, wide, hidden=hidden, q=q, kv=kv, head_dim=head_dim)
        own |= _feed(parts, wide, more, hidden=hidden, ffn=ffn, experts=experts)
        own |= {"attn_sinks.weight": ("F32", (heads,))} if "sinks" in parts else {}
        found |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    if "norm_biases" in parts:
        norms = [name for name in found if name.endswith("_norm.weight")]
        found |= {name.replace(".weight", ".bias"): found[name] for name in norms}
    return found, {f"{family}.{key}": value for key, value in given.items()}


def _attention(parts: list[str], wide: str, hidden: int, q: int, kv: int, head_dim: int) -> Shapes:
    """The tensors of the attention of a layer, whose queries have ``q`` elements, and keys and values ``kv`` each."""
    rows = {"attn_qkv": q + 2 * kv} if "qkv" in parts else {"attn_q": q, "attn_k": kv, "attn_v": kv}
    own: Shapes = {"attn_output.weight": (wide, (hidden, q))}
    own |= {} if "unnormed" in parts else {"attn_norm.weight": ("F32", (hidden,))}
    own |= {f"{name}.weight": (wide, (size, hidden)) for name, size in rows.items()}
    own |= {f"{name}.bias": ("F32", (size,)) for name, size in rows.items() if "biases" in parts}
    own |= {"attn_output.bias": ("F32", (hidden,))} if "all_biases" in parts else {}
    if "norms" in parts:
        sizes = {"q": q, "k": kv} if "over_all" in parts else {"q": head_dim, "k": head_dim}
        own |= {f"attn_{one}_norm.weight": ("F32", (size,)) for one, size in sizes.items()}
    if "after" in parts:
        own |= {f"post_{one}_norm.weight": ("F32", (hidden,)) for one in ("attention", "ffw")}
    return own


def _feed(parts: list[str], wide: str, more: str, hidden: int, ffn: int, experts: int) -> Shapes:
    """The tensors of the FFN of a layer, or of its experts."""
    of, end = ((experts,), "_exps") if experts else ((), "")
    rows = {"gate": (wide, (*of, ffn, hidden)), "up": (wide, (*of, ffn, hidden)), "down": (more, (*of, hidden, ffn))}
    if "fused" in parts:
        rows["up"] = wide, (2 * ffn, hidden)
    if {"fused", "ungated"} & set(parts):
        del rows["gate"]
    own: Shapes = {f"ffn_{name}{end}.weight": shape for name, shape in rows.items()}
    if experts:
        own["ffn_gate_inp.weight"] = "F32", (experts, hidden)
    if "all_biases" in parts:
        own |= {name.replace(".weight", ".bias"): ("F32", shape[:-1]) for name, (_, shape) in own.items()}
    if "chosen" in parts:
        own["exp_probs_b.bias"] = "F32", (experts,)
    return own if "beside" in parts else own | {"ffn_norm.weight": ("F32", (hidden,))}


def _metadata(random: Random, family: str, given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with what else files say, and its numbers in types of every kind."""
    found: dict[str, Any] = {"general.architecture": family} | given
    tokens = [random.choice(("a", "é", "<s>", "", "▁the")) for _ in range(random.choice((0, 3, 200)))]
    extra = {
        "general.name": random.choice(("a model", "", "é" * 40)), "general.type": "model", "general.file_type": 15,
        "general.quantization_version": 2, f"{family}.rope.freq_base": random.choice((10_000.0, 500_000.0)),
        f"{family}.attention.layer_norm_rms_epsilon": Typed("d", 1e-6), f"{family}.vocab_size": 1000,
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": Typed("f", [0.5] * len(tokens)),
        "tokenizer.ggml.token_type": Typed("i", [-1] * len(tokens)), "tokenizer.ggml.add_bos_token": True,
        "general.tags": [], "many": Typed("B", [7] * 10_001), "tokenizer.chat_template": "{{x}}" * 100,
    }  # fmt: skip
    found |= {key: value for key, value in extra.items() if random.random() < 0.3}
    if random.random() < 0.2:  # one number for each layer
        key = f"{family}.{random.choice(('attention.head_count_kv', 'feed_forward_length'))}"
        found[key] = Typed("I", [found[key]] * found[f"{family}.block_count"])
    if random.random() < 0.5:
        found = {key: _whole(random, value) if type(value) is int else value for key, value in found.items()}
    return found


def _whole(random: Random, value: int) -> Typed:
    """A whole number in a type that can hold it."""
    while True:
        letter = random.choice(WHOLE)
        with suppress(struct.error):
            struct.pack(f"<{letter}", value)
            return Typed(letter, value)


EXTREMES = (
    0, 1, 3, 255, 2**32 - 1, Typed("q", -1), Typed("Q", 2**64 - 1), -0.0, 0.5, 4.0, float("nan"), float("inf"),
    Typed("d", 1e300), True, "", "é", "1", ["x"], [], Typed("I", [1, 2]), Typed("f", [4.0, 4.0]),
)  # fmt: skip


def _spoil(random: Random, tensors: Shapes, metadata: dict[str, Any]) -> None:
    """Change one thing that a file says: a value, a key, a tensor. Many a file is still a model afterwards."""
    key, name = random.choice(sorted(metadata)), random.choice(sorted(tensors))
    type_, shape = tensors[name]
    match random.randrange(10):
        case 0 | 1 | 2:
            metadata[key] = random.choice(EXTREMES)
        case 3:
            del metadata[key]
        case 4:
            metadata["general.alignment"] = random.choice((0, 3, 2**20, 2**21, "32", Typed("q", -32), 32.0))
        case 5:
            odd = "split.count", "split.no", "general.type", "general.architecture"
            metadata[random.choice(odd)] = random.choice((1, 0, 2, "1", 1.0, "model", "mmproj", "nobody", "qwen3"))
        case 6:
            del tensors[name]
        case 7:
            at = random.randrange(len(shape))
            tensors[name] = type_, (*shape[:at], random.choice((0, 1, 256, 2**20, shape[at] + 1)), *shape[at + 1 :])
        case 8:
            tensors[name] = random.choice(sorted(checkpoints.GGUF_TYPES)), shape
        case _:
            tensors[random.choice(("", "x", "é", "blk.0.nothing.weight", "blk.99.attn_q.weight"))] = tensors.pop(name)


def draw_gguf(random: Random, corpus: Corpus) -> Case:
    """The headers of a model's files; the bytes behind each are a word of the case, and a hole in its file."""
    if corpus and random.random() < 0.15:
        return _changed(random, corpus) if random.random() < 0.6 else mutate_one(random, corpus)
    family = random.choice(("llama", *FAMILIES))
    wide, more = random.choice(PAIRS) if random.random() < 0.5 else random.choices(WEIGHTS, k=2)
    tensors, given = shapes(random, family, wide, more)
    metadata = _metadata(random, family, given)
    alignment = random.choice(ALIGNMENTS) if random.random() < 0.3 else 32
    if alignment != 32:
        metadata["general.alignment"] = alignment
    chance = random.random()
    if chance < 0.3:
        for _ in range(random.choice((1, 1, 2))):
            _spoil(random, tensors, metadata)
    order, version = random.choice(("<", "<", "<", ">")), random.choice((3, 3, 3, 2))
    parts = random.choice((2, 3)) if random.random() < 0.12 else 1
    files: dict[str, bytes] = {}
    behind: list[int] = []
    for no in range(parts):
        held = {name: one for at, (name, one) in enumerate(tensors.items()) if at % parts == no}
        said = metadata if no == 0 else {"general.alignment": alignment}
        if parts > 1:
            said = said | {"split.no": Typed("H", no), "split.count": Typed("H", parts)}
        name = f"m-{no + 1:05}-of-{parts:05}.gguf" if parts > 1 or random.random() < 0.05 else "m.gguf"
        head, data, _ = checkpoints.gguf_header(held, said, order=order, version=version, alignment=alignment)
        files[name] = _flipped(head, random) if 0.3 < chance < 0.4 else head
        behind.append(random.choice((0, data - 1, data // 2, 2**33)) if 0.38 < chance < 0.43 else data)
    return Case(files, tuple(str(max(size, 0)) for size in behind))


def _flipped(head: bytes, random: Random) -> bytes:
    """The header with another number somewhere: of 1 byte, 4 or 8, wherever."""
    width = random.choice((1, 4, 8))
    at = random.randrange(max(len(head) - width, 1))
    value = random.choice((0, 1, 7, 8, 9, 12, 255, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)) % 256**width
    return head[:at] + value.to_bytes(width, "little") + head[at + width :]


class _Places(headers_gguf._Reader):
    """Notes where the numbers and the texts of the metadata stand, and the names of tensors."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), 2**40)
        self.places: list[tuple[int, int]] = []
        """First byte, and how many."""

    def _value(self, kind: int, depth: int) -> Any:
        lengths = 8 if kind == headers_gguf._STRING else 0
        start = self.file.tell() + lengths
        found = super()._value(kind, depth)
        if kind != headers_gguf._ARRAY and (size := self.file.tell() - start):
            self.places.append((start, size))
        return found

    def _text(self, most: int) -> str:
        start = self.file.tell() + 8
        found = super()._text(most)
        if size := self.file.tell() - start:
            self.places.append((start, size))
        return found


def _changed(random: Random, corpus: Corpus) -> Case:
    """One of the corpus with other values in the places of some: what stands behind them is where it was."""
    case = random.choice(corpus)
    name = random.choice(sorted(case.files))
    content = bytearray(case.files[name])
    reader = _Places(bytes(content))
    with suppress(Unreadable):
        reader.read()
    for at, size in random.sample(reader.places, min(random.choice((1, 1, 2, 4)), len(reader.places))):
        if size in (1, 2, 4, 8) and random.random() < 0.7:
            value = random.choice((0, 1, 2, 3, 4, 64, 255, random.getrandbits(8 * size), 2 ** (8 * size) - 1))
            content[at : at + size] = (value % 256**size).to_bytes(size, random.choice(("little", "little", "big")))
        else:
            content[at + random.randrange(size)] = random.choice(b"a.1_\0\xff\x1b ")
    return Case(case.files | {name: bytes(content)}, case.argv)


def _gguf(case: Case) -> object:
    """The headers; the model of the files now and then."""
    from plandsl.diagnostics import Diagnostic, PlanError
    from plandsl.grammar.catalog import from_config

    first, *rest = sorted(case.files)
    sizes = [min(int(size), 2**33) for size in case.argv]
    with copied(first, case.files[first], sizes[0]) as path:
        for name, size in zip(rest, sizes[1:], strict=True):
            with path.with_name(name).open("wb") as file:
                file.write(case.files[name])
                file.truncate(len(case.files[name]) + size)
        try:
            found = headers_gguf.read_gguf(path, path.parent)
        except Unreadable as error:
            raise PlanError([Diagnostic("E485", str(error))]) from None
        text = from_config(str(path))
    if seldom(case.files[first], 8):
        estimate(text)
    return len(found.tensors)


GGUF = Target("gguf", "reader", draw_gguf, _gguf, on_disk=False)
