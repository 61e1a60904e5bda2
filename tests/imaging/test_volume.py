import dataclasses

import nibabel as nib
import numpy as np
import pytest
from imaging_grids import SHAPE, SPACING, oriented_affine

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume
from medsci.imaging.geometry import largest_gap_mm


def make(orientation=((0, 1, 2), (1, 1, 1)), *, tilt=0.0, shape=SHAPE, dtype=np.int16):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return Volume(array, oriented_affine(*orientation, tilt=tilt))


def world_of(volume, value):
    """World position of the only voxel (or the only series) that holds a value."""
    voxel = np.argwhere(volume.array == value)
    assert len(voxel) == 1
    return (volume.affine @ [*voxel[0][:3], 1])[:3]


def test_properties():
    volume = make(((1, 2, 0), (-1, 1, -1)))
    assert volume.shape == SHAPE
    np.testing.assert_allclose(volume.spacing_mm, SPACING)
    assert volume.orientation == ("P", "S", "L")
    assert volume.origin_mm == (-12.5, 7.25, 31.75)
    assert volume.has_orientation
    assert not dataclasses.replace(volume, sform_code=0).has_orientation
    assert volume.description == ""
    assert repr(volume) == ("Volume(3 x 4 x 5 int16, 0.75 x 1.25 x 2.5 mm, PSL, units mm)")
    assert "not stated" in repr(dataclasses.replace(volume, sform_code=0))


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_canonical_and_back_is_the_identity(orientation, tilt):
    volume = make(orientation, tilt=tilt, shape=(3, 4, 5, 2))
    before = volume.array.copy()
    canonical = volume.canonical()
    assert canonical.orientation == ("R", "A", "S")
    assert canonical.array.flags.c_contiguous or canonical is volume
    for value in (0, 17, 101):
        np.testing.assert_allclose(world_of(canonical, value), world_of(volume, value), atol=1e-12)
    back = canonical.to_grid_of(volume)
    assert back.array.tobytes() == before.tobytes()
    assert back.affine.tobytes() == volume.affine.tobytes()
    canonical.array[...] = 0
    if canonical is not volume:
        assert np.array_equal(volume.array, before)  # no shared memory


def test_canonical_agrees_with_nibabel(orientation):
    volume = make(orientation, tilt=0.2)
    ours = volume.canonical()
    peer = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    assert np.array_equal(ours.array, np.asanyarray(peer.dataobj))
    np.testing.assert_allclose(ours.affine, peer.affine, atol=1e-12)


def test_to_orientation(orientation):
    volume = make(orientation)
    for codes in ("LPS", "RAS", "SAL", ("P", "I", "R")):
        moved = volume.to_orientation(codes)
        assert moved.orientation == tuple(codes)
        np.testing.assert_allclose(world_of(moved, 42), world_of(volume, 42), atol=1e-12)
        computed = moved.with_array(moved.array * 2.5)
        assert np.array_equal(computed.to_grid_of(volume).array, volume.array * 2.5)


@pytest.mark.parametrize("codes", ["RA", "RRS", "RLS", "XYZ", "RASA", ""])
def test_bad_orientation(codes):
    with pytest.raises(UsageError, match="one of each pair"):
        make().to_orientation(codes)


def test_to_grid_of_refuses_another_grid():
    volume = make()
    shifted = dataclasses.replace(volume, affine=volume.affine + np.eye(4, k=3) * 0.01)
    tilted = make(tilt=0.01)
    for other in (shifted, tilted, volume.slab(0, 0, 2), volume.slab(0, 1, 3)):
        with pytest.raises(InvalidInputError, match="resample"):
            volume.to_grid_of(other)
    nearly = dataclasses.replace(volume, affine=volume.affine + np.eye(4, k=3) * 1e-4)
    assert nearly.to_grid_of(volume).affine.tobytes() == volume.affine.tobytes()


def test_same_geometry_sees_every_deliberate_error(rng):
    volume = make(tilt=0.3)
    assert volume.same_geometry(volume.with_array(rng.random(SHAPE)))
    assert volume.same_geometry(
        dataclasses.replace(volume, affine=volume.affine + 1e-5 * np.eye(4, k=3))
    )
    for row in range(3):
        for column in range(4):
            wrong = volume.affine.copy()
            wrong[row, column] += 2e-3
            assert not volume.same_geometry(dataclasses.replace(volume, affine=wrong)), (
                row,
                column,
            )
    flipped = volume.affine @ np.diag([-1, 1, 1, 1])
    assert not volume.same_geometry(dataclasses.replace(volume, affine=flipped))
    assert not volume.same_geometry(volume.slab(2, 0, 4))
    # the direction and thickness of an axis with one voxel count too
    flat = volume.slab(2, 0, 1)
    thick = flat.affine @ np.diag([1, 1, 1.01, 1])
    assert not flat.same_geometry(dataclasses.replace(flat, affine=thick))


def test_largest_gap_is_attained_at_a_corner(rng):
    first, second = make(tilt=0.1).affine, make(tilt=0.4).affine
    inside = rng.uniform(-0.5, np.array(SHAPE) - 0.5, size=(5000, 3))
    homogeneous = np.c_[inside, np.ones(5000)]
    gaps = np.linalg.norm((homogeneous @ (first - second).T)[:, :3], axis=1)
    bound = largest_gap_mm(first, second, SHAPE)
    assert gaps.max() <= bound
    assert gaps.max() > 0.8 * bound


def test_slab_keeps_every_voxel_where_it_was(orientation):
    volume = make(orientation, tilt=0.2)
    for axis in range(3):
        crop = volume.slab(axis, 1, 3)
        assert crop.shape[axis] == 2
        for value in crop.array.ravel()[[0, 7, -1]]:
            np.testing.assert_allclose(world_of(crop, value), world_of(volume, value), atol=1e-12)
        uncorrected = dataclasses.replace(crop, affine=volume.affine)
        assert not crop.same_geometry(uncorrected)  # control: the mistake would be seen


@pytest.mark.parametrize(
    ("axis", "start", "stop"), [(0, 2, 2), (0, -1, 2), (1, 0, 5), (3, 0, 1), (0, 2, 1)]
)
def test_bad_slab(axis, start, stop):
    with pytest.raises(UsageError, match=r"axis|slab"):
        make().slab(axis, start, stop)


def test_with_array():
    volume = make()
    assert volume.with_array(np.zeros((*SHAPE, 6), np.float32)).shape == (*SHAPE, 6)
    with pytest.raises(InvalidInputError, match=r"\(3, 4, 6\).*\(3, 4, 5\)"):
        volume.with_array(np.zeros((3, 4, 6)))


@pytest.mark.parametrize("affine", [
    np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1, 1, 1, 2.0]),
    np.diag([1, 1, 0, 1.0]), np.array([[1, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
])  # fmt: skip
def test_bad_affine(affine):
    with pytest.raises(InvalidInputError, match="4x4"):
        Volume(np.zeros(SHAPE), affine)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (0, 4, 5)])
def test_bad_array(shape):
    with pytest.raises(InvalidInputError, match="voxel axes"):
        Volume(np.zeros(shape), np.eye(4))


def test_bad_units():
    with pytest.raises(InvalidInputError, match="NIfTI"):
        Volume(np.zeros(SHAPE), np.eye(4), units=("cm", "sec"))


def test_affine_is_a_private_read_only_copy():
    affine = np.eye(4)
    volume = Volume(np.zeros(SHAPE), affine)
    affine[0, 3] = 99
    assert volume.origin_mm == (0, 0, 0)
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 3] = 1


def test_n_nonfinite():
    array = np.zeros(SHAPE)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    assert Volume(array, np.eye(4)).n_nonfinite == 3
    assert Volume(array.astype(complex), np.eye(4)).n_nonfinite == 3
    assert make().n_nonfinite == 0
