"""Folders of checkpoints: what their index may say, how many files and tensors they may have, and unusual tensors."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from plandsl import limits
from plandsl.grammar.headers import INDEX, Unreadable, read_folder
from plandsl.grammar.headers_gguf import _Reader, read_gguf
from tests.checkpoints import (
    FFN,
    GGUF_TYPES,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    Shapes,
    fp8_blocks,
    gguf_llama,
    gptq,
    llama,
    write_folder,
    write_gguf,
    write_safetensors,
)
from tests.test_headers import compiled, findings, weights

UP, UP_BYTES = "model.layers.2.mlp.up_proj", 2 * FFN * HIDDEN


def messages(folder: Path, call: str = 'hf("tiny")') -> list[str]:
    return [note.message for note in compiled(folder, call).notes]


# ---- an index and its files


def a_place(n: int) -> dict[str, str]:
    return {f"t{i}": f"f{i}.safetensors" for i in range(n)}


@pytest.mark.parametrize(
    ("index", "bounds", "why"),
    [
        ({}, {}, 'no "weight_map"'),
        ({"weight_map": {}}, {}, 'no "weight_map"'),
        ({"weight_map": ["a.safetensors"]}, {}, 'no "weight_map"'),
        ({"weight_map": a_place(1), "metadata": {"total_size": "many"}}, {}, 'no number of bytes: "many"'),
        ({"weight_map": a_place(1), "metadata": {"total_size": True}}, {}, "no number of bytes: true"),
        ({"weight_map": a_place(1), "metadata": {"total_size": -1}}, {}, "no number of bytes: -1"),
        ({"weight_map": a_place(1), "metadata": {"total_size": 0.5}}, {}, "no number of bytes: 0.5"),
        ({"weight_map": a_place(3)}, {"tensors": 2}, "names more than 2 tensors"),
        ({"weight_map": a_place(3)}, {"shards": 2}, f"{INDEX}: it names more than 2 files"),
        ({"weight_map": a_place(3)}, {"header_bytes": 20}, "bytes, and an index has at most 20"),
    ],
)
def test_an_index_that_says_too_much_or_nothing_is_refused(
    tmp_path: Path, index: Any, bounds: dict[str, int], why: str
) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with limits.override(bounds), pytest.raises(Unreadable, match=INDEX) as raised:
        read_folder(tmp_path, tmp_path)
    assert why in str(raised.value)
    assert ("--max" in raised.value.hint) == bool(bounds)


ONE: Shapes = {"a": ("BF16", (2,)), "b": ("BF16", (2,))}
OTHER: Shapes = {"c": ("BF16", (2,)), "d": ("BF16", (2,))}


def write_shards(folder: Path, *parts: Shapes) -> None:
    for n, part in enumerate(parts, 1):
        write_safetensors(folder / f"model-0000{n}-of-0000{len(parts)}.safetensors", part)


@pytest.mark.parametrize(
    ("parts", "bounds", "why"),
    [
        (
            (ONE, OTHER, {"a": ("F32", (1,))}),
            {},
            'model-00003-of-00003.safetensors: another file has the tensor "a" too',
        ),
        ((ONE, OTHER), {"shards": 1}, "more than 1 files of weights"),
        ((ONE, OTHER), {"tensors": 3}, "model-00002-of-00002.safetensors: the checkpoint has more than 3 tensors"),
        ((ONE,), {"tensors": 1}, "model-00001-of-00001.safetensors: it has more than 1 tensors"),
    ],
)
def test_files_with_too_many_tensors_are_refused(
    tmp_path: Path, parts: tuple[Shapes, ...], bounds: dict[str, int], why: str
) -> None:
    write_shards(tmp_path, *parts)
    with limits.override(bounds), pytest.raises(Unreadable) as raised:
        read_folder(tmp_path, tmp_path)
    assert why in str(raised.value)


def test_files_without_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, ONE, OTHER)
    found = read_folder(tmp_path, tmp_path)
    assert found is not None
    assert [tensor.name for tensor in found.tensors] == ["a", "b", "c", "d"]


def test_a_file_must_have_what_its_index_places_there(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f.safetensors", ONE)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(("a", "b", "z"), "f.safetensors")}))
    with pytest.raises(Unreadable, match=f'f.safetensors: it has no tensor "z", which {INDEX} places there'):
        read_folder(tmp_path, tmp_path)


def test_a_folder_without_weights_has_the_formats_of_its_config(tmp_path: Path) -> None:
    size = write_folder(tmp_path / "tiny", llama())
    (tmp_path / "tiny" / "model.safetensors").unlink()
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == size
    assert not [note for note in plan.notes if note.code == "N486"]


def test_an_index_that_states_the_right_bytes_is_not_remarked_on(tmp_path: Path) -> None:
    size = write_folder(tmp_path / "tiny", llama())
    (tmp_path / "tiny" / "model.safetensors").unlink()
    places = dict.fromkeys(llama(), "absent.safetensors")
    for total, remarked in ((size, False), (2 * size, True), (0, False)):
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (tmp_path / "tiny" / INDEX).write_text(json.dumps(index))
        assert any("the index states" in message for message in messages(tmp_path)) == remarked


def test_a_part_of_a_weight_is_no_contradiction_where_files_are_absent(tmp_path: Path) -> None:
    """The other part of a merged weight may be in a file that is not there."""
    tensors = llama() | {f"{UP}.weight": ("BF16", (FFN // 2, HIDDEN))}
    write_folder(tmp_path / "tiny", tensors)
    assert findings(tmp_path, 'hf("tiny")')[0][0] == "E486"
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors") | {"more": "absent.safetensors"}}
    (tmp_path / "tiny" / INDEX).write_text(json.dumps(index))
    assert any('the file of "more" is not there' in message for message in messages(tmp_path))


# ---- GGUF


def test_the_parts_of_a_gguf_file_are_counted(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"m-00001-of-00000\.gguf: a model has 1 to 2,000 files"):
        read_gguf(tmp_path / "m-00001-of-00000.gguf", tmp_path)
    write_gguf(tmp_path / "m.gguf", gguf_llama())
    with limits.override({"tensors": len(gguf_llama())}):
        read_gguf(tmp_path / "m.gguf", tmp_path)
    for n, part in enumerate((ONE, OTHER)):
        write_gguf(tmp_path / f"m-0000{n + 1}-of-00002.gguf", f32(part), {"split.no": n, "split.count": 2})
    with limits.override({"tensors": 3}), pytest.raises(Unreadable, match="the model has more than 3 tensors"):
        read_gguf(tmp_path / "m-00001-of-00002.gguf", tmp_path)


def f32(tensors: Shapes) -> Shapes:
    return {name: ("F32", shape) for name, (_, shape) in tensors.items()}


def test_a_gguf_file_that_shrinks_while_it_is_read_is_refused() -> None:
    with pytest.raises(Unreadable, match="its header is cut off"):
        _Reader(io.BytesIO(b"GGUF\3\0"), 100).read()


def test_a_gguf_file_without_an_embedding_lacks_its_vocabulary(tmp_path: Path) -> None:
    tensors = gguf_llama()
    del tensors["token_embd.weight"]
    write_gguf(tmp_path / "m.gguf", tensors)
    ((code, message),) = findings(tmp_path, 'gguf("m.gguf")')
    assert (code, "vocab_size" in message) == ("E207", True)


def test_a_gguf_tensor_has_the_elements_and_a_format_of_its_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_llama() | {"blk.2.ffn_up.weight": ("F16", (FFN, HIDDEN // 2))})
    ((code, message),) = findings(tmp_path, 'gguf("m.gguf")')
    assert (code, "`w_up` has 131,072 elements by its config" in message) == ("E486", True)
    monkeypatch.setitem(GGUF_TYPES, "I16", (25, 1, 2))
    write_gguf(tmp_path / "m.gguf", gguf_llama("F16", "F16") | {"blk.2.ffn_up.weight": ("I16", (FFN, HIDDEN))})
    assert weights(compiled(tmp_path, 'gguf("m.gguf")')) > 0


# ---- tensors and their weights


def test_a_head_that_is_stored_and_tied_counts_once(tmp_path: Path) -> None:
    size = write_folder(tmp_path / "tiny", llama(), tie_word_embeddings=True)
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == size - 2 * 1000 * HIDDEN
    assert any('"lm_head.weight" is stored, but tied to the embedding' in note.message for note in plan.notes)


def test_biases_are_counted_where_the_config_has_them(tmp_path: Path) -> None:
    biases: Shapes = {
        f"model.layers.{n}.self_attn.{name}_proj.bias": ("BF16", (heads * HEAD_DIM,))
        for n in range(LAYERS)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
    } | {f"model.layers.{n}.self_attn.o_proj.bias": ("BF16", (HIDDEN,)) for n in range(LAYERS)}
    size = write_folder(tmp_path / "tiny", llama() | biases, attention_bias=True)
    assert weights(compiled(tmp_path, 'hf("tiny")')) == size
    without = write_folder(tmp_path / "tiny", llama())
    write_folder(tmp_path / "tiny", llama() | biases)
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == without
    assert any(f"15 more tensors ({size - without:,} bytes) have no place" in note.message for note in plan.notes)


def test_scales_alone_are_no_weight(tmp_path: Path) -> None:
    tensors = llama(fp8_blocks)
    del tensors[f"{UP}.weight"]
    write_folder(tmp_path / "tiny", tensors)
    assert any("no tensor of the checkpoint holds `w_up` of layer 2" in message for message in messages(tmp_path))


@pytest.mark.parametrize(
    ("tensors", "bits"),
    [
        ({"weight": ("F8_E4M3", (FFN, HIDDEN)), "weight_scale": ("F32", (FFN, 2, 1))}, 8 + 32 * 2 / HIDDEN),
        ({"weight_packed": ("U8", (FFN, HIDDEN // 2)), "weight_scale": ("F8_E4M3", (FFN, HIDDEN // 16))}, 4.5),
        ({"weight_packed": ("U8", (FFN, HIDDEN // 2)), "weight_scale": ("U8", (FFN, HIDDEN // 32))}, 4.25),
        (gptq(2, "", FFN, HIDDEN), None),
    ],
    ids=["scales with three dimensions", "nvfp4", "mxfp4", "gptq"],
)
def test_a_format_is_told_by_its_tensors_alone(tmp_path: Path, tensors: Shapes, bits: float | None) -> None:
    """The config does not say how the weight is quantised."""
    every = llama()
    del every[f"{UP}.weight"]
    size = write_folder(
        tmp_path / "tiny", every | {f"{UP}.{name.lstrip('.')}": shape for name, shape in tensors.items()}
    )
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == pytest.approx(size)
    assert bits is None or bits * FFN * HIDDEN / 8 == size - write_folder(tmp_path / "tiny", every)


def test_bits_that_no_format_has_are_told(tmp_path: Path) -> None:
    every = llama()
    del every[f"{UP}.weight"]
    packed: Shapes = {f"{UP}.qweight": ("I32", (HIDDEN // 16, FFN)), f"{UP}.scales": ("F16", (2, FFN))}
    size = write_folder(tmp_path / "tiny", llama())
    write_folder(tmp_path / "tiny", every | packed)
    plan = compiled(tmp_path, 'hf("tiny")')
    why = f'"{UP}.qweight" has the type I32 with 2 bits for an element, which is no format of weights'
    assert why in [note.message for note in plan.notes]
    assert weights(plan) == size  # as the config says
