"""Preparation: every voxel stays in its place, and the published steps are followed."""

import dataclasses
import math

import numpy as np
import pytest
from contracts.toy_head import toy_head

from medsci.brain.prep import prepare, rule_spacing, undo
from medsci.brain.prep_settings import PrepSettings
from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.imaging.resample import resample_spacing

SHAPE = (40, 48, 36)
ORDERS = {
    "ras": ((0, 1, 2), (1, 1, 1)),
    "lps": ((0, 1, 2), (-1, -1, 1)),
    "flipped": ((0, 1, 2), (-1, 1, -1)),
    "sagittal": ((1, 2, 0), (1, -1, 1)),
    "coronal": ((0, 2, 1), (-1, 1, 1)),
}
KEEP = PrepSettings(fov_mm=(60, 80, 40), spacing_mm="keep", percentiles=(0, 100), dtype="float32")


def affine_of(name, *, tilt, spacing=(1.5, 1.25, 2.0)):
    order, signs = ORDERS[name]
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    c, s = math.cos(tilt), math.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (31.7, -12.9, 44.2)
    return affine


def numbered(affine):
    """Every voxel has its own number, exact in float32."""
    values = np.arange(math.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return Volume(values, affine, sform_code=1)


def mask_of(volume, low=(10, 12, 9), high=(33, 30, 29)):
    mask = np.zeros(volume.shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return volume.with_array(mask)


def landmark_gaps(prepared, source, affine):
    """Distances in mm between where the source and `affine` put ten voxels of the same number."""
    number = np.rint(prepared.array * (math.prod(SHAPE) - 1)).astype(np.int64)
    rng = np.random.default_rng(3)
    there = np.argwhere(prepared.array > 0)
    picked = there[rng.choice(len(there), 10, replace=False)]
    index = np.stack(np.unravel_index(number[tuple(picked.T)], SHAPE), axis=-1)
    before = index @ source.affine[:3, :3].T + source.affine[:3, 3]
    after = picked @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(before - after, axis=1)


@pytest.mark.parametrize("tilt", [0.0, 0.25], ids=["straight", "oblique"])
@pytest.mark.parametrize("name", ORDERS)
def test_landmarks_keep_their_world_coordinates_through_files(name, tilt, tmp_path):
    """Write, read, turn, crop, write, read and back again: within 1e-4 mm."""
    source = numbered(affine_of(name, tilt=tilt))
    read = read_nifti(write_nifti(source, tmp_path / "in.nii.gz"))
    found = prepare(read, mask=mask_of(read), settings=KEEP)
    out = read_nifti(write_nifti(found.volume, tmp_path / "out.nii.gz"))
    assert out.orientation == ("L", "P", "S")
    assert landmark_gaps(out, source, out.affine).max() < 1e-4
    assert any(start != 0 for start in found.crop_start)
    shift = np.eye(4)
    shift[:3, 3] = found.crop_start
    uncropped = out.affine @ np.linalg.inv(shift)
    control = landmark_gaps(out, source, uncropped)
    assert control.min() > 1.0, "control: the affine from before the crop is wrong by the crop"
    home = undo(out.array, found, like=source)
    inside = home.array > 0
    assert inside.sum() > 1000
    np.testing.assert_allclose(home.array[inside], source.array[inside], rtol=0, atol=0.02)
    np.testing.assert_array_equal(home.affine, source.affine)


def test_the_affine_is_moved_exactly():
    source = numbered(affine_of("flipped", tilt=0.1))
    turned = source.to_orientation("LPS")
    found = prepare(source, mask=mask_of(source), settings=KEEP)
    shift = np.eye(4)
    shift[:3, 3] = found.crop_start
    np.testing.assert_allclose(found.volume.affine, turned.affine @ shift, rtol=0, atol=1e-12)
    ras = prepare(
        source, mask=mask_of(source), settings=dataclasses.replace(KEEP, orientation="RAS")
    )
    assert ras.volume.orientation == ("R", "A", "S")
    assert ras.mask.same_geometry(ras.volume)


@pytest.mark.parametrize("spacing", ["rule", 1.6])
def test_a_bright_spot_is_still_there_after_resampling(spacing):
    """Its centre of mass, in mm, before and after; the crop's shift would be seen at once."""
    affine = affine_of("coronal", tilt=0.2, spacing=(0.7, 0.8, 0.9))
    values = np.zeros((60, 60, 60), np.float32)
    spot = np.array([34, 27, 31])
    axes = np.ogrid[0:60, 0:60, 0:60]
    squares = sum((0.8 * (x - c)) ** 2 for x, c in zip(axes, spot, strict=True))
    values += (1000.0 * np.exp(-squares / (2 * 2.0**2))).astype(np.float32)
    source = Volume(values, affine, sform_code=1)
    settings = dataclasses.replace(KEEP, spacing_mm=spacing, fov_mm=(40, 40, 40))
    found = prepare(source, mask=mask_of(source, (12, 14, 10), (50, 52, 55)), settings=settings)
    truth = affine[:3, :3] @ spot + affine[:3, 3]
    weights = found.volume.array.astype(np.float64) * (found.volume.array > 0.05)
    index = np.argwhere(weights > 0)
    place = index @ found.volume.affine[:3, :3].T + found.volume.affine[:3, 3]
    centre = np.average(place, axis=0, weights=weights[weights > 0])
    assert np.linalg.norm(centre - truth) < 0.05
    shift = np.eye(4)
    shift[:3, 3] = found.crop_start
    before_crop = found.volume.affine @ np.linalg.inv(shift)
    astray = before_crop[:3, :3] @ np.average(index, axis=0, weights=weights[weights > 0])
    gap = np.linalg.norm(astray + before_crop[:3, 3] - truth)
    assert gap > 1.0, "control: the affine from before the crop"


def test_voxel_sizes_follow_the_rule():
    given = (0.5, 0.9375, 0.996, 1.0, 1.0547, 1.2004, 3.333)
    wanted = (1.0, 1.0, 1.0, 1.0, 1.05, 1.2, 3.33)
    assert rule_spacing(given) == wanted
    for z, t in zip(given, wanted, strict=True):
        assert max(round(z, 2), 1) / z == t / z
    source = Volume(np.random.default_rng(0).random(SHAPE, np.float32),
                    np.diag([0.7, 1.2004, 3.0, 1.0]))  # fmt: skip
    settings = dataclasses.replace(KEEP, spacing_mm="rule", fov_mm=(192, 224, 192))
    found = prepare(source, mask=mask_of(source), settings=settings).volume
    assert found.spacing_mm == pytest.approx((1.0, 1.2, 3.0), rel=1e-12)
    assert found.shape == (192, math.floor(224 / 1.2), 64)
    kept = prepare(source, mask=mask_of(source), settings=KEEP).volume
    assert kept.spacing_mm == pytest.approx((0.7, 1.2004, 3.0), rel=1e-12)


def test_thick_slices_are_not_divided():
    source = Volume(np.random.default_rng(0).random((20, 20, 12), np.float32),
                    np.diag([1.0, 1.0, 6.0, 1.0]))  # fmt: skip
    found = prepare(source, mask=mask_of(source, (5, 5, 3), (15, 15, 9)))
    assert found.volume.shape == (192, 224, 32)
    start = found.crop_start
    here = found.volume.array[-start[0] : 20 - start[0], -start[1] : 20 - start[1],
                              -start[2] : 12 - start[2]]  # fmt: skip
    low, high = np.percentile(source.array, (0.1, 99.9))
    turned = source.to_orientation("LPS").array
    scaled = np.clip((turned - low) / (high - low), 0, 1)
    np.testing.assert_allclose(here / 65535, scaled, rtol=0, atol=1e-5)


def test_the_spline_does_not_overshoot():
    values = np.zeros(SHAPE, np.float32)
    values[12:28, 14:34, 10:26] = 100.0
    source = Volume(values, np.diag([0.9, 0.9, 0.9, 1.0]))
    bare = resample_spacing(source, (1, 1, 1), order=3).array
    assert bare.max() > 101.0, "control: the spline alone leaves the range of the image"
    settings = dataclasses.replace(KEEP, spacing_mm="rule")
    found = prepare(source, mask=mask_of(source), settings=settings)
    assert (found.low, found.high) == (0.0, 100.0)


def test_window_start_and_padding():
    """c = floor((min + max) / 2), start = c - floor((n - 1) / 2), for even and odd n."""
    source = Volume(np.full(SHAPE, 7.0, np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]))
    source.array[5, 5, 5] = 3.0
    settings = dataclasses.replace(KEEP, fov_mm=(30, 31, 80))
    mask = mask_of(source, (4, 10, 9), (18, 31, 29))  # 4..17, 10..30, 9..28
    mask.array[39, 47, 35] = 1  # another part, smaller
    found = prepare(source, mask=mask, settings=settings)
    assert found.crop_start == (10 - 14, 20 - 15, 18 - 39)
    assert found.volume.shape == (30, 31, 80)
    array = found.volume.array
    assert (array[:4] == 0).all()
    assert (array[..., :21] == 0).all()
    assert (array[..., 21 + 36 :] == 0).all()
    assert array[5 + 4, 0, 5 + 21] == 0, "the clipped minimum is what is padded with"
    assert array[10, 10, 30] == 1
    assert found.mask.array.sum() == 14 * 21 * 20, "the smaller part counts for nothing"


def test_percentiles_are_of_the_whole_volume():
    rng = np.random.default_rng(1)
    values = np.zeros((64, 64, 64), np.float32)
    values[20:44, 20:44, 20:44] = rng.gamma(2.0, 50.0, (24, 24, 24))
    source = Volume(values, np.eye(4))
    mask = mask_of(source, (20, 20, 20), (44, 44, 44))
    settings = dataclasses.replace(KEEP, fov_mm=(24, 24, 24), percentiles=(0.1, 99.9))
    found = prepare(source, mask=mask, settings=settings)
    assert (found.low, found.high) == pytest.approx(np.percentile(values, (0.1, 99.9)), rel=1e-6)
    inside = np.percentile(values[20:44, 20:44, 20:44], 99.9)
    assert inside > 1.2 * found.high, "control: of the window alone they would be others"
    stored = prepare(source, mask=mask, settings=dataclasses.replace(settings, dtype="uint16"))
    wanted = np.rint(65535 * found.volume.array.astype(np.float64)).astype(int)
    assert stored.volume.array.dtype == np.uint16
    assert np.abs(stored.volume.array.astype(int) - wanted).max() <= 1
    assert stored.volume.array.max() == 65535


def test_the_mask_places_the_window_and_nothing_else():
    source = numbered(affine_of("ras", tilt=0.0))
    wide = prepare(source, mask=mask_of(source, (9, 11, 8), (34, 31, 30)), settings=KEEP)
    narrow = prepare(source, mask=mask_of(source), settings=KEEP)
    assert wide.crop_start == narrow.crop_start
    np.testing.assert_array_equal(wide.volume.array, narrow.volume.array)
    assert (narrow.volume.array[narrow.mask.array == 0] > 0).any()


def test_a_result_comes_home_in_grey_values_or_as_labels():
    image, brain = toy_head(spacing_mm=4.0)
    mask = brain.with_array(brain.array.astype(np.uint8))
    found = prepare(image, mask=mask, settings=dataclasses.replace(KEEP, fov_mm=(240, 260, 260)))
    home = undo(found.volume.array, found, like=image)
    np.testing.assert_allclose(home.array, image.array, rtol=0, atol=1e-3)
    stored = np.rint(found.volume.array * 65535).astype(np.uint16)
    again = undo(stored, found, like=image)
    half_a_step = (found.high - found.low) / 65535 / 2
    assert np.abs(again.array - image.array).max() <= 1.01 * half_a_step
    labels = undo(found.mask.array, found, like=image, order=0, values="unchanged")
    np.testing.assert_array_equal(labels.array, mask.array)
    assert labels.array.dtype == np.uint8
    coarse = prepare(
        image, mask=mask, settings=dataclasses.replace(KEEP, spacing_mm=8, fov_mm=(240, 260, 260))
    )
    back = undo(coarse.volume.array, coarse, like=image)
    assert back.same_geometry(image)
    inner = brain.array & (np.abs(image.array - 140) < 10)
    assert np.median(back.array[inner]) == pytest.approx(140, abs=10)
    with pytest.raises(InvalidInputError, match="prepared grid"):
        undo(stored[1:], found, like=image)


def test_cut_brains_and_missing_orientation_are_remarked(caplog):
    source = dataclasses.replace(numbered(affine_of("ras", tilt=0.0)), sform_code=0)
    found = prepare(
        source, mask=mask_of(source), settings=dataclasses.replace(KEEP, fov_mm=(9, 9, 9))
    )
    text = " ".join(found.remarks)
    assert "outside the field of view" in text
    assert "states no orientation" in text
    assert "outside the field of view" in caplog.text


def test_settings_that_make_no_sense():
    for wrong, says in (
        ({"fov_mm": (1, 0, 1)}, "three positive sizes"),
        ({"percentiles": (5, 5)}, "low < high"),
        ({"spacing_mm": 0.0}, "spacing"),
    ):
        with pytest.raises(UsageError, match=says):
            PrepSettings(**wrong)
