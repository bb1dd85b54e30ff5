"""Texts of a plan, names of files and cells of tables stay data in whatever `planc` writes: no markup, no command."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from plandsl.diagnostics import visible
from plandsl.driver import compile_file
from plandsl.sheets import open_sheet
from tests.faults import run_here as run
from tests.isolation import GEMMS, ROOT

EVIL = "=1+1'$(touch PWNED)`touch PWNED`;touch PWNED&<img src=x onerror=alert(1)>]]>--{{7*7}}%s|\\N\\l"
"""What a shell, a page, a spreadsheet, Graphviz, a template or a format string would act on. Strings have no quotes."""

NAME = "=x'$(touch PWNED)`touch PWNED`<img src=x>&;\\"
"""The same, as the name of a file or a folder."""

SOURCE = f"""
model m = llama_3_1_8b with {{ source = "{EVIL}" }}
gpu g = h100_sxm with {{ source = "{EVIL}", price = 2 USD/h, price_source = "{EVIL}" }}
node n = h100_8 with {{ gpu = g, source = "{EVIL}" }}
plan p {{
  model = m, node = n, engine = vllm with {{ source = "{EVIL}" }}, sharding {{ tp = 2 }}
  workload {{ trace = "FOLDER/t.csv" }}
}}
plan q {{
  model = m, node = n, sharding {{ tp = 4 }}
  workload {{ input = 512, output = 64, batch = 4 }}
}}
search s {{ model = m, node = n, workload {{ input = 512, output = 64 }}, vary tp in [1, 2], batch in [1, 4] }}
"""
ENGINES = ("vllm", "sglang", "trtllm", "dynamo", "k8s")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a hostile plan in a file of a hostile name, and a trace in such a folder."""
    monkeypatch.chdir(tmp_path)
    place = NAME.replace("\\", "")
    (tmp_path / place).mkdir()
    (tmp_path / place / "t.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,10\n1,200,20\n")
    (tmp_path / plan_file()).write_text(SOURCE.replace("FOLDER", place))
    return tmp_path


def plan_file() -> str:
    return f"{NAME}.plan"


class Tags(HTMLParser):
    """Elements and handlers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def check_page(text: str) -> None:
    """No element or handler of the page comes from a hostile text."""
    for tag, attributes in Tags(text).found:
        assert tag != "img" or str(attributes["src"]).startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on")], attributes


def check_picture(text: str) -> None:
    """An SVG is well-formed, and has no element that acts."""
    for element in ElementTree.fromstring(text).iter():
        assert str(element.tag).rpartition("}")[2] not in ("img", "script", "foreignObject")
        assert not [name for name in element.attrib if name.startswith("on")]


@pytest.mark.slow
def test_pages_show_hostile_texts(folder, drawing) -> None:
    done = run("report", plan_file(), "-o", "out.html")
    assert done.status in (0, 1), done.err
    text = Path("out.html").read_text("utf-8")
    assert "touch PWNED" in text
    check_page(text)
    for blob in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        assert "<" not in blob


@pytest.mark.slow
def test_notebooks_show_hostile_texts(folder) -> None:
    for made in compile_file(plan_file()):
        estimate = made.estimate()
        check_page(estimate._repr_html_())
        check_page(made.explain()._repr_html_())


SLOW = pytest.mark.slow
VIEWS = ("devices", *(pytest.param(view, marks=SLOW) for view in ("communication", "block", "timeline", "memory")))


@pytest.mark.parametrize("view", VIEWS)
def test_pictures_show_hostile_texts(view, folder, drawing) -> None:
    for ending in ("svg", "dot"):
        done = run("render", plan_file(), "--plan", "q", "--view", view, "-o", f"out.{ending}")
        assert done.status == 0, done.err
    check_picture(Path("out.svg").read_text("utf-8"))


@pytest.mark.parametrize("target", ["vllm", *(pytest.param(name, marks=SLOW) for name in ENGINES[1:])])
def test_launch_files_run_no_hostile_text(target, folder) -> None:
    """A script is run with programs that do nothing; a manifest is read, if there is a library for that."""
    done = run("export", plan_file(), "--plan", "p", "--to", target, "-o", "out.sh")
    if done.status == 2:
        assert "error[E" in done.err
        return
    text = Path("out.sh").read_text("utf-8")
    if target in ("dynamo", "k8s"):
        yaml = pytest.importorskip("yaml")
        kinds = [one["kind"] for one in yaml.safe_load_all(text) if one]
        assert kinds
        return
    (folder / "bin").mkdir()
    for name in ("vllm", "python", "python3", "trtllm-serve", "sglang", "docker"):
        (folder / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (folder / "bin" / name).chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    subprocess.run([bash, "out.sh"], env=environment, cwd=folder, timeout=20, check=False, capture_output=True)
    assert not (folder / "PWNED").exists()
    for line in text.replace("\\\n", " ").splitlines():
        shlex.split(line, comments=True)  # no quote is left open


@pytest.mark.slow
def test_programs_have_hostile_texts_in_strings_and_comments_alone(folder) -> None:
    done = run("export", plan_file(), "--plan", "q", "--to", "jax", "--shrink", "-o", "out.py")
    assert done.status == 0, done.err
    calls = {ast.unparse(c.func) for c in ast.walk(ast.parse(Path("out.py").read_text())) if isinstance(c, ast.Call)}
    assert not [name for name in calls if "touch" in name or name in ("eval", "exec", "os.system")]


@pytest.mark.slow
def test_machine_forms_of_hostile_texts_can_be_read(folder) -> None:
    for words in (
        ["compile"], ["explain", "--plan", "q"], ["check", "--format", "sarif"], ["search"], ["catalog"],
        ["simulate", "--plan", "p"], ["compare-comm"], ["diff"],
    ):  # fmt: skip
        verb, *more = words
        file = [] if verb == "catalog" else [plan_file()]
        done = run(verb, *file, *more, *([] if "sarif" in more else ["--json"]))
        assert done.status in (0, 1), (words, done.err)
        json.loads(done.out)


def test_annotations_have_one_command_in_a_line(folder) -> None:
    (folder / f"a::error file=b,{plan_file()}").write_text("plan p { modl = 3 }\n")
    done = run("check", f"a::error file=b,{plan_file()}", "--format", "github")
    assert all(
        line.startswith(("::error file=a%3A%3Aerror", "::notice ", "::warning ")) for line in done.out.splitlines()
    )


# ---- tables


def read_back(name: str) -> list[dict[str, str]]:
    with open(name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=",
    "@",
    "'=1",
    "x",
    "",
    "a=b",
    "-5",
    "1e5",
)


def test_no_cell_of_a_table_is_a_formula(tmp_path) -> None:
    with open_sheet(tmp_path / "x.csv") as sheet:
        sheet({"text": np.array(FORMULAS), "number": np.linspace(-3.0, 3.0, len(FORMULAS))})
        sheet({"text": np.array(FORMULAS, dtype=object), "number": np.arange(len(FORMULAS))})
    rows = read_back(str(tmp_path / "x.csv"))
    for row, text in zip(rows, FORMULAS * 2, strict=True):
        text = visible(text)
        assert row["text"] in (text, f"'{text}")
        assert not row["text"].startswith(("=", "+", "@", "\t", "\r"))
        assert row["text"] in ("-5",) or not row["text"].startswith("-")
        assert not row["number"].startswith("'")
    assert [row["text"] for row in rows if row["text"] in ("x", "a=b", "-5", "1e5", "")] == [
        "x",
        "",
        "a=b",
        "-5",
        "1e5",
    ] * 2


@pytest.mark.slow
def test_names_of_files_are_no_formulas(folder) -> None:
    (folder / "b.plan").write_text(
        "plan b { model = llama_3_1_8b, node = h100_1, engine = vllm\n"
        "  workload { input = 1024, output = 128, concurrency = 32 } }\n"
    )
    bench = "=cmd().json"
    shutil.copy(ROOT / "tests" / "bench" / "vllm_8.json", bench)
    done = run("compare", "b.plan", bench, "--rows", "out.csv")
    assert done.status in (0, 1), done.err
    for row in read_back("out.csv"):
        assert not [cell for cell in row.values() if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize(
    "cell", ["=cmd()", "<img src=x>", "$(touch PWNED)", "x\ny = 1", '"', "} gpu evil {", "\x1b[31m"]
)
def test_cells_of_measurements_do_not_become_declarations(cell, tmp_path, monkeypatch) -> None:
    """`planc calibrate` writes a .plan file of what it reads."""
    monkeypatch.chdir(tmp_path)
    quoted = '"' + cell.replace('"', '""') + '"'
    Path("gemm.csv").write_text(GEMMS.replace("h100_sxm", quoted))
    done = run("calibrate", "gemm.csv", "-o", "out.plan")
    assert "Traceback" not in done.err
    assert "\x1b" not in done.out + done.err
    if done.status == 0 and Path("out.plan").exists():
        assert run("check", "out.plan").status == 0
        assert "evil" not in Path("out.plan").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "meta-llama/Llama-3.1-8B-Instruct\nplan evil { }", "x } plan evil {", '"', "</script><img src=x>",
        "$(touch PWNED)", "\x1b[31m", "# comment", "../../etc/passwd",
    ],
)  # fmt: skip
def test_words_of_a_command_do_not_become_declarations(words, tmp_path, monkeypatch) -> None:
    """`planc import` writes a .plan file of what it reads."""
    monkeypatch.chdir(tmp_path)
    command = f"vllm serve {shlex.quote(words)} --tensor-parallel-size 2 --served-model-name {shlex.quote(words)}\n"
    Path("run.sh").write_text(command)
    for more in ([], ["--model", "llama_3_1_8b"]):
        done = run("import", "run.sh", *more, "-o", "out.plan")
        assert "Traceback" not in done.err
        assert "\x1b" not in done.out + done.err
        if done.status == 0:
            assert run("check", "out.plan").status == 0
            names = re.findall(r"^\s*plan (\w+)", Path("out.plan").read_text(), re.MULTILINE)
            assert "evil" not in names
    assert not os.path.exists("PWNED")
