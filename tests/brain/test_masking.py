"""The brain in a head: found on a head of ellipsoids, on Colin27 and on simulated heads."""

from pathlib import Path

import numpy as np
import pytest
from contracts.toy_head import toy_head
from scipy import ndimage

from medsci.brain.masking import find_brain, given_brain, largest_part
from medsci.brain.surface import filled, icosphere
from medsci.errors import InvalidInputError
from medsci.imaging import Volume, read_nifti
from medsci.imaging.resample import resample_to

SAMPLE = Path(__file__).parents[2] / "sample_data" / "colin27_t1.nii.gz"


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def middle_mm(mask, spacing):
    """Centre of the bounding box in mm."""
    index = np.argwhere(mask)
    return (index.min(axis=0) + index.max(axis=0)) / 2 * spacing


def opened(mask, *, radius):
    """Take away stems thinner than a ball: the spinal cord, which ends where the image ends."""
    padded = np.pad(mask, 1, mode="edge")
    core = ndimage.distance_transform_edt(padded) > radius
    return (ndimage.distance_transform_edt(~core) <= radius)[1:-1, 1:-1, 1:-1]


@pytest.fixture(scope="module")
def toy():
    return toy_head()


@pytest.fixture(scope="module")
def found(toy):
    return find_brain(toy[0])


def test_sphere_is_closed_and_filled():
    sphere = icosphere(3)
    assert sphere.vertices.shape == (642, 3)
    assert sphere.faces.shape == (1280, 3)
    assert sorted(np.bincount(sphere.n_neighbours)[[5, 6]]) == [12, 630]
    normals = np.cross(*(sphere.vertices[sphere.faces[:, n]] - sphere.vertices[sphere.faces[:, 0]]
                         for n in (1, 2)))  # fmt: skip
    outward = np.sum(normals * sphere.vertices[sphere.faces[:, 0]], axis=1)
    assert (outward > 0).all()
    vertices = icosphere().vertices * 30.0 + (40.0, 41.0, 42.0)
    ball = filled(vertices, shape=(80, 40, 27), spacing_mm=(1.0, 2.0, 3.0))
    assert ball.sum() * 6.0 == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.02)
    beyond = filled(vertices, shape=(40, 40, 27), spacing_mm=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(beyond[:39], ball[:39])


def test_surface_finds_the_brain(toy, found):
    _, brain = toy
    assert found.method == "surface"
    assert found.remarks == ()
    assert dice(found.volume.array, brain.array) > 0.97
    assert found.volume_ml == pytest.approx(1650, rel=0.05)
    gap = middle_mm(found.volume.array, 3.0) - middle_mm(brain.array, 3.0)
    assert np.abs(gap).max() <= 5.0


def test_a_threshold_and_the_largest_part_do_not(toy):
    image, brain = toy
    bright = largest_part(ndimage.binary_fill_holes(image.array > 50))  # control
    assert dice(bright, brain.array) < 0.8
    gap = middle_mm(bright, 3.0) - middle_mm(brain.array, 3.0)
    assert np.abs(gap).max() > 15.0, "the neck drags the centre down"


def test_orientation_tilt_and_scale_of_the_image_do_not_matter():
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([-3.0, 3.0, 3.5])
    affine[:3, 3] = (90.0, -95.0, -125.0)
    image, brain = toy_head(affine=affine, shape=(62, 76, 66))
    small = image.with_array((1e-3 * image.array).astype(np.float32)).to_orientation("PSR")
    found = find_brain(small)
    truth = brain.to_orientation("PSR").array
    assert dice(found.volume.array, truth) > 0.93
    gap = middle_mm(found.volume.array, small.spacing_mm) - middle_mm(truth, small.spacing_mm)
    assert np.abs(gap).max() <= 5.0


def test_a_stripped_head_is_its_own_mask(toy):
    image, brain = toy
    stripped = np.where(brain.array, image.array + 1.0, 0.0).astype(np.float32)
    stripped[30, 36, 38] = 0.0  # a dark voxel inside belongs to it
    found = find_brain(image.with_array(stripped))
    assert found.method == "stripped"
    np.testing.assert_array_equal(found.volume.array, brain.array)
    shifted = find_brain(image.with_array(stripped - 5.0))
    assert shifted.method == "stripped", "the background need not be 0"
    clean = np.where(image.array > 6.0, image.array, 0.0).astype(np.float32)
    whole = find_brain(image.with_array(clean))
    assert whole.method == "surface", "control: a whole head in exactly black air is no brain"


def test_what_is_no_head_is_refused():
    flat = Volume(np.full((20, 20, 20), 3.0, np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))
    with pytest.raises(InvalidInputError, match="no head to find"):
        find_brain(flat)
    values = np.random.default_rng(0).normal(50.0, 1.0, (20, 20, 20)).astype(np.float32)
    values[8:12, 8:12, 8:12] = 200.0
    with pytest.raises(InvalidInputError, match="so it is no head"):
        find_brain(Volume(values, np.diag([2.0, 2.0, 2.0, 1.0])))


def test_a_given_mask_moves_by_world_coordinates(toy):
    image, brain = toy
    other = np.diag([-4.0, -4.0, 5.0, 1.0])
    other[:3, 3] = (90.0, 105.0, -100.0)
    _, elsewhere = toy_head(affine=other, shape=(46, 56, 42))
    mask = elsewhere.with_array(elsewhere.array.astype(np.float32) * 255.0)
    moved = given_brain(mask, image)
    assert moved.method == "given"
    assert dice(moved.volume.array, brain.array) > 0.93
    gap = middle_mm(moved.volume.array, 3.0) - middle_mm(brain.array, 3.0)
    assert np.abs(gap).max() <= 3.0
    astray = Volume(mask.array, np.diag([4.0, 4.0, 5.0, 1.0]))  # control: another affine
    assert dice(given_brain(astray, image).volume.array, brain.array) < 0.3
    same = brain.with_array(brain.array.astype(np.uint8)[..., None])
    np.testing.assert_array_equal(given_brain(same, image).volume.array, brain.array)


def test_masks_that_cannot_be_used(toy):
    image, brain = toy
    whole = brain.with_array(brain.array.astype(np.float32))
    far = np.eye(4)
    far[:3, 3] = 4000.0
    for mask, says in (
        (whole.with_array(0 * whole.array), "is empty"),
        (whole.with_array(np.where(brain.array, np.nan, 0).astype(np.float32)), "NaN"),
        (Volume(whole.array, far), "does not overlap the image: it lies within"),
        (whole.with_array(np.stack([whole.array] * 2, axis=-1)), "one volume"),
        (whole.with_array(whole.array.astype(np.complex64)), "real numbers"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            given_brain(mask, image)
    small = Volume(whole.array, np.diag([1.5, 1.5, 1.5, 1.0]))
    remarks = " ".join(given_brain(small, small).remarks)
    assert "has 206 ml, which is not between 600 and 2200" in remarks
    full = given_brain(whole.with_array(np.ones_like(whole.array)), image)
    assert "covers the whole image" in " ".join(full.remarks)
    with pytest.raises(InvalidInputError, match="no voxel"):
        largest_part(np.zeros((3, 3, 3), bool))


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    mask[5, 5, 4:6] = True
    part = largest_part(mask)
    assert part.sum() == 3
    six, _ = ndimage.label(mask)  # control: by faces alone the pair would win
    assert np.bincount(six.ravel())[1:].max() == 2


def test_colin27():
    """Against the brain of the ICBM template, which lies in the same space."""
    from medsci.data.head_template import _map

    image = read_nifti(SAMPLE)
    found = find_brain(image)
    assert found.method == "surface"
    assert found.remarks == ()
    brain = ndimage.binary_fill_holes(_map("t1") > 0.08).astype(np.uint8)
    space = np.eye(4)
    space[:3, 3] = (-98, -134, -72)  # of the template
    here = resample_to(Volume(brain, space), image, order=0).array > 0
    assert dice(found.volume.array, here) > 0.9
    assert np.abs(middle_mm(found.volume.array, 1.0) - middle_mm(here, 1.0)).max() <= 5.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_simulated_heads(seed):
    from medsci.data.head_template import LABELS, simulate_head
    from medsci.data.heads import paint

    labels, t1 = simulate_head(-1 - seed)
    painted = paint(labels, t1, np.random.default_rng([seed, 0x707]))
    image = Volume(ndimage.gaussian_filter(painted, 0.5), np.eye(4))
    found = find_brain(image).volume.array
    brain = np.isin(labels, [LABELS.index(name) for name in ("fluid", "grey", "white")])
    assert dice(found, brain) > 0.95
    gap = middle_mm(found, 1.0) - middle_mm(opened(brain, radius=10.0), 1.0)
    assert np.abs(gap).max() <= 5.0
    bright = largest_part(painted > 0.3)  # control
    assert dice(bright, brain) < dice(found, brain) - 0.03
