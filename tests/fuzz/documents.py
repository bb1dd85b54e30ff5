"""Draws JSON texts: documents with values that are near, and with values, keys and signs that nobody expects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.fuzz.mutate import mutate

RAW = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-1", "0", "-0.0", "1e30", "1e300", "1e-300", "0.5", "true",
    "false", "null", "[]", "{}", "[[]]", "[1]", "[null]", "01", "+1",
    '""', '"1"', '"1_000"', '"nan"', '"inf"', '"\u0661\u0662"', '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"a"',
    '[{"a":1}]', '{"mean":1e300}', '{"a":{}}', '1.5',
    "1" * 30, "1" * 400, "1" * 5_000, "[" * 60 + "]" * 60, "[" * 2_000, '{"a":' * 700 + "1" + "}" * 700,
    '"' + "x" * 300 + '"',
    "9007199254740993", "9223372036854775808", "1000000001", "4611686018427387904",
)  # fmt: skip
"""Values as text, also what is no JSON and some readers take."""

_MARK = "\x00VALUE\x00"

Place = tuple[list[Any] | dict[str, Any], Any]


def places(value: Any) -> Iterator[Place]:
    """Every place of a value in a document: its list or object, and the key there."""
    todo = [value]
    while todo:
        one = todo.pop()
        if not isinstance(one, dict | list):
            continue
        for key in list(one) if isinstance(one, dict) else range(len(one)):
            yield one, key
            todo.append(one[key])


def spoil(document: Any, random: Random) -> str:
    """The text of the document with one value, one key or one entry changed. The document is changed too."""
    found = list(places(document))
    if not found:
        return random.choice(RAW)
    inside, key = random.choice(found)
    match random.randrange(8):
        case 0 if isinstance(inside, dict):
            other = random.choice(found)
            inside[random.choice((str(other[1]), "x", "", "\ud800", "é", "a" * 300))] = inside.pop(key)
        case 1:
            del inside[key]
        case 2:
            other, at = random.choice(found)
            inside[key] = other[at] if not isinstance(other[at], dict | list) else None
        case 3 if isinstance(inside, dict):  # a name that is given twice
            text = json.dumps(document)
            return text.replace(
                json.dumps(key) + ": ", f"{json.dumps(key)}: {random.choice(RAW)}, {json.dumps(key)}: ", 1
            )
        case _:
            inside[key] = _MARK
            return json.dumps(document).replace(json.dumps(_MARK), random.choice(RAW))
    return json.dumps(document)


def spoiled(document: Any, random: Random, write: Callable[[Any], str] = json.dumps, share: float = 0.4) -> bytes:
    """The document as text: as it is, but in a ``share`` of cases with changes of values or of bytes."""
    chance = random.random()
    if chance < 0.67 * share:
        return spoil(document, random).encode("utf-8", "surrogatepass")
    content = write(document).encode("utf-8", "surrogatepass")
    return mutate(content, random) if chance < share else content


def shaken(value: Any, random: Random, share: float = 0.3) -> Any:
    """A copy of a document, some of whose numbers are multiplied by a little."""
    if isinstance(value, dict):
        return {key: shaken(one, random, share) for key, one in value.items()}
    if isinstance(value, list):
        return [shaken(one, random, share) for one in value]
    if isinstance(value, bool) or not isinstance(value, int | float) or random.random() > share:
        return value
    if isinstance(value, int):
        return max(int(value * random.choice((0.5, 2, 1, 3))), 0)
    return value * random.uniform(0.5, 2)
