"""The codes of drawing: title, text, an example that produces it, and what to do."""

from __future__ import annotations

RENDER_CODES: dict[str, tuple[str, str, str, str]] = {
    "E430": (
        "Graphviz is missing",
        "Pictures need Graphviz: the program `dot`, or the Python package `pygraphviz`, which contains Graphviz. "
        "Neither was found. An output file that ends in `.dot` needs neither.",
        "",
        "Install Graphviz (`apt-get install graphviz`, `brew install graphviz`), or `pip install 'plandsl[render]'`.",
    ),
    "E431": (
        "unknown picture format",
        "The ending of the file name gives the format: `.svg`, `.png`, `.pdf`, or `.dot`, the text from which "
        "Graphviz draws.",
        "",
        "Give the output a name that ends in one of the four.",
    ),
    "E432": (
        "unknown view",
        "The views of a plan are `devices` (the contents of each GPU), `communication` (who sends how much to whom), "
        "`block` (the dataflow of one layer on one GPU), `timeline` (when each stage works) and `memory` (the memory "
        "use of the GPUs), in the phase `prefill` or `decode`. `tradeoff` draws throughput against latency for "
        "all plans of a file.",
        "",
        "Name one of the views.",
    ),
    "E433": (
        "the picture cannot be written",
        "The folder of the output file does not exist, writing to it is not permitted, or the name is the name of a "
        "folder. planc writes a temporary file and then renames it, so an earlier file of this name is unchanged.",
        "",
        "Create the folder, or choose another place with `-o`.",
    ),
    "E434": (
        "drawing failed",
        "Graphviz did not finish within its time limit, or failed with the message shown.",
        "",
        "Write a `.dot` file, and draw it with a newer Graphviz.",
    ),
}
