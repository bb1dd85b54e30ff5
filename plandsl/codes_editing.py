"""The codes of editors: title, text, an example that produces it, and what to do."""

from __future__ import annotations

EDITING_CODES: dict[str, tuple[str, str, str, str]] = {
    "E585": (
        "a name that cannot be changed",
        "An editor renames what the open files declare: every place that uses the name is changed. The name of an "
        "entry of the catalog stays, and so does the axis of a degree. The new name must be one that the language "
        "allows, and the files must not have more mistakes with it than before: another thing may have this name, or "
        "a sharding may name a dimension that every model calls the same.",
        "",
        "Choose another name; declare an entry of your own, `gpu mine = h100_sxm`, to give it a name of your own.",
    ),
    "E586": (
        "nothing to speak to editors with",
        "`planc lsp` needs the Python packages pygls and lsprotocol.",
        "",
        "Install them: `pip install 'plandsl[lsp]'`.",
    ),
    "E587": (
        "a port that cannot be opened",
        "`planc lsp --port N` listens on port N of this machine alone. Another program may listen there, or N is no "
        "port that this user may open.",
        "",
        "Choose another port from 1024 to 65535, or leave `--port` out: planc then uses standard input and output.",
    ),
}
