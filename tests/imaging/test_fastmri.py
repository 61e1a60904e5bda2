"""Files in fastMRI's layout, synthetic, and ours as fastMRI's own loader would read them."""

import warnings
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
from kspace_samples import MASK, centred_fft, centred_ifft, sample

from medsci.errors import InvalidInputError
from medsci.imaging import (
    GeometryWarning,
    fallback_affine,
    read_kspace,
    read_nifti,
    write_kspace,
    write_nifti,
)

N_SLICES, N_COILS, ROWS, COLUMNS, CROP = 2, 3, 24, 20, 12
ENCODED_FOV, RECON_FOV = (12.0, 10.0, 4.5), (6.0, 6.0, 4.5)


def xml(*, encoded=(ROWS, COLUMNS, 1), fov=ENCODED_FOV, extra="", start="<?xml version='1.0'?>"):
    def space(name, matrix, size):
        return (
            f"<{name}><matrixSize><x>{matrix[0]}</x><y>{matrix[1]}</y><z>{matrix[2]}</z></matrixSize>"
            f"<fieldOfView_mm><x>{size[0]}</x><y>{size[1]}</y><z>{size[2]}</z></fieldOfView_mm></{name}>"
        )

    body = space("encodedSpace", encoded, fov) + space("reconSpace", (CROP, CROP, 1), RECON_FOV)
    return (
        f"{start}<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'>{extra}<encoding>{body}</encoding>"
        "<sequenceParameters><TR>2750</TR></sequenceParameters></ismrmrdHeader>"
    ).encode()


def phantom():
    image = np.zeros((N_SLICES, ROWS, COLUMNS))
    image[:, 8:16, 7:13] = 1
    image[1, 10, 8] = 5
    return image


def multi_coil():
    coils = np.exp(1j * np.arange(N_COILS))[None, :, None, None] / np.sqrt(N_COILS)
    return centred_fft(phantom()[:, None] * coils)


def save(path, *, samples=None, header=None, **datasets):
    with h5py.File(path, "w") as file:
        file["kspace"] = multi_coil() if samples is None else samples
        if header is not None:
            file["ismrmrd_header"] = np.bytes_(header) if isinstance(header, bytes) else header
        for name, content in datasets.items():
            file[name] = content
        file.attrs["patient_id"] = "0123456789"
        file.attrs["acquisition"] = "AXT2"
    return path


def cropped(image):
    top, left = (ROWS - CROP) // 2, (COLUMNS - CROP) // 2
    return image[:, top : top + CROP, left : left + CROP]


def rss(kspace):
    return np.sqrt((np.abs(centred_ifft(kspace.data)) ** 2).sum(1)).astype(np.float32)


def test_fully_sampled_file(tmp_path):
    reference = cropped(phantom()).astype(np.float32)
    path = save(tmp_path / "a.h5", header=xml(), reconstruction_rss=reference)
    kspace = read_kspace(path)
    assert kspace.data.shape == (N_SLICES, N_COILS, ROWS, COLUMNS)
    assert kspace.mask.all()
    assert kspace.crop == (CROP, CROP)
    assert kspace.ismrmrd_header == xml()
    assert "0123456789" not in repr(kspace.attributes)
    volume = kspace.to_volume(rss(kspace))
    assert volume.shape == (CROP, CROP, N_SLICES)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.5, 4.5))
    np.testing.assert_array_equal(volume.affine, fallback_affine(volume.shape, (0.5, 0.5, 4.5)))
    assert not volume.has_orientation
    # our reconstruction, cropped, is fastMRI's reference
    np.testing.assert_allclose(volume.array, kspace.to_volume(kspace.reference).array, atol=1e-6)
    written = write_nifti(volume, tmp_path / "a.nii")
    with pytest.warns(GeometryWarning, match="left and right are not known"):
        assert read_nifti(written).same_geometry(volume)


def test_undersampled_file_with_mask_and_padding(tmp_path):
    mask = np.zeros(COLUMNS, np.float32)
    mask[[0, 3, 9, 10, 11, 17, 19]] = 1
    samples = multi_coil()
    samples[..., :2] = 0  # padding
    samples[..., 18:] = 0
    kspace = read_kspace(save(tmp_path / "a.h5", samples=samples, mask=mask, header=xml()))
    assert np.flatnonzero(kspace.mask).tolist() == [3, 9, 10, 11, 17]
    assert np.array_equal(kspace.data, samples * kspace.mask)
    assert kspace.center_lines == range(9, 12)
    padded = read_kspace(save(tmp_path / "b.h5", samples=samples, header=xml()))
    assert np.flatnonzero(padded.mask).tolist() == list(range(2, 18))


def test_single_coil_file(tmp_path):
    samples = centred_fft(phantom())
    reference = cropped(phantom()).astype(np.float32)
    kspace = read_kspace(
        save(tmp_path / "a.h5", samples=samples, header=xml(), reconstruction_esc=reference)
    )
    assert kspace.n_coils == 1
    np.testing.assert_allclose(kspace.reference, cropped(rss(kspace)), atol=1e-6)


def test_without_header(tmp_path):
    path = save(tmp_path / "a.h5", reconstruction_rss=cropped(phantom()))
    with pytest.warns(GeometryWarning, match="took 1 mm"):
        kspace = read_kspace(path)
    assert kspace.to_volume(rss(kspace)).spacing_mm == (1, 1, 1)
    assert kspace.crop == (CROP, CROP)  # the reference tells
    told = read_kspace(path, spacing_mm=(3, 0.5, 0.75))
    assert told.to_volume(rss(told)).spacing_mm == (0.75, 0.5, 3)
    plain = read_kspace(save(tmp_path / "b.h5"), spacing_mm=(3, 0.5, 0.75))
    assert plain.crop is None
    assert plain.to_volume(rss(plain)).shape == (COLUMNS, ROWS, N_SLICES)


def test_given_spacing_overrides_the_header(tmp_path):
    kspace = read_kspace(save(tmp_path / "a.h5", header=xml()), spacing_mm=(3, 2, 1))
    assert kspace.to_volume(rss(kspace)).spacing_mm == (1, 2, 3)


def test_matrix_that_is_not_the_data_s(tmp_path):
    """Voxel size then comes from reconSpace, and a crop larger than the image is limited to it."""
    header = xml(encoded=(48, 40, 1), fov=(99, 99, 4.5))
    small = multi_coil()[..., 5:15].copy()
    kspace = read_kspace(save(tmp_path / "a.h5", samples=small, header=header))
    assert kspace.crop == (CROP, 10)
    np.testing.assert_allclose(kspace.to_volume(rss(kspace)).spacing_mm, (0.5, 0.5, 4.5))


BOMB = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]>"


@pytest.mark.parametrize(("header", "words"), [
    (xml(start="<?xml version='1.0'?>" + BOMB), "document type or entities"),
    (xml(start=BOMB.lower()), "document type or entities"),
    (xml().decode().encode("utf-16"), "UTF-8"),
    (b"<broken", "valid UTF-8 XML"),
    (b"<ismrmrdHeader/>", "no encoding section"),
    (xml(encoded=(0, 20, 1)), "'0' for encodedSpace/matrixSize/x"),
    (xml(fov=("nan", 1, 1)), "'nan' for encodedSpace"),
    (xml(fov=("", 1, 1)), "positive number"),
    (np.zeros(3), "not one text"),
])  # fmt: skip
def test_bad_headers(tmp_path, header, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_kspace(save(tmp_path / "a.h5", header=header))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "words"), [
    ({"samples": np.abs(multi_coil())}, "must be complex"),
    ({"samples": multi_coil()[0, 0]}, "must be complex, .slices, coils"),
    ({"samples": np.zeros_like(multi_coil())}, "mask is empty"),
    ({"mask": np.ones(COLUMNS + 1)}, "phase-encoding lines"),
    ({"mask": np.zeros(COLUMNS)}, "mask is empty"),
    ({"mask": np.arange(COLUMNS) < 3}, "no centre lines"),
    ({"samples": multi_coil() * np.nan}, "NaN"),
])  # fmt: skip
def test_bad_arrays(tmp_path, changes, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        path = save(tmp_path / "a.h5", header=xml(), **changes)
    with pytest.raises(InvalidInputError, match=words):
        read_kspace(path)


def fastmri_metadata(path):
    """What fastMRI's data loader asks of a file, in our own words."""
    space = "{http://www.ismrm.org/ISMRMRD}"
    with h5py.File(path) as file:
        root = ElementTree.fromstring(file["ismrmrd_header"][()])
        n_slices = file["kspace"].shape[0]
        mask = np.asarray(file["mask"])

    def number(*names):
        return float(root.find("/".join(space + name for name in ("encoding", *names))).text)

    encoded = [number("encodedSpace", "matrixSize", axis) for axis in "xyz"]
    recon = [number("reconSpace", "matrixSize", axis) for axis in "xyz"]
    fov = [number("reconSpace", "fieldOfView_mm", axis) for axis in "xyz"]
    limits = ("encodingLimits", "kspace_encoding_step_1")
    left = int(encoded[1]) // 2 - number(*limits, "center")
    return n_slices, mask, encoded, recon, fov, (left, left + number(*limits, "maximum") + 1)


def test_our_files_answer_fastmri_tools(tmp_path):
    path = write_kspace(sample(crop=(4, 6), axes=(2, 1, 0)), tmp_path / "a.h5")
    n_slices, mask, encoded, recon, fov, padding = fastmri_metadata(path)
    assert n_slices == 3
    assert np.array_equal(mask, MASK)
    assert (encoded, recon) == ([8, 10, 1], [4, 6, 1])
    np.testing.assert_allclose(fov, (4 * 1.25, 6 * 0.75, 2.5), rtol=1e-6)
    assert padding == (0, 10)


def test_header_written_on_names_nobody(tmp_path):
    secret = (
        "<subjectInformation><patientName>Somebody</patientName></subjectInformation>"
        "<studyInformation><accessionNumber>42424242</accessionNumber></studyInformation>"
        "<acquisitionSystemInformation><stationName>SECRETHOST</stationName>"
        "</acquisitionSystemInformation>"
    )
    kspace = read_kspace(save(tmp_path / "a.h5", header=xml(extra=secret)))
    assert b"Somebody" in kspace.ismrmrd_header  # as read
    path = write_kspace(kspace, tmp_path / "b.h5")
    content = path.read_bytes()
    for word in (b"Somebody", b"42424242", b"SECRETHOST", b"0123456789"):
        assert word not in content
    again = read_kspace(path)
    assert b"2750" in again.ismrmrd_header
    assert again.affine.tobytes() == kspace.affine.tobytes()
    assert (again.crop, again.sform_code) == (kspace.crop, 0)


def test_single_text_as_string_dataset(tmp_path):
    kspace = read_kspace(save(tmp_path / "a.h5", header=xml().decode()))
    assert kspace.crop == (CROP, CROP)


def test_control_wrong_fft_convention_would_be_seen(tmp_path):
    """Without the centring shifts the reference is not reproduced."""
    kspace = read_kspace(save(tmp_path / "a.h5", header=xml()))
    naive = np.sqrt((np.abs(np.fft.ifft2(kspace.data, norm="ortho")) ** 2).sum(1))
    assert np.abs(cropped(naive) - cropped(phantom())).max() > 0.5
    assert np.abs(cropped(rss(kspace)) - cropped(phantom())).max() < 1e-5
