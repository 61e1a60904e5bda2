"""Simulated head volumes: determinism, registration, ranges, covariates, frame, splits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from medsci.data import head_pool, head_volumes
from medsci.data.head_pool import PooledHead
from medsci.data.head_volumes import CHANNELS, COVARIATES, SimulatedHeadVolumes, blurred_to
from medsci.data.source import Source
from medsci.data.whole_head import WHOLE_LABELS, simulate_whole_head

FLUID, GREY, WHITE = (WHOLE_LABELS.index(name) for name in ("fluid", "grey", "white"))
SIZE, VOXEL = (24, 28, 24), 8.0


def _ball_head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nested balls 13 mm off the centre of their grid: as quick to make as a head is slow."""
    shape = (200, 240, 210)
    axes = [np.arange(n) - 0.5 * (n - 1) - 13.0 for n in shape]
    radius = np.sqrt(sum(np.square(x) for x in np.ix_(*axes)))
    labels = np.zeros(shape, dtype=np.uint8)
    for outer, name in ((88.0, "skin"), (82.0, "bone"), (75.0, "fluid"), (72.0, "grey")):
        labels[radius < outer] = WHOLE_LABELS.index(name)
    labels[radius < 55.0 + seed % 7] = WHITE
    labels[radius < 15.0] = FLUID
    t1 = np.array([0, 20, 130, 200], dtype=np.uint8)[np.where(labels <= WHITE, labels, 0)]
    return labels, t1


@pytest.fixture
def balls(monkeypatch: pytest.MonkeyPatch) -> SimulatedHeadVolumes:
    monkeypatch.setattr(head_pool, "simulate_whole_head", _ball_head)
    return SimulatedHeadVolumes(n_heads=2, size=SIZE, voxel_mm=VOXEL)


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    return simulate_whole_head(5)


@pytest.fixture(scope="module")
def heads(real) -> SimulatedHeadVolumes:
    source = SimulatedHeadVolumes(n_heads=1)
    source._pool[0] = head_pool.tissue_maps(*real, field_mm=(192, 224, 192), voxel_mm=4.0)
    return source


def _covariates(sample: dict[str, Tensor]) -> np.ndarray:
    mean, std = np.array([(entry[2], entry[3]) for entry in COVARIATES]).T
    return sample["covariates"].double().numpy() * std + mean


def test_draw_has_the_shapes_and_ranges_it_promises(heads: SimulatedHeadVolumes) -> None:
    assert isinstance(heads, Source)
    for seed in range(3):
        sample = heads.draw(0, seed)
        x0 = sample["x0"]
        assert x0.shape == (len(CHANNELS), 48, 56, 48)
        assert x0.dtype == sample["covariates"].dtype == torch.float32
        assert float(x0[0].min()) == -1.0
        assert float(x0[0].max()) == 1.0
        assert bool((x0[:, 0, 0, -1] == -1.0).all())  # air beside the head is exactly -1
        fractions = 0.5 * (x0[1:] + 1.0)
        assert float(fractions.min()) >= 0.0
        assert float(fractions.sum(0).max()) <= 1.01
        assert 0.1 < float((x0[0] > -0.9).float().mean()) < 0.8


def test_item_and_seed_determine_the_draw(balls: SimulatedHeadVolumes) -> None:
    again = SimulatedHeadVolumes(n_heads=2, size=SIZE, voxel_mm=VOXEL)
    for key in ("x0", "covariates"):
        assert torch.equal(balls.draw(1, 7)[key], again.draw(1, 7)[key])
        assert not torch.allclose(balls.draw(1, 7)[key], balls.draw(1, 8)[key])
    assert not torch.allclose(balls.draw(1, 7)["x0"], balls.draw(0, 7)["x0"])
    with pytest.raises(IndexError, match="items 0 to 1"):
        balls.draw(2, 0)


def _explained(x0: Tensor, move: int) -> float:
    """Return how much of T1 inside the brain the fractions, moved by some voxels, explain."""
    fractions = (0.5 * (x0[1:] + 1.0)).numpy()
    inside = fractions.sum(0) > 0.9
    shifted = np.roll(fractions, move, axis=1)
    table = np.stack([*(part[inside] for part in shifted), np.ones(inside.sum())], axis=1)
    t1 = x0[0].numpy()[inside]
    rest = t1 - table @ np.linalg.lstsq(table, t1, rcond=None)[0]
    return 1.0 - float(rest.var() / t1.var())


def test_image_and_fractions_are_registered_and_moved_ones_are_not(heads) -> None:
    found = np.array(
        [[_explained(heads.draw(0, s)["x0"], move) for move in (0, 1)] for s in (1, 4)]
    )
    assert found[:, 0].min() > 0.5
    assert (found[:, 1] < 0.6 * found[:, 0]).all()


def test_covariates_are_the_volumes_of_the_fractions(heads: SimulatedHeadVolumes) -> None:
    sample = heads.draw(0, 3)
    ml = (0.5 * (sample["x0"][1:].double() + 1.0)).sum(dim=(1, 2, 3)).numpy() * 4.0**3 / 1000.0
    expected = [ml.sum(), *(ml / ml.sum())]
    np.testing.assert_allclose(_covariates(sample), expected, rtol=2e-4)
    assert _covariates(sample)[1:].sum() == pytest.approx(1.0, abs=1e-5)


def test_volumes_do_not_depend_on_the_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_pool, "simulate_whole_head", _ball_head)
    found = [
        _covariates(
            SimulatedHeadVolumes(n_heads=1, size=size, voxel_mm=voxel).draw(0, 2)  # same moves
        )
        for voxel, size in ((4.0, (48, 56, 48)), (8.0, (24, 28, 24)), (6.0, (32, 37, 32)))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0.03)


def test_frame_is_centred_on_the_brain_up_to_the_shift(balls: SimulatedHeadVolumes) -> None:
    offsets = []
    for seed in range(12):
        x0 = balls.draw(0, seed)["x0"]
        brain = (0.5 * (x0[1:] + 1.0)).sum(0).numpy()
        centre = [
            np.average(np.arange(n), weights=brain.sum(tuple({0, 1, 2} - {a}))) - 0.5 * (n - 1)
            for a, n in enumerate(SIZE)
        ]
        offsets.append(VOXEL * np.array(centre))
    assert np.abs(offsets).max() < 5.0 / 1.0 + 3.0  # the shift and what the bend adds
    assert np.abs(np.mean(offsets, axis=0)).max() < 3.0  # 13 mm if the grid's centre were kept
    assert np.std(offsets, axis=0).min() > 1.0


def test_bounding_box_centre_becomes_the_centre_of_the_pool() -> None:
    labels, t1 = _ball_head(0)
    head = head_pool.tissue_maps(labels, t1, field_mm=(192, 224, 192), voxel_mm=4.0)
    brain = head.maps[..., :WHITE].astype(np.float64).sum(-1)
    for axis in range(3):
        profile = brain.sum(tuple({0, 1, 2} - {axis}))
        centre = np.average(np.arange(profile.size), weights=profile) - 0.5 * (profile.size - 1)
        assert abs(centre) * head.spacing_mm < 1.0
    assert brain.sum() / 255.0 * head.spacing_mm**3 == pytest.approx(
        ((labels >= FLUID) & (labels <= WHITE)).sum(), rel=1e-3
    )


def test_look_up_is_linear_between_voxels_and_knows_where_the_centre_is() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 16)).astype(np.uint8)
    head = PooledHead(rows, 2.0)
    voxel = np.array([1, 4, 2])
    at = 2.0 * (voxel - 0.5 * (np.array(rows.shape[:3]) - 1.0))
    moves = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 1.5]])
    points = (at + moves).astype(np.float32)
    found = 255.0 * head_pool.look_up(head, points).numpy()
    cell = rows[1:3, 4:6, 2:4, : head_pool.N_MAPS].astype(np.float64)
    half = cell[:, 0, 0].mean(0)
    bent = np.einsum("b,c,bcm->m", [0.75, 0.25], [0.25, 0.75], cell[0])
    np.testing.assert_allclose(found.T, [cell[0, 0, 0], half, bent], atol=2e-3)
    assert np.abs(found[:, 2] - cell[0].mean((0, 1))).max() > 1.0  # nearest or mean would show


def test_splits_and_seeds_never_share_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, int], set[int]] = {}

    def record(seed: int, **_: object) -> PooledHead:
        current.add(seed)
        return PooledHead(np.zeros((4, 4, 4, 16), dtype=np.uint8), 2.0)

    monkeypatch.setattr(head_volumes, "pool_head", record)
    for split in ("train", "validation"):
        for seed in (0, 1):
            current = seen.setdefault((split, seed), set())
            source = SimulatedHeadVolumes(n_heads=50, seed=seed, split=split)
            for item in range(50):
                source._head(item)
    assert sum(len(s) for s in seen.values()) == len(set().union(*seen.values())) == 200


def test_pool_is_kept_and_read_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_pool, "simulate_whole_head", _ball_head)
    first = SimulatedHeadVolumes(n_heads=1, size=SIZE, voxel_mm=VOXEL, cache_dir=tmp_path)
    drawn = first.draw(0, 1)["x0"]
    monkeypatch.setattr(head_pool, "simulate_whole_head", lambda seed: pytest.fail("made anew"))
    again = SimulatedHeadVolumes(n_heads=1, size=SIZE, voxel_mm=VOXEL, cache_dir=tmp_path)
    assert torch.equal(again.draw(0, 1)["x0"], drawn)


def test_whole_head_has_a_face_a_neck_and_air(real: tuple[np.ndarray, np.ndarray]) -> None:
    labels, t1 = real
    name = {label: labels == index for index, label in enumerate(WHOLE_LABELS)}
    assert all(mask.any() for mask in name.values())
    brain = name["fluid"] | name["grey"] | name["white"]
    assert t1[~brain].max() == 0
    below = ~name["air"][:, :, 8]
    assert 60.0**2 < below.sum() < 170.0**2  # the neck goes on to the end of the grid
    assert not brain[:, :, 8].any()
    assert name["air"][labels.shape[0] // 2, 130:200, 20:60].any()  # airways inside the face


def test_low_resolution_image_has_the_resolution_asked_for(balls: SimulatedHeadVolumes) -> None:
    shape, voxel = (48, 48, 48), 2.0
    line = voxel * (np.arange(48) - 23.5)
    square = sum(np.square(x) for x in np.ix_(line, line, line))
    width = 8.0 / 2.3548
    impulse = torch.from_numpy(np.exp(-0.5 * square / width**2).astype(np.float32))[None]
    blurred = blurred_to(2.0 * impulse - 1.0, voxel_mm=voxel, resolution_mm=10.0)
    assert blurred.shape == (1, *shape)
    profile = 0.5 * (blurred[0, :, 24, 24].double().numpy() + 1.0)
    measured = 2.3548 * np.sqrt(np.average(line**2, weights=profile))
    assert measured == pytest.approx(np.sqrt(8.0**2 + 10.0**2 - voxel**2), rel=0.02)
    source = SimulatedHeadVolumes(n_heads=1, size=SIZE, voxel_mm=VOXEL, low_resolution_mm=16)
    sample = source.draw(0, 0)
    assert sample["image"].shape == (1, *SIZE)
    assert torch.equal(sample["x0"], balls.draw(0, 0)["x0"])  # the option adds, it changes nothing
    steps = [v.diff(dim=1).abs().mean() for v in (sample["x0"][:1], sample["image"])]
    assert float(steps[1]) < 0.8 * float(steps[0])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        SimulatedHeadVolumes(voxel_mm=0.5)
    with pytest.raises(ValueError, match="coarser than the voxels"):
        SimulatedHeadVolumes(low_resolution_mm=4.0)


@pytest.mark.slow
def test_covariates_are_standardised_over_many_heads(tmp_path) -> None:
    source = SimulatedHeadVolumes(n_heads=16, cache_dir=tmp_path)
    drawn = torch.stack([source.draw(n % 16, n)["covariates"] for n in range(64)]).numpy()
    assert np.abs(drawn.mean(0)).max() < 0.6
    assert 0.6 < drawn.std(0).min() <= drawn.std(0).max() < 1.5
    mean, std, low, high = np.array([entry[2:] for entry in COVARIATES]).T
    values = drawn * std + mean
    assert ((values > low - 0.1 * (high - low)) & (values < high + 0.1 * (high - low))).all()
