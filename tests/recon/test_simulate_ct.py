import warnings

import numpy as np
import pytest
import torch

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import Volume, read_nifti, write_nifti
from medsci.imaging.beam import FanBeam, ParallelBeam
from medsci.imaging.sinogram_file import read_sinogram, write_sinogram
from medsci.operators.filtered_backprojection import filtered_backprojection
from medsci.operators.projector import projector
from medsci.recon.ct_encoding import fbp_hu
from medsci.recon.ct_settings import SimulateCtSettings
from medsci.recon.ct_simulation import simulate_ct
from medsci.recon.hounsfield import UnitsWarning, hu_to_mu

SPACING = (1.5, 1.2, 3.0)
SHAPE = (64, 72, 11)
LUMP_MM = (18.0, -14.0, 7.0)  # off centre, in every direction


def oblique(order=(0, 1, 2), signs=(1, 1, 1), tilt=0.35):
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[axis]
    c, s = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + (10.0, -6.0, 4.0)
    affine[3, 3] = 1.0
    return affine


def positions(volume):
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def head(affine=None):
    """A water disc with a bony lump at a place in the world, in air."""
    affine = oblique() if affine is None else affine
    volume = Volume(np.zeros(SHAPE, np.float32), affine, sform_code=1)
    where = positions(volume) - np.array((10.0, -6.0, 4.0))
    inside = np.linalg.norm(where, axis=-1) < 36
    lump = np.exp(-((positions(volume) - np.array(LUMP_MM)) ** 2).sum(-1) / (2 * 5.0**2))
    return volume.with_array((1000.0 * inside - 1000.0 + 1200.0 * lump).astype(np.float32))


def lump_mm(volume):
    """World position of the lump, from what is denser than water around the densest voxel."""
    weight = np.maximum(volume.array - 400.0, 0.0)[..., None]
    return (weight * positions(volume)).sum((0, 1, 2)) / weight.sum()


@pytest.mark.parametrize("slice_axis", [0, 2])
@pytest.mark.parametrize("geometry", ["parallel", "fan-curved"])
@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((1, 0, 2), (-1, 1, -1))])
def test_an_off_centre_object_comes_back_to_its_place_in_the_world(
    tmp_path, order, signs, geometry, slice_axis
):
    truth = read_nifti(write_nifti(head(oblique(order, signs)), tmp_path / "a.nii.gz"))
    settings = SimulateCtSettings(n_views=72, geometry=geometry, photons=1e7, slice_axis=slice_axis)
    scan = write_sinogram(simulate_ct(truth, settings=settings), tmp_path / "a.h5")
    made = write_nifti(fbp_hu(read_sinogram(scan)), tmp_path / "b.nii.gz")
    image = read_nifti(made)
    assert image.same_geometry(truth)
    assert np.linalg.norm(lump_mm(image) - lump_mm(truth)) < 0.15
    for axis in range(3):  # the control: any flipped axis puts it elsewhere
        flipped = image.with_array(np.flip(image.array, axis))
        assert np.linalg.norm(lump_mm(flipped) - lump_mm(truth)) > 3.0
    inside = np.linalg.norm(positions(truth) - np.array((10.0, -6.0, 4.0)), axis=-1) < 28
    assert abs(np.mean((image.array - truth.array)[inside])) < 10


def test_views_bins_and_pixels_are_those_asked_for():
    volume = head()
    sparse = simulate_ct(volume, settings=SimulateCtSettings(n_views=8))
    np.testing.assert_allclose(np.degrees(sparse.beam.angles), np.arange(8) * 22.5)
    limited = simulate_ct(
        volume, settings=SimulateCtSettings(n_views=90, start_deg=-30.0, span_deg=90.0)
    )
    np.testing.assert_allclose(np.degrees(limited.beam.angles), np.arange(90.0) - 30)
    assert isinstance(sparse.beam, ParallelBeam)
    assert sparse.beam.bin_mm == pytest.approx(1.2)
    assert sparse.grid.shape == (72, 64)
    assert (sparse.grid.row_mm, sparse.grid.col_mm) == pytest.approx((1.2, 1.5))
    fan = simulate_ct(volume, settings=SimulateCtSettings(n_views=6, geometry="fan", n_bins=90))
    assert isinstance(fan.beam, FanBeam)
    assert fan.beam.n_bins == 90
    np.testing.assert_allclose(np.degrees(fan.beam.angles), np.arange(6) * 60.0)
    assert fan.beam.bin_mm == pytest.approx(1.2 * (595 + 490.6) / 595)


@pytest.mark.parametrize("geometry", ["parallel", "fan", "fan-curved"])
def test_the_detector_sees_the_whole_image(geometry):
    block = Volume(np.full((30, 20, 1), 500.0, np.float32), np.diag([1.0, 2.0, 1.0, 1.0]))
    settings = SimulateCtSettings(
        n_views=24, geometry=geometry, photons=None, source_mm=60.0, detector_mm=30.0
    )
    with pytest.warns(UnitsWarning):
        sinogram = simulate_ct(block, settings=settings)
    assert sinogram.data[..., [0, -1]].max() == 0.0
    if geometry == "parallel":  # mass of every view is the same: nothing was cut off
        mass = sinogram.data.sum(-1) * sinogram.beam.bin_mm
        np.testing.assert_allclose(mass, 30 * 40 * 1.5 * 0.0192, rtol=2e-3)


def test_no_inverse_crime():
    volume = head()
    truth = torch.from_numpy(np.ascontiguousarray(volume.array.T))
    gaps = {}
    for oversampling in (1, 2, 3):
        settings = SimulateCtSettings(n_views=30, photons=None, oversampling=oversampling)
        sinogram = simulate_ct(volume, settings=settings)
        same = projector(sinogram.beam, sinogram.grid)(hu_to_mu(truth)).numpy()
        gaps[oversampling] = np.linalg.norm(sinogram.data - same) / np.linalg.norm(same)
    assert gaps[1] < 1e-5
    assert 1e-3 < gaps[2] < 0.02
    assert gaps[3] == pytest.approx(gaps[2], rel=0.4)


def test_what_lies_outside_the_field_of_view_is_air():
    volume = head()
    marked = volume.array.copy()
    marked[volume.array == -1000.0] = -3024.0
    first = simulate_ct(volume.with_array(marked))
    again = simulate_ct(volume)
    np.testing.assert_array_equal(first.data, again.data)
    assert first.reference is not None
    assert first.reference.min() == -1000.0


def test_truth_and_facts_are_stored():
    volume = head()
    settings = SimulateCtSettings(n_views=8, slices=(1, 4), seed=5, photons=2e4, mu_water=0.02)
    sinogram = simulate_ct(volume, settings=settings)
    slab = sinogram.to_volume(sinogram.reference)
    assert slab.same_geometry(volume.slab(2, 1, 4))
    np.testing.assert_array_equal(slab.array, volume.array[:, :, 1:4])
    assert (sinogram.mu_water, sinogram.photons) == (0.02, 2e4)
    assert sinogram.attributes["seed"] == 5
    assert sinogram.attributes["slices"] == [1, 4]


def test_seed_is_the_only_randomness_and_a_slab_is_part_of_the_whole(tmp_path):
    def bytes_of(**settings):
        scan = simulate_ct(head(), settings=SimulateCtSettings(n_views=8, **settings))
        return write_sinogram(scan, tmp_path / "a.h5", overwrite=True).read_bytes(), scan.data

    first, whole = bytes_of()
    assert bytes_of()[0] == first
    assert bytes_of(seed=1)[0] != first
    part = bytes_of(slices=(1, 3))[1]
    np.testing.assert_allclose(part, whole[1:3], atol=1e-5)
    assert not np.allclose(part, whole[2:4], atol=1e-3)


def test_a_path_will_do(tmp_path):
    path = write_nifti(head(), tmp_path / "a.nii.gz")
    settings = SimulateCtSettings(n_views=4)
    np.testing.assert_array_equal(
        simulate_ct(path, settings=settings).data,
        simulate_ct(read_nifti(path), settings=settings).data,
    )


@pytest.mark.parametrize("shift", [1024.0, None])
def test_values_that_are_no_hounsfield_units_are_said(shift):
    array = head().array
    strange = array + shift if shift is not None else (array + 1000) / 3000
    with pytest.warns(UnitsWarning, match="subtract 1024"):
        simulate_ct(head().with_array(strange), settings=SimulateCtSettings(n_views=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate_ct(head(), settings=SimulateCtSettings(n_views=2))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 6, 2), np.float32), "one real 3D image"),
        (np.zeros((4, 5, 6), np.complex64), "one real 3D image"),
        (np.full((4, 5, 6), np.nan, np.float32), "set them to -1000"),
    ],
)
def test_bad_volumes_get_one_line(array, words):
    with pytest.raises(InvalidInputError, match=words):
        simulate_ct(Volume(array, oblique()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slices": (3, 12)}, "slices 0:11"),
        ({"slices": (4, 4)}, "slices"),
        ({"n_views": 0}, "n_views=0"),
        ({"span_deg": 0.0}, "at most 360"),
        ({"span_deg": 361.0}, "at most 360"),
        ({"photons": 0.0}, "photons=0"),
        ({"oversampling": 0}, "oversampling=0"),
        ({"slice_axis": 3}, "choose 0, 1 or 2"),
        ({"detector_mm": -1.0}, "detector_mm"),
        ({"start_deg": float("nan")}, "start_deg"),
        ({"geometry": "fan", "source_mm": 40.0}, "larger source_mm"),
    ],
)
def test_bad_settings_get_one_line(settings, words):
    with pytest.raises(UsageError, match=words):
        simulate_ct(head(), settings=SimulateCtSettings(**settings))


def test_filtered_backprojection_of_a_simulated_scan_is_absolute():
    settings = SimulateCtSettings(n_views=180, photons=None, slices=(2, 3), mu_water=0.021)
    sinogram = simulate_ct(head(), settings=settings)
    y = torch.from_numpy(sinogram.data)
    mu = filtered_backprojection(y, sinogram.beam, grid=sinogram.grid)[0]
    water = torch.from_numpy(np.abs(sinogram.reference[0]) < 5.0).float()
    inner = -torch.nn.functional.max_pool2d(-water[None], 9, 1, 4)[0] > 0
    assert mu[inner].mean().item() == pytest.approx(0.021, rel=0.01)
