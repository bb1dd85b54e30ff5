"""GGUF headers that contradict themselves, values of every kind, both byte orders, and the config that they give."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from plandsl.grammar.headers import Unreadable
from plandsl.grammar.headers_gguf import Gguf, Long, read_gguf
from plandsl.grammar.headers_metadata import checkpoint_of, config_of
from tests.checkpoints import FFN, HEAD_DIM, METADATA, gguf_llama, write_gguf

F32, Q4_K = 0, 12


def text(said: str, order: str = "<") -> bytes:
    return struct.pack(f"{order}Q", len(said)) + said.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, *shape: int, kind: int = F32, at: int = 0, order: str = "<") -> bytes:
    numbers = struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *reversed(shape), kind, at)
    return text(name, order) + numbers


def read(folder: Path, keys: list[bytes], tensors: list[bytes], data: int = 4096, name: str = "m.gguf") -> Gguf:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    (folder / name).write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return read_gguf(folder / name, folder)


@pytest.mark.parametrize(
    ("keys", "tensors", "why"),
    [
        ([key("a", 4, bytes(4)), key("a", 4, bytes(4))], [], "the key 'a' is given twice"),
        ([key("general.alignment", 4, struct.pack("<I", 48))], [], "is no power of two"),
        ([key("general.alignment", 8, text("32"))], [], "is no power of two"),
        ([key("a" * 70_000, 4, bytes(4))], [], "a name of 70,000 bytes is longer than"),
        ([key("a", 99, b"")], [], "a value has the unknown type 99"),
        ([key("a", 9, struct.pack("<IQ", 10, 2**40))], [], "does not end before the file does"),
        ([key("a", 9, struct.pack("<IQ", 8, 2**40))], [], "more than its file has bytes"),
        ([key("a", 9, struct.pack("<IQ", 9, 1) * 9)], [], "nests too deeply"),
        ([], [tensor("t", 4), tensor("t", 4, at=32)], "two tensors have one name"),
        ([], [tensor("t", 16), tensor("u", 4, at=32)], "the tensor 'u' overlaps another at byte 32 of the data"),
        ([], [tensor("t", 4, at=8)], "the data of the tensor 't' are not inside the file"),
        ([], [tensor("t", 4, 5000)], "the data of the tensor 't' are not inside the file"),
        ([], [tensor("t", 2, 100, kind=Q4_K)], "rows of 100 elements of the tensor 't' are no blocks of 256"),
        ([], [tensor("t", 4, kind=250)], "has the unknown type 250"),
        ([], [tensor("t", 2**40, 2**40)], "the tensor 't' would have 1,?208"),
        ([], [tensor("t", *[1] * 9)], "9 dimensions, more than"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, keys: list[bytes], tensors: list[bytes], why: str
) -> None:
    with pytest.raises(Unreadable, match=why):
        read(tmp_path, keys, tensors)


def test_values_of_every_kind_are_read_and_long_ones_only_counted(tmp_path: Path) -> None:
    many = struct.pack("<IQ", 4, 100_000) + bytes(400_000)
    keys = [
        key("numbers", 9, struct.pack("<IQ2H", 2, 2, 7, 9)),
        key("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
        key("many", 9, many),
        key("long", 8, text("x" * 100_000)),
        key("inner", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQB", 0, 1, 5)),
        key("behind", 8, text("end")),
    ]
    found = read(tmp_path, keys, [tensor("t", 2, 3)])
    assert found.metadata == {
        "numbers": [7, 9],
        "words": Long(2),
        "many": Long(100_000),
        "long": "",
        "inner": [[5]],
        "behind": "end",
    }
    assert [(one.name, one.shape, one.size) for one in found.tensors] == [("t", (2, 3), 24)]


def test_files_of_big_endian_machines_are_read(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + text("a", ">") + struct.pack(">II", 4, 7)
    head += tensor("t", 2, 3, order=">")
    (tmp_path / "m.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(24))
    found = read_gguf(tmp_path / "m.gguf", tmp_path)
    assert (found.metadata, found.tensors[0].shape) == ({"a": 7}, (2, 3))


@pytest.mark.parametrize(
    ("of", "tensors", "why"),
    [
        ((3, 0), ("a", "b"), "is 0 of 3, counted from 0, and its name says file 1 of 2"),
        ((2, 1), ("a", "b"), "is 1 of 2, counted from 0, and its name says file 1 of 2"),
        ((2, 0), ("a", "a"), "the tensor 'a' is given twice"),
    ],
)
def test_files_of_one_model_agree(tmp_path: Path, of: tuple[int, int], tensors: tuple[str, str], why: str) -> None:
    for number, name in enumerate(tensors):
        count, own = of if number == 0 else (2, number)
        keys = [key("split.count", 2, struct.pack("<H", count)), key("split.no", 2, struct.pack("<H", own))]
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + b"".join(keys) + tensor(name, 4)
        path = tmp_path / f"m-0000{number + 1}-of-00002.gguf"
        path.write_bytes(head + bytes(-len(head) % 32) + bytes(16))
    with pytest.raises(Unreadable, match=why):
        read_gguf(tmp_path / "m-00001-of-00002.gguf", tmp_path)


# ---- the config


def config(folder: Path, architecture: str, **more: Any) -> dict[str, Any]:
    given = {name.replace("llama.", f"{architecture}.", 1): value for name, value in METADATA.items()}
    given |= {"general.architecture": architecture}
    given |= {f"{architecture}.{name}": value for name, value in more.items()}
    write_gguf(folder / "m.gguf", gguf_llama(), given)
    return dict(config_of(read_gguf(folder / "m.gguf", folder), "m.gguf").values)


def test_metadata_give_the_fields_of_a_config(tmp_path: Path) -> None:
    llama = config(tmp_path, "llama")
    assert (llama["model_type"], llama["head_dim"], llama["tie_word_embeddings"]) == ("llama", HEAD_DIM, False)
    assert config(tmp_path, "llama", expert_count=8)["model_type"] == "mixtral"
    latent = {"rope.dimension_count": 16, "attention.key_length_mla": 48, "attention.value_length_mla": 32}
    found = config(tmp_path, "deepseek2", **latent)
    assert (found["qk_rope_head_dim"], found["qk_nope_head_dim"], found["v_head_dim"]) == (16, 32, 32)
    assert "head_dim" not in found
    assert "qk_nope_head_dim" not in config(tmp_path, "deepseek2")
    for name in ("gpt-oss", "llama4"):
        assert config(tmp_path, name, expert_feed_forward_length=96)["intermediate_size"] == 96
    assert config(tmp_path, "glm4moe", nextn_predict_layers=1)["num_hidden_layers"] == 3, "the block count has it too"
    assert llama["intermediate_size"] == FFN


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "it has no `general.architecture`"),
        ([key("general.architecture", 4, bytes(4))], "it has no `general.architecture`"),
        ([key("general.architecture", 8, text("llama")), key("general.type", 8, text("adapter"))], "of type 'adapter'"),
    ],
)
def test_a_file_of_something_else_is_no_model(tmp_path: Path, keys: list[bytes], why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        config_of(read(tmp_path, keys, []), "m.gguf")


def test_tensors_have_the_names_of_modules(tmp_path: Path) -> None:
    names = {
        "blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight",
        "blk.3.attn_k_b.weight": "model.layers.3.self_attn.kv_b_proj.weight",
        "blk.3.attn_v_b.weight": "model.layers.3.self_attn.kv_b_proj.weight",
        "blk.3.of_a_kind.weight": "blk.3.of_a_kind.weight",
        "token_embd.weight": "model.embed_tokens.weight",
        "rope_freqs.weight": "rope_freqs.weight",
        "": "",
    }
    found = read(tmp_path, [], [tensor(name, 4, at=32 * at) for at, name in enumerate(names)])
    assert [one.module for one in checkpoint_of(found, "llama").tensors] == list(names.values())
