"""Draws CSV files: of measurements of kernels and servers, of traces, of lengths; and changes their cells and rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from random import Random

from tests.fuzz.mutate import mutate

Rows = list[list[str]]

EXTREMES = (
    "nan", "inf", "-inf", "1e400", "-1e400", "-1", "0", "-0", "-0.0", "1e30", "1e-30", "1e-400", "0.5", "1.5",
    "1_000", "0x10", "1e5", "1,5", "\u0661\u0662", "\uff11\uff12", "½", "1e", "1.", ".5", "+1", "00", "",
    "true", "null", "None", "[]", "{}", '{"a":1}', "NULL", "N/A", "-", "abc", "../../x", "2**9", "1e999999999999",
    "power_law_1e9", "activated_experts=nan",
    "", " ", " 1 ", "1 2", "1" * 41, "9" * 4_000, "a" * 300, "\x1b[31m", "\u202e", "\ufeff1", "a\nb", 'a"b', "\0",
    "é",
    "99999999999999999999", "1000000000", "1000000001", "100001", "1e12", "1e15", "1e-12", "257",
)  # fmt: skip
"""What a cell of a number may hold: ends of ranges, and what some reader may take for a number."""


def write(rows: Rows, random: Random) -> bytes:
    """The rows as CSV text; cells are in quotes where they must be, and now and then where they need not be."""
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if random.random() < 0.1 else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=random.choice(("\n", "\n", "\n", "\r\n")), quoting=quoting).writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def near(cell: str, random: Random) -> str:
    """The same cell, or a number that is near the number in it."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    if number in (0.0, 1.0) or random.random() < 0.4:
        return cell
    if number.is_integer():
        return str(max(int(number * random.choice((0.5, 1, 2, 4, 3))), 1))
    return repr(number * random.uniform(0.3, 3))


def spoil(rows: Rows, random: Random, words: Sequence[str] = ()) -> Rows:
    """The rows with one thing changed: a cell, a column, a row, the header."""
    rows = [list(row) for row in rows]
    at = random.randrange(len(rows))
    row = rows[at]
    column = random.randrange(len(rows[0]))
    match random.randrange(10):
        case 0 | 1 | 2 | 3 if len(rows) > 1:
            rows[random.randrange(1, len(rows))][column : column + 1] = [random.choice(EXTREMES)]
        case 4 if words:
            row[column : column + 1] = [random.choice(words)]
        case 5:
            rows = [[*one[:column], *one[column + 1 :]] for one in rows]
        case 6:
            other = random.randrange(len(rows[0]))
            for one in rows if random.random() < 0.5 else rows[:1]:
                if max(column, other) < len(one):
                    one[column], one[other] = one[other], one[column]
        case 7:
            del row[random.randrange(len(row) + 1) :]
        case 8:
            row.append(random.choice(EXTREMES))
        case _:
            rows[0][column] = random.choice(
                (rows[0][column - 1], rows[0][column].upper(), "", "x", "file", "gpu", "time_s")
            )
    return rows


def spoiled(rows: Rows, random: Random, words: Sequence[str] = (), share: float = 0.4) -> bytes:
    """The rows as text: as they are, but in a ``share`` of cases with changes of cells or of bytes."""
    chance = random.random()
    if chance < 0.62 * share:
        for _ in range(random.choice((1, 1, 2, 3))):
            if rows and rows[0]:
                rows = spoil(rows, random, words)
        return write(rows, random)
    content = write(rows, random)
    return mutate(content, random) if chance < share else content
