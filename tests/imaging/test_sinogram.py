import nibabel as nib
import numpy as np
import pytest
from imaging_grids import ORIENTATIONS, name_of, oriented_affine
from sinogram_samples import (
    AFFINE,
    BEAM,
    FAN,
    GRID,
    N_ANGLES,
    N_BINS,
    N_COLS,
    N_ROWS,
    N_SLICES,
    lines,
    sample,
)

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.imaging.beam import ImageGrid
from medsci.imaging.sinogram import Sinogram


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=name_of)
@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_an_image_comes_back_to_the_voxels_it_came_from(orientation, axes):
    shape = (4, 5, 6)
    affine = oriented_affine(*orientation, tilt=0.3)
    volume = Volume(np.arange(120, dtype=np.float32).reshape(shape), affine, sform_code=1)
    stack = volume.array.transpose(axes)
    sinogram = Sinogram.on_grid_of(
        volume, lines((len(stack), N_ANGLES, N_BINS)), beam=BEAM, axes=axes
    )
    assert sinogram.grid.shape == stack.shape[1:]
    spacing = volume.spacing_mm
    assert (sinogram.grid.row_mm, sinogram.grid.col_mm) == (spacing[axes[1]], spacing[axes[2]])
    back = sinogram.to_volume(stack)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, affine)
    assert back.sform_code == 1
    np.testing.assert_array_equal(sinogram.from_volume_array(back.array), stack)
    assert not np.array_equal(sinogram.to_volume(stack[:, ::-1]).array, volume.array)


def test_header_comes_along_without_names():
    header = nib.Nifti1Header()
    header["descrip"], header["db_name"] = b"head", b"Somebody"
    volume = Volume(np.zeros((7, 6, 3), np.float32), AFFINE, header=header, sform_code=4)
    sinogram = Sinogram.on_grid_of(volume, lines(), beam=BEAM, mu_water=0.02, photons=1e5)
    back = sinogram.to_volume(np.zeros((3, 6, 7), np.float32))
    assert back.description == "head"
    assert bytes(back.header["db_name"].item()).rstrip(b"\0") == b""
    assert (sinogram.mu_water, sinogram.photons) == (0.02, 1e5)


def test_says_what_it_is():
    truth = np.zeros((N_SLICES, N_ROWS, N_COLS))
    text = repr(sample(reference=truth, beam=FAN))
    assert "3 slices, 5 views, 11 bins, fan beam, image 6 x 7, with reference" in text
    assert sample(data=lines().astype(np.float64)).data.dtype == np.float32


def nan_inside():
    data = lines()
    data[1, 2, 3] = np.nan
    return data


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": lines((N_SLICES, N_ANGLES + 1, N_BINS))}, "6 views but there are 5 angles"),
        ({"data": lines((N_SLICES, N_BINS, N_ANGLES))}, "swap its last two axes"),
        ({"data": lines((N_SLICES, N_ANGLES, N_BINS + 2))}, "13 detector bins but the geometry 11"),
        ({"data": lines((N_ANGLES, N_BINS))}, "length 1 in front"),
        ({"data": lines((0, N_ANGLES, N_BINS))}, "none of them 0"),
        ({"data": lines() * 1j}, "real line integrals"),
        ({"data": nan_inside()}, "1 NaN or infinite"),
        ({"data": lines().astype(np.float64) * 1e300}, "NaN or infinite"),
        ({"affine": np.eye(3)}, "affine"),
        ({"affine": np.zeros((4, 4))}, "affine"),
        ({"axes": (0, 0, 1)}, "in some order"),
        ({"axes": (2, 0, 1)}, "pixels of 1.25 x 0.75 mm .* the affine says 0.75 x 1.25"),
        ({"grid": ImageGrid(N_ROWS, N_COLS, 1.0, 1.0)}, "correct one of them"),
        ({"affine": AFFINE @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])},
         "without shear|pixels of"),
        ({"reference": np.zeros((N_SLICES, N_COLS, N_ROWS))}, "true image in Hounsfield units"),
        ({"reference": np.full((N_SLICES, N_ROWS, N_COLS), np.nan)}, "leave it out instead"),
        ({"mu_water": 0.0}, "mu_water=0.0"),
        ({"photons": -1.0}, "photons=-1"),
        ({"photons": float("nan")}, "photons=nan"),
        ({"units": ("cm", "sec")}, "cm"),
        ({"header": b"short"}, "5 bytes"),
        ({"attributes": {"x": object()}}, "JSON"),
    ],
)  # fmt: skip
def test_refuses_with_one_helpful_line(changes, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        sample(**changes)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_images_and_volumes_of_another_size():
    with pytest.raises(InvalidInputError, match=r"makes \(3, 6, 7\)"):
        sample().to_volume(np.zeros((3, 7, 6)))
    with pytest.raises(InvalidInputError, match=r"the volume of this sinogram is \(7, 6, 3\)"):
        sample().from_volume_array(np.zeros((3, 6, 7)))
    with pytest.raises(InvalidInputError, match="must have 4 slices"):
        Sinogram.on_grid_of(Volume(np.zeros((7, 6, 4)), AFFINE), lines(), beam=BEAM)
    assert GRID.shape == (N_ROWS, N_COLS)
