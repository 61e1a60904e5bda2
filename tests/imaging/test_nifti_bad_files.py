"""Every unreadable file ends in one InvalidInputError: one line, what is wrong, what to do."""

import gzip
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from medsci.errors import ExitCode, InvalidInputError
from medsci.imaging import read_nifti

ARRAY = np.random.default_rng(0).integers(0, 999, size=(9, 10, 11), dtype=np.int16)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.nii.gz"
    nib.Nifti1Image(ARRAY, np.eye(4)).to_filename(path)
    return path


def refuse(path, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        read_nifti(path)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.INVALID_INPUT == 4
    assert path.name in message
    assert "\n" not in message
    assert ";" in message  # "...; what to do"
    return message


def test_missing_folder_empty(tmp_path):
    refuse(tmp_path / "a.nii", "does not exist")
    (tmp_path / "b.nii").mkdir()
    refuse(tmp_path / "b.nii", "is a folder")
    for name in ("c.nii", "c.nii.gz", "c.hdr"):
        (tmp_path / name).touch()
        refuse(tmp_path / name, "is empty")


@pytest.mark.parametrize("part", [1e-9, 0.01, 0.3, 0.9, -9, -8, -4, -1])
def test_truncated_gzip_anywhere(good, part):
    """The last cuts only touch the checksum: nibabel alone would not notice."""
    content = good.read_bytes()
    keep = int(len(content) + part) if part < 0 else int(max(2, len(content) * part))
    cut = good.with_name("cut.nii.gz")
    cut.write_bytes(content[:keep])
    refuse(cut, "cut short or damaged")


def test_flipped_bit_in_gzip(good):
    content = bytearray(good.read_bytes())
    content[-8] ^= 1
    damaged = good.with_name("bit.nii.gz")
    damaged.write_bytes(content)
    refuse(damaged, "cut short or damaged")


@pytest.mark.parametrize("keep", [1, 100, 347, 352, 1000])
def test_truncated_plain_file(good, keep):
    cut = good.with_name("cut.nii")
    cut.write_bytes(gzip.decompress(good.read_bytes())[:keep])
    refuse(cut, "readable NIfTI|promises")


def test_wrong_names(good):
    for name, words in (
        ("a.txt", "does not end in"), ("a.mgz", "mri_convert"), ("a.dcm", "dcm2niix"),
        ("a.h5", "read_kspace"), ("a.nii", "with .gz"), ("noname", "rename"),
    ):  # fmt: skip
        path = good.with_name(name)
        shutil.copy(good, path)
        refuse(path, words)
    plain = good.with_name("plain.nii.gz")
    plain.write_bytes(gzip.decompress(good.read_bytes()))
    refuse(plain, "without .gz")


@pytest.mark.parametrize("content", [b"not an image", b"\0" * 1000, b"\x89PNG" + b"x" * 600])
def test_other_content(tmp_path, content):
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    refuse(path, "readable NIfTI")
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(content))
    refuse(packed, "readable NIfTI")


def test_analyze_is_refused(tmp_path):
    nib.Spm2AnalyzeImage(ARRAY, np.eye(4)).to_filename(tmp_path / "a.img")
    refuse(tmp_path / "a.img", "where left")
    refuse(tmp_path / "a.hdr", "where left")


def test_missing_half_of_a_pair(tmp_path):
    nib.Nifti1Pair(ARRAY, np.eye(4)).to_filename(tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    refuse(tmp_path / "a.hdr", "a\\.img|voxels")


def test_colour_is_refused(tmp_path):
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "a.nii")
    refuse(tmp_path / "a.nii", "colour")


@pytest.mark.parametrize(("field", "value"), [
    ("dim", [3, 0, 4, 5, 1, 1, 1, 1]),
    ("dim", [3, -3, 4, 5, 1, 1, 1, 1]),
    ("dim", [1, 4, 1, 1, 1, 1, 1, 1]),
    ("dim", [3, 30000, 30000, 9, 1, 1, 1, 1]),  # 16 GB: must be refused before memory is taken
    ("datatype", 1),
    ("datatype", 12345),
])  # fmt: skip
def test_absurd_headers(good, field, value):
    content = bytearray(gzip.decompress(good.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    header[field] = value
    content[:348] = header.binaryblock
    path = good.with_name("odd.nii")
    path.write_bytes(content)
    refuse(path, "readable NIfTI|promises|no image|colour")


_SLOW_WRITE = """
import sys, numpy as np
from medsci.imaging import Volume, write_nifti
noise = np.random.default_rng(0).normal(size=(200, 200, 200)).astype(np.float32)
write_nifti(Volume(noise, np.eye(4)), sys.argv[1])
"""


def test_kill_9_in_the_middle_of_a_write(tmp_path):
    final = tmp_path / "a.nii.gz"
    child = subprocess.Popen([sys.executable, "-c", _SLOW_WRITE, str(final)])
    try:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 1 << 16 for p in tmp_path.iterdir()):
            assert child.poll() is None, "the write ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL
    assert not final.exists()
