"""Wrappers change what they say they change, and nothing else."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from contracts.core import DOUBLE, draw, gaussian16, median_error
from torch import nn
from torch.testing import assert_close

from medsci.core.check import GaussianMixtureOracle, GaussianOracle
from medsci.core.denoise.denoiser import Slicewise as OldPlace
from medsci.core.denoise.tiled import Tiled
from medsci.core.denoise.wrappers import Guided, Shift, Slicewise
from medsci.core.process import Path, convert
from medsci.core.process.path import VarianceExploding, VpLinear
from medsci.core.process.shifted import Centred, MeanReverting, Residual
from medsci.core.solve import Multistep, grid, sample
from medsci.core.steer import Hook
from medsci.core.steer.self_conditioned import SelfConditioned

RF = Path.rectified()


class Conditional:
    """A denoiser that is not linear, depends on its condition, and counts samples per call."""

    def __init__(self, path: Path = RF) -> None:
        self.path = path
        self.sizes: list[int] = []

    def __call__(self, x, t, *, label, offset=0.0):
        self.sizes.append(x.shape[0])
        shape = (-1, *(1,) * (x.ndim - 1))
        t = t.reshape(shape) if isinstance(t, torch.Tensor) else t
        return torch.tanh(x + label.reshape(shape)) * (1.0 - 0.5 * t) + offset


NULL = {"label": torch.zeros(1, dtype=DOUBLE)}
LABELS = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)


def guided(scale, path=RF, **options):
    denoiser = Conditional(path)
    return Guided(denoiser, scale=scale, null=NULL, **options), denoiser


# Guidance


@pytest.mark.parametrize("target", ["eps", "v", "flow", "score", "edm"])
@pytest.mark.parametrize("path", [RF, VpLinear(), VarianceExploding(5.0)], ids=repr)
def test_guiding_x0_is_guiding_every_prediction(path, target):
    x, t, scale = draw(3, 4), 0.6, 3.5
    wrapped, denoiser = guided(scale, path)
    ours = wrapped(x, t, label=LABELS)
    at = {"alpha": float(path.alpha(t)), "sigma": float(path.sigma(t)), "sigma_data": 0.7}
    given, none = (
        convert(denoiser(x, t, label=label), x, source="x0", target=target, **at)
        for label in (LABELS, NULL["label"])
    )
    there = convert(none + scale * (given - none), x, source=target, target="x0", **at)
    assert_close(ours, there, rtol=1e-11, atol=1e-12)
    wrong = convert(given + scale * (given - none), x, source=target, target="x0", **at)
    assert not torch.allclose(ours, wrong, rtol=1e-3)  # the control: the scale counted from zero


def test_one_call_is_two_calls():
    x = draw(3, 4)
    for t in (0.4, torch.tensor([0.9, 0.5, 0.1], dtype=DOUBLE)):
        (together, one), (apart, two) = guided(2.5), guided(2.5, batched=False)
        assert_close(together(x, t, label=LABELS), apart(x, t, label=LABELS), rtol=1e-12, atol=0)
        assert (one.sizes, two.sizes) == ([6], [3, 3])


def test_complex_states_are_guided_too():
    class Turn:
        path = RF

        def __call__(self, x, t, *, label):
            return x * torch.exp(1j * label.to(x.dtype)).reshape(-1, 1)

    x = draw(3, 4, dtype=torch.complex128)
    turn = Turn()
    ours = Guided(turn, scale=2.0, null=NULL)(x, 0.5, label=LABELS)
    c, u = turn(x, 0.5, label=LABELS), turn(x, 0.5, label=NULL["label"])
    assert_close(ours, u + 2.0 * (c - u))


def test_no_guidance_is_the_conditional_call_to_the_bit():
    x = draw(3, 4)
    plain = Conditional()(x, 0.4, label=LABELS)
    for wrapped, denoiser in (guided(1.0), guided(7.0, interval=(2.0, 5.0))):
        assert torch.equal(wrapped(x, 0.4, label=LABELS), plain)  # sigma_hat = 2 / 3
        assert denoiser.sizes == [3]
    wrapped, denoiser = guided(0.0)
    assert torch.equal(wrapped(x, 0.4, label=LABELS), Conditional()(x, 0.4, **NULL))
    assert denoiser.sizes == [3]
    wrapped, denoiser = guided(7.0, interval=(0.5, 5.0))
    assert not torch.allclose(wrapped(x, 0.4, label=LABELS), plain)  # the control: inside


def test_the_interval_holds_its_upper_end_and_saves_evaluations():
    path = VarianceExploding(80.0)
    times = grid.karras(path, 12, sigma_min=0.05, sigma_max=40.0)
    levels = path.sigma(times)
    low, high = float(levels[9]), float(levels[4])
    wrapped, denoiser = guided(3.0, path, interval=(low, high))
    sample(wrapped, (3, 4), solver=Multistep(), grid=times, cond={"label": LABELS}, dtype=DOUBLE)
    assert denoiser.sizes == [3] * 4 + [6] * 5 + [3] * 3  # steps 4 to 8 of 0 to 11
    by_snr, other = guided(
        3.0, path, interval=(-math.log(high) - 1e-9, -math.log(low) - 1e-9), unit="log_snr"
    )
    sample(by_snr, (3, 4), solver=Multistep(), grid=times, cond={"label": LABELS}, dtype=DOUBLE)
    assert other.sizes == denoiser.sizes
    beyond, third = guided(3.0, VarianceExploding(80.0, 0.01), interval=(0.0, 1e6))
    for t in (1e-9, 1.0):
        beyond(draw(3, 4), t, label=LABELS)
    assert third.sizes == [6, 6]  # an end beyond the path cuts nothing off


def test_one_time_per_sample_has_its_own_interval():
    x, times = draw(3, 4), (0.9, 0.5, 0.1)
    wrapped, _ = guided(4.0, interval=(0.5, 5.0))  # on between t = 1 / 3 and 5 / 6
    each = [wrapped(x[i : i + 1], t, label=LABELS[i : i + 1]) for i, t in enumerate(times)]
    together = wrapped(x, torch.tensor(times, dtype=DOUBLE), label=LABELS)
    assert_close(together, torch.cat(each), rtol=1e-12, atol=1e-14)


def test_guidance_moves_samples_into_their_class_and_one_keeps_its_law():
    """Two wide classes on a line; the share of samples nearer to the own class is known."""
    means, path = torch.tensor([[-0.7], [0.7]], dtype=DOUBLE), VpLinear()

    class TwoClasses:
        def __init__(self):
            self.path = path
            one = torch.ones(1, dtype=DOUBLE)
            self.classes = [GaussianOracle(path, m, variances=one) for m in means]
            unit = torch.ones(2, 1, 1, dtype=DOUBLE)
            self.all = GaussianMixtureOracle(path, torch.ones(2), means=means, covariances=unit)

        def __call__(self, x, t, *, label):
            given = torch.where(label[:, None] == 0, self.classes[0](x, t), self.classes[1](x, t))
            return torch.where(label[:, None] < 0, self.all(x, t), given)

    label = torch.arange(2000) % 2
    null = {"label": torch.tensor([-1])}

    def own_side(scale, given=label):
        x = sample(
            Guided(TwoClasses(), scale=scale, null=null),
            (2000, 1),
            solver=Multistep("v", "ratio"),
            grid=grid.angle(path, 24, sigma_min=0.02),
            cond={"label": given},
            dtype=DOUBLE,
        )
        return (torch.sign(x[:, 0]) == 2 * label - 1).double().mean().item()

    exact = 0.5 * (1.0 + math.erf(0.7 / math.sqrt(2.0)))  # 0.758
    error = 3.0 * math.sqrt(exact * (1.0 - exact) / 2000)
    assert abs(own_side(1.0) - exact) < error
    assert own_side(4.0) > 0.95
    assert abs(own_side(0.0) - 0.5) < 0.04
    assert own_side(4.0, given=1 - label) < 0.05  # the control: the other class


def test_guided_says_how_to_fix():
    with pytest.raises(ValueError, match="null came empty"):
        Guided(Conditional(), scale=2.0, null={})
    with pytest.raises(ValueError, match="low < high"):
        guided(2.0, interval=(3.0, 1.0))
    with pytest.raises(ValueError, match="has no path"):
        Guided(lambda x, t: x, scale=2.0, null=NULL)
    none = Guided(Conditional(), scale=2.0, null={"label": None})
    with pytest.raises(ValueError, match="batched=False"):
        none(draw(3, 4), 0.5, label=LABELS)


# Shift


@pytest.mark.parametrize("path", [Residual(0.3), MeanReverting(0.5)], ids=repr)
def test_shift_is_the_denoiser_of_the_centred_state(path):
    def denoise(x, t, mu=None):
        t = t.reshape(-1, 1) if isinstance(t, torch.Tensor) else t
        return torch.tanh(x) * (1 - 0.3 * t) + (0.0 if mu is None else 0.1 * mu)

    denoise.path = path
    mu, x, t = draw(3, 4, seed=1), draw(3, 4), 0.7
    y = x - float(path.shift(t)) * mu
    wrapped = Shift(denoise, mu)
    assert wrapped.path == Centred(path)
    assert_close(wrapped(y, t), denoise(x, t), rtol=0, atol=1e-14)
    each = torch.full((3,), t, dtype=DOUBLE)
    assert_close(wrapped(y, each), denoise(x, t), rtol=0, atol=1e-14)
    assert_close(Shift(denoise)(y, t, mu=mu), denoise(x, t, mu), rtol=0, atol=1e-14)
    assert not torch.allclose(Shift(denoise, -mu)(y, t), denoise(x, t))  # the control
    with pytest.raises(ValueError, match="conditional mean"):
        Shift(denoise)(y, t)


def test_a_walk_of_the_centred_state_is_the_mean_reverting_update():
    """One step of order 1 in the coordinates of x, all terms of mu written out."""
    path = MeanReverting(0.5)
    mu = draw(3, 4, seed=1)
    times = np.array([0.9, 0.6, 0.4, 0.1])

    def denoise(x, t):
        return torch.tanh(x - 0.2 * mu)

    denoise.path = path
    x = draw(3, 4)
    y = x - float(path.shift(0.9)) * mu
    plan = Multistep("x0", order=1).plan(Centred(path), times)
    ours = plan.run(Shift(denoise, mu), y) + float(path.shift(0.1)) * mu
    for t, s in pairwise(times):
        (a, b), (c, d) = ((float(path.alpha(u)), float(path.sigma(u))) for u in (t, s))
        shift = 1.0 - d / b + d / b * a - c
        x = d / b * x + (c - a * d / b) * denoise(x, t) + shift * mu
    assert_close(ours, x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sampling_around_a_mean_reaches_the_data(order):
    path, mu = Residual(0.25), draw(16, seed=5)
    centred = gaussian16(Centred(path))

    def denoise(x, t):
        return centred(x - float(path.shift(t)) * mu, t)

    denoise.path = path
    x = draw(8, 16, scale=0.5)
    times = grid.angle(Centred(path), 60, sigma_min=0.001)
    end = Multistep("v", "ratio", order=order).plan(Centred(path), times).run(Shift(denoise, mu), x)
    exact = centred.flow(x, 1.0, float(times[-1]))
    assert median_error(end, exact) < {1: 0.1, 2: 5e-3, 3: 2e-3}[order]
    wrong = Multistep("v", "ratio").plan(Centred(path), times).run(Shift(denoise, -mu), x)
    assert median_error(wrong, exact) > 0.3  # the control: around another mean


# Slicewise


@pytest.mark.parametrize("chunk", [1, 2, 3, 9])
def test_slicewise_changes_memory_only(chunk):
    x, denoiser = draw(3, 4), Conditional()
    each = torch.tensor([0.9, 0.5, 0.1], dtype=DOUBLE)
    shared = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=DOUBLE)  # not one entry per sample
    for t in (0.4, each):
        whole = Conditional()(x, t, label=LABELS, offset=shared)
        parts = Slicewise(denoiser, chunk=chunk)(x, t, label=LABELS, offset=shared)
        assert torch.equal(parts, whole)
    assert max(denoiser.sizes) == min(chunk, 3)
    assert OldPlace is Slicewise


def test_slicewise_says_how_to_fix():
    with pytest.raises(ValueError, match="chunk=0"):
        Slicewise(Conditional(), chunk=0)


# Tiles


class Pointwise:
    """A denoiser that works voxel by voxel; it keeps the shapes of its calls."""

    def __init__(self):
        self.path = RF
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x, t, *, scale=None, image=None):
        self.shapes.append(tuple(x.shape))
        out = torch.tanh(x) if not x.is_complex() else x * x.abs()
        out = out if scale is None else out * scale.reshape(-1, *(1,) * (x.ndim - 1))
        return out if image is None else out + image


CASES = [
    ((2, 1, 37), (16,), 4),
    ((2, 3, 20, 33), (8, 16), (0, 5)),
    ((1, 1, 17, 12, 21), (8, 16, 9), (3, 2, 8)),
    ((3, 2, 8, 8), (8, 8), 0),
    ((2, 30, 31), (7,), 6),
]


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.complex128])
@pytest.mark.parametrize(("shape", "tile", "overlap"), CASES)
def test_tiles_do_not_change_a_pointwise_denoiser(shape, tile, overlap, dtype):
    x, denoiser = draw(*shape, dtype=dtype), Pointwise()
    tolerance = 3e-7 if dtype == torch.float32 else 1e-15
    image = draw(*shape, seed=1, dtype=dtype)
    scale = torch.linspace(0.5, 2.0, shape[0], dtype=x.real.dtype)
    whole = Pointwise()(x, 0.5, scale=scale, image=image)
    for chunk in (1, 3, 100):
        tiled = Tiled(denoiser, tile=tile, overlap=overlap, chunk=chunk)
        assert_close(tiled(x, 0.5, scale=scale, image=image), whole, rtol=0, atol=5 * tolerance)
        assert max(shape[0] for shape in denoiser.shapes[-2:]) <= chunk
    sizes = tuple(min(a, b) for a, b in zip(shape[-len(tile) :], tile, strict=True))
    assert {shape[-len(tile) :] for shape in denoiser.shapes} == {sizes}


@pytest.mark.parametrize("size", range(9, 40, 3))
@pytest.mark.parametrize(("tile", "overlap"), [(9, 0), (9, 4), (9, 8), (8, 2)])
def test_weights_sum_to_one_and_overlap_as_asked(size, tile, overlap):
    seen: list[torch.Tensor] = []

    def places(x, t):
        seen.extend(x.flatten(1).unbind())
        return torch.ones_like(x)

    places.path = RF
    tiled = Tiled(places, tile=(tile,), overlap=overlap)
    x = torch.arange(size, dtype=DOUBLE)[None]
    assert_close(tiled(x, 0.5), torch.ones_like(x), rtol=0, atol=1e-15)
    ends = [(int(part[0]), int(part[-1])) for part in seen]
    assert ends[0][0] == 0
    assert ends[-1][1] == size - 1
    for (_, last), (first, _) in pairwise(ends):
        assert last - first + 1 >= overlap
    assert len(ends) == max(1, math.ceil((size - overlap) / (tile - overlap)))


def test_overlap_hides_the_seams_of_a_blur():
    kernel = torch.full((1, 1, 5), 0.2, dtype=DOUBLE)

    def blur(x, t):
        return nn.functional.conv1d(nn.functional.pad(x, (2, 2)), kernel)

    blur.path = RF
    x = draw(1, 1, 96).cumsum(-1)
    inside = slice(2, -2)
    errors = [
        (Tiled(blur, tile=(24,), overlap=o)(x, 0.5) - blur(x, 0.5))[..., inside].abs().max().item()
        for o in (0, 4, 12)
    ]
    assert errors[0] > 3.0 * errors[1] > 6.0 * errors[2]
    assert errors[2] > 0.0


def test_one_time_per_sample_goes_with_its_tiles():
    def timed(x, t):
        return x * (t if isinstance(t, float) else t[:, None])

    timed.path = RF
    x, t = draw(3, 20), torch.tensor([0.9, 0.5, 0.1], dtype=DOUBLE)
    assert_close(Tiled(timed, tile=(8,), overlap=2)(x, t), timed(x, t), rtol=0, atol=1e-15)


def test_tiled_says_how_to_fix():
    for tile, overlap, message in (
        ((8,), 8, "0 <= overlap < tile"),
        ((8, 8), (1,), "one of each per axis"),
        ((), 0, "one of each per axis"),
    ):
        with pytest.raises(ValueError, match=message):
            Tiled(Pointwise(), tile=tile, overlap=overlap)
    with pytest.raises(ValueError, match="chunk=0"):
        Tiled(Pointwise(), tile=(8,), overlap=0, chunk=0)
    with pytest.raises(ValueError, match="samples go in front"):
        Tiled(Pointwise(), tile=(8, 8), overlap=0)(draw(3, 8), 0.5)


# Self-conditioning


def test_the_network_sees_its_last_estimate_and_a_run_remembers_nothing():
    seen, made = [], []

    def denoise(x, t, *, before):
        seen.append(before.clone())
        made.append(torch.tanh(x) + 0.3 * before)
        return made[-1]

    class Shrink(Hook):
        def denoised(self, state):
            state.x0 = 0.5 * state.x0

    x, memory = draw(2, 3), torch.full((2, 3), 7.0, dtype=DOUBLE)
    plan = Multistep().plan(RF, grid.uniform(4))
    hook = SelfConditioned("before")
    runs = [plan.run(denoise, x, hooks=[Shrink(), hook], cond={"before": memory}) for _ in range(2)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(seen[0], torch.zeros(2, 3, dtype=DOUBLE))
    assert torch.equal(torch.stack(seen[1:4]), 0.5 * torch.stack(made[:3]))
    unaware = plan.run(denoise, x, hooks=[Shrink()], cond={"before": torch.zeros_like(x)})
    assert not torch.allclose(unaware, runs[0])  # the control: no memory
    with pytest.raises(ValueError, match=r"pass cond=\{'before': torch.zeros_like"):
        plan.run(denoise, x, hooks=[hook], cond={"before": torch.zeros(1)})
