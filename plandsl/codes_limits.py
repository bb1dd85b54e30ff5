"""Codes of limits that whoever runs plandsl sets: E620 and E621."""

from __future__ import annotations

LIMIT_CODES = {
    "E620": (
        "unknown limit",
        "`--max NAME=NUMBER`, the variable PLANC_LIMITS and `plandsl.limits.override` set limits by their names, which "
        "docs/language.md#limits lists. No limit has this name.",
        "",
        "use the name that the message of the limit gives, such as `--max layers=20000`.",
    ),
    "E621": (
        "invalid value of a limit",
        "A limit is a whole number of at least 1, written with or without `_`. It bounds time and memory, so that it "
        "cannot be left out.",
        "",
        'write `--max layers=20_000`, or PLANC_LIMITS="layers=20_000 ranks=100_000".',
    ),
}
