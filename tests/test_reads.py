"""A plan reads files in the folder of its root file and below, ordinary ones, and no others, whatever names them."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from plandsl.diagnostics import Diagnostic
from plandsl.driver import compile_module, open_file
from plandsl.files import open_ordinary
from tests.checkpoints import gguf_llama, write_gguf
from tests.draws import some
from tests.isolation import GEMMS, ROOT

LOAD = "input = 512, output = 16, requests = 10"
MODEL, NODE = "model = llama_3_1_8b", "node = h100_1"
LENGTHS = "input_length\n" + "100\n200\n"
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,10\n1,200,20\n"


def plan(load: str = LOAD + ", rate = 2 req/s", model: str = MODEL, node: str = NODE, more: str = "") -> str:
    return f"plan p {{ {model}, {node}, engine = vllm {more}\n  workload {{ {load} }}\n}}\n"


class Word(NamedTuple):
    """A word that names a file: where the grammar reads it, the name of the file, a text with its path."""

    read: str
    name: str
    text: Callable[[str], str]


WORDS = {
    "use": Word("files._use", "x.plan", lambda path: f'use "{path}"\n{plan()}'),
    "measured": Word("measured._table", "x.csv", lambda path: plan(more=f'\n  measured = "{path}"')),
    "gpu.measured": Word(
        "measured._table", "x.csv", lambda path: plan(node=f'node = h100_1 with {{ gpu {{ measured = "{path}" }} }}')
    ),
    "hf": Word("hf.import_model", "x.json", lambda path: plan(model=f'model = hf("{path}")')),
    "gguf": Word("hf.import_model", "x.gguf", lambda path: plan(model=f'model = gguf("{path}")')),
    "trace": Word("traffic._trace", "x.csv", lambda path: plan(f'trace = "{path}", concurrency = 4')),
    "empirical": Word(
        "draws.read_distribution",
        "x.csv",
        lambda path: plan(f'input = empirical("{path}"), output = 16, requests = 9, rate = 1 req/s'),
    ),
    "trace_rate": Word(
        "arrivals._called", "x.csv", lambda path: plan(f'{LOAD}, rate = trace_rate("{path}", bin = 1 s)')
    ),
}
"""Each word of the language that names a file."""


def write_file_of(word: str, path: Path) -> None:
    """A file that the word can read."""
    match WORDS[word].name, word:
        case "x.plan", _:
            path.write_text("let secret = 1\n")
        case "x.json", _:
            shutil.copy(ROOT / "tests" / "configs" / "llama_3_1_8b.json", path)
        case "x.gguf", _:
            write_gguf(path, gguf_llama())
        case _:
            path.write_text(GEMMS if "measured" in word else TRACE if word.startswith("trace") else LENGTHS)


def test_the_words_are_those_of_the_grammar() -> None:
    """Whatever calls `locate`, or what calls it, has a word here."""
    found = set()
    for path in sorted((ROOT / "grammar").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name in ("read_file_name", "file"):
                continue
            calls = {ast.unparse(c.func) for c in ast.walk(function) if isinstance(c, ast.Call)}
            if calls & {"locate", "read_file_name", "arguments.file"}:
                found.add(f"{path.stem}.{function.name}")
    assert found == {word.read for word in WORDS.values()}


OPEN = re.compile(
    r"(?<![\w.])(?:open|os\.open|io\.open|os\.(?:scandir|listdir|walk)|np\.(?:load|fromfile|loadtxt))\("
    r"|[\w)]\.(?:read_text|read_bytes|iterdir|r?glob)\(|path\.open\("
)
"""A call that opens a file or lists a folder."""

OPENERS = {
    "plandsl/cli.py": "the null device",
    "plandsl/files.py": "reads and writes files for all others",
    "plandsl/editing/complete.py": "lists the folder of the root file",
    "plandsl/editing/words.py": "a file of the package",
    "plandsl/completion/__init__.py": "a file of the package",
    "plandsl/lsp/convert.py": "counts columns of a file that the compiler has read",
    "grammar/headers.py": "lists the folder of a checkpoint that was located",
    "grammar/hf_families.py": "files of the package",
    "grammar/modules.py": "the catalog",
    "grammar/build.py": "makes tables from the grammar",
}
"""Modules that plans reach and that open files or list folders themselves, and what they open."""


def test_no_other_module_opens_files() -> None:
    above = ("commands", "testing")  # these take names from the command line
    found = set()
    for top in ("grammar", "passes", "backends/cost", "backends/graphviz", "backends/reference", "plandsl"):
        for path in sorted((ROOT / top).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if place.startswith(
                ("plandsl/backends", "plandsl/grammar", "plandsl/passes", *(f"plandsl/{a}" for a in above))
            ):
                continue
            if OPEN.search(path.read_text()):
                found.add(place)
    assert found == set(OPENERS)


# ---- where a path may lead

SECRET = "the-secret"


def make_tree(word: str, top: Path) -> Path:
    """A tree with files that the word can read, links and other things; outside it, another such file."""
    tree = top / "tree"
    (tree / "inner" / "deep").mkdir(parents=True)
    name = WORDS[word].name
    ending = os.path.splitext(name)[1]
    outside = top / SECRET
    outside.mkdir()
    for path in (tree / name, tree / "inner" / name, outside / name, top / name):
        write_file_of(word, path)
    (tree / f"link{ending}").symlink_to(name)
    (tree / f"out{ending}").symlink_to(outside / name)
    (tree / f"relative{ending}").symlink_to(f"../{SECRET}/{name}")
    (tree / f"chain{ending}").symlink_to(f"chain1{ending}")
    (tree / f"chain1{ending}").symlink_to(f"out{ending}")
    (tree / f"loop{ending}").symlink_to(f"loop{ending}")
    (tree / f"nowhere{ending}").symlink_to("absent")
    (tree / "folder").symlink_to(outside)
    (tree / "back").symlink_to("inner")
    (tree / f"is_folder{ending}").mkdir()
    os.mkfifo(tree / f"pipe{ending}")
    (tree / f"device{ending}").symlink_to("/dev/zero")
    return tree


def paths(word: str, top: Path) -> dict[str, bool]:
    """Paths as a plan may write them, and whether they may be read."""
    name = WORDS[word].name
    ending = os.path.splitext(name)[1]
    good = [name, f"./{name}", f"inner/{name}", f"inner/../{name}", f"inner/deep/../../{name}", f"link{ending}",
            f"back/{name}", f"inner//{name}"]  # fmt: skip
    bad = [
        f"../{SECRET}/{name}", f"../{name}", f"inner/../../{SECRET}/{name}", f"folder/{name}", f"folder/../{name}",
        f"out{ending}", f"relative{ending}", f"chain{ending}", f"loop{ending}", f"nowhere{ending}", f"device{ending}",
        f"pipe{ending}", f"is_folder{ending}", f"absent{ending}", str(top / SECRET / name), str(top / "tree" / name),
        f"//{SECRET}/{name}", f"\\\\host\\{name}", f"C:{name}", f"file://{top}/{SECRET}/{name}", f"~/{name}",
        "..", ".", "/", "", "/etc/passwd", f"../{SECRET}", "folder", f"{'x/' * 3000}{name}", f"{'x' * 300}{ending}",
        f"{'../' * 50}etc/passwd",
        f"{name}/", f"{name.upper()}", f"X{ending}", f"%2e%2e/{SECRET}/{name}", f"nul\0{ending}",
        f"..\u2215{SECRET}\u2215{name}", f"$HOME/{name}", f"*{ending}",
    ]  # fmt: skip
    return dict.fromkeys(good, True) | dict.fromkeys(bad, False)


watching: list[list[str]] = []


def watch_opens(event: str, arguments: tuple[object, ...]) -> None:
    if watching and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes):
        watching[-1].append(os.fsdecode(arguments[0]))


sys.addaudithook(watch_opens)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The paths that are opened in the block."""
    found: list[str] = []
    watching.append(found)
    try:
        yield found
    finally:
        watching.remove(found)


def errors_of(root: Path, text: str) -> list[Diagnostic]:
    """What is wrong with a plan, found by reading all that it names."""
    root.write_text(text, "utf-8", errors="surrogateescape")
    module = open_file(str(root), [])
    try:
        for one in compile_module(module):
            one.estimate()
    except Exception as error:
        return list(getattr(error, "diagnostics", ())) or [Diagnostic("E999", repr(error))]
    return []


@pytest.mark.parametrize("of", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("word", WORDS)
def test_no_path_leads_out_of_the_tree(word, of, tmp_path) -> None:
    tree = make_tree(word, tmp_path)
    for path, may in some(list(paths(word, tmp_path).items()), of, "path", word):
        with opened() as read:
            found = errors_of(tree / "root.plan", WORDS[word].text(path))
        codes = {one.code for one in found}
        assert not found if may else codes & {"E209", "E100", "E101", "E102", "E109", "E210", "E485"}, (
            path[:80],
            codes,
        )
        assert "E999" not in codes, found
        assert not [one for one in read if SECRET in one or one.startswith(("/etc", "/dev"))], path[:80]


@pytest.mark.parametrize("word", WORDS)
def test_a_folder_that_becomes_a_link_after_it_was_checked_is_not_followed(word, tmp_path, monkeypatch) -> None:
    tree = make_tree(word, tmp_path)
    stat = Path.stat
    swapped = []

    def swap(path: Path, **more: bool) -> os.stat_result:
        found = stat(path, **more)
        if path == tree / "inner" / WORDS[word].name and not swapped:
            swapped.append(path)
            (tree / "inner").rename(tree / "away")
            (tree / "inner").symlink_to(tmp_path / SECRET)
        return found

    monkeypatch.setattr(Path, "stat", swap)
    found = errors_of(tree / "root.plan", WORDS[word].text(f"inner/{WORDS[word].name}"))
    assert swapped
    assert found
    assert "E999" not in {one.code for one in found}, found


def test_a_resolved_path_is_opened_without_following_links(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("fine")
    (tmp_path / "a" / "y").symlink_to("b/x")
    (tmp_path / "c").symlink_to("a")
    with open_ordinary(tmp_path / "a" / "b" / "x", resolved=True) as file:
        assert file.read() == b"fine"
    for path in ("a/y", "c/b/x"):
        with open_ordinary(tmp_path / path) as file:
            assert file.read() == b"fine"
        with pytest.raises(OSError, match=r"links|directory"), open_ordinary(tmp_path / path, resolved=True):
            pass
    for path in ("a", "a/b/absent"):
        with pytest.raises(OSError, match=r"ordinary|directory|No such"), open_ordinary(tmp_path / path, resolved=True):
            pass


def test_the_command_line_may_name_a_file_anywhere(tmp_path) -> None:
    """What a person names is read through links; what the file names stays in the tree where it lies."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "p.plan").write_text('use "beside.plan"\n' + plan())
    (tmp_path / "far" / "beside.plan").write_text("let y = 1\n")
    (tmp_path / "near.plan").symlink_to("far/p.plan")
    (tmp_path / "c.json").symlink_to(ROOT / "tests" / "configs" / "llama_3_1_8b.json")
    from plandsl.grammar.catalog import from_config

    assert not compile_module(open_file(str(tmp_path / "near.plan"), []))[0].spec.ranks > 1
    assert "model" in from_config(str(tmp_path / "c.json"))
