"""The table of docs/core.md runs, line by line, and says what this file runs."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TABLE = runpy.run_path(str(DOCS / "core_papers.py"))
ROWS = [(topic, row) for topic, rows in TABLE["ROWS"].items() for row in rows]
IDS = [f"{topic}: {row.paper}" for topic, row in ROWS]
CONTROLLED = [row for _, row in ROWS if row.controlled]


@pytest.fixture(scope="module", name="names")
def shared_names():
    return TABLE["namespace"]()


@pytest.mark.parametrize(("topic", "row"), ROWS, ids=IDS)
def test_every_line_does_what_it_says(topic, row, names):
    value = TABLE["value_of"](row, names)
    assert row.holds(value, names), f"{row.line}\ngave {value!r}"


@pytest.mark.parametrize("row", CONTROLLED, ids=lambda row: row.paper)
def test_with_a_denoiser_and_a_teacher_that_know_nothing_lines_fail(row):
    """The control: what knows standard normal data only misses the modes, or the minimum."""
    names = TABLE["namespace"](blind=True)
    value = TABLE["value_of"](row, names)
    assert not row.holds(value, names), row.line


def test_the_page_has_the_table():
    page = (DOCS / "core.md").read_text(encoding="utf-8")
    assert page == TABLE["written"](page), "run python docs/core_papers.py"


def test_lines_are_lines():
    """One expression each, short enough to read, and no bar that would break the table."""
    for _, row in ROWS:
        compile(row.line, "line", "eval")
        assert len(row.line) < 240
        assert "|" not in row.line + row.paper + row.source
