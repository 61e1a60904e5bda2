"""Numbers as readers expect them, and report parts that refuse nonsense."""

import math

import pytest

from medsci.errors import InvalidInputError
from medsci.report import Column, Figure, KeyNumber, Table, format_number


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (3.14159, 2, "3.14"),
        (-3.14159, 1, "−3.1"),
        (0.0, 2, "0.00"),
        (1234567, 0, "1234567"),
        (-4, 2, "−4"),
        (0.004, 2, "4.00 × 10^-3".replace("-", "−")),
        (2.5e9, 2, "2.50 × 10^9"),
        (math.inf, 2, "∞"),
        (-math.inf, 2, "−∞"),
        (math.nan, 2, "–"),
        (None, 2, "–"),
        (True, 2, "yes"),
        ("a-b", 2, "a-b"),
    ],
)
def test_numbers_read_well(value, decimals, text):
    assert format_number(value, decimals=decimals) == text


def test_a_small_number_is_never_printed_as_zero():
    for exponent in range(-12, 0):
        assert float(format_number(10.0**exponent).split(" ")[0]) != 0


def test_units_stand_beside_numbers_and_in_headings():
    assert KeyNumber(label="PSNR", value=31.234, unit="dB").text == "31.23 dB"
    assert KeyNumber(label="SSIM", value=0.98765, decimals=3).text == "0.988"
    assert Column(title="Time", unit="s").heading == "Time (s)"
    assert Column(title="SSIM").heading == "SSIM"


def test_best_cell_follows_the_column():
    table = Table(
        title="t",
        columns=[
            Column(title="name", best="highest"),
            Column(title="up", best="highest"),
            Column(title="down", best="lowest"),
            Column(title="free"),
        ],
        rows=[["a", 1.0, 1.0, 1.0], ["b", 3.0, math.nan, 2.0], ["c", None, 2, 3.0]],
    )
    best = {(r, c) for r in range(3) for c in range(4) if table.is_best(r, c)}
    assert best == {(1, 1), (0, 2)}


def test_a_lone_number_is_not_the_best_of_anything():
    table = Table(title="t", columns=[Column(title="x", best="highest")], rows=[[1.0], [None]])
    assert not table.is_best(0, 0)


def test_ragged_rows_are_named():
    with pytest.raises(InvalidInputError, match=r"row 2 has 1 cells for 2 columns; use None"):
        Table(title="t", columns=[Column(title="a"), Column(title="b")], rows=[[1, 2], [1]])


def test_figures_need_a_picture_and_words_for_it():
    with pytest.raises(InvalidInputError, match="no PNG"):
        Figure(title="f", png=b"GIF89a", alt="words")
    with pytest.raises(InvalidInputError, match="alt text"):
        Figure(title="f", png=b"\x89PNG\r\n\x1a\n", alt=" ")
