"""The codes of report pages, which `planc report` writes: title, text, an example, and what to do."""

from __future__ import annotations

REPORT_CODES: dict[str, tuple[str, str, str, str]] = {
    "E590": (
        "a report is an HTML file",
        "`planc report` writes one HTML file with everything in it: charts, tables, and what draws them. The name "
        "behind `-o` ends in `.html` or `.htm`, or is `-` for standard output.",
        "",
        "Give the output a name that ends in `.html`. A browser prints the page to a PDF.",
    ),
    "N550": (
        "plans are compared but not shown whole",
        "A report shows 12 plans of a file with all their charts. The others are in the comparison alone, so that a "
        "browser opens the page at once.",
        "",
        "Name the plans that you want whole with `--plan`.",
    ),
    "N551": (
        "no map of the devices in a report",
        "The map is drawn by Graphviz, which is missing or failed. The page says so in its place, and has everything "
        "else.",
        "",
        "Install Graphviz (`apt-get install graphviz`, `brew install graphviz`), or `pip install 'plandsl[render]'`.",
    ),
}
