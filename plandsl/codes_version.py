"""Codes of the line that says the version of the language: E600 to E604."""

_PLAN = "plan p {\n  model = llama_3_1_8b, node = h100_8\n  workload { input = 1024, output = 128 }\n}\n"

VERSION_CODES: dict[str, tuple[str, str, str, str]] = {
    "E600": (
        "the file is newer than the compiler",
        "The line `plandsl = 2` says that the file is written in version 2 of the language. This compiler reads older "
        "versions alone, and nothing else of the file is checked: its words may have another meaning there.",
        "plandsl = 2\n" + _PLAN,
        "`pip install --upgrade plandsl`. If the file uses nothing of the newer version, write the version that the "
        "message names.",
    ),
    "E601": (
        "invalid version of the language",
        "The version is a whole number, on the first line of a file that is no comment. A file has one such line, or "
        "none; a file that is used by others has its own.",
        _PLAN + "plandsl = 1\n",
        "write `plandsl = 1` at the top of the file.",
    ),
}
