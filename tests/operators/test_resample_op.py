"""A grid seen on another: exact adjoint, exact ramps, places in the world, thick slices."""

import numpy as np
import pytest
import torch
from contracts.operators import assert_adjoint, assert_gradient, assert_norm, assert_normal, random

from medsci.errors import InvalidInputError, UsageError
from medsci.operators.channel import ChannelOp
from medsci.operators.downsample import FWHM_PER_SIGMA, DownsampleOp
from medsci.operators.resample import ResampleOp

F64 = torch.float64
SOURCE = np.array([[4.0, 0, 0, -22], [0, 4, 0, -26], [0, 0, 4, -30], [0, 0, 0, 1]])
SHAPE = (12, 14, 16)


def turned(degrees: float, *, step=(4.0, 4.0, 8.0), flips=(1, 1, 1), centre=(0.0, 0.0, 0.0)):
    """Return an affine turned about two axes; its voxel (4, 3.5, 2) lies at the centre."""
    a, b = np.deg2rad([degrees, 0.6 * degrees])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(np.array(step) * flips)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ np.array([4.0, 3.5, 2.0])
    return affine


TARGET_SHAPE = (9, 8, 5)
FRAMES = {
    "aligned": turned(0.0),
    "flipped": turned(0.0, flips=(-1, 1, -1), centre=(1.3, -0.7, 2.1)),
    "oblique": turned(17.0),
    "oblique, flipped": turned(-33.0, flips=(-1, -1, 1), step=(3.1, 5.0, 6.3)),
    "permuted": turned(0.0)[:, [1, 2, 0, 3]],
}


def between(target=None, shape=TARGET_SHAPE, **options) -> ResampleOp:
    target = FRAMES["oblique"] if target is None else target
    options = {"dtype": F64} | options
    return ResampleOp.between(SOURCE, SHAPE, target_affine=target, target_shape=shape, **options)


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the position of every voxel in mm, `(3, i, j, k)`."""
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("profile", ["gaussian", "box"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_contract(frame, profile, dtype):
    op = between(FRAMES[frame], profile=profile, dtype=dtype)
    x, y = random(2, *SHAPE, dtype=dtype), random(2, *TARGET_SHAPE, dtype=dtype, seed=1)
    assert_adjoint(op, x, y)
    tol = 1e-12 if dtype == F64 else 1e-5
    assert_gradient(op, x, y, tol=tol)
    assert_normal(op, x, tol=tol)


def test_norm():
    op = ResampleOp.between(
        np.diag([1.0, 1, 1, 1]), (4, 5, 4), target_affine=np.diag([1.0, 1, 3, 1]),
        target_shape=(4, 4, 2), dtype=F64,
    )  # fmt: skip
    assert_norm(op, torch.ones(4, 5, 4, dtype=F64), tol=1e-5)


def test_a_channel_is_taken_and_put_back():
    pick = ChannelOp(1, n_channels=3)
    x, y = random(2, 3, *SHAPE, dtype=F64), random(2, *TARGET_SHAPE, dtype=F64, seed=1)
    assert_adjoint(pick, x, random(2, *SHAPE, dtype=F64, seed=2))
    assert_adjoint(between() @ pick, x, y)
    assert torch.equal(pick(x), x[:, 1])
    assert float(pick.adjoint(pick(x))[:, [0, 2]].abs().max()) == 0.0
    with pytest.raises(UsageError, match="channel 3 of 3"):
        ChannelOp(3, n_channels=3)
    with pytest.raises(InvalidInputError, match="second axis"):
        pick(x[:, :2])


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("profile", ["gaussian", "box"])
def test_constants_stay_and_ramps_are_exact_inside(frame, profile):
    """A ramp in world millimetres is itself at the new voxels' positions, flips included."""
    op = between(FRAMES[frame], profile=profile)
    inside = op.coverage().numpy() > 1.0 - 1e-12
    assert inside.sum() > 30
    slope = np.array([0.31, -0.7, 0.45])
    ramp = np.tensordot(slope, world(SOURCE, SHAPE), 1) + 5.0
    seen = op(torch.from_numpy(ramp)).numpy()
    expected = np.tensordot(slope, world(FRAMES[frame], TARGET_SHAPE), 1) + 5.0
    assert np.abs(seen - expected)[inside].max() < 1e-11
    mirrored = FRAMES[frame] @ np.diag([-1.0, 1, 1, 1])  # control: the wrong affine
    wrong = np.tensordot(slope, world(mirrored, TARGET_SHAPE), 1) + 5.0
    assert np.abs(seen - wrong)[inside].max() > 1.0


def test_nothing_is_seen_outside_and_half_at_the_edge():
    far = SOURCE.copy()
    far[:3, 3] += 500.0
    assert between(far, SHAPE).values.numel() == 0
    assert float(between(far, SHAPE)(torch.ones(SHAPE, dtype=F64)).abs().max()) == 0.0
    half = SOURCE.copy()
    half[0, 3] -= 2.0  # the first voxels lie half a step before the first of the source
    cover = between(half, SHAPE).coverage()
    assert float(cover[0].max()) == pytest.approx(0.5)
    assert float(cover[1:].min()) == pytest.approx(1.0)


@pytest.mark.parametrize("frame", FRAMES)
def test_agrees_with_an_independent_resampler(frame):
    """SimpleITK's linear interpolation, whose grids are LPS, knows nothing of ours."""
    import SimpleITK

    def as_image(array: np.ndarray, affine: np.ndarray):
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
        steps = np.linalg.norm(lps[:, :3], axis=0)
        image.SetSpacing(steps.tolist())
        image.SetDirection((lps[:, :3] / steps).ravel().tolist())
        image.SetOrigin(lps[:, 3].tolist())
        return image

    x = random(*SHAPE, dtype=F64)
    target = FRAMES[frame]
    moved = SimpleITK.Resample(
        as_image(x.numpy(), SOURCE), as_image(np.zeros(TARGET_SHAPE), target),
        SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0,
    )  # fmt: skip
    peer = SimpleITK.GetArrayFromImage(moved).T
    op = between(target, fwhm_mm=(1.0, 1.0, 1.0))  # thinner than a source voxel: points
    inside = op.coverage().numpy() > 1.0 - 1e-12
    assert np.abs(op(x).numpy() - peer)[inside].max() < 1e-10
    thick = between(target, fwhm_mm=(1.0, 1.0, 16.0))(x).numpy()
    assert np.abs(thick - peer)[inside].max() > 0.1


def test_landmarks_stay_where_they_are():
    """The centre of mass of a blob, in mm, is the same on every grid that holds it."""
    point = np.array([3.0, -1.5, 2.0])
    gap = world(SOURCE, SHAPE) - point[:, None, None, None]
    blob = torch.from_numpy(np.exp(-(gap**2).sum(0) / (2 * 5.0**2)))
    for frame, target in FRAMES.items():
        wide = target.copy()
        wide[:3, 3] -= target[:3, :3] @ np.array([6.0, 6.0, 4.0])
        shape = (21, 20, 13)
        seen = between(wide, shape)(blob).numpy()
        centre = (world(wide, shape) * seen).sum((1, 2, 3)) / seen.sum()
        assert np.abs(centre - point).max() < 0.05, frame
        mirrored = world(wide @ np.diag([-1.0, 1, 1, 1]), shape)  # control
        assert np.abs((mirrored * seen).sum((1, 2, 3)) / seen.sum() - point).max() > 5.0, frame


def rows_along_k(op: ResampleOp, k: int) -> np.ndarray:
    """Return the weights of one target voxel as a function of the source slice."""
    y = torch.zeros(op.target_shape, dtype=F64)
    y[(*tuple(n // 2 for n in op.target_shape[:2]), k)] = 1.0
    return op.adjoint(y).sum((0, 1)).numpy()


@pytest.mark.parametrize("width", [7.0, 12.0, 20.0])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_a_thick_slice_is_the_integral_over_its_profile(width, shift):
    """Sum, centre and variance of the weights, and the weights of the published rule on a grid."""
    fine, n = np.diag([4.0, 4, 4, 1]), 41
    target = np.diag([4.0, 4, 12, 1])
    target[2, 3] = shift
    op = ResampleOp.between(
        fine, (3, 3, n), target_affine=target, target_shape=(3, 3, 14),
        fwhm_mm=(None, None, width), dtype=F64,
    )  # fmt: skip
    weights, place = rows_along_k(op, 7), 4.0 * np.arange(n)
    variance = (width**2 - 4.0**2) / FWHM_PER_SIGMA**2
    mean = float(weights @ place)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx(7 * 12.0 + shift, abs=1e-10)
    assert weights @ (place - mean) ** 2 == pytest.approx(variance, rel=0.03, abs=0.5)
    if width > 10.0:
        rule = np.exp(-0.5 * (place - mean) ** 2 / variance)
        assert np.abs(weights - rule / rule.sum()).max() < 0.006
        wrong = np.exp(-0.5 * (place - mean) ** 2 / (variance + (4 / FWHM_PER_SIGMA) ** 2))
        assert np.abs(weights - wrong / wrong.sum()).max() > 0.006 * (12.0 / width) ** 3


def test_a_box_of_whole_voxels_is_their_mean():
    target = np.diag([4.0, 4.0, 12.0, 1.0])
    target[2, 3] = 4.0
    op = ResampleOp.between(
        np.diag([4.0, 4, 4, 1]), (5, 4, 12), target_affine=target, target_shape=(5, 4, 4),
        profile="box", dtype=F64,
    )  # fmt: skip
    x = random(5, 4, 12, dtype=F64)
    torch.testing.assert_close(op(x), DownsampleOp((3,), (-1,))(x))


def test_says_what_is_wrong():
    with pytest.raises(UsageError, match="source affine"):
        ResampleOp.between(np.zeros((4, 4)), SHAPE, target_affine=SOURCE, target_shape=SHAPE)
    with pytest.raises(UsageError, match="three sizes"):
        between(SOURCE, (3, 3))
    with pytest.raises(UsageError, match="one width in mm"):
        between(SOURCE, SHAPE, fwhm_mm=(1.0, 2.0))
    with pytest.raises(UsageError, match="positive width"):
        between(SOURCE, SHAPE, fwhm_mm=(None, None, -1.0))
    with pytest.raises(InvalidInputError, match="built for"):
        between()(torch.zeros(3, 3, 3, dtype=F64))
