"""`planc explain`: where the time of a plan goes, what a diagnostic means, what a word of a report means."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.codes import CODES
from plandsl.commands.console import OK, open_console, print_json, print_text, spaced
from plandsl.commands.sources import compile_plans
from plandsl.diagnostics import Diagnostic, PlanError, either, nearest, suggest
from plandsl.files import is_there
from plandsl.terms import TERMS, find_term, plain_word

CODE, TERM = "code:", "term:"
"""What is written before a name that is also a file's, or a term's, to mean the code or the term."""


def run_explain(arguments: Namespace) -> int:
    """`planc explain FILE`, `planc explain CODE` or `planc explain WORD`: a file first, then a code, then a word."""
    subject = arguments.file = " ".join(arguments.words)
    is_file = subject == "-" or is_there(Path(subject))
    code, term = read_code(subject), find_term(subject.removeprefix(TERM))
    if is_file or (Path(subject).suffix == ".plan" and code is None):
        status = _explain_plans(arguments)
        _say_what_else(subject, "the file is explained", code=code, term=term)
        return status
    if code is not None:
        _explain_code(code, arguments.json)
        _say_what_else(subject, "the code is explained", term=term)
        return OK
    if term is not None:
        return _explain_term(term, arguments.json)
    raise PlanError([_unknown(subject)])


def read_code(subject: str) -> str | None:
    """The code that a name stands for."""
    name = subject.removeprefix(CODE).upper()
    return name if name in CODES else None


def _say_what_else(subject: str, said: str, code: str | None = None, term: str | None = None) -> None:
    """Tell on standard error what else a name stands for, and how to ask for that."""
    if code is not None:
        sys.stderr.write(f"`{subject}` is also a code; {said}. For the code: planc explain {CODE}{code}\n")
    if term is not None:
        sys.stderr.write(
            f"`{subject}` is also a word of reports; {said}. For the word: planc explain {TERM}{subject}\n"
        )


def _unknown(subject: str) -> Diagnostic:
    """No file, code or word has this name."""
    why = f"`{subject}` is no file, no code of a diagnostic and no word of a report"
    if os.path.isdir(subject):
        return Diagnostic("E407", f"{why}; a folder has this name", hint="name one of its files")
    if re.fullmatch(r"[A-Za-z]?\d+", subject):
        return Diagnostic("E407", why, hint=suggest(subject.upper(), CODES))
    from plandsl.grammar import catalog

    if any(subject in catalog.names(kind) for kind in catalog.kinds()):
        return Diagnostic("E407", why, hint=f"`planc catalog {subject}` prints this entry of the catalog")
    written = {plain_word(word): word for name, term in TERMS.items() for word in (*term.also, name)}
    near = nearest(plain_word(subject), written)
    hint = f"did you mean {either([written[word] for word in near])}?" if near else ""
    return Diagnostic(
        "E407", why, hint=hint or "words of reports are explained, such as TTFT, `KV cache`, bound, band or front"
    )


def _explain_term(name: str, as_json: bool) -> int:
    text, also, page = TERMS[name]
    if as_json:
        print_json({"plandsl": __version__, "term": name, "text": text, "also": list(also), "page": page})
        return OK
    print_text(f"{name}: {text}\n", hang=0)
    if also:
        print_text(f"\nUnder this entry too: {', '.join(also)}\n", hang=0)
    if page:
        print_text(f"\nMore: {page}\n", hang=0)
    return OK


def _explain_plans(arguments: Namespace) -> int:
    plans = compile_plans(arguments)
    found = [p.explain() for p in plans]
    if arguments.json:
        print_json({"plandsl": __version__, "file": arguments.file, "plans": [e.as_json() for e in found]})
        return OK
    from plandsl.answers.text.explanation import print_explanation

    console = open_console()
    for plan, explanation in spaced(zip(plans, found, strict=True), console):
        print_explanation(plan.spec, explanation, console)
    return OK


def _explain_code(name: str, as_json: bool) -> None:
    code = CODES[name]
    if as_json:
        print_json({"plandsl": __version__, "code": name, **code._asdict()})
        return
    print_text(f"{name}: {code.title}\n\n{code.text}\n", hang=0)
    if code.example:  # a plan's lines are not broken
        lines = code.example.strip("\n").split("\n")
        sys.stdout.write("\nFor example:\n\n" + "".join(f"    {line}\n" for line in lines))
    if code.fix:
        print_text(f"\nWhat to do: {code.fix}\n", hang=0)
