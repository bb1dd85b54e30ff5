"""`planc lsp` where it cannot start: each time a line that says what helps."""

from __future__ import annotations

import re
import socket
import sys

import pytest

from plandsl.cli import main
from plandsl.editing.desk import Desk
from plandsl.grammar.modules import CATALOG


@pytest.mark.parametrize("missing", ["pygls", "lsprotocol"])
def test_without_the_library_a_line_says_what_to_install(missing, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing or name.startswith("plandsl.lsp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["lsp"]) == 2
    said = capsys.readouterr()
    assert "error[E586]" in said.err
    assert "pip install 'plandsl[lsp]'" in said.err
    assert said.out == "", "nothing but the protocol goes to standard output"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_wrong_port_is_refused(port, capsys):
    assert main(["lsp", f"--port={port}"]) == 2
    assert f"error[E587]: {port} is no port" in capsys.readouterr().err


@pytest.mark.extras
def test_a_port_that_is_taken_is_refused(capsys):
    pytest.importorskip("pygls")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["lsp", "--port", str(port)]) == 2
    assert f"error[E587]: cannot listen on port {port}" in capsys.readouterr().err


def test_it_listens_on_this_machine_alone(monkeypatch):
    asked = []

    class Server:
        def start_tcp(self, host: str, port: int) -> None:
            asked.append((host, port))

    module = type("Module", (), {"make_server": staticmethod(Server)})
    monkeypatch.setitem(sys.modules, "plandsl.lsp.server", module)
    assert main(["lsp", "--port", "7777"]) == 0
    assert asked == [("127.0.0.1", 7777)]


LISTENS = re.compile(r"start_tcp\(|start_ws\(|start_server\(|create_server\(|\.listen\(|LocalCluster\(|uvicorn\.run\(")
HOSTS = {
    "plandsl/commands/lsp.py": 'LOCAL = "127.0.0.1"',
    "plandsl/searches/spread.py": 'host="127.0.0.1"',
    "backends/serve/server.py": "create_server(address[:2]",
}
"""The modules that listen, and where. `planc serve` listens where it is asked to: on 127.0.0.1 if nothing is said."""


def test_no_other_module_listens():
    root = CATALOG.parent.parent
    folders = [root / name for name in ("plandsl", "backends", "grammar", "passes")]
    files = [path for folder in folders for path in folder.rglob("*.py") if "engines" not in path.parts]
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files}
    own = {name: text for name, text in texts.items() if not re.match("plandsl/(backends|grammar|passes)/", name)}
    assert {name for name, text in own.items() if LISTENS.search(text)} == set(HOSTS)
    for name, words in HOSTS.items():
        assert words in own[name]
    assert 'default="127.0.0.1"' in own["plandsl/cli.py"]


# ---- the open files, which the server keeps


def test_a_desk_reads_again_what_changed(tmp_path):
    desk, root, shared = Desk(), str(tmp_path / "a.plan"), str(tmp_path / "shared.plan")
    desk.put(root, 'use "shared.plan"\nworkload w { input = many, output = 1 }\n')
    assert [d.code for d in desk.reading(root).look()] == ["E209"], "it is not there yet"
    desk.put(shared, "let many = 2\n")
    assert desk.reading(root).look() == []
    assert desk.reading(root) is desk.reading(root)
    assert desk.users_of(shared) == [root]
    desk.put(shared, "let few = 2\n")
    assert [d.code for d in desk.reading(root).look()] == ["E201"]
    desk.close(shared)
    assert [d.code for d in desk.reading(root).look()] == ["E209"], "it was never saved"
    (tmp_path / "shared.plan").write_text("let many = 3\n")
    desk.touch()
    assert desk.reading(root).look() == []
    assert desk.names == [root]


def test_findings_in_used_files_stand_at_the_use(tmp_path):
    (tmp_path / "shared.plan").write_text("let = 1\n")
    desk, root = Desk(), str(tmp_path / "a.plan")
    desk.put(root, '# first\nuse "shared.plan"\n')
    (found,) = desk.placed(root, desk.reading(root).look())
    assert found.span is not None
    assert (found.span.file, found.span.line) == (root, 2)
    assert found.message.startswith(f"{tmp_path}/shared.plan:1:5: ")


def test_names_lead_into_used_files_and_the_catalog(tmp_path):
    (tmp_path / "shared.plan").write_text("let many = 1\n")
    desk, root = Desk(), str(tmp_path / "a.plan")
    desk.put(root, 'use "shared.plan"\nworkload w { input = many, output = 1 }\nnode n = h100_8 with { count = 4 }\n')
    used = str((tmp_path / "shared.plan").resolve())
    assert [path for path, _ in desk.declared_at(root, 1, 8)] == [used]
    assert [(path, span.line) for path, span in desk.declared_at(root, 2, 23)] == [(used, 1)]
    ((path, span),) = desk.declared_at(root, 3, 12)
    assert path == str(CATALOG / "nodes" / "h100.plan")
    assert (CATALOG / "nodes" / "h100.plan").read_text().split("\n")[span.line - 1].startswith("node h100_8")
    assert desk.declared_at(root, 2, 1) == []
