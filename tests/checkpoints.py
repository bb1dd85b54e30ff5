"""Writers of tiny checkpoints: headers with the right sizes, and data that are a hole in the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from plandsl.grammar.headers import BITS_OF_TYPE
from plandsl.grammar.headers_gguf import _BLOCKS, _TYPES

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor by its name."""

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, LAYERS = 256, 4, 2, 64, 512, 1000, 4

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def header_bytes(table: Mapping[str, Any]) -> bytes:
    """The header of a safetensors file, with its length in front."""
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(path: Path, tensors: Shapes) -> int:
    """Write a file without data; bytes of its tensors."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (type_, shape) in tensors.items():
        end = at + prod(shape) * BITS_OF_TYPE[type_] // 8
        table[name] = {"dtype": type_, "shape": shape, "data_offsets": [at, end]}
        at = end
    with path.open("wb") as file:
        file.write(header_bytes(table))
        file.truncate(file.tell() + at)
    return at


Projection = Callable[[int, str, int, int], Shapes]
"""The tensors of a projection, by its layer, its name, and its numbers of outputs and inputs."""


def plain(_: int, name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": ("BF16", (outputs, inputs))}


def fp8_blocks(_: int, name: str, outputs: int, inputs: int) -> Shapes:
    scales = "F32", (-(-outputs // 128), -(-inputs // 128))
    return {f"{name}.weight": ("F8_E4M3", (outputs, inputs)), f"{name}.weight_scale_inv": scales}


def gptq(_: int, name: str, outputs: int, inputs: int) -> Shapes:
    return {
        f"{name}.qweight": ("I32", (inputs // 8, outputs)),
        f"{name}.qzeros": ("I32", (inputs // 128, outputs // 8)),
        f"{name}.scales": ("F16", (inputs // 128, outputs)),
        f"{name}.g_idx": ("I32", (inputs,)),
    }


def packed(_: int, name: str, outputs: int, inputs: int) -> Shapes:
    """Compressed-tensors: symmetric integers without zero points."""
    return {
        f"{name}.weight_packed": ("I32", (outputs, inputs // 8)),
        f"{name}.weight_scale": ("BF16", (outputs, inputs // 128)),
        f"{name}.weight_shape": ("I64", (2,)),
    }


def first_kept(layer: int, name: str, outputs: int, inputs: int) -> Shapes:
    """The first layer in bf16, the others in fp8."""
    return (fp8_blocks if layer else plain)(layer, name, outputs, inputs)


def llama(projection: Projection = plain) -> Shapes:
    """The tensors of the model of `CONFIG`."""
    wide, narrow = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    sizes = {
        "self_attn.q_proj": (wide, HIDDEN),
        "self_attn.k_proj": (narrow, HIDDEN),
        "self_attn.v_proj": (narrow, HIDDEN),
        "self_attn.o_proj": (HIDDEN, wide),
        "mlp.gate_proj": (FFN, HIDDEN),
        "mlp.up_proj": (FFN, HIDDEN),
        "mlp.down_proj": (HIDDEN, FFN),
    }
    found: Shapes = {"model.embed_tokens.weight": ("BF16", (VOCAB, HIDDEN))}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        for name, (outputs, inputs) in sizes.items():
            found |= projection(layer, f"{start}.{name}", outputs, inputs)
        found |= {f"{start}.{n}.weight": ("BF16", (HIDDEN,)) for n in ("input_layernorm", "post_attention_layernorm")}
    return found | {"model.norm.weight": ("BF16", (HIDDEN,)), "lm_head.weight": ("BF16", (VOCAB, HIDDEN))}


def write_folder(folder: Path, tensors: Shapes, **config: Any) -> int:
    """Write a checkpoint in one file, with its config; bytes of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return write_safetensors(folder / "model.safetensors", tensors)


# ---- GGUF

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.embedding_length": HIDDEN,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.key_length": HEAD_DIM,
    "llama.feed_forward_length": FFN,
    "llama.context_length": 4096,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
GGUF_TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "IQ2_XXS": (16, 256, 66),
} | {name: (number, *_BLOCKS[name]) for number, name in _TYPES.items()}
"""Number, elements of a block, and bytes of a block. All types have the names of the language, some also their own."""


def gguf_llama(wide: str = "Q4_K", more: str = "Q6_K") -> Shapes:
    """The tensors of the model of `METADATA`: `attn_v` and `ffn_down` of the last layer have ``more`` bits."""
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    found: Shapes = {"token_embd.weight": (wide, (VOCAB, HIDDEN)), "output_norm.weight": ("F32", (HIDDEN,))}
    for layer in range(LAYERS):
        type_ = more if layer == LAYERS - 1 else wide
        shapes = {
            "attn_q": (wide, (q, HIDDEN)),
            "attn_k": (wide, (kv, HIDDEN)),
            "attn_v": (type_, (kv, HIDDEN)),
            "attn_output": (wide, (HIDDEN, q)),
            "ffn_gate": (wide, (FFN, HIDDEN)),
            "ffn_up": (wide, (FFN, HIDDEN)),
            "ffn_down": (type_, (HIDDEN, FFN)),
            "attn_norm": ("F32", (HIDDEN,)),
            "ffn_norm": ("F32", (HIDDEN,)),
        }
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return found | {"output.weight": (more, (VOCAB, HIDDEN))}


class Typed(NamedTuple):
    """A value of the type with this letter of `struct`, ``s`` for a text, or a list of such values."""

    letter: str
    value: Any


GGUF_VALUES = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "?": 7, "s": 8, "Q": 10, "q": 11, "d": 12}
"""Numbers of the types of values; a list is 9."""


def _text(text: str, order: str) -> bytes:
    return struct.pack(f"{order}Q", len(text.encode())) + text.encode()


def _typed(value: Any) -> Typed:
    """The value with the type that most files have for it."""
    match value:
        case Typed():
            return value
        case bool():
            return Typed("?", value)
        case int():
            return Typed("I", value)
        case float():
            return Typed("f", value)
    return Typed("s", value)


def _value(given: Any, order: str) -> bytes:
    letter, value = _typed(given)
    number, many = GGUF_VALUES[letter], isinstance(value, list)
    head = struct.pack(f"{order}IIQ", 9, number, len(value)) if many else struct.pack(f"{order}I", number)
    values = value if many else [value]
    return head + b"".join(_text(one, order) if letter == "s" else struct.pack(order + letter, one) for one in values)


def gguf_header(
    tensors: Shapes, metadata: Mapping[str, Any] = METADATA, order: str = "<", version: int = 3, alignment: int = 32
) -> tuple[bytes, int, int]:
    """The header of a GGUF file, filled up to its data; the bytes of these, and those of the tensors alone."""
    head = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(metadata))
    head += b"".join(_text(key, order) + _value(value, order) for key, value in metadata.items())
    at = total = 0
    for name, (type_, shape) in tensors.items():
        number, block, size = GGUF_TYPES[type_]
        head += _text(name, order) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *reversed(shape), number, at)
        total += prod(shape) // block * size
        at += -(-prod(shape) // block * size // alignment) * alignment
    return head + bytes(-len(head) % alignment), at, total


def write_gguf(path: Path, tensors: Shapes, metadata: Mapping[str, Any] = METADATA) -> int:
    """Write a GGUF file without data; bytes of its tensors."""
    head, behind, total = gguf_header(tensors, metadata)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + behind)
    return total
