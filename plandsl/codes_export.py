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
    "E515": (
        "a plan that cannot be a program in JAX",
        "`planc export --to jax` and `planc run` write the whole plan, or nothing.",
        "",
        "change what the message names.",
    ),
    "E516": (
        "a format that jax.numpy lacks",
        "A program keeps the number formats of its plan, and jax.numpy has no type for this one.",
        "",
        "set the format to another one with `--set`, or compare small dimensions with `planc run --shrink`.",
    ),
    "E517": (
        "jax is not installed",
        "`planc run` runs a program with jax, an optional part of plandsl.",
        "",
        "install it with `pip install 'plandsl[run]'`.",
    ),
    "E518": (
        "the exported program failed",
        "The program ran in a process of its own, which ended with this message.",
        "",
        "write the program with `planc export --to jax -o FILE.py` and run it, to see the whole message.",
    ),
    "E519": (
        "too few devices",
        "At real sizes each rank of a plan is one device that jax finds.",
        "",
        "run small dimensions on devices of the host with `--shrink`, or run a plan with fewer ranks.",
    ),
    "E520": (
        "formats that the device refuses",
        "A program at real sizes keeps the formats of its plan. The device could not multiply matrices in these.",
        "",
        "set the formats to others with `--set`, or run small dimensions with `--shrink`.",
    ),
}
