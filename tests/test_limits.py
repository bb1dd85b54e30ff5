"""Every bound has a name, is read when it is asked for, and is raised by the hint of its message."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plandsl import limits
from plandsl.cli import main
from plandsl.codes import CODES
from plandsl.diagnostics import Diagnostic, PlanError
from plandsl.driver import compile_file
from plandsl.limits import DEFAULTS, LARGEST, VARIABLE, current, override

ROOT = Path(__file__).parents[1]

CLASS = "\nclass {} {{ share = 50 %, input = 9 }}"
LOAD = "workload { input = 100, output = 10, batch = 2 }"
PARTS = f"model = llama_3_1_8b, node = h100_2, {LOAD}"
SPARSE = """model m = llama_3_1_8b with { layers = 2, experts = 8, expert_ffn = 64
  block x[tokens, hidden] {
    h = rms_norm(x)
    y = experts(h, w_router[hidden, experts], top_k = 2) {
      silu(h @ w_up[hidden, expert_ffn]) @ w_down[expert_ffn, hidden]
    }
    x = x + y
  }
}
"""


def plan(extra: str = "", parts: str = PARTS) -> str:
    return f"plan p {{ {parts}\n  {extra}\n}}\n"


def traffic(fields: str) -> str:
    return plan(parts=f"model = llama_3_1_8b, node = h100_2, engine = vllm, workload {{ output = 10, {fields} }}")


CASES: dict[str, tuple[int, str]] = {
    "file_bytes": (90_000, plan() + "#" + 90_000 * "-"),
    "digits": (3, plan("step_tokens = 4096")),
    "nesting": (1, plan("step_tokens = (((8192)))")),
    "chain": (3, "let a = 1 + 1 + 1 + 1 + 8192\n" + plan("step_tokens = a")),
    "expansion": (2, "let a = 8192\nlet b = a\nlet c = b\nlet d = c\n" + plan("step_tokens = d")),
    "work": (20, plan()),
    "layers": (31, plan().replace("llama_3_1_8b", "llama_3_1_8b with { layers = 32 }")),
    "statements": (2, SPARSE + plan(parts=PARTS.replace("llama_3_1_8b", "m"))),
    "dimension": (99, plan()),
    "experts": (7, SPARSE + plan(parts=PARTS.replace("llama_3_1_8b", "m"))),
    "balanced": (31, plan("sharding { pp = 2, cut = balanced }")),
    "images": (2, plan().replace("input = 100", "input = 10_000, images = 3, image_tokens = 64")),
    "ranks": (1, plan("sharding { tp = 2 }")),
    "axes": (1, plan("sharding { mesh a = 2, b = 1; heads -> a }")),
    "rules": (1, plan("sharding { mesh a = 2; heads -> a; ffn -> a }")),
    "count": (1, "node n = h100_2 with { count = 2 }\n" + plan(parts=PARTS.replace("h100_2", "n"))),
    "chunks": (1, plan("overlap = split, chunks = 2")),
    "drafted": (1, plan("speculate { draft = llama_3_2_1b, tokens = 2, acceptance = 80 % }")),
    "graphs": (2, "engine e = vllm with { graph_sizes = [1, 2, 4] }\n" + plan("engine = e")),
    "bounds": (1, "engine e = vllm with { limits { memory = [70 GiB, 90 GiB], step_tokens = [1, 2, 3] } }\n" + plan()),
    "tiers": (1, "engine e = vllm with { kv_tiers = [\"host\", \"host\"] }\n" + plan("engine = e")),
    "steps": (1, traffic("input = 100, requests = 9, rate = [[0 s, 1 req/s], [9 s, 2 req/s]]")),
    "classes": (1, traffic("rate = 1 req/s, requests = 9" + CLASS.format("a") + CLASS.format("b"))),
    "turns": (1, traffic("input = 9, rate = 1 req/s, requests = 9, sessions { turns = 2 }")),
    "zipf": (50, traffic("input = zipf(1.2, max = 60), rate = 1 req/s, requests = 9")),
    "plans": (1, plan() + plan().replace("plan p", "plan q")),
    "values": (3, "search s { " + PARTS + "\nvary batch in 1..9 by * 2 }\n" + plan()),
    "trace_line": (10, traffic("trace = \"t.csv\"").replace("output = 10, ", "")),
    "trace_bytes": (90, traffic("trace = \"t.csv\"").replace("output = 10, ", "")),
    "table_bytes": (10, plan("measured = \"gemm.csv\"")),
    "tables": (1, plan("measured = [\"gemm.csv\", \"gemm.csv\"]")),
    "files": (1, "use \"a.plan\"\nuse \"b.plan\"\n" + plan()),
}  # fmt: skip
"""For each limit a value, and a text that goes beyond it."""

TRACE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n2023-11-16 18:17:04.0319600,396,109\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(TRACE)
    (tmp_path / "gemm.csv").write_text("m,n,k,dtype,time_s\n8,8,8,bf16,0.001\n")
    for name in "ab":
        (tmp_path / f"{name}.plan").write_text(f"let {name} = 1\n")
    return tmp_path


def findings(path: Path) -> tuple[Diagnostic, ...]:
    """The errors of a file."""
    try:
        compile_file(path)
    except PlanError as error:
        return error.diagnostics
    return ()


def of_limit(found: tuple[Diagnostic, ...], name: str) -> list[tuple[str, int]]:
    """The code of each diagnostic whose hint raises a limit, with the value that it raises it to."""
    hints = ((d.code, re.search(rf"--max {name}=(\d+)`", d.hint)) for d in found)
    return [(code, int(match[1])) for code, match in hints if match]


@pytest.mark.parametrize("name", CASES)
def test_a_message_names_its_limit_and_its_hint_ends_the_message(name: str, folder: Path) -> None:
    value, text = CASES[name]
    (folder / "p.plan").write_text(text)
    assert not of_limit(findings(folder / "p.plan"), name)
    for _ in range(20):  # where a message cannot say what is needed, it says twice the limit
        with override({name: value}):
            found = of_limit(findings(folder / "p.plan"), name)
        if not found:
            break
        assert {code for code, _ in found} <= set(DEFAULTS[name].codes)
        assert min(raised for _, raised in found) > value
        value = max(raised for _, raised in found)
    assert value != CASES[name][0], "there is a message"
    assert not found, "and its hint helps"
    assert current(name) == DEFAULTS[name]


def test_every_limit_has_the_name_of_its_constant_and_codes_that_are_explained() -> None:
    constants = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    assert {f"MAX_{name.upper()}": limit for name, limit in DEFAULTS.items()} == constants
    assert [limit.name for limit in DEFAULTS.values() if not set(limit.codes) <= set(CODES)] == []


def _reads(tree: ast.AST) -> list[int]:
    """Lines that read a limit when the module is imported: outside functions, and in defaults of their arguments."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for part in [
                *node.args.defaults,
                *filter(None, node.args.kw_defaults),
                *getattr(node, "decorator_list", ()),
            ]:
                found += [at.lineno for at in ast.walk(part) if _is_limit(at)]
            continue
        if _is_limit(node) or (isinstance(node, ast.ImportFrom) and node.module == "plandsl.limits"
                               and any(name.name.startswith("MAX_") for name in node.names)):  # fmt: skip
            found.append(node.lineno)
        found += _reads(node)
    return found


def _is_limit(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "limits" and (
        node.attr.startswith("MAX_"))  # fmt: skip


def test_no_module_keeps_a_copy_of_a_limit() -> None:
    paths = [path for folder in ("grammar", "passes", "backends", "plandsl") for path in (ROOT / folder).rglob("*.py")]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths if not path.parent.is_symlink()}
    found = {name: _reads(ast.parse(text)) for name, text in texts.items() if "limits" in text and "MAX_" in text}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ("layer=9", "E620", "did you mean `layers`?"),
        ("=9", "E620", "docs/language.md#limits"),
        ("layers=0", "E621", "it is 10000 unless it is set"),
        ("layers=-1", "E621", "found `-1`"),
        ("layers=1e9", "E621", "found `1e9`"),
        ("layers=\u0663", "E621", "a whole number"),
        (f"layers={LARGEST + 1}", "E621", "a whole number"),
        ("layers", "E621", "NAME=NUMBER"),
    ],
)
def test_a_wrong_limit_is_a_diagnostic(given: str, code: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--max", given]) == 2
    told = capsys.readouterr().err
    assert f"error[{code}]" in told
    assert says in told


OPTIONS = {
    "seeds": ["simulate", "--seeds", "3"],
    "verified": ["verify", "--set", "model.layers=1", "--steps", "2"],
    "trace_steps": ["export", "--to", "perfetto", "--steps", "2", "-o", "x.json"],
}
"""The name of a limit -> a command line whose last number is the option. A limit of one less refuses it."""


@pytest.mark.parametrize("name", OPTIONS)
def test_the_limit_of_an_option_is_raised_by_its_hint(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    load = "rate = 1 req/s, requests = 2, seed = 1" if name == "seeds" else "batch = 1"
    (folder / "p.plan").write_text(
        plan(parts=f"{PARTS.partition(', work')[0]}, workload {{ input = 4, output = 3, {load} }}")
    )
    verb, *words = OPTIONS[name]
    most = next(int(word) for word in reversed(words) if word.isdigit())
    assert main([verb, "p.plan", *words, "--max", f"{name}={most - 1}"]) == 2
    assert f"--max {name}={most}`" in capsys.readouterr().err
    assert main([verb, "p.plan", *words, "--max", f"{name}={most}"]) == 0


def test_the_command_line_sets_limits_for_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "p.plan"
    path.write_text(plan().replace("llama_3_1_8b", "llama_3_1_8b with { layers = 10_001 }"))
    assert main(["check", str(path)]) == 2
    assert "`layers` must be at most 10,000, found 10,001" in capsys.readouterr().err
    assert main(["check", str(path), "--max", "layers=10_001", "--max", "files=9"]) == 0
    assert main(["check", str(path)]) == 2
    assert VARIABLE not in os.environ


def test_processes_have_the_limits_of_the_process_that_starts_them() -> None:
    def child(**more: str) -> subprocess.CompletedProcess[str]:
        code = "from plandsl import limits; print(limits.MAX_LAYERS, limits.MAX_RANKS)"
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True, check=False
        )

    with override({"layers": 7}), override({"ranks": "8"}):
        assert child().stdout == "7 8\n"
    assert "E620" in child(**{VARIABLE: "layer=7"}).stderr


def test_what_is_kept_of_a_trace_follows_the_limits(folder: Path) -> None:
    (folder / "p.plan").write_text(CASES["trace_line"][1])
    assert findings(folder / "p.plan") == ()
    with override({"trace_line": 10}):
        assert {d.code for d in findings(folder / "p.plan")} == {"E452"}
    assert findings(folder / "p.plan") == ()
