"""Codes of diagnostics about calls from Python; see `plandsl.codes`."""

PYTHON_CODES: dict[str, tuple[str, str, str, str]] = {
    "E445": (
        "invalid argument",
        "A function or method of the Python API got an argument that it cannot use: a number out of its range, a value "
        "of another type, or a word that is not known. The message names the argument, what is expected and what was "
        "found; the caret points at it in the call.",
        "",
        "pass what the label beside the caret names; docs/api.md lists the arguments.",
    ),
    "E446": (
        "unknown or missing argument",
        "A function or method of the Python API has no argument of this name, or needs one that the call lacks. "
        "`Plan`, `Sharding` and the other parts of a plan have the fields that they have in a `.plan` file.",
        "",
        "take a name from the hint.",
    ),
    "E447": (
        "arguments that do not go together",
        "Two arguments of a call from Python rule each other out, such as `batch` and `concurrency`, or arrays whose "
        "shapes do not broadcast.",
        "",
        "leave one of them out, or give the arrays shapes that broadcast: `batch[:, None]`.",
    ),
    "E448": (
        "a library for Python is missing",
        "Tables go to pandas, polars and duckdb by the Arrow interface, which needs pyarrow. It is not installed with "
        "plandsl.",
        "",
        "`pip install 'plandsl[arrow]'`; `table.columns` has the same numbers as numpy arrays without it.",
    ),
    "E449": (
        "neither a plan nor a file of plans",
        "`compile`, `estimate` and the other functions take a plan: a `Plan`, a compiled plan, the path of a `.plan` "
        "file, or its text. A string counts as text if it has a brace or several lines, and as a path otherwise.",
        "",
        "correct the path, or pass the text of a plan.",
    ),
}
