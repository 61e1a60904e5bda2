"""Malformed data: one line that names what is wrong, or a skip that is counted; nothing else."""

import gzip
import os

import h5py
import nibabel as nib
import numpy as np
import pytest

from medsci.data.arrays import ArraySource
from medsci.data.augment import Augmentation
from medsci.data.bids import Bids
from medsci.data.listing import list_cases
from medsci.data.nifti_patches import NiftiPatches, PatchLaw
from medsci.data.nifti_slices import NiftiSlices
from medsci.data.nifti_volumes import NiftiVolumes
from medsci.data.reading import Preparation, UnreadableError
from medsci.errors import InvalidInputError, UsageError

BLOCK = np.pad(np.ones((6, 7, 5), dtype=np.float32), 2)


def nifti(path, data=BLOCK):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def cut(path, keep=0.5):
    raw = nifti(path).read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])


def write(text, name="list.csv", *images):
    def make(folder):
        for image in images:
            nifti(folder / image)
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)

    return make


def bids(folder):
    for subject in ("01", "02"):
        nifti(folder / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")


def hdf5(**datasets):
    def make(folder):
        with h5py.File(folder / "s.h5", "w") as file:
            for name, values in datasets.items():
                file[name] = values

    return make


def npy(values):
    return lambda folder: np.save(folder / "s.npy", values, allow_pickle=True)


def two_channel_counts(folder):
    np.save(folder / "a.npy", np.zeros((2, 1, 4, 4)))
    np.save(folder / "b.npy", np.zeros((2, 2, 4, 4)))


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def nothing(folder):
    pass


def good(folder):
    nifti(folder / "a.nii.gz")


def cache_is_a_file(folder):
    good(folder)
    (folder / "cache").write_text("x")


def listed(name="list.csv", **options):
    return lambda folder: list_cases(folder / name, **options)


def study(*args, **options):
    return lambda folder: list_cases(folder, bids=Bids(*args), **options)


def volumes(**options):
    return lambda folder: NiftiVolumes(folder, **options)


def arrays(*names, **options):
    return lambda folder: ArraySource([folder / name for name in names], **options)


ONES = np.ones((3, 1, 4, 4))
HOLE = np.where(BLOCK > 0, np.nan, 0).astype(np.float32)

CASES = {
    # what is pointed at
    "empty folder": (nothing, volumes(), ["no NIfTI file", "give a folder"]),
    "folder without NIfTI": (raw("a.txt", b"x"), volumes(), ["no NIfTI file"]),
    "no such folder": (nothing, lambda f: NiftiSlices(f / "none"), ["no NIfTI file", "none"]),
    "pattern without match": (good, lambda f: NiftiSlices(str(f / "*.mgz")), ["*.mgz"]),
    "empty list": (nothing, lambda f: NiftiVolumes([]), ["no NIfTI file", "empty list"]),
    "conditions of a folder": (good, lambda f: list_cases(f, conditions=("age",)), ["age", "CSV"]),
    # files that are all bad
    "all truncated": (lambda f: cut(f / "a.nii.gz"), volumes(), ["none of 1", "a.nii.gz"]),
    "truncated without gzip": (lambda f: cut(f / "a.nii"), volumes(), ["1 could not be read"]),
    "NaN volume": (lambda f: nifti(f / "a.nii", HOLE), volumes(), ["a.nii", "NaN"]),
    "zero volume": (lambda f: nifti(f / "a.nii", 0 * BLOCK), volumes(), ["zero everywhere"]),
    "2D image": (lambda f: nifti(f / "a.nii", BLOCK[0]), volumes(), ["a 2D image", "3D"]),
    "time series": (
        lambda f: nifti(f / "a.nii", np.ones((4, 4, 4, 3))), volumes(), ["(4, 4, 4, 3)"],
    ),
    "empty file": (raw("a.nii.gz", b""), volumes(), ["it is empty"]),
    "words in a NIfTI": (raw("a.nii", b"hello\nthere"), volumes(), ["a.nii"]),
    "words in a gzip": (raw("a.nii.gz", gzip.compress(b"hello")), volumes(), ["a.nii.gz"]),
    "all one value": (
        lambda f: nifti(f / "a.nii", np.ones((4, 4, 4))), volumes(intensity="minmax"),
        ["1 everywhere"],
    ),
    "zero items": (
        good, lambda f: NiftiSlices(f, min_signal=0.99), ["gave a slice", "lower min_signal"],
    ),
    "patch larger than the volume": (
        good, lambda f: NiftiPatches(f, size=(11, 4, 4)), ["(11, 4, 4)", "(10, 11, 9)", "smaller"],
    ),
    # tables
    "CSV without image": (
        write("images,age\na.nii,3\n"), listed(), ["no column 'image'", "did you mean images?"],
    ),
    "CSV with missing file": (
        write("image\na.nii\nb.nii\n", "list.csv", "a.nii"), listed(), ["1 of 2", "b.nii"],
    ),
    "CSV empty": (write(""), listed(), ["list.csv is empty"]),
    "CSV of blank lines": (write("\n \n,\n"), listed(), ["list.csv is empty"]),
    "CSV with a header alone": (write("image,age\n"), listed(), ["no row"]),
    "CSV with a subject on both sides": (
        write(
            "image,subject,split\na.nii,x,train\nb.nii,x,validation\n", "list.csv", "a.nii", "b.nii"
        ),
        listed(), ["subject x in train and in validation"],
    ),
    "CSV with an image twice": (
        write("image\na.nii\n./a.nii\n", "list.csv", "a.nii"), listed(), ["a.nii twice"],
    ),
    "CSV with an unknown split": (
        write("image,split\na.nii,trian\n", "list.csv", "a.nii"), listed(),
        ["line 2", "'trian'", "did you mean train?"],
    ),
    "CSV in Latin-1": (write("image\nmüller.nii\n".encode("latin-1")), listed(), ["not UTF-8"]),
    "CSV with a column twice": (write("image,age,age\na,1,2\n"), listed(), ["'age' twice"]),
    "CSV with a nameless column": (write("image,,age\na,1,2\n"), listed(), ["without a name"]),
    "CSV with too many cells": (write("image\na.nii,4\n"), listed(), ["line 2 has 2 cells"]),
    "CSV with a torn quote": (write('image\n"a.nii\n'), listed(), ["list.csv line"]),
    "CSV with an empty image": (write("image,age\n,4\n"), listed(), ["line 2 names no image"]),
    "CSV with a missing value": (
        write("image,age\na.nii,n/a\n", "list.csv", "a.nii"), listed(), ["'age'", "a.nii"],
    ),
    "CSV with a reserved name": (
        write("image,noise\na.nii,4\n", "list.csv", "a.nii"), listed(), ["'noise'", "rename"],
    ),
    "CSV that lacks a condition": (
        write("image,age\na.nii,4\n", "list.csv", "a.nii"), listed(conditions=("Age",)),
        ["no column 'Age'", "did you mean age?"],
    ),
    "CSV with a path too long": (write(f"image\n{'a' * 5000}\n"), listed(), ["do not exist"]),
    "CSV split twice over": (
        write("image,split\na.nii,train\n", "list.csv", "a.nii"),
        listed(split="train", validation_fraction=0.5), ["column split and validation_fraction"],
    ),
    "CSV without validation": (
        write("image,split\na.nii,train\n", "list.csv", "a.nii"), listed(split="validation"),
        ["no case for validation"],
    ),
    "CSV is a folder": (lambda f: (f / "list.csv").mkdir(), listed(), ["list.csv cannot be read"]),
    # BIDS
    "bad BIDS suffix": (bids, study("T1"), ["no suffix 'T1'", "did you mean T1w?"]),
    "bad BIDS session": (bids, study("T1w", None, ("pre",)), ["no session 'pre'"]),
    "bad BIDS subject": (bids, study("T1w", None, (), ("3",)), ["no subject '3'", "01, 02"]),
    "bad BIDS datatype": (bids, study("T1w", "anta"), ["'anta'", "did you mean anat?"]),
    "no BIDS tree": (good, study("T1w"), ["sub-XX"]),
    "BIDS tree is a file": (
        good, lambda f: list_cases(f / "a.nii.gz", bids=Bids("T1w")), ["not a folder"],
    ),
    "participants without column": (
        bids, study("T1w", conditions=("aeg",)), ["participants.tsv", "'aeg'", "did you mean age?"],
    ),
    "participants without subject": (bids, study("T1w", conditions=("age",)), ["sub-02"]),
    "no participants": (
        lambda f: nifti(f / "sub-1/anat/sub-1_T1w.nii"), study("T1w", conditions=("age",)),
        ["participants.tsv cannot be read"],
    ),
    # options
    "size with zeros": (good, volumes(size=(8, 0, 8)), ["size is (8, 0, 8)", "above zero"]),
    "size of two axes": (good, volumes(size=(8, 8)), ["size is (8, 8)", "3 whole"]),
    "slice size of three axes": (good, lambda f: NiftiSlices(f, size=(8, 8, 8)), ["2 whole"]),
    "unknown channels": (good, volumes(channels="colour"), ["'colour'", "complex, magnitude"]),
    "unknown axis": (good, lambda f: NiftiSlices(f, axis="axal"), ["did you mean axial?"]),
    "unknown intensity": (good, volumes(intensity="z-score"), ["did you mean zscore?"]),
    "window upside down": (good, volumes(intensity=(240, -160)), ["(240, -160)", "low below high"]),
    "unknown dtype": (good, volumes(dtype="float8"), ["'float8'", "float16"]),
    "voxel size of zero": (good, volumes(voxel_size_mm=(1, 1, 0)), ["voxel_size_mm is (1, 1, 0)"]),
    "fraction of two": (good, lambda f: list_cases(f, validation_fraction=2), ["fraction is 2"]),
    "unknown split": (good, lambda f: list_cases(f, split="test"), ["split 'test'", "validation"]),
    "no patches": (good, lambda f: PatchLaw(per_volume=0), ["per_volume is 0"]),
    "negative shift": (good, lambda f: Augmentation(max_shift=-1), ["max_shift is -1"]),
    "cache folder is a file": (
        cache_is_a_file, lambda f: NiftiVolumes(f, cache_dir=f / "cache"), ["cache", "is a file"],
    ),
    "cache folder below a file": (
        cache_is_a_file, lambda f: NiftiVolumes(f, cache_dir=f / "cache/deep"), ["cache_dir"],
    ),
    # ready samples
    "npy with objects": (
        npy(np.array([{"a": 1}], dtype=object)), arrays("s.npy"), ["s.npy", "objects", "plain"],
    ),
    "npy of words": (npy(np.full((2, 1, 3), "a")), arrays("s.npy"), ["<U1", "real numbers"]),
    "npy of complex numbers": (npy(ONES + 1j), arrays("s.npy"), ["complex128", "two channels"]),
    "npy of wrong rank": (npy(np.ones((4, 4))), arrays("s.npy"), ["(4, 4)", "channels"]),
    "npy without items": (npy(np.ones((0, 1, 4))), arrays("s.npy"), ["(0, 1, 4)"]),
    "npy with NaN": (npy(ONES * np.nan), arrays("s.npy"), ["row 0", "NaN"]),
    "npy cut short": (
        raw("s.npy", b"\x93NUMPY\x01\x00v\x00"), arrays("s.npy"), ["s.npy cannot be read"],
    ),
    "npy of length zero": (raw("s.npy", b""), arrays("s.npy"), ["s.npy cannot be read"]),
    "HDF5 of garbage": (raw("s.h5", b"garbage"), arrays("s.h5"), ["s.h5 cannot be read"]),
    "HDF5 without x0": (hdf5(x_0=ONES), arrays("s.h5"), ["no dataset 'x0'", "did you mean x_0?"]),
    "HDF5 with unlike noise": (hdf5(x0=ONES, noise=ONES[:2]), arrays("s.h5"), ["(2, 1, 4, 4)"]),
    "HDF5 lacks a condition": (
        hdf5(x0=ONES, age=np.ones(3)), arrays("s.h5", conditions=("aeg",)),
        ["'aeg'", "did you mean age?"],
    ),
    "HDF5 condition with NaN": (hdf5(x0=ONES, age=np.full(3, np.nan)), arrays("s.h5"), ["'age'"]),
    "mixed channel counts": (
        two_channel_counts, arrays("a.npy", "b.npy"), ["(1, 4, 4)", "(2, 4, 4)", "same channels"],
    ),
    "missing array file": (nothing, arrays("s.h5"), ["s.h5 is not there"]),
    "array file of another kind": (raw("s.mat", b"x"), arrays("s.mat"), ["s.mat", ".h5"]),
    "no array file": (nothing, arrays(), ["no file came"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_it_is_one_line_that_says_what_is_wrong(tmp_path, name):
    make, use, fragments = CASES[name]
    make(tmp_path)
    with pytest.raises((InvalidInputError, UsageError)) as caught:
        use(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    assert any(mark in message for mark in (";", " needed"))  # and what to do


def test_a_file_that_may_not_be_read_is_skipped(tmp_path):
    good(tmp_path)
    nifti(tmp_path / "locked.nii.gz").chmod(0)
    if os.access(tmp_path / "locked.nii.gz", os.R_OK):
        pytest.skip("this user may read everything")
    for cache_dir in (None, tmp_path / "cache"):
        source = NiftiVolumes(tmp_path, cache_dir=cache_dir)
        assert [(p.name, "ermission" in why) for p, why in source.skipped] == [
            ("locked.nii.gz", True)
        ]


@pytest.mark.parametrize("cached", [False, True])
def test_a_read_that_fails_is_skipped(tmp_path, cached, monkeypatch):
    from pathlib import Path

    good(tmp_path)
    locked = nifti(tmp_path / "locked.nii.gz")
    real = Path.stat

    def stat(self, **options):
        if self == locked and os.environ.get("MEDSCI_TEST_LOCK"):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    cases = list_cases(tmp_path)
    monkeypatch.setenv("MEDSCI_TEST_LOCK", "1")
    monkeypatch.setattr(Path, "stat", stat)
    source = NiftiVolumes(cases, cache_dir=tmp_path / "cache" if cached else None)
    assert [(p.name, "Permission denied" in why) for p, why in source.skipped] == [
        ("locked.nii.gz", True)
    ]


def test_a_header_that_lies_about_its_extent_takes_no_memory(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    raw_bytes = header.binaryblock + bytes(4 + 1000)
    (tmp_path / "a.nii").write_bytes(raw_bytes)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw_bytes))
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(UnreadableError, match="cut short: its header claims 131072"):
            Preparation().read(tmp_path / name)


def test_a_voxel_size_that_lies_makes_no_huge_array(tmp_path):
    path = tmp_path / "a.nii"
    for size_mm, word in ((500.0, "voxels when resampled"), (1e-9, "cannot be resampled")):
        nib.save(nib.Nifti1Image(BLOCK, np.diag([size_mm] * 3 + [1.0])), path)
        with pytest.raises(UnreadableError, match=word):
            Preparation(voxel_size_mm=(1, 1, 1)).read(path)


def attempt(path):
    try:
        return Preparation(voxel_size_mm=(2, 2, 2), size=(6, 6, 6)).read(path)
    except UnreadableError:
        return None


def test_files_with_flipped_bytes_are_read_or_refused(tmp_path):
    """Whatever a byte of the header becomes, the file gives finite numbers or a reason."""
    whole = bytearray(nifti(tmp_path / "a.nii").read_bytes())
    packed = bytearray(nifti(tmp_path / "a.nii.gz").read_bytes())
    generator = np.random.default_rng(3)
    read = refused = 0
    for name, source, reach in (("b.nii", whole, 352), ("b.nii.gz", packed, len(packed))):
        for _ in range(250):
            data = bytearray(source)
            for place in generator.integers(0, reach, size=generator.integers(1, 4)):
                data[place] = generator.integers(0, 256)
            (tmp_path / name).write_bytes(data)
            values = attempt(tmp_path / name)
            read += values is not None
            refused += values is None
            assert values is None or (np.isfinite(values).all() and values.shape == (6, 6, 6))
    assert read > 50
    assert refused > 50
