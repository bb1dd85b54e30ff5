"""Changes a text or bytes: words exchanged, parts of two cases joined, numbers and signs that nobody expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from tests.fuzz.case import Case, Corpus

WORD = re.compile(
    rb"\s+|[A-Za-z_]\w*|[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\"[^\"\n]*\"|->|\.\.|[<>=!]=|[^\w\s]"
)
NUMBER = re.compile(rb"-?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

NUMBERS = (
    *(b"0 1 2 3 7 8 64 100 4096 -1 0.5 0.0 1.0 1e-9 1e-300 1e9 1e18 1e300 1e400 -1e400 4294967296 2147483648").split(),
    *(b"9223372036854775807 9223372036854775808 18446744073709551616 999999999999999999999999999999 1_000_000").split(),
    *(b"nan NaN inf Infinity -Infinity 0x10 1e 1. .5 00 1__0 -0 1000000007").split(),
    b"9" * 60,
)
"""Numbers at the ends of ranges, and what some reader may take for one."""

SIGNS = (
    *(b"\0 \x1b[31m \x07 \x08 \x7f \t \r\n \r \v \f").split(b" "),
    *(
        sign.encode()
        for sign in ["\x85", "\u2028", "\u202e", "\ufeff", "\u200b", "é", "ß", "İ", "漢", "😀", "é", "ǆ", "١٢", "½"]
    ),
    *(b"\xff \xc3 \xed\xa0\x80 \xf8\x88\x80\x80\x80 \xfe\xff").split(b" "),
    *(b"\" ' \\ ` $ % & | < > # ; , : = ( ) [ ] { } / * - + @ ~ ^ ! ?").split(b" "),
    *(b"&lt; </script> <!-- %s {0} ${HOME} $(id) ../ // \\u0000 \\ud800").split(b" "),
)
"""Characters that somebody obeys, that are not text, or that end something."""

LONG = (
    b"a" * 300,
    b"(" * 90,
    b"[" * 90,
    b"{" * 90,
    b"-" * 90,
    b"x." * 70,
    b"not " * 80,
    b"\n" * 400,
    b" " * 3000,
    b'"' * 9,
)
"""What is long or deep."""


def mutate(content: bytes, random: Random, others: Sequence[bytes] = (), words: Sequence[bytes] = ()) -> bytes:
    """``content`` with one change or a few. ``others`` may give parts of theirs, ``words`` are put in as words."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        content = _change(content, random, others, words)
    return content


def mutate_one(random: Random, corpus: Corpus, words: Sequence[bytes] = ()) -> Case:
    """One case of the corpus, each of its files changed by `mutate`."""
    case = random.choice(corpus)
    return Case({name: mutate(content, random, words=words) for name, content in case.files.items()}, case.argv)


def _change(content: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    match random.randrange(16):
        case 0 | 1 | 2 | 3:
            return _numbers(content, random)
        case 4 | 5 | 6 | 7 | 8:
            return _words(content, random, words)
        case 9 | 10:
            return _lines(content, random)
        case 11 | 12:
            return _splice(content, random.choice(others), random) if others else _lines(content, random)
        case 13:
            at = random.randrange(len(content) + 1)
            return content[:at] + random.choice(SIGNS) + content[at:]
        case 14:
            return _bytes(content, random)
        case _:
            return _whole(content, random)


def _numbers(content: bytes, random: Random) -> bytes:
    """One number is another one: an extreme one, or one that is near."""
    found = list(NUMBER.finditer(content))
    if not found:
        return content + random.choice(NUMBERS)
    one = random.choice(found)
    return content[: one.start()] + number_like(one.group(), random) + content[one.end() :]


def number_like(number: bytes, random: Random) -> bytes:
    """Another number in the place of ``number``."""
    if random.random() < 0.5:
        return random.choice(NUMBERS)
    try:
        value = float(number.replace(b"_", b""))
    except ValueError:
        return random.choice(NUMBERS)
    whole = value.is_integer() and abs(value) < 1e15
    near = random.choice((value + 1, value - 1, value * 2, value * 3, value * 1000, value / 2, -value, value * 10))
    return b"%d" % near if whole and random.random() < 0.9 else f"{near:.6g}".encode()


def _words(content: bytes, random: Random, more: Sequence[bytes]) -> bytes:
    """Words exchanged, dropped, added, moved, doubled."""
    words = WORD.findall(content) or [b"x"]
    at = random.randrange(len(words))
    word = random.choice(words) if not more or random.random() < 0.5 else random.choice(more)
    match random.randrange(6):
        case 0 | 1:
            words[at] = word
        case 2:
            del words[at : at + random.randint(1, 6)]
        case 3:
            words.insert(at, word)
        case 4:
            to = random.randrange(len(words))
            words[at], words[to] = words[to], words[at]
        case _:
            words[at:at] = words[at : at + random.randint(1, 12)]
    return b"".join(words)


def _lines(content: bytes, random: Random) -> bytes:
    """Lines dropped, doubled, moved."""
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return content * random.choice((2, 3)) if len(content) < 2000 else content[: random.randrange(len(content))]
    at, many = random.randrange(len(lines)), random.randint(1, 3)
    part = lines[at : at + many]
    match random.randrange(3):
        case 0:
            del lines[at : at + many]
        case 1:
            lines[at:at] = part
        case _:
            del lines[at : at + many]
            to = random.randrange(len(lines) + 1)
            lines[to:to] = part
    return b"".join(lines)


def _splice(content: bytes, other: bytes, random: Random) -> bytes:
    """Lines of another one in the place of some of these."""
    ours, theirs = content.splitlines(keepends=True) or [b""], other.splitlines(keepends=True) or [b""]
    at, to = random.randrange(len(ours)), random.randrange(len(theirs))
    ours[at : at + random.randint(0, 5)] = theirs[to : to + random.randint(1, 12)]
    return b"".join(ours)


def _bytes(content: bytes, random: Random) -> bytes:
    """Bytes changed, cut off, or some that are left out."""
    made = bytearray(content or b"x")
    at = random.randrange(len(made))
    match random.randrange(4):
        case 0:
            made[at] ^= 1 << random.randrange(8)
        case 1:
            made[at] = random.randrange(256)
        case 2:
            del made[at:]
        case _:
            del made[at : at + random.randint(1, 8)]
    return bytes(made)


def _whole(content: bytes, random: Random) -> bytes:
    """Something of the whole: ends of lines, an encoding, a long part, nothing at all."""
    match random.randrange(12):
        case 0:
            return content.replace(b"\n", random.choice((b"\r\n", b"\r", b"\n\n", b" ", b"\n\x00")))
        case 1:
            return b"\xef\xbb\xbf" + content
        case 2:
            return random.choice((b"", b"\n", b"\0", b" ", b"\xff\xfe"))
        case 3:
            try:
                return content.decode().encode(random.choice(("utf-16", "utf-32", "utf-7")))
            except UnicodeDecodeError:
                return content[::-1]
        case _:
            at = random.randrange(len(content) + 1)
            return content[:at] + random.choice(LONG) + content[at:]
