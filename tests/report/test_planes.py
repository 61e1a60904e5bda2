"""Three-plane pictures: right side, right place, right proportions, whatever the file's axes."""

import io
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, inv_ornt_aff

from medsci.errors import InvalidInputError
from medsci.imaging import Volume
from medsci.report import planes, slice_mosaic, three_planes
from medsci.report.slices import PLANES, plane_picture, to_grid

ORIENTATIONS = [
    np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)], dtype=float)
    for order in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def turned(image, orientation):
    """Store the same anatomy with permuted and flipped axes."""
    array = apply_orientation(image.array, orientation)
    return Volume(array, image.affine @ inv_ornt_aff(orientation, image.array.shape))


def head(shape=(40, 48, 36), spacing=(2.0, 2.0, 2.0), marker=True):
    """Return an ellipsoid with a bright block at the patient's right, front and top."""
    grid = np.meshgrid(*(np.linspace(-1.15, 1.15, n) for n in shape), indexing="ij")
    array = 100.0 * (sum(g**2 for g in grid) < 1)
    if marker:
        right, front, top = grid
        block = (abs(right - 0.5) < 0.22) & (abs(front - 0.45) < 0.22) & (abs(top - 0.4) < 0.22)
        array[block] = 300.0
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
    return Volume(array, affine)


@pytest.fixture
def sheets(monkeypatch):
    """Record what would be drawn."""
    seen = []
    monkeypatch.setattr(planes, "draw_sheet", lambda sheet: seen.append(sheet) or b"")
    return seen


# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_48_orientations_are_one_picture(orientation):
    image = head()
    grid, expected = to_grid(turned(image, orientation), name="a"), to_grid(image, name="b")
    assert np.array_equal(grid.array, expected.array)
    np.testing.assert_allclose(grid.affine, image.affine, atol=1e-9)


def test_patient_right_is_at_the_left_and_top_is_up():
    image = head()
    index = [int(i) for i in np.argwhere(image.array == 300).mean(0)]
    for plane in PLANES:
        picture = plane_picture(image.array, plane, index=index[plane.normal])
        row, column = np.argwhere(picture == 300).mean(0) / picture.shape
        assert row < 0.5, plane.name  # front (axial) or top (others) is up
        assert column < 0.5, plane.name  # right (axial, coronal) or front (sagittal) is left


def test_the_png_itself_shows_the_block_at_the_upper_left():
    image = head()
    at = tuple(float(p) for p in image.affine[:3, :3] @ [30, 34, 25] + image.affine[:3, 3])
    pixels = imread(io.BytesIO(three_planes({"a": image}, at_mm=at)))[..., :3]
    grey = np.ptp(pixels, axis=2) < 0.02
    block = grey & (pixels[..., 0] > 0.9)
    tissue = grey & (abs(pixels[..., 0] - 1 / 3) < 0.1)
    inner = tissue.any(axis=1)
    rows = np.nonzero(inner)[0]
    axial = slice(rows[0], rows[0] + (rows[-1] - rows[0]) // 3)
    columns = np.nonzero(tissue[axial].any(axis=0))[0]
    middle = (columns[0] + columns[-1]) / 2
    inside = block[axial, columns[0] : columns[-1]]
    assert np.nonzero(inside)[1].mean() + columns[0] < middle
    mirrored = Volume(image.array[::-1], image.affine)  # control: another patient
    assert three_planes({"a": mirrored}, at_mm=at) != three_planes({"a": image}, at_mm=at)


def test_file_orientation_does_not_change_a_byte():
    image = head()
    expected = three_planes({"a": image}, uncertainty=image)
    for orientation in (ORIENTATIONS[7], ORIENTATIONS[22], ORIENTATIONS[45]):
        other = turned(image, orientation)
        assert three_planes({"a": other}, uncertainty=other) == expected


def test_positions_are_world_millimetres(sheets):
    image = head()
    affine = image.affine.copy()
    affine[:3, 3] += [100, -50, 7]
    image = replace(image, affine=affine)
    three_planes({"a": image}, at_mm=(104.9, -61.2, 15.1))
    labels = [row.label.split("\n") for row in sheets[0].rows]
    # voxel centres lie on odd millimetres from the grid's own centre
    assert labels == [
        ["axial", "z = +16 mm"],
        ["coronal", "y = −61 mm"],
        ["sagittal", "x = +105 mm"],
    ]


def test_columns_may_share_a_name(sheets):
    image, other = head(), head(marker=False)
    three_planes({"uncertainty": image, "e": image}, errors={"e": other}, uncertainty=other)
    drawn = [bool((layer.values == 300).any()) for layer in sheets[0].layers]
    assert drawn == [True, True, False, False]


def test_voxels_keep_their_proportions(sheets):
    image = head(shape=(80, 48, 24), spacing=(1.0, 2.0, 3.0))
    three_planes({"a": image})
    for row in sheets[0].rows:
        (tile,) = row.cells[0]
        picture = plane_picture(image.array, tile.plane, index=tile.index, crop=tile.crop)
        width, height = tile.size_mm(sheets[0].spacing_mm)
        u, v = (image.affine[a, a] for a in tile.plane.axes)
        assert width / height == pytest.approx(picture.shape[1] * u / (picture.shape[0] * v))


# --- layout ---------------------------------------------------------------------------------------


def test_windows_and_columns(sheets):
    image = head()
    half = image.with_array(image.array / 2)
    three_planes(
        {"truth": image, "zero-filled": half},
        errors={"|error|": half},
        uncertainty=half,
        error_scale=5.0,
    )
    truth, zero, error, std = sheets[0].layers
    white = np.percentile(image.array, 99.5)
    assert (truth.top, zero.top) == (white, white)  # the truth sets the window for all
    assert error.top == white / 5
    assert error.title == "|error|, ×5"
    assert std.top == np.percentile(half.array, 99.5)
    assert all(len(row.cells) == 4 for row in sheets[0].rows)


def test_errors_are_drawn_without_sign(sheets):
    image = head()
    three_planes({"a": image}, errors={"e": Volume(-image.array, image.affine)})
    assert (sheets[0].layers[1].values >= 0).all()


def test_real_data_drop_the_columns_of_the_truth(sheets):
    image = head()
    three_planes({"zero-filled": image, "reconstruction": image})
    assert [layer.title for layer in sheets[0].layers] == ["zero-filled", "reconstruction"]


@pytest.mark.parametrize(("thickness", "strips"), [(36, 1), (12, 3), (4, 5)])
def test_a_slab_shows_more_strips_the_thinner_it_is(sheets, thickness, strips):
    image = head().slab(2, 18 - thickness // 2, 18 + thickness // 2)
    three_planes({"a": image})
    rows = {row.cells[0][0].plane.name: row.cells[0] for row in sheets[0].rows}
    assert len(rows["axial"]) == 1
    for name in ("coronal", "sagittal"):
        assert len({tile.index for tile in rows[name]}) == strips
        for tile in rows[name]:  # no strip is empty
            picture = plane_picture(image.array, tile.plane, index=tile.index, crop=tile.crop)
            assert picture.any()
            assert picture.shape[0] == thickness or strips == 1


def test_a_single_slice_shows_one_plane(sheets):
    three_planes({"a": head().slab(2, 18, 19)})
    assert [row.cells[0][0].plane.name for row in sheets[0].rows] == ["axial"]


def test_empty_air_is_cropped_and_an_empty_image_is_not(sheets):
    image = head()
    wide = Volume(np.pad(image.array, 30), image.affine)
    three_planes({"a": wide})
    three_planes({"a": Volume(np.zeros((20, 20, 20)), np.eye(4))})
    (tile,) = sheets[0].rows[0].cells[0]
    assert all(part.stop - part.start < 48 for part in tile.crop)
    (tile,) = sheets[1].rows[0].cells[0]
    assert [part.stop - part.start for part in tile.crop] == [20, 20]


def test_no_side_is_named_when_the_file_does_not_say():
    image = head(marker=False)
    unknown = replace(image, sform_code=0, qform_code=0)
    for draw in (lambda v: three_planes({"a": v}), slice_mosaic):
        yellow = [
            int(((p[..., 0] > 0.9) & (p[..., 2] < 0.4)).sum())
            for p in (imread(io.BytesIO(draw(volume))) for volume in (image, unknown))
        ]
        assert yellow[0] > 100
        assert yellow[1] == 0


def test_mosaic_spreads_over_the_head(sheets):
    image = head()
    slice_mosaic(image, n_slices=7, n_columns=3)
    rows = sheets[0].rows
    assert [len(row.cells) for row in rows] == [3, 3, 1]
    indices = [cell[0].index for row in rows for cell in row.cells]
    assert indices == sorted(indices)
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    assert slice_mosaic(image, n_slices=99) == b""
    assert len({c[0].index for r in sheets[1].rows for c in r.cells}) <= image.array.shape[2]


# --- errors ---------------------------------------------------------------------------------------


def test_bad_input_is_named():
    image = head()
    moved = Volume(image.array, image.affine + np.diag([0.1, 0, 0, 0]))
    nan = Volume(np.full((9, 9, 9), np.nan), np.eye(4))
    with pytest.raises(InvalidInputError, match="no volume to draw"):
        three_planes({})
    with pytest.raises(InvalidInputError, match=r"'b' .* is not on the grid of 'a'.*resample"):
        three_planes({"a": image, "b": moved})
    with pytest.raises(InvalidInputError, match=r"'uncertainty' .* is not on the grid"):
        three_planes({"a": image}, uncertainty=head(shape=(40, 48, 35)))
    with pytest.raises(InvalidInputError, match="a holds 729 values that are NaN"):
        three_planes({"a": nan})
    with pytest.raises(InvalidInputError, match="real 3D volume"):
        three_planes({"a": Volume(image.array[..., None], np.eye(4))})
    with pytest.raises(InvalidInputError, match=r"real 3D volume.*complex"):
        three_planes({"a": Volume(image.array * 1j, image.affine)})
    with pytest.raises(InvalidInputError, match="positive factor"):
        three_planes({"a": image}, error_scale=0.0)
    with pytest.raises(InvalidInputError, match="at least 1"):
        slice_mosaic(image, n_slices=0)
