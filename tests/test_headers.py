"""Headers of checkpoints: `hf("folder")` and `gguf("model.gguf")` count the bytes that the files have."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.driver import CompiledPlan, compile_file
from plandsl.grammar.headers import INDEX, Unreadable, read_safetensors
from plandsl.grammar.headers_gguf import read_gguf
from plandsl.grammar.hf_text import Kind, cover
from tests.checkpoints import (
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    METADATA,
    VOCAB,
    Projection,
    Shapes,
    first_kept,
    fp8_blocks,
    gguf_llama,
    gptq,
    header_bytes,
    llama,
    packed,
    plain,
    write_folder,
    write_gguf,
    write_safetensors,
)
from tests.fuzz.ggufs import shapes

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
PLAN = (
    "plan p {{ model = {call}, node = h100_2, sharding {{ {sharding} }}, workload {{ input = 100, output = 10 }} }}\n"
)


def compiled(folder: Path, call: str, sharding: str = "tp = 1") -> CompiledPlan:
    (folder / "p.plan").write_text(PLAN.format(call=call, sharding=sharding))
    (plan,) = compile_file(folder / "p.plan")
    return plan


def weights(plan: CompiledPlan) -> float:
    return plan.estimate().memory.weights


def findings(folder: Path, call: str) -> list[tuple[str, str]]:
    with pytest.raises(PlanError) as raised:
        compiled(folder, call)
    return [(d.code, d.message) for d in raised.value.diagnostics]


@pytest.mark.parametrize("projection", [plain, fp8_blocks, gptq, packed, first_kept])
def test_the_weights_of_a_folder_have_the_bytes_of_its_tensors(tmp_path: Path, projection: Projection) -> None:
    table = {"quantization_config": GPTQ} if projection is gptq else {}
    size = write_folder(tmp_path / "tiny", llama(projection), **table)
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == size
    assert ("N486" in [note.code for note in plan.notes]) == (projection not in (plain, gptq))


def test_ranks_split_what_the_headers_say(tmp_path: Path) -> None:
    norms = 2 * 256 * (2 * 4 + 1)
    size = write_folder(tmp_path / "tiny", llama(first_kept))
    assert weights(compiled(tmp_path, 'hf("tiny")', "tp = 2")) == (size - norms) / 2 + norms


def test_overrides_come_after_the_headers(tmp_path: Path) -> None:
    size = write_folder(tmp_path / "tiny", llama())
    call = 'hf("tiny") with { stored { w_down = fp8, w_up = fp8_128x128(8.5) } }'
    assert weights(compiled(tmp_path, call)) == size - 4 * 512 * 256 * (2 - 1) - 4 * 512 * 256 * (2 - 8.5 / 8)


def test_files_of_an_index_are_read_and_absent_ones_told(tmp_path: Path) -> None:
    tensors = llama(fp8_blocks)
    folder = tmp_path / "tiny"
    total = write_folder(folder, tensors)
    (folder / "model.safetensors").unlink()
    parts: dict[str, Shapes] = {"a.safetensors": {}, "b.safetensors": {}}
    for name, shape in tensors.items():
        parts["b.safetensors" if "layers.3" in name else "a.safetensors"][name] = shape
    index = {"metadata": {"total_size": total}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / INDEX).write_text(json.dumps(index))
    for name, part in parts.items():
        write_safetensors(folder / name, part)
    assert weights(compiled(tmp_path, 'hf("tiny")')) == total
    (folder / "b.safetensors").unlink()
    notes = [note.message for note in compiled(tmp_path, 'hf("tiny")').notes]
    assert any('"model.layers.3.self_attn.q_proj.weight" and of 15 more is not there' in note for note in notes)
    (folder / "a.safetensors").unlink()
    notes = [note.message for note in compiled(tmp_path, 'hf("tiny")').notes]
    assert any(f"the index states {total:,} bytes, but the formats of config.json give" in note for note in notes)


def test_a_shape_that_the_config_contradicts_names_its_tensor(tmp_path: Path) -> None:
    tensors = llama() | {"model.layers.2.mlp.up_proj.weight": ("BF16", (256, 256))}
    write_folder(tmp_path / "tiny", tensors)
    why = 'the tensor "model.layers.2.mlp.up_proj.weight" is 256 x 256 of type BF16, '
    why += "but `w_up` has 131,072 elements by its config"
    assert findings(tmp_path, 'hf("tiny")') == [("E486", why)]


def test_the_layer_that_predicts_further_tokens_is_found_by_its_name(tmp_path: Path) -> None:
    """Qwen 3.5 names it ``mtp.layers.0``; its bytes count in a plan that drafts with it."""

    def of(name: str) -> Shapes:
        more = {f"{name}.self_attn.{one}_norm.weight": ("BF16", (HEAD_DIM,)) for one in "qk"}
        return {f"{name}.self_attn.q_proj.weight": ("BF16", (2 * HEADS * HEAD_DIM, HIDDEN)), **more}

    main = llama()
    for layer in range(LAYERS):
        main |= of(f"model.layers.{layer}")
    first = {name: shape for name, shape in main.items() if name.startswith("model.layers.0.")}
    own: Shapes = {name.replace("model.", "mtp.", 1): shape for name, shape in first.items()}
    own["mtp.fc.weight"] = ("BF16", (HIDDEN, 2 * HIDDEN))
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        own[f"mtp.{name}.weight"] = ("BF16", (HIDDEN,))
    state = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 64}
    state |= {"linear_value_head_dim": 64, "linear_conv_kernel_dim": 4}
    config = {"architectures": ["Qwen3_5ForCausalLM"], "layer_types": ["full_attention"] * LAYERS} | state
    alone = write_folder(tmp_path / "tiny", main, **config)
    assert weights(compiled(tmp_path, 'hf("tiny")')) == alone
    both = write_folder(tmp_path / "tiny", main | own, **config, mtp_num_hidden_layers=1)
    plan = compiled(tmp_path, 'hf("tiny"), speculate { draft = mtp, tokens = 1, acceptance = 85 % }')
    assert not [note for note in plan.notes if "tensor" in note.message]
    assert weights(plan) == both - 2 * HIDDEN  # its last norm counts as that of the model, whose head it uses


def test_what_the_model_has_no_place_for_is_told(tmp_path: Path) -> None:
    tensors = llama() | {"visual.patch_embed.weight": ("BF16", (64, 64)), "model.layers.1.extra.weight": ("F32", (2,))}
    del tensors["model.layers.3.mlp.down_proj.weight"]
    write_folder(tmp_path / "tiny", tensors)
    notes = [note.message for note in compiled(tmp_path, 'hf("tiny")').notes]
    assert any('"visual.patch_embed.weight" and 1 more tensors (8,200 bytes) have no place' in note for note in notes)
    assert any("no tensor of the checkpoint holds `w_down` of layer 3" in note for note in notes)


def test_biases_of_the_head_and_of_norms_have_their_place(tmp_path: Path) -> None:
    """Phi 2 has biases everywhere; its head was refused, since they were counted with it."""

    def linear(name: str, outputs: int, inputs: int) -> Shapes:
        return {f"{name}.weight": ("F16", (outputs, inputs)), f"{name}.bias": ("F16", (outputs,))}

    def norm(name: str) -> Shapes:
        return {f"{name}.{part}": ("F16", (HIDDEN,)) for part in ("weight", "bias")}

    tensors: Shapes = {"model.embed_tokens.weight": ("F16", (VOCAB, HIDDEN))}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            tensors |= linear(f"{start}.self_attn.{name}", HIDDEN, HIDDEN)
        tensors |= linear(f"{start}.mlp.fc1", FFN, HIDDEN) | linear(f"{start}.mlp.fc2", HIDDEN, FFN)
        tensors |= norm(f"{start}.input_layernorm")
    tensors |= norm("model.final_layernorm") | linear("lm_head", VOCAB, HIDDEN)
    config = {"architectures": ["PhiForCausalLM"], "num_key_value_heads": HEADS, "torch_dtype": "float16"}
    size = write_folder(tmp_path / "tiny", tensors, hidden_act="gelu_new", **config)
    plan = compiled(tmp_path, 'hf("tiny")')
    assert weights(plan) == size
    assert "N486" not in [note.code for note in plan.notes]


# ---- GGUF


@pytest.mark.parametrize("family", ["phi3", "glm4", "starcoder2", "minimax-m2", "gpt-oss", "olmo2"])
def test_tensors_of_gguf_families_have_their_place(tmp_path: Path, family: str) -> None:
    """`ffn_up` of Phi 3 and GLM 4 has the rows of the gate too; StarCoder 2 has biases, MiniMax M2 other names."""
    tensors, metadata = shapes(Random(1), family, "Q4_K", "Q6_K")
    size = write_gguf(tmp_path / "m.gguf", tensors, {"general.architecture": family} | metadata)
    plan = compiled(tmp_path, 'gguf("m.gguf")')
    assert weights(plan) == size
    assert "N486" not in [note.code for note in plan.notes]


@pytest.mark.parametrize(("wide", "more"), [("Q4_K", "Q6_K"), ("IQ2_XXS", "Q4_K"), ("F16", "F16")])
def test_the_weights_of_a_gguf_file_have_the_bytes_of_its_tensors(tmp_path: Path, wide: str, more: str) -> None:
    size = write_gguf(tmp_path / "tiny.gguf", gguf_llama(wide, more))
    plan = compiled(tmp_path, 'gguf("tiny.gguf")')
    assert weights(plan) == size
    assert plan.spec.model.compute == ("fp16" if wide != "F16" else None)
    assert ("N485" in [note.code for note in plan.notes]) == (wide != "F16")


def test_a_model_in_several_gguf_files_is_one(tmp_path: Path) -> None:
    tensors = gguf_llama()
    names = list(tensors)
    total = 0
    for number, part in enumerate((names[:7], names[7:])):
        metadata = (METADATA if not number else {}) | {"split.no": number, "split.count": 2}
        path = tmp_path / f"tiny-0000{number + 1}-of-00002.gguf"
        total += write_gguf(path, {name: tensors[name] for name in part}, metadata)
    assert weights(compiled(tmp_path, 'gguf("tiny-00001-of-00002.gguf")')) == total
    (tmp_path / "tiny-00002-of-00002.gguf").unlink()
    ((code, message),) = findings(tmp_path, 'gguf("tiny-00001-of-00002.gguf")')
    assert (code, "tiny-00002-of-00002.gguf: No such file" in message) == ("E485", True)


def test_layers_with_more_bits_as_llama_cpp_chooses_them_need_few_blocks() -> None:
    for layers in (32, 48, 80):
        more = [n < layers // 8 or n >= 7 * layers // 8 or (n - layers // 8) % 3 == 2 for n in range(layers)]
        kinds = [Kind((), (("w_v", "q6_k"),) if flag else ()) for flag in more]
        found = cover(kinds)
        assert len(found) <= 6
        ranges = {kind: [] for kind in kinds}
        for kind, text in found[1:]:
            first, _, rest = text.partition("..")
            stop, _, step = rest.partition(" by ")
            ranges[kind] += range(int(first), int(stop), int(step or 1))
        other = found[1][0]
        assert sorted(ranges[other]) == [n for n in range(layers) if kinds[n] == other]


# ---- wrong and hostile files


def refusal(tmp_path: Path, data: bytes, size: int | None = None) -> str:
    path = tmp_path / "m"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(Unreadable) as raised:
        read_safetensors(file, len(data) if size is None else size)
    return str(raised.value)


def entry(*shape: int, type_: Any = "BF16", at: int = 0, size: int | None = None) -> dict[str, Any]:
    end = at + (2 * prod(shape) if size is None else size)
    return {"dtype": type_, "shape": list(shape), "data_offsets": [at, end]}


@pytest.mark.parametrize(
    ("table", "data", "why"),
    [
        ({"a": entry(2), "b": entry(2, at=2)}, 6, "overlaps"),
        ({"a": entry(2, at=4)}, 8, "gap"),
        ({"a": entry(2)}, 3, "bytes"),
        ({"a": entry(2, size=3)}, 3, "contradicts itself"),
        ({"a": entry(2, type_="F7")}, 4, "unknown type"),
        ({"a": entry(2, type_=["BF16"])}, 4, "unknown type"),
        ({"a": {"dtype": "BF16", "shape": [1.5], "data_offsets": [0, 3]}}, 3, "no whole numbers"),
        ({"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, -2]}}, 0, "no whole numbers"),
        ({"a": entry(2**40, 2**40, size=4)}, 4, "elements"),
        ({"a": 3}, 0, "no type and shape"),
        ([1], 0, "no JSON object"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path: Path, table: Any, data: int, why: str) -> None:
    assert why in refusal(tmp_path, header_bytes(table) + bytes(data))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": NaN}', "no valid JSON"),
        (b"[" * 100_000, "nests too deeply"),
        (b"\xff", "no valid JSON"),
    ],
)
def test_headers_that_are_no_json_are_refused(tmp_path: Path, text: bytes, why: str) -> None:
    assert why in refusal(tmp_path, struct.pack("<Q", len(text)) + text)


def test_lengths_beyond_the_file_or_the_limit_are_refused(tmp_path: Path) -> None:
    assert "the file ends after 0" in refusal(tmp_path, struct.pack("<Q", 2**63))
    assert "at most 33,554,432 are read" in refusal(tmp_path, struct.pack("<Q", 2**40), 2**41)
    assert "would have" in refusal(tmp_path, b"")


@settings(max_examples=12)
@given(st.data())
def test_a_changed_file_is_refused_or_read_and_never_a_traceback(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("changed")
    write_gguf(folder / "m.gguf", gguf_llama())
    write_safetensors(folder / "m", llama())
    for name in ("m.gguf", "m"):
        found = bytearray((folder / name).read_bytes()[:4000])
        for at in data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=3)):
            found[at] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(found[: data.draw(st.integers(0, len(found)))])
        with suppress(Unreadable):
            if name == "m":
                with (folder / name).open("rb") as file:
                    read_safetensors(file, 10_000_000)
            else:
                read_gguf(folder / name, folder)


@pytest.mark.parametrize(
    ("place", "count", "why"),
    [(8, 2**40, "at most 1,000,000"), (16, 2**40, "at most 1,000,000"), (4, 77, "version 77"), (0, 3, "GGUF")],
)
def test_counts_and_versions_of_gguf_files_are_bounded(tmp_path: Path, place: int, count: int, why: str) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_llama())
    found = bytearray((tmp_path / "m.gguf").read_bytes())
    found[place : place + 4] = struct.pack("<I", count % 2**32)
    found[place + 5] |= 255 if count > 2**32 else 0
    (tmp_path / "m.gguf").write_bytes(found)
    with pytest.raises(Unreadable, match=why):
        read_gguf(tmp_path / "m.gguf", tmp_path)


def test_pipes_folders_and_links_out_of_the_tree_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    write_safetensors(outside, llama())
    root = tmp_path / "root"
    write_folder(root / "tiny", llama())
    weights_file = root / "tiny" / "model.safetensors"
    for make, why in (
        (lambda: os.mkfifo(weights_file), "no ordinary file"),
        (lambda: weights_file.mkdir(), "Is a directory"),
        (lambda: weights_file.symlink_to(outside), "outside the folder"),
        (lambda: weights_file.symlink_to("nowhere"), "No such file"),
    ):
        (weights_file.rmdir if weights_file.is_dir() else weights_file.unlink)()
        make()
        ((code, message),) = findings(root, 'hf("tiny")')
        assert code == "E485"
        assert why in message
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (root / "tiny" / INDEX).write_text(json.dumps(index))
    assert "no name of a safetensors file" in findings(root, 'hf("tiny")')[0][1]


def test_paths_that_are_no_checkpoint_have_a_hint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert findings(tmp_path, 'hf("empty")')[0][0] == "E485"
    assert findings(tmp_path, 'hf("absent")')[0][0] == "E209"
    assert findings(tmp_path, 'gguf("m.bin")')[0][0] == "E209"
    assert findings(tmp_path, "gguf(3)")[0][0] == "E210"
    write_gguf(tmp_path / "m.gguf", gguf_llama(), {"general.architecture": "rwkv6"})
    assert findings(tmp_path, 'gguf("m.gguf")')[0][0] == "E231"
    write_gguf(tmp_path / "m.gguf", gguf_llama(), {"general.architecture": "llama", "llama.block_count": 4})
    assert {code for code, _ in findings(tmp_path, 'gguf("m.gguf")')} == {"E207"}


def test_a_first_plan_is_written_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "tiny", llama())
    monkeypatch.chdir(tmp_path)
    assert main(["init", "first.plan", "--model", "tiny", "--node", "h100_1"]) == 0
    assert 'model = hf("tiny")' in (tmp_path / "first.plan").read_text()
    assert main(["fmt", "--check", "first.plan"]) == 0


def test_the_catalog_command_prints_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "tiny", llama(first_kept))
    write_gguf(tmp_path / "tiny.gguf", gguf_llama())
    assert main(["catalog", "model", str(tmp_path / "tiny")]) == 0
    assert "stored as fp8_128x128 by the headers" in capsys.readouterr().out
    assert main(["catalog", "model", str(tmp_path / "tiny.gguf")]) == 0
    assert "weights = q4_k, activations = fp16" in capsys.readouterr().out
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert main(["catalog", "model", str(tmp_path / "tiny.gguf")]) == 2
    assert "E485" in capsys.readouterr().err


def test_a_snapshot_of_the_cache_of_hugging_face_is_read_through_its_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, snapshot = tmp_path / "models--a--tiny", tmp_path / "models--a--tiny" / "snapshots" / "0a1b"
    write_folder(cache / "blobs", llama(first_kept))
    snapshot.mkdir(parents=True)
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert main(["catalog", "model", str(snapshot)]) == 0
    assert "by the headers" in capsys.readouterr().out
    weights_file = snapshot / "model.safetensors"
    (tmp_path / "outside.safetensors").write_bytes(weights_file.read_bytes())
    weights_file.unlink()
    weights_file.symlink_to("../../../outside.safetensors")
    assert main(["catalog", "model", str(snapshot)]) == 2
    assert "E485" in capsys.readouterr().err
