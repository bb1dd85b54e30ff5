"""`planc export`: its targets by name, and where it writes."""

import json
from pathlib import Path

import pytest

from plandsl.cli import main
from plandsl.commands import export
from plandsl.commands.export import Target

EXAMPLE = str(Path(__file__).resolve().parent.parent / "examples" / "llama3_70b.plan")


@pytest.fixture(autouse=True)
def targets(monkeypatch):
    """Targets that write what little a test asks for."""
    one = Target("one", "a file", lambda plan, _: f"{plan.name}\n")
    many = Target("many", "files", lambda plan, _: {"a": plan.name, "b": b"\0"})
    raw = Target("raw", "bytes", lambda plan, _: b"\0")
    monkeypatch.setattr(export, "TARGETS", (one, many, raw))


def run(capsys, *more):
    status = main(["export", EXAMPLE, "--plan", "hybrid", *map(str, more)])
    return status, *capsys.readouterr()


def test_an_unknown_target_gets_the_list_and_the_nearest(capsys):
    status, _, err = run(capsys, "--to", "onee")
    assert status == 2
    assert err.startswith("error[E500]: `planc export` has no target `onee`")
    assert "did you mean `one`? targets: one, many, raw" in err


def test_a_file_goes_to_standard_output_or_to_a_place(capsys, tmp_path):
    assert run(capsys, "--to", "one") == (0, "hybrid\n", "")
    assert run(capsys, "--to", "one", "-o", tmp_path / "x")[0] == 0
    assert (tmp_path / "x").read_text() == "hybrid\n"
    assert json.loads(run(capsys, "--to", "one", "--json")[1])["text"] == "hybrid\n"


def test_several_files_go_to_a_folder_that_is_made(capsys, tmp_path):
    status, out, _ = run(capsys, "--to", "many", "-o", tmp_path / "deep" / "er", "--json")
    assert status == 0
    assert json.loads(out)["files"] == [str(tmp_path / "deep" / "er" / name) for name in "ab"]
    assert (tmp_path / "deep" / "er" / "b").read_bytes() == b"\0"


def test_what_cannot_be_printed_asks_for_an_output(capsys, tmp_path):
    for target in ("many", "raw"):
        status, out, err = run(capsys, "--to", target)
        assert (status, out) == (2, "")
        assert err.startswith("error[E501]")
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "--to", "many", "-o", tmp_path / "file" / "x")
    assert (status, err[:11]) == (2, "error[E405]")


def test_several_plans_ask_for_one(capsys):
    assert main(["export", EXAMPLE, "--to", "one"]) == 2
    assert "error[E403]" in capsys.readouterr().err
