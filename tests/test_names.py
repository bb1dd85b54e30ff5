"""Names with parts: made and read in one module, and the same in text, in a pickle and in code that a trace wrote."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plandsl.backends.cost.time.trace import trace
from plandsl.ir import names
from plandsl.ir.names import (
    EMBEDDING,
    HEAD,
    RECV,
    SEND,
    Blocks,
    Places,
    RegionName,
    RegionRun,
    axes_of,
    block_name,
    group_of,
    has_places,
    read_dim_name,
    read_places,
    read_region_name,
    region_of,
    stem,
)

ROOT = Path(__file__).parents[1]
REGIONS = (EMBEDDING, HEAD, SEND, RECV, block_name(), block_name("dense"))
FOLDERS = ("plandsl/ir", "plandsl/testing", "passes", "backends")
"""Their modules meet these names; elsewhere `:` stands between other things."""

PART = re.compile(r"(block|send|recv)[.:]\w*|\w+:\d+")
"""A piece of the text of a name: ``block.``, ``experts:8``."""

TAKES_REGION = ("Region", "Part", "region", "slots_of")


def texts(tree: ast.Module) -> Iterator[ast.AST]:
    """Where the text of a name is put together, taken apart, or stands for the name."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(str(text)) if PART.fullmatch(text):
                yield node
            case ast.JoinedStr(parts) if any(is_colon(part) for part in parts[:-1]):
                yield node
            case ast.Call(ast.Attribute(attr="partition" | "rpartition" | "split"), args) if any(map(is_sign, args)):
                yield node
            case ast.Call(ast.Attribute(ast.Constant("*"), "join")):
                yield node
            case ast.Call(ast.Name(called) | ast.Attribute(attr=called), args) if called in TAKES_REGION:
                yield from (arg for arg in args if is_region(arg) or isinstance(arg, ast.JoinedStr))
            case ast.Compare(left, _, others):
                sides = (left, *others)
                if is_colon(left) or any(isinstance(s, ast.Attribute) and s.attr in ("name", "region") for s in sides):
                    yield from (inner for s in sides for inner in ast.walk(s) if is_colon(inner) or is_region(inner))
            case ast.Subscript(slice=key) if is_region(key):
                yield node


def is_colon(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == ":"


def is_sign(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in (":", "*")


def is_region(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in REGIONS


def test_only_one_module_knows_the_text_of_names() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path != Path(names.__file__)]
    found = [(path, ast.unparse(node)) for path in paths for node in texts(ast.parse(path.read_text("utf-8")))]
    assert len(paths) > 100
    assert not found


@pytest.mark.parametrize(
    "wrong",
    [
        'region.name == "head"',
        'part.region in ("embedding", "head")',
        'program.region("send")',
        'Part("recv")',
        'seconds["block"]',
        'f"block.{name}"',
        'name.removeprefix("block.")',
        'f"{experts}:{chosen}"',
        'place.partition(":")',
        '":" in name',
        'axis.split("*")',
        '"*".join(axes)',
        'Dim("experts:8")',
    ],
)
def test_the_text_of_a_name_is_found(wrong: str) -> None:
    assert list(texts(ast.parse(wrong)))


@pytest.mark.parametrize("name", REGIONS, ids=str)
def test_names_of_regions_keep_their_block(name: RegionName) -> None:
    for again in (read_region_name(str(name)), pickle.loads(pickle.dumps(name)), copy.deepcopy(name)):
        assert (type(again), again, again.block) == (RegionName, name, name.block)


def test_the_own_word_of_a_region_is_the_name_of_its_block() -> None:
    assert [name.own for name in REGIONS] == ["embedding", "head", "send", "recv", "", "dense"]


def test_blocks_keep_their_axes() -> None:
    blocks = Blocks(("a", "b"))
    assert str(blocks) == "blocks.a.b"
    for again in (read_dim_name("blocks.a.b"), pickle.loads(pickle.dumps(blocks)), copy.deepcopy(blocks)):
        assert isinstance(again, Blocks)
        assert (again, again.axes) == (blocks, ("a", "b"))
    for wrong in ("blocks.", "blocks.a..b"):
        with pytest.raises(ValueError, match="not a dimension of blocks"):
            read_dim_name(wrong)


def test_places_keep_their_parts() -> None:
    places = Places("experts", 8)
    assert str(places) == "experts:8"
    for again in (read_places("experts:8"), read_dim_name("experts:8"), pickle.loads(pickle.dumps(places))):
        assert isinstance(again, Places)
        assert (again, again.experts, again.chosen) == (places, "experts", 8)
    assert (stem(places), stem("experts")) == ("experts", "experts")
    assert (has_places(("batch", places)), has_places(("batch", "experts"))) == (True, False)
    with pytest.raises(ValueError, match="not the dimension of a token's experts: experts:all"):
        read_places("experts:all")


@pytest.mark.parametrize("axes", [(), ("a",), ("a", "b")], ids=str)
def test_groups_keep_their_axes(axes: tuple[str, ...]) -> None:
    assert axes_of(group_of(axes)) == axes


def test_a_run_is_of_a_region() -> None:
    assert [
        region_of(run) for run in (HEAD, RegionRun(SEND, near=True), RegionRun(HEAD, near=False, kinds=(0, 1)))
    ] == [
        HEAD,
        SEND,
        HEAD,
    ]


def test_code_of_a_trace_keeps_the_names_of_runs() -> None:
    runs = (block_name("dense"), RegionRun(SEND, near=True))
    times = trace(lambda x: {run: [x + 1] for run in runs}, "x")(2)
    assert times == {run: [3] for run in runs}
    assert [region_of(run).block for run in times] == ["dense", None]
