"""The README says what a reader would see: its plan, its report, its error, its picture."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from plandsl.cli import main
from plandsl.driver import compile_file
from tests.test_docs import covers, shortened

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "hybrid_devices.svg"
BLOCK = re.compile(r"```console\n\$ planc ([^\n]*)\n(.*?)```", re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that holds the README's plan under the name that its commands use."""
    plan = re.search(r"```plan\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1]
    (tmp_path / "hybrid.plan").write_text(plan, "utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        main(arguments.split())
    return text.getvalue()


def test_console_blocks_show_the_real_output(here, request):
    text = README.read_text("utf-8")

    def played(block):
        real = output(block[1])
        return block[0] if covers(block[2], real) else f"```console\n$ planc {block[1]}\n{shortened(block[2], real)}```"

    real = BLOCK.sub(played, text)
    if request.config.getoption("--update-golden", default=False):
        README.write_text(real, "utf-8")
    assert real == text


def test_the_picture_is_of_the_plan(here, request):
    (plan,) = compile_file("hybrid.plan")
    dot = plan.draw("devices")
    source = PICTURE.with_suffix(".dot")
    if request.config.getoption("--update-golden", default=False):
        from plandsl.backends.graphviz import write

        source.write_text(dot, "utf-8")
        write(dot, str(PICTURE))
    # the layout is Graphviz's and varies with its version; what it is drawn from does not
    assert source.read_text("utf-8") == dot
    assert "<svg" in PICTURE.read_text("utf-8")


def test_it_opens_with_exactly_two_commands():
    first = re.search(r"```console\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["$ make demo", "$ make test"]


def test_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:2]] == ["<Estimate", "<Difference"]
    assert shown[2].startswith("[")
