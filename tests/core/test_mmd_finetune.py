"""MMD fine-tuning: an unbiased loss, right gradients through the walk, laws that come closer."""

import math

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from medsci.core.check.distribution import Polynomial, Rbf, mmd
from medsci.core.check.mixture import GaussianMixtureOracle
from medsci.core.denoise.denoiser import Denoiser
from medsci.core.learn.mmd_finetune import MmdFinetune
from medsci.core.process.path import Path
from medsci.core.rng import Rng
from medsci.core.solve import Ancestral, Multistep
from medsci.core.solve.grid import uniform

DOUBLE = torch.float64
PATH = Path.vp_cosine()
EXACT = Multistep(order=1, basis="angle")  # one step is exact for data of unit variance


class Gain(nn.Module):
    """`f = w x`; with `w = 0` and the v-prediction, the exact denoiser of N(0, 1)."""

    def __init__(self, weight=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=DOUBLE))
        self.calls = 0

    def forward(self, x, code, shift=0.0):
        self.calls += 1
        return torch.sin(self.weight * x) + shift


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def draws(weight, *, n_runs=200, kernel=None, batch=12):
    """Return the loss of many small batches whose samples should follow N(0, 1)."""
    denoiser = Denoiser(Gain(weight), path=PATH)
    tune = MmdFinetune(uniform(2), solver=EXACT, kernel=kernel or Polynomial())
    rng, found = Rng(3, range(batch)), []
    for step in range(n_runs):
        with torch.no_grad():
            found.append(tune(denoiser, normal(batch, 2, seed=step), rng=rng, step=step)[0])
    found = torch.stack(found)
    return found.mean().item(), found.std().item() / math.sqrt(n_runs)


def test_the_loss_is_unbiased():
    mean, error = draws(0.0)
    assert abs(mean) < 3.0 * error
    mean, error = draws(0.6)
    assert mean > 6.0 * error, "another law is seen"


def test_a_sample_paired_with_itself_would_bias_it():
    x, y = normal(300, 12, 2, seed=1), normal(300, 12, 2, seed=2)
    pairs = zip(x, y, strict=True)
    biased = torch.stack([mmd(a, b, kernel=Polynomial(), unbiased=False) for a, b in pairs])
    assert biased.mean() > 10.0 * biased.std() / math.sqrt(300)


@pytest.mark.parametrize("grad", ["checkpoint", "full"])
def test_the_gradient_is_that_of_finite_differences(grad):
    x0, rng = normal(6, 3), Rng(0, range(6))
    tune = MmdFinetune(uniform(3), grad=grad)

    def loss(weight):
        denoiser = Denoiser(Gain(weight), path=PATH)
        return tune(denoiser, x0, rng=rng, step=5)[0], denoiser.net

    value, net = loss(0.4)
    value.backward()
    h = 1e-5
    slope = (loss(0.4 + h)[0] - loss(0.4 - h)[0]).item() / (2.0 * h)
    assert net.weight.grad.item() == pytest.approx(slope, rel=1e-6)
    assert abs(slope) > 1e-3
    assert net.calls == (6 if grad == "checkpoint" else 3), "a checkpoint calls once more"


def test_checkpoints_change_no_bit():
    found = []
    for grad in ("checkpoint", "full"):
        denoiser = Denoiser(Gain(0.3), path=PATH)
        tune = MmdFinetune(uniform(4), solver=Ancestral(eta=1.0), grad=grad)
        cond = {"shift": torch.tensor(0.1)}
        loss, _ = tune(denoiser, normal(5, 2), rng=Rng(0, range(5)), step=0, cond=cond)
        loss.backward()
        found.append((loss.item(), denoiser.net.weight.grad.item()))
    assert found[0] == found[1]


def test_noise_is_new_at_every_step_and_belongs_to_its_sample():
    tune, denoiser = MmdFinetune(uniform(2), solver=Ancestral()), Denoiser(Gain(0.3), path=PATH)
    x0 = normal(4, 2)
    first, again, later = (
        tune.samples(denoiser, x0, rng=Rng(0, range(4)), step=step) for step in (0, 0, 1)
    )
    alone = tune.samples(denoiser, x0[2:], rng=Rng(0, (2, 3)), step=0)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first[2:], alone, rtol=0, atol=0)
    assert (first - later).abs().min() > 1e-6
    given = tune.samples(denoiser, x0, rng=Rng(0, range(4)), step=0, noise=torch.ones_like(x0))
    assert (given - first).abs().min() > 1e-6


class Corrected(nn.Module):
    """The exact denoiser of a mixture plus a small network that starts at zero."""

    def __init__(self, oracle):
        super().__init__()
        self.oracle = oracle
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Sequential(
                nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)
            )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, x, code):
        with torch.no_grad():
            mean = self.oracle(x, code[0].item())
        return mean + self.head(torch.cat([x, code[:, None]], 1))


def mixture():
    return GaussianMixtureOracle(
        PATH,
        torch.tensor([0.3, 0.7]),
        means=torch.tensor([[-1.0], [1.0]]),
        covariances=torch.tensor([[0.04], [0.04]]),
    )


def waves(x):
    """Frozen random features of a number."""
    g = torch.Generator().manual_seed(5)
    slope, offset = 3.0 * torch.randn(1, 24, generator=g), torch.randn(24, generator=g)
    return torch.tanh(x @ slope + 2.0 * offset)


def tuned(features, kernel, *, n_steps=300, batch=256):
    """Fine-tune DDIM of two steps; return (own, frozen test) MMD^2 before and after, and drift."""
    data, denoiser = mixture(), None
    net = Corrected(data)
    denoiser = Denoiser(net, path=PATH, pred="x0", unit_input=False, time_code="unit_time")
    tune = MmdFinetune(np.array([1.0, 0.6, 0.0]), features=features, kernel=kernel)
    optimiser = torch.optim.Adam(net.head.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    fresh = data.sample(2000, 0.0, generator=torch.Generator().manual_seed(2))

    def distances():
        with torch.no_grad():
            x = tune.samples(denoiser, fresh, rng=Rng(9, range(2000)), step=0)
            own = mmd(features(x).double(), features(fresh).double(), kernel=kernel)
            return own.item(), mmd(x.double(), fresh.double(), kernel=Rbf(0.3)).item()

    before = distances()
    for step in range(n_steps):
        x0 = data.sample(batch, 0.0, generator=generator)
        loss, _ = tune(denoiser, x0, rng=Rng(0, range(batch)), step=step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.head.parameters(), 0.5)
        optimiser.step()
    return before, distances(), sum(p.detach().abs().sum() for p in net.head[-1].parameters())


def test_two_steps_of_ddim_learn_a_mixture():
    before, after, _ = tuned(waves, Polynomial(degree=3))
    assert after[0] < before[0] / 10.0
    assert after[1] < before[1] / 10.0, "a kernel that was not optimised sees it too"


def test_a_kernel_that_compares_means_only_does_not_get_there():
    before, after, _ = tuned(lambda x: x, Polynomial(degree=1), n_steps=100)
    assert after[1] > before[1] / 3.0


def test_features_that_say_nothing_change_nothing():
    _, _, drift = tuned(lambda x: 0.0 * x + 1.0, Polynomial(), n_steps=3)
    assert drift == 0.0


def test_what_is_logged():
    loss, parts = MmdFinetune(uniform(2))(
        Denoiser(Gain(0.3), path=PATH), normal(4, 2), rng=Rng(0, range(4)), step=0
    )
    torch.testing.assert_close(parts["loss"], loss.detach().expand(4))
    torch.testing.assert_close(parts["t"], torch.ones(4, dtype=DOUBLE))
    assert not parts["loss"].requires_grad


def test_complex_samples_are_pairs_of_numbers():
    x0 = torch.complex(normal(5, 2), normal(5, 2, seed=1))
    noise = torch.complex(normal(5, 2, seed=2), normal(5, 2, seed=3))
    stack = [torch.view_as_real(a).flatten(1) for a in (x0, noise)]
    net = nn.Identity()
    net.forward = lambda x, code: 0.3 * x
    denoiser = Denoiser(net, path=PATH)
    rng = Rng(0, range(5))
    ours = MmdFinetune(uniform(2))(denoiser, x0, rng=rng, step=0, noise=noise)[0]
    real = MmdFinetune(uniform(2))(denoiser, stack[0], rng=rng, step=0, noise=stack[1])[0]
    torch.testing.assert_close(ours, real)


def test_what_is_refused():
    denoiser, rng = Denoiser(Gain(), path=PATH), Rng(0, range(1))
    with pytest.raises(ValueError, match="checkpoint or full"):
        MmdFinetune(uniform(2), grad="none")
    with pytest.raises(ValueError, match="batch of two or more"):
        MmdFinetune(uniform(2))(denoiser, normal(1, 2), rng=rng, step=0)
    with pytest.raises(ValueError, match="one row"):
        MmdFinetune(uniform(2), features=lambda x: x)(
            denoiser, normal(2, 2, 2), rng=Rng(0, range(2)), step=0
        )


def global_loss(ids, *, scaled=True):
    """Return loss and gradient of some of five samples."""
    denoiser = Denoiser(Gain(0.4), path=PATH)
    x0 = normal(5, 3)[list(ids)]
    loss, _ = MmdFinetune(uniform(2))(denoiser, x0, rng=Rng(0, ids), step=0)
    loss.backward()
    return torch.stack([loss.detach(), denoiser.net.weight.grad])


def one_of_two(rank, file, folder):
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    torch.save(global_loss([(0, 1), (2, 3, 4)][rank]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_make_one_batch(tmp_path):
    """The loss is that of the whole batch, and the mean of the gradients is its gradient."""
    file = f"file://{tmp_path}/meet"
    multiprocessing.spawn(one_of_two, args=(file, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = global_loss(range(5))
    torch.testing.assert_close(first[0], whole[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(second[0], whole[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(0.5 * (first[1] + second[1]), whole[1], rtol=1e-9, atol=0)
    apart = 0.5 * (global_loss((0, 1)) + global_loss((2, 3, 4)))
    assert (apart - whole).abs().min() > 1e-3, "two half batches are not the whole"
