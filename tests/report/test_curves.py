"""Curves: deterministic, independent of the user's style, and no curve without data."""

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from medsci.errors import InvalidInputError
from medsci.report import curve

SERIES = {"training": ([0, 10, 20, 30], [4.0, 2.0, 1.0, 0.5]), "validation": ([0, 30], [5.0, 0.6])}
LABELS = {"x_label": "step", "y_label": "loss"}


def test_equal_data_give_equal_bytes_and_other_data_do_not():
    png = curve(SERIES, **LABELS)
    assert curve(SERIES, **LABELS) == png
    assert b"Software" not in png
    assert b"matplotlib" not in png.lower()
    assert curve({"training": SERIES["training"]}, **LABELS) != png
    assert curve(SERIES, y_scale="log", **LABELS) != png


def test_the_users_style_neither_matters_nor_changes():
    png = curve(SERIES, **LABELS)
    ugly = {
        "figure.facecolor": "red",
        "font.size": 30.0,
        "savefig.bbox": "tight",
        "lines.marker": "x",
    }
    with mpl.rc_context(ugly):
        assert curve(SERIES, **LABELS) == png
        assert mpl.rcParams["figure.facecolor"] == "red"


def test_the_line_goes_where_the_data_go():
    """A falling line is inked top left and bottom right; the control rises."""
    rising = {"a": ([0, 1], [0.0, 1.0])}
    falling = {"a": ([0, 1], [1.0, 0.0])}
    for series, sign in ((falling, 1), (rising, -1)):
        pixels = imread(io.BytesIO(curve(series, **LABELS)))
        blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)
        rows, columns = np.nonzero(blue)
        assert np.sign(np.corrcoef(rows, columns)[0, 1]) == sign


def test_global_state_stays_out():
    """Importing and drawing must not touch pyplot; importing alone loads nothing heavy."""
    code = (
        "import sys, medsci.report as r\n"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'nibabel', 'scipy'} & set(sys.modules)\n"
        "r.curve({'a': ([0, 1], [1., 2.])}, x_label='x', y_label='y')\n"
        "print(sorted(heavy), 'matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match="no series"):
        curve({}, **LABELS)
    with pytest.raises(InvalidInputError, match=r"'a' has x of shape .* equally long"):
        curve({"a": ([0, 1], [1.0])}, **LABELS)
    with pytest.raises(InvalidInputError, match="logarithmic"):
        curve({"a": ([0, 1], [1.0, 0.0])}, y_scale="log", **LABELS)
