"""Turns `plan.lark` into `_tables.py`: ``python -m plandsl.grammar.build`` (``--check`` only compares).

Lark reads the grammar, rejects conflicts and computes the LALR(1) tables. They are stored as plain
literals, so that reading a plan needs neither Lark's import nor its table construction (50 and 170 ms).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lark import Lark

HERE = Path(__file__).parent
GRAMMAR = HERE / "plan.lark"
TABLES = HERE / "_tables.py"

HEAD = '''"""Made from plan.lark by ``python -m plandsl.grammar.build``: do not edit."""

# ruff: noqa
from __future__ import annotations

'''


def build_lark() -> Lark:
    """The grammar as Lark reads it. Raises Lark's `GrammarError` on a conflict, or where two terminals overlap."""
    from lark import Lark

    return Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", lexer="basic", strict=True)


def terminals(lark: Lark) -> tuple[str, dict[str, str]]:
    """A regular expression for the terminals, and the kind of every fixed text (words and operators)."""
    fixed: dict[str, str] = {}
    patterns: list[str] = []
    for terminal in lark.terminals:
        if terminal.pattern.type == "str":
            fixed[terminal.pattern.value] = terminal.name
        elif terminal.name != "SPACE":
            patterns.append(f"(?P<{terminal.name}>{terminal.pattern.value})")
    signs = "".join(s for s in sorted(fixed) if len(s) == 1)
    longer = [s for s in sorted(fixed) if len(s) > 1 and not s.isalpha()]
    operators = "|".join(re.escape(s) for s in longer)
    # the longer of two operators first: `==` is COMPARE, not twice EQ
    patterns.append(f"(?P<OPERATOR>{operators}|[{re.escape(signs)}])")
    return "|".join(patterns), fixed


def tables(lark: Lark) -> dict[str, Any]:
    """The contents of `_tables.py`, by name.

    ``ACTIONS[state][terminal]`` is the next state, or ``-1 - rule`` to reduce by a rule;
    ``GOTOS[state][name]`` is the state after a nonterminal. A rule is ``(nonterminal, size, method of
    TreeBuilder)``, the method empty where the only child is the value.
    """
    from lark.parsers.lalr_analysis import Shift

    table = lark.parser.parser._parse_table
    numbers = {rule: number for number, rule in enumerate(lark.rules)}
    order = _states_in_order(table)
    states = {state: number for number, state in enumerate(order)}
    actions: list[dict[str, int]] = []
    gotos: list[dict[str, int]] = []
    for state in order:
        actions.append({})
        gotos.append({})
        for name, (action, arg) in sorted(table.states[state].items(), key=lambda entry: entry[0]):
            terminal = name.isupper() or name == "$END"
            row = actions[-1] if terminal else gotos[-1]
            row[str(name)] = states[arg] if action is Shift else -1 - numbers[arg]
    rules = [(str(rule.origin.name), len(rule.expansion), _method(rule)) for rule in lark.rules]
    pattern, fixed = terminals(lark)
    return {"PATTERN": pattern, "FIXED": fixed, "RULES": rules, "ACTIONS": actions, "GOTOS": gotos}


def _states_in_order(table: Any) -> list[int]:
    """The states from the start on: Lark's own numbers change from run to run."""
    from lark.parsers.lalr_analysis import Shift

    order = [table.start_states["start"]]
    for state in order:
        for _, (action, arg) in sorted(table.states[state].items(), key=lambda entry: entry[0]):
            if action is Shift and arg not in order:
                order.append(arg)
    return order


def _method(rule: Any) -> str:
    inlined = rule.options.expand1 and not rule.alias and len(rule.expansion) == 1
    return "" if inlined else str(rule.alias or rule.origin.name)


def text() -> str:
    """The text that `_tables.py` must have."""
    out = [HEAD]
    for name, value in tables(build_lark()).items():
        if not isinstance(value, list):
            out.append(f"{name} = {value!r}\n")
            continue
        element = "tuple[str, int, str]" if name == "RULES" else "dict[str, int]"
        out.append(f"{name}: tuple[{element}, ...] = (\n")
        out += [f"    {row!r},\n" for row in value]
        out.append(")\n")
    return "".join(out)


def main(arguments: list[str]) -> int:
    """Write the tables, or with ``--check`` say whether they are current."""
    wanted = text()
    if "--check" not in arguments:
        TABLES.write_text(wanted, encoding="utf-8", newline="\n")
        return 0
    if TABLES.exists() and TABLES.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{TABLES.name} is out of date: run `python -m plandsl.grammar.build`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
