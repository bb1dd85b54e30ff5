"""Hooks of MkDocs: pages that are made rather than written, the navigation, and links that leave docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from benchmarks.site import codes, examples, fields, grammar, markdown
from plandsl._version import LANGUAGE, __version__

ROOT = Path(__file__).parents[2]
REST = "More"
"""The section of pages that `nav` of mkdocs.yml does not place."""

TOP = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md",
       "SECURITY.md": "security.md"}  # fmt: skip
"""Pages at the top of the repository -> pages of the site."""


WIDE = ("study.md", "reference/fields.md", "machines.md", "partitioner.md")
"""Pages of wide tables, which take the room of the list of headings too."""


def moved() -> dict[str, str]:
    """Path of a file outside docs/ -> page of the site that shows it."""
    shown = {path: f"examples.md{'#' * bool(anchor)}{anchor}" for path, anchor in examples.anchors().items()}
    return TOP | shown


def made() -> dict[str, str]:
    """Path below docs/ -> Markdown, of every page that is made."""
    pages = {
        "reference/grammar.md": grammar.page(),
        "reference/fields.md": fields.page(),
        "reference/diagnostics.md": codes.index(),
        **codes.pages(),
        "examples.md": examples.page(),
    }
    for name, page in TOP.items():
        if (ROOT / name).is_file() and page != "index.md":
            pages[page] = markdown.links((ROOT / name).read_text("utf-8"), page, moved(), root=".")
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the version beside the name, and pages that `nav` leaves out into a section of their own."""
    config.site_name = f"{config.site_name} {__version__}"
    config.copyright = f"plandsl {__version__}, version {LANGUAGE} of the language. Licence: Apache-2.0."
    placed = set(_paths(config.nav or []))
    docs = Path(config.docs_dir)
    rest = sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))
    rest = [path for path in rest if path not in placed]
    if rest and config.nav is not None:
        config.nav.append({REST: rest})
    return config


def _paths(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [path for part in (nav.values() if isinstance(nav, dict) else nav) for path in _paths(part)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made; a page of the top that is not there takes its place in `nav` with it."""
    for path, text in made().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fences and links of a page as the site has them."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return markdown.fences(markdown.links(text, page.file.src_uri, moved()))
