"""`planc serve` as a process, and clients that mean it harm: each gets an answer in time, and the server goes on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from plandsl.backends.serve.limits import LIMITS
from plandsl.backends.serve.server import Ends
from plandsl.playground.link import text_of

pytestmark = [pytest.mark.extras, pytest.mark.xdist_group("serve")]

ROOT = Path(__file__).parents[1]
BOUND = 2.0
"""Seconds in which every request ends, one way or the other."""

ROOM = 4.0
"""Seconds that the same may take where other work keeps the machine busy."""

HEAD = b"POST /ask/estimate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
EXAMPLE = (ROOT / "examples" / "llama3_70b.plan").read_text()
PLAN = """plan p {
  model = llama_3_1_8b
  node = h100_2
  sharding { tp = 2 }
  workload { input = 1024, output = 128, batch = 8 }
}
"""


class Served(NamedTuple):
    """A server that runs: its process, its port, and the words of its address."""

    process: subprocess.Popen[str]
    port: int
    address: str

    def ask(self, kind: str, question: object, **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of an answer."""
        return self.post(f"/ask/{kind}", json.dumps(question).encode(), **headers)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ROOM)
        with closing(connection):
            connection.request("POST", path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ROOM)
        with closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def raw(self, *pieces: bytes, pause: float = 0.0, half: bool = False) -> bytes:
        """All that the server says to these bytes; ``half``: the client then closes its side."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ROOM) as client:
            try:
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(pause)
                if half:
                    client.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has answered already
            found = b""
            try:
                while piece := client.recv(65_536):
                    found += piece
            except ConnectionResetError:
                pass
            return found

    def check_alive(self) -> None:
        """The server still answers an honest question, with numbers."""
        for _ in range(20):  # a worker that was ended is being replaced
            status, found = self.ask("estimate", {"text": PLAN})
            if status == 200:
                break
            time.sleep(0.1)
        assert status == 200
        assert found["report"]["plan"] == "p"


@contextmanager
def serving(*words: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "plandsl", "serve", "--json", "--port", "0", "--for", "300", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = "".join(iter(process.stdout.readline, "}\n")) + "}"
        address = json.loads(said)["address"]
        yield Served(process, int(address.partition("#")[0].rstrip("/").rpartition(":")[2]), address)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def lives_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that uses the server, it answers."""
    yield
    if "served" in request.fixturenames:
        request.getfixturevalue("served").check_alive()


@contextmanager
def in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < ROOM


def refused(found: dict[str, Any]) -> str:
    (one,) = found["diagnostics"]
    assert one["message"]
    assert "Traceback" not in json.dumps(found)
    return str(one["code"])


# ---- honest requests


def test_the_page_and_its_files(served: Served) -> None:
    status, headers, body = served.get("/")
    nonce = body.partition(b'name="csp-nonce" content="')[2].partition(b'"')[0].decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"'nonce-{nonce}'" in headers["content-security-policy"]
    assert served.get("/")[2] != body, "each page has a nonce of its own"
    for name in ("playground.js", "playground.css", "page.json", "icon.svg", "licences.txt"):
        status, headers, body = served.get(f"/{name}")
        assert (status, headers["x-content-type-options"]) == (200, "nosniff")
        assert headers["access-control-allow-origin"] is None
        assert len(body) > 100
    assert served.get("/", "HEAD")[2] == b""


def test_estimates_and_pictures(served: Served) -> None:
    status, found = served.ask("estimate", {"text": EXAMPLE, "plan": "hybrid"})
    assert (status, found["report"]["plan"]) == (200, "hybrid")
    status, found = served.ask("picture", {"text": EXAMPLE, "plan": "hybrid", "view": "memory"})
    assert status == 200
    assert found["svg"].startswith("<svg") or found["diagnostics"][0]["code"] == "E430"
    assert refused(served.ask("picture", {"text": EXAMPLE, "view": "tradeoff"})[1]) == "E432"
    assert refused(served.ask("picture", {"text": EXAMPLE, "phase": "both"})[1]) == "E432"


# ---- hostile requests


def test_requests_under_other_names_and_from_other_sites(served: Served) -> None:
    assert served.ask("estimate", {"text": PLAN}, host="evil.example")[0] == 421
    assert served.ask("estimate", {"text": PLAN}, host="evil.example:80", origin="http://evil.example:80")[0] == 421
    assert served.ask("estimate", {"text": PLAN}, origin="http://evil.example")[0] == 403
    status, headers, _ = served.get("/ask/estimate", "OPTIONS", origin="http://evil.example")
    assert (status, headers["access-control-allow-origin"]) == (403, None)
    status, headers, _ = served.get("/ask/estimate", "PUT")
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/static/../../pyproject.toml",
        "/%00",
        "//etc/passwd",
        "/ask/",
        "/ask",
    ],
)
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    assert served.get(path)[0] == 404


def test_huge_bodies(served: Served) -> None:
    with in_time():
        status, found = served.ask("estimate", {"text": "a" * LIMITS.body})
    assert (status, refused(found)) == (413, "E599")
    with in_time():
        assert b" 413 " in served.raw(HEAD + b"content-length: 99999999999\r\n\r\n", b"x" * 100)
    chunk = b"10000\r\n" + b"y" * 65_536 + b"\r\n"
    with in_time():
        assert b" 413 " in served.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 20)
    status, found = served.ask("estimate", {"text": "#" * 300_000})
    assert (status, refused(found)) == (200, "E108")


def test_slow_clients(served: Served) -> None:
    drops = [bytes([letter]) for letter in b"POST /ask/estimate HTTP/1.1\r\nhost: localhost\r\nx: "] + [b"a"] * 400
    body = HEAD + b"content-length: 50\r\n\r\n"
    with in_time():
        assert b" 408 " in served.raw(*drops, pause=0.05)
    with in_time():
        assert b" 408 " in served.raw(body, *[b"a"] * 49, pause=0.05)


def test_a_client_that_reads_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        for _ in range(40):
            client.sendall(b"GET /playground.js HTTP/1.1\r\nhost: localhost\r\n\r\n")
        served.check_alive()


def test_half_closed_connections(served: Served) -> None:
    text = json.dumps({"text": PLAN}).encode()
    with in_time():
        assert b'"report"' in served.raw(HEAD + b"content-length: %d\r\n\r\n" % len(text) + text, half=True)
    with in_time():
        served.raw(HEAD + b"content-length: 100\r\n\r\n{", half=True)
    with in_time():
        served.raw(half=True)


@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD.replace(b"json", b"text") + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http(served: Served, words: bytes) -> None:
    with in_time():
        found = served.raw(words)
    assert found.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in found


def test_an_upgrade_is_an_ordinary_request(served: Served) -> None:
    ask = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert served.raw(ask, half=True).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"text":' * 50_000,
        b"1" * 400_000,
        b'{"text": "\\ud800"}',
        b"\xff\xfe",
        b"",
        b'{"text": 1}',
        b'{"text": "", "plan": "' + b"p" * 5000 + b'"}',
    ],
)
def test_hostile_json(served: Served, body: bytes) -> None:
    with in_time():
        status, found = served.post("/ask/estimate", body)
    assert status in (200, 400)
    assert refused(found).startswith("E")


MODEL = """model m {{
  layers = {layers}, hidden = 4096, experts = {experts}, ffn = 1024, vocab = 1000, heads = 8, head_dim = 64
  weights = fp8
  embedding w_embed[vocab, hidden]
  block x[tokens, hidden] {{ x = x + x @ w[hidden, ffn] @ w2[ffn, hidden] }}
  head x @ w_embed[vocab, hidden]
}}
"""

HOSTILE = {
    "deep brackets": "let a = " + "(" * 50_000 + "1" + ")" * 50_000,
    "deep braces": "plan p { " * 20_000,
    "deep lists": "let a = " + "[" * 60_000,
    "a chain of lets": "".join(f"let a{i} = a{i + 1} + a{i + 1}\n" for i in range(5_000)),
    "lets that double": "".join(f"let a{i} = [a{i + 1}, a{i + 1}]\n" for i in range(60)) + "let a60 = 1\n",
    "endless plans": PLAN + "".join(f"plan p{i} = p\n" for i in range(3_000)),
    "many plans": PLAN + "".join(f"plan p{i} = p with {{ workload {{ batch = {i + 1} }} }}\n" for i in range(199)),
    "plans that differ": PLAN.replace("h100_2", "h100_8")
    + "".join(f"plan p{i} = p with {{ sharding {{ tp = {2 ** (i % 4)} }} }}\n" for i in range(190)),
    "mistakes": "plan p { x = y }\n" * 8_000,
    "a circle": "plan a = b\nplan b = a\n",
    "10^9 experts": MODEL.format(layers=2, experts=10**9) + PLAN.replace("llama_3_1_8b", "m"),
    "10^9 layers": MODEL.format(layers=10**9, experts=8) + PLAN.replace("llama_3_1_8b", "m"),
    "ten thousand layers": MODEL.format(layers=10_000, experts=8) + PLAN.replace("llama_3_1_8b", "m"),
    "10^9 ranks": PLAN.replace("tp = 2", "tp = 1_000_000_000"),
    "65,536 ranks": PLAN.replace("h100_2", "h100_8 with { count = 65_536 }").replace("tp = 2", "tp = 8, dp = 8192"),
    "10^9 requests": PLAN.replace("batch = 8", "rate = 1000000 req/s, requests = 100_000_000"),
    "endless outputs": PLAN.replace(
        "output = 128, batch = 8", "output = 1_000_000, rate = 9 req/s, requests = 1_000_000"
    ),
    "a number without end": "let a = " + "9" * 200_000,
    "a line without end": "# " + "a" * 250_000,
    "blank": " " * 250_000,
    "signs": "\u202e\u0000\ufffe" * 1_000,
    "a file": 'use "../../../etc/passwd.plan"\n' + PLAN,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans(served: Served, name: str) -> None:
    for kind in ("estimate", "compare", "simulate", "picture", "complete", "hover", "format"):
        with in_time():
            status, found = served.ask(kind, {"text": HOSTILE[name], "view": "devices"})
        assert status in (200, 503), (kind, found)
        assert "Traceback" not in json.dumps(found)
        assert status == 200 or refused(found) == "E598"


def test_many_requests_at_once(served: Served) -> None:
    def one(at: int) -> int:
        text = HOSTILE["plans that differ"] if at % 2 else PLAN
        return served.ask("compare", {"text": text})[0]

    with ThreadPoolExecutor(40) as pool, in_time():
        found = list(pool.map(one, range(40)))
    assert set(found) <= {200, 503}
    assert 200 in found


def test_many_connections_at_once(served: Served) -> None:
    clients = [
        socket.create_connection(("127.0.0.1", served.port), timeout=ROOM) for _ in range(2 * LIMITS.connections)
    ]
    try:
        clients[-1].sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b" 503 " in clients[-1].recv(65_536)
    finally:
        for client in clients:
            client.close()


# ---- the process


def test_ctrl_c_ends_the_server_and_its_workers() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving() as one:
            one.check_alive()
            children = workers_of(one.process.pid)
            one.process.send_signal(number)
            _, err = one.process.communicate(timeout=20)
            assert (one.process.returncode, err) == (0, "")
            for _ in range(50):
                if not any(Path(f"/proc/{pid}").exists() for pid in children):
                    break
                time.sleep(0.1)
            assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def workers_of(pid: int) -> list[int]:
    """The processes below a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        return []
    own = [int(word) for word in path.read_text().split()]
    return [*own, *(below for child in own for below in workers_of(child))]


def test_a_server_ends_by_itself() -> None:
    for words in (["--for", "0.5"], ["--idle", "0.5"]):
        with serving(*words) as one:
            assert one.process.wait(20) == 0


def test_when_a_server_ends() -> None:
    assert not Ends().due(0, 0, 1e9)
    assert Ends(seconds=5).due(0, 4, 5)
    assert not Ends(seconds=5).due(0, 4, 4.9)
    assert Ends(idle=5).due(0, 4, 9)
    assert not Ends(idle=5).due(0, 4, 8.9)


def test_a_file_starts_the_page_by_its_link(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_text(PLAN)
    with serving(str(tmp_path / "x.plan")) as one:
        assert text_of(one.address) == PLAN


def test_a_port_in_use_and_an_address_that_is_not_here(served: Served) -> None:
    for words, said in (
        (["--port", str(served.port)], "in use"),
        (["--port", "0", "--host", "192.0.2.1"], "cannot listen"),
        (["--port", "0", "--host", "no.such.host.invalid"], "cannot listen"),
    ):
        command = [sys.executable, "-m", "plandsl", "serve", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error[E596]")
        assert said in done.stderr
        assert "help: " in done.stderr


def test_other_hosts_are_warned_of() -> None:
    host = "0.0.0.0"
    command = [sys.executable, "-m", "plandsl", "serve", "--port", "0", "--host", host, "--for", "0.2"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env={**os.environ}
    )
    assert done.returncode == 0
    assert "warning[W555]" in done.stderr
