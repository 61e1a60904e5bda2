"""Which kind of scan a file holds, and the commonest mistakes, each in words of its own."""

import dataclasses

import h5py
import numpy as np
import pytest
from contracts.ct_scans import body_file, scan_file

from medsci.errors import InvalidInputError
from medsci.imaging import KSpace, Sinogram, read_sinogram, write_sinogram
from medsci.imaging.bart import write_cfl
from medsci.pipelines.scans import domain_of, read_scan


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return scan_file(tmp_path_factory.mktemp("scans") / "scan.h5", n_views=5, photons=None)


def test_ours(ct, tmp_path, kspace_of):
    mri = kspace_of(tmp_path / "k.h5")
    assert (domain_of(ct), domain_of(mri)) == ("ct", "mri")
    assert isinstance(read_scan(ct, "ct"), Sinogram)
    assert isinstance(read_scan(mri, "mri"), KSpace)


def test_arrays_of_others(tmp_path):
    for name in ("sinogram", "kspace"):
        np.savez(tmp_path / f"{name}.npz", **{name: np.ones((2, 3))})
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[name] = np.ones((2, 3))
    for suffix in (".npz", ".h5"):
        assert domain_of(tmp_path / f"sinogram{suffix}") == "ct"
        assert domain_of(tmp_path / f"kspace{suffix}") == "mri"
    assert domain_of(write_cfl(np.ones((4, 4), np.complex64), tmp_path / "a")) == "mri"


def test_a_file_believes_itself_rather_than_its_datasets(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["sinogram"] = np.ones(3)
        file.attrs["medsci_format"] = "kspace"
    assert domain_of(tmp_path / "odd.h5") == "mri"


def test_damage_is_left_to_the_reader(ct, tmp_path):
    (tmp_path / "cut.h5").write_bytes(ct.read_bytes()[:900])
    (tmp_path / "text.h5").write_text("hello")
    np.savez(tmp_path / "a.npz", sinogram=np.ones((20, 30)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    for name in ("cut.h5", "text.h5", "cut.npz"):
        domain = domain_of(tmp_path / name)
        with pytest.raises(InvalidInputError, match="cut short"):
            read_scan(tmp_path / name, domain)


def test_an_image_is_no_scan(tmp_path):
    import nibabel as nib

    packed = body_file(tmp_path / "ct.nii.gz")
    plain = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), plain)
    dicom = tmp_path / "a.dcm"
    dicom.write_bytes(128 * b"\0" + b"DICM" + 300 * b"\0")
    for path, word in ((packed, "a compressed file"), (plain, "NIfTI"), (dicom, "DICOM")):
        for domain in ("ct", "mri"):
            with pytest.raises(InvalidInputError, match=f"this is {word}, not .*recon simulate"):
                read_scan(path, domain)


def test_each_reader_refuses_the_other_kind(ct, tmp_path, kspace_of):
    with pytest.raises(InvalidInputError, match="medsci kspace file, not a sinogram"):
        read_scan(kspace_of(tmp_path / "k.h5"), "ct")
    with pytest.raises(InvalidInputError, match="medsci sinogram file, not k-space"):
        read_scan(ct, "mri")


def test_a_scan_of_nothing(ct, tmp_path):
    scan = read_sinogram(ct)
    nothing = dataclasses.replace(scan, data=np.zeros_like(scan.data))
    path = write_sinogram(nothing, tmp_path / "zero.h5")
    with pytest.raises(InvalidInputError, match=r"zero\.h5: the sinogram holds nothing but zeros"):
        read_scan(path, "ct")
