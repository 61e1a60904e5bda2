"""The page: complete in itself, well formed, escaped, and the same for the same report."""

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from medsci.errors import OutputExistsError
from medsci.report import (
    Column,
    Figure,
    KeyNumber,
    Report,
    Section,
    Table,
    curve,
    render_html,
    write_report,
)

NASTY = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collect elements and text, and insist on properly nested tags."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def png():
    return curve({"a": ([0, 1, 2], [3.0, 2.0, 1.0])}, x_label="step", y_label="loss")


@pytest.fixture
def report(png):
    table = Table(
        title=f"table {NASTY}",
        columns=[Column(title=NASTY, unit="m&m"), Column(title="v", best="highest")],
        rows=[[NASTY, 1.0], ["other", 2.0]],
        caption=NASTY,
    )
    figure = Figure(title=NASTY, png=png, caption=NASTY, alt=f"alt {NASTY}")
    return Report(
        title=NASTY,
        subtitle=NASTY,
        summary=[KeyNumber(label=NASTY, value=NASTY, unit="<b>", note=NASTY)],
        sections=[Section(title=NASTY, paragraphs=[NASTY], figures=[figure], tables=[table])],
        warnings=[NASTY],
        limits=NASTY,
        provenance={"command": NASTY, "inputs": [{"sha256": "ab"}], "sizes": [1, 2], NASTY: 0.1},
    )


def test_page_is_well_formed_and_loads_nothing(report, png):
    page = Page(render_html(report))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    (image,) = page.all("img")
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == png
    for _, attributes in page.elements:
        assert "href" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in policy["content"]
    assert "http" not in render_html(report).replace("http-equiv", "")
    assert "url(" not in render_html(report)


def test_all_text_is_escaped_and_arrives(report):
    page = Page(render_html(report))
    # title twice (head, h1), subtitle, limits, warning, summary label + value + note, section,
    # paragraph, figure title + caption, table title, heading, cell, caption, provenance key + value
    assert sum(text.count(NASTY) for text in page.text) == 18
    assert page.all("img")[0]["alt"] == f"alt {NASTY}"


def test_screen_readers_find_their_way(report):
    page = Page(render_html(report))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(th.get("scope") in {"row", "col"} for th in page.all("th"))
    assert len(page.all("caption")) == 1


def test_provenance_is_flat_and_exact(report):
    page = Page(render_html(replace(report, provenance={"a": {"b": [{"c": 0.1}], "d": [1, "x"]}})))
    text = [t.strip() for t in page.text if t.strip()]
    where = text.index("Provenance")
    assert text[where + 1 :] == ["a.b[0].c", "0.1", "a.d", "1, x"]


def test_best_value_is_bold(report):
    page = Page(render_html(report))
    assert [td.get("class") for td in page.all("td")[:2]] == [None, "best"]


def test_empty_parts_leave_no_trace():
    page = Page(render_html(Report(title="only a title")))
    assert not page.all("section")
    assert not page.all("dl")
    assert not page.all("img")


def test_equal_reports_give_equal_text(report):
    assert render_html(report) == render_html(replace(report))
    assert render_html(report) != render_html(replace(report, subtitle="another"))


def test_write_refuses_then_overwrites(report, tmp_path):
    path = tmp_path / "out" / "report.html"
    assert write_report(report, path) == path
    first = path.read_bytes()
    assert first.decode("utf-8") == render_html(report)
    other = replace(report, title="another")
    with pytest.raises(OutputExistsError, match="exists"):
        write_report(other, path)
    assert path.read_bytes() == first
    write_report(other, path, overwrite=True)
    assert path.read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]  # nothing left behind
