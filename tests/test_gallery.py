"""docs/gallery.md: a picture of each kind, all drawn by one command, small, and with a ground of their own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.gallery import IMAGES, OTHERS, SECTIONS, page, pictures
from plandsl.backends.graphviz import VIEWS
from plandsl.cli import VERBS, parser

ROOT = Path(__file__).parents[1]
MOST_BYTES = 1_500_000
"""Most bytes of all pictures below docs/images/gallery."""


def test_the_page_is_what_the_command_writes() -> None:
    assert (ROOT / "docs" / "gallery.md").read_text("utf-8") == page()


def test_every_picture_of_the_pages_is_drawn_by_the_command() -> None:
    linked = {
        match
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for match in re.findall(r"images/((?!accuracy)[\w/]+\.svg)", path.read_text("utf-8"))
    }
    drawn = [one.file for one in pictures()]
    assert sorted(drawn) == sorted(set(drawn))
    assert linked == set(drawn)
    stored = {str(path.relative_to(ROOT / IMAGES)) for path in (ROOT / IMAGES).rglob("*.svg")}
    assert {name for name in stored if not name.startswith("accuracy")} == set(drawn)


def test_every_view_has_a_picture() -> None:
    commands = [shlex.split(one.command_to("x.svg"))[1:] for one in pictures()]
    parsed = [parser(VERBS).parse_args(command) for command in commands]
    views = {arguments.view for arguments in parsed if arguments.command in ("render", "simulate")}
    assert views >= {*VIEWS, "tradeoff", "occupancy", "steps", "rates"}
    assert {"search", "simulate", "compare-comm"} <= {arguments.command for arguments in parsed}
    assert all((ROOT / name).exists() for arguments in parsed for name in [getattr(arguments, "file", None) or PLAN])
    assert all(one.title and one.words for section in SECTIONS.values() for one in section)
    assert not any(one.title for one in OTHERS)


PLAN = "examples/llama3_70b.plan"


def test_pictures_are_small_and_read_on_a_dark_page() -> None:
    files = [ROOT / IMAGES / one.file for one in pictures()]
    assert sum(file.stat().st_size for file in files if file.parent.name == "gallery") < MOST_BYTES
    for file in files:
        head = file.read_text("utf-8")[:4000]
        assert re.search(r'<polygon fill="white"|style="fill: #ffffff"', head), file.name


@pytest.mark.parametrize("one", [p for p in pictures() if p.file.endswith(("devices.svg", "block.svg"))])
def test_a_picture_says_its_fonts_once(one) -> None:
    text = (ROOT / IMAGES / one.file).read_text("utf-8")
    assert text.count("font-family") == 1
    assert "<!--" not in text
