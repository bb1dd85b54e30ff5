"""Mutants: changes of one place in the code, made by operators of cosmic-ray, and a seeded sample of them.

A place is drawn first and then one of the operators that apply there, so that a place with many operators is not drawn
more often. Places are drawn by the hash of their text: a change elsewhere in the code leaves the rest of a sample as it
was.

Some operators are not used, and some places are left out:

- one kind of arithmetic becomes another kind, sets stay sets and shifts stay shifts: `>>` on floats fails anywhere;
- a comparison moves its boundary or becomes its opposite. `==` does not become `is` or `<=`, which differ from it by
  accidents of how words are stored and spelled;
- the operators that put random numbers in the place of variables, because a run could not be repeated;
- decorators that only cache, and those that speak to type checkers or to authors of subclasses;
- `assert`, and `strict` of `zip`: they state what always holds, so that a weaker one changes nothing;
- annotations, names of types and `if TYPE_CHECKING`, which do not run; the `*` of a signature, which is no product;
- text: no operator changes a message or a comment; nor does one change what an exception's text shows, and whether a
  class has a text or `__slots__` made for it (`repr`, `slots`).
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.tree import NodeOrLeaf

from benchmarks.mutants.mutant import GROUPS, LEAST, Mutant

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv")
_BINARY = [(old, new) for old in (*_ARITHMETIC, "Mod", "Pow") for new in _ARITHMETIC if old != new]
_BINARY += [("BitOr", "BitAnd"), ("BitOr", "BitXor"), ("BitAnd", "BitOr"), ("BitXor", "BitOr")]
_BINARY += [("LShift", "RShift"), ("RShift", "LShift")]
_COMPARISONS = {"Eq": ["NotEq"], "NotEq": ["Eq"], "Is": ["IsNot"], "IsNot": ["Is"], "Lt": ["LtE", "GtE"]}
_COMPARISONS |= {"LtE": ["Lt", "Gt"], "Gt": ["GtE", "LtE"], "GtE": ["Gt", "Lt"]}

_CONDITIONS = ("AddNot",)
_UNARY = tuple(f"ReplaceUnaryOperator_Delete_{name}" for name in ("Not", "USub", "Invert"))
_WORDS = (
    "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
)  # fmt: skip
OPERATORS: Mapping[str, tuple[str, ...]] = {
    "operator": tuple(f"ReplaceBinaryOperator_{old}_{new}" for old, new in _BINARY),
    "comparison": tuple(
        f"ReplaceComparisonOperator_{old}_{new}" for old, others in _COMPARISONS.items() for new in others
    ),
    "factor": _UNARY,
    "not_test": _UNARY,
    "keyword": _WORDS,
    "if_stmt": _CONDITIONS,
    "while_stmt": _CONDITIONS,
    "test": _CONDITIONS,
    "number": ("NumberReplacer",),
    "except_clause": ("ExceptionReplacer",),
    "for_stmt": ("ZeroIterationForLoop",),
    "decorator": ("RemoveDecorator",),
}
"""The operators of cosmic-ray that are used, by the kind of node in parso's tree that they change."""

_SILENT = (
    "abstractmethod",
    "cache",
    "lru_cache",
    "functools.cache",
    "override",
    "final",
    "overload",
    "runtime_checkable",
    "no_type_check",
)
"""Decorators whose removal no caller sees."""


class Place(NamedTuple):
    """An operator at one position of a file; ``occurrence`` counts what the operator could change above it."""

    file: str
    line: int
    column: int
    operator: str
    occurrence: int


def sample(root: Path, size: int, seed: str) -> list[Mutant]:
    """``size`` mutants of the code below ``root``, drawn by ``seed``; groups share what is over `LEAST` by places."""
    ranked = {group: _ranked(root, group, seed) for group in GROUPS}
    total = sum(map(len, ranked.values()))
    rest = max(0, size - LEAST * len(GROUPS))
    found = []
    for group, places in ranked.items():
        wanted = min(LEAST, size // len(GROUPS)) + -(-rest * len(places) // total)
        found += _first(root, group, places, wanted)
    return found


def drawn(root: Path, size: int, seed: str, folder: Path) -> list[Mutant]:
    """`sample`, kept in ``folder`` until the code changes; in an order that mixes the groups."""
    code = "".join(f"{file}{(root / file).read_text()}" for group in GROUPS for file in files(root, group))
    kept = folder / f"sample-{_hash(f'{size} {seed} {code}')[:16]}.json"
    if not kept.exists():
        kept.write_text(json.dumps(sorted(sample(root, size, seed), key=lambda m: _hash(m.name))), encoding="utf-8")
    return [Mutant(*values) for values in json.loads(kept.read_text(encoding="utf-8"))]


def _first(root: Path, group: str, places: Sequence[Sequence[Place]], wanted: int) -> list[Mutant]:
    found: dict[str, Mutant] = {}
    for options in places:
        if len(found) == wanted:
            break
        made = filter(None, (mutant(root, group, place) for place in options))
        if (first := next(made, None)) is not None:
            found.setdefault(first.name, first)
    return list(found.values())


def _ranked(root: Path, group: str, seed: str) -> list[list[Place]]:
    """The places of a group in the order in which ``seed`` draws them; at each, operators in such an order."""
    found = {}
    for file in files(root, group):
        text = (root / file).read_text(encoding="utf-8")
        lines, seen, counted = text.splitlines(), Counter[str](), {}
        for number, line in enumerate(lines, 1):
            counted[number] = seen[line]
            seen[line] += 1
        here = defaultdict(list)
        for place in places(file, text):
            here[place.line, place.column].append(place)
        for (line, column), options in here.items():
            words = f"{seed}|{file}|{lines[line - 1]}|{counted[line]}|{column}"
            found[_hash(words)] = sorted(options, key=lambda p, w=words: _hash(f"{w}|{p.operator}"))  # type: ignore[misc]
    return [found[key] for key in sorted(found)]


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def files(root: Path, group: str) -> list[str]:
    """The modules of a group, as paths below ``root``."""
    folder, without = GROUPS[group]
    found = sorted(path.relative_to(root).as_posix() for path in (root / folder).rglob("*.py"))
    return [path for path in found if not any(path.startswith(f"{other}/") for other in without)]


def places(file: str, text: str) -> Iterator[Place]:
    """Every place of a file that an operator can change."""
    provider = OperatorProvider()
    made: dict[str, Operator] = {name: provider[name]() for names in OPERATORS.values() for name in names}
    seen: Counter[str] = Counter()
    for node in ast_nodes(get_ast(text)):
        for name in OPERATORS.get(node.type, ()):
            for (line, column), _ in made[name].mutation_positions(node):
                if not _is_silent(node):
                    yield Place(file, line, column, name, seen[name])
                seen[name] += 1


def _is_silent(node: NodeOrLeaf) -> bool:
    if node.type == "operator":
        return node.parent is not None and node.parent.type in ("parameters", "param")
    return node.type == "decorator" and node.get_code().strip().removeprefix("@").split("(")[0].strip() in _SILENT


def mutant(root: Path, group: str, place: Place) -> Mutant | None:
    """The file with the change at ``place``; none where it is no code, or does not compile."""
    text = (root / place.file).read_text(encoding="utf-8")
    changed = mutate_code(text, OperatorProvider()[place.operator](), place.occurrence)
    if changed is None or not _differ(text, changed):
        return None
    old, new = text.splitlines(), changed.splitlines()
    start = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    end = next(i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b)
    before, after = (_dedented(lines[start : len(lines) - end]) for lines in (old, new))
    return Mutant(
        group, place.file, line=start + 1, operator=place.operator, before=before, after=after, source=changed
    )


def _dedented(lines: Sequence[str]) -> str:
    return "\n".join(" ".join(line.split()) for line in lines)


def _differ(text: str, changed: str) -> bool:
    """Whether the two run differently at all: annotations, assertions and what only type checkers read do not count."""
    try:
        return ast.dump(_Running().visit(ast.parse(text))) != ast.dump(_Running().visit(ast.parse(changed)))
    except SyntaxError:
        return False


_STATED = ("strict", "repr", "slots")


class _Running(ast.NodeTransformer):
    """Leaves what runs and matters."""

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return ast.keyword(node.arg, ast.Constant(None)) if node.arg in _STATED else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for inner in ast.walk(node):
            if isinstance(inner, ast.JoinedStr):
                inner.values = []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        alias = isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
        node.annotation = ast.Name("None", ast.Load())
        return ast.Pass() if alias else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.Pass()

    def visit_If(self, node: ast.If) -> ast.AST:
        checking = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return ast.Pass() if checking else self.generic_visit(node)
