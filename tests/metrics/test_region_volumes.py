"""Region volumes of a label map: closed forms on solids, and what must not count."""

import numpy as np
import pytest

from medsci.metrics.volumes import REGIONS, region_volumes


def _brain(voxel_mm: float, *, ventricle: float = 14.0, fissure: bool = True) -> np.ndarray:
    """A ball of white matter in grey in fluid, with a ventricle and a cleft from the surface."""
    n = round(180.0 / voxel_mm)
    line = voxel_mm * (np.arange(n) - 0.5 * (n - 1))
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.zeros((n, n, n), dtype=np.uint8)
    for outer, label in ((75.0, 1), (70.0, 2), (55.0, 3)):
        labels[radius < outer] = label
    if fissure:
        labels[(np.abs(x) < 4.0) & (z > 50.0) & (radius < 75.0)] = 1
    labels[radius < ventricle] = 1
    return labels


def _ball(radius: float) -> float:
    return 4.0 / 3.0 * np.pi * radius**3 / 1000.0


@pytest.mark.parametrize("voxel_mm", [2.0, 4.0])
def test_volumes_are_those_of_the_solids(voxel_mm: float) -> None:
    found = region_volumes(_brain(voxel_mm, fissure=False), voxel_mm)
    assert tuple(found) == REGIONS
    assert found["brain"] == pytest.approx(_ball(75.0), rel=0.02)
    assert found["grey"] == pytest.approx(_ball(70.0) - _ball(55.0), rel=0.03)
    assert found["white"] == pytest.approx(_ball(55.0) - _ball(14.0), rel=0.03)
    assert found["brain"] == pytest.approx(found["fluid"] + found["grey"] + found["white"])
    assert found["ventricles"] == pytest.approx(_ball(14.0), rel=0.12)


def test_fluid_of_the_surface_is_no_ventricle() -> None:
    found = region_volumes(_brain(2.0), 2.0)
    assert found["ventricles"] == pytest.approx(_ball(14.0), rel=0.12)
    assert found["fluid"] > 10.0 * found["ventricles"]  # what a count of all fluid would give
    assert region_volumes(_brain(2.0, ventricle=0.0), 2.0)["ventricles"] == 0.0


def test_voxels_may_be_oblong_and_a_brain_may_be_cut_or_missing() -> None:
    labels = _brain(2.0)
    whole = region_volumes(labels, 2.0)
    thin = region_volumes(np.repeat(labels, 2, axis=2), (2.0, 2.0, 1.0))
    assert thin["brain"] == pytest.approx(whole["brain"])
    assert thin["ventricles"] == pytest.approx(whole["ventricles"], rel=0.1)
    cut = region_volumes(labels[:, :, labels.shape[2] // 4 :], 2.0)
    assert 0.5 * whole["ventricles"] < cut["ventricles"] < 2.0 * whole["ventricles"]
    assert set(region_volumes(np.zeros((4, 4, 4), dtype=np.uint8), 4.0).values()) == {0.0}


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        region_volumes(np.zeros((3, 3), dtype=np.uint8), 1.0)
    with pytest.raises(ValueError, match="positive sides"):
        region_volumes(np.zeros((3, 3, 3), dtype=np.uint8), 0.0)
