import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import nibabel as nib
import numpy as np
import pytest
from kspace_samples import AFFINE, MASK, N_PHASE, SHAPE, noise, sample

from medsci.errors import ExitCode, InvalidInputError, OutputExistsError, UsageError
from medsci.imaging import read_kspace, write_kspace

RICH = {
    "axes": (0, 2, 1),
    "reference": np.arange(240, dtype=np.float32).reshape(3, 8, 10),
    "maps": noise(seed=1),
    "sform_code": 4,
    "qform_code": 1,
    "units": ("micron", "sec"),
    "description": "µ test",
    "header": nib.Nifti1Header().binaryblock,
    "crop": (4, 6),
    "attributes": {"seed": 3, "noise_std": 0.01, "lines": [1, 2], "note": "é", "none": None},
}


def same(first, second):
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.tobytes() == b.tobytes(), field.name
        elif field.name != "ismrmrd_header":
            assert a == b, field.name


@pytest.mark.parametrize("changes", [{}, RICH])
def test_write_read_is_the_identity(tmp_path, changes):
    kspace = sample(**changes)
    path = write_kspace(kspace, tmp_path / "a.h5")
    again = read_kspace(path)
    same(kspace, again)
    assert write_kspace(again, tmp_path / "b.h5").read_bytes() == path.read_bytes()


def test_equal_content_gives_equal_bytes(tmp_path):
    first = write_kspace(sample(**RICH), tmp_path / "first.h5").read_bytes()
    time.sleep(1.1)  # HDF5 counts seconds where it counts
    assert write_kspace(sample(**RICH), tmp_path / "second.hdf5").read_bytes() == first
    other = write_kspace(sample(data=noise(seed=5) * MASK), tmp_path / "other.h5").read_bytes()
    assert other != first


def test_file_says_nothing_about_where_it_was_made(tmp_path):
    content = write_kspace(sample(**RICH), tmp_path / "a.h5").read_bytes()
    for secret in (str(tmp_path), os.uname().nodename, "pickle", ".tmp-"):
        assert secret.encode() not in content


def test_layout_is_as_documented(tmp_path):
    with h5py.File(write_kspace(sample(**RICH), tmp_path / "a.h5")) as file:
        assert file.attrs["medsci_format"] == "kspace"
        assert file.attrs["format_version"] == 1
        assert json.loads(file.attrs["attributes"]) == RICH["attributes"]
        assert file["kspace"].shape == SHAPE
        assert file["kspace"].dtype == np.complex64
        assert not file["kspace"][..., ~MASK].any()
        assert {name: file[name].dtype.kind for name in file} == {
            "kspace": "c", "mask": "b", "affine": "f", "reconstruction_rss": "f", "maps": "c",
            "nifti_header": "u", "ismrmrd_header": "S",
        }  # fmt: skip


def test_overwrite_refusal_changes_nothing(tmp_path):
    path = write_kspace(sample(), tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="overwrite"):
        write_kspace(sample(**RICH), path)
    assert path.read_bytes() == before
    same(read_kspace(write_kspace(sample(**RICH), path, overwrite=True)), sample(**RICH))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match=r"\.h5"):
        write_kspace(sample(), tmp_path / "a.nii")


def refuse(path, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_kspace(path)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT == 4
    assert path.name in message
    assert "\n" not in message
    assert ";" in message


def replaced(name, content):
    def edit(file):
        del file[name]
        if content is not None:
            file[name] = content

    return edit


def attribute(name, value):
    def edit(file):
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return edit


def nan_inside(file):
    file["kspace"][0, 0, 0, 5] = np.nan


@pytest.mark.parametrize(("edit", "words"), [
    (replaced("kspace", None), "dataset kspace is missing; the file has"),
    (replaced("mask", None), "dataset mask is missing"),
    (replaced("affine", None), "dataset affine is missing"),
    (replaced("kspace", np.abs(noise())), "float32, but it must be complex"),
    (replaced("kspace", noise((3, 8, 10))), r"shape \(3, 8, 10\), but it must be"),
    (replaced("kspace", noise((3, 0, 8, 10))), "none of them 0"),
    (replaced("kspace", b"text"), "must be complex"),
    (replaced("mask", np.ones(N_PHASE + 1, bool)), "phase-encoding lines"),
    (replaced("mask", np.zeros(N_PHASE, bool)), "mask is empty"),
    (replaced("mask", ~MASK), "no centre lines"),
    (replaced("affine", np.zeros((4, 4))), "affine"),
    (replaced("affine", np.eye(3)), "affine"),
    (replaced("reconstruction_rss", np.zeros((2, 8, 10))), "reference"),
    (replaced("maps", noise((1, 2, 8, 10))), "coil maps"),
    (replaced("nifti_header", np.zeros(5, np.uint8)), "5 bytes"),
    (nan_inside, "3? ?1 NaN or infinite"),
    (attribute("axes", None), "root attribute is missing"),
    (attribute("axes", (0, 0, 1)), "in some order"),
    (attribute("sform_code", "x"), "root attribute is missing or of the wrong type"),
    (attribute("unit_space", "cm"), "units .*cm"),
    (attribute("attributes", "{broken"), "root attribute is missing or of the wrong type"),
    (attribute("format_version", 2), "format_version is 2.*update medsci"),
    (attribute("format_version", None), "format_version is None"),
    (attribute("medsci_format", "sinogram"), "medsci sinogram file, not k-space"),
])  # fmt: skip
def test_malformed_files(tmp_path, edit, words):
    path = write_kspace(sample(**RICH), tmp_path / "a.h5")
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
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("kspace")
    refuse(tmp_path / "group.h5", "dataset kspace is missing")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = b"<x/>", np.zeros(3)
    refuse(tmp_path / "raw.h5", "ISMRMRD raw")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = write_kspace(sample(**RICH), tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refuse(path, "cut short, damaged or not HDF5")


def test_damaged_chunk(tmp_path):
    path = write_kspace(sample(), tmp_path / "a.h5")
    with h5py.File(path) as file:
        offset = file["kspace"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    refuse(path, "cut short, damaged")


def test_spacing_is_not_for_our_own_files(tmp_path):
    path = write_kspace(sample(), tmp_path / "a.h5")
    with pytest.raises(UsageError, match="own affine"):
        read_kspace(path, spacing_mm=(1, 1, 1))
    for bad in ((1, 1), (1, 1, 0), (1, -1, 1)):
        with pytest.raises(UsageError, match="three positive"):
            read_kspace(path, spacing_mm=bad)


_SLOW_WRITE = """
import sys, numpy as np
from medsci.imaging import KSpace, write_kspace
rng = np.random.default_rng(0)
data = rng.normal(size=(40, 4, 128, 128)) + 1j * rng.normal(size=(40, 4, 128, 128))
write_kspace(KSpace(data, np.ones(128, bool), affine=np.eye(4)), sys.argv[1])
"""


def test_kill_9_in_the_middle_of_a_write(tmp_path):
    final = tmp_path / "a.h5"
    child = subprocess.Popen([sys.executable, "-c", _SLOW_WRITE, str(final)])
    try:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 1 << 16 for p in tmp_path.iterdir()):
            assert child.poll() is None, "the write ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        shutil.copy(next(tmp_path.iterdir()), tmp_path / "part.h5")
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL
    assert not final.exists()
    refuse(tmp_path / "part.h5", "cut short, damaged|missing")  # control: half a file is no file


def test_affine_of_the_file_is_not_ours_to_round(tmp_path):
    affine = AFFINE * (1 + 1e-15)
    affine[3] = (0, 0, 0, 1)
    again = read_kspace(write_kspace(sample(affine=affine), tmp_path / "a.h5"))
    assert again.affine.tobytes() == affine.tobytes()
