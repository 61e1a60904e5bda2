"""The cache of prepared arrays, and ready samples: same numbers, nothing trusted, in parallel."""

import logging
import multiprocessing
import os
import pickle

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from medsci.data.arrays import ArraySource
from medsci.data.nifti_patches import NiftiPatches, PatchLaw
from medsci.data.nifti_slices import NiftiSlices
from medsci.data.nifti_volumes import NiftiVolumes
from medsci.data.reading import Preparation
from medsci.data.source import Source
from medsci.errors import InvalidInputError, UsageError

KINDS = {
    "slices": lambda files, **more: NiftiSlices(files, size=(12, 11), **more),
    "volumes": lambda files, **more: NiftiVolumes(files, size=(12, 12, 8), **more),
    "half": lambda files, **more: NiftiVolumes(files, dtype="float16", **more),
    "patches": lambda files, **more: NiftiPatches(
        files, size=(6, 5, 4), law=PatchLaw(0.5, 4), voxel_size_mm=(1.2, 1.0, 1.0), **more
    ),
}


@pytest.fixture
def study(tmp_path):
    generator = np.random.default_rng(1)
    for index in range(3):
        data = np.zeros((12, 14, 10), dtype=np.float32)
        data[2:10, 2:12, 1:9] = generator.uniform(50, 150, (8, 10, 8))
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"v{index}.nii.gz")
    return tmp_path


def numbers(source):
    return torch.stack([source.draw(i, 5 * i) for i in range(source.n_items)])


def entries(study):
    return sorted((study / "cache").glob("*.npy"))


@pytest.fixture
def no_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was prepared again")

    def forbid():
        monkeypatch.setattr(Preparation, "read", refuse)

    return forbid


@pytest.mark.parametrize("kind", list(KINDS))
def test_numbers_with_and_without_the_cache_are_bit_identical(study, kind, no_reading):
    plain = numbers(KINDS[kind](study))
    assert torch.equal(numbers(KINDS[kind](study, cache_dir=study / "cache")), plain)
    assert len(entries(study)) == 3
    no_reading()
    assert torch.equal(numbers(KINDS[kind](study, cache_dir=study / "cache")), plain)


def test_the_cache_leaves_no_voxels_in_memory_and_no_partial_file(study):
    source = NiftiVolumes(study, cache_dir=study / "cache")
    assert not any(isinstance(a, np.ndarray) for a in source._prepared._arrays)
    assert isinstance(source._prepared.load(0), np.memmap)
    assert not source._prepared.load(0).flags.writeable
    assert not list((study / "cache").glob(".partial*"))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-300])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _empty(path):
    path.write_bytes(b"")


def _pickle(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _plain(path):
    np.save(path, np.zeros((12, 14, 10), dtype=np.float32))


def _remove(path):
    path.unlink()


DAMAGES = [_cut, _flip, _empty, _pickle, _plain, _remove]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("when", ["before the start", "while running"])
def test_damaged_entries_are_built_again(study, damage, when):
    good = numbers(NiftiVolumes(study, cache_dir=study / "cache"))
    before = [path.read_bytes() for path in entries(study)]
    source = NiftiVolumes(study, cache_dir=study / "cache")
    for path in entries(study):
        damage(path)
    if when == "before the start":
        source = NiftiVolumes(study, cache_dir=study / "cache")
    assert torch.equal(numbers(source), good)
    assert [path.read_bytes() for path in entries(study)] == before


def test_a_changed_file_or_setting_never_meets_an_old_entry(study):
    numbers(NiftiVolumes(study, cache_dir=study / "cache"))
    data = np.ones((12, 14, 10), dtype=np.float32)
    data[0] = 7.0
    nib.save(nib.Nifti1Image(data, np.eye(4)), study / "v1.nii.gz")
    os.utime(study / "v1.nii.gz", (0, 0))
    for options in ({}, {"intensity": "minmax"}, {"size": (8, 8, 8)}, {"dtype": "float16"}):
        cached = numbers(NiftiVolumes(study, cache_dir=study / "cache", **options))
        assert torch.equal(cached, numbers(NiftiVolumes(study, **options)))
    assert len(entries(study)) == 3 + 1 + 3 * 3


def test_patches_of_another_size_share_the_entries(study, no_reading):
    NiftiPatches(study, size=(4, 4, 4), cache_dir=study / "cache")
    no_reading()
    NiftiPatches(study, size=(9, 9), cache_dir=study / "cache")
    with pytest.raises(InvalidInputError, match="smaller than the patch size"):
        NiftiPatches(study, size=(13, 4, 4), cache_dir=study / "cache")


def test_files_that_cannot_be_read_are_skipped_alike(study, caplog):
    (study / "bad.nii.gz").write_bytes((study / "v0.nii.gz").read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        cached = NiftiVolumes(study, cache_dir=study / "cache")
    assert caplog.text.count("1 of 4 volumes skipped") == 1
    plain = NiftiVolumes(study)
    assert cached.skipped == plain.skipped
    assert [path.name for path, _ in plain.skipped] == ["bad.nii.gz"]
    assert torch.equal(numbers(cached), numbers(plain))


def _start(folder, queue):
    torch.set_num_threads(1)
    source = NiftiVolumes(folder, cache_dir=folder / "cache")
    queue.put([source.draw(i, 3).numpy() for i in range(source.n_items)])


def test_processes_that_start_at_once_share_one_folder(study):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_start, args=(study, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    expected = [NiftiVolumes(study).draw(i, 3).numpy() for i in range(3)]
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert len(list((study / "cache").iterdir())) == 3


class _Draws(Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return self.source.n_items

    def __getitem__(self, item):
        return self.source.draw(item, 2)


def samples(path, n=6, **more):
    x0 = np.random.default_rng(0).standard_normal((n, 2, 4, 5)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["x0"] = x0
        for name, values in more.items():
            file[name] = values
    return x0


@pytest.mark.parametrize("what", ["volumes", "arrays"])
def test_forked_loaders_draw_the_same(study, what):
    if what == "volumes":
        source = NiftiVolumes(study, cache_dir=study / "cache")
    else:
        samples(study / "s.h5")
        source = ArraySource(study / "s.h5")
    expected = torch.stack([source.draw(i, 2) for i in range(source.n_items)])  # handles are open
    loader = DataLoader(
        _Draws(source), batch_size=1, num_workers=2, multiprocessing_context="fork",
        generator=torch.Generator(),
    )  # fmt: skip
    assert torch.equal(torch.cat(list(loader)), expected)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(study, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medsci.data.cache.Path.replace", full)
    with pytest.raises(UsageError, match=r"No space left on device.*free space"):
        NiftiVolumes(study, cache_dir=study / "cache")
    assert list((study / "cache").iterdir()) == []


def test_arrays_give_samples_pairs_and_conditions(tmp_path):
    noise = np.random.default_rng(1).standard_normal((6, 2, 4, 5)).astype(np.float32)
    x0 = samples(
        tmp_path / "s.h5", noise=noise, age=np.arange(6) + 0.5, site=list("baabca"),
        count=np.arange(6), other=np.zeros(3),
    )  # fmt: skip
    source = ArraySource(tmp_path / "s.h5")
    assert isinstance(source, Source)
    assert (source.n_items, source.shape) == (6, (2, 4, 5))
    assert source.vocabulary == {"site": ("a", "b", "c")}
    drawn = source.draw(4, 0)
    assert set(drawn) == {"x0", "noise", "age", "site", "count"}
    np.testing.assert_array_equal(drawn["x0"], x0[4])
    np.testing.assert_array_equal(drawn["noise"], noise[4])
    assert drawn["age"] == torch.tensor(4.5)
    assert drawn["site"] == torch.tensor(2)
    assert (drawn["age"].dtype, drawn["count"].dtype) == (torch.float32, torch.int64)
    assert set(ArraySource(tmp_path / "s.h5", conditions=("age",)).draw(0, 0)) == {
        "x0", "noise", "age",
    }  # fmt: skip


def test_npy_and_several_files_are_joined(tmp_path):
    x0 = samples(tmp_path / "s.h5")
    np.save(tmp_path / "t.npy", x0[:2] + 1)
    source = ArraySource([tmp_path / "s.h5", tmp_path / "t.npy"])
    assert source.n_items == 8
    np.testing.assert_array_equal(source.draw(5, 0), x0[5])
    np.testing.assert_array_equal(source.draw(7, 0), x0[1] + 1)
    with pytest.raises(IndexError, match="item 8 came"):
        source.draw(8, 0)


def test_an_open_source_can_be_sent_to_another_process(tmp_path):
    samples(tmp_path / "s.h5")
    source = ArraySource(tmp_path / "s.h5")
    drawn = source.draw(2, 0)
    assert torch.equal(pickle.loads(pickle.dumps(source)).draw(2, 0), drawn)


def test_arrays_split_by_rows_or_by_subject(tmp_path):
    x0 = samples(tmp_path / "s.h5", n=10)
    train, held = (
        ArraySource(tmp_path / "s.h5", split=s, validation_fraction=0.2)
        for s in ("train", "validation")
    )
    assert (train.n_items, held.n_items) == (8, 2)
    np.testing.assert_array_equal(held.draw(0, 0), x0[8])
    people = [f"p{i // 2}" for i in range(10)]
    samples(tmp_path / "p.h5", n=10, subject=people, number=np.arange(10))
    sides = [
        ArraySource(tmp_path / "p.h5", split=s, validation_fraction=0.4)
        for s in ("train", "validation")
    ]
    rows = [[int(s.draw(i, 0)["number"]) for i in range(s.n_items)] for s in sides]
    assert sorted(rows[0] + rows[1]) == list(range(10))
    assert not {people[r] for r in rows[0]} & {people[r] for r in rows[1]}
    with pytest.raises(UsageError, match="set validation_fraction"):
        ArraySource(tmp_path / "p.h5", split="train")
