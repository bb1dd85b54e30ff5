"""Targets that read models: `config.json`, headers of safetensors files and their index."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from tests import checkpoints
from tests.fuzz.after import assert_finite, copied, seldom
from tests.fuzz.case import Case, Corpus, Target
from tests.fuzz.documents import shaken, spoiled
from tests.fuzz.mutate import mutate, mutate_one

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# ---- config.json


@cache
def _configs() -> tuple[str, ...]:
    return tuple(path.read_text("utf-8") for path in sorted(CONFIGS.glob("*.json")))


@cache
def _keys() -> dict[str, tuple[Any, ...]]:
    """Values of each field in the configs of the tests."""
    found: dict[str, list[Any]] = {}
    for text in _configs():
        for key, value in json.loads(text).items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: tuple(values) for key, values in found.items()}


QUANTISED = (
    {"quant_method": "gptq", "bits": 4, "group_size": 128}, {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "awq", "bits": 4, "group_size": 128}, {"quant_method": "mxfp4"},
    {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"},
     "targets": ["Linear"]}}, "ignore": ["lm_head", "re:.*mlp.gate$"]},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"quant_method": "none"},
)  # fmt: skip


def _draw_config(random: Random, corpus: Corpus) -> Case:
    if corpus and random.random() < 0.2:
        return mutate_one(random, corpus)
    config = json.loads(random.choice(_configs()))
    if random.random() < 0.2:
        config = shaken(config, random, 0.05)
    if random.random() < 0.3:
        key = random.choice(sorted(_keys()))
        config[key] = random.choice(_keys()[key])
    if random.random() < 0.15:
        config["quantization_config"] = random.choice(QUANTISED)
    if random.random() < 0.05:
        config = {
            "text_config": config,
            "architectures": config.get("architectures"),
            "vision_config": {"hidden_size": 64},
        }
    return Case({"config.json": spoiled(config, random)})


def _config(case: Case) -> object:
    """The text of the model, which is read again; a plan of it is estimated now and then."""
    from plandsl.diagnostics import PlanError
    from plandsl.driver import open_text
    from plandsl.grammar.hf import translate

    content = case.files["config.json"]
    made = translate(content, "config.json", "config.json")
    wrong = [one for one in made.found if one.severity == "error"]
    if not made.text:
        assert wrong, "no text, and no reason"
        raise PlanError(wrong)
    module = open_text(made.text)
    module.check()
    if module.errors:
        raise PlanError(module.errors, module.sources)
    if seldom(content, 16):
        estimate(made.text)
    return None


def estimate(text: str) -> None:
    """Estimate a plan of the model that a text declares; a model that fits no GPU is fine."""
    from plandsl.driver import compile_text

    name = next(line.split()[1] for line in text.splitlines() if line.startswith("model "))
    plan = "plan p { model = NAME, node = h200_8, sharding { tp = 1 }, workload { input = 64, output = 8, batch = 2 } }"
    (made,) = compile_text(text + plan.replace("NAME", name))
    assert_finite(made.estimate().as_json())


CONFIG = Target("config", "reader", _draw_config, _config, on_disk=False)


# ---- safetensors

NAMES = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight", "x", "", "é", "__metadata__")
PROJECTIONS = (
    checkpoints.plain, checkpoints.plain, checkpoints.fp8_blocks, checkpoints.gptq, checkpoints.packed,
    checkpoints.first_kept,
)  # fmt: skip


def _table(random: Random) -> dict[str, Any]:
    """The table of a header: the tensors of a small model, or a few of any name and type."""
    if random.random() < 0.6:
        tensors = checkpoints.llama(random.choice(PROJECTIONS))
    else:
        types = sorted(checkpoints.BITS_OF_TYPE)
        most = 16 if random.random() < 0.1 else 3
        tensors = {
            f"{random.choice(NAMES)}{i}": (
                random.choice(types),
                tuple(random.choice((0, 1, 3, 8, 8, 16, 48)) for _ in range(random.randint(0, most))),
            )
            for i in range(random.choice((0, 1, 5, 5, 40)))
        }
    table = {name: {"dtype": type_, "shape": list(shape)} for name, (type_, shape) in tensors.items()}
    _place(table, random)
    if random.random() < 0.5:
        table["__metadata__"] = random.choice(({"format": "pt"}, {}, {"a": "é" * 40}, {"format": "pt", "b": "1"}))
    return table


def _bits(entry: dict[str, Any]) -> int:
    return prod(entry["shape"]) * checkpoints.BITS_OF_TYPE[entry["dtype"]]


def _place(table: dict[str, Any], random: Random) -> None:
    """Give each tensor its bytes, one behind the other in some order. Those of half a byte get a dimension more."""
    at, names = 0, list(table)
    if random.random() < 0.3:
        random.shuffle(names)
    for name in names:
        entry = table[name]
        if _bits(entry) % 8:
            entry["shape"] = [*entry["shape"], 8]
        end = at + _bits(entry) // 8
        entry["data_offsets"] = [at, end]
        at = end


def _vary(table: dict[str, Any], random: Random) -> None:
    """Change one tensor to another that is as sound: its name, its type, its shape, its place."""
    names = [name for name in table if name != "__metadata__"]
    if not names:
        return
    name = random.choice(names)
    entry = table[name]
    match random.randrange(5):
        case 0:
            table[f"{random.choice(NAMES)}.{name}"] = table.pop(name)
        case 1:
            bits = checkpoints.BITS_OF_TYPE
            entry["dtype"] = random.choice([other for other in bits if bits[other] == bits[entry["dtype"]]])
        case 2:
            entry["shape"] = random.choice(([prod(entry["shape"])], entry["shape"][::-1], [1, *entry["shape"], 1]))
        case 3:
            other = random.choice(names)
            if _bits(table[other]) == _bits(entry):
                both = entry["data_offsets"], table[other]["data_offsets"]
                table[other]["data_offsets"], entry["data_offsets"] = both
        case _:
            table[name] = dict(random.sample(sorted(entry.items()), len(entry))) | {"more": [None]}


def _written(table: dict[str, Any], random: Random) -> str:
    """The table as JSON of one of several forms, filled up with spaces as writers do."""
    indent, ascii_ = random.choice((None, None, 1)), random.random() < 0.7
    text = json.dumps(table, indent=indent, ensure_ascii=ascii_)
    return text + " " * random.choice((0, -len(text.encode()) % 8, 100))


def _varied(random: Random, corpus: Corpus) -> Case:
    """One of the corpus whose header is changed as a table or as a text, and has the length that is told."""
    case = random.choice(corpus)
    content = case.files["model.safetensors"]
    text = content[8:]
    try:
        table = json.loads(text)
        for _ in range(random.choice((1, 1, 2, 4))):
            _vary(table, random)
        text = spoiled(table, random, lambda it: _written(it, random), share=0.27)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # a wrong header, of which there are some
        text = mutate(text, random)
    return Case({"model.safetensors": struct.pack("<Q", len(text)) + text}, case.argv)


def _draw_safetensors(random: Random, corpus: Corpus) -> Case:
    """A header, and the bytes that the file has behind it as a word of the case: they are a hole in the file."""
    if corpus and random.random() < 0.2:
        return _varied(random, corpus) if random.random() < 0.7 else mutate_one(random, corpus)
    table = _table(random)
    size = sum(_bits(entry) // 8 for name, entry in table.items() if name != "__metadata__")
    if random.random() < 0.3:
        for _ in range(random.choice((1, 2, 5))):
            _vary(table, random)
    text = spoiled(table, random, lambda it: _written(it, random), share=0.27)
    length = len(text)
    if random.random() < 0.04:
        length = random.choice((0, 1, 7, length + 1, length - 1, 2**31, 2**63, 2**64 - 1, 33_554_433))
    if random.random() < 0.04:
        size = random.choice((0, size + 1, max(size - 1, 0), 2**40))
    return Case({"model.safetensors": struct.pack("<Q", length % 2**64) + text}, (str(size),))


def _safetensors(case: Case) -> object:
    """The header alone; with a config beside it the model of the folder now and then."""
    from plandsl.diagnostics import Diagnostic, PlanError
    from plandsl.grammar.catalog import from_config
    from plandsl.grammar.headers import Unreadable, read_safetensors

    content = case.files["model.safetensors"]
    behind = int(case.argv[0])
    try:
        tensors = read_safetensors(io.BytesIO(content), len(content) + behind)
    except Unreadable as error:
        raise PlanError([Diagnostic("E485", str(error))]) from None
    assert sum(one.size for one in tensors) <= len(content) + behind
    if seldom(content, 8) and behind < 10**8:
        with copied("model.safetensors", content, behind) as path:
            path.with_name("config.json").write_text(json.dumps(checkpoints.CONFIG), encoding="utf-8")
            estimate(from_config(str(path.parent)))
    return len(tensors)


SAFETENSORS = Target("safetensors", "reader", _draw_safetensors, _safetensors, on_disk=False)


def _draw_index(random: Random, corpus: Corpus) -> Case:
    """An index and the files that it names, of which some may be missing."""
    if corpus and random.random() < 0.2:
        case = random.choice(corpus)
        one = random.choice(sorted(case.files))
        return Case(case.files | {one: mutate(case.files[one], random)})
    tensors = list(checkpoints.llama().items())[: random.choice((3, 5, 40))]
    parts = random.choice((1, 2, 3))
    names = [f"model-{n:05}-of-{parts:05}.safetensors" for n in range(1, parts + 1)]
    places = {name: random.choice(names) for name, _ in tensors}
    files, total = {}, 0
    for file in names:
        table, at = {}, 0
        for name, (type_, shape) in tensors:
            if places[name] == file:
                small = (4, *([8] * (len(shape) - 1)))
                table[name] = {"dtype": type_, "shape": list(small), "data_offsets": [at, at + 2 * prod(small)]}
                at += 2 * prod(small)
        total += at
        text = json.dumps(table).encode() if random.random() < 0.9 else spoiled(table, random)
        if random.random() < 0.9:
            files[f"m/{file}"] = struct.pack("<Q", len(text)) + text + bytes(at)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    return Case(files | {"m/model.safetensors.index.json": spoiled(index, random)})


def _index(case: Case) -> object:
    from plandsl.diagnostics import Diagnostic, PlanError
    from plandsl.grammar.headers import Unreadable, read_folder

    folder = Path("m").resolve()
    try:
        found = read_folder(folder, folder)
    except Unreadable as error:
        raise PlanError([Diagnostic("E485", str(error))]) from None
    assert found is None or 0 <= found.total < 2**63
    return found


INDEX = Target("index", "reader", _draw_index, _index)

MODELS = (CONFIG, SAFETENSORS, INDEX)
