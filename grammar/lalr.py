"""The LALR(1) parser: runs the tables that Lark made of plan.lark over a list of tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from plandsl.grammar import _tables
from plandsl.grammar.tokens import Token
from plandsl.grammar.tree import TreeBuilder

LISTS = ("items", "decls")


@cache
def _rules() -> list[tuple[str, int, Callable[[TreeBuilder, list[Any]], Any] | None]]:
    """Each rule's name, its number of parts, and what makes its value of them."""
    return [(name, size, getattr(TreeBuilder, method) if method else None) for name, size, method in _tables.RULES]


class Machine:
    """The state of a parser: its stacks, its tokens, and the index of the next token."""

    def __init__(self, tokens: list[Token], homes: list[int], builder: TreeBuilder) -> None:
        self.tokens = tokens
        self.homes = homes
        self.builder = builder
        self.at = 0
        self.states = [0]
        self.values: list[Any] = []

    def run(self, mend: Callable[[Machine], None]) -> Any:
        """Parse to the end. If the next token does not fit, ``mend`` is called, and must make it fit."""
        actions, gotos, rules = _tables.ACTIONS, _tables.GOTOS, _rules()
        tokens, states, values, builder = self.tokens, self.states, self.values, self.builder
        while True:
            token = tokens[self.at]
            # the end of the text is `$END` to Lark
            kind = token[0] if token[0] != "END" else "$END"
            while (action := actions[states[-1]].get(kind)) is not None and action < 0:  # a rule ends before the token
                name, size, method = rules[-1 - action]
                if method is None:  # one child, which is the value
                    states[-1] = gotos[states[-2]][name]
                    continue
                parts = values[-size:] if size else []
                if size:
                    del values[-size:]
                    del states[-size:]
                value = method(builder, parts)
                if name == "start":
                    return value
                values.append(value)
                states.append(gotos[states[-1]][name])
            if action is None:
                mend(self)
                continue
            states.append(action)
            values.append(token)
            self.at += 1

    def accepts(self, *kinds: str) -> bool:
        """Whether the parser could shift tokens of these kinds next, one after the other."""
        states = list(self.states)
        return all(_shift(states, kind) for kind in kinds)

    def drop_item(self) -> None:
        """Forget the part of the current item that was read."""
        states, values = self.states, self.values
        closed = 0  # bodies that were read to their end, but not yet made into a node
        while closed or not self._in_list():
            states.pop()
            value = values.pop()
            if type(value) is Token:
                closed += (value.kind == "RBRACE") - (value.kind in ("LBRACE", "CALL_BRACE"))
                closed = max(closed, 0)

    def _in_list(self) -> bool:
        """Whether the parser stands between two items; before the first one, an empty list is begun."""
        state = self.states[-1]
        if state in _LIST_STATES:
            return True
        empty = next((_tables.GOTOS[state][name] for name in LISTS if name in _tables.GOTOS[state]), None)
        if empty is None:
            return False
        self.states.append(empty)
        self.values.append([])
        return True

    def insert(self, *tokens: Token) -> None:
        """Put tokens before the next one."""
        home = self.homes[self.at]
        self.tokens[self.at : self.at] = tokens
        self.homes[self.at : self.at] = [home] * len(tokens)


_LIST_STATES = {row[name] for row in _tables.GOTOS for name in LISTS if name in row}


def _shift(states: list[int], kind: str) -> bool:
    while (action := _tables.ACTIONS[states[-1]].get(kind)) is not None:
        if action >= 0:
            states.append(action)
            return True
        name, size, _ = _tables.RULES[-1 - action]
        if size:
            del states[-size:]
        if name == "start":
            return True
        states.append(_tables.GOTOS[states[-1]][name])
    return False
