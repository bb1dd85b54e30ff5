"""From pages that read well as plain files to pages of the site: fences, and links to files outside docs/."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
WORDS = {"fragment": "a part of a plan", "fails": "does not compile"}
"""What tests ask of a block -> what its title says."""


def fences(text: str) -> str:
    """Fences whose first line holds more than a language: the rest becomes a title."""
    return FENCE.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    if "title=" in found["info"]:
        return found[0]
    language, *words = found["info"].split() or [""]
    names = [word.partition("=")[2] for word in words if word.startswith("file=")]
    said = [*names, *(WORDS[word] for word in words if word in WORDS), *(w for w in words if re.match(r"[EWN]\d", w))]
    title = f' title="{", ".join(said)}"' if said else ""
    body = found["body"].replace("<BLANKLINE>", "") if language == "python" else found["body"]
    return f"{found['indent']}```{language or 'text'}{title}\n{body}{found['indent']}```"


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """``text`` with ``change`` applied between its fences."""
    parts, last = [], 0
    for found in FENCE.finditer(text):
        parts += [change(text[last : found.start()]), found[0]]
        last = found.end()
    return "".join([*parts, change(text[last:])])


def links(text: str, page: str, moved: Mapping[str, str], *, root: str = "docs") -> str:
    """Links of a page, as the site has them. ``moved``: pages of the site by the paths of files in the repository.

    ``page`` is the page's path below docs/; its links start at the folder ``root`` and the page's own folder.
    """
    folder = posixpath.dirname(page)

    def change(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        target = posixpath.normpath(posixpath.join(root, folder if root == "docs" else "", path))
        if target in moved:
            new, _, fixed = moved[target].partition("#")
            return posixpath.relpath(new, folder or ".") + (anchor or (f"#{fixed}" if fixed else ""))
        if root != "docs" and target.startswith("docs/"):  # a page of the repository's top
            return posixpath.relpath(target.removeprefix("docs/"), folder or ".") + anchor
        return found[0]

    return outside_fences(text, lambda prose: LINK.sub(change, prose))


def slug(text: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it, so that one link serves the site and the plain file."""
    return re.sub(r"[^\w\- ]", "", text.lower().strip()).replace(" ", separator)
