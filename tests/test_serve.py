"""The server of the playground as functions: what it refuses, its headers, links, and what workers may not do."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import playground as built
from plandsl.backends.serve.guard import Head, check, page_headers, policy, raw, refuse, split_host
from plandsl.backends.serve.limits import LIMITS
from plandsl.cli import main
from plandsl.diagnostics import PlanError
from plandsl.limits import MAX_FILE_BYTES
from plandsl.playground.answers import KINDS
from plandsl.playground.link import fragment, text_of
from tests.draws import draws

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "backends" / "serve" / "static"
METHODS = {"/": "GET", "/playground.js": "GET", **{f"/ask/{kind}": "POST" for kind in KINDS}}
HOST = "127.0.0.1:8765"
JSON = {"host": HOST, "content-type": "application/json"}


def status(method: str, path: str, headers: dict[str, str], repeated: tuple[str, ...] = ()) -> int:
    """The status of a refusal; 200 where the request goes on."""
    found = check(Head(method, path, headers, frozenset(repeated)), METHODS, frozenset({"plans.example"}), LIMITS)
    assert found is None or found.why.code == "E599"
    return 200 if found is None else found.status


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("GET", "/", {"host": HOST}, 200),
        ("HEAD", "/", {"host": "localhost:1"}, 200),
        ("GET", "/", {"host": "[::1]:8765"}, 200),
        ("GET", "/", {"host": "plans.example"}, 200),
        ("GET", "/", {}, 400),
        ("GET", "/", {"host": "evil.example:8765"}, 421),
        ("GET", "/", {"host": "127.0.0.1.evil.example"}, 421),
        ("GET", "/", {"host": "localhost:port"}, 421),
        ("GET", "/nothing", {"host": HOST}, 404),
        ("GET", "/../../etc/passwd", {"host": HOST}, 404),
        ("GET", "/static/../playground.js", {"host": HOST}, 404),
        ("POST", "/", {"host": HOST}, 405),
        ("GET", "/ask/estimate", {"host": HOST}, 405),
        ("DELETE", "/ask/estimate", JSON, 405),
        ("OPTIONS", "/ask/estimate", JSON, 405),
        ("POST", "/ask/estimate", JSON, 200),
        ("POST", "/ask/estimate", JSON | {"content-type": "application/json; charset=utf-8"}, 200),
        ("POST", "/ask/estimate", {"host": HOST}, 415),
        ("POST", "/ask/estimate", JSON | {"content-type": "text/plain"}, 415),
        ("POST", "/ask/estimate", JSON | {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/ask/estimate", JSON | {"content-length": str(LIMITS.body)}, 200),
        ("POST", "/ask/estimate", JSON | {"content-length": str(LIMITS.body + 1)}, 413),
        ("POST", "/ask/estimate", JSON | {"content-length": "9" * 30}, 413),
        ("POST", "/ask/estimate", JSON | {"origin": f"http://{HOST}"}, 200),
        ("POST", "/ask/estimate", JSON | {"origin": "http://evil.example"}, 403),
        ("POST", "/ask/estimate", JSON | {"origin": "http://127.0.0.1:9999"}, 403),
        ("POST", "/ask/estimate", JSON | {"origin": "null"}, 403),
        ("POST", "/ask/estimate", JSON | {"sec-fetch-site": "cross-site"}, 403),
        ("POST", "/ask/estimate", JSON | {"sec-fetch-site": "same-site"}, 403),
        ("POST", "/ask/estimate", JSON | {"sec-fetch-site": "same-origin"}, 200),
        ("GET", "/playground.js", {"host": HOST, "sec-fetch-site": "cross-site"}, 403),
        ("GET", "/", {"host": HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
    ],
)
def test_what_the_server_refuses(method: str, path: str, headers: dict[str, str], expected: int) -> None:
    assert status(method, path, headers) == expected


def test_a_header_that_decides_comes_once() -> None:
    assert status("GET", "/", {"host": HOST}, ("host",)) == 400
    assert status("POST", "/ask/estimate", JSON | {"origin": f"http://{HOST}"}, ("origin",)) == 403
    assert status("POST", "/ask/estimate", JSON, ("content-type",)) == 415


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}(\.[a-z][a-z0-9-]{0,10}){1,3}", fullmatch=True)


@draws(0.3)
@given(NAMES, st.integers(0, 65_535))
def test_no_name_that_a_name_server_answers_is_taken(name: str, port: int) -> None:
    if name != "plans.example":
        assert status("GET", "/", {"host": f"{name}:{port}"}) == 421
        assert status("POST", "/ask/estimate", JSON | {"origin": f"http://{name}:{port}"}) == 403


def test_headers_are_counted() -> None:
    for many, expected in ((100, None), (101, 431)):
        found = check(Head("GET", "/", {"host": HOST}, lines=many), METHODS, frozenset(), LIMITS)
        assert (found and found.status) == expected


def test_names_of_hosts() -> None:
    found = [split_host(host) for host in ("LocalHost:80", "a.example.", "[::1]", "[::1]:80", ":80", "a:b", "")]
    assert found == ["localhost", "a.example", "[::1]", "[::1]", None, None, None]


def test_every_answer_has_the_headers() -> None:
    bytes_ = raw(refuse(408, "late"), "Request Timeout").decode()
    head, _, body = bytes_.partition("\r\n\r\n")
    for found in (page_headers(), dict(line.split(": ", 1) for line in head.split("\r\n")[1:])):
        assert found["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in found["content-security-policy"]
        assert not any(name.startswith("access-control-") for name in found)
    assert json.loads(body)["diagnostics"][0]["code"] == "E599"
    assert f"content-length: {len(body)}" in head


def test_the_policy_lets_no_script_of_a_page_run() -> None:
    assert "script-src 'self';" in policy("abc")
    assert "style-src 'self' 'nonce-abc';" in policy("abc")
    assert "unsafe" not in policy("abc")
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style", page) == []


# ---- what is served


def test_the_page_has_the_words_and_examples_of_today() -> None:
    assert (STATIC / "page.json").read_text() == built.text(), "run `python -m benchmarks.playground`"


def test_the_page_takes_nothing_from_the_network() -> None:
    for name in ("index.html", "playground.css"):
        assert "//" not in re.sub(r"/\*.*?\*/", "", (STATIC / name).read_text())
    loads = re.findall(r"(?:import\(|importScripts\(|fetch\()[\"'`](\w+:)?//", (STATIC / "playground.js").read_text())
    assert loads == []
    lock = (ROOT / "backends" / "serve" / "page" / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock


def test_every_package_in_the_bundle_has_its_licence() -> None:
    text = (STATIC / "licences.txt").read_text()
    packages = json.loads((ROOT / "backends" / "serve" / "page" / "package-lock.json").read_text())["packages"]
    told = dict(re.findall(r"^(@?[\w/-]+) ([\d.]+) \(", text, re.MULTILINE))
    assert {"@codemirror/view", "@codemirror/state", "@lezer/common", "style-mod"} <= set(told)
    assert {name: packages[f"node_modules/{name}"]["version"] for name in told} == told
    assert len(re.findall(r"Permission is hereby granted", text)) == len(told)


# ---- links


@draws(0.5)
@given(st.text())
def test_a_link_holds_its_text(text: str) -> None:
    clean = text.encode("utf-8", "replace").decode()
    assert text_of(fragment(text)) == clean
    assert re.fullmatch(r"#1\.[A-Za-z0-9_-]+", fragment(text))


@draws(0.5)
@given(st.one_of(st.text(), st.text(alphabet="abcXYZ09-_").map("#1.".__add__)))
def test_what_is_no_link_is_refused(text: str) -> None:
    found: list[str] = []
    try:
        text_of(text)
    except PlanError as error:
        found += [d.code for d in error.diagnostics]
    assert found in ([], ["E599"])


def test_a_link_that_unfolds_to_too_much_is_refused() -> None:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = squeezer.compress(b"#" * (MAX_FILE_BYTES + 1)) + squeezer.flush()
    with pytest.raises(PlanError, match="too long"):
        text_of("#1." + urlsafe_b64encode(bomb).decode())


# ---- workers


@pytest.fixture(scope="module")
def hook():
    fence = pytest.importorskip("plandsl.backends.serve.fence", reason="this system has no limits of processes")
    return fence.make_hook(tuple(fence.library_folders()))


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("open", ("/etc/passwd", "r", 0)),
        ("open", (b"/etc/passwd", "r", 0)),
        ("open", (str(ROOT / "plandsl" / ".." / "README.md"), "r", 0)),
        ("open", (str(ROOT / "plandsl" / "cli.py"), "w", os.O_WRONLY)),
        ("open", (str(ROOT / "plandsl" / "cli.py"), None, os.O_RDWR)),
        ("subprocess.Popen", ("/bin/sh", ["sh", "-c", "true"], None, None)),
        ("subprocess.Popen", (None, ["cat"], None, None)),
        ("socket.connect", (None, ("127.0.0.1", 80))),
        ("os.system", (b"true",)),
        ("os.remove", ("x", -1)),
        ("shutil.rmtree", ("x", None)),
    ],
)
def test_what_a_worker_may_not_do(hook, event: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(PermissionError):
        hook(event, arguments)


def test_what_a_worker_must_do(hook) -> None:
    hook("open", (str(ROOT / "plandsl" / "catalog" / "gpus" / "h100_sxm.plan"), "rb", os.O_RDONLY))
    hook("open", (str(ROOT / "plandsl" / "grammar" / "files.py"), "rb", os.O_RDONLY))
    hook("open", (json.__file__, "rb", os.O_RDONLY))
    hook("open", (os.devnull, "rb", os.O_RDWR))
    hook("open", (7, "wb", 0))
    hook("subprocess.Popen", ("/usr/bin/dot", ["dot", "-Tsvg"], None, None))
    hook("import", ("json", None, None, None, None))


# ---- the command


def planc(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["serve", *words])
    return code, capsys.readouterr().err


def test_without_its_libraries_the_playground_says_what_to_install(capsys, monkeypatch) -> None:
    for name in ("starlette", "starlette.applications", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("app", "protocol", "server"):
        monkeypatch.delitem(sys.modules, f"plandsl.backends.serve.{name}", raising=False)
    code, said = planc(capsys)
    assert code == 2
    assert said.startswith("error[E595]: the playground needs")
    assert "pip install 'plandsl[serve]'" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--port", "70000"], "E400"),
        (["--port", "-1"], "E400"),
        (["--for", "0"], "E400"),
        (["--for", "nan"], "E400"),
        (["--idle", "-3"], "E400"),
        (["--limit", "0"], "E400"),
        (["no/such.plan"], "E209"),
    ],
)
def test_wrong_arguments(capsys, words: list[str], expected: str) -> None:
    code, said = planc(capsys, *words)
    assert (code, said.count("error[")) == (2, 1)
    assert f"error[{expected}]" in said
