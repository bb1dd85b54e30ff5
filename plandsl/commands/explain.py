"""`planc explain`: where the time of a plan goes, what a diagnostic means, what a word of a report means."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from plandsl._version import __version__
from plandsl.commands.console import OK, open_console, print_json, print_text, spaced
from plandsl.commands.sources import compile_plans
from plandsl.diagnostics import Diagnostic, PlanError, suggest


def run_explain(arguments: Namespace) -> int:
    """`planc explain CODE` or `planc explain WORD`, or `planc explain FILE` if the argument names a file."""
    subject = arguments.file
    if subject == "-" or Path(subject).suffix == ".plan" or Path(subject).exists():
        return _explain_plans(arguments)
    from plandsl.terms import TERMS

    if subject.lower() in TERMS:
        return _explain_term(subject.lower(), arguments.json)
    return _explain_code(subject, arguments.json)


def _explain_term(name: str, as_json: bool) -> int:
    from plandsl.terms import TERMS

    if as_json:
        print_json({"plandsl": __version__, "term": name, "text": TERMS[name]})
    else:
        print_text(f"{name}: {TERMS[name]}\n", hang=0)
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


def _explain_code(name: str, as_json: bool) -> int:
    from plandsl.codes import CODES
    from plandsl.terms import TERMS

    code = CODES.get(name.upper())
    if code is None:
        code_like = any(letter.isdigit() for letter in name)
        hint = suggest(name.upper(), CODES) if code_like else suggest(name.lower(), TERMS)
        raise PlanError([Diagnostic("E407", f"no diagnostic has the code `{name}`", hint=hint)])
    if as_json:
        print_json({"plandsl": __version__, "code": name.upper(), **code._asdict()})
        return OK
    print_text(f"{name.upper()}: {code.title}\n\n{code.text}\n", hang=0)
    if code.example:  # a plan's lines are not broken
        lines = code.example.strip("\n").split("\n")
        sys.stdout.write("\nFor example:\n\n" + "".join(f"    {line}\n" for line in lines))
    if code.fix:
        print_text(f"\nWhat to do: {code.fix}\n", hang=0)
    return OK
