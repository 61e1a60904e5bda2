"""Matrices on disk: found by their geometry, made again where a file is not whole."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import medsci.operators.projector_cache as cache
from medsci.errors import UsageError
from medsci.imaging.beam import FanBeam, ImageGrid, ParallelBeam
from medsci.operators.joseph import joseph_matrix
from medsci.operators.projector import projector

ANGLES = np.arange(6) * math.pi / 6
BEAM = ParallelBeam(ANGLES, 31, 0.9, 0.3)
FAN = FanBeam(ANGLES, 31, 1.6, 60.0, 40.0, 0.3)
GRID = ImageGrid(20, 22, 1.2, 0.8)


def get(folder, beam=BEAM, dtype=np.float32):
    return cache.cached_matrices(beam, GRID, dtype=dtype, folder=folder)


def same(pair, other) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(pair, other, strict=True)
        for name in ("indptr", "indices", "data")
    )


@pytest.fixture
def unbuilt(monkeypatch):
    """Make building an error, so that only the file can answer."""

    def build(*args, **options):
        raise AssertionError("the matrix was built again")

    return lambda: monkeypatch.setattr(cache, "joseph_matrix", build)


@pytest.mark.parametrize("beam", [BEAM, FAN])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_second_time_comes_from_the_file(tmp_path, unbuilt, beam, dtype):
    first = get(tmp_path, beam, dtype)
    unbuilt()
    assert same(get(tmp_path, beam, dtype), first)
    assert same(first, joseph_matrix(beam, GRID, dtype=dtype))
    with pytest.raises(AssertionError, match="built again"):
        get(tmp_path, beam.subset([0, 1]), dtype)


def test_projector_uses_it(tmp_path, unbuilt):
    x = torch.rand(2, 20, 22)
    first = projector(BEAM, GRID, cache_dir=tmp_path)(x)
    unbuilt()
    assert torch.equal(projector(BEAM, GRID, cache_dir=str(tmp_path))(x), first)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]  # nothing half-written is left


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "empty":
        content.clear()
    elif how == "truncated":
        del content[len(content) // 2 :]
    elif how == "garbage":
        content[:] = b"not a matrix at all"
    elif how == "one bit":
        content[len(content) // 2] ^= 1
    elif how == "pickle":
        content[:] = b"\x80\x04}\x94\x8c\x06indptr\x94K\x01s."  # {"indptr": 1}
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["empty", "truncated", "garbage", "one bit", "pickle"])
def test_a_damaged_file_is_made_again(tmp_path, unbuilt, how):
    first = get(tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path, how)
    assert same(get(tmp_path), first)
    unbuilt()
    assert same(get(tmp_path), first)  # and the file is whole again


@pytest.mark.parametrize("name", ["indptr", "indices", "data", "checksum"])
@pytest.mark.parametrize("how", ["other", "missing", "objects"])
def test_a_whole_file_with_wrong_content_is_made_again(tmp_path, name, how):
    first = get(tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    if how == "other":
        arrays[name] = arrays[name].copy()
        arrays[name][1] += 1
    elif how == "missing":
        del arrays[name]
    else:
        arrays[name] = np.array([{"a": 1}], dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    assert same(get(tmp_path), first)


def test_the_hash_sees_everything_that_changes_the_weights(monkeypatch):
    hashes = {cache.geometry_hash(FAN, GRID, dtype=np.float32)}
    turned = ANGLES.copy()
    turned[2] += 1e-12
    beams = [dataclasses.replace(FAN, angles=turned), dataclasses.replace(FAN, curved=True), BEAM]
    for name in ("n_bins", "bin_mm", "source_mm", "detector_mm", "offset_bins"):
        beams.append(dataclasses.replace(FAN, **{name: getattr(FAN, name) + 1}))
    hashes |= {cache.geometry_hash(beam, GRID, dtype=np.float32) for beam in beams}
    grids = [
        dataclasses.replace(GRID, **{field.name: getattr(GRID, field.name) + 1})
        for field in dataclasses.fields(GRID)
    ]
    hashes |= {cache.geometry_hash(FAN, grid, dtype=np.float32) for grid in grids}
    hashes.add(cache.geometry_hash(FAN, GRID, dtype=np.float64))
    monkeypatch.setattr(cache, "WEIGHTS_VERSION", cache.WEIGHTS_VERSION + 1)
    hashes.add(cache.geometry_hash(FAN, GRID, dtype=np.float32))
    assert len(hashes) == 1 + len(beams) + len(grids) + 2
    assert cache.geometry_hash(FAN, GRID, dtype=np.float32) in hashes


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("here")
    with pytest.raises(UsageError, match="choose a folder"):
        get(blocked / "below")
