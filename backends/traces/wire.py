"""The wire format of protobuf, as far as Chakra traces need it: varints, texts, and messages within messages.

Source: "Encoding", Protocol Buffers documentation. The schema is a few numbers (`chakra.py`), so that a writer of this
size takes the place of a library that users would have to install; tests read the files with that library.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

VARINT, BYTES = 0, 2
"""The two wire types."""


@lru_cache(1 << 16)
def varint(number: int) -> bytes:
    """A number of 0 or more: seven bits a byte, the least first. A graph names the same nodes many times."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def number_field(field: int, number: int) -> bytes:
    """A field that holds an integer, an enum or a bool."""
    return varint(field << 3 | VARINT) + varint(number)


def bytes_field(field: int, content: bytes) -> bytes:
    """A field that holds a message."""
    return varint(field << 3 | BYTES) + varint(len(content)) + content


def text_field(field: int, text: str) -> bytes:
    """A field that holds a text."""
    return bytes_field(field, text.encode())


def packed_field(field: int, numbers: Iterable[int]) -> bytes:
    """A field that repeats integers; nothing where there are none."""
    content = b"".join(map(varint, numbers))
    return bytes_field(field, content) if content else b""


def delimited(message: bytes) -> bytes:
    """A message of a stream: its length, then the message."""
    return varint(len(message)) + message
