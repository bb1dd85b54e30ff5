"""The codes of `planc export` and `planc import`: title, text, an example, and what to do."""

from __future__ import annotations

EXPORT_CODES: dict[str, tuple[str, str, str, str]] = {
    "E500": (
        "unknown target of an export",
        "`planc export FILE --to TARGET` writes a plan for one of the tools that it knows by name.",
        "",
        "take one of the targets that the hint lists.",
    ),
    "E501": (
        "the export needs an output",
        "Some exports are several files, or a file that is no text. They are not printed.",
        "",
        "name a file or a folder with `-o`.",
    ),
}
