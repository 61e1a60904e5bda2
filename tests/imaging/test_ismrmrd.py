"""ISMRMRD raw data, from a simulated scanner whose blob is at a known place in the patient."""

import warnings

import numpy as np
import pytest
from ismrmrd_samples import Scan, bit, noise_lines, save, white
from kspace_samples import centred_ifft

from medsci.errors import InvalidInputError, UsageError
from medsci.imaging import GeometryWarning, read_kspace, write_kspace

LPS = np.array([-1.0, -1.0, 1.0])
VOXEL = (48 / 32, 36 / 24, 4.0)


def image_of(kspace):
    return np.sqrt((np.abs(centred_ifft(kspace.data)) ** 2).sum(1))


def centroid_mm(kspace):
    """Where the blob is in the volume, in RAS mm: centre of mass of its magnitude."""
    volume = kspace.to_volume(image_of(kspace))
    index = np.indices(volume.shape[:3]).reshape(3, -1)
    weight = volume.array.reshape(-1).astype(float)
    weight[weight < 0.05 * weight.max()] = 0
    mean = index @ weight / weight.sum()
    return volume.affine[:3, :3] @ mean + volume.affine[:3, 3]


def blob_in(scan):
    return LPS * scan.blob


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    scan = Scan(n_slices=7)
    return scan, save(tmp_path_factory.mktemp("mrd") / "a.h5", scan.lines(), scan.xml())


def test_blob_is_where_it_was_put(plain):
    scan, path = plain
    kspace = read_kspace(path)
    assert kspace.data.shape == (7, 3, 32, 24)
    assert kspace.acceleration == 1
    volume = kspace.to_volume(image_of(kspace))
    np.testing.assert_allclose(volume.spacing_mm, VOXEL, rtol=1e-5)
    assert volume.shape == (32, 24, 7)
    assert volume.has_orientation
    np.testing.assert_allclose(centroid_mm(kspace), blob_in(scan), atol=0.1)


@pytest.mark.parametrize("name", ["read_dir", "phase_dir"])
def test_control_mirrored_directions_move_the_blob(tmp_path, name):
    scan = Scan(n_slices=7)
    lines = list(scan.lines())
    for head, _ in lines:
        head[name] *= -1
    kspace = read_kspace(save(tmp_path / "a.h5", lines, scan.xml()))
    assert np.linalg.norm(centroid_mm(kspace) - blob_in(scan)) > 4


def test_control_lps_is_not_ras(plain):
    scan, path = plain
    assert np.linalg.norm(centroid_mm(read_kspace(path)) - scan.blob) > 10


def test_slices_are_sorted_by_place_not_by_counter(tmp_path, plain):
    """The counter often counts in the order of acquisition."""
    scan, path = plain
    order = [3, 0, 4, 1, 5, 2, 6]
    lines = list(scan.lines())
    for head, _ in lines:
        head["idx"]["slice"] = order[head["idx"]["slice"]]
    again, truth = read_kspace(save(tmp_path / "a.h5", lines, scan.xml())), read_kspace(path)
    assert np.array_equal(again.data, truth.data)
    np.testing.assert_allclose(again.affine, truth.affine, atol=1e-5)


def test_oversampling_is_removed_without_loss(plain):
    """The spectrum of the half field of view, by formula, at sqrt(2) the amplitude."""
    scan, path = plain
    kspace = read_kspace(path)
    expected = np.stack(
        [[scan.spectrum(p, y)[:, ::2] for y in range(24)] for p in scan.places()]
    ).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(kspace.data, np.sqrt(2) * expected, atol=1e-3)


def test_every_complication_at_once(tmp_path, plain):
    """Noise scan, reversed lines, averages, navigators, and acceleration with calibration lines."""
    scan, path = plain
    rng = np.random.default_rng(3)
    mixing = np.array([[2.0, 0, 0], [1.0, 1.5j, 0], [0.3, 0.2, 0.5]])
    steps = sorted({*range(0, 24, 4), *range(9, 15)})
    readouts = list(noise_lines(scan, rng, mixing))
    for n, (head, samples) in enumerate(scan.lines(steps)):
        if head["idx"]["kspace_encode_step_1"] % 4:
            head["flags"] |= bit(20)  # calibration, embedded
        else:
            head["flags"] |= bit(21)
        if n % 3 == 0:
            head["flags"] |= bit(22)
            samples = samples[:, ::-1]
        readouts.append((head, samples))
        again = head.copy()
        again["idx"]["average"] = 1
        readouts.append((again, samples))
        for flag in (23, 24, 26):
            other = head.copy()
            other["flags"] = bit(flag)
            readouts.append((other, 1e6 * samples))
    mixed = read_kspace(save(tmp_path / "a.h5", readouts, scan.xml(calibration="embedded")))
    truth = read_kspace(path)
    assert np.flatnonzero(mixed.mask).tolist() == steps
    assert mixed.center_lines == range(8, 15)
    assert mixed.acceleration == pytest.approx(24 / 11)
    assert mixed.attributes["averages"] == 2
    assert mixed.attributes["whitened"]
    unmixed = read_kspace(tmp_path / "a.h5", whiten=False)
    np.testing.assert_allclose(unmixed.data, truth.data * truth.mask * mixed.mask, atol=1e-3)
    np.testing.assert_allclose(mixed.affine, truth.affine)
    own = read_kspace(save(tmp_path / "b.h5", readouts, scan.xml(calibration="separate")))
    assert np.flatnonzero(own.mask).tolist() == list(range(0, 24, 4))


def test_control_lines_not_turned_round_would_be_seen(tmp_path, plain):
    scan, path = plain
    lines = [(head, samples[:, ::-1]) for head, samples in scan.lines()]
    wrong = read_kspace(save(tmp_path / "a.h5", lines, scan.xml()))
    assert np.abs(wrong.data - read_kspace(path).data).max() > 10


@pytest.mark.parametrize("dwell_us", [5.0, 20.0])
def test_noise_becomes_white_at_the_bandwidth_of_the_image(tmp_path, dwell_us):
    """An image of noise alone, correlated as the noise scan says, has unit covariance after."""
    scan = Scan(n_slices=2)
    rng = np.random.default_rng(5)
    mixing = np.array([[2.0, 0, 0], [1.0, 1.5j, 0], [0.3, 0.2, 0.5]])
    quieter = np.sqrt(5.0 / dwell_us)  # a longer dwell time is a smaller bandwidth
    readouts = list(noise_lines(scan, rng, quieter * mixing, dwell_us=dwell_us, n=200))
    readouts += [(head, mixing @ white(rng, (3, 64))) for head, _ in scan.lines()]
    path = save(tmp_path / "a.h5", readouts, scan.xml())

    def covariance(**options):
        samples = read_kspace(path, **options).data.transpose(1, 0, 2, 3).reshape(3, -1)
        return samples @ samples.conj().T / samples.shape[1]

    assert np.abs(covariance() - np.eye(3)).max() < 0.1
    assert np.abs(covariance(whiten=False) - np.eye(3)).max() > 1  # control
    extra = (
        "<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.5"
        "</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>"
    )
    path = save(tmp_path / "b.h5", readouts, scan.xml(extra=extra))
    assert np.abs(covariance() - 0.5 * np.eye(3)).max() < 0.1


def test_partial_fourier_asymmetric_echo_and_discarded_samples(tmp_path, plain):
    scan, path = plain
    lines = []
    for n, (head, samples) in enumerate(scan.lines(range(6, 24))):
        head["idx"]["kspace_encode_step_1"] -= 6
        junk = np.full((3, 2), 1e5)
        part = np.concatenate([junk, samples[:, 20:], junk[:, :1]], axis=1)
        head["discard_pre"], head["discard_post"], head["center_sample"] = 2, 1, 14
        head["number_of_samples"] = part.shape[1]
        if n % 2:
            head["flags"] |= bit(22)
            part = part[:, ::-1]
            head["discard_pre"], head["discard_post"], head["center_sample"] = 1, 2, 47 - 1 - 14
        lines.append((head, part))
    kspace = read_kspace(save(tmp_path / "a.h5", lines, scan.xml(centre=6)))
    assert np.flatnonzero(kspace.mask).tolist() == list(range(6, 24))
    np.testing.assert_allclose(centroid_mm(kspace), blob_in(scan), atol=0.3)
    truth = read_kspace(path)
    # only the readout's lowest frequencies are lost, and they hold little of this blob
    assert np.abs(kspace.data - truth.data * kspace.mask).max() < 0.1 * np.abs(truth.data).max()
    wrong = read_kspace(save(tmp_path / "b.h5", lines, scan.xml(centre=7)))
    assert wrong.mask[5]  # control: a wrong centre shifts the lines
    assert not np.allclose(wrong.data, kspace.data, atol=1)


def test_padding_up_to_the_encoded_matrix_and_phase_oversampling(tmp_path):
    scan = Scan(n_slices=7, encoded_phase=36)
    path = save(tmp_path / "a.h5", _finer(scan), scan.xml(centre=12))
    kspace = read_kspace(path)
    assert kspace.data.shape == (7, 3, 32, 36)
    assert np.flatnonzero(kspace.mask).tolist() == list(range(6, 30))
    assert kspace.crop == (32, 24)
    np.testing.assert_allclose(centroid_mm(kspace), blob_in(scan), atol=0.15)
    again = read_kspace(write_kspace(kspace, tmp_path / "b.h5"))
    assert np.array_equal(again.data, kspace.data)
    assert np.array_equal(again.affine, kspace.affine)


def _finer(scan):
    """Lines as close as the larger field of view needs, as many as before."""
    wide = Scan(n_slices=7, fov=(48.0, 54.0))
    assert scan.n_phase == wide.n_phase
    return wide.lines()


def test_3d_partitions_become_slices(tmp_path):
    scan = Scan(n_partitions=8)
    kspace = read_kspace(save(tmp_path / "a.h5", scan.lines(), scan.xml()))
    assert kspace.data.shape == (8, 3, 32, 24)
    volume = kspace.to_volume(image_of(kspace))
    np.testing.assert_allclose(volume.spacing_mm, (1.5, 1.5, 3.0), rtol=1e-5)
    np.testing.assert_allclose(centroid_mm(kspace), blob_in(scan), atol=0.2)
    # elliptical: outer lines have fewer partitions, one run around the centre
    kept = [
        (head, samples)
        for head, samples in scan.lines()
        if abs(int(head["idx"]["kspace_encode_step_1"]) - 12) < 9
        or 2 <= head["idx"]["kspace_encode_step_2"] <= 6
    ]
    corner = read_kspace(save(tmp_path / "b.h5", kept, scan.xml()))
    assert corner.mask.all()
    np.testing.assert_allclose(corner.data, kspace.data, atol=0.05 * np.abs(kspace.data).max())


def test_one_of_several_images(tmp_path):
    scan = Scan()
    lines = []
    for contrast in (0, 2):
        for head, samples in scan.lines():
            head["idx"]["contrast"] = contrast
            lines.append((head, (1 + contrast) * samples))
    path = save(tmp_path / "a.h5", lines, scan.xml(), group="other")
    with pytest.raises(InvalidInputError, match=r"contrast 0, 2; choose one with select="):
        read_kspace(path)
    first, third = (read_kspace(path, select={"contrast": n}) for n in (0, 2))
    np.testing.assert_allclose(3 * first.data, third.data, atol=1e-3)
    assert third.attributes["select"] == {"contrast": 2}
    with pytest.raises(UsageError, match="no contrast 1; this file has 0, 2"):
        read_kspace(path, select={"contrast": 1})
    with pytest.raises(UsageError, match="choose among contrast"):
        read_kspace(path, select={"echo": 1})
    one = read_kspace(path, select={"contrast": 0, "slice": 2})
    assert one.n_slices == 1
    place = one.affine @ (16, 12, 0, 1)
    np.testing.assert_allclose(place[:3], LPS * scan.places()[2], atol=1e-4)


def test_without_positions_the_orientation_is_unknown(tmp_path):
    scan = Scan()
    lines = list(scan.lines())
    for head, _ in lines:
        for name in ("position", "read_dir", "phase_dir", "slice_dir"):
            head[name] = 0
    path = save(tmp_path / "a.h5", lines, scan.xml())
    with pytest.warns(GeometryWarning, match="left and right are not known"):
        kspace = read_kspace(path)
    assert kspace.sform_code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeometryWarning)
        volume = kspace.to_volume(image_of(kspace))
    np.testing.assert_allclose(volume.spacing_mm, VOXEL)
