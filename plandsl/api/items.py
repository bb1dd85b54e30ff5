"""What stands in parts beside their fields, such as `require` and rules: from what is given to canonical text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from plandsl.api.parts import NAME, Convert, Given, Part, Section, ordered_section
from plandsl.api.texts import item_text, read_text_value
from plandsl.expressions import quote, write_value


def clauses(word: str) -> Convert:
    """Reads clauses such as ``ttft <= 1 s``, which stand behind ``word`` in a file; one or several."""

    def convert(part: Part, key: str, given: Given) -> tuple[str, ...]:
        return tuple(
            item_text(given.call, key, f"{word} {text}".strip())[len(word) :].strip() for text in given.texts()
        )

    return convert


def items(*kinds: type, expected: str) -> Convert:
    """Reads items of some kinds, which stand in a file as they are given."""

    def convert(part: Part, key: str, given: Given) -> tuple[str, ...]:
        return tuple(item_text(given.call, key, text, kinds, expected) for text in given.texts())

    return convert


def expression(word: str) -> Convert:
    """Reads one expression, which stands behind ``word`` in a file."""

    def convert(part: Part, key: str, given: Given) -> str:
        (text,) = given.texts() if isinstance(given.value, str) else [""]
        if not text:
            raise given.call.wrong(key, "text as in a plan")
        return item_text(given.call, key, f"{word} {text}")[len(word) + 1 :]

    return convert


def sizes(part: Part, key: str, given: Given) -> Section:
    """Reads a mapping of names to values whose order has a meaning."""
    found = {}
    for name, value in given.mapping().items():
        if not NAME.fullmatch(name) or (text := write_value(value)) is None:
            raise given.call.wrong(key, "a mapping of names to values")
        found[name] = read_text_value(given.call, key, text)
    return ordered_section(found)


def uses(part: Part, key: str, given: Given) -> tuple[str, ...]:
    """Reads paths of files, one or several."""
    texts = [given.value] if isinstance(given.value, str | PurePath) else given.value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str | PurePath) for text in texts):
        raise given.call.wrong(key, "the path of a file, or a list of paths")
    quoted = [quote(str(text).strip('"')) for text in texts]
    if None in quoted:
        raise given.call.wrong(key, "the path of a file, or a list of paths")
    return tuple(text for text in quoted if text is not None)


def declared(part: Part, key: str, given: Given) -> tuple[Part, ...]:
    """Reads parts with names, one or several."""
    parts = [given.value] if isinstance(given.value, Part) else given.value
    if not isinstance(parts, Sequence) or not all(isinstance(one, Part) and one.name for one in parts):
        raise given.call.wrong(key, "parts with a name", hint='declare=[Gpu("h100_sxm", name="mine", memory="96 GB")]')
    return tuple(parts)


def ranges(part: Part, key: str, given: Given) -> Section:
    """The values of each field that varies, by its path."""
    made = {}
    for path, domain in given.mapping().items():
        text = domain if isinstance(domain, str) else write_value(domain)
        if text is None:
            raise given.call.wrong(
                key, 'a mapping of paths to values, such as {"tp": [1, 2, 4], "batch": "1..64 by * 2"}'
            )
        head = f"vary {path} in "
        made[path] = item_text(given.call, key, head + text).removeprefix(head)
    return ordered_section(made)
