"""Targets that answer an editor and a browser: what is typed, where the cursor stands, what is asked."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.fuzz.case import Answer, Case, Corpus, Target
from tests.fuzz.fence import OverTime
from tests.fuzz.mutate import NUMBERS, SIGNS, mutate
from tests.fuzz.plans import draw_search, draw_text, is_timed, plan_of, vocabulary

FILE = "p.plan"
"""The file that is open in the editor."""


# ---- an editor

ASKS = (
    "complete",
    "hover",
    "symbol",
    "declared",
    "used",
    "rename",
    "actions",
    "inlays",
    "outline",
    "folds",
    "painted",
    "check",
    "format",
)


def _draw_lsp(random: Random, corpus: Corpus) -> Case:
    """A text, and what an editor does: changes of it, and questions at places of it. Each is a word of the case."""
    if corpus and random.random() < 0.25:
        case = random.choice(corpus)
        text = case.files[FILE]
    else:
        text = draw_text(random, over_time=0.02, lean=0.8).encode()
    if random.random() < 0.4:
        text = mutate(text, random, words=vocabulary())
    return Case({FILE: text}, tuple(_event(random) for _ in range(random.randint(2, 7))))


def _event(random: Random) -> str:
    """`change AT LENGTH TEXT`, or a question with a place as shares of the text: it fits whatever the text is."""
    at = f"{random.random():.4f}"
    if random.random() < 0.35:
        new = random.choice(
            (*vocabulary(), *SIGNS, *NUMBERS, b"{", b"}", b"\n", b"", b"plan q = p with { batch = 3 }\n", b"x = ")
        )
        return json.dumps(["change", at, random.choice((0, 0, 1, 3, 12, 80)), new.decode("utf-8", "replace")])
    return json.dumps([random.choice(ASKS), at, random.choice(("x", "renamed", "p", "a b", "plan", "\x1b", "", "é"))])


def _run_lsp(case: Case) -> Answer:
    """Do what an editor does, with the objects that `planc lsp` calls."""
    from plandsl.diagnostics import PlanError
    from plandsl.editing.desk import Desk

    desk, refused, done = Desk(), 0, 0
    desk.put(FILE, case.files[FILE].decode("utf-8", "replace"))
    for event in case.argv:
        what, at, *more = json.loads(event)
        text = desk.text(FILE)
        offset = int(float(at) * len(text))
        if what == "change":
            length, new = more
            desk.put(FILE, text[:offset] + new + text[offset + length :])
            continue
        line = text.count("\n", 0, offset) + 1
        column = offset - (text.rfind("\n", 0, offset) + 1) + 1
        done += 1
        try:
            _ask(desk, what, line=line, column=column, word=more[0])
        except PlanError:
            refused += 1
    wrong = bool(done) and refused == done
    return Answer(2 if wrong else 0, "", "E100" if wrong else "")


def _ask(desk: Any, what: str, line: int, column: int, word: str) -> object:
    """One question, as `plandsl/lsp/server.py` asks it."""
    from plandsl.editing.actions import actions, apply, rename
    from plandsl.editing.complete import complete
    from plandsl.editing.hover import hover
    from plandsl.editing.inlays import inlays
    from plandsl.editing.outline import folds, outline, painted
    from plandsl.editing.symbols import used
    from plandsl.grammar.fmt import format_text

    reading = desk.reading(FILE)
    match what:
        case "complete":
            return complete(reading, line, column)
        case "hover":
            return hover(reading, line, column)
        case "symbol":
            return desk.symbol(FILE, line, column)
        case "declared":
            return desk.declared_at(FILE, line, column)
        case "used" | "rename":
            one = desk.symbol(FILE, line, column)
            if one is None:
                return None
            found = desk.occurrences()
            return [*used(found, one)] if what == "used" else rename({FILE: reading}, found, one, word)
        case "actions":
            offered = actions(reading, desk.placed(FILE, reading.look())[:2])
            return [apply(reading.text, action.edits) for action in offered]
        case "inlays":
            return inlays(reading, line, line + 40)
        case "check":
            return desk.placed(FILE, reading.look())
        case "format":
            return format_text(reading.text, FILE)
        case _:
            return {"outline": outline, "folds": folds, "painted": painted}[what](reading)


LSP = Target("lsp", "verb", _draw_lsp, _run_lsp, on_disk=False)


# ---- a browser


def _draw_serve(random: Random, corpus: Corpus) -> Case:
    """A question and its body; or the head of a request."""
    from plandsl.playground.answers import KINDS

    if random.random() < 0.15:
        return Case({}, ("head", json.dumps(_head(random))))
    kind = random.choices(KINDS, [2 if kind in ("search", "simulate", "picture") else 8 for kind in KINDS])[0]
    if corpus and random.random() < 0.25 and (one := random.choice(corpus)).stdin:
        return Case({}, (kind,), mutate(one.stdin, random, words=vocabulary()))
    text = draw_text(random, over_time=0.4 if kind == "simulate" else 0.02, lean=0.9)
    if kind == "search" and "\nsearch " not in text:
        text += draw_search(random, is_timed(text))
    if random.random() < 0.2:
        text = mutate(text.encode(), random, words=vocabulary()).decode("utf-8", "replace")
    asked: dict[str, Any] = {"text": text}
    if random.random() < 0.5:
        asked["plan"] = random.choice((plan_of(text, random),) * 9 + ("more", "nothing", "é\x1b", None))
    if kind == "picture" or random.random() < 0.1:
        asked |= {
            "view": random.choice(("devices", "block", "timeline", "memory", "xyz")),
            "phase": random.choice(("prefill", "decode", "x")),
        }
    if kind in ("complete", "hover"):
        asked |= {"line": random.randint(1, 40), "column": random.randint(1, 60)}
    if random.random() < 0.05:
        asked[random.choice(("line", "column", "text", "plan", "more"))] = random.choice(
            (0, -1, 1e400, True, None, [], {}, "x" * 2000, 10**30)
        )
    body = json.dumps(asked, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    return Case({}, (kind,), mutate(body, random) if random.random() < 0.08 else body)


HOSTS = ("127.0.0.1:8765", "localhost", "[::1]:1", "evil.example", "", "a:b", "localhost:port", "\x1b[0m", "é")

HEADERS = ("origin", "content-type", "content-length", "sec-fetch-site", "sec-fetch-mode", "transfer-encoding")

VALUES = ("application/json", "null", "9" * 30, "-1", "same-origin", "chunked", "cross-site", "navigate", "\0")


def _head(random: Random) -> dict[str, Any]:
    """The head of a request: a method, a path, headers. Half are those that a page of this server sends."""
    if random.random() < 0.5:
        host = random.choice(HOSTS[:3])
        about = {"origin": f"http://{host}", "content-type": "application/json", "content-length": "90"}
        head = {"method": "POST", "path": "/ask/estimate", "headers": {"host": host, **about}}
        return head if random.random() < 0.8 else head | {"path": random.choice(("/", "/ask/nothing", "*"))}
    host = random.choice(HOSTS)
    values = (*VALUES, f"http://{host}")
    headers = {"host": host} | {name: random.choice(values) for name in random.sample(HEADERS, 3)}
    path = random.choice(("/", "/ask/estimate", "/ask/nothing", "/../x", "/playground.js", "*", "//", "/ask/\x1b"))
    return {"method": random.choice(("GET", "POST", "HEAD", "PUT", "X" * 90)), "path": path, "headers": headers}


def _run_serve(case: Case) -> Answer:
    """What a worker of the server answers, or what the guard says of a head."""
    from plandsl.backends.serve.guard import Head, check
    from plandsl.backends.serve.limits import LIMITS
    from plandsl.playground.answers import KINDS, answer

    if case.argv[0] == "head":
        methods = {"/": "GET", "/playground.js": "GET", **{f"/ask/{kind}": "POST" for kind in KINDS}}
        refusal = check(Head(**json.loads(case.argv[1])), methods, frozenset({"plans.example"}), LIMITS)
        return Answer(0) if refusal is None else Answer(2, refusal.body.decode())
    try:
        status, body = answer(case.argv[0], case.stdin, LIMITS.seconds)
    except OverTime:  # the server ends such a worker, and says so: tests/test_serve_workers.py
        return Answer(2, "E599")
    found = json.loads(body)
    wrong = any(d["severity"] == "error" for d in found["diagnostics"])
    assert status == 200 or (status == 400 and wrong), status
    return Answer(2 if wrong else 0, json.dumps(found))


SERVE = Target("serve", "verb", _draw_serve, _run_serve, on_disk=False)
