"""The guide and the tour that does what it says (`python -m docs.shots`) have the same words.

The tour itself takes minutes and a display; that it still quotes the guide, all of it, is seen here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.tour.guide_text import Guide
from docs.tour.parts import PARTS, with_needed

DOCS = Path(__file__).parents[1] / "docs"


def quotes(page: str = "guide") -> Iterator[str]:
    """What the modules of the tour say that they do next, of the guide or of another page."""
    for path in sorted((DOCS / "tour").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if getattr(called, "id", getattr(called, "attr", "")) == page:
                yield from (each.value for each in node.args if isinstance(each, ast.Constant))


def test_all_that_the_guide_tells_to_press_is_done_by_the_tour():
    guide = Guide.read(DOCS / "guide.md")
    guide(*quotes())
    assert not guide.missing()


def test_what_nobody_does_is_missing(tmp_path):
    text = (DOCS / "guide.md").read_text("utf-8")
    (tmp_path / "guide.md").write_text(f"{text}\n\n*Dissolve* makes the scan go away. Press Y.", "utf-8")
    guide = Guide.read(tmp_path / "guide.md")
    guide(*quotes())
    assert [text.split("'")[1] for text in guide.missing()] == ["*Dissolve*", "Press"]


def test_the_film_of_another_computer_quotes_its_page():
    page = Guide.read(DOCS / "remote.md", left_out=())
    page(*quotes("page"))
    assert len(page.done) > 5


def test_a_part_of_the_tour_brings_those_that_it_needs():
    assert with_needed(["project"]) == ("start", "sample", "project")
    assert with_needed(["pictures"]) == ("pictures",)
    assert with_needed(PARTS) == tuple(PARTS)
    with pytest.raises(ValueError, match="smaple is not one of start, sample"):
        with_needed(["smaple"])
