import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from imaging_grids import oriented_affine
from matplotlib.image import imread

from medsci.imaging import Volume, mid_planes

SIZE = (9, 11, 13)


def marked(name):
    """A RAS volume, bright towards one world direction."""
    array = np.zeros(SIZE, np.float32)
    axis, high = {"L": (0, 0), "R": (0, 1), "P": (1, 0), "A": (1, 1), "I": (2, 0), "S": (2, 1)}[
        name
    ]
    bright = [slice(None)] * 3
    bright[axis] = slice(-3, None) if high else slice(0, 3)
    array[tuple(bright)] = 1
    return Volume(array, oriented_affine((0, 1, 2), (1, 1, 1)))


def test_letters_stand_where_the_tissue_is(orientation):
    order, signs = orientation
    codes = [("LR", "PA", "IS")[order[a]][(signs[a] + 1) // 2] for a in range(3)]
    for name in "LRPAIS":
        planes = [p for p in mid_planes(marked(name).to_orientation(codes)) if name in p.letters]
        assert len(planes) == 2
        for plane in planes:
            edges = (plane.pixels[:, 0], plane.pixels[:, -1], plane.pixels[0], plane.pixels[-1])
            for letter, edge in zip(plane.letters, edges, strict=True):
                assert (edge.mean() > 0.9) == (letter == name)


def test_views_are_radiological():
    sagittal, coronal, axial = mid_planes(marked("R"))
    assert sagittal.letters == ("A", "P", "S", "I")
    assert coronal.letters == ("R", "L", "S", "I")
    assert axial.letters == ("R", "L", "A", "P")
    assert (sagittal.pixels.shape, axial.pixels.shape) == ((13, 11), (11, 9))
    assert axial.aspect == pytest.approx(1.25 / 0.75)
    assert sagittal.aspect == pytest.approx(2.5 / 1.25)


def pictures(text):
    return [imread(io.BytesIO(base64.b64decode(p))) for p in re.findall(r"base64,([^\"]+)", text)]


def test_html_holds_three_pictures_of_the_right_proportion():
    volume = dataclasses.replace(marked("R"), path=Path("/data/somebody/<b>.nii"))
    text = volume._repr_html_()
    drawn = pictures(text)
    assert len(drawn) == 3
    sizes_mm = np.array(SIZE) * volume.spacing_mm
    for picture, (across, up) in zip(drawn, ((1, 2), (0, 2), (0, 1)), strict=True):
        wanted = np.clip(sizes_mm[up] / sizes_mm[across], 0.2, 3.0)
        assert picture.shape[0] / picture.shape[1] == pytest.approx(wanted, rel=0.02)
    axial = drawn[2][..., 0]
    assert axial[:, : axial.shape[1] // 4].mean() > 0.8  # the patient's right, on the left
    assert axial[:, -axial.shape[1] // 2 :].mean() < 0.2
    assert "radiological" in text
    assert "9 x 11 x 13" in text
    assert "RAS" in text
    assert "float32" in text
    assert "&lt;b&gt;.nii" in text
    assert "somebody" not in text
    assert text == volume._repr_html_()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.complex64, bool])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 1), (4, 5, 6, 2)])
def test_any_volume_can_be_shown(dtype, shape):
    array = np.zeros(shape, dtype)
    assert len(pictures(Volume(array, np.eye(4))._repr_html_())) == 3


def test_awkward_values_are_named():
    array = np.full((4, 5, 6), np.nan)
    assert "no finite voxel" in Volume(array, np.eye(4))._repr_html_()
    array[0, 0, 0] = 2
    assert "2 to 2, 119 not finite" in Volume(array, np.eye(4))._repr_html_()
    assert "magnitude 5 to 5" in Volume(np.full((4, 5, 6), 3 + 4j), np.eye(4))._repr_html_()
    unknown = Volume(array, np.eye(4), sform_code=0)._repr_html_()
    assert "left and right are not known" in unknown
    assert "radiological" not in unknown
