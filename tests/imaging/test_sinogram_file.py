import dataclasses
import json
import os
import time

import h5py
import nibabel as nib
import numpy as np
import pytest
from sinogram_samples import BEAM, FAN, N_ANGLES, N_BINS, N_COLS, N_ROWS, N_SLICES, lines, sample

from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging.sinogram_arrays import SinogramLayout
from medsci.imaging.sinogram_file import read_sinogram, write_sinogram

TRUTH = np.arange(N_SLICES * N_ROWS * N_COLS, dtype=np.float32).reshape(N_SLICES, N_ROWS, N_COLS)
RICH = {
    "beam": FAN,
    "reference": TRUTH,
    "mu_water": 0.0205,
    "photons": 2.5e4,
    "sform_code": 4,
    "qform_code": 1,
    "units": ("micron", "sec"),
    "description": "µ test",
    "header": nib.Nifti1Header().binaryblock,
    "attributes": {"seed": 3, "lines": [1, 2], "note": "é", "none": None},
}


def same(first, second):
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize(
    "changes",
    [{}, RICH, {"beam": dataclasses.replace(FAN, curved=False)}],
    ids=["plain", "rich", "flat fan"],
)
def test_write_read_is_the_identity(tmp_path, changes):
    sinogram = sample(**changes)
    path = write_sinogram(sinogram, tmp_path / "a.h5")
    again = read_sinogram(path)
    same(sinogram, again)
    assert write_sinogram(again, tmp_path / "b.h5").read_bytes() == path.read_bytes()
    assert again.beam != dataclasses.replace(sinogram.beam, offset_bins=0.0)


def test_equal_content_gives_equal_bytes(tmp_path):
    first = write_sinogram(sample(**RICH), tmp_path / "first.h5").read_bytes()
    time.sleep(1.1)  # HDF5 counts seconds where it counts
    assert write_sinogram(sample(**RICH), tmp_path / "second.hdf5").read_bytes() == first
    other = write_sinogram(sample(data=lines(seed=5)), tmp_path / "other.h5").read_bytes()
    assert other != first
    for secret in (str(tmp_path), os.uname().nodename, "pickle", ".tmp-"):
        assert secret.encode() not in first


def test_layout_is_as_documented(tmp_path):
    with h5py.File(write_sinogram(sample(**RICH), tmp_path / "a.h5")) as file:
        assert (file.attrs["medsci_format"], file.attrs["format_version"]) == ("sinogram", 1)
        assert file.attrs["geometry"] == "fan-curved"
        assert json.loads(file.attrs["attributes"]) == RICH["attributes"]
        assert file["angles"].attrs["units"] == "rad"
        assert file["angles"].dtype == np.float64
        assert file["sinogram"].shape == (N_SLICES, N_ANGLES, N_BINS)
        assert {name: file[name].dtype.kind for name in file} == {
            "sinogram": "f", "angles": "f", "affine": "f", "reference_hu": "f", "nifti_header": "u",
        }  # fmt: skip


def test_degrees_are_read_too(tmp_path):
    path = write_sinogram(sample(), tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["angles"][...] = np.degrees(BEAM.angles)
        file["angles"].attrs["units"] = "degrees"
    np.testing.assert_allclose(read_sinogram(path).beam.angles, BEAM.angles, atol=1e-12)


def test_overwrite_refusal_changes_nothing(tmp_path):
    path = write_sinogram(sample(), tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="overwrite"):
        write_sinogram(sample(**RICH), path)
    assert path.read_bytes() == before
    same(read_sinogram(write_sinogram(sample(**RICH), path, overwrite=True)), sample(**RICH))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match=r"\.h5"):
        write_sinogram(sample(), tmp_path / "a.nii")
    with pytest.raises(UsageError, match="leave layout out"):
        read_sinogram(path, layout=SinogramLayout())


def refuse(path, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_sinogram(path)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT == 4
    assert path.name in message
    assert "\n" not in message
    assert ";" in message


def replaced(name, content, **attrs):
    def edit(file):
        del file[name]
        if content is not None:
            file[name] = content
            file[name].attrs.update(attrs)

    return edit


def attribute(name, value, *, dataset=None):
    def edit(file):
        owner = file if dataset is None else file[dataset]
        if value is None:
            del owner.attrs[name]
        else:
            owner.attrs[name] = value

    return edit


def nan_inside(file):
    file["sinogram"][0, 0, 5] = np.nan


@pytest.mark.parametrize(("edit", "words"), [
    (replaced("sinogram", None), "dataset sinogram is missing; the file has"),
    (replaced("angles", None), "dataset angles is missing"),
    (replaced("affine", None), "dataset affine is missing"),
    (replaced("sinogram", lines() * 1j), "real line integrals"),
    (replaced("sinogram", b"text"), "real line integrals"),
    (replaced("sinogram", lines((N_ANGLES, N_BINS))), "length 1 in front"),
    (replaced("sinogram", lines((N_SLICES, N_BINS, N_ANGLES))), "swap its last two axes"),
    (replaced("sinogram", lines((N_SLICES, 0, N_BINS))), "none of them 0"),
    (replaced("angles", np.arange(4.0), units="deg"), "5 views but there are 4 angles"),
    (replaced("angles", np.full(5, np.nan), units="deg"), "finite angles"),
    (replaced("angles", np.zeros((5, 2)), units="deg"), "one dimension"),
    (replaced("angles", np.arange(5.0)), "unit of the angles is not stated"),
    (attribute("units", "gon", dataset="angles"), "angles are in 'gon'; give degrees or radians"),
    (replaced("affine", np.zeros((4, 4))), "affine"),
    (replaced("affine", np.eye(4)), "pixels of"),
    (replaced("reference_hu", np.zeros((2, 6, 7))), "true image in Hounsfield"),
    (replaced("nifti_header", np.zeros(5, np.uint8)), "5 bytes"),
    (nan_inside, "1 NaN or infinite"),
    (attribute("geometry", None), "geometry is not stated"),
    (attribute("geometry", "cone"), "geometry is 'cone'; give one of parallel"),
    (attribute("source_mm", None), "source_mm of the fan-curved geometry is not stated"),
    (attribute("source_mm", -1.0), "source_mm=-1"),
    (attribute("bin_mm", 0.0), "bin_mm=0.0"),
    (attribute("bin_mm", "wide"), "bin_mm is 'wide'; give one number"),
    (attribute("n_rows", None), "root attribute is missing"),
    (attribute("row_mm", "x"), "root attribute is missing or of the wrong type"),
    (attribute("n_rows", 0), "n_rows=0"),
    (attribute("axes", None), "root attribute is missing"),
    (attribute("axes", (0, 0, 1)), "in some order"),
    (attribute("mu_water_per_mm", -0.02), "mu_water=-0.02"),
    (attribute("photons", "many"), "photons is 'many'"),
    (attribute("sform_code", "x"), "root attribute is missing or of the wrong type"),
    (attribute("unit_space", "cm"), "units .*cm"),
    (attribute("attributes", "{broken"), "root attribute is missing or of the wrong type"),
    (attribute("format_version", 2), "format_version is 2.*update medsci"),
    (attribute("format_version", None), "format_version is None"),
    (attribute("medsci_format", "kspace"), "medsci kspace file, not a sinogram"),
])  # fmt: skip
def test_malformed_files(tmp_path, edit, words):
    path = write_sinogram(sample(**RICH), tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        edit(file)
    refuse(path, words)


def test_not_hdf5(tmp_path):
    refuse(tmp_path / "missing.h5", "does not exist")
    (tmp_path / "folder.h5").mkdir()
    refuse(tmp_path / "folder.h5", "is a folder")
    (tmp_path / "empty.h5").touch()
    refuse(tmp_path / "empty.h5", "is empty")
    (tmp_path / "text.h5").write_text("not HDF5 " * 200)
    refuse(tmp_path / "text.h5", "not HDF5")
    with h5py.File(tmp_path / "nothing.h5", "w"):
        pass
    refuse(tmp_path / "nothing.h5", "the file has nothing")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = write_sinogram(sample(**RICH), tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refuse(path, "cut short, damaged or not HDF5")
